//! A start after a crash: how much is looked at, and that what is derived is no more than that.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_env::Fs;
use mainstem_log::{
    Append, Flush, Log, LogEvent, LogOptions, Partition, PartitionFailure, PartitionSpec, Read,
    ReadError, SegmentSpec,
};
use mainstem_record::{Codec, Offset, TimestampMs};
use mainstem_simulation::SimFs;
use proptest::prelude::*;
use tokio::sync::mpsc;

use crate::support::{
    LATER, append, batch_of, encoded, options, run, segment_spec, spec, start, values,
};

/// Of what follows a recovery point, at most so much when a new one is begun, in bytes.
const POINT_BYTES: u64 = 4000;

/// The largest batch that the tests append, in bytes.
const BATCH_BYTES_MAX: u64 = 700;

fn with_points() -> LogOptions {
    LogOptions {
        recovery_point_bytes: POINT_BYTES,
        recovery_scan_bytes_max: 1 << 30,
        ..options()
    }
}

async fn open(
    fs: &SimFs,
    options: LogOptions,
    spec: PartitionSpec,
) -> (Log, Partition, mpsc::Receiver<LogEvent>) {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, events) = start(&fs, options).await;
    let partition = log.open_partition(spec).await.unwrap();
    (log, partition, events)
}

fn one(number: usize, len: usize, producer: Option<(i64, i16, i32)>) -> Bytes {
    let value = format!("{number}:{}", "x".repeat(len)).into_bytes();
    batch_of(&[(value, number as i64)], producer, Codec::None)
}

async fn put(partition: &Partition, batch: Bytes) {
    let ticket = partition.append(append(batch)).await.unwrap();
    ticket.await.unwrap();
}

/// A segment of some recovery points' length, left by a crash.
async fn crashed(flush: Flush) -> (SimFs, Vec<String>) {
    let fs = SimFs::new();
    let (_log, partition, _events) = open(&fs, with_points(), spec(flush)).await;
    for number in 0..60 {
        let len = 100 + number * 7;
        put(&partition, one(number, len, Some((5, 0, number as i32)))).await;
    }
    (fs.process_death(), values(&partition).await)
}

#[test]
fn start_after_a_crash_scans_what_follows_the_recovery_point() {
    for flush in [Flush::Always, LATER, Flush::Os] {
        run(async {
            let (fs, before) = crashed(flush).await;
            assert_eq!(fs.files(".snap").len(), 1);
            let (log, partition, mut events) = open(&fs, with_points(), spec(flush)).await;
            assert!(partition.size_bytes() > 4 * POINT_BYTES);
            assert!(log.scanned_bytes() <= POINT_BYTES + 2 * BATCH_BYTES_MAX);
            assert_eq!(values(&partition).await, before);
            assert!(events.try_recv().is_err());
        });
    }
}

#[test]
fn many_partitions_together_leave_little_to_scan() {
    run(async {
        let fs = SimFs::new();
        let options = LogOptions {
            recovery_point_bytes: POINT_BYTES,
            recovery_scan_bytes_max: 4 * POINT_BYTES,
            ..options()
        };
        let spec_of = |index| {
            let mut spec = spec(Flush::Always);
            spec.id = crate::support::partition_id(index);
            spec.segments[0].id = segment_spec(index, 0).id;
            spec
        };
        let (log, _, _events) = open(&fs, options.clone(), spec_of(0)).await;
        for index in 1..20 {
            log.open_partition(spec_of(index)).await.unwrap();
        }
        for number in 0..40 {
            for partition in log.partitions() {
                put(&partition, one(number, 500, None)).await;
            }
        }
        let bytes: u64 = log.partitions().iter().map(Partition::size_bytes).sum();
        let (log, _, _events) = open(&fs.process_death(), options.clone(), spec_of(0)).await;
        for index in 1..20 {
            log.open_partition(spec_of(index)).await.unwrap();
        }
        // Each shard has half of the bound, and goes past it by what is under way.
        let scanned = log.scanned_bytes();
        assert!(scanned <= 6 * POINT_BYTES, "{scanned} of {bytes}");
        assert!(bytes > 100 * POINT_BYTES);
    });
}

#[test]
fn clean_stop_leaves_nothing_to_scan() {
    run(async {
        let fs = SimFs::new();
        let (log, partition, _events) = open(&fs, with_points(), spec(Flush::Os)).await;
        put(&partition, one(1, 100, None)).await;
        log.close().await.unwrap();
        for _ in 0..2 {
            let (log, partition, _) =
                open(&fs.process_death(), with_points(), spec(Flush::Os)).await;
            assert_eq!(log.scanned_bytes(), 0);
            assert_eq!(values(&partition).await.len(), 1);
            log.close().await.unwrap();
        }
    });
}

#[test]
fn damage_below_the_recovery_point_is_met_by_readers() {
    run(async {
        let (fs, before) = crashed(Flush::Always).await;
        let path = fs.files(".log")[0].clone();
        fs.edit(&path, |content| content[80] ^= 1);
        // The chunk that the point ends in is looked at, so the segment is scanned, and found to be
        // damaged, unless the last run stopped cleanly.
        let (_log, partition, mut events) = open(&fs, with_points(), spec(Flush::Always)).await;
        let event = events.try_recv().unwrap();
        let LogEvent::PartitionFailed { failure, .. } = event else {
            panic!("{event:?}");
        };
        assert!(matches!(
            failure,
            PartitionFailure::Damaged { position: 0, .. }
        ));
        let read = |from| Read {
            from: Offset(from),
            bytes_max: 1 << 20,
            at_least_one_batch: true,
            end: Offset(i64::MAX),
        };
        let found = partition.read(read(0)).await;
        let Err(ReadError::Damaged { end, .. }) = found else {
            panic!("{found:?}");
        };
        let rest = partition.read(read(end.0)).await.unwrap();
        assert!(rest.next > end && rest.next.0 <= before.len() as i64);
    });
}

#[test]
fn segment_that_is_shorter_than_its_recovery_point_fails_the_partition() {
    run(async {
        for missing in [false, true] {
            let (fs, _) = crashed(Flush::Always).await;
            // The point may be newer than the checkpoint, and is as true.
            for checkpoint in fs.files("checkpoint") {
                fs.remove_file(&checkpoint).unwrap();
            }
            let path = fs.files(".log")[0].clone();
            if missing {
                fs.remove_file(&path).unwrap();
            } else {
                fs.edit(&path, |content| content.truncate(2000));
            }
            let (_log, _, mut events) = open(&fs, with_points(), spec(Flush::Always)).await;
            let event = events.try_recv().unwrap();
            assert!(matches!(event, LogEvent::PartitionFailed { .. }));
            if !missing {
                fs.edit(&path, |content| assert_eq!(content.len(), 2000));
            }
        }
    });
}

/// What can be seen of a partition.
async fn seen(partition: &Partition) -> impl PartialEq + std::fmt::Debug {
    let mut times = Vec::new();
    for at_least in 0..70 {
        times.push(
            partition
                .find_timestamp(TimestampMs(at_least), Offset::ZERO)
                .await
                .unwrap(),
        );
    }
    let mut segments = partition.segments();
    for segment in &mut segments {
        segment.created_wall_ms = 0;
    }
    let mut producers = partition.producers();
    for producer in &mut producers {
        producer.last_seen_ms = 0;
    }
    let digest = partition.seal_begin().await.unwrap();
    (
        (partition.ends(), segments, producers, digest),
        (times, values(partition).await),
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(48)
    })]

    /// Indexes, times, producers, QoS 2 identities and digests are derived from the batches.
    #[test]
    fn what_is_derived_is_rebuilt_from_batches_alone(
        lens in prop::collection::vec((0usize..600, 0i64..4, any::<bool>()), 1..60),
        sealed_after in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        clean in any::<bool>(),
    ) {
        run(async {
            let fs = SimFs::new();
            let mut spec = spec(Flush::Always);
            let (log, partition, _events) = open(&fs, with_points(), spec.clone()).await;
            let mut sequences = [0; 4];
            let seals: Vec<usize> = sealed_after.iter().map(|at| at.index(lens.len())).collect();
            for (number, (len, producer, as_record)) in lens.into_iter().enumerate() {
                let sequence = &mut sequences[producer as usize];
                let work = if as_record {
                    let id = mainstem_log::Qos2Id {
                        session: [producer as u8; 16],
                        epoch: 1,
                        sequence: number as u64,
                    };
                    let value = id.to_header();
                    let header = (mainstem_log::QOS2_HEADER.as_bytes(), Some(&value[..]));
                    Append::Record {
                        record: encoded(&vec![b'y'; len], &[header]),
                        attributes: 0,
                        timestamp: TimestampMs(number as i64),
                        qos2: Some(id),
                        ack: mainstem_log::Ack::Durable,
                    }
                } else {
                    let batch = one(number, len, Some((producer, 0, *sequence)));
                    *sequence += 1;
                    append(batch)
                };
                partition.append(work).await.unwrap().await.unwrap();
                if seals.contains(&number) {
                    seal(&partition, &mut spec.segments).await;
                }
            }
            if clean {
                log.close().await.unwrap();
            }
            let (as_it_is, bare) = (fs.process_death(), fs.process_death());
            for ending in [".idx", ".snap", "checkpoint", "clean-shutdown"] {
                for path in bare.files(ending) {
                    bare.remove_file(&path).unwrap();
                }
            }
            let (_log, as_it_is, _events) = open(&as_it_is, with_points(), spec.clone()).await;
            let (_log, bare, _events) = open(&bare, with_points(), spec).await;
            assert_eq!(seen(&as_it_is).await, seen(&bare).await);
        });
    }
}

async fn seal(partition: &Partition, chain: &mut Vec<SegmentSpec>) {
    let info = partition.seal_begin().await.unwrap();
    let number = chain.len() as i32;
    let next = segment_spec(number, info.end.0);
    chain.last_mut().unwrap().end = Some(info.end);
    chain.push(next);
    partition.seal_commit(next).await.unwrap();
}
