//! Changes of the segment: rolls, and seals after the leader is gone.

use bytes::Bytes;
use mainstem_log::{AppendError, PartitionError, Role, SegmentSpec};
use mainstem_record::Offset;

use super::cluster::{Cluster, REPLICAS, finish};

// === impl Cluster ===

impl Cluster {
    /// A planned seal: all have all, and the leader stays.
    pub(super) async fn roll(&mut self) {
        self.settle().await;
        self.go_on(self.hw, self.leader).await;
        self.check_all().await;
    }

    /// All are fenced, an end is chosen, all get there, and somebody leads the next segment.
    pub(super) async fn fail_over(&mut self) {
        if self.dice.one_in(2) {
            // Its log may be shorter when it comes back; another has what is committed.
            let others = (0..REPLICAS).filter(|at| *at != self.leader);
            if others.map(|at| self.end_of(at)).max() >= Some(self.hw) {
                let fs = self.left_of(self.leader);
                self.restart(self.leader, fs, Role::Fenced).await;
            }
        }
        for at in 0..REPLICAS {
            let replica = &self.replicas[at];
            let fenced = replica.partition.set_role(Role::Fenced);
            let ends = finish(&replica.process, fenced).await.unwrap();
            assert_eq!(ends, replica.partition.ends());
            finish(&replica.process, replica.partition.flush())
                .await
                .unwrap();
            // It came too late.
            self.replicas[at]
                .partition
                .set_high_watermark(Offset(self.hw));
        }
        self.forget_tickets().await;
        let ends: Vec<i64> = (0..REPLICAS).map(|at| self.end_of(at)).collect();
        let possible: Vec<i64> = ends.iter().copied().filter(|end| *end >= self.hw).collect();
        let end = possible[self.dice.index(possible.len())];
        let source = ends.iter().position(|e| *e == end).unwrap();
        for (at, has) in ends.into_iter().enumerate() {
            if has < end {
                self.copy_tail(at, source, end).await;
            } else if has > end {
                self.cut(at, end).await;
            }
        }
        self.log.retain(|(header, _)| header.base_offset.0 < end);
        self.hw = end;
        let leader = self.dice.index(REPLICAS);
        self.go_on(end, leader).await;
        self.check_all().await;
        self.check_publishes().await;
    }

    /// Who is short copies from who is not (R24).
    async fn copy_tail(&mut self, at: usize, source: usize, end: i64) {
        let from = self.end_of(at);
        for (header, batch) in self.tail(source, from, 1000).await {
            if header.base_offset.0 >= end {
                break;
            }
            let begin = header.base_offset.0;
            // What its leader has sent comes too late.
            let late = self.give(at, begin, batch.clone()).await;
            assert_eq!(late, Err(AppendError::NotFollower));
            self.give_copied(at, begin, batch).await.unwrap();
        }
        assert_eq!(self.end_of(at), end);
        // What metadata calls complete survives what may come now.
        let replica = &self.replicas[at];
        let flushed = finish(&replica.process, replica.partition.flush()).await;
        assert_eq!(flushed, Ok(Offset(end)));
    }

    /// Who has more is cut, and may crash in between or after it.
    async fn cut(&mut self, at: usize, end: i64) {
        self.cuts += 1;
        if self.dice.one_in(3) {
            let (changes, seed) = (self.dice.below(12), self.dice.next_u64());
            self.replicas[at].fs.crash_in(changes, seed);
        }
        let replica = &self.replicas[at];
        let before = replica.partition.ends();
        let refused = replica.partition.cut(before.log_end.next());
        let refused = finish(&replica.process, refused).await;
        assert!(refused.is_err());
        let done = finish(&replica.process, replica.partition.cut(Offset(end))).await;
        if let Some(image) = replica.fs.take_image() {
            // Either it was cut or it was not.
            self.restart(at, image, Role::Fenced).await;
            let now = self.end_of(at);
            assert!((end..=before.log_end.0).contains(&now), "{now} of {end}");
            self.check(at).await;
            let replica = &self.replicas[at];
            let done = finish(&replica.process, replica.partition.cut(Offset(end))).await;
            done.unwrap();
        } else {
            done.unwrap();
        }
        assert_eq!(self.end_of(at), end);
        if self.dice.one_in(2) {
            let fs = self.left_of(at);
            self.restart(at, fs, Role::Fenced).await;
            assert_eq!(self.end_of(at), end, "replica {at}: what was cut came back");
        }
        self.check(at).await;
    }

    /// All of them seal the active segment at `end`, with one digest, and go on with the next one.
    async fn go_on(&mut self, end: i64, leader: usize) {
        let mut sealed = self.active();
        sealed.end = Some(Offset(end));
        let next = self.next_segment(end);
        self.chain.pop();
        if end > sealed.base.0 {
            self.chain.push(sealed);
        }
        self.chain.push(next);
        self.leader = leader;
        let mut digest = None;
        for at in 0..REPLICAS {
            if self.dice.one_in(6) {
                // It learns of the seal when it comes back.
                let fs = self.left_of(at);
                let role = self.role_of(at);
                self.restart(at, fs, role).await;
                continue;
            }
            let replica = &self.replicas[at];
            let info = finish(&replica.process, replica.partition.seal_begin()).await;
            let info = info.unwrap();
            assert_eq!(info.end.0, end);
            let same = *digest.get_or_insert(info.digest) == info.digest;
            assert!(same, "replica {at} has another digest");
            let wrong = SegmentSpec {
                end: Some(Offset(end + 1)),
                ..sealed
            };
            let refused = finish(&replica.process, replica.partition.advance(wrong, next)).await;
            assert!(matches!(refused, Err(PartitionError::NotNext { .. })));
            let advanced = replica.partition.advance(sealed, next);
            finish(&replica.process, advanced).await.unwrap();
            let taken = replica.partition.set_role(self.role_of(at));
            let ends = finish(&replica.process, taken).await.unwrap();
            assert_eq!(ends.committed_end.0, end, "all below a segment is sealed");
        }
    }

    /// A publish that is in the log is known as one that was sent before, wherever it is led.
    async fn check_publishes(&mut self) {
        let batch = self.log.iter().rev();
        let mqtt = batch.filter(|(header, _)| header.attributes.is_mqtt());
        let Some((_, batch)) = mqtt.clone().next() else {
            return;
        };
        let sequence = last_publish(batch);
        let append = self.publish(sequence, b"again", 1);
        let end = self.end_of(self.leader);
        let replica = &self.replicas[self.leader];
        let ticket = finish(&replica.process, replica.partition.append(append)).await;
        let ticket = ticket.unwrap();
        let appended = finish(&replica.process, ticket).await.unwrap();
        assert!(appended.duplicate, "a publish is stored twice");
        assert_eq!(self.end_of(self.leader), end);
    }

    /// What must be refused while fenced.
    pub(super) async fn refused_while_fenced(&mut self, at: usize, batch: Bytes) {
        let end = self.end_of(at);
        let refused = self.give(at, end, batch).await;
        assert_eq!(refused, Err(AppendError::NotFollower));
    }
}

/// The number of the last QoS 2 publish in a batch.
fn last_publish(batch: &[u8]) -> u64 {
    let records = mainstem_record::records(batch, 1 << 20).unwrap();
    let records = records.iter().map(Result::unwrap);
    let ids = records.filter_map(|record| {
        let value = record.headers.last(mainstem_log::QOS2_HEADER.as_bytes())?;
        mainstem_log::Qos2Id::from_header(value)
    });
    ids.last().unwrap().sequence
}
