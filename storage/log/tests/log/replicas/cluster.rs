//! The replicas, and what is known of the one log that they hold.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_log::{
    Ack, Append, AppendError, Appended, Commit, Flush, Log, LogEvent, LogOptions, Partition,
    PartitionSpec, QOS2_HEADER, Qos2Id, ReadError, ReplicaAppend, Role, SegmentSpec,
};
use mainstem_record::{BatchHeader, Batches, Codec, Offset, TimestampMs};
use mainstem_simulation::{Dice, Process, SimFs, World};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::support::{
    batch_of, encoded, options, partition_id, read_batches, segment_spec, settings,
};

/// Longer than anything takes.
const STUCK_AFTER: Duration = Duration::from_secs(3600);

/// How many replicas there are.
pub(super) const REPLICAS: usize = 3;

/// Idempotent producers that write.
const PRODUCERS: u64 = 3;

/// One replica.
pub(super) struct Replica {
    pub(super) fs: SimFs,
    pub(super) process: Process,
    pub(super) partition: Partition,
    log: Log,
    events: mpsc::Receiver<LogEvent>,
    /// The base of the first segment that it holds.
    pub(super) first: i64,
}

type Outcome = Arc<Mutex<Option<Result<Appended, AppendError>>>>;

pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) dice: Dice,
    pub(super) flush: Flush,
    options: LogOptions,
    pub(super) replicas: Vec<Replica>,
    pub(super) leader: usize,
    pub(super) chain: Vec<SegmentSpec>,
    /// All batches of the leader's log, and how far it is known.
    pub(super) log: Vec<(BatchHeader, Bytes)>,
    pub(super) hw: i64,
    tickets: Vec<Outcome>,
    /// QoS 2 publishes by offset, as far as they are known.
    publishes: u64,
    pub(super) numbers: u64,
    pub(super) cuts: u64,
    incarnation: u64,
    segments: i32,
}

/// Waits for what must end.
pub(super) async fn finish<T>(process: &Process, work: impl Future<Output = T>) -> T {
    let work = process.env.timeout(STUCK_AFTER, work).await;
    work.unwrap_or_else(|_| panic!("waits for ever"))
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn new(world: World) -> Self {
        let mut dice = world.dice(0);
        let flush = match dice.below(4) {
            0 => Flush::Os,
            1 => Flush::Interval {
                bytes: 1 + dice.below(3000),
                time: Duration::from_millis(1 + dice.below(1000)),
            },
            _ => Flush::Always,
        };
        let journal_bytes = match dice.one_in(4) {
            true => 0,
            false => options().journal_bytes,
        };
        let options = LogOptions {
            tail_cache_bytes: [0, 4000, 1 << 20][dice.index(3)],
            journal_bytes,
            ..options()
        };
        let mut cluster = Self {
            world,
            dice,
            flush,
            options,
            replicas: Vec::new(),
            leader: 0,
            chain: vec![segment_spec(1, 0)],
            log: Vec::new(),
            hw: 0,
            tickets: Vec::new(),
            publishes: 0,
            numbers: 0,
            cuts: 0,
            incarnation: 0,
            segments: 1,
        };
        for at in 0..REPLICAS {
            let fs = cluster.world.disk();
            let role = cluster.role_of(at);
            let replica = cluster.open(fs, role, 0).await;
            cluster.replicas.push(replica);
        }
        cluster
    }

    pub(super) fn role_of(&self, at: usize) -> Role {
        match at == self.leader {
            true => Role::Leader(Commit::External),
            false => Role::Follower,
        }
    }

    pub(super) fn next_segment(&mut self, base: i64) -> SegmentSpec {
        self.segments += 1;
        segment_spec(self.segments, base)
    }

    pub(super) fn active(&self) -> SegmentSpec {
        *self.chain.last().unwrap()
    }

    /// Starts a log on `fs`. The disk does no harm below a synced point, so nothing may fail.
    pub(super) async fn open(&mut self, fs: SimFs, role: Role, first: i64) -> Replica {
        self.incarnation += 1;
        let process = self.world.process(&fs, self.incarnation);
        let registry = prometheus::Registry::new();
        let started = Log::start(process.env.clone(), self.options.clone(), &registry);
        let (log, mut events) = finish(&process, started).await.unwrap();
        let held = |segment: &SegmentSpec| SegmentSpec {
            held: segment.base.0 >= first,
            ..*segment
        };
        let spec = PartitionSpec {
            id: partition_id(0),
            log_start: Offset(0),
            segments: self.chain.iter().map(held).collect(),
            settings: settings(self.flush),
            role,
        };
        let partition = finish(&process, log.open_partition(spec)).await.unwrap();
        if let Ok(event) = events.try_recv() {
            panic!("{event:?}");
        }
        Replica {
            fs,
            process,
            partition,
            log,
            events,
            first,
        }
    }

    /// Ends replica `at` and starts it again on what is left of its disk.
    pub(super) async fn restart(&mut self, at: usize, fs: SimFs, role: Role) {
        let replica = &self.replicas[at];
        replica.process.end();
        let first = replica.first;
        let replica = self.open(fs, role, first).await;
        self.replicas[at] = replica;
    }

    /// What is left when it ends now.
    pub(super) fn left_of(&mut self, at: usize) -> SimFs {
        let fs = &self.replicas[at].fs;
        match self.dice.one_in(2) {
            true => fs.power_cut(self.dice.next_u64()),
            false => fs.process_death(),
        }
    }

    pub(super) fn end_of(&self, at: usize) -> i64 {
        self.replicas[at].partition.ends().log_end.0
    }

    /// What it acknowledges to have (R11).
    pub(super) fn leo(&self, at: usize) -> i64 {
        let ends = self.replicas[at].partition.ends();
        match self.flush {
            Flush::Always => ends.synced_end.0,
            Flush::Os | Flush::Interval { .. } => ends.log_end.0,
        }
    }

    pub(super) async fn step(&mut self) {
        match self.dice.below(100) {
            0..40 => self.produce().await,
            40..65 => {
                let at = self.dice.index(REPLICAS);
                let bytes_max = 1 + self.dice.index(4000);
                self.replicate(at, bytes_max).await;
            }
            65..77 => self.advance().await,
            77..82 => self.check_all().await,
            82..86 => self.refused().await,
            86..90 => self.crash().await,
            90..92 => self.renew().await,
            92..94 => self.roll().await,
            94..99 => self.fail_over().await,
            _ => {
                let pause = Duration::from_millis(self.dice.below(3000));
                self.replicas[0].process.env.sleep(pause).await;
            }
        }
    }

    // === appends ===

    /// Clients send to the leader.
    async fn produce(&mut self) {
        for _ in 0..1 + self.dice.index(5) {
            let append = self.any_append();
            let replica = &self.replicas[self.leader];
            let ticket = finish(&replica.process, replica.partition.append(append)).await;
            self.watch(ticket.unwrap());
            // A sequence is chosen by what is remembered.
            self.learn().await;
        }
    }

    fn any_append(&mut self) -> Append {
        self.numbers += 1;
        let number = self.numbers;
        let ack = Ack::Durable;
        let filler = vec![b'x'; self.dice.index(400)];
        let value = [format!("{number}/").as_bytes(), &filler].concat();
        let time = 1000 + number as i64;
        match self.dice.below(3) {
            0 => {
                let id = self.dice.below(PRODUCERS) as i64;
                let known = self.replicas[self.leader].partition.producers();
                let known = known.iter().find(|producer| producer.id.0 == id);
                let sequence = known.map_or(0, |producer| producer.last_sequence.0 + 1);
                let records: Vec<_> = (0..1 + self.dice.below(3))
                    .map(|_| (value.clone(), time))
                    .collect();
                let batch = batch_of(&records, Some((id, 0, sequence)), Codec::Lz4);
                Append::Batch { batch, ack }
            }
            1 => {
                self.publishes += 1;
                self.publish(self.publishes, &value, time)
            }
            _ => Append::Batch {
                batch: batch_of(&[(value, time)], None, Codec::None),
                ack,
            },
        }
    }

    /// The QoS 2 publish of this number.
    pub(super) fn publish(&self, sequence: u64, value: &[u8], time: i64) -> Append {
        let qos2 = Qos2Id {
            session: [7; 16],
            epoch: 1,
            sequence,
        };
        let header = qos2.to_header();
        let name: &[u8] = QOS2_HEADER.as_bytes();
        Append::Record {
            record: encoded(value, &[(name, Some(&header[..]))]),
            attributes: 1 << 4,
            timestamp: TimestampMs(time),
            qos2: Some(qos2),
            ack: Ack::Durable,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the test's own observer, not a task of a node"
    )]
    fn watch(&mut self, ticket: mainstem_log::AppendTicket) {
        let outcome = Outcome::default();
        let slot = outcome.clone();
        tokio::spawn(async move { *slot.lock() = Some(ticket.await) });
        self.tickets.push(outcome);
    }

    /// Looks at tickets: nothing completes above the high watermark.
    fn look(&mut self) {
        let hw = self.hw;
        self.tickets.retain(|ticket| {
            let outcome = ticket.lock();
            if let Some(Ok(appended)) = &*outcome {
                assert!(
                    appended.last_offset.0 < hw,
                    "acknowledged {} above the high watermark {hw}",
                    appended.last_offset
                );
            }
            outcome.is_none()
        });
    }

    /// The leader is another one: what waited has an unknown outcome, and must have been told so.
    pub(super) async fn forget_tickets(&mut self) {
        self.replicas[self.leader]
            .process
            .env
            .sleep(Duration::from_millis(10))
            .await;
        self.look();
        self.tickets.clear();
    }

    /// Takes note of what the leader has appended.
    async fn learn(&mut self) {
        let replica = &self.replicas[self.leader];
        replica.process.env.sleep(Duration::from_millis(1)).await;
        let from = self.log.last().map_or(0, |(h, _)| h.next_offset().0);
        let more = self.tail(self.leader, from, 1 << 20).await;
        self.log.extend(more);
        self.look();
    }

    /// All batches from `from` to the log end.
    pub(super) async fn tail(
        &self,
        at: usize,
        mut from: i64,
        bytes_max: usize,
    ) -> Vec<(BatchHeader, Bytes)> {
        let replica = &self.replicas[at];
        let mut all = Vec::new();
        while from < replica.partition.ends().log_end.0 {
            let read = replica.partition.read_tail(Offset(from), bytes_max);
            let chunk = finish(&replica.process, read).await.unwrap();
            for run in chunk.batches {
                all.extend(Batches::new(run).map(Result::unwrap));
            }
            assert!(chunk.next.0 > from, "goes nowhere");
            from = chunk.next.0;
        }
        all
    }

    // === replication ===

    /// Replica `at` takes over some of what the leader has.
    pub(super) async fn replicate(&mut self, at: usize, bytes_max: usize) {
        if at == self.leader {
            return;
        }
        let end = self.end_of(at);
        if end >= self.end_of(self.leader) {
            return;
        }
        let leader = &self.replicas[self.leader];
        let read = leader.partition.read_tail(Offset(end), bytes_max);
        let chunk = finish(&leader.process, read).await.unwrap();
        let batches = Bytes::from(chunk.batches.concat());
        self.give(at, end, batches).await.unwrap();
        if self.dice.one_in(2) {
            let replica = &self.replicas[at];
            replica.partition.set_high_watermark(Offset(self.hw));
        }
    }

    pub(super) async fn give(
        &self,
        at: usize,
        offset: i64,
        batches: Bytes,
    ) -> Result<Appended, AppendError> {
        let replica = &self.replicas[at];
        let append = ReplicaAppend {
            segment: self.active().id,
            at: Offset(offset),
            batches,
            ack: Ack::Durable,
        };
        let ticket = finish(&replica.process, replica.partition.append_replica(append)).await?;
        finish(&replica.process, ticket).await
    }

    /// As [`Self::give`], from a replica that does not lead.
    pub(super) async fn give_copied(
        &self,
        at: usize,
        offset: i64,
        batches: Bytes,
    ) -> Result<Appended, AppendError> {
        let replica = &self.replicas[at];
        let append = ReplicaAppend {
            segment: self.active().id,
            at: Offset(offset),
            batches,
            ack: Ack::Durable,
        };
        let ticket = finish(&replica.process, replica.partition.append_copied(append)).await?;
        finish(&replica.process, ticket).await
    }

    /// The high watermark follows what all have.
    async fn advance(&mut self) {
        let all = (0..REPLICAS).map(|at| self.leo(at)).min().unwrap();
        self.hw = self.hw.max(all);
        self.tell(self.leader);
        let replica = &self.replicas[self.leader];
        replica.process.env.sleep(Duration::from_millis(1)).await;
        self.look();
    }

    pub(super) fn tell(&self, at: usize) {
        let hw = Offset(self.hw);
        self.replicas[at].partition.set_high_watermark(hw);
    }

    /// Until all have all, and every append is acknowledged.
    pub(super) async fn settle(&mut self) {
        for at in 0..REPLICAS {
            while self.end_of(at) < self.end_of(self.leader) {
                self.replicate(at, 1 << 20).await;
            }
            let replica = &self.replicas[at];
            let flushed = finish(&replica.process, replica.partition.flush()).await;
            flushed.unwrap();
        }
        self.advance().await;
        assert_eq!(self.hw, self.end_of(self.leader));
        self.look();
        assert!(self.tickets.is_empty(), "committed, and not acknowledged");
        for at in 0..REPLICAS {
            self.tell(at);
        }
        self.replicas[0]
            .process
            .env
            .sleep(Duration::from_millis(1))
            .await;
        for at in 0..REPLICAS {
            let ends = self.replicas[at].partition.ends();
            assert_eq!(ends.committed_end.0, self.hw, "replica {at}: {ends:?}");
        }
    }

    // === crashes ===

    /// A follower ends and comes back; the others have all that is committed.
    async fn crash(&mut self) {
        let at = (self.leader + 1 + self.dice.index(REPLICAS - 1)) % REPLICAS;
        let others = (0..REPLICAS).filter(|other| *other != at);
        if others.map(|other| self.end_of(other)).min() < Some(self.hw) {
            return;
        }
        let synced = self.replicas[at].partition.ends().synced_end.0;
        let fs = self.left_of(at);
        self.restart(at, fs, Role::Follower).await;
        assert!(
            self.end_of(at) >= synced,
            "replica {at} lost what was synced"
        );
        self.check(at).await;
    }

    /// A follower is replaced by one that begins with the active segment.
    async fn renew(&mut self) {
        let at = (self.leader + 1 + self.dice.index(REPLICAS - 1)) % REPLICAS;
        self.settle().await;
        let active = self.active();
        self.replicas[at].process.end();
        let fs = self.world.disk();
        let fresh = self.open(fs, Role::Follower, active.base.0).await;
        self.replicas[at] = fresh;
        if self.replicas[at].partition.needs_memory() {
            self.bring_memory(at).await;
        }
        self.settle().await;
        self.check(at).await;
    }

    async fn bring_memory(&mut self, at: usize) {
        let active = self.active();
        let base = active.base.0;
        let first = self.log.iter().find(|(h, _)| h.base_offset.0 >= base);
        if let Some((_, batch)) = first.cloned() {
            let refused = self.give(at, base, batch).await;
            assert_eq!(refused, Err(AppendError::NoMemory));
        }
        let from = self.dice.index(REPLICAS);
        let from = if from == at { self.leader } else { from };
        let source = &self.replicas[from];
        let memory = match finish(&source.process, source.partition.memory(active.id)).await {
            Ok(memory) => memory,
            Err(_) => {
                let leader = &self.replicas[self.leader];
                let memory = leader.partition.memory(active.id);
                finish(&leader.process, memory).await.unwrap()
            }
        };
        let mut spoilt = memory.to_vec();
        let bit = self.dice.index(spoilt.len());
        spoilt[bit] ^= 1;
        let replica = &self.replicas[at];
        let install = replica.partition.install_memory(Bytes::from(spoilt));
        assert!(finish(&replica.process, install).await.is_err());
        assert!(replica.partition.needs_memory());
        let install = replica.partition.install_memory(memory);
        finish(&replica.process, install).await.unwrap();
        if self.dice.one_in(2) {
            let fs = self.left_of(at);
            self.restart(at, fs, Role::Follower).await;
        }
        assert!(!self.replicas[at].partition.needs_memory());
    }

    // === checks ===

    pub(super) async fn check_all(&mut self) {
        for at in 0..REPLICAS {
            self.check(at).await;
        }
    }

    /// Replica `at` holds a prefix of the log, shows what is committed, and remembers what it holds.
    pub(super) async fn check(&mut self, at: usize) {
        let replica = &self.replicas[at];
        assert!(replica.events.is_empty(), "replica {at} has an event");
        let ends = replica.partition.ends();
        assert!(
            ends.committed_end.0 <= self.hw && ends.committed_end <= ends.log_end,
            "replica {at}: {ends:?} and the high watermark is {}",
            self.hw
        );
        let first = replica.first;
        let bytes_max = 1 + self.dice.index(3000);
        let tail = self.tail(at, first, bytes_max).await;
        let expected = self.log.iter().filter(|(header, _)| {
            header.base_offset.0 >= first && header.base_offset < ends.log_end
        });
        assert!(tail.iter().eq(expected), "replica {at} is no prefix");
        let last = tail.last().map_or(first, |(h, _)| h.next_offset().0);
        assert_eq!(last, ends.log_end.0, "replica {at}");
        let replica = &self.replicas[at];
        let read = read_batches(&replica.partition, Offset(first), bytes_max);
        let read = finish(&replica.process, read).await.unwrap();
        let committed = tail
            .iter()
            .filter(|(h, _)| h.base_offset < ends.committed_end);
        assert!(
            read.iter().eq(committed),
            "replica {at} shows something else"
        );
        if first > 0 {
            let below = replica.partition.read_tail(Offset(first - 1), 1);
            let below = finish(&replica.process, below).await;
            assert!(matches!(below, Err(ReadError::NotHeld { .. })), "{below:?}");
        }
        self.check_producers(at, ends.log_end);
    }

    fn check_producers(&self, at: usize, end: Offset) {
        let mut expected = BTreeMap::new();
        for (header, _) in self.log.iter().filter(|(h, _)| h.base_offset < end) {
            if header.has_producer() {
                let last = (header.last_sequence().0, header.last_offset().0);
                expected.insert(header.producer_id.0, last);
            }
        }
        let known = self.replicas[at].partition.producers();
        let known: BTreeMap<i64, (i32, i64)> = known
            .iter()
            .map(|p| (p.id.0, (p.last_sequence.0, p.last_offset.0)))
            .collect();
        assert_eq!(known, expected, "what replica {at} remembers");
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("log", &self.log)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}
