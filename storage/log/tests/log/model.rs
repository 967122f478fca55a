//! Random histories against a simple model, with power cuts between any two changes of the disk.
//!
//! The model plays metadata, too: the chain of segments is changed there first, and a log that
//! comes back after a crash is told the newest one.

use std::{collections::BTreeMap, io, time::Duration};

use bytes::Bytes;
use mainstem_log::{
    Ack, Append, AppendError, Commit, Flush, Log, LogOptions, Partition, PartitionSpec,
    QOS2_HEADER, Qos2Id, Role, SegmentSpec,
};
use mainstem_record::{Codec, Offset, TimestampMs};
use mainstem_simulation::{self as simulation, Dice, Faults, Process, SimFs, run};

use crate::{
    seeded::each_seed,
    support::{
        append, batch_of, encoded, options, partition_id, read_batches, records_of, segment_spec,
        settings,
    },
};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2000;

/// The most steps of a seed.
const STEPS_MAX: u64 = 60;

#[derive(Debug, Clone, Copy)]
enum Op {
    Append,
    RepeatBatch,
    RepeatPublish,
    FailWrite,
    Flush,
    Check,
    Times,
    Seal,
    AbortSeal,
    Drop,
    LogStart,
    Stop,
    Kill,
    PowerCut,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    op: Op,
    seed: u64,
    /// The power goes after so many changes of the disk, if the step makes so many.
    crash_in: Option<u64>,
}

/// A batch of an idempotent producer that was appended.
#[derive(Debug, Clone)]
struct Sent {
    producer: i64,
    sequence: i32,
    count: i32,
    base: i64,
    batch: Bytes,
}

struct World {
    outside: simulation::World,
    incarnation: u64,
    process: Process,
    fs: SimFs,
    log: Log,
    partition: Partition,
    options: LogOptions,
    flush: Flush,
    chain: Vec<SegmentSpec>,
    log_start: i64,
    /// By offset.
    records: Vec<(Vec<u8>, i64)>,
    /// What must survive everything.
    floor: i64,
    sent: Vec<Sent>,
    published: Vec<(Qos2Id, i64)>,
    /// The bytes of batches as they were first read.
    raw: BTreeMap<i64, Bytes>,
    segments: i32,
    counter: u64,
    /// Set while a step runs that the power may be cut in.
    armed: Option<(u64, u64)>,
}

impl World {
    async fn new(outside: simulation::World, flush: Flush, options: LogOptions) -> Self {
        let fs = outside.disk();
        let chain = vec![segment_spec(0, 0)];
        let process = outside.process(&fs, 0);
        let (log, partition) = open(&process, &options, spec(&chain, 0, flush)).await;
        Self {
            outside,
            incarnation: 0,
            process,
            fs,
            log,
            partition,
            options,
            flush,
            chain,
            log_start: 0,
            records: Vec::new(),
            floor: 0,
            sent: Vec::new(),
            published: Vec::new(),
            raw: BTreeMap::new(),
            segments: 1,
            counter: 0,
            armed: None,
        }
    }

    async fn step(&mut self, step: Step) {
        let mut dice = Dice::new(step.seed);
        self.armed = step.crash_in.map(|changes| (changes, dice.next_u64()));
        match step.op {
            Op::Append => self.append(&mut dice).await,
            Op::RepeatBatch => self.repeat_batch(&mut dice).await,
            Op::RepeatPublish => self.repeat_publish(&mut dice).await,
            Op::FailWrite => self.fail_write(&mut dice).await,
            Op::Flush => {
                self.arm();
                let end = self.partition.flush().await.unwrap();
                assert_eq!(end.0, self.end());
                if !self.crashed().await {
                    self.floor = self.end();
                }
            }
            Op::Check => self.check(&mut dice).await,
            Op::Times => self.times(&mut dice).await,
            Op::Seal => self.seal().await,
            Op::AbortSeal => {
                let info = self.partition.seal_begin().await.unwrap();
                self.floor = info.end.0;
                self.partition.seal_abort().await;
            }
            Op::Drop => self.drop_segments(&mut dice).await,
            Op::LogStart => {
                let start = self.log_start;
                let room = self.partition.ends().committed_end.0 - start;
                self.log_start = start + dice.below(room as u64 + 1) as i64;
                let start = Offset(self.log_start);
                self.partition.set_log_start(start).await.unwrap();
            }
            Op::Stop => {
                self.arm();
                self.log.close().await.unwrap();
                if !self.crashed().await {
                    self.floor = self.end();
                    self.reopen(self.fs.process_death()).await;
                    assert_eq!(self.floor, self.end());
                }
            }
            Op::Kill => {
                self.armed = None;
                let end = self.end();
                self.reopen(self.fs.process_death()).await;
                assert_eq!(end, self.end(), "the page cache survives the process");
            }
            Op::PowerCut => self.reopen(self.fs.power_cut(dice.next_u64())).await,
        }
        let ends = self.partition.ends();
        assert_eq!(ends.log_end.0, self.end());
        assert_eq!(ends.log_start.0, self.log_start);
        assert!(ends.committed_end.0 >= self.floor || self.flush != Flush::Always);
        self.floor = self.floor.max(ends.synced_end.0);
    }

    fn end(&self) -> i64 {
        self.records.len() as i64
    }

    fn arm(&mut self) {
        if let Some((changes, seed)) = self.armed.take() {
            self.fs.crash_in(changes, seed);
        }
    }

    /// If the power was cut meanwhile, goes on from what was left.
    async fn crashed(&mut self) -> bool {
        let Some(image) = self.fs.take_image() else {
            return false;
        };
        self.reopen(image).await;
        true
    }

    /// Starts again on this disk; the power may be cut once more during that.
    async fn reopen(&mut self, fs: SimFs) {
        self.fs = fs;
        self.arm();
        let spec = spec(&self.chain, self.log_start, self.flush);
        self.open(spec.clone()).await;
        if let Some(image) = self.fs.take_image() {
            self.fs = image;
            self.open(spec).await;
        }
        let ends = self.partition.ends();
        let end = ends.log_end.0;
        assert!(end >= self.floor, "lost: {end} of {} are left", self.floor);
        assert!(end <= self.end(), "more than was ever written");
        assert_eq!(ends.committed_end, ends.log_end);
        assert_eq!(ends.synced_end, ends.log_end);
        self.records.truncate(end as usize);
        self.sent.retain(|sent| sent.base < end);
        self.published.retain(|(_, offset)| *offset < end);
        self.raw.retain(|base, _| *base < end);
        self.log_start = self.log_start.min(end);
        self.floor = end;
        self.check(&mut Dice::new(end as u64)).await;
    }

    /// Goes on in a new process.
    async fn open(&mut self, spec: PartitionSpec) {
        self.process.end();
        self.incarnation += 1;
        self.process = self.outside.process(&self.fs, self.incarnation);
        (self.log, self.partition) = open(&self.process, &self.options, spec).await;
    }

    fn value(&mut self, dice: &mut Dice) -> Vec<u8> {
        self.counter += 1;
        let mut value = format!("{}:", self.counter).into_bytes();
        value.resize(value.len() + dice.below(400) as usize, b'x');
        value
    }

    fn fresh_records(&mut self, dice: &mut Dice) -> Vec<(Vec<u8>, i64)> {
        let count = 1 + dice.below(4);
        (0..count)
            .map(|_| (self.value(dice), self.counter as i64 + dice.below(6) as i64))
            .collect()
    }

    /// A few appends of any kind, sent before the first is waited for.
    async fn append(&mut self, dice: &mut Dice) {
        self.arm();
        let always = self.flush == Flush::Always;
        let mut tickets = Vec::new();
        for _ in 0..=dice.below(4) {
            let ack = match dice.below(3) {
                0 => Ack::Written,
                _ => Ack::Durable,
            };
            let base = self.end();
            let append = self.fresh_append(dice, ack);
            let ticket = self.partition.append(append).await.unwrap();
            tickets.push((ticket, base, self.end(), ack));
        }
        let mut durable = self.floor;
        for (ticket, base, end, ack) in tickets {
            let appended = ticket.await.unwrap();
            assert_eq!(
                (appended.base_offset.0, appended.last_offset.0),
                (base, end - 1)
            );
            assert!(!appended.duplicate);
            if ack == Ack::Durable && always {
                durable = durable.max(end);
            }
        }
        if !self.crashed().await {
            self.floor = durable;
        }
    }

    fn fresh_append(&mut self, dice: &mut Dice, ack: Ack) -> Append {
        let base = self.end();
        match dice.below(4) {
            0 => {
                let record = self.value(dice);
                let timestamp = self.counter as i64;
                let qos2 = (dice.below(2) == 0).then(|| Qos2Id {
                    session: [dice.below(2) as u8; 16],
                    epoch: 1,
                    sequence: self.counter,
                });
                let header = qos2.map(|id| id.to_header());
                let headers = header.as_ref().map(|header| {
                    let name: &[u8] = QOS2_HEADER.as_bytes();
                    (name, Some(&header[..]))
                });
                let append = Append::Record {
                    record: encoded(&record, headers.as_slice()),
                    attributes: 1 << 4,
                    timestamp: TimestampMs(timestamp),
                    qos2,
                    ack,
                };
                self.records.push((record, timestamp));
                self.published.extend(qos2.map(|id| (id, base)));
                append
            }
            1 => {
                let records = self.fresh_records(dice);
                self.records.extend(records.iter().cloned());
                let records = records
                    .iter()
                    .map(|(value, t)| (encoded(value, &[]), TimestampMs(*t)))
                    .collect();
                Append::Records { records, ack }
            }
            _ => {
                let records = self.fresh_records(dice);
                self.records.extend(records.iter().cloned());
                let codecs = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd];
                let codec = codecs[dice.below(4) as usize];
                if dice.below(2) == 0 {
                    let batch = batch_of(&records, None, codec);
                    return Append::Batch { batch, ack };
                }
                let producer = dice.below(3) as i64;
                let newest = self.sent.iter().rev().find(|s| s.producer == producer);
                let sequence = newest.map_or(0, |s| s.sequence + s.count);
                let batch = batch_of(&records, Some((producer, 0, sequence)), codec);
                self.sent.push(Sent {
                    producer,
                    sequence,
                    count: records.len() as i32,
                    base,
                    batch: batch.clone(),
                });
                Append::Batch { batch, ack }
            }
        }
    }

    /// One of the last five batches of a producer is known; a sequence that was left out is
    /// refused.
    async fn repeat_batch(&mut self, dice: &mut Dice) {
        let producer = dice.below(3) as i64;
        let first = self.chain.first().map_or(0, |segment| segment.base.0);
        let newest = self.sent.iter().rev().filter(|s| s.producer == producer);
        let known: Vec<Sent> = newest
            .take(5)
            .filter(|s| s.base >= first)
            .cloned()
            .collect();
        let Some(newest) = known.first() else {
            return;
        };
        let sent = &known[dice.below(known.len() as u64) as usize];
        let ticket = self.partition.append(append(sent.batch.clone())).await;
        let appended = ticket.unwrap().await.unwrap();
        assert!(appended.duplicate);
        assert_eq!(appended.base_offset.0, sent.base);
        if self.flush == Flush::Always {
            self.floor = self.floor.max(sent.base + i64::from(sent.count));
        }
        let gap = newest.sequence + newest.count + 1;
        let records = [(b"gap".to_vec(), 1)];
        let batch = batch_of(&records, Some((producer, 0, gap)), Codec::None);
        let ticket = self.partition.append(append(batch)).await.unwrap();
        assert!(matches!(
            ticket.await,
            Err(AppendError::OutOfOrderSequence { .. })
        ));
    }

    async fn repeat_publish(&mut self, dice: &mut Dice) {
        let first = self.chain.first().map_or(0, |segment| segment.base.0);
        let known = self.published.iter().rev();
        let known: Vec<_> = known.filter(|(_, offset)| *offset >= first).collect();
        if known.is_empty() {
            return;
        }
        let (id, _) = *known[dice.below(known.len() as u64) as usize];
        let append = Append::Record {
            record: encoded(b"again", &[]),
            attributes: 1 << 4,
            timestamp: TimestampMs(1),
            qos2: Some(id),
            ack: Ack::Durable,
        };
        let appended = self.partition.append(append).await.unwrap().await.unwrap();
        assert!(appended.duplicate);
    }

    async fn fail_write(&mut self, dice: &mut Dice) {
        let (records, sent) = (self.records.clone(), self.sent.clone());
        let published = self.published.clone();
        self.fs.set_faults(Faults {
            write: Some((dice.below(500) as usize, io::ErrorKind::StorageFull)),
            ..Faults::default()
        });
        let mut tickets = Vec::new();
        for _ in 0..=dice.below(3) {
            let append = self.fresh_append(dice, Ack::Durable);
            tickets.push(self.partition.append(append).await.unwrap());
        }
        for ticket in tickets {
            assert_eq!(ticket.await, Err(AppendError::NoSpace));
        }
        self.fs.set_faults(Faults::default());
        self.records = records;
        self.sent = sent;
        self.published = published;
    }

    async fn check(&mut self, dice: &mut Dice) {
        let bytes_max = 1 + dice.below(3000) as usize;
        let from = self.partition.ends().log_start;
        let batches = read_batches(&self.partition, from, bytes_max)
            .await
            .unwrap();
        let mut next = None;
        for (header, bytes) in batches {
            let base = header.base_offset.0;
            assert!(next.is_none_or(|next| next == base), "a gap before {base}");
            next = Some(header.next_offset().0);
            mainstem_record::validate(&bytes).unwrap();
            let segment = self.chain.iter().rev().find(|s| s.base.0 <= base);
            assert_eq!(header.leader_epoch, segment.unwrap().epoch);
            for seen in records_of(&bytes) {
                let (value, timestamp) = &self.records[seen.offset as usize];
                assert_eq!(seen.value, *value);
                assert_eq!(seen.timestamp, *timestamp);
            }
            let first = self.raw.entry(base).or_insert_with(|| bytes.clone());
            assert_eq!(*first, bytes);
        }
        let committed = self.partition.ends().committed_end.0;
        assert_eq!(next.unwrap_or(from.0).max(from.0), committed.max(from.0));
        // From anywhere, a read begins with the batch that holds the offset.
        if committed > from.0 {
            let from = from.0 + dice.below((committed - from.0) as u64) as i64;
            let batches = read_batches(&self.partition, Offset(from), bytes_max).await;
            let (header, _) = batches.unwrap()[0];
            assert!(header.base_offset.0 <= from && from <= header.last_offset().0);
        }
    }

    async fn times(&mut self, dice: &mut Dice) {
        let ends = self.partition.ends();
        let readable = || {
            let records = self.records.iter().enumerate();
            let records = records.map(|(offset, (_, t))| (Offset(offset as i64), TimestampMs(*t)));
            records.filter(|(o, _)| *o >= ends.log_start && *o < ends.committed_end)
        };
        let at_least = TimestampMs(dice.below(self.counter + 8) as i64);
        let found = self
            .partition
            .find_timestamp(at_least, Offset::ZERO)
            .await
            .unwrap();
        assert_eq!(found, readable().find(|(_, t)| *t >= at_least));
        let highest = readable().map(|(_, t)| t).max();
        let found = self.partition.max_timestamp().await.unwrap();
        assert_eq!(found.here, readable().find(|(_, t)| Some(*t) == highest));
        assert_eq!(found.elsewhere, []);
        let from = Offset(dice.below(self.records.len() as u64 + 2) as i64);
        let found = self.partition.find_timestamp(at_least, from).await.unwrap();
        assert_eq!(
            found,
            readable().find(|(o, t)| *o >= from && *t >= at_least)
        );
    }

    async fn seal(&mut self) {
        if self.counter.is_multiple_of(2) {
            self.arm();
        }
        let info = self.partition.seal_begin().await.unwrap();
        if self.crashed().await {
            return;
        }
        self.floor = info.end.0;
        assert_eq!(info.end.0, self.end());
        // Metadata knows first.
        let last = self.chain.last_mut().unwrap();
        last.end = Some(info.end);
        let next = segment_spec(self.segments, info.end.0);
        self.segments += 1;
        self.chain.push(next);
        self.chain
            .retain(|segment| segment.end != Some(segment.base));
        self.arm();
        let again = self.partition.seal_begin().await.unwrap();
        assert_eq!(again, info);
        self.partition.seal_commit(next).await.unwrap();
        self.crashed().await;
    }

    async fn drop_segments(&mut self, dice: &mut Dice) {
        let sealed = self.chain.len() as u64 - 1;
        let count = dice.below(sealed + 1) as usize;
        let dropped: Vec<_> = self.chain.drain(..count).collect();
        let ids: Vec<_> = dropped.iter().map(|segment| segment.id).collect();
        self.log_start = self.log_start.max(self.chain[0].base.0);
        self.arm();
        let start = Offset(self.log_start);
        self.partition.drop_segments(&ids, start).await.unwrap();
        self.crashed().await;
    }
}

fn spec(chain: &[SegmentSpec], log_start: i64, flush: Flush) -> PartitionSpec {
    PartitionSpec {
        id: partition_id(0),
        log_start: Offset(log_start),
        segments: chain.to_vec(),
        settings: settings(flush),
        role: Role::Leader(Commit::Own),
    }
}

async fn open(process: &Process, options: &LogOptions, spec: PartitionSpec) -> (Log, Partition) {
    let registry = prometheus::Registry::new();
    let started = Log::start(process.env.clone(), options.clone(), &registry);
    let (log, mut events) = started.await.unwrap();
    let partition = log.open_partition(spec).await.unwrap();
    // Nothing in here damages what was synced.
    assert!(events.try_recv().is_err());
    (log, partition)
}

fn any_step(dice: &mut Dice) -> Step {
    let all: [(u64, Op); 14] = [
        (8, Op::Append),
        (2, Op::RepeatBatch),
        (2, Op::RepeatPublish),
        (1, Op::FailWrite),
        (1, Op::Flush),
        (2, Op::Check),
        (2, Op::Times),
        (2, Op::Seal),
        (1, Op::AbortSeal),
        (1, Op::Drop),
        (1, Op::LogStart),
        (1, Op::Stop),
        (1, Op::Kill),
        (1, Op::PowerCut),
    ];
    let mut left = dice.below(all.iter().map(|(weight, _)| weight).sum());
    let op = all.iter().find(|(weight, _)| {
        let here = left < *weight;
        left = left.saturating_sub(*weight);
        here
    });
    Step {
        op: op.map_or(Op::Check, |(_, op)| *op),
        seed: dice.next_u64(),
        crash_in: dice.one_in(3).then(|| dice.below(12)),
    }
}

fn any_flush(dice: &mut Dice) -> Flush {
    match dice.below(4) {
        0 => Flush::Os,
        1 => Flush::Interval {
            bytes: 1 + 3000 * dice.below(2),
            time: Duration::from_secs(3600),
        },
        _ => Flush::Always,
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_what_is_read_is_what_was_written() {
    each_seed(SEEDS, |seed| {
        run(seed, |outside| async move {
            let mut dice = outside.dice(0);
            let options = LogOptions {
                tail_cache_bytes: [0, 4000, 1 << 20][dice.index(3)],
                ..options()
            };
            let mut world = World::new(outside, any_flush(&mut dice), options).await;
            for _ in 0..1 + dice.below(STEPS_MAX) {
                world.step(any_step(&mut dice)).await;
            }
            world.check(&mut dice).await;
        });
    });
}
