//! Many at once, on the real file system.

use std::sync::Arc;

use mainstem_env::Env;
use mainstem_log::{Ack, Append, Flush, Log, LogOptions, Partition, Read, SegmentSpec};
use mainstem_record::{Batches, Offset, TimestampMs};
use tokio::sync::Notify;

use crate::support::{
    append, batch_of, encoded, partition_id, records_of, segment_spec, spec, values,
};

const WRITERS: usize = 4;
const APPENDS: usize = 150;

fn value(writer: usize, number: usize) -> Vec<u8> {
    format!("{writer}/{number}").into_bytes()
}

/// Appends its values in order, without waiting for one before it sends the next.
async fn write(partition: Partition, writer: usize) {
    let mut tickets = Vec::new();
    for number in 0..APPENDS {
        let append = match number % 3 {
            0 => Append::Record {
                record: encoded(&value(writer, number), &[]),
                attributes: 1 << 4,
                timestamp: TimestampMs(1),
                qos2: None,
                ack: Ack::Durable,
            },
            _ => {
                let records = [(value(writer, number), 1)];
                append(batch_of(&records, None, mainstem_record::Codec::None))
            }
        };
        tickets.push(partition.append(append).await.unwrap());
    }
    let mut last = Offset(-1);
    for ticket in tickets {
        let appended = ticket.await.unwrap();
        assert!(appended.base_offset > last, "order of one writer is kept");
        assert!(partition.ends().synced_end > appended.last_offset);
        last = appended.last_offset;
    }
}

/// Follows the tail until it has seen `count` records; returns their values.
async fn follow(partition: Partition, count: usize, bytes_max: usize) -> Vec<Vec<u8>> {
    let notify = Arc::new(Notify::new());
    let _subscription = partition.subscribe(&notify);
    let mut seen = Vec::new();
    let mut from = Offset(0);
    while seen.len() < count {
        let chunk = partition
            .read(Read {
                from,
                bytes_max,
                at_least_one_batch: true,
                end: Offset(i64::MAX),
            })
            .await
            .unwrap();
        if chunk.next == from {
            notify.notified().await;
            continue;
        }
        for run in &chunk.batches {
            for batch in Batches::new(run.clone()) {
                for record in records_of(&batch.unwrap().1) {
                    assert_eq!(record.offset, seen.len() as i64, "no gap, no repeat");
                    seen.push(record.value);
                }
            }
        }
        from = chunk.next;
    }
    seen
}

fn check(seen: &[Vec<u8>]) {
    let mut next = [0; WRITERS];
    for record in seen {
        let text = std::str::from_utf8(record).unwrap();
        let (writer, number) = text.split_once('/').unwrap();
        let writer: usize = writer.parse().unwrap();
        assert_eq!(number.parse::<usize>().unwrap(), next[writer]);
        next[writer] += 1;
    }
    assert_eq!(next, [APPENDS; WRITERS]);
}

/// Segments of different partitions are different ones.
fn segment_of(partition: &Partition, number: i32, base: i64) -> SegmentSpec {
    let mut spec = segment_spec(number, base);
    spec.id = segment_spec(100 * partition.id().index.0 + number, base).id;
    spec
}

async fn roll(partition: Partition) {
    for number in 1..6 {
        tokio::task::yield_now().await;
        let info = partition.seal_begin().await.unwrap();
        if number % 2 == 0 {
            partition.seal_abort().await;
            continue;
        }
        let next = segment_of(&partition, number, info.end.0);
        partition.seal_commit(next).await.unwrap();
    }
}

#[test]
fn readers_at_the_tail_see_a_gap_free_prefix_in_the_order_of_each_writer() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        tail_cache_bytes: 20_000,
        low_space_bytes: 0,
        ..LogOptions::new(dir.path().join("log"))
    };
    runtime.block_on(async {
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(Env::real(), options.clone(), &registry)
            .await
            .unwrap();
        let mut readers = tokio::task::JoinSet::new();
        let mut writers = tokio::task::JoinSet::new();
        let mut expected = Vec::new();
        for index in 0..3 {
            let mut spec = spec(Flush::Always);
            spec.id = partition_id(index);
            spec.segments[0].id = segment_spec(100 * index, 0).id;
            let partition = log.open_partition(spec).await.unwrap();
            for writer in 0..WRITERS {
                writers.spawn(write(partition.clone(), writer));
            }
            for bytes_max in [1, 1000, 100_000] {
                let count = WRITERS * APPENDS;
                readers.spawn(follow(partition.clone(), count, bytes_max));
            }
            writers.spawn(roll(partition));
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        while let Some(seen) = readers.join_next().await {
            check(&seen.unwrap());
        }
        for partition in log.partitions() {
            expected.push((
                partition.id(),
                partition.segments(),
                values(&partition).await,
            ));
        }
        log.close().await.unwrap();
        drop(log);

        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(Env::real(), options, &registry).await.unwrap();
        for (id, segments, expected) in expected {
            let mut spec = spec(Flush::Always);
            spec.id = id;
            spec.segments = segments
                .iter()
                .map(|info| SegmentSpec {
                    id: info.id,
                    base: info.base,
                    epoch: info.epoch,
                    end: info.end,
                    compacted_from: info.compacted_from,
                    held: info.held,
                })
                .collect();
            let partition = log.open_partition(spec).await.unwrap();
            assert_eq!(values(&partition).await, expected);
            let mut found = partition.segments();
            // An empty segment has no age to remember.
            for (found, before) in found.iter_mut().zip(&segments) {
                if found.bytes == 0 {
                    found.created_wall_ms = before.created_wall_ms;
                }
            }
            assert_eq!(found, segments);
        }
    });
}

#[test]
fn inbox_is_bounded_in_bytes_and_refuses_who_will_not_wait() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let fs: Arc<dyn mainstem_env::Fs> = Arc::new(mainstem_env::MemFs::new());
        let options = LogOptions {
            shard_inflight_bytes_max: 4000,
            shards: 1,
            ..crate::support::options()
        };
        let (log, _events) = crate::support::start(&fs, options).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        let records = [(vec![b'x'; 1000], 1)];
        let batch = batch_of(&records, None, mainstem_record::Codec::None);
        // Nothing gives the shard a turn here.
        let mut tickets = Vec::new();
        let refused = loop {
            match partition.try_append(append(batch.clone())) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, mainstem_log::AppendError::WouldBlock);
        assert_eq!(tickets.len(), 3);
        tickets.push(partition.append(append(batch.clone())).await.unwrap());
        for (offset, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.await.unwrap().base_offset.0, offset as i64);
        }
        // Larger than the whole inbox: it gets the inbox for itself.
        let records = [(vec![b'x'; 100_000], 1)];
        let large = batch_of(&records, None, mainstem_record::Codec::None);
        let ticket = partition.append(append(large)).await.unwrap();
        assert_eq!(ticket.await.unwrap().base_offset.0, 4);
    });
}

#[test]
fn frozen_partitions_leave_room_for_the_others_of_their_shard() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let fs: Arc<dyn mainstem_env::Fs> = Arc::new(mainstem_env::MemFs::new());
        let options = LogOptions {
            shard_inflight_bytes_max: 8000,
            shards: 1,
            ..crate::support::options()
        };
        let (log, _events) = crate::support::start(&fs, options).await;
        let mut partitions = Vec::new();
        for index in 0..4 {
            let mut spec = spec(Flush::Os);
            spec.id = partition_id(index);
            spec.segments[0].id = segment_spec(100 * index, 0).id;
            partitions.push(log.open_partition(spec).await.unwrap());
        }
        let lively = partitions.pop().unwrap();
        // Small batches: what they cost besides their bytes counts too.
        let records = [(vec![b'x'], 1)];
        let batch = batch_of(&records, None, mainstem_record::Codec::None);
        let mut tickets = Vec::new();
        for frozen in &partitions {
            frozen.seal_begin().await.unwrap();
            for _ in 0..100 {
                tickets.extend(frozen.try_append(append(batch.clone())));
                tokio::task::yield_now().await;
            }
        }
        let put = async { lively.append(append(batch)).await.unwrap().await };
        let env = Env::real();
        let put = env.timeout(std::time::Duration::from_secs(5), put).await;
        assert!(put.expect("the shard has room").is_ok());
        // What was let in before the first refusal is written after all, in order.
        for frozen in &partitions {
            frozen.seal_abort().await;
        }
        let mut written = 0;
        for ticket in tickets {
            written += usize::from(ticket.await.is_ok());
        }
        let ends = partitions.iter().map(|p| p.ends().log_end.0 as usize);
        assert_eq!(ends.sum::<usize>(), written);
        assert!(written > 0);
    });
}
