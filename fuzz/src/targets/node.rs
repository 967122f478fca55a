//! A node on a directory that may hold anything: `verify` and `dump` read it, then the log itself
//! starts on it and does all that a log does.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_log::{
    Ack, Append, Commit, CompactOptions, Flush, Label, Labeller, Labels, Log, LogOptions, Lookup,
    Partition, PartitionSettings, PartitionSpec, Read, Role, SegmentSpec,
    verify::{DumpOptions, Finding, Severity, dump, verify},
};
use mainstem_record::{
    BatchHeader, Batches, LeaderEpoch, Offset, PartitionId, PartitionIndex, RecordView, SegmentId,
    TimestampMs, TimestampType, TopicId,
};
use mainstem_simulation::{SimFs, World};
use uuid::Uuid;

use super::batch::some_batch;
use crate::Trace;

/// What a batch may unpack to here.
const UNPACKED_BYTES_MAX: usize = 1 << 20;
const READ_BYTES_MAX: usize = 64 << 10;
/// The label of a record that few batches have.
const RARE_LABEL: &[u8] = b"292";

/// The label of a record is the length of its value; in batches of the MQTT adapter it is uncertain.
#[derive(Debug)]
struct ByLength;

impl Labels for ByLength {
    fn labeller(&self, _: PartitionId) -> Option<Box<dyn Labeller>> {
        Some(Box::new(Self))
    }
}

impl Labeller for ByLength {
    fn label(&mut self, batch: &BatchHeader, record: &RecordView<'_>, out: &mut Vec<u8>) -> Label {
        if batch.attributes.is_mqtt() {
            return Label::Uncertain;
        }
        let length = record.value.map_or(0, <[u8]>::len);
        out.extend_from_slice(length.to_string().as_bytes());
        Label::Known
    }
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn options() -> LogOptions {
    LogOptions {
        index_interval_bytes: 300,
        tail_cache_bytes: 4000,
        open_files_max: 2,
        low_space_bytes: 0,
        journal_bytes: 128 << 10,
        decompressed_bytes_max: UNPACKED_BYTES_MAX,
        dictionary_segment_bytes_min: 0,
        ..LogOptions::new(dir())
    }
}

pub(super) fn segment(number: u128, base: Offset, end: Option<Offset>) -> SegmentSpec {
    SegmentSpec {
        id: SegmentId(Uuid::from_u128(1000 + number)),
        base,
        epoch: LeaderEpoch(number as i32),
        end,
        compacted_from: None,
        held: true,
    }
}

pub(super) fn spec(segments: Vec<SegmentSpec>) -> PartitionSpec {
    PartitionSpec {
        id: PartitionId {
            topic: TopicId(Uuid::from_u128(0xabc)),
            index: PartitionIndex(0),
        },
        log_start: Offset(0),
        segments,
        role: Role::Leader(Commit::Own),
        settings: PartitionSettings {
            flush: Flush::Always,
            segment_bytes: 1 << 30,
            segment_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
        },
    }
}

pub(super) async fn append(partition: &Partition, batch: Vec<u8>) -> bool {
    let append = Append::Batch {
        batch: Bytes::from(batch),
        ack: Ack::Durable,
    };
    match partition.append(append).await {
        Ok(ticket) => ticket.await.is_ok(),
        Err(_) => false,
    }
}

pub(super) async fn start(world: &World, disk: &SimFs, incarnation: u64) -> Result<Log, String> {
    let registry = prometheus::Registry::new();
    let env = world.process(disk, incarnation).env;
    match Log::start(env, options(), &registry).await {
        Ok((log, _events)) => {
            log.set_labels(Arc::new(ByLength));
            Ok(log)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// `mainstem log verify`; says whether it found nothing that is damage.
pub(super) fn check(disk: &SimFs, trace: &mut Trace) -> bool {
    let mut is_good = true;
    let mut found = |finding: &Finding| {
        assert!(!finding.to_string().is_empty());
        is_good &= finding.problem.severity() < Severity::Damage;
        trace.note_kind("found", &finding.problem);
    };
    match verify(disk, Path::new("/log"), &mut found) {
        Ok(summary) => trace.note_size("batches", summary.batches as usize),
        Err(error) => {
            is_good = false;
            trace.note_kind("verify", &error);
        }
    }
    is_good
}

/// `mainstem log dump`, with all that it can show.
pub(super) fn show(disk: &SimFs, trace: &mut Trace) {
    let options = DumpOptions {
        partition: None,
        batches: true,
        records: true,
        index: true,
        decompressed_bytes_max: UNPACKED_BYTES_MAX,
    };
    let mut items = 0;
    let done = dump(disk, Path::new("/log"), &options, &mut |item| {
        items += 1;
        assert!(!item.to_string().is_empty());
        Ok(())
    });
    trace.note_size("items", items);
    if let Err(error) = done {
        trace.note_kind("dump", &error);
    }
}

/// A start, reads, appends, a seal, look-ups, a scrub, a compaction and a clean stop.
pub(super) async fn use_it(
    world: World,
    (disk, end): (&SimFs, Offset),
    is_good: bool,
    trace: &mut Trace,
) {
    let log = match start(&world, disk, 1).await {
        Ok(log) => log,
        Err(error) => {
            assert!(
                !is_good,
                "verify found nothing, but the start fails: {error}"
            );
            trace.note_kind("start", &error);
            return;
        }
    };
    let chain = vec![segment(0, Offset(0), Some(end)), segment(1, end, None)];
    let partition = match log.open_partition(spec(chain)).await {
        Ok(partition) => partition,
        Err(error) => {
            assert!(
                !is_good,
                "verify found nothing, but the partition does not open: {error}"
            );
            trace.note_kind("open", &error);
            return;
        }
    };
    read_all(&partition, is_good, trace).await;
    if append(&partition, some_batch(0)).await {
        trace.note("appended");
    }
    match partition.seal_begin().await {
        Ok(info) => {
            let next = segment(2, info.end, None);
            let sealed = partition.seal_commit(next).await;
            trace.note_kind("sealed", &sealed.is_ok());
            append(&partition, some_batch(1)).await;
            read_all(&partition, false, trace).await;
        }
        Err(error) => trace.note_kind("seal", &error),
    }
    trace.note_size("dictionaries", log.make_dictionaries().await);
    look_up(&partition, trace).await;
    trace.note_size("scrub", log.scrub().await);
    compact(&partition, trace).await;
    let closed = log.close().await;
    trace.note_kind("closed", &closed.is_ok());
}

/// Reads from the log's start to its end; offsets go up, and batches are whole.
async fn read_all(partition: &Partition, is_good: bool, trace: &mut Trace) {
    let ends = partition.ends();
    assert!(ends.log_start <= ends.committed_end && ends.committed_end <= ends.log_end);
    let mut from = ends.log_start;
    let mut count = 0;
    while from < ends.committed_end {
        let read = Read {
            from,
            bytes_max: READ_BYTES_MAX,
            at_least_one_batch: true,
            end: Offset(i64::MAX),
        };
        let chunk = match partition.read(read).await {
            Ok(chunk) => chunk,
            Err(error) => {
                assert!(
                    !is_good,
                    "verify found nothing, but {from} cannot be read: {error}"
                );
                trace.note_kind("read", &error);
                break;
            }
        };
        assert!(
            chunk.next > from,
            "a read at {from} leads nowhere: {chunk:?}"
        );
        for run in chunk.batches {
            for batch in Batches::new(run) {
                let (header, _) = batch.expect("a read returns whole batches");
                assert!(header.last_offset() >= from, "offsets go back");
                count += 1;
            }
        }
        from = chunk.next;
    }
    trace.note_size("read", count);
    trace.note_size("producers", partition.producers().len());
    if let Ok(found) = partition
        .find_timestamp(TimestampMs(1_700_000_000_020), Offset::ZERO)
        .await
    {
        trace.note_kind("time", &found.is_some());
    }
}

/// Reads what the dictionaries lead to.
async fn look_up(partition: &Partition, trace: &mut Trace) {
    let mut from = partition.ends().log_start;
    let mut count = 0;
    loop {
        let found = partition.matching(from, |label| label == RARE_LABEL).await;
        let hits = match found {
            Ok(Lookup::Hits(hits)) => hits,
            Ok(Lookup::All(end)) => {
                trace.note_kind("all", &(end > from));
                break;
            }
            Err(error) => {
                trace.note_kind("matching", &error);
                break;
            }
        };
        assert!(hits.end() > from, "a look-up from {from} leads nowhere");
        while from < hits.end() {
            let chunk = match partition.read_hits(&hits, from, READ_BYTES_MAX).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    trace.note_kind("hits", &error);
                    return;
                }
            };
            assert!(
                chunk.next > from,
                "hits from {from} lead nowhere: {chunk:?}"
            );
            for run in chunk.batches {
                count += Batches::new(run).filter(Result::is_ok).count();
            }
            from = chunk.next;
        }
    }
    trace.note_size("looked up", count);
}

/// Compacts what is sealed, and reads it again.
async fn compact(partition: &Partition, trace: &mut Trace) {
    let options = CompactOptions {
        first_dirty: Offset(0),
        end: partition.ends().committed_end,
        segment_bytes_max: 1 << 20,
        delete_retention_ms: 0,
        map_bytes_max: 1 << 20,
        io_bytes_per_second: None,
    };
    let mut compaction = match partition.compact(options).await {
        Ok(compaction) => compaction,
        Err(error) => {
            trace.note_kind("compact", &error);
            return;
        }
    };
    trace.note_size("keys", compaction.keys());
    for number in 10.. {
        match compaction.next(segment(number, Offset(0), None).id).await {
            Ok(Some(new)) => {
                let replaced = partition.replace_segments(&new.old, new.new).await;
                trace.note_kind("replaced", &replaced);
                if replaced.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                trace.note_kind("compacting", &error);
                break;
            }
        }
    }
    drop(compaction);
    read_all(partition, false, trace).await;
}
