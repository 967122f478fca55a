//! Reading history, beside the tail.

use std::{io::IoSlice, path::PathBuf, sync::Arc};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{Chunk, Flush, Log, LogOptions, Partition, Read, ReadError};
use mainstem_record::Offset;

use crate::support::{
    Held, append, batch, inline_env, options, partition_id, run, segment_spec, spec, start, values,
};

/// Batches of each segment.
const BATCHES: i64 = 10;

/// Where a batch has the number of its records, as Kafka's format says.
const RECORD_COUNT_AT: u64 = 57;

/// A partition of three segments, the last one active, and the read-ahead jobs that it has left.
async fn three_segments(tail_cache_bytes: usize) -> (Log, Partition, Held) {
    let held = Held::read_ahead();
    let mut env = inline_env(Arc::new(MemFs::new()));
    env.tasks = Arc::new(held.clone());
    let options = LogOptions {
        tail_cache_bytes,
        ..options()
    };
    let registry = prometheus::Registry::new();
    let (log, _events) = Log::start(env, options, &registry).await.unwrap();
    let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
    for number in 0..3 {
        for offset in 0..BATCHES {
            let text = format!("{}", i64::from(number) * BATCHES + offset);
            let ticket = partition.append(append(batch(&[&text]))).await.unwrap();
            ticket.await.unwrap();
        }
        if number < 2 {
            let end = partition.seal_begin().await.unwrap().end;
            let next = segment_spec(number + 1, end.0);
            partition.seal_commit(next).await.unwrap();
        }
    }
    (log, partition, held)
}

async fn read(partition: &Partition, from: i64, bytes_max: usize) -> Chunk {
    let read = Read {
        from: Offset(from),
        bytes_max,
        at_least_one_batch: true,
        end: Offset(i64::MAX),
    };
    partition.read(read).await.unwrap()
}

#[test]
fn reader_at_the_start_of_a_segment_has_the_next_sealed_one_asked_for_once() {
    run(async {
        let (_log, partition, held) = three_segments(0).await;
        let mut from = 0;
        let mut jobs = Vec::new();
        while from < 3 * BATCHES {
            let chunk = read(&partition, from, 1).await;
            assert_eq!(chunk.next.0, from + 1);
            from = chunk.next.0;
            jobs.push(held.let_go());
        }
        // The window is larger than these segments; the active one is in the page cache.
        assert_eq!(jobs.iter().sum::<usize>(), 1);
        assert_eq!(jobs.first(), Some(&1));
    });
}

#[test]
fn reads_here_and_there_ask_for_nothing_ahead() {
    run(async {
        let (_log, partition, held) = three_segments(0).await;
        for from in [5, 2, 17, 13, 8] {
            assert_eq!(read(&partition, from, 1).await.next.0, from + 1);
        }
        assert_eq!(held.count(), 0);
    });
}

#[test]
fn read_ahead_of_a_segment_that_is_dropped_meanwhile_does_no_harm() {
    run(async {
        let (_log, partition, held) = three_segments(0).await;
        read(&partition, 0, 1).await;
        assert_eq!(held.count(), 1);
        let segments: Vec<_> = partition.segments().iter().take(2).map(|s| s.id).collect();
        let start = Offset(2 * BATCHES);
        partition.drop_segments(&segments, start).await.unwrap();
        held.let_go();
        let left: Vec<String> = (2 * BATCHES..3 * BATCHES).map(|n| n.to_string()).collect();
        assert_eq!(values(&partition).await, left);
    });
}

#[test]
fn reader_of_history_does_not_push_the_tail_out_of_the_cache() {
    run(async {
        let (_log, partition, _held) = three_segments(1200).await;
        let last = 3 * BATCHES - 1;
        assert!(read(&partition, last, 1).await.from_cache);
        assert!(!read(&partition, 0, 1).await.from_cache);
        for _ in 0..3 {
            assert_eq!(values(&partition).await.len() as i64, 3 * BATCHES);
            assert!(read(&partition, last, 1).await.from_cache);
        }
    });
}

#[test]
fn one_read_of_the_cache_returns_a_bounded_number_of_batches() {
    run(async {
        let (_log, partition, _held) = three_segments(4 << 20).await;
        let more = 5000;
        let mut tickets = Vec::new();
        for _ in 0..more {
            tickets.push(partition.append(append(batch(&["x"]))).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        let all = read(&partition, 3 * BATCHES, usize::MAX).await;
        assert!(all.from_cache);
        assert!(all.batches.len() < more, "{}", all.batches.len());
        // The rest comes when it is asked for.
        assert_eq!(
            values(&partition).await.len() as i64,
            3 * BATCHES + more as i64
        );
    });
}

/// A batch that compaction has emptied is passed over; one of which the disk says so is damaged.
#[test]
fn batch_whose_number_of_records_is_spoilt_is_not_passed_over() {
    run(async {
        for spoilt in [0_i32, -1] {
            let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
            let options = LogOptions {
                tail_cache_bytes: 0,
                ..options()
            };
            let (log, _events) = start(&fs, options).await;
            let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
            for text in ["first", "second", "third"] {
                let ticket = partition.append(append(batch(&[text]))).await.unwrap();
                ticket.await.unwrap();
            }
            let first_bytes = batch(&["first"]).len() as u64;
            let count_at = first_bytes + RECORD_COUNT_AT;
            let file = fs.open(&first_segment(), OpenMode::ReadWrite).unwrap();
            file.write_all_vectored_at(&[IoSlice::new(&spoilt.to_be_bytes())], count_at)
                .unwrap();
            // As the active segment, and as a sealed one.
            for seals in [true, false] {
                let read = Read {
                    from: Offset(1),
                    bytes_max: 1000,
                    at_least_one_batch: true,
                    end: Offset(i64::MAX),
                };
                let answer = partition.read(read).await;
                let is_named = matches!(answer, Err(ReadError::Damaged { base, end, .. })
                    if (base, end) == (Offset(1), Offset(2)));
                assert!(is_named, "{spoilt} records: {answer:?}");
                if seals {
                    partition.seal_begin().await.unwrap();
                    partition.seal_commit(segment_spec(1, 3)).await.unwrap();
                }
            }
        }
    });
}

fn first_segment() -> PathBuf {
    let (topic, id) = (partition_id(0).topic, segment_spec(0, 0).id.0);
    PathBuf::from(format!("/log/partitions/{topic}/0/{:020}-{id}.log", 0))
}
