//! A broker of memory for the tests of the service: a log that can be stopped or made to fail,
//! topics, and a clock that the test moves.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_config::GroupConfig;
use mainstem_env::{BoxFuture, Clock, Env};
use mainstem_record::{BrokerId, LeaderEpoch, Offset, PartitionId, PartitionIndex, TopicId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    BrokerEndpoint, Caller, ErrorCode,
    groups::{
        Groups,
        metrics::Metrics,
        replay::Replayed,
        requests::{
            CommitPartition, CommitRequest, CommitTopic, JoinAnswer, JoinRequest, OffsetPartition,
            SyncRequest,
        },
        store::{self, Entry},
        world::{Placed, TopicView, World},
    },
    internal::{KeyValue, NotReplayed},
};

/// Partitions of the group log.
const PARTITIONS: i32 = 2;

fn group_of(key: &[u8]) -> Option<String> {
    match store::decode(key, None) {
        Ok(Entry::Group { group, .. } | Entry::Offset { group, .. }) => Some(group),
        Err(_) => None,
    }
}

/// A clock that stands still until it is moved. Wall clock and monotonic clock show the same.
pub(super) struct TestClock(watch::Sender<Duration>);

pub(super) struct TestWorld {
    env: Env,
    clock: Arc<TestClock>,
    stop: CancellationToken,
    pub(super) log: Mutex<Vec<KeyValue>>,
    /// How many turns of the scheduler the coming appends wait, before they take their place and
    /// again before they are done; none left = no turn, one turn.
    pub(super) delays: Mutex<VecDeque<usize>>,
    /// What the log answers instead of taking records.
    pub(super) failure: Mutex<Option<ErrorCode>>,
    /// What the next append is answered though its records are taken.
    pub(super) lost: Mutex<Option<ErrorCode>>,
    /// Groups whose records wait.
    pub(super) stalled: watch::Sender<HashSet<String>>,
    pub(super) topics: Mutex<HashMap<String, TopicView>>,
    changes: watch::Sender<u64>,
    pub(super) ends: Mutex<HashMap<PartitionId, Offset>>,
    /// Since when this broker leads the partitions of the log; none while another does.
    led: Mutex<BTreeMap<PartitionIndex, Option<LeaderEpoch>>>,
    epoch: AtomicI32,
    leadership: watch::Sender<u64>,
    /// While it is set, the log cannot be read.
    pub(super) unreadable: Mutex<Option<ErrorCode>>,
}

// === impl TestClock ===

impl Clock for TestClock {
    fn now(&self) -> Duration {
        *self.0.borrow()
    }

    fn wall_ms(&self) -> i64 {
        self.now().as_millis() as i64
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut time = self.0.subscribe();
        let until = self.now() + duration;
        Box::pin(async move {
            let _ = time.wait_for(|now| *now >= until).await;
        })
    }
}

// === impl TestWorld ===

impl TestWorld {
    pub(super) fn new() -> Arc<Self> {
        let clock = Arc::new(TestClock(watch::channel(Duration::ZERO).0));
        let env = Env {
            clock: clock.clone(),
            ..Env::real()
        };
        let world = Self {
            env,
            clock,
            stop: CancellationToken::new(),
            log: Mutex::default(),
            delays: Mutex::default(),
            failure: Mutex::default(),
            lost: Mutex::default(),
            stalled: watch::channel(HashSet::new()).0,
            topics: Mutex::default(),
            changes: watch::channel(0).0,
            ends: Mutex::default(),
            led: Mutex::new(
                (0..PARTITIONS)
                    .map(|index| (PartitionIndex(index), Some(LeaderEpoch(0))))
                    .collect(),
            ),
            epoch: AtomicI32::new(1),
            leadership: watch::channel(0).0,
            unreadable: Mutex::default(),
        };
        world.make_topic("t", 1);
        Arc::new(world)
    }

    pub(super) fn make_topic(&self, name: &str, id: u128) {
        let view = TopicView {
            id: TopicId(Uuid::from_u128(id)),
            partitions: 4,
        };
        self.topics.lock().insert(name.to_owned(), view);
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn remove_topic(&self, name: &str) {
        self.topics.lock().remove(name);
        self.changes.send_modify(|version| *version += 1);
    }

    /// Moves the clock and lets every task do what it can.
    pub(super) async fn advance(&self, duration: Duration) {
        self.clock.0.send_modify(|now| *now += duration);
        settle().await;
    }

    /// As [`TestWorld::advance`], in steps, so that timers which follow from timers run in time.
    pub(super) async fn advance_slowly(&self, seconds: u64) {
        for _ in 0..seconds {
            self.advance(Duration::from_secs(1)).await;
        }
    }

    pub(super) fn start(self: &Arc<Self>, config: GroupConfig) -> Groups {
        let groups = Groups::with_world(self.clone(), config, Metrics::new());
        for (index, epoch) in self.led() {
            let term = groups.coordinator.terms.begin(index, epoch);
            let term = term.expect("nothing is loaded yet");
            groups.coordinator.take_over(&term, self.read(index));
        }
        groups.follow();
        groups
    }

    fn read(&self, index: PartitionIndex) -> Replayed {
        let mut replayed = Replayed::default();
        for (offset, record) in self.log.lock().iter().enumerate() {
            replayed.take(Offset(offset as i64), &record.key, record.value.as_deref());
        }
        replayed
            .groups
            .retain(|group, _| self.partition_of(group) == index);
        replayed
    }

    /// Another broker leads the partition of this group from now on, or this one again.
    pub(super) fn lead(&self, group: &str, leads: bool) {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed);
        let since = leads.then_some(LeaderEpoch(epoch));
        self.led.lock().insert(self.partition_of(group), since);
        self.leadership.send_modify(|version| *version += 1);
    }

    fn next_delays(&self) -> (usize, usize) {
        let mut delays = self.delays.lock();
        let before = delays.pop_front().unwrap_or(0);
        (before, delays.pop_front().unwrap_or(1))
    }

    fn take(&self, records: Vec<KeyValue>) -> Result<Offset, ErrorCode> {
        if let Some(error) = *self.failure.lock() {
            return Err(error);
        }
        let mut log = self.log.lock();
        let first = Offset(log.len() as i64);
        log.extend(records);
        Ok(first)
    }

    pub(super) fn env_spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.env.spawn("test", future);
    }

    /// What a restart would find: the last value of each key.
    pub(super) fn survivors(&self) -> HashMap<Bytes, Bytes> {
        let mut survivors = HashMap::new();
        for record in self.log.lock().iter() {
            match &record.value {
                Some(value) => survivors.insert(record.key.clone(), value.clone()),
                None => survivors.remove(&record.key),
            };
        }
        survivors
    }
}

impl World for TestWorld {
    fn env(&self) -> &Env {
        &self.env
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.env.spawn(name, future);
    }

    fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    fn partition_of(&self, group: &str) -> PartitionIndex {
        PartitionIndex(i32::from(group.bytes().last().unwrap_or(0)) % PARTITIONS)
    }

    fn led(&self) -> Vec<(PartitionIndex, LeaderEpoch)> {
        let led = self.led.lock();
        led.iter()
            .filter_map(|(index, since)| Some((*index, (*since)?)))
            .collect()
    }

    fn leads_since(&self, index: PartitionIndex, since: LeaderEpoch) -> bool {
        self.led.lock().get(&index) == Some(&Some(since))
    }

    fn led_changes(&self) -> watch::Receiver<u64> {
        self.leadership.subscribe()
    }

    fn coordinator(&self, index: PartitionIndex) -> Option<BrokerEndpoint> {
        let leads = self.led.lock().get(&index).copied().flatten().is_some();
        leads.then(|| BrokerEndpoint {
            id: BrokerId(1),
            host: "localhost".to_owned(),
            port: 9092,
            fenced: false,
        })
    }

    fn replay(&self, index: PartitionIndex) -> BoxFuture<'_, Result<Replayed, NotReplayed>> {
        Box::pin(async move {
            turns(1).await;
            match *self.unreadable.lock() {
                Some(code) => Err(NotReplayed::NotYet(code)),
                None => Ok(self.read(index)),
            }
        })
    }

    fn place(
        &self,
        _index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'_, Result<Placed, ErrorCode>> {
        Box::pin(async move {
            let group = records.first().and_then(|record| group_of(&record.key));
            let mut stalled = self.stalled.subscribe();
            let is_free = |stalled: &HashSet<String>| {
                !group.as_ref().is_some_and(|group| stalled.contains(group))
            };
            let _ = stalled.wait_for(is_free).await;
            let (before, after) = self.next_delays();
            turns(before).await;
            let first = self.take(records)?;
            let lost = self.lost.lock().take();
            let done: Placed = Box::pin(async move {
                turns(after).await;
                lost.map_or(Ok(first), Err)
            });
            Ok(done)
        })
    }

    fn topic(&self, name: &str) -> Option<TopicView> {
        self.topics.lock().get(name).copied()
    }

    fn topic_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn readable_end(&self, partition: PartitionId) -> Option<Offset> {
        self.ends.lock().get(&partition).copied()
    }
}

/// Lets every task run until none can go on. One thread runs them all, in a fixed order.
pub(super) async fn settle() {
    turns(200).await;
}

/// Lets the other tasks have `count` turns.
pub(super) async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

pub(super) fn config() -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay_ms: 0,
        offsets_retention_minutes: 10,
        offsets_retention_check_ms: 60_000,
        offset_metadata_bytes_max: 16,
        ..GroupConfig::default()
    }
}

pub(super) fn caller() -> Caller {
    Caller::anonymous(([127, 0, 0, 1], 1).into(), "client")
}

pub(super) fn join_request(group: &str, member_id: &str) -> JoinRequest {
    JoinRequest {
        group: group.to_owned(),
        member_id: member_id.to_owned(),
        instance_id: None,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![(
            "range".to_owned(),
            Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t"),
        )],
        require_member_id: false,
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        reason: None,
        supports_skip_assignment: true,
    }
}

pub(super) fn sync_request(group: &str, answer: &JoinAnswer) -> SyncRequest {
    let assign = |member: &crate::groups::JoinMember| {
        let part = Bytes::from(format!("part of {}", member.member_id));
        (member.member_id.clone(), part)
    };
    SyncRequest {
        group: group.to_owned(),
        generation: answer.generation,
        member_id: answer.member_id.clone(),
        instance_id: None,
        protocol_type: Some("consumer".to_owned()),
        protocol: Some("range".to_owned()),
        assignments: answer.members.iter().map(assign).collect(),
    }
}

/// A stable group of one member.
pub(super) async fn lone_member(groups: &Groups, group: &str) -> JoinAnswer {
    let answer = groups.join(&caller(), join_request(group, "")).await;
    assert_eq!(answer.error, ErrorCode::None);
    let synced = groups.sync(&caller(), sync_request(group, &answer)).await;
    assert_eq!(synced.error, ErrorCode::None);
    answer
}

/// A commit to partition 0 of `t`.
pub(super) fn commit_request(group: &str, offset: i64) -> CommitRequest {
    let partition = CommitPartition {
        index: mainstem_record::PartitionIndex(0),
        offset: Offset(offset),
        leader_epoch: mainstem_record::LeaderEpoch(3),
        metadata: Some("note".to_owned()),
    };
    CommitRequest {
        group: group.to_owned(),
        generation: -1,
        member_id: String::new(),
        instance_id: None,
        topics: vec![CommitTopic {
            name: "t".to_owned(),
            partitions: vec![partition],
        }],
    }
}

pub(super) async fn commit(groups: &Groups, request: CommitRequest) -> ErrorCode {
    groups.commit(&caller(), request).await[0].partitions[0].1
}

/// What is committed for partition 0 of `t`.
pub(super) async fn fetch(groups: &Groups, group: &str) -> OffsetPartition {
    let topics = vec![("t".to_owned(), vec![mainstem_record::PartitionIndex(0)])];
    let fetched = groups
        .fetch_offsets(&caller(), group, None, Some(topics), false)
        .await;
    fetched.expect("groups are served")[0].partitions[0].clone()
}
