//! What happens when the disk fails.

use std::{future::Future, io, pin::Pin, sync::Arc, task::Poll};

use mainstem_env::Fs;
use mainstem_log::{
    Ack, Append, AppendError, Flush, Log, LogError, LogEvent, LogOptions, Partition,
    PartitionError, PartitionFailure, Read, ReadError,
};
use mainstem_record::{Codec, Offset, TimestampMs};
use mainstem_simulation::{Faults, SimFs};
use tokio::sync::mpsc;

use crate::support::{
    Held, append, batch, batch_of, encoded, inline_env, options, partition_id, run, segment_spec,
    spec, start, values,
};

async fn open(fs: &SimFs, flush: Flush) -> (Log, Partition, mpsc::Receiver<LogEvent>) {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, events) = start(&fs, options()).await;
    let partition = log.open_partition(spec(flush)).await.unwrap();
    (log, partition, events)
}

/// Without a journal.
fn in_place() -> LogOptions {
    LogOptions {
        journal_bytes: 0,
        ..options()
    }
}

async fn put(partition: &Partition, value: &str) -> Result<i64, AppendError> {
    let ticket = partition.append(append(batch(&[value]))).await?;
    Ok(ticket.await?.base_offset.0)
}

#[test]
fn failed_sync_ends_acknowledgement_and_is_never_repeated_and_reads_go_on() {
    run(async {
        let fs = SimFs::new();
        let (log, partition, mut events) = open(&fs, Flush::Always).await;
        assert_eq!(put(&partition, "a").await, Ok(0));
        fs.set_faults(Faults {
            sync: true,
            ..Faults::default()
        });
        assert_eq!(put(&partition, "b").await, Err(AppendError::ShardFailed));
        let syncs = fs.syncs();
        // The disk works again, but what was lost on the way is not known.
        fs.set_faults(Faults::default());
        assert_eq!(put(&partition, "c").await, Err(AppendError::ShardFailed));
        let written = Append::Batch {
            batch: batch(&["d"]),
            ack: Ack::Written,
        };
        assert!(matches!(
            partition.append(written).await,
            Err(AppendError::ShardFailed)
        ));
        assert_eq!(partition.flush().await, Err(PartitionError::ShardFailed));
        assert_eq!(
            partition.seal_begin().await.err(),
            Some(PartitionError::ShardFailed)
        );
        assert_eq!(fs.syncs(), syncs);
        assert_eq!(values(&partition).await, ["a"]);
        assert!(matches!(
            events.recv().await,
            Some(LogEvent::ShardFailed { .. })
        ));
        assert_eq!(
            log.health().iter().filter(|h| h.failure.is_some()).count(),
            1
        );
        assert!(matches!(log.close().await, Err(LogError::NotClean)));
    });
}

#[test]
fn failed_sync_of_a_file_that_is_to_be_closed_ends_acknowledgement() {
    run(async {
        let fs = SimFs::new();
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let options = LogOptions {
            shards: 1,
            ..options()
        };
        let (log, mut events) = start(&shared, options).await;
        let mut partitions = Vec::new();
        for index in 0..4 {
            let mut spec = spec(Flush::Os);
            spec.id = partition_id(index);
            spec.segments[0].id = segment_spec(100 * index, 0).id;
            partitions.push(log.open_partition(spec).await.unwrap());
        }
        fs.set_faults(Faults {
            sync: true,
            ..Faults::default()
        });
        // Nobody asks for a sync, but there are more files than may be open.
        let mut last = Ok(0);
        for partition in partitions.iter().cycle().take(20) {
            last = put(partition, "a").await;
        }
        assert_eq!(last, Err(AppendError::ShardFailed));
        assert!(matches!(
            events.recv().await,
            Some(LogEvent::ShardFailed { shard: 0, .. })
        ));
        assert!(log.health()[0].failure.is_some());
        let syncs = fs.syncs();
        assert!(matches!(log.close().await, Err(LogError::NotClean)));
        assert_eq!(fs.syncs(), syncs);
    });
}

#[test]
fn full_disk_refuses_the_append_and_keeps_the_rest() {
    for kept in [0, 1, 70, 200] {
        run(async {
            let fs = SimFs::new();
            let (_log, partition, _events) = open(&fs, Flush::Os).await;
            assert_eq!(put(&partition, "a").await, Ok(0));
            fs.set_faults(Faults {
                write: Some((kept, io::ErrorKind::StorageFull)),
                ..Faults::default()
            });
            // Several at once share the write, and its failure.
            let records = [("b".as_bytes().to_vec(), 1)];
            let with_sequence = append(batch_of(&records, Some((7, 0, 0)), Codec::None));
            let first = partition.append(with_sequence).await.unwrap();
            let second = partition.append(append(batch(&["c"]))).await.unwrap();
            assert_eq!(first.await, Err(AppendError::NoSpace));
            assert_eq!(second.await, Err(AppendError::NoSpace));
            assert!(AppendError::NoSpace.is_transient());
            assert!(partition.producers().is_empty());
            assert_eq!(partition.ends().log_end, Offset(1));
            assert_eq!(put(&partition, "d").await, Ok(1));
            assert_eq!(values(&partition).await, ["a", "d"]);

            let (_log, partition, _events) = open(&fs.process_death(), Flush::Os).await;
            assert_eq!(values(&partition).await, ["a", "d"]);
        });
    }
}

#[test]
fn file_that_cannot_be_cut_back_fails_the_partition() {
    run(async {
        let fs = SimFs::new();
        let (_log, partition, mut events) = open(&fs, Flush::Os).await;
        assert_eq!(put(&partition, "a").await, Ok(0));
        fs.set_faults(Faults {
            write: Some((30, io::ErrorKind::Other)),
            set_len: true,
            ..Faults::default()
        });
        let failed = put(&partition, "b").await;
        assert_eq!(failed, Err(AppendError::Io(io::ErrorKind::Other)));
        fs.set_faults(Faults::default());
        assert_eq!(
            put(&partition, "c").await,
            Err(AppendError::PartitionFailed)
        );
        assert_eq!(values(&partition).await, ["a"]);
        assert!(matches!(
            events.recv().await,
            Some(LogEvent::PartitionFailed {
                failure: PartitionFailure::Truncate { .. },
                ..
            })
        ));
    });
}

#[test]
fn low_space_refuses_data_before_internal_topics_and_ends_by_itself() {
    run(async {
        let fs = SimFs::new();
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let options = LogOptions {
            low_space_bytes: 1000,
            ..options()
        };
        let available = |bytes| {
            fs.set_faults(Faults {
                available: Some(bytes),
                ..Faults::default()
            });
        };
        let internal = || Append::Records {
            records: vec![(encoded(b"i", &[]), TimestampMs(1))],
            ack: Ack::Durable,
        };
        // A new log looks at once; the same one believes its last look for a while.
        for (bytes, data, internals) in
            [(999, false, true), (249, false, false), (1000, true, true)]
        {
            available(bytes);
            let (log, _events) = start(&shared, options.clone()).await;
            let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
            assert_eq!(put(&partition, "a").await.is_ok(), data);
            let ticket = partition.append(internal()).await.unwrap();
            assert_eq!(ticket.await.is_ok(), internals);
        }
        let (log, _events) = start(&shared, options.clone()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        assert!(put(&partition, "a").await.is_ok());
        available(999);
        while put(&partition, "b").await != Err(AppendError::NoSpace) {}
        available(1000);
        while put(&partition, "c").await.is_err() {}
    });
}

/// Three acknowledged batches, synced and known to be, in a log that has died uncleanly.
async fn three_batches() -> (SimFs, usize) {
    let fs = SimFs::new();
    let (log, partition, _events) = open(&fs, Flush::Always).await;
    for value in ["a", "b", "c"] {
        put(&partition, value).await.unwrap();
    }
    // Writes the checkpoint; without the mark it is no clean stop.
    log.close().await.unwrap();
    let fs = fs.process_death();
    fs.remove_file(&fs.files("clean-shutdown")[0]).unwrap();
    (fs, batch(&["a"]).len())
}

#[test]
fn damage_below_the_synced_point_is_reported_and_never_cut() {
    for at in [0, 12, 17, 65] {
        run(async {
            let (fs, length) = three_batches().await;
            let path = fs.files(".log")[0].clone();
            let mut before = Vec::new();
            fs.edit(&path, |content| {
                content[length + at] ^= 1;
                before = content.clone();
            });
            let (_log, partition, mut events) = open(&fs, Flush::Always).await;
            let Some(LogEvent::PartitionFailed { failure, .. }) = events.recv().await else {
                panic!("no event");
            };
            let position = length as u64;
            let synced = 3 * position;
            assert_eq!(
                failure,
                PartitionFailure::Damaged {
                    path: path.clone(),
                    position,
                    synced
                }
            );
            assert_eq!(
                put(&partition, "d").await,
                Err(AppendError::PartitionFailed)
            );
            let read = |from| {
                partition.read(Read {
                    from: Offset(from),
                    bytes_max: 1000,
                    at_least_one_batch: true,
                    end: Offset(100),
                })
            };
            assert_eq!(read(0).await.unwrap().next, Offset(1));
            let Err(ReadError::Damaged { base, end, .. }) = read(1).await else {
                panic!("not damaged");
            };
            assert_eq!(base, Offset(1));
            assert!(end == Offset(2) || end == Offset(3), "{end}");
            fs.edit(&path, |content| assert_eq!(*content, before));
        });
    }
}

#[test]
fn missing_bytes_below_the_synced_point_are_damage_and_above_it_are_cut() {
    run(async {
        let (fs, length) = three_batches().await;
        let path = fs.files(".log")[0].clone();
        let torn = fs.process_death();
        torn.edit(&path, |content| content.extend_from_slice(&[7; 40]));
        let (_log, partition, _events) = open(&torn, Flush::Always).await;
        assert_eq!(values(&partition).await, ["a", "b", "c"]);
        torn.edit(&path, |content| assert_eq!(content.len(), 3 * length));
        assert_eq!(put(&partition, "d").await, Ok(3));

        let short = fs.process_death();
        short.edit(&path, |content| content.truncate(length * 2 + 5));
        let (_log, partition, mut events) = open(&short, Flush::Always).await;
        assert!(matches!(
            events.recv().await,
            Some(LogEvent::PartitionFailed { .. })
        ));
        assert_eq!(partition.ends().log_end, Offset(3));

        let gone = fs.process_death();
        gone.remove_file(&path).unwrap();
        let (_log, partition, mut events) = open(&gone, Flush::Always).await;
        assert!(matches!(
            events.recv().await,
            Some(LogEvent::PartitionFailed { .. })
        ));
        assert_eq!(
            put(&partition, "x").await,
            Err(AppendError::PartitionFailed)
        );
        assert!(gone.files(".log").is_empty());
    });
}

#[test]
fn damage_in_a_sealed_segment_spoils_that_range_only() {
    run(async {
        let fs = SimFs::new();
        let (_log, partition, _events) = open(&fs, Flush::Always).await;
        for value in ["a", "b", "c"] {
            put(&partition, value).await.unwrap();
        }
        let info = partition.seal_begin().await.unwrap();
        assert_eq!(info.end, Offset(3));
        partition.seal_commit(segment_spec(1, 3)).await.unwrap();
        put(&partition, "d").await.unwrap();
        let mut reopened = spec(Flush::Always);
        reopened.segments[0].end = Some(Offset(3));
        reopened.segments.push(segment_spec(1, 3));
        let length = batch(&["a"]).len();
        for lose_index in [false, true] {
            for lose_file in [false, true] {
                let fs = fs.process_death();
                let path = fs.files(".log")[0].clone();
                if lose_index {
                    fs.remove_file(&fs.files(".idx")[0]).unwrap();
                }
                if lose_file {
                    fs.remove_file(&path).unwrap();
                } else {
                    fs.edit(&path, |content| content[length + 64] ^= 1);
                }
                let shared: Arc<dyn Fs> = Arc::new(fs.clone());
                let (log, _events) = start(&shared, options()).await;
                let partition = log.open_partition(reopened.clone()).await.unwrap();
                let read = |from| {
                    partition.read(Read {
                        from: Offset(from),
                        bytes_max: length,
                        at_least_one_batch: true,
                        end: Offset(100),
                    })
                };
                assert!(matches!(read(1).await, Err(ReadError::Damaged { .. })));
                assert_eq!(read(0).await.is_ok(), !lose_file);
                assert_eq!(read(2).await.is_ok(), !lose_file);
                assert_eq!(read(3).await.unwrap().next, Offset(4));
                assert_eq!(put(&partition, "e").await, Ok(4));
            }
        }
    });
}

#[test]
fn nothing_is_acknowledged_or_read_before_its_sync_and_one_sync_serves_all_that_waited() {
    run(async {
        let fs = SimFs::new();
        let syncs = Held::syncs();
        let mut env = inline_env(Arc::new(fs.clone()));
        env.tasks = Arc::new(syncs.clone());
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(env, in_place(), &registry).await.unwrap();
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        let first = partition.append(append(batch(&["a"]))).await.unwrap();
        let written = Append::Batch {
            batch: batch(&["b"]),
            ack: Ack::Written,
        };
        // Both are written, and the first sync has begun.
        let appended = partition.append(written).await.unwrap().await.unwrap();
        assert_eq!(appended.base_offset, Offset(1));
        assert_eq!(partition.ends().log_end, Offset(2));
        let before = (fs.writes(), fs.syncs());
        let mut waiting = vec![first];
        for value in ["c", "d", "e"] {
            waiting.push(partition.append(append(batch(&[value]))).await.unwrap());
        }
        while partition.ends().log_end < Offset(5) {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs.writes() - before.0, 1, "one write per drain");
        for ticket in &mut waiting {
            let polled = std::future::poll_fn(|context| {
                Poll::Ready(Pin::new(&mut *ticket).poll(context).is_ready())
            });
            assert!(!polled.await, "acknowledged before it was synced");
        }
        assert_eq!(partition.ends().committed_end, Offset(0));
        assert!(values(&partition).await.is_empty());
        // The round under way covers what was written when it began, the next one the rest.
        assert_eq!(syncs.let_go(), 1);
        let mut waiting = waiting.into_iter();
        assert!(waiting.next().unwrap().await.is_ok());
        assert_eq!(partition.ends().committed_end, Offset(2));
        assert_eq!(values(&partition).await, ["a", "b"]);
        while syncs.let_go() == 0 {
            tokio::task::yield_now().await;
        }
        for ticket in waiting {
            assert!(ticket.await.is_ok());
        }
        assert_eq!(fs.syncs() - before.1, 2);
        assert_eq!(values(&partition).await, ["a", "b", "c", "d", "e"]);
    });
}

#[test]
fn what_a_failed_sync_has_lost_is_written_again_before_a_repeat_is_acknowledged() {
    let records = [("b".as_bytes().to_vec(), 1)];
    let repeated = || append(batch_of(&records, Some((7, 0, 0)), Codec::None));
    for seed in 0..20 {
        run(async {
            let fs = SimFs::new();
            let (_log, partition, _events) = open(&fs, Flush::Always).await;
            assert_eq!(put(&partition, "a").await, Ok(0));
            fs.set_faults(Faults {
                sync: true,
                ..Faults::default()
            });
            let failed = partition.append(repeated()).await.unwrap().await;
            assert_eq!(failed, Err(AppendError::ShardFailed));

            // The process starts anew; the page cache still has what the disk has not.
            let fs = fs.process_death();
            let (_log, partition, _events) = open(&fs, Flush::Always).await;
            let again = partition.append(repeated()).await.unwrap().await.unwrap();
            assert!(again.duplicate);

            let (_log, partition, _events) = open(&fs.power_cut(seed), Flush::Always).await;
            assert_eq!(values(&partition).await, ["a", "b"]);
        });
    }
}

#[test]
fn subscribers_are_woken_when_there_is_more_to_read_and_not_before() {
    run(async {
        let syncs = Held::syncs();
        let mut env = inline_env(Arc::new(SimFs::new()));
        env.tasks = Arc::new(syncs.clone());
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(env, in_place(), &registry).await.unwrap();
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        let notify = Arc::new(tokio::sync::Notify::new());
        let _subscription = partition.subscribe(&notify);
        let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
        while partition.ends().log_end < Offset(1) {
            tokio::task::yield_now().await;
        }
        let mut woken = Box::pin(notify.notified());
        let early =
            std::future::poll_fn(|context| Poll::Ready(woken.as_mut().poll(context).is_ready()));
        assert!(!early.await, "there is nothing to read yet");
        assert_eq!(syncs.let_go(), 1);
        woken.await;
        assert_eq!(partition.ends().committed_end, Offset(1));
        assert!(ticket.await.is_ok());
    });
}
