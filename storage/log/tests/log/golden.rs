//! The files of a log, byte by byte, as `tests/golden` keeps them and `docs/formats.md` describes
//! them: today's code reads them and, told to do the same, writes the same bytes. A change of a
//! format shows here. `UPDATE_GOLDEN=1` writes them anew; a new version gets a new directory, and
//! the old one stays for as long as it can be read.

use std::{
    collections::BTreeMap,
    fs,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Env, Fs, MemFs, OpenMode, SeededRandom};
use mainstem_log::{
    Ack, Append, Flush, Label, Labeller, Labels, Log, LogOptions, PartitionSpec, QOS2_HEADER,
    Qos2Id, SegmentSpec,
    verify::{Finding, verify},
};
use mainstem_record::{BatchHeader, Codec, Offset, PartitionId, RecordView, TimestampMs};

use crate::{
    clock::SharedClock,
    support::{
        append, batch_of, encoded, inline_env, options, partition_id, run, segment_spec, spec,
        values,
    },
};

/// The label of a record is its value.
#[derive(Debug)]
struct ByValue;

impl Labels for ByValue {
    fn labeller(&self, _: PartitionId) -> Option<Box<dyn Labeller>> {
        Some(Box::new(Self))
    }
}

impl Labeller for ByValue {
    fn label(&mut self, _: &BatchHeader, record: &RecordView<'_>, out: &mut Vec<u8>) -> Label {
        out.extend_from_slice(record.value.unwrap_or_default());
        Label::Known
    }
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A world in which nothing is left to chance.
fn env(fs: &Arc<dyn Fs>) -> Env {
    let mut env = inline_env(fs.clone());
    env.clock = Arc::new(SharedClock::default());
    env.random = Arc::new(SeededRandom::new(7));
    env
}

fn small() -> LogOptions {
    LogOptions {
        dictionary_segment_bytes_min: 0,
        shards: 1,
        // A ring is mostly zeros, and has a golden file of its own.
        journal_bytes: 0,
        ..options()
    }
}

async fn open(fs: &Arc<dyn Fs>) -> Log {
    open_with(fs, small()).await
}

async fn open_with(fs: &Arc<dyn Fs>, options: LogOptions) -> Log {
    let registry = prometheus::Registry::new();
    let started = Log::start(env(fs), options, &registry).await;
    started.unwrap().0
}

fn sealed_spec() -> PartitionSpec {
    let mut spec = spec(Flush::Always);
    spec.segments[0].end = Some(Offset(SEALED_END));
    spec.segments.push(next_segment());
    spec
}

fn next_segment() -> SegmentSpec {
    segment_spec(1, SEALED_END)
}

/// Records of the sealed segment.
const SEALED_END: i64 = 7;

const VALUES: [&str; 9] = [
    "plain",
    "packed",
    "packed",
    "idempotent",
    "idempotent",
    "qos 1",
    "qos 2",
    "tail",
    "tail",
];

fn qos2_record() -> Append {
    let id = Qos2Id {
        session: [9; 16],
        epoch: 3,
        sequence: 4,
    };
    let header = id.to_header();
    Append::Record {
        record: encoded(b"qos 2", &[(QOS2_HEADER.as_bytes(), Some(&header))]),
        attributes: 0x20,
        timestamp: TimestampMs(50),
        qos2: Some(id),
        ack: Ack::Durable,
    }
}

/// Writes every kind of file.
async fn write(fs: &Arc<dyn Fs>) {
    let log = open(fs).await;
    log.set_labels(Arc::new(ByValue));
    let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
    let batch = |values: &[&str], at: i64, producer, codec| {
        let records: Vec<_> = values.iter().map(|v| (v.as_bytes().to_vec(), at)).collect();
        append(batch_of(&records, producer, codec))
    };
    let qos1 = Append::Record {
        record: encoded(b"qos 1", &[]),
        attributes: 0x10,
        timestamp: TimestampMs(40),
        qos2: None,
        ack: Ack::Durable,
    };
    for append in [
        batch(&VALUES[..1], 10, None, Codec::None),
        batch(&VALUES[1..3], 20, None, Codec::Lz4),
        batch(&VALUES[3..5], 30, Some((77, 2, 0)), Codec::None),
        qos1,
        qos2_record(),
    ] {
        partition.append(append).await.unwrap().await.unwrap();
    }
    partition.seal_begin().await.unwrap();
    partition.seal_commit(next_segment()).await.unwrap();
    assert_eq!(log.make_dictionaries().await, 1);
    assert_eq!(log.scrub().await, 0);
    let tail = batch(&VALUES[7..], 60, Some((77, 2, 2)), Codec::None);
    partition.append(tail).await.unwrap().await.unwrap();
    let mut other = spec(Flush::Os);
    other.id = partition_id(1);
    other.segments[0].id = segment_spec(2, 0).id;
    log.open_partition(other).await.unwrap();
    log.close().await.unwrap();
}

/// Every file below `dir`, with its path from there.
fn files_of(fs: &dyn Fs, dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs.read_dir(&next).unwrap() {
            let path = next.join(&entry.name);
            if entry.is_dir {
                waiting.push(path);
            } else {
                let bytes = fs.read(&path, 1 << 24).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Those of [`write`].
fn golden_files() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files_of(&mainstem_env::RealFs, &golden_dir());
    files.retain(|path, _| !path.starts_with("journal"));
    files
}

fn make_file(fs: &dyn Fs, path: &Path, bytes: &[u8]) {
    fs.create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs.open(path, OpenMode::Create).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(bytes)], 0)
        .unwrap();
}

fn update_golden(path: &Path, bytes: &[u8]) {
    let path = golden_dir().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

#[test]
fn same_work_gives_the_same_bytes() {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    run(write(&fs));
    let written = files_of(&*fs, Path::new("/log"));
    if is_update() {
        let _ = fs::remove_dir_all(golden_dir().join("partitions"));
        for (path, bytes) in &written {
            update_golden(path, bytes);
        }
    }
    let golden = golden_files();
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&golden));
    for (path, bytes) in &written {
        assert_eq!(bytes, &golden[path], "{}", path.display());
    }
}

#[test]
fn golden_files_are_read() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        for (path, bytes) in golden_files() {
            make_file(&*fs, &Path::new("/log").join(path), &bytes);
        }
        let mut none = |finding: &Finding| panic!("{finding}");
        let summary = verify(&*fs, Path::new("/log"), &mut none).unwrap();
        assert_eq!((summary.segments, summary.sealed), (3, 1));
        assert_eq!(summary.records, VALUES.len() as u64);
        let log = open(&fs).await;
        let partition = log.open_partition(sealed_spec()).await.unwrap();
        assert_eq!(values(&partition).await, VALUES);
        let is_packed = |label: &[u8]| label == b"packed";
        let hits = partition.matching(Offset(0), is_packed).await.unwrap();
        assert_eq!(hits.hits().map(|hits| hits.len()), Some(1));
        // What was remembered still is.
        let again = partition
            .append(qos2_record())
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(partition.ends().log_end, Offset(VALUES.len() as i64));
        assert!(again.duplicate);
        assert_eq!(partition.producers().len(), 1);
    });
}

/// The golden ring, without the zeros at its end.
const RING: &str = "journal/0.ring";

fn with_journal() -> LogOptions {
    LogOptions {
        journal_bytes: options().journal_bytes,
        ..small()
    }
}

fn journalled_spec(index: i32) -> PartitionSpec {
    let mut spec = spec(Flush::Always);
    spec.id = partition_id(index);
    spec.segments[0].id = segment_spec(index, 0).id;
    spec
}

fn journalled_path(index: i32) -> PathBuf {
    let (topic, id) = (partition_id(index).topic.0, segment_spec(index, 0).id.0);
    format!("partitions/{topic}/{index}/{:020}-{id}.log", 0).into()
}

/// What a killed node leaves whose records are in the ring.
async fn write_and_die(fs: &Arc<dyn Fs>) -> BTreeMap<PathBuf, Vec<u8>> {
    let log = open_with(fs, with_journal()).await;
    let mut partitions = Vec::new();
    for index in 0..3 {
        partitions.push(log.open_partition(journalled_spec(index)).await.unwrap());
    }
    // While the ring is made, this one is synced in its segment's file.
    let first = ("first", &partitions[2]);
    let others = VALUES.into_iter().zip(partitions[..2].iter().cycle());
    for (value, partition) in std::iter::once(first).chain(others) {
        let records = [(value.as_bytes().to_vec(), 10)];
        let batch = append(batch_of(&records, None, Codec::None));
        partition.append(batch).await.unwrap().await.unwrap();
    }
    files_of(&**fs, Path::new("/log"))
}

#[test]
fn golden_ring_is_written_and_replayed() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let left = write_and_die(&fs).await;
        let ring = &left[Path::new(RING)];
        let used = ring.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        if is_update() {
            update_golden(Path::new(RING), &ring[..used]);
        }
        let golden = fs::read(golden_dir().join(RING)).unwrap();
        assert!(ring[..used] == golden, "the ring has changed");
        // A power cut has taken what was only in the page cache.
        let synced = journalled_path(2);
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        for (path, mut bytes) in left {
            if path == Path::new(RING) {
                bytes[..used].copy_from_slice(&golden);
            }
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            if is_log && path != synced {
                bytes.clear();
            }
            make_file(&*fs, &Path::new("/log").join(path), &bytes);
        }
        let log = open_with(&fs, with_journal()).await;
        for index in 0..3 {
            let spec = journalled_spec(index as i32);
            let partition = log.open_partition(spec).await.unwrap();
            let own: Vec<_> = match index {
                2 => vec!["first"],
                _ => VALUES.into_iter().skip(index).step_by(2).collect(),
            };
            assert_eq!(values(&partition).await, own);
        }
    });
}
