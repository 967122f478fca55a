//! The log under measure, and what is appended to it.
//!
//! All ids and offsets follow from numbers, so that a later process opens what an earlier one has
//! left without being told.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_log::{
    Ack, Append, AppendTicket, Commit, Flush, Log, LogEvent, LogOptions, Partition,
    PartitionSettings, PartitionSpec, Role, SegmentSpec,
};
use mainstem_record::{
    BatchBuilder, BatchOptions, EncodedRecord, LeaderEpoch, Offset, PartitionId, PartitionIndex,
    SegmentId, TimestampMs, TimestampType, TopicId,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{Outcome, args::Policy};

/// A large batch.
pub(crate) const LARGE_BYTES: usize = 64 << 10;

/// A small batch.
pub(crate) const SMALL_BYTES: usize = 1 << 10;

/// Distinct batches, so that neither compression nor deduplication below has an easy game.
const DISTINCT_BATCHES: usize = 64;

/// How many partitions are opened at the same time.
const OPENING_MAX: usize = 128;

/// How many appends of one writer are under way when it fills.
const FILL_WINDOW: usize = 16;

/// A running log.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) log: Log,
    dir: PathBuf,
    /// Held so that the log has somebody to tell.
    _events: mpsc::Receiver<LogEvent>,
}

/// Which partitions there are, and what is in them.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) partitions: i32,
    /// Sealed segments of each.
    pub(crate) sealed: i32,
    /// Offsets of each sealed segment; but for compaction, each batch has one record.
    pub(crate) batches: i64,
    pub(crate) policy: Policy,
}

/// Random batches of one size with one record each.
pub(crate) struct Batches {
    all: Vec<Bytes>,
    next: usize,
}

// === impl Node ===

impl Node {
    pub(crate) async fn start(env: Env, dir: PathBuf) -> Outcome<Self> {
        Self::start_with(env, LogOptions::new(dir)).await
    }

    pub(crate) async fn start_with(env: Env, options: LogOptions) -> Outcome<Self> {
        let registry = prometheus::Registry::new();
        let dir = options.dir.clone();
        let (log, events) = Log::start(env.clone(), options, &registry).await?;
        Ok(Self {
            env,
            log,
            dir,
            _events: events,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens all partitions of a layout, many at a time, in the order of their numbers.
    pub(crate) async fn open(&self, layout: Layout) -> Outcome<Vec<Partition>> {
        let room = Arc::new(Semaphore::new(OPENING_MAX));
        let mut opening = JoinSet::new();
        for index in 0..layout.partitions {
            let permit = room.clone().acquire_owned().await?;
            let log = self.log.clone();
            opening.spawn(async move {
                let _permit = permit;
                log.open_partition(layout.spec(index)).await
            });
        }
        let mut partitions = Vec::with_capacity(opening.len());
        while let Some(opened) = opening.join_next().await {
            partitions.push(opened??);
        }
        partitions.sort_unstable_by_key(|partition| partition.id().index.0);
        Ok(partitions)
    }

    /// Opens empty partitions.
    pub(crate) async fn open_empty(&self, count: i32, flush: Flush) -> Outcome<Vec<Partition>> {
        let layout = Layout {
            partitions: count,
            sealed: 0,
            batches: 0,
            policy: Policy::One(flush),
        };
        self.open(layout).await
    }

    /// Seals the active segment of `partition` and goes on in the segment of `number`.
    pub(crate) async fn roll(&self, partition: &Partition, number: i32) -> Outcome<()> {
        let seal = partition.seal_begin().await?;
        let next = segment(partition.id().index.0, number, seal.end);
        Ok(partition.seal_commit(next).await?)
    }
}

// === impl Layout ===

impl Layout {
    fn spec(&self, index: i32) -> PartitionSpec {
        let base = |number: i32| Offset(i64::from(number) * self.batches);
        let segments = (0..=self.sealed).map(|number| SegmentSpec {
            end: (number < self.sealed).then(|| base(number + 1)),
            ..segment(index, number, base(number))
        });
        PartitionSpec {
            id: PartitionId {
                topic: TopicId(Uuid::from_u128(0x6d73_626e)),
                index: PartitionIndex(index),
            },
            log_start: Offset(0),
            segments: segments.collect(),
            settings: settings(self.policy.of(index)),
            role: Role::Leader(Commit::Own),
        }
    }
}

/// The id of the segment `number` of a partition.
pub(crate) fn fresh_segment(index: i32, number: i32) -> SegmentId {
    let id = (index.unsigned_abs() as u128) << 32 | number.unsigned_abs() as u128 | 1 << 100;
    SegmentId(Uuid::from_u128(id))
}

/// An active segment of a partition.
fn segment(index: i32, number: i32, base: Offset) -> SegmentSpec {
    SegmentSpec {
        id: fresh_segment(index, number),
        base,
        epoch: LeaderEpoch(number),
        end: None,
        compacted_from: None,
        held: true,
    }
}

/// The measures roll by themselves.
fn settings(flush: Flush) -> PartitionSettings {
    PartitionSettings {
        flush,
        segment_bytes: u64::MAX,
        segment_ms: i64::MAX,
        timestamp_type: TimestampType::CreateTime,
    }
}

// === impl Batches ===

impl Batches {
    /// Batches of `bytes` each.
    pub(crate) fn of(env: &Env, bytes: usize) -> Outcome<Self> {
        let mut value = vec![0; bytes];
        let mut all = Vec::with_capacity(DISTINCT_BATCHES);
        for _ in 0..DISTINCT_BATCHES {
            env.random.fill(&mut value);
            all.push(batch_of(&value, bytes)?);
        }
        Ok(Self { all, next: 0 })
    }

    /// A batch of its own, as a connection would have read it: a copy that the log may stamp.
    pub(crate) fn fresh(&mut self) -> Bytes {
        let batch = self.all.get(self.next).cloned().unwrap_or_default();
        self.next = (self.next + 1) % DISTINCT_BATCHES;
        Bytes::copy_from_slice(&batch)
    }
}

/// A batch of exactly `bytes` bytes with one record, whose value is the beginning of `value`.
fn batch_of(value: &[u8], bytes: usize) -> Outcome<Bytes> {
    let build = |len: usize| -> Outcome<Bytes> {
        let none: [(&[u8], Option<&[u8]>); 0] = [];
        let record = EncodedRecord::new(None, value.get(..len), none);
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(0, TimestampMs(1_700_000_000_000), &record);
        Ok(builder.finish()?.freeze())
    };
    let overhead = build(0)?.len();
    // Longer values need longer lengths: at most two varints of five bytes.
    for len in (bytes.saturating_sub(overhead + 10)..=bytes.saturating_sub(overhead)).rev() {
        let batch = build(len)?;
        if batch.len() == bytes {
            return Ok(batch);
        }
    }
    Err(format!("no batch has exactly {bytes} bytes").into())
}

pub(crate) fn durable(batch: Bytes) -> Append {
    Append::Batch {
        batch,
        ack: Ack::Durable,
    }
}

/// Appends `count` batches in order, some under way at a time, and waits for all.
pub(crate) async fn fill(partition: &Partition, batches: &mut Batches, count: i64) -> Outcome<()> {
    let mut tickets = VecDeque::with_capacity(FILL_WINDOW);
    for _ in 0..count {
        append_in_window(partition, batches.fresh(), &mut tickets).await?;
    }
    for ticket in tickets {
        ticket.await?;
    }
    Ok(())
}

/// Appends, once there is room in the window.
pub(crate) async fn append_in_window(
    partition: &Partition,
    batch: Bytes,
    tickets: &mut VecDeque<AppendTicket>,
) -> Outcome<()> {
    if tickets.len() >= FILL_WINDOW
        && let Some(oldest) = tickets.pop_front()
    {
        oldest.await?;
    }
    tickets.push_back(partition.append(durable(batch)).await?);
    Ok(())
}

/// Appends to all partitions at `bytes_per_second` together until the process is killed.
pub(crate) async fn until_killed(
    env: &Env,
    partitions: &[Partition],
    bytes_per_second: u64,
) -> Outcome<()> {
    let mut batches = Batches::of(env, LARGE_BYTES)?;
    let mut tickets = VecDeque::with_capacity(FILL_WINDOW);
    let pause = Duration::from_secs_f64(LARGE_BYTES as f64 / bytes_per_second as f64);
    let mut due = env.now();
    loop {
        for partition in partitions {
            append_in_window(partition, batches.fresh(), &mut tickets).await?;
            due += pause;
            let early = due.saturating_sub(env.now());
            if early > Duration::from_millis(1) {
                env.sleep(early).await;
            }
        }
    }
}
