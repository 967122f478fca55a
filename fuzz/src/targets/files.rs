//! One file of a log: the input takes its place in a directory that a node has left, and then
//! everything that reads such a directory is let loose on it.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use bytes::Bytes;
use mainstem_env::Fs;
use mainstem_log::{
    Ack, Append, Flush, Log, LogOptions, Partition, PartitionSettings, PartitionSpec, Read,
    SegmentSpec,
    verify::{DumpOptions, Finding, Severity, dump, verify},
};
use mainstem_record::{
    Attributes, Batches, Codec, LeaderEpoch, Offset, PartitionId, PartitionIndex, SegmentId,
    TimestampMs, TimestampType, TopicId,
};
use mainstem_simulation::{SimFs, World};
use uuid::Uuid;

use super::{
    Target,
    batch::{marker, repair, sample},
};
use crate::Trace;

/// What a batch may unpack to here.
const UNPACKED_BYTES_MAX: usize = 1 << 20;
const READ_BYTES_MAX: usize = 64 << 10;
const BATCHES: usize = 9;
/// A start with recovery, reads, an append, a seal and a clean stop, however often buffers grow.
const BYTES_FREE: usize = 192 << 20;
const BYTES_FACTOR: usize = 512;
const SHORT: u64 = 700;

/// Which file an input stands for, and how its node was left.
#[derive(Debug, Clone, Copy)]
struct Place {
    ending: &'static str,
    /// Which of those with this ending, by name.
    number: usize,
    cleanly: bool,
}

const fn target(name: &'static str, functions: Functions) -> Target {
    Target {
        name,
        run: functions.0,
        seeds: functions.1,
        repair: functions.2,
        bytes_free: BYTES_FREE,
        bytes_factor: BYTES_FACTOR,
        short: SHORT,
    }
}

type Functions = (fn(&[u8], &mut Trace), fn() -> Vec<Vec<u8>>, fn(&mut [u8]));

/// The functions of a target for a place.
macro_rules! place {
    ($ending:literal, $number:literal, $cleanly:literal, $repair:path) => {{
        const PLACE: Place = Place {
            ending: $ending,
            number: $number,
            cleanly: $cleanly,
        };
        (
            |input, trace| PLACE.run(input, trace),
            || PLACE.seeds(),
            $repair,
        )
    }};
}

pub(super) const SEGMENT: Target = target("segment", place!(".log", 0, false, repair_batches));
pub(super) const ACTIVE: Target = target("active", place!(".log", 1, false, repair_batches));
pub(super) const INDEX: Target = target("index", place!(".idx", 0, false, repair_index));
pub(super) const SNAPSHOT: Target = target("snapshot", place!(".snap", 0, true, repair_index));
pub(super) const CHECKPOINT: Target = target(
    "checkpoint",
    place!("/checkpoint", 0, false, repair_trailer),
);
pub(super) const FORMAT: Target = target("format", place!("/format", 0, false, repair_trailer));
pub(super) const MARK: Target = target("mark", place!("/clean-shutdown", 0, true, repair_trailer));

/// Makes the checksum of each batch right, as far as lengths lead from one to the next.
fn repair_batches(input: &mut [u8]) {
    let mut at = 0;
    while let Some(field) = input.get(at + 8..at + 12) {
        let length = i32::from_be_bytes(field.try_into().expect("four bytes"));
        let len = usize::try_from(length).map_or(usize::MAX, |length| length + 12);
        let len = len.min(input.len() - at);
        if let Some(batch) = input.get_mut(at..) {
            repair(batch, len);
        }
        at += len.max(1);
    }
}

/// Makes the checksums of an index file right: that of the header section and that of the file.
fn repair_index(input: &mut [u8]) {
    // Magic, version and the tag of the section come before its length.
    let length = input.get(12..20).and_then(|field| field.try_into().ok());
    let length = length.map_or(0, u64::from_le_bytes) as usize;
    let header = input.get_mut(20..20usize.saturating_add(length));
    if let Some((body, crc)) = header.and_then(|header| header.split_last_chunk_mut::<4>()) {
        *crc = crc32c::crc32c(body).to_le_bytes();
    }
    repair_trailer(input);
}

/// Makes the checksum right that ends a file.
fn repair_trailer(input: &mut [u8]) {
    if let Some(at) = input.len().checked_sub(4) {
        let crc = crc32c::crc32c(&input[..at]);
        input[at..].copy_from_slice(&crc.to_le_bytes());
    }
}

// === the directory ===

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn options() -> LogOptions {
    LogOptions {
        index_interval_bytes: 300,
        tail_cache_bytes: 4000,
        open_files_max: 2,
        low_space_bytes: 0,
        decompressed_bytes_max: UNPACKED_BYTES_MAX,
        ..LogOptions::new(dir())
    }
}

fn segment(number: u128, base: Offset, end: Option<Offset>) -> SegmentSpec {
    SegmentSpec {
        id: SegmentId(Uuid::from_u128(1000 + number)),
        base,
        epoch: LeaderEpoch(number as i32),
        end,
        compacted_from: None,
    }
}

fn spec(segments: Vec<SegmentSpec>) -> PartitionSpec {
    PartitionSpec {
        id: PartitionId {
            topic: TopicId(Uuid::from_u128(0xabc)),
            index: PartitionIndex(0),
        },
        log_start: Offset(0),
        segments,
        settings: PartitionSettings {
            flush: Flush::Always,
            segment_bytes: 1 << 30,
            segment_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
        },
    }
}

fn some_batch(number: usize) -> Vec<u8> {
    let codec = Codec::ALL[number % Codec::ALL.len()];
    match number % BATCHES {
        4 => marker(),
        5 => sample(codec, 5, Attributes(0).with_mqtt(true)),
        // An idempotent producer counts on; only one such batch, so that none is out of sequence.
        2 => sample(codec, 4, Attributes(0)),
        other => sample(codec, 2 * other as i32 + 1, Attributes(0)),
    }
}

async fn append(partition: &Partition, batch: Vec<u8>) -> bool {
    let append = Append::Batch {
        batch: Bytes::from(batch),
        ack: Ack::Durable,
    };
    match partition.append(append).await {
        Ok(ticket) => ticket.await.is_ok(),
        Err(_) => false,
    }
}

async fn start(world: &World, disk: &SimFs, incarnation: u64) -> Result<Log, String> {
    let registry = prometheus::Registry::new();
    let env = world.process(disk, incarnation).env;
    match Log::start(env, options(), &registry).await {
        Ok((log, _events)) => Ok(log),
        Err(error) => Err(error.to_string()),
    }
}

/// A disk with a sealed and an active segment, and where the sealed one ends.
struct Base {
    disk: SimFs,
    end: Offset,
}

impl Base {
    fn make(cleanly: bool) -> Self {
        mainstem_simulation::run(1, |world: World| async move {
            let disk = world.disk();
            let log = start(&world, &disk, 0).await.expect("a new log");
            let first = segment(0, Offset(0), None);
            let partition = log
                .open_partition(spec(vec![first]))
                .await
                .expect("a new partition");
            for number in 0..BATCHES {
                append(&partition, some_batch(number)).await;
            }
            let info = partition.seal_begin().await.expect("it seals");
            let active = segment(1, info.end, None);
            partition.seal_commit(active).await.expect("it rolls");
            for number in 0..BATCHES {
                append(&partition, some_batch(number + 1)).await;
            }
            log.close().await.expect("a clean stop");
            if !cleanly {
                let fs: &dyn Fs = &disk;
                fs.remove_file(&dir().join("clean-shutdown"))
                    .expect("the mark is there");
            }
            Self {
                disk: disk.process_death(),
                end: info.end,
            }
        })
    }

    /// The one for nodes that were left so.
    fn of(cleanly: bool) -> &'static Self {
        static BASES: [OnceLock<Base>; 2] = [OnceLock::new(), OnceLock::new()];
        BASES[usize::from(cleanly)].get_or_init(|| Self::make(cleanly))
    }
}

// === impl Place ===

impl Place {
    fn path(self, disk: &SimFs) -> PathBuf {
        let mut files = disk.files(self.ending);
        assert!(self.number < files.len(), "no {} in {files:?}", self.ending);
        files.swap_remove(self.number)
    }

    fn seeds(self) -> Vec<Vec<u8>> {
        let disk = &Base::of(self.cleanly).disk;
        vec![disk.content(&self.path(disk)), Vec::new()]
    }

    /// Without an index file the epoch of a segment is the metadata's, which `verify` does not see;
    /// and a forged snapshot may claim batches that nobody has written.
    fn may_deceive_verify(self) -> bool {
        self.number == 1 || self.ending == ".snap"
    }

    fn run(self, input: &[u8], trace: &mut Trace) {
        let base = Base::of(self.cleanly);
        let disk = base.disk.process_death();
        let path = self.path(&disk);
        disk.edit(&path, |content| *content = input.to_vec());
        let is_good = check(&disk, trace) && !self.may_deceive_verify();
        show(&disk, trace);
        let node = (&disk, base.end);
        mainstem_simulation::run(1, |world| use_it(world, node, is_good, &mut *trace));
        // And what that leaves.
        check(&disk, trace);
    }
}

/// `mainstem log verify`; says whether it found nothing that is damage.
fn check(disk: &SimFs, trace: &mut Trace) -> bool {
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
fn show(disk: &SimFs, trace: &mut Trace) {
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

/// A start, reads, appends, a seal, a clean stop and one more start.
async fn use_it(world: World, (disk, end): (&SimFs, Offset), is_good: bool, trace: &mut Trace) {
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
        .find_timestamp(TimestampMs(1_700_000_000_020))
        .await
    {
        trace.note_kind("time", &found.is_some());
    }
}
