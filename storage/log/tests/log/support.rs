//! What the tests share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env, Fs, Tasks};
use mainstem_log::{
    Ack, Append, Commit, Flush, Log, LogEvent, LogOptions, Partition, PartitionSettings,
    PartitionSpec, Read, ReadError, Role, SegmentSpec,
};
use mainstem_record::{
    Attributes, BatchBuilder, BatchOptions, Batches, Codec, EncodedRecord, LeaderEpoch, Offset,
    PartitionId, PartitionIndex, ProducerEpoch, ProducerId, SegmentId, Sequence, TimestampMs,
    TimestampType, TopicId, records,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Runs blocking work at once, so that a single-threaded test is deterministic.
struct InlineTasks;

impl Tasks for InlineTasks {
    #[expect(clippy::disallowed_methods, reason = "this is an injected spawner")]
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn blocking(&self, _name: &'static str, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs blocking work at once, except that the jobs of one name wait until they are let go.
#[derive(Clone)]
pub(crate) struct Held {
    name: &'static str,
    jobs: Arc<Mutex<Vec<Job>>>,
}

impl Held {
    fn new(name: &'static str) -> Self {
        let jobs = Arc::default();
        Self { name, jobs }
    }

    /// Holds syncs back.
    pub(crate) fn syncs() -> Self {
        Self::new("log-sync")
    }

    /// Holds reads of files back.
    pub(crate) fn reads() -> Self {
        Self::new("log-read")
    }

    /// Holds back what asks for bytes before anybody reads them.
    pub(crate) fn read_ahead() -> Self {
        Self::new("log-read-ahead")
    }

    /// Holds the file work of seals and drops back.
    pub(crate) fn chains() -> Self {
        Self::new("log-chain")
    }

    /// How many jobs wait.
    pub(crate) fn count(&self) -> usize {
        self.jobs.lock().len()
    }

    /// Runs the jobs that wait; says how many they were.
    pub(crate) fn let_go(&self) -> usize {
        let jobs = std::mem::take(&mut *self.jobs.lock());
        jobs.into_iter().map(|job| job()).count()
    }
}

impl Tasks for Held {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        InlineTasks.spawn(name, future);
    }

    fn blocking(&self, name: &'static str, work: Job) {
        if name == self.name {
            self.jobs.lock().push(work);
        } else {
            work();
        }
    }
}

/// The real clock, this file system, and blocking work done at once.
pub(crate) fn inline_env(fs: Arc<dyn Fs>) -> Env {
    let mut env = Env::real().with_fs(fs);
    env.tasks = Arc::new(InlineTasks);
    env
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// The shortest journal, so that its end is met often.
const JOURNAL_BYTES: u64 = 128 << 10;

/// Small limits, and no timers within the time that a test takes.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        index_interval_bytes: 300,
        tail_cache_bytes: 4000,
        open_files_max: 2,
        recovery_point_bytes: 1500,
        recovery_scan_bytes_max: 2500,
        low_space_bytes: 0,
        journal_bytes: JOURNAL_BYTES,
        ..LogOptions::new(PathBuf::from("/log"))
    }
}

pub(crate) fn partition_id(index: i32) -> PartitionId {
    PartitionId {
        topic: TopicId(Uuid::from_u128(0xabc)),
        index: PartitionIndex(index),
    }
}

pub(crate) fn segment_spec(number: i32, base: i64) -> SegmentSpec {
    SegmentSpec {
        id: SegmentId(Uuid::from_u128(1000 + number as u128)),
        base: Offset(base),
        epoch: LeaderEpoch(number),
        end: None,
        compacted_from: None,
        held: true,
    }
}

/// An interval by time that no test lives long enough for.
pub(crate) const LATER: Flush = Flush::Interval {
    bytes: 1 << 20,
    time: Duration::from_secs(3600),
};

pub(crate) fn settings(flush: Flush) -> PartitionSettings {
    PartitionSettings {
        flush,
        segment_bytes: 1 << 30,
        segment_ms: i64::MAX,
        timestamp_type: TimestampType::CreateTime,
    }
}

pub(crate) fn spec(flush: Flush) -> PartitionSpec {
    PartitionSpec {
        id: partition_id(0),
        log_start: Offset(0),
        segments: vec![segment_spec(0, 0)],
        settings: settings(flush),
        role: Role::Leader(Commit::Own),
    }
}

pub(crate) async fn start(
    fs: &Arc<dyn Fs>,
    options: LogOptions,
) -> (Log, mpsc::Receiver<LogEvent>) {
    let registry = prometheus::Registry::new();
    Log::start(inline_env(fs.clone()), options, &registry)
        .await
        .unwrap()
}

/// A batch of these values with timestamps, as a client would send it.
pub(crate) fn batch_of(
    records: &[(Vec<u8>, i64)],
    producer: Option<(i64, i16, i32)>,
    codec: Codec,
) -> Bytes {
    let (id, epoch, sequence) = producer.unwrap_or((-1, -1, -1));
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        attributes: Attributes(0),
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
    });
    for (value, timestamp) in records {
        let none: [(&[u8], Option<&[u8]>); 0] = [];
        builder.push_record(0, TimestampMs(*timestamp), None, Some(value), none);
    }
    builder.finish().unwrap().freeze()
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let records: Vec<_> = values.iter().map(|v| (v.as_bytes().to_vec(), 1)).collect();
    batch_of(&records, None, Codec::None)
}

pub(crate) fn append(batch: Bytes) -> Append {
    Append::Batch {
        batch,
        ack: Ack::Durable,
    }
}

pub(crate) fn encoded(value: &[u8], headers: &[(&[u8], Option<&[u8]>)]) -> EncodedRecord {
    EncodedRecord::new(None, Some(value), headers.iter().copied())
}

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) offset: i64,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
}

/// Reads batches from `from` to the committed end.
pub(crate) async fn read_batches(
    partition: &Partition,
    mut from: Offset,
    bytes_max: usize,
) -> Result<Vec<(mainstem_record::BatchHeader, Bytes)>, ReadError> {
    let mut all = Vec::new();
    loop {
        let chunk = partition
            .read(Read {
                from,
                bytes_max,
                at_least_one_batch: true,
                end: Offset(i64::MAX),
            })
            .await?;
        assert_eq!(chunk.bytes, chunk.batches.iter().map(Bytes::len).sum());
        if chunk.batches.is_empty() {
            if chunk.next > from {
                from = chunk.next;
                continue;
            }
            return Ok(all);
        }
        for run in chunk.batches {
            for batch in Batches::new(run) {
                all.push(batch.unwrap());
            }
        }
        assert_eq!(chunk.next, all.last().unwrap().0.next_offset());
        from = chunk.next;
    }
}

pub(crate) fn records_of(batch: &[u8]) -> Vec<Seen> {
    let records = records(batch, 1 << 20).unwrap();
    records
        .iter()
        .map(|record| {
            let record = record.unwrap();
            Seen {
                offset: record.offset.0,
                value: record.value.unwrap().to_vec(),
                timestamp: record.timestamp.0,
            }
        })
        .collect()
}

/// All values from the log start on.
pub(crate) async fn values(partition: &Partition) -> Vec<String> {
    let batches = read_batches(partition, partition.ends().log_start, 1 << 20)
        .await
        .unwrap();
    let seen = batches.iter().flat_map(|(_, bytes)| records_of(bytes));
    seen.map(|s| String::from_utf8(s.value).unwrap()).collect()
}
