//! What happens in a world, step by step.

use std::time::Duration;

use mainstem_log::{PartitionError, ReadError, SealInfo};
use mainstem_record::{Offset, TimestampMs};

use super::{
    copies,
    node::{finish, read_from},
    world::{Ending, Sim, any_flush},
    writer::{Kind, Outcome, Slot},
};
use crate::support::settings;

/// How long clients take at most until they look again.
const SETTLE_STEPS_MAX: usize = 2000;

// === impl Sim ===

impl Sim {
    /// One step, and what it left behind.
    pub(crate) async fn step(&mut self) {
        self.report.operations += 1;
        let at = self.dice.index(self.models.len());
        match self.dice.below(100) {
            0..52 => self.produce().await,
            52..60 => self.read(at).await,
            60..64 => self.flush(at).await,
            64..71 => self.seal(at).await,
            71..73 => self.abort_seal(at).await,
            73..76 => self.drop_segments(at).await,
            76..78 => self.raise_log_start(at).await,
            78..82 => self.audit(at).await,
            82..88 => self.pass_time().await,
            88..90 => self.change_flush(at).await,
            90..92 => self.bit_rot().await,
            92 => self.stop().await,
            93 => self.kill().await,
            94 => self.cut_power().await,
            _ => {
                let changes = self.dice.below(60);
                self.fs.crash_in(changes, self.dice.next_u64());
            }
        }
        self.look().await;
        if self.must_restart && self.dice.one_in(3) {
            // A failed shard goes on serving reads.
            let at = self.dice.index(self.models.len());
            self.read(at).await;
            if self.dice.one_in(2) {
                self.kill().await;
            } else {
                self.cut_power().await;
            }
        }
    }

    /// Some clients send, all before the first answer.
    async fn produce(&mut self) {
        for _ in 0..1 + self.dice.index(6) {
            let at = self.dice.index(self.models.len());
            let writers = &mut self.clients[at];
            let writer = self.dice.index(writers.len());
            let model = &mut self.models[at];
            let sent = writers[writer].send(model, &mut self.dice, &mut self.numbers);
            for (append, slot) in sent {
                self.report.records += 1;
                let appended = self.node.partitions[at].append(append);
                match finish(&self.node.process.env, appended).await {
                    Ok(ticket) => self.watch(ticket, slot),
                    Err(error) => {
                        let in_time = !self.fs.is_cut();
                        let result = Err(error);
                        *slot.lock() = Some(Outcome { result, in_time });
                    }
                }
            }
        }
        // Sometimes the next step comes before the first answer.
        if self.dice.one_in(2) {
            self.node.process.env.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Notes what a ticket says, at once.
    #[expect(
        clippy::disallowed_methods,
        reason = "the test's own observer, not a task of the node"
    )]
    fn watch(&self, ticket: mainstem_log::AppendTicket, slot: Slot) {
        let fs = self.fs.clone();
        tokio::spawn(async move {
            let result = ticket.await;
            let in_time = !fs.is_cut();
            *slot.lock() = Some(Outcome { result, in_time });
        });
    }

    /// Waits until every client has its answers; false if the node ended meanwhile.
    async fn settle(&mut self) -> bool {
        let crashes = self.report.crashes;
        for _ in 0..SETTLE_STEPS_MAX {
            self.look().await;
            if self.report.crashes > crashes || self.must_restart {
                return false;
            }
            let waits = |writer: &super::writer::Writer| writer.waits();
            if !self.clients.iter().flatten().any(waits) {
                return true;
            }
            self.node.process.env.sleep(Duration::from_millis(5)).await;
        }
        panic!("a ticket never completes");
    }

    /// Reads somewhere, also while appends are under way.
    async fn read(&mut self, at: usize) {
        let partition = self.node.partitions[at].clone();
        let ends = partition.ends();
        let room = (ends.committed_end.0 - ends.log_start.0) as u64;
        let from = ends.log_start.0 + self.dice.below(room + 1) as i64;
        let bytes_max = 1 + self.dice.index(3000);
        let read = read_from(&partition, from, bytes_max);
        let read = finish(&self.node.process.env, read).await;
        let content = read.unwrap_or_else(|error| panic!("partition {at}: {error}"));
        let model = &mut self.models[at];
        let last = content.seen.last().map_or(from, |last| last.offset + 1);
        assert!(
            last >= ends.committed_end.0,
            "ends before the committed end"
        );
        if !self.fs.is_cut() {
            model.check_read(from, &content.seen);
            model.written = model.written.max(last);
            if model.always {
                model.floor = model.floor.max(last);
            }
        }
    }

    async fn flush(&mut self, at: usize) {
        let partition = self.node.partitions[at].clone();
        let sent = partition.ends().log_end;
        let flushed = finish(&self.node.process.env, partition.flush()).await;
        if self.fs.is_cut() {
            return;
        }
        match flushed {
            Ok(end) => {
                assert!(end >= sent);
                let model = &mut self.models[at];
                model.floor = model.floor.max(end.0);
            }
            Err(error) => self.refused(&error),
        }
    }

    /// A shard or a partition has failed; anything else is a violation.
    fn refused(&mut self, error: &PartitionError) {
        match error {
            PartitionError::ShardFailed | PartitionError::Failed => self.must_restart = true,
            other => panic!("{other}"),
        }
    }

    async fn begin_seal(&mut self, at: usize) -> Option<SealInfo> {
        let partition = self.node.partitions[at].clone();
        let begun = finish(&self.node.process.env, partition.seal_begin()).await;
        if self.fs.is_cut() {
            return None;
        }
        match begun {
            Ok(info) => {
                let model = &mut self.models[at];
                model.floor = model.floor.max(info.end.0);
                Some(info)
            }
            Err(PartitionError::Io(_)) => {
                finish(&self.node.process.env, partition.seal_abort()).await;
                None
            }
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    async fn seal(&mut self, at: usize) {
        let Some(info) = self.begin_seal(at).await else {
            return;
        };
        // Metadata knows first.
        let model = &mut self.models[at];
        if let Some(last) = model.chain.last_mut() {
            last.end = Some(info.end);
        }
        let next = model.next_segment(info.end.0);
        model.chain.push(next);
        model
            .chain
            .retain(|segment| segment.end != Some(segment.base));
        let partition = self.node.partitions[at].clone();
        loop {
            let sealed = finish(&self.node.process.env, partition.seal_commit(next)).await;
            if self.fs.is_cut() {
                return;
            }
            match sealed {
                Ok(()) => return,
                Err(PartitionError::Io(_)) if !self.dice.one_in(4) => {}
                Err(PartitionError::Io(_)) => return self.kill().await,
                Err(error) => {
                    self.refused(&error);
                    // Metadata is ahead of the log.
                    return self.kill().await;
                }
            }
        }
    }

    async fn abort_seal(&mut self, at: usize) {
        if self.begin_seal(at).await.is_some() {
            let partition = self.node.partitions[at].clone();
            finish(&self.node.process.env, partition.seal_abort()).await;
        }
    }

    async fn drop_segments(&mut self, at: usize) {
        // Who waits must learn where its records are before they go.
        if !self.settle().await {
            return;
        }
        let model = &mut self.models[at];
        let sealed = model.chain.len() - 1;
        let count = self.dice.index(sealed + 1);
        let dropped: Vec<_> = model.chain.drain(..count).map(|s| s.id).collect();
        model.log_start = model.log_start.max(model.chain[0].base.0);
        let start = Offset(model.log_start);
        let partition = self.node.partitions[at].clone();
        let done = finish(
            &self.node.process.env,
            partition.drop_segments(&dropped, start),
        )
        .await;
        match done {
            Ok(()) | Err(PartitionError::Io(_)) => {}
            Err(error) if !self.fs.is_cut() => self.refused(&error),
            Err(_) => {}
        }
    }

    async fn raise_log_start(&mut self, at: usize) {
        if !self.settle().await {
            return;
        }
        let model = &mut self.models[at];
        let partition = self.node.partitions[at].clone();
        let room = partition.ends().committed_end.0 - model.log_start;
        model.log_start += self.dice.below(room as u64 + 1) as i64;
        let start = Offset(model.log_start);
        let raised = finish(&self.node.process.env, partition.set_log_start(start)).await;
        raised.unwrap_or_else(|error| panic!("partition {at}: {error}"));
    }

    /// With no append under way, everything there is to know is compared.
    async fn audit(&mut self, at: usize) {
        if !self.settle().await {
            return;
        }
        let partition = self.node.partitions[at].clone();
        let from = self.models[at].log_start;
        let read = read_from(&partition, from, 1 + self.dice.index(3000));
        let read = finish(&self.node.process.env, read).await;
        let content = read.unwrap_or_else(|error| panic!("partition {at}: {error}"));
        if self.fs.is_cut() {
            return;
        }
        let model = &mut self.models[at];
        model.check_read(from, &content.seen);
        model.check_order(|writer| super::writer::KINDS[writer] != Kind::Qos2);
        let all: Vec<_> = model.known().collect();
        let read = content.seen.iter().filter(|s| s.offset >= from).count();
        assert_eq!(all.len(), read, "partition {at} lacks acknowledged records");
        self.check_producers(at, &content);
        let times: Vec<_> = all.iter().map(|(o, id)| (*o, id.timestamp())).collect();
        let wanted = 1000 + self.dice.below(self.numbers + 8) as i64;
        let found = loop {
            let find = partition.find_timestamp(TimestampMs(wanted), Offset::ZERO);
            match finish(&self.node.process.env, find).await {
                Err(ReadError::Io(_)) => {}
                other => break other,
            }
        };
        let found = found.unwrap_or_else(|error| panic!("partition {at}: {error}"));
        let found = found.map(|(offset, time)| (offset.0, time.0));
        let expected = times.iter().find(|(_, time)| *time >= wanted).copied();
        assert_eq!(found, expected, "partition {at}: first at {wanted}");
    }

    async fn pass_time(&mut self) {
        let pause = Duration::from_millis(self.dice.below(3000));
        self.node.process.env.sleep(pause).await;
    }

    async fn change_flush(&mut self, at: usize) {
        let flush = any_flush(&mut self.dice);
        let model = &mut self.models[at];
        model.flush = flush;
        // What was acknowledged before may not be durable under the new policy.
        model.always = false;
        let partition = self.node.partitions[at].clone();
        let told = partition.update_settings(settings(flush));
        finish(&self.node.process.env, told).await;
    }

    /// Bits rot in what is known to be synced, on copies of the disk.
    async fn bit_rot(&mut self) {
        // Where writes fail, what is synced may not have been noted.
        if self.errors || !self.settle().await {
            return;
        }
        let crashes = self.report.crashes;
        for at in 0..self.models.len() {
            self.flush(at).await;
        }
        // Until what is synced is noted.
        self.node.process.env.sleep(Duration::from_secs(10)).await;
        self.look().await;
        if self.must_restart || self.report.crashes > crashes {
            return;
        }
        for _ in 0..3 {
            copies::with_bit_rot(self).await;
        }
    }

    async fn stop(&mut self) {
        if !self.settle().await {
            return;
        }
        let log = self.node.log.clone();
        let closed = finish(&self.node.process.env, log.close()).await;
        if self.fs.is_cut() {
            return;
        }
        if closed.is_err() {
            // It could not sync everything, and has said so.
            return self.kill().await;
        }
        for (model, partition) in self.models.iter_mut().zip(&self.node.partitions) {
            model.floor = partition.ends().log_end.0;
            model.written = model.floor;
        }
        if self.dice.one_in(2) {
            copies::with_bit_rot(self).await;
        }
        if self.dice.one_in(2) {
            self.cut_power().await;
        } else {
            self.kill().await;
        }
    }

    pub(crate) async fn kill(&mut self) {
        if self.fs.is_cut() {
            return self.goes_on_from_image().await;
        }
        let image = self.fs.process_death();
        self.restart(image, Ending::Death).await;
    }

    async fn cut_power(&mut self) {
        if self.fs.is_cut() {
            return self.goes_on_from_image().await;
        }
        let image = self.fs.power_cut(self.dice.next_u64());
        self.restart(image, Ending::PowerCut).await;
    }
}
