//! Compaction and retention over a real log and metadata in memory.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_log::{Ack, Append, CompactOptions, Partition, Read};
use mainstem_metadata::{Command, ReplacementSegment};
use mainstem_record::{Batches, EncodedRecord, Offset, PartitionId, TimestampMs, records};

use super::{
    age_max_ms,
    cleaner::{Cleaner, first_dirty},
    metrics::CleanerMetrics,
};
use crate::{
    core::{
        Core,
        tests::{active, assert_same_chain, start, start_with_cache},
    },
    internal::{InternalTopic, KeyValue},
};

async fn put(partition: &Partition, key: &str, value: Option<&str>, timestamp: i64) {
    let record = EncodedRecord::new(Some(key.as_bytes()), value.map(str::as_bytes), []);
    let append = Append::Records {
        records: vec![(record, TimestampMs(timestamp))],
        ack: Ack::Durable,
    };
    let ticket = partition.append(append).await.expect("a place");
    ticket.await.expect("appended");
}

async fn roll(core: &Core, id: PartitionId) {
    let segment = active(core, id);
    core.roll(id, segment).await.expect("rolled");
}

async fn configure(core: &Core, id: PartitionId, configs: &[(&str, &str)]) {
    let pairs = configs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let command = Command::AlterTopicConfigs {
        topic: id.topic,
        set: pairs.collect::<BTreeMap<_, _>>(),
        delete: Vec::new(),
    };
    core.metadata.propose(command).await.expect("applied");
    core.settle_configs().await;
}

fn cleaner(core: &Arc<Core>) -> Cleaner {
    let registry = prometheus::Registry::new();
    let metrics = CleanerMetrics::register(&registry).expect("metrics");
    Cleaner::new(core, metrics)
}

/// Offset, key and value of all records that are left in sealed segments.
async fn all(partition: &Partition) -> Vec<(i64, String, Option<String>)> {
    let mut found = Vec::new();
    let mut from = partition.ends().log_start;
    loop {
        let read = Read {
            from,
            bytes_max: 1 << 20,
            at_least_one_batch: true,
            end: Offset(i64::MAX),
        };
        let chunk = partition.read(read).await.expect("readable");
        if chunk.batches.is_empty() {
            return found;
        }
        for batch in chunk.batches.into_iter().flat_map(Batches::new) {
            let (_, bytes) = batch.expect("whole");
            for record in records(&bytes, 1 << 20).expect("readable").iter() {
                let record = record.expect("well-formed");
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                let key = record.key.map(text).expect("a key");
                found.push((record.offset.0, key, record.value.map(text)));
            }
        }
        from = chunk.next;
    }
}

fn clean_until(core: &Core, id: PartitionId) -> Option<Offset> {
    first_dirty(core.image().partition(id).expect("known"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dirty_partition_is_compacted_and_merged_and_metadata_knows() {
    let (core, id, partition) = start().await;
    let mut cleaner = cleaner(&core);
    assert!(!cleaner.round().await, "the topic is not compacted");
    let compact = [
        ("cleanup.policy", "compact"),
        ("file.delete.delay.ms", "0"),
        ("delete.retention.ms", "0"),
    ];
    configure(&core, id, &compact).await;
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", Some("3"))] {
        put(&partition, key, value, 5).await;
        roll(&core, id).await;
    }
    put(&partition, "b", None, 5).await;
    roll(&core, id).await;
    put(&partition, "a", Some("4"), 5).await;
    assert!(cleaner.round().await);
    assert_same_chain(&core, id, &partition);
    assert_eq!(partition.segment_count(), 2, "merged, and the active one");
    let record = core.image().partition(id).cloned().expect("known");
    let merged = record.segments.front().expect("a segment");
    assert!(merged.digest.is_some() && merged.compaction.is_some());
    let end = record.end_of_epoch(mainstem_record::LeaderEpoch(1), Offset(9));
    assert_eq!(end, Some((mainstem_record::LeaderEpoch(1), Offset(2))));
    assert_eq!(clean_until(&core, id), Some(Offset(4)));
    assert!(!cleaner.round().await, "nothing is dirty");

    // The tombstone has outlived its horizon once something else makes the partition dirty.
    roll(&core, id).await;
    configure(&core, id, &[("min.cleanable.dirty.ratio", "0.0")]).await;
    assert!(cleaner.round().await);
    assert_same_chain(&core, id, &partition);
    put(&partition, "c", Some("5"), 5).await;
    let left = all(&partition).await;
    let value = |text: &str| Some(text.to_owned());
    let expected = vec![
        (4, "a".to_owned(), value("4")),
        (5, "c".to_owned(), value("5")),
    ];
    // What is in the tail cache may still be there as it was.
    let newest: BTreeMap<_, _> = left.iter().map(|(o, k, v)| (k, (o, v))).collect();
    for (offset, key, value) in &expected {
        assert_eq!(newest.get(key), Some(&(offset, value)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacement_of_unknown_outcome_is_taken_up_once_metadata_has_it() {
    let (core, id, partition) = start().await;
    configure(&core, id, &[("cleanup.policy", "compact")]).await;
    for value in ["1", "2", "3"] {
        put(&partition, "k", Some(value), 5).await;
        roll(&core, id).await;
    }
    let options = CompactOptions {
        first_dirty: Offset(0),
        end: Offset(3),
        segment_bytes_max: 1 << 20,
        delete_retention_ms: 0,
        map_bytes_max: 1 << 10,
        io_bytes_per_second: None,
    };
    let mut compaction = partition.compact(options).await.expect("begins");
    let next = compaction.next(core.new_segment_id()).await;
    let done = next.expect("written").expect("a segment");
    let command = Command::ReplaceSegments {
        partition: id,
        old: done.old.clone(),
        new: ReplacementSegment {
            id: done.new.id,
            base: done.new.base,
            end: done.new.end.expect("sealed"),
            epoch: done.new.epoch,
            clean_end: done.clean_end,
            bytes: done.bytes,
            max_timestamp: done.max_timestamp,
            digest: Some(done.digest.to_be_bytes()),
            complete: vec![],
        },
    };
    core.metadata.propose(command).await.expect("applied");
    assert_eq!(partition.segment_count(), 4);
    assert!(!cleaner(&core).round().await, "nothing is dirty");
    assert_same_chain(&core, id, &partition);
    assert_eq!(partition.segment_count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_keeps_young_records_and_forces_old_ones() {
    let (core, id, partition) = start().await;
    let lag = [
        ("cleanup.policy", "compact"),
        ("min.compaction.lag.ms", "3600000"),
    ];
    configure(&core, id, &lag).await;
    let now = core.env.wall_ms();
    for value in ["1", "2"] {
        put(&partition, "k", Some(value), now).await;
        roll(&core, id).await;
    }
    let mut cleaner = cleaner(&core);
    assert!(!cleaner.round().await, "too young");
    let lags = [
        ("min.compaction.lag.ms", "0"),
        ("min.cleanable.dirty.ratio", "1.0"),
    ];
    configure(&core, id, &lags).await;
    assert!(!cleaner.round().await, "never dirtier than all of it");
    configure(&core, id, &[("max.compaction.lag.ms", "1")]).await;
    core.env.sleep(std::time::Duration::from_millis(5)).await;
    assert!(cleaner.round().await, "overdue");
    assert_same_chain(&core, id, &partition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn active_segment_that_retention_has_passed_is_sealed_and_deleted() {
    let (core, id, partition) = start().await;
    configure(&core, id, &[("retention.ms", "1000")]).await;
    put(&partition, "old", Some("x"), 5).await;
    core.apply_retention().await;
    assert_same_chain(&core, id, &partition);
    let ends = partition.ends();
    assert_eq!((ends.log_start, ends.log_end), (Offset(1), Offset(1)));
    // One record that is young keeps its segment.
    put(&partition, "old", Some("x"), 5).await;
    put(&partition, "young", Some("x"), core.env.wall_ms()).await;
    core.apply_retention().await;
    assert_eq!(partition.ends().log_start, Offset(1));
    assert_eq!(all(&partition).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_rolled_by_age_less_a_jitter_and_in_time_for_compaction() {
    let (core, id, partition) = start().await;
    put(&partition, "k", Some("x"), 5).await;
    let segment = partition.segments().pop().expect("a segment");
    let mut config =
        (*core.topic_config(core.image().topic_by_id(id.topic).expect("known"))).clone();
    config.segment_ms = 10_000;
    assert_eq!(age_max_ms(&config, &segment), 10_000);
    config.segment_jitter_ms = 3000;
    let age = age_max_ms(&config, &segment);
    assert!((7000..=10_000).contains(&age), "{age}");
    assert_eq!(age_max_ms(&config, &segment), age, "the segment's own");
    config.segment_jitter_ms = 0;
    config.max_compaction_lag_ms = 500;
    assert_eq!(age_max_ms(&config, &segment), 10_000);
    config.cleanup.compact = true;
    assert_eq!(age_max_ms(&config, &segment), 500);
}

/// How many keys the internal topic of the test below has; `BROKER_KEYS` changes it.
const KEYS: u32 = 20_000;

/// How often each is written, and how many go into one append.
const VERSIONS: u8 = 4;
const KEYS_AT_ONCE: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_internal_topic_replays_each_key_once() {
    // What is in the tail cache is read as it was appended.
    let (core, _, _) = start_with_cache(0).await;
    let keys: u32 = std::env::var("BROKER_KEYS").map_or(KEYS, |n| n.parse().expect("a number"));
    let topic = InternalTopic::open(&core, "__keys", 1).await.expect("made");
    let id = PartitionId {
        topic: core.image().topic("__keys").expect("known").id,
        index: mainstem_record::PartitionIndex(0),
    };
    for version in 0..VERSIONS {
        let all: Vec<u32> = (0..keys).collect();
        for some in all.chunks(KEYS_AT_ONCE) {
            let record = |key: &u32| KeyValue {
                key: format!("group-{key}/topic/0").into(),
                value: Some(vec![version; 60].into()),
            };
            let records = some.iter().map(record).collect();
            let ticket = topic.append(id.index, records).await.expect("a place");
            ticket.await.expect("appended");
        }
        roll(&core, id).await;
    }
    let partition = core.partition(id).expect("open");
    let before = partition.size_bytes();
    let started = core.env.now();
    assert!(cleaner(&core).round().await);
    let compacted = core.env.now();
    assert_same_chain(&core, id, &partition);
    assert!(
        partition.size_bytes() * 3 < before,
        "of four versions one is left"
    );
    let (mut count, mut newest) = (0, 0);
    topic
        .replay(&mut |record| {
            count += 1;
            newest += u32::from(record.value == Some(&[VERSIONS - 1; 60]));
        })
        .await;
    let replayed = core.env.now();
    assert_eq!((count, newest), (keys, keys));
    let after = partition.size_bytes();
    println!(
        "{keys} keys: {before} bytes compacted to {after} in {:?}, replayed in {:?}",
        compacted - started,
        replayed - compacted
    );
}
