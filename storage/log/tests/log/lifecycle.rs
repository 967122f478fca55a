//! Partitions and segments coming and going.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mainstem_env::{Fs, MemFs};
use mainstem_log::{
    Ack, Append, AppendError, Flush, Log, LogError, LogOptions, Partition, PartitionError,
    QOS2_HEADER, Qos2Id, Read, ReadError,
};
use mainstem_record::{Codec, Offset, TimestampMs};
use tokio::sync::Notify;

use crate::support::{
    Held, LATER, append, batch, batch_of, encoded, inline_env, options, partition_id, run,
    segment_spec, settings, spec, start, values,
};

fn memory() -> Arc<dyn Fs> {
    Arc::new(MemFs::new())
}

#[test]
fn removal_waits_for_a_seal_that_makes_files() {
    run(async {
        let fs = memory();
        let held = Held::chains();
        let mut env = inline_env(fs.clone());
        env.tasks = Arc::new(held.clone());
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(env.clone(), options(), &registry).await.unwrap();
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
        ticket.await.unwrap();
        partition.seal_begin().await.unwrap();
        let sealing = env.start("seal", async move {
            partition.seal_commit(segment_spec(1, 1)).await
        });
        while held.count() == 0 {
            tokio::task::yield_now().await;
        }
        let (other, removed) = (log.clone(), Arc::new(AtomicBool::new(false)));
        let done = removed.clone();
        let removing = env.start("remove", async move {
            let result = other.remove_partition(partition_id(0)).await;
            done.store(true, Ordering::SeqCst);
            result
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!removed.load(Ordering::SeqCst), "the seal still works");
        held.let_go();
        assert_eq!(sealing.await, Ok(Ok(())));
        assert!(matches!(removing.await, Ok(Ok(()))));
        // The next partition of that name finds nothing of the one that was removed.
        log.open_partition(spec(Flush::Always)).await.unwrap();
        let dir = std::path::Path::new("/log/partitions")
            .join(partition_id(0).topic.0.to_string())
            .join("0");
        assert_eq!(fs.read_dir(&dir).unwrap().len(), 1);
    });
}

#[test]
fn removed_partition_answers_so_and_leaves_nothing() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        assert!(matches!(
            log.open_partition(spec(Flush::Always)).await,
            Err(LogError::AlreadyOpen(_))
        ));
        partition
            .append(append(batch(&["a"])))
            .await
            .unwrap()
            .await
            .unwrap();
        let notify = Arc::new(Notify::new());
        let _subscription = partition.subscribe(&notify);
        // What waits fails.
        partition.seal_begin().await.unwrap();
        let waiting = partition.append(append(batch(&["b"]))).await.unwrap();
        log.remove_partition(partition_id(0)).await.unwrap();
        assert_eq!(waiting.await, Err(AppendError::Removed));
        notify.notified().await;
        assert!(matches!(
            partition.append(append(batch(&["c"]))).await,
            Err(AppendError::Removed)
        ));
        assert_eq!(partition.flush().await, Err(PartitionError::Removed));
        let read = Read {
            from: Offset(0),
            bytes_max: 1,
            at_least_one_batch: true,
            end: Offset(9),
        };
        assert_eq!(partition.read(read).await, Err(ReadError::Removed));
        assert!(log.partition(partition_id(0)).is_none());
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        assert_eq!(partition.ends().log_end, Offset(0));
    });
}

#[test]
fn directories_that_nobody_knows_are_moved_aside() {
    run(async {
        let fs = memory();
        {
            let (log, _events) = start(&fs, options()).await;
            for index in 0..3 {
                let mut spec = spec(Flush::Os);
                spec.id = partition_id(index);
                log.open_partition(spec).await.unwrap();
            }
            log.close().await.unwrap();
        }
        let (log, _events) = start(&fs, options()).await;
        log.open_partition(spec(Flush::Os)).await.unwrap();
        let known = HashSet::from([partition_id(1)]);
        assert_eq!(log.remove_unknown(&known).await.unwrap(), 1);
        assert_eq!(log.remove_unknown(&known).await.unwrap(), 0);
        let trash = fs.read_dir(&options().dir.join("trash")).unwrap();
        assert_eq!(trash.len(), 1);
        assert!(
            trash[0]
                .name
                .ends_with(&format!("{}-2", partition_id(2).topic.0))
        );
        // It is not old enough.
        assert_eq!(log.empty_trash().await.unwrap(), 0);
    });
}

#[test]
fn appends_wait_through_a_seal_in_order_and_go_to_the_next_segment() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        partition
            .append(append(batch(&["a"])))
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(
            partition.seal_commit(segment_spec(1, 1)).await,
            Err(PartitionError::NotFrozen)
        );
        let info = partition.seal_begin().await.unwrap();
        assert_eq!(
            (info.end, info.bytes),
            (Offset(1), batch(&["a"]).len() as u64)
        );
        assert_eq!(partition.seal_begin().await, Ok(info));
        let second = partition.append(append(batch(&["b"]))).await.unwrap();
        let third = partition.append(append(batch(&["c"]))).await.unwrap();
        assert_eq!(
            partition.seal_commit(segment_spec(1, 5)).await,
            Err(PartitionError::NotNext { end: Offset(1) })
        );
        partition.seal_commit(segment_spec(1, 1)).await.unwrap();
        assert_eq!(second.await.unwrap().base_offset, Offset(1));
        assert_eq!(third.await.unwrap().base_offset, Offset(2));
        assert_eq!(values(&partition).await, ["a", "b", "c"]);
        assert_eq!(partition.epoch(), segment_spec(1, 1).epoch);
    });
}

#[test]
fn empty_segments_leave_no_trace_and_only_what_is_below_the_start_is_dropped() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        let put = async || {
            let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
            ticket.await.unwrap();
        };
        put().await;
        partition.seal_begin().await.unwrap();
        partition.seal_commit(segment_spec(1, 1)).await.unwrap();
        put().await;
        put().await;
        partition.seal_begin().await.unwrap();
        partition.seal_commit(segment_spec(2, 3)).await.unwrap();
        let info = partition.seal_begin().await.unwrap();
        assert_eq!((info.end, info.bytes), (Offset(3), 0));
        partition.seal_commit(segment_spec(3, 3)).await.unwrap();
        assert_eq!(partition.segments().len(), 3);
        partition
            .append(append(batch(&["d"])))
            .await
            .unwrap()
            .await
            .unwrap();

        let ids: Vec<_> = partition.segments().iter().map(|s| s.id).collect();
        assert_eq!(
            partition.drop_segments(&ids[..1], Offset(0)).await,
            Err(PartitionError::CannotDrop(ids[0]))
        );
        assert_eq!(
            partition.drop_segments(&ids[2..], Offset(4)).await,
            Err(PartitionError::CannotDrop(ids[2]))
        );
        assert!(matches!(
            partition.set_log_start(Offset(5)).await,
            Err(PartitionError::AboveCommitted { .. })
        ));
        partition.drop_segments(&ids[..1], Offset(2)).await.unwrap();
        let read = Read {
            from: Offset(1),
            bytes_max: 1,
            at_least_one_batch: true,
            end: Offset(9),
        };
        assert_eq!(
            partition.read(read).await,
            Err(ReadError::OutOfRange {
                log_start: Offset(2),
                log_end: Offset(4)
            })
        );
    });
}

#[test]
fn partition_without_an_active_segment_waits_for_one() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let mut empty = spec(Flush::Always);
        empty.segments.clear();
        let partition = log.open_partition(empty).await.unwrap();
        let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
        assert_eq!(
            partition.seal_begin().await.err(),
            Some(PartitionError::NoActiveSegment)
        );
        partition.seal_commit(segment_spec(0, 0)).await.unwrap();
        assert_eq!(ticket.await.unwrap().base_offset, Offset(0));
    });
}

#[test]
fn errors_of_sequence_hit_their_own_append_only() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        let from = |sequence| {
            let records = [(b"v".to_vec(), 1)];
            append(batch_of(&records, Some((7, 1, sequence)), Codec::None))
        };
        // All in one drain.
        let mut tickets = Vec::new();
        for sequence in [0, 1, 3, 1, 2] {
            tickets.push(partition.append(from(sequence)).await.unwrap());
        }
        let mut results = Vec::new();
        for ticket in tickets {
            results.push(ticket.await);
        }
        let offsets: Vec<_> = results
            .iter()
            .map(|r| r.map(|a| (a.base_offset.0, a.duplicate)).ok())
            .collect();
        assert_eq!(
            offsets,
            [
                Some((0, false)),
                Some((1, false)),
                None,
                Some((1, true)),
                Some((2, false))
            ]
        );
        assert!(matches!(
            results[2],
            Err(AppendError::OutOfOrderSequence { .. })
        ));
        assert!(!results[2].unwrap_err().is_transient());
    });
}

#[test]
fn records_of_many_clients_become_one_marked_batch_and_qos2_repeats_do_not() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        let publish = |sequence: u64| {
            let id = Qos2Id {
                session: [4; 16],
                epoch: 2,
                sequence,
            };
            let header = id.to_header();
            Append::Record {
                record: encoded(b"v", &[(QOS2_HEADER.as_bytes(), Some(&header))]),
                attributes: 2 << 4,
                timestamp: TimestampMs(3),
                qos2: Some(id),
                ack: Ack::Durable,
            }
        };
        let mut tickets = Vec::new();
        for sequence in [5, 6, 5, 7] {
            tickets.push(partition.append(publish(sequence)).await.unwrap());
        }
        let mut offsets = Vec::new();
        for ticket in tickets {
            let appended = ticket.await.unwrap();
            offsets.push((appended.base_offset.0, appended.duplicate));
        }
        assert_eq!(offsets, [(0, false), (1, false), (-1, true), (2, false)]);
        let batches = crate::support::read_batches(&partition, Offset(0), 1000)
            .await
            .unwrap();
        assert_eq!(batches.len(), 1);
        assert!(batches[0].0.attributes.is_mqtt());
        assert_eq!(batches[0].0.record_count, 3);
    });
}

#[test]
fn change_of_flush_policy_takes_nothing_back_and_holds_for_what_follows() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        partition
            .append(append(batch(&["a"])))
            .await
            .unwrap()
            .await
            .unwrap();
        let before = partition.ends();
        assert_eq!(
            (before.committed_end, before.synced_end),
            (Offset(1), Offset(0))
        );
        partition.update_settings(settings(Flush::Always)).await;
        assert_eq!(partition.ends().committed_end, Offset(1));
        partition
            .append(append(batch(&["b"])))
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(partition.ends().synced_end, Offset(2));
        partition.update_settings(settings(LATER)).await;
        partition
            .append(append(batch(&["c"])))
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(partition.ends().committed_end, Offset(3));
        assert_eq!(partition.flush().await, Ok(Offset(3)));
    });
}

#[test]
fn malformed_batches_are_refused() {
    run(async {
        let fs = memory();
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        let whole = batch(&["a"]);
        let longer = [&whole[..], &[0]].concat();
        for bad in [
            whole.slice(..60),
            whole.slice(..whole.len() - 1),
            longer.into(),
        ] {
            assert!(matches!(
                partition.append(append(bad)).await,
                Err(AppendError::InvalidBatch)
            ));
        }
        let none = Append::Records {
            records: Vec::new(),
            ack: Ack::None,
        };
        assert!(matches!(
            partition.append(none).await,
            Err(AppendError::InvalidBatch)
        ));
    });
}

/// A partition with "a" in a sealed segment and "b" in the active one, no memory of either, and
/// reads of files held back.
async fn sealed_and_active() -> (Partition, Held) {
    let reads = Held::reads();
    let mut env = inline_env(memory());
    env.tasks = Arc::new(reads.clone());
    let options = LogOptions {
        tail_cache_bytes: 0,
        ..options()
    };
    let registry = prometheus::Registry::new();
    let (log, _events) = Log::start(env, options, &registry).await.unwrap();
    let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
    let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
    ticket.await.unwrap();
    partition.seal_begin().await.unwrap();
    partition.seal_commit(segment_spec(1, 1)).await.unwrap();
    let ticket = partition.append(append(batch(&["b"]))).await.unwrap();
    ticket.await.unwrap();
    (partition, reads)
}

#[test]
fn retention_during_a_search_by_time_is_no_damage() {
    run(async {
        let (partition, reads) = sealed_and_active().await;
        let search = partition.find_timestamp(TimestampMs(1), Offset::ZERO);
        let meanwhile = async {
            while reads.count() == 0 {
                tokio::task::yield_now().await;
            }
            let first = segment_spec(0, 0).id;
            partition.drop_segments(&[first], Offset(1)).await.unwrap();
            // The file is not kept open either.
            reads.let_go();
            while reads.count() == 0 {
                tokio::task::yield_now().await;
            }
            reads.let_go();
        };
        let env = mainstem_env::Env::real();
        let both = async { tokio::join!(search, meanwhile) };
        let (found, ()) = env.timeout(Duration::from_secs(5), both).await.unwrap();
        assert_eq!(found, Ok(Some((Offset(1), TimestampMs(1)))));
    });
}

#[test]
fn readers_of_old_records_leave_threads_for_the_syncs() {
    run(async {
        let (partition, reads) = sealed_and_active().await;
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let partition = partition.clone();
            readers.spawn(async move { values(&partition).await });
        }
        while !readers.is_empty() {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(reads.count() <= 64, "{} reads at once", reads.count());
            reads.let_go();
            while let Some(done) = readers.try_join_next() {
                assert_eq!(done.unwrap(), ["a", "b"]);
            }
        }
    });
}
