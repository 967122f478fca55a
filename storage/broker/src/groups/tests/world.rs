//! A broker of memory for the tests of the service: a log that can be stopped or made to fail,
//! topics, and a clock that the test moves.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_config::GroupConfig;
use mainstem_env::{BoxFuture, Clock, Env};
use mainstem_record::{Offset, PartitionId, TopicId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Caller, ErrorCode,
    groups::{
        Groups,
        metrics::Metrics,
        replay::Replayed,
        requests::{
            CommitPartition, CommitRequest, CommitTopic, JoinAnswer, JoinRequest, OffsetPartition,
            SyncRequest,
        },
        world::{TopicView, World},
    },
    internal::KeyValue,
};

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
    /// Groups whose records wait.
    pub(super) stalled: watch::Sender<HashSet<String>>,
    pub(super) topics: Mutex<HashMap<String, TopicView>>,
    changes: watch::Sender<u64>,
    pub(super) ends: Mutex<HashMap<PartitionId, Offset>>,
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
            stalled: watch::channel(HashSet::new()).0,
            topics: Mutex::default(),
            changes: watch::channel(0).0,
            ends: Mutex::default(),
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
        let mut replayed = Replayed::default();
        for (offset, record) in self.log.lock().iter().enumerate() {
            replayed.take(Offset(offset as i64), &record.key, record.value.as_deref());
        }
        Groups::with_world(self.clone(), config, Metrics::new(), replayed)
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

    fn serves(&self, _group: &str) -> bool {
        true
    }

    fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    fn append<'a>(
        &'a self,
        group: &'a str,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'a, Result<Offset, ErrorCode>> {
        Box::pin(async move {
            let mut stalled = self.stalled.subscribe();
            let _ = stalled.wait_for(|stalled| !stalled.contains(group)).await;
            let (before, after) = self.next_delays();
            turns(before).await;
            let first = self.take(records)?;
            turns(after).await;
            Ok(first)
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
