//! Rolls and configs over a real log and metadata in memory.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use mainstem_config::Config;
use mainstem_env::{Env, MemFs};
use mainstem_log::{Ack, Append, Log, LogOptions, Partition};
use mainstem_metadata::{
    Command, Metadata, MetadataOptions, NewSegment, NextSegment, SealAndOpen, SegmentFlush,
    StoreKind, TopicOrigin,
};
use mainstem_record::{
    EncodedRecord, Offset, PartitionId, PartitionIndex, SegmentId, TimestampMs, TopicId,
};
use uuid::Uuid;

use super::{BrokerDeps, Core};
use crate::topics::{NewTopic, Replicas};

pub(crate) async fn start() -> (Arc<Core>, PartitionId, Partition) {
    start_with_cache(1 << 20).await
}

/// With a tail cache of so many bytes.
pub(crate) async fn start_with_cache(
    tail_cache_bytes: usize,
) -> (Arc<Core>, PartitionId, Partition) {
    let env = Env::real().with_fs(Arc::new(MemFs::new()));
    let options = MetadataOptions {
        dir: PathBuf::from("/metadata"),
        node_id: 1,
        store: StoreKind::Memory,
    };
    let metadata = Metadata::start(env.clone(), options)
        .await
        .expect("metadata");
    let registry = prometheus::Registry::new();
    let options = LogOptions {
        low_space_bytes: 0,
        journal_bytes: 1 << 20,
        tail_cache_bytes,
        ..LogOptions::new(PathBuf::from("/log"))
    };
    let (log, log_events) = Log::start(env.clone(), options, &registry)
        .await
        .expect("the log");
    let deps = BrokerDeps {
        env,
        config: Arc::new(Config::default()),
        metadata,
        log,
        log_events,
        peers: None,
        peer_address: None,
        registry,
        advertise: ("127.0.0.1".into(), 9092),
        directory_id: Uuid::from_u128(1),
    };
    let core = Core::start(deps).await.expect("the core");
    let new = NewTopic {
        name: "t".to_owned(),
        partitions: 1,
        replicas: Replicas::Default,
        origin: TopicOrigin::Admin,
        configs: BTreeMap::new(),
    };
    let topic = core.create_topic(new).await.expect("a topic");
    let id = PartitionId {
        topic: topic.id,
        index: PartitionIndex(0),
    };
    let partition = core.partition(id).expect("open");
    (core, id, partition)
}

async fn put(partition: &Partition) -> Offset {
    let records = vec![(EncodedRecord::new(None, Some(b"x"), []), TimestampMs(1))];
    let append = Append::Records {
        records,
        ack: Ack::Durable,
    };
    let ticket = partition.append(append).await.expect("a place");
    ticket.await.expect("appended").base_offset
}

pub(crate) fn active(core: &Core, id: PartitionId) -> SegmentId {
    let image = core.image();
    let record = image.partition(id).expect("known");
    record.active().expect("an active segment").id
}

/// What metadata says of the chain is what the log has.
pub(crate) fn assert_same_chain(core: &Core, id: PartitionId, partition: &Partition) {
    let image = core.image();
    let segments = image.partition(id).expect("known").segments.iter();
    let known: Vec<_> = segments.map(|s| (s.id, s.base, s.end)).collect();
    let segments = partition.segments();
    let present: Vec<_> = segments.iter().map(|s| (s.id, s.base, s.end)).collect();
    assert_eq!(present, known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rolls_of_one_segment_at_a_time_leave_one_seal() {
    let (core, id, partition) = start().await;
    for offset in 0..200 {
        assert_eq!(put(&partition).await, Offset(offset));
        let segment = active(&core, id);
        let (this, that) = (core.roll(id, segment), core.roll(id, segment));
        assert_eq!(tokio::join!(this, that), (Ok(()), Ok(())));
        assert_eq!(core.failed_count(), 0);
        assert_same_chain(&core, id, &partition);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_that_somebody_else_decided_is_followed() {
    let (core, id, partition) = start().await;
    put(&partition).await;
    let image = core.image();
    let record = image.partition(id).expect("known");
    let active = record.active().expect("an active segment");
    let info = partition.seal_begin().await.expect("frozen");
    let me = core.replication.me();
    let next = NextSegment {
        id: core.new_segment_id(),
        replicas: vec![me.broker],
        isr: vec![me],
        leader: me,
        flush: SegmentFlush::Always,
    };
    let seal = SealAndOpen {
        partition: id,
        segment: active.id,
        version: active.version,
        end: info.end,
        bytes: info.bytes,
        max_timestamp: info.max_timestamp,
        digest: None,
        durable: vec![me],
        next,
    };
    let command = Command::SealAndOpen { seals: vec![seal] };
    core.metadata.propose(command).await.expect("applied");
    core.replication
        .settled(&[id], Duration::from_secs(10))
        .await;
    assert_eq!(core.failed_count(), 0);
    assert_same_chain(&core, id, &partition);
    assert_eq!(put(&partition).await, Offset(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_callers_that_went_away_are_opened_and_removed() {
    let (core, id, partition) = start().await;
    let other = PartitionId {
        topic: TopicId(Uuid::from_u128(7)),
        index: PartitionIndex(0),
    };
    let create = Command::CreateTopic {
        id: other.topic,
        name: "other".to_owned(),
        internal: false,
        origin: TopicOrigin::Admin,
        replication_factor: 1,
        configs: BTreeMap::new(),
        partitions: vec![NewSegment {
            id: core.new_segment_id(),
            replicas: vec![],
            leader: None,
            flush: SegmentFlush::Os,
        }],
        leader: core.node_id(),
    };
    for command in [create, Command::DeleteTopic { id: id.topic }] {
        core.metadata.propose(command).await.expect("applied");
    }
    let limit = Duration::from_secs(10);
    core.replication.settled(&[id, other], limit).await;
    assert!(core.partition(id).is_err());
    assert_eq!(put(&core.partition(other).expect("open")).await, Offset(0));
    drop(partition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_of_an_older_image_does_not_stay() {
    let (core, id, _partition) = start().await;
    let topic = |core: &Core| core.image().topic_by_id(id.topic).cloned().expect("known");
    let older = topic(&core);
    let command = Command::AlterTopicConfigs {
        topic: id.topic,
        set: BTreeMap::from([("retention.ms".to_owned(), "77".to_owned())]),
        delete: Vec::new(),
    };
    core.metadata.propose(command).await.expect("applied");
    core.topic_config(&older);
    assert_eq!(core.topic_config(&topic(&core)).retention_ms, 77);
}
