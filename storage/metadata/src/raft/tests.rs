use std::sync::Arc;

use mainstem_env::Env;
use openraft::testing::{StoreBuilder, Suite};

use super::{
    Begin, Links, Published, QuorumNode, RaftLog, RaftOptions, StorageResult, Types, check,
    log_store::LogStore,
    runtime::within_sync,
    state_machine::{State, StateMachine},
};
use crate::{
    command::{Applied, Command},
    error::StoreError,
    log::MetadataLog,
    store::{Durability, Key, MemoryStore, Store},
};

/// Makes a fresh store for each test of openraft's suite; `G` holds what it lies on.
struct Builder<G>(fn() -> (G, Arc<dyn Store>));

impl<G: Send + Sync> StoreBuilder<Types, LogStore, StateMachine, G> for Builder<G> {
    async fn build(&self) -> StorageResult<(G, LogStore, StateMachine)> {
        let (guard, store) = (self.0)();
        let env = Env::real();
        let log = LogStore::new(env.clone(), Arc::clone(&store), Arc::default());
        let machine = StateMachine::new(env, store, Arc::default(), State::default());
        Ok((guard, log, machine))
    }
}

#[test]
fn memory_store_passes_the_suite_of_openraft() {
    let builder = Builder(|| ((), Arc::new(MemoryStore::default()) as Arc<dyn Store>));
    within_sync(&Env::real(), || Suite::test_all(builder).expect("suite"));
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_store_passes_the_suite_of_openraft() {
    let builder = Builder(|| {
        let dir = tempfile::tempdir().expect("dir");
        let store = crate::store::RocksStore::open(&dir.path().join("db"), true).expect("open");
        (dir, Arc::new(store) as Arc<dyn Store>)
    });
    within_sync(&Env::real(), || Suite::test_all(builder).expect("suite"));
}

async fn start(store: &Arc<dyn Store>) -> (Arc<RaftLog>, Arc<Published>) {
    let published = Arc::new(Published::default());
    let options = RaftOptions {
        env: Env::real(),
        node: 1,
        store: Arc::clone(store),
        published: Arc::clone(&published),
        links: Links::new(None),
        me: QuorumNode::default(),
        voters_wanted: 1,
    };
    let log = RaftLog::start(options, Begin::Alone).await;
    (log.expect("start"), published)
}

/// Stops Raft and leaves the store open.
async fn stop(log: &RaftLog) {
    let stopped = log.raft().call(|raft| raft.shutdown()).await;
    stopped.expect("stop");
}

/// A stored log id of term 1.
fn log_id(index: u64) -> Vec<u8> {
    let leader_id = serde_json::json!({ "term": 1, "node_id": 1 });
    let id = serde_json::json!({ "leader_id": leader_id, "index": index });
    serde_json::to_vec(&id).expect("encode")
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

#[tokio::test]
async fn a_restart_applies_everything_that_was_committed() {
    let store = memory();
    let (log, _) = start(&store).await;
    for _ in 0..10 {
        log.propose(Command::AllocateProducerIds { count: 7 })
            .await
            .expect("propose");
    }
    stop(&log).await;
    // Even if the crash took what was not synced: which entries were committed.
    let first = log_id(1);
    store
        .put(Key::Committed, &first, Durability::Lazy)
        .expect("put");

    assert!(!check(&*store).expect("sound"));
    let (log, published) = start(&store).await;
    let answer = log.propose(Command::AllocateProducerIds { count: 1 }).await;
    assert_eq!(
        answer,
        Ok(Applied::ProducerIds {
            first: 70,
            count: 1
        })
    );
    let health = log.health();
    assert!(health.leader && !health.failed);
    assert_eq!(published.image().next_producer_id, 71);
    assert!(health.committed >= published.image().version);
}

#[tokio::test]
async fn the_log_is_trimmed_behind_a_snapshot_and_a_restart_needs_no_more() {
    let store = memory();
    let (log, published) = start(&store).await;
    for _ in 0..6_500 {
        log.propose(Command::AllocateProducerIds { count: 1 })
            .await
            .expect("propose");
    }
    let mut metrics = log.raft().metrics();
    let trimmed = metrics.wait_for(|metrics| metrics.purged.is_some());
    Env::real()
        .timeout(std::time::Duration::from_secs(20), trimmed)
        .await
        .expect("in time")
        .ok();
    assert!(store.read(0, u64::MAX, usize::MAX).expect("read").len() < 6_000);
    let image = published.image();
    stop(&log).await;

    check(&*store).expect("sound");
    let (log, published) = start(&store).await;
    log.propose(Command::Barrier).await.expect("propose");
    assert_eq!(published.image().next_producer_id, image.next_producer_id);
}

#[tokio::test]
async fn a_store_that_lost_something_is_refused() {
    let store = memory();
    assert!(check(&*store).expect("blank"));
    let (log, _) = start(&store).await;
    for _ in 0..5 {
        log.propose(Command::Barrier).await.expect("propose");
    }
    stop(&log).await;
    let entries = store.read(0, u64::MAX, usize::MAX).expect("read");

    store.truncate(4).expect("truncate");
    assert!(
        matches!(check(&*store), Err(StoreError::Hole { .. })),
        "lost the end"
    );
    store.append(&entries[5..]).expect("append");
    assert!(
        matches!(check(&*store), Err(StoreError::Hole { index: 4 })),
        "lost the middle"
    );
    store.append(&entries).expect("append");
    check(&*store).expect("whole again");
    store.append(&[(2, b"{}".to_vec())]).expect("append");
    assert!(
        matches!(check(&*store), Err(StoreError::Decode { .. })),
        "not an entry"
    );
    store.append(&entries).expect("append");
    store.purge(2, &log_id(2)).expect("purge");
    assert!(
        matches!(check(&*store), Err(StoreError::Missing { .. })),
        "trimmed, no snapshot"
    );
}

#[tokio::test]
async fn a_first_start_that_died_before_its_vote_is_finished() {
    let store = memory();
    let (log, _) = start(&store).await;
    stop(&log).await;
    let entries = store.read(0, 2, usize::MAX).expect("read");

    let store = memory();
    store.append(&entries[..1]).expect("append");
    assert!(check(&*store).expect("sound"), "nothing was voted");
    let (log, _) = start(&store).await;
    assert_eq!(log.propose(Command::Barrier).await, Ok(Applied::Barrier));
    stop(&log).await;

    let store = memory();
    store.append(&entries).expect("append");
    assert!(matches!(
        check(&*store),
        Err(StoreError::Missing { what: "vote" })
    ));
}

#[tokio::test]
async fn a_failed_store_stops_the_log_for_good() {
    let store = memory();
    let (log, published) = start(&store).await;
    log.propose(Command::AllocateProducerIds { count: 1 })
        .await
        .expect("propose");
    store.close().expect("close");
    for _ in 0..2 {
        let answer = log.propose(Command::AllocateProducerIds { count: 1 }).await;
        assert_eq!(answer, Err(crate::error::ProposeError::Fatal));
    }
    assert!(log.health().failed && !log.health().leader);
    assert_eq!(published.image().next_producer_id, 1);
}
