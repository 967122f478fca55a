//! Nodes of a world: a log, peers, streams, and machines that are told who leads what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Tasks};
use mainstem_log::{
    Ack, Append, AppendTicket, Commit, Flush, Log, LogEvent, LogOptions, Moved, Partition,
    PartitionSettings, PartitionSpec, ReplicaAppend, Role, SegmentSpec, Subscription,
};
use mainstem_metadata::SegmentState;
use mainstem_peers::{PeerAddress, Peers, PeersOptions};
use mainstem_record::{
    Attributes, BatchBuilder, BatchOptions, BrokerId, Codec, EncodedRecord, Incarnation,
    LeaderEpoch, Member, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, SegmentId,
    Sequence, TimestampMs, TimestampType, TopicId,
};
use mainstem_simulation::{HostId, Process, SimFs, World};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::super::{Replicas, StreamOptions, Streams};
use crate::{
    host::{Following, NotAppended},
    machine::{
        Ends, Segment, Timers,
        leader::{FollowRefusal, Leader, LeaderEffect},
    },
};

/// Longer than anything takes.
pub(super) const LONG: Duration = Duration::from_secs(60);
const PORT: u16 = 9301;

/// A node in one life.
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) process: Process,
    pub(super) fs: SimFs,
    pub(super) log: Log,
    pub(super) registry: Registry,
    pub(super) double: Double,
    pub(super) held: Arc<Held>,
    _events: mpsc::Receiver<LogEvent>,
}

/// What hosts partitions here, instead of the host.
#[derive(Clone)]
pub(super) struct Double {
    inner: Arc<Inner>,
}

struct Inner {
    process: Process,
    me: Member,
    log: Log,
    state: Mutex<State>,
    led_moved: Arc<Moved>,
}

#[derive(Default)]
struct State {
    leaders: BTreeMap<PartitionId, (Leader, Subscription)>,
    followed: BTreeMap<PartitionId, Segment>,
    watchers: Vec<Arc<Moved>>,
}

/// How a node is started.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) tail_cache_bytes: usize,
    pub(super) catch_up_rate: u64,
    /// Syncs wait until they are let go.
    pub(super) hold_syncs: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// Holds the syncs of a log back.
pub(super) struct Held {
    tasks: Arc<dyn Tasks>,
    jobs: Mutex<Option<Vec<Job>>>,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            tail_cache_bytes: 16 << 20,
            catch_up_rate: u64::MAX,
            hold_syncs: false,
        }
    }
}

pub(super) fn partition(index: i32) -> PartitionId {
    PartitionId {
        topic: TopicId(Uuid::from_u128(0xabc)),
        index: PartitionIndex(index),
    }
}

pub(super) fn member(id: i32, life: u64) -> Member {
    Member::new(BrokerId(id), Incarnation(life))
}

/// The segment with that epoch of a partition, led by the first of `isr`, which are the replicas.
pub(super) fn segment(index: i32, epoch: i32, base: i64, isr: &[Member]) -> Segment {
    let id = (1 + u128::from(epoch.unsigned_abs())) * 100_000 + u128::from(index.unsigned_abs());
    Segment {
        id: SegmentId(Uuid::from_u128(id)),
        base: Offset(base),
        epoch: LeaderEpoch(epoch),
        version: 1,
        state: SegmentState::Active,
        leader: isr[0],
        replicas: isr.iter().map(|member| member.broker).collect(),
        isr: isr.iter().copied().collect(),
        elr: BTreeSet::new(),
        lost: BTreeSet::new(),
        min_insync: 2,
        flush_always: false,
        end: None,
        complete: BTreeSet::new(),
        lossy: false,
    }
}

pub(super) fn spec(segment: &Segment) -> SegmentSpec {
    SegmentSpec {
        id: segment.id,
        base: segment.base,
        epoch: segment.epoch,
        end: segment.end,
        compacted_from: None,
        held: true,
    }
}

pub(super) fn address(id: i32) -> PeerAddress {
    let host = HostId(u16::try_from(id).expect("a small id"));
    std::net::SocketAddr::new(host.ip(), PORT).into()
}

pub(super) async fn start_peers(process: &Process, id: i32, registry: &Registry) -> Peers {
    let listen = std::net::SocketAddr::new(HostId(id as u16).ip(), PORT);
    let options = PeersOptions {
        node: BrokerId(id),
        directory_id: Uuid::from_u128(id as u128),
        listen: Some(listen),
        secret: Some(mainstem_peers::Secret::new(&[7; 32]).unwrap()),
    };
    let peers = Peers::start(&process.env, options, registry).await.unwrap();
    peers.set_addresses((1..=3).map(|id| (BrokerId(id), address(id))).collect());
    peers
}

// === impl Node ===

impl Node {
    pub(super) async fn start(world: &World, id: i32, life: u64, start: Start) -> Self {
        Self::start_on(world, world.disk(), (id, life), start).await
    }

    pub(super) async fn start_on(
        world: &World,
        fs: SimFs,
        (id, life): (i32, u64),
        start: Start,
    ) -> Self {
        let mut process = world.process_on(HostId(id as u16), &fs, id as u64 * 1000 + life);
        let held = Arc::new(Held {
            tasks: process.env.tasks.clone(),
            jobs: Mutex::new(start.hold_syncs.then(Vec::new)),
        });
        process.env.tasks = held.clone();
        let registry = Registry::new();
        let options = LogOptions {
            tail_cache_bytes: start.tail_cache_bytes,
            low_space_bytes: 0,
            journal_bytes: if start.hold_syncs { 0 } else { 1 << 20 },
            ..LogOptions::new("/log".into())
        };
        let (log, events) = Log::start(process.env.clone(), options, &registry)
            .await
            .unwrap();
        let peers = start_peers(&process, id, &registry).await;
        let double = Double {
            inner: Arc::new(Inner {
                process: process.clone(),
                me: member(id, life),
                log: log.clone(),
                state: Mutex::default(),
                led_moved: Arc::default(),
            }),
        };
        double.feed_leaders();
        let options = StreamOptions {
            catch_up_rate: start.catch_up_rate,
        };
        Streams::start(&process.env, &peers, &double, options, &registry).unwrap();
        Self {
            id,
            process,
            fs,
            log,
            registry,
            double,
            held,
            _events: events,
        }
    }

    /// Opens a partition with this chain and the role of its last segment.
    pub(super) async fn open(&self, index: i32, chain: &[Segment], flush: Flush) -> Partition {
        let last = chain.last().unwrap();
        let leads = last.leader == self.double.me();
        let role = match leads {
            true => Role::Leader(Commit::External),
            false => Role::Follower,
        };
        let held = |segment: &Segment| SegmentSpec {
            held: segment.replicas.contains(&BrokerId(self.id)),
            ..spec(segment)
        };
        let spec = PartitionSpec {
            id: partition(index),
            log_start: Offset(0),
            segments: chain.iter().map(held).collect(),
            settings: PartitionSettings {
                flush,
                segment_bytes: 1 << 30,
                segment_ms: i64::MAX,
                timestamp_type: TimestampType::CreateTime,
            },
            role,
        };
        let log = self.log.open_partition(spec).await.unwrap();
        self.double.set(index, last);
        log
    }

    /// Seals the open segment where this log ends, and goes on with `next` in the role that it says.
    pub(super) async fn next_segment(
        &self,
        index: i32,
        (sealed, end): (&Segment, Offset),
        next: &Segment,
    ) {
        let log = self.part(index);
        self.double.unset(index);
        log.seal_begin().await.unwrap();
        let sealed = SegmentSpec {
            end: Some(end),
            ..spec(sealed)
        };
        log.advance(sealed, spec(next)).await.unwrap();
        let role = match next.leader == self.double.me() {
            true => Role::Leader(Commit::External),
            false => Role::Follower,
        };
        log.set_role(role).await.unwrap();
        self.double.set(index, next);
    }

    pub(super) fn part(&self, index: i32) -> Partition {
        self.log.partition(partition(index)).unwrap()
    }

    /// The sum of a metric over all labels that contain `label`.
    pub(super) fn metric(&self, name: &str, label: &str) -> u64 {
        let mut sum = 0.0;
        for family in self.registry.gather() {
            for metric in family.get_metric() {
                let labels = metric.get_label();
                let is_meant = label.is_empty() || labels.iter().any(|it| it.value() == label);
                if family.name() == name && is_meant {
                    sum += metric.get_counter().get_value() + metric.get_gauge().get_value();
                }
            }
        }
        sum as u64
    }
}

impl Held {
    /// Lets all syncs go, now and from now on.
    pub(super) fn let_go(&self) {
        let jobs = self.jobs.lock().take();
        for job in jobs.into_iter().flatten() {
            self.tasks.blocking("log-sync", job);
        }
    }
}

impl Tasks for Held {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.tasks.spawn(name, future);
    }

    fn blocking(&self, name: &'static str, work: Job) {
        match self.jobs.lock().as_mut() {
            Some(jobs) if name == "log-sync" => jobs.push(work),
            _ => self.tasks.blocking(name, work),
        }
    }
}

/// One record of `bytes` bytes.
pub(super) async fn produce(partition: &Partition, bytes: usize, ack: Ack) -> AppendTicket {
    let value = vec![b'x'; bytes];
    let none: [(&[u8], Option<&[u8]>); 0] = [];
    let record = EncodedRecord::new(None, Some(&value), none);
    let records = vec![(record, TimestampMs(1))];
    partition
        .append(Append::Records { records, ack })
        .await
        .unwrap()
}

/// A batch of one record of an idempotent producer.
pub(super) async fn produce_as(partition: &Partition, id: i64, sequence: i32) -> AppendTicket {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::None,
        attributes: Attributes(0),
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
    });
    let none: [(&[u8], Option<&[u8]>); 0] = [];
    builder.push_record(0, TimestampMs(1), None, Some(b"value"), none);
    let batch = builder.finish().unwrap().freeze();
    let ack = Ack::Durable;
    partition
        .append(Append::Batch { batch, ack })
        .await
        .unwrap()
}

/// All bytes of a log from `from` on.
pub(super) async fn bytes_of(partition: &Partition, mut from: Offset) -> Vec<u8> {
    let mut all = Vec::new();
    while from < partition.ends().log_end {
        let chunk = partition.read_tail(from, 1 << 20).await.unwrap();
        chunk
            .batches
            .iter()
            .for_each(|run| all.extend_from_slice(run));
        from = chunk.next;
    }
    all
}

/// Waits until something holds.
pub(super) async fn until(world: &World, mut holds: impl FnMut() -> bool) {
    let process = world.process(&world.disk(), 99);
    let waiting = async {
        while !holds() {
            process.env.sleep(Duration::from_millis(1)).await;
        }
    };
    process
        .env
        .timeout(LONG, waiting)
        .await
        .expect("it holds in time");
}

/// Waits until a follower has, and shows, what its leader has.
pub(super) async fn equal(world: &World, leader: &Partition, follower: &Partition) {
    until(world, || {
        let (led, followed) = (leader.ends(), follower.ends());
        led.log_end == followed.log_end && led.committed_end == followed.committed_end
    })
    .await;
    let from = leader.ends().log_start;
    assert_eq!(bytes_of(leader, from).await, bytes_of(follower, from).await);
}

// === impl Double ===

impl Double {
    /// Says who leads the open segment of a partition.
    pub(super) fn set(&self, index: i32, segment: &Segment) {
        let id = partition(index);
        let log = self.inner.log.partition(id).unwrap();
        {
            let mut state = self.inner.state.lock();
            state.followed.remove(&id);
            state.leaders.remove(&id);
            let now = self.inner.process.env.now();
            let ends = ends_of(&log);
            let leader = Leader::new(self.me(), segment.clone(), ends, Timers::default(), now);
            match leader {
                Some(leader) => {
                    let subscription = log.subscribe_moved(&self.inner.led_moved);
                    state.leaders.insert(id, (leader, subscription));
                }
                None => {
                    state.followed.insert(id, segment.clone());
                }
            }
        }
        self.tell(id);
    }

    /// A newer image of a segment that is led here.
    pub(super) fn image(&self, index: i32, segment: &Segment) {
        self.lead(partition(index), |leader, _, now| {
            leader.image(segment, now)
        });
        self.tell(partition(index));
    }

    /// Neither leads nor follows from here on.
    pub(super) fn unset(&self, index: i32) {
        {
            let mut state = self.inner.state.lock();
            state.followed.remove(&partition(index));
            state.leaders.remove(&partition(index));
        }
        self.tell(partition(index));
    }

    fn tell(&self, id: PartitionId) {
        for watcher in &self.inner.state.lock().watchers {
            watcher.add(id);
        }
    }

    fn feed_leaders(&self) {
        let double = self.clone();
        let work = async move {
            loop {
                for id in double.inner.led_moved.next().await {
                    double.lead(id, |leader, ends, now| leader.wrote(ends, now));
                }
            }
        };
        self.inner.process.env.spawn("feed", work);
    }

    fn lead(
        &self,
        id: PartitionId,
        input: impl FnOnce(&mut Leader, Ends, Duration) -> Vec<LeaderEffect>,
    ) {
        let Some(log) = self.log(id) else {
            return;
        };
        let now = self.inner.process.env.now();
        let effects = {
            let mut state = self.inner.state.lock();
            let Some((leader, _)) = state.leaders.get_mut(&id) else {
                return;
            };
            let ends = ends_of(&log);
            input(leader, ends, now)
        };
        for effect in effects {
            if let LeaderEffect::Exposed(hw) = effect {
                log.set_high_watermark(hw);
            }
        }
    }

    fn count(
        &self,
        id: PartitionId,
        input: impl FnOnce(&mut Leader, Duration) -> Result<Vec<LeaderEffect>, FollowRefusal>,
    ) -> Result<Offset, FollowRefusal> {
        let mut hw = Err(FollowRefusal::NotLeading);
        self.lead(id, |leader, ends, now| {
            let mut effects = leader.wrote(ends, now);
            let counted = input(leader, now);
            hw = counted.map(|more| {
                effects.extend(more);
                leader.high_watermark()
            });
            effects
        });
        hw
    }
}

fn ends_of(log: &Partition) -> Ends {
    let ends = log.ends();
    Ends {
        log_end: ends.log_end,
        synced_end: ends.synced_end,
    }
}

impl Replicas for Double {
    fn me(&self) -> Member {
        self.inner.me
    }

    fn watch(&self) -> Arc<Moved> {
        let watcher = Arc::new(Moved::default());
        self.inner.state.lock().watchers.push(watcher.clone());
        watcher
    }

    fn log(&self, id: PartitionId) -> Option<Partition> {
        self.inner.log.partition(id)
    }

    fn following(&self, id: PartitionId) -> Option<Following> {
        let log = self.log(id)?;
        let state = self.inner.state.lock();
        let segment = state.followed.get(&id)?;
        Some(Following {
            segment: segment.id,
            epoch: segment.epoch,
            leader: segment.leader,
            leo: ends_of(&log).leo(segment.flush_always),
            log_end: log.ends().log_end,
            needs_memory: log.needs_memory(),
        })
    }

    async fn append(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> Result<AppendTicket, NotAppended> {
        let log = self.log(id).ok_or(NotAppended::NotFollowing)?;
        let append = ReplicaAppend {
            segment,
            at,
            batches,
            ack: Ack::Durable,
        };
        Ok(log.append_replica(append).await?)
    }

    fn written(&self, id: PartitionId, segment: SegmentId) -> Option<Offset> {
        let following = self.following(id)?;
        (following.segment == segment).then_some(following.leo)
    }

    fn told(&self, id: PartitionId, _: SegmentId, hw: Offset) {
        if let Some(log) = self.log(id) {
            log.set_high_watermark(hw);
        }
    }

    fn follow(
        &self,
        id: PartitionId,
        (segment, epoch): (SegmentId, LeaderEpoch),
        follower: Member,
        leo: Offset,
    ) -> Result<(Partition, Offset), FollowRefusal> {
        if !self.leads(id, segment) {
            return Err(FollowRefusal::NotLeading);
        }
        let log = self.log(id).ok_or(FollowRefusal::NotLeading)?;
        let hw = self.count(id, |leader, now| leader.follow(epoch, follower, leo, now))?;
        Ok((log, hw))
    }

    fn acked(
        &self,
        id: PartitionId,
        segment: SegmentId,
        follower: Member,
        leo: Offset,
    ) -> Result<Offset, FollowRefusal> {
        if !self.leads(id, segment) {
            return Err(FollowRefusal::NotLeading);
        }
        self.count(id, |leader, now| leader.ack(follower, leo, now))
    }

    fn leads(&self, id: PartitionId, segment: SegmentId) -> bool {
        let state = self.inner.state.lock();
        let leader = state.leaders.get(&id);
        leader.is_some_and(|(leader, _)| leader.segment() == segment)
    }

    fn is_in_sync(&self, id: PartitionId, segment: SegmentId, follower: Member) -> bool {
        let state = self.inner.state.lock();
        let leader = state.leaders.get(&id);
        leader.is_some_and(|(leader, _)| {
            leader.segment() == segment && leader.isr().contains(&follower)
        })
    }
}
