//! Compaction against a model: random histories of appends, tombstones, transactions, seals,
//! compactions, power cuts and lost index files.
//!
//! The model knows every record that was ever acknowledged. After each step the log must answer for
//! each key with the newest committed value, keep offsets, hide nothing that is not decided, and
//! remember the sequences of producers. The model plays metadata, too.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::{Clock, Fs};
use mainstem_log::{
    Commit, CompactError, CompactOptions, Flush, Log, LogOptions, Partition, PartitionSpec,
    Replacement, Role, SegmentSpec,
};
use mainstem_record::{
    Attributes, BatchBuilder, BatchHeader, BatchOptions, Codec, LeaderEpoch, Offset, ProducerEpoch,
    ProducerId, SegmentId, Sequence, TimestampMs, records,
};
use mainstem_simulation::{Dice, SimClock, SimFs, seeds};
use uuid::Uuid;

use crate::support::{append, inline_env, options, partition_id, read_batches, run, settings};

const SEEDS: u64 = 150;
const STEPS: usize = 60;
const KEYS: u64 = 24;
const PRODUCERS: u64 = 3;
const RETENTION_MS: i64 = 1000;

/// A batch that was acknowledged.
#[derive(Debug, Clone)]
struct Sent {
    base: i64,
    records: Vec<(u64, Option<Vec<u8>>)>,
    /// Producer and first sequence; -1 in a marker.
    producer: Option<(i64, i32)>,
    transactional: bool,
    /// What a marker says.
    abort: Option<bool>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed(i64),
    Aborted(i64),
    Open,
}

struct World {
    dice: Dice,
    clock: SimClock,
    fs: SimFs,
    log: Log,
    partition: Partition,
    /// The chain as metadata knows it, and how far each segment is compacted.
    chain: Vec<(SegmentSpec, i64)>,
    sent: Vec<Sent>,
    ids: u128,
    epoch: i32,
    compactions: u32,
    removed: u32,
    /// The earliest time at which each tombstone may go: a compaction that kept it has said so.
    horizons: HashMap<i64, i64>,
    /// Up to where the compactions since the last check went, and their horizons.
    passed: Vec<(i64, i64)>,
}

impl Sent {
    fn end(&self) -> i64 {
        self.base + self.records.len() as i64
    }
}

async fn open(fs: &SimFs, clock: &SimClock, chain: &[(SegmentSpec, i64)]) -> (Log, Partition) {
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut env = inline_env(shared);
    env.clock = Arc::new(clock.clone());
    let registry = prometheus::Registry::new();
    let options = LogOptions {
        // What was appended last would be read as it was.
        tail_cache_bytes: 0,
        ..options()
    };
    let (log, _events) = Log::start(env, options, &registry).await.unwrap();
    let spec = PartitionSpec {
        id: partition_id(0),
        log_start: Offset(0),
        segments: chain.iter().map(|(spec, _)| *spec).collect(),
        settings: settings(Flush::Always),
        role: Role::Leader(Commit::Own),
    };
    let partition = log.open_partition(spec).await.unwrap();
    (log, partition)
}

impl World {
    async fn new(seed: u64) -> Self {
        let fs = SimFs::new();
        let clock = SimClock::new();
        let first = SegmentSpec {
            id: SegmentId(Uuid::from_u128(1)),
            base: Offset(0),
            epoch: LeaderEpoch(0),
            end: None,
            compacted_from: None,
            held: true,
        };
        let chain = vec![(first, 0)];
        let (log, partition) = open(&fs, &clock, &chain).await;
        Self {
            dice: Dice::new(seed),
            clock,
            fs,
            log,
            partition,
            chain,
            sent: Vec::new(),
            ids: 2,
            epoch: 1,
            compactions: 0,
            removed: 0,
            horizons: HashMap::new(),
            passed: Vec::new(),
        }
    }

    fn end(&self) -> i64 {
        self.sent.last().map_or(0, Sent::end)
    }

    fn fresh_id(&mut self) -> SegmentId {
        self.ids += 1;
        SegmentId(Uuid::from_u128(self.ids))
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..=7 => self.append(false).await,
            8..=9 => self.append(true).await,
            10..=11 => self.end_transaction().await,
            12..=13 => self.seal().await,
            14..=16 => self.compact().await,
            17 => {
                let by = self.dice.below(2 * RETENTION_MS as u64);
                self.clock.advance(Duration::from_millis(by));
            }
            18 => {
                let delay = self.dice.below(2) * 500;
                self.partition
                    .delete_files_after(Duration::from_millis(delay));
            }
            _ => {
                let fs = match self.dice.below(2) {
                    0 => self.fs.process_death(),
                    _ => self.fs.power_cut(self.dice.next_u64()),
                };
                self.reopen(fs).await;
            }
        }
    }

    /// Which producers have an open transaction.
    fn open_transactions(&self) -> HashSet<i64> {
        let mut open = HashSet::new();
        for sent in &self.sent {
            let Some((producer, _)) = sent.producer else {
                continue;
            };
            if sent.abort.is_some() {
                open.remove(&producer);
            } else if sent.transactional {
                open.insert(producer);
            }
        }
        open
    }

    fn next_sequence(&self, producer: i64) -> i32 {
        let newest = self.sent.iter().rev().find_map(|sent| match sent.producer {
            Some((id, sequence)) if id == producer && sequence >= 0 => {
                Some(sequence + sent.records.len() as i32)
            }
            _ => None,
        });
        newest.unwrap_or(0)
    }

    async fn append(&mut self, transactional: bool) {
        // A producer is either transactional or not.
        let number = self.dice.below(PRODUCERS) as i64;
        let producer = match (transactional, self.dice.below(2)) {
            (true, _) => Some(100 + number),
            (false, 0) => Some(number),
            (false, _) => None,
        };
        let count = 1 + self.dice.below(4);
        let records = (0..count)
            .map(|_| {
                let key = self.dice.below(KEYS);
                let value = vec![b'v'; 1 + self.dice.below(120) as usize];
                (key, (!self.dice.one_in(4)).then_some(value))
            })
            .collect();
        let sent = Sent {
            base: self.end(),
            records,
            producer: producer.map(|id| (id, self.next_sequence(id))),
            transactional,
            abort: None,
        };
        self.send(sent).await;
    }

    async fn end_transaction(&mut self) {
        // Now and then one that nothing was written in.
        let mut open: Vec<i64> = self.open_transactions().into_iter().collect();
        open.sort_unstable();
        open.push(100);
        let producer = open[self.dice.index(open.len())];
        let sent = Sent {
            base: self.end(),
            records: vec![(0, None)],
            producer: Some((producer, -1)),
            transactional: true,
            abort: Some(self.dice.one_in(2)),
        };
        self.send(sent).await;
    }

    async fn send(&mut self, sent: Sent) {
        let batch = self.batch(&sent);
        let ticket = self.partition.append(append(batch)).await.unwrap();
        let appended = ticket.await.unwrap();
        assert_eq!(appended.base_offset.0, sent.base);
        self.sent.push(sent);
    }

    fn batch(&mut self, sent: &Sent) -> Bytes {
        let (id, sequence) = sent.producer.unwrap_or((-1, -1));
        let codecs = [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip];
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: codecs[self.dice.index(codecs.len())],
            attributes: Attributes(0)
                .with_transactional(sent.transactional)
                .with_control(sent.abort.is_some()),
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(if id < 0 { -1 } else { 0 }),
            base_sequence: Sequence(sequence),
        });
        let now = TimestampMs(self.clock.wall_ms());
        for (key, value) in &sent.records {
            let key = match sent.abort {
                Some(abort) => vec![0, 0, 0, u8::from(!abort)],
                None => key.to_be_bytes().to_vec(),
            };
            builder.push_record(0, now, Some(&key), value.as_deref(), []);
        }
        builder.finish().unwrap().freeze()
    }

    async fn seal(&mut self) {
        let info = self.partition.seal_begin().await.unwrap();
        let (last, _) = self.chain.last_mut().unwrap();
        last.end = Some(info.end);
        let next = SegmentSpec {
            id: self.fresh_id(),
            base: info.end,
            epoch: LeaderEpoch(self.epoch),
            end: None,
            compacted_from: None,
            held: true,
        };
        self.epoch += 1;
        self.chain.push((next, 0));
        self.chain
            .retain(|(segment, _)| segment.end != Some(segment.base));
        self.partition.seal_commit(next).await.unwrap();
    }

    /// The records from here on were never compacted.
    fn first_dirty(&self) -> i64 {
        let mut first = 0;
        for (segment, clean_end) in &self.chain {
            if segment.compacted_from.is_none() {
                break;
            }
            first = first.max(*clean_end);
            if segment.end != Some(Offset(*clean_end)) {
                break;
            }
        }
        first
    }

    fn maybe_crash(&mut self) {
        if self.dice.one_in(3) {
            let (changes, seed) = (self.dice.below(12), self.dice.next_u64());
            self.fs.crash_in(changes, seed);
        }
    }

    async fn crashed(&mut self) -> bool {
        let Some(image) = self.fs.take_image() else {
            return false;
        };
        self.reopen(image).await;
        true
    }

    async fn compact(&mut self) {
        let options = CompactOptions {
            first_dirty: Offset(self.first_dirty()),
            end: Offset(self.dice.below(self.end() as u64 + 2) as i64),
            segment_bytes_max: 200 + self.dice.below(6000),
            delete_retention_ms: self.dice.below(2) as i64 * RETENTION_MS,
            map_bytes_max: self.dice.below(2000) as usize,
            io_bytes_per_second: None,
        };
        self.maybe_crash();
        let horizon = self.clock.wall_ms() + options.delete_retention_ms;
        let mut compaction = self.partition.compact(options).await.unwrap();
        loop {
            let id = self.fresh_id();
            let next = compaction.next(id).await;
            if self.crashed().await {
                return;
            }
            let Some(replacement) = next.unwrap() else {
                break;
            };
            if self.dice.one_in(8) {
                // Metadata refuses, or nobody asked it.
                if self.dice.one_in(2) {
                    self.partition.discard_replacement(replacement.new).await;
                }
                return;
            }
            self.commit(&replacement);
            self.passed.push((replacement.clean_end.0, horizon));
            self.maybe_crash();
            let (old, new) = (&replacement.old, replacement.new);
            self.partition.replace_segments(old, new).await.unwrap();
            if self.crashed().await {
                return;
            }
            self.verify_files(&replacement);
            self.check().await;
        }
        self.compactions += 1;
        assert!(compaction.clean_end() >= options.first_dirty);
        assert!(self.first_dirty() >= options.first_dirty.0);
    }

    /// As metadata does it.
    fn commit(&mut self, replacement: &Replacement) {
        let new = replacement.new;
        let first = self
            .chain
            .iter()
            .position(|(s, _)| s.id == replacement.old[0]);
        let first = first.unwrap();
        let range = first..first + replacement.old.len();
        let run = &self.chain[range.clone()];
        assert!(run.iter().map(|(s, _)| &s.id).eq(&replacement.old));
        assert_eq!(run[0].0.base, new.base);
        assert_eq!(run[run.len() - 1].0.end, new.end);
        assert_eq!(run[run.len() - 1].0.epoch, new.epoch);
        let lowest = run[0].0.compacted_from.unwrap_or(run[0].0.epoch);
        assert_eq!(new.compacted_from, Some(lowest));
        assert!(Some(replacement.clean_end) <= new.end);
        let clean_end = replacement.clean_end.0;
        self.chain.splice(range, [(new, clean_end)]);
    }

    /// The file has the bytes and the digest that metadata was told.
    fn verify_files(&self, replacement: &Replacement) {
        let dir = self.dir();
        let new = replacement.new;
        let path = dir.join(format!("{:020}-{}.log", new.base.0, new.id.0));
        let bytes = self.fs.read(&path, 1 << 20).unwrap();
        assert_eq!(bytes.len() as u64, replacement.bytes);
        let chunks = bytes.chunks(1 << 20);
        let digests: Vec<u8> = chunks
            .flat_map(|chunk| xxhash_rust::xxh3::xxh3_128(chunk).to_le_bytes())
            .collect();
        assert_eq!(xxhash_rust::xxh3::xxh3_128(&digests), replacement.digest);
    }

    fn dir(&self) -> std::path::PathBuf {
        let id = partition_id(0);
        Path::new("/log/partitions")
            .join(id.topic.0.to_string())
            .join(id.index.0.to_string())
    }

    async fn reopen(&mut self, fs: SimFs) {
        self.fs = fs;
        if self.dice.one_in(2) {
            // All that index files say can be told from the batches.
            for entry in self.fs.read_dir(&self.dir()).unwrap() {
                if [".idx", ".snap"]
                    .iter()
                    .any(|kind| entry.name.ends_with(kind))
                {
                    self.fs.remove_file(&self.dir().join(entry.name)).unwrap();
                }
            }
        }
        (self.log, self.partition) = open(&self.fs, &self.clock, &self.chain).await;
        assert_eq!(self.partition.ends().log_end.0, self.end());
        let known: HashSet<String> = self.chain.iter().map(|(s, _)| s.id.0.to_string()).collect();
        for file in self.fs.read_dir(&self.dir()).unwrap() {
            let id = file.name.get(21..57).unwrap_or_default();
            let bytes = self.fs.read(&self.dir().join(&file.name), 1 << 20).unwrap();
            // An empty segment that was never sealed may stay.
            assert!(
                known.contains(id) || bytes.is_empty(),
                "garbage: {}",
                file.name
            );
        }
        self.check().await;
    }

    /// How each transaction ended, by producer and offset of a record.
    fn outcomes(&self) -> HashMap<i64, Outcome> {
        let mut outcomes = HashMap::new();
        let mut open: HashMap<i64, Vec<i64>> = HashMap::new();
        for sent in &self.sent {
            let Some((producer, _)) = sent.producer.filter(|_| sent.transactional) else {
                continue;
            };
            match sent.abort {
                None => open.entry(producer).or_default().push(sent.base),
                Some(abort) => {
                    for base in open.remove(&producer).unwrap_or_default() {
                        let outcome = match abort {
                            true => Outcome::Aborted(sent.base),
                            false => Outcome::Committed(sent.base),
                        };
                        outcomes.insert(base, outcome);
                    }
                }
            }
        }
        for base in open.into_values().flatten() {
            outcomes.insert(base, Outcome::Open);
        }
        outcomes
    }

    async fn check(&mut self) {
        let bytes_max = [1, 700, 1 << 20][self.dice.index(3)];
        let batches = read_batches(&self.partition, Offset(0), bytes_max).await;
        let outcomes = self.outcomes();
        let mut present: BTreeMap<i64, Option<Vec<u8>>> = BTreeMap::new();
        let mut markers = HashSet::new();
        let mut next = 0;
        for (header, bytes) in batches.unwrap() {
            let base = header.base_offset.0;
            assert!(base >= next, "offsets rise");
            next = header.next_offset().0;
            let at = self.sent.partition_point(|sent| sent.base <= base);
            let sent = &self.sent[at - 1];
            assert_eq!(
                (sent.base, sent.end()),
                (base, next),
                "batches keep their offsets"
            );
            let (id, sequence) = sent.producer.unwrap_or((-1, -1));
            assert_eq!(
                (header.producer_id.0, header.base_sequence.0),
                (id, sequence)
            );
            for record in records(&bytes, 1 << 20).unwrap().iter() {
                let record = record.unwrap();
                let (key, value) = &sent.records[(record.offset.0 - base) as usize];
                if sent.abort.is_some() {
                    markers.insert(base);
                    continue;
                }
                assert_eq!(record.key, Some(&key.to_be_bytes()[..]));
                assert_eq!(record.value, value.as_deref());
                present.insert(record.offset.0, value.clone());
            }
        }
        assert_eq!(next, self.end(), "a read reaches the end");
        self.check_keys(&present, &markers, &outcomes);
        self.check_producers();
        if self.end() > 0 {
            self.check_from_anywhere().await;
        }
    }

    fn check_keys(
        &mut self,
        present: &BTreeMap<i64, Option<Vec<u8>>>,
        markers: &HashSet<i64>,
        outcomes: &HashMap<i64, Outcome>,
    ) {
        let mut newest: HashMap<u64, (i64, bool)> = HashMap::new();
        let mut of_key: HashMap<u64, Vec<i64>> = HashMap::new();
        let mut records = 0;
        for sent in self.sent.iter().filter(|sent| sent.abort.is_none()) {
            let outcome = outcomes.get(&sent.base);
            for (offset, (key, value)) in (sent.base..).zip(&sent.records) {
                let is_there = present.contains_key(&offset);
                records += 1;
                match outcome {
                    Some(Outcome::Open) => assert!(is_there, "nothing undecided goes"),
                    Some(Outcome::Aborted(marker)) => {
                        assert!(!is_there || markers.contains(marker), "seen as committed");
                        continue;
                    }
                    Some(Outcome::Committed(marker)) => {
                        assert!(!is_there || markers.contains(marker), "never decided");
                    }
                    None => {}
                }
                // A transaction that is open may still be aborted.
                if outcome != Some(&Outcome::Open) {
                    newest.insert(*key, (offset, value.is_some()));
                    if is_there {
                        of_key.entry(*key).or_default().push(offset);
                    }
                }
            }
        }
        self.removed = self.removed.max(records - present.len() as u32);
        let now = self.clock.wall_ms();
        for (key, (offset, has_value)) in newest {
            if !has_value && !present.contains_key(&offset) {
                let horizon = self.horizons.get(&offset);
                assert!(
                    horizon.is_some_and(|at| *at <= now),
                    "the tombstone of key {key} at {offset} is gone before its horizon"
                );
            }
            let there = of_key.get(&key).map_or(&[][..], Vec::as_slice);
            if has_value || !there.is_empty() {
                assert_eq!(
                    there.last(),
                    Some(&offset),
                    "the newest record of key {key}"
                );
            }
        }
        for (end, horizon) in std::mem::take(&mut self.passed) {
            for sent in self.sent.iter().filter(|sent| sent.end() <= end) {
                for offset in sent.base..sent.end() {
                    self.horizons.entry(offset).or_insert(horizon);
                }
            }
        }
    }

    /// Sequences survive.
    fn check_producers(&self) {
        let known: HashMap<i64, i32> = self
            .partition
            .producers()
            .iter()
            .map(|producer| (producer.id.0, producer.last_sequence.0))
            .collect();
        let ids: HashSet<i64> = self
            .sent
            .iter()
            .filter_map(|s| Some(s.producer?.0))
            .collect();
        for id in ids {
            let last = self.next_sequence(id) - 1;
            assert_eq!(known.get(&id), Some(&last), "producer {id}");
        }
    }

    /// A read begins with the batch that holds an offset or follows it, and looking up the first
    /// timestamp finds the first record that is left.
    async fn check_from_anywhere(&mut self) {
        let all = read_batches(&self.partition, Offset(0), 1 << 20)
            .await
            .unwrap();
        let from = self.dice.below(self.end() as u64) as i64;
        let rest = read_batches(&self.partition, Offset(from), 300)
            .await
            .unwrap();
        // Batches without records may be passed over.
        let with_records = |batches: &[(BatchHeader, Bytes)]| -> Vec<BatchHeader> {
            let headers = batches.iter().map(|(header, _)| *header);
            headers
                .filter(|h| h.record_count > 0 && h.last_offset().0 >= from)
                .collect()
        };
        assert_eq!(with_records(&rest), with_records(&all));
        let found = self
            .partition
            .find_timestamp(TimestampMs(0), Offset::ZERO)
            .await
            .unwrap();
        let first = all.iter().find_map(|(_, bytes)| {
            let opened = records(bytes, 1 << 20).unwrap();
            opened.iter().next().map(|record| record.unwrap().offset)
        });
        assert_eq!(found.map(|(offset, _)| offset), first);
    }
}

/// Runs one seed; returns compactions, records removed and segments left.
pub(crate) fn history(seed: u64) -> (u32, u32, usize) {
    run(async {
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        world.check().await;
        (world.compactions, world.removed, world.chain.len())
    })
}

#[test]
fn newest_values_offsets_transactions_and_sequences_survive_compaction() {
    let (mut compactions, mut removed, mut segments) = (0, 0, 0);
    for seed in seeds(SEEDS) {
        println!("BROKER_SEED={seed}");
        let (of_seed, gone, left) = history(seed);
        compactions += of_seed;
        removed += gone;
        segments += left;
    }
    println!("{compactions} compactions, {removed} records removed, {segments} segments left");
    assert!(compactions > 0 && removed > 0);
}

/// Offsets of the records that are left, and whether their batch has a horizon.
async fn left(partition: &Partition) -> Vec<(i64, bool)> {
    let batches = read_batches(partition, Offset(0), 1 << 20).await.unwrap();
    let mut all = Vec::new();
    for (header, bytes) in batches {
        for record in records(&bytes, 1 << 20).unwrap().iter() {
            let has_horizon = header.delete_horizon().is_some();
            all.push((record.unwrap().offset.0, has_horizon));
        }
    }
    all
}

#[test]
fn tombstones_and_markers_stay_for_the_retention_after_they_were_first_met() {
    run(async {
        let mut world = World::new(1).await;
        let plain = |base, key, value: Option<&[u8]>| Sent {
            base,
            records: vec![(key, value.map(<[u8]>::to_vec))],
            producer: None,
            transactional: false,
            abort: None,
        };
        let in_transaction = |base, sequence, abort: Option<bool>| Sent {
            producer: Some((100, sequence)),
            transactional: true,
            abort,
            ..plain(base, 10 + base as u64, Some(b"v"))
        };
        // The second transaction has the newest batch of the producer, so nothing of the first stays.
        for sent in [
            plain(0, 1, Some(b"old")),
            plain(1, 1, None),
            in_transaction(2, 0, None),
            in_transaction(3, -1, Some(true)),
            in_transaction(4, 1, None),
            in_transaction(5, -1, Some(false)),
        ] {
            world.send(sent).await;
        }
        world.seal().await;
        let mut after = async |ms: u64| {
            world.clock.advance(Duration::from_millis(ms));
            let options = CompactOptions {
                first_dirty: Offset(0),
                end: Offset(6),
                segment_bytes_max: 1 << 20,
                delete_retention_ms: RETENTION_MS,
                map_bytes_max: 1 << 10,
                io_bytes_per_second: None,
            };
            let mut compaction = world.partition.compact(options).await.unwrap();
            let id = world.fresh_id();
            let replacement = compaction.next(id).await.unwrap().unwrap();
            let horizon = world.clock.wall_ms() + RETENTION_MS;
            world.passed.push((replacement.clean_end.0, horizon));
            world.commit(&replacement);
            let (old, new) = (&replacement.old, replacement.new);
            world.partition.replace_segments(old, new).await.unwrap();
            world.check().await;
            left(&world.partition).await
        };
        // The marker waits until nothing of its transaction was met.
        let last = [(4, false), (5, false)];
        let with = |first: &[(i64, bool)]| [first, &last[..]].concat();
        assert_eq!(after(0).await, with(&[(1, true), (3, false)]));
        assert_eq!(after(999).await, with(&[(1, true), (3, true)]));
        assert_eq!(after(1).await, with(&[(3, true)]));
        assert_eq!(after(998).await, with(&[(3, true)]));
        assert_eq!(after(1).await, with(&[]));
    });
}

#[test]
fn damage_in_a_segment_is_named_and_leaves_the_partition_as_it_was() {
    run(async {
        let mut world = World::new(1).await;
        for _ in 0..5 {
            world.append(false).await;
        }
        world.seal().await;
        let name = &world.fs.files(".log")[0];
        let file = world
            .fs
            .open(name, mainstem_env::OpenMode::ReadWrite)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 200).unwrap();
        let flipped = [byte[0] ^ 1];
        file.write_all_vectored_at(&[std::io::IoSlice::new(&flipped)], 200)
            .unwrap();
        let before = world.partition.segments();
        let options = CompactOptions {
            first_dirty: Offset(0),
            end: Offset(world.end()),
            segment_bytes_max: 1 << 20,
            delete_retention_ms: 0,
            map_bytes_max: 1 << 10,
            io_bytes_per_second: None,
        };
        let error = world.partition.compact(options).await.unwrap_err();
        assert!(
            matches!(error, CompactError::Damaged { segment, .. } if segment == before[0].id),
            "{error}"
        );
        assert_eq!(world.partition.segments(), before);
        assert_eq!(world.fs.files(".log").len(), 2);
        assert!(world.fs.files(".tmp").is_empty());
    });
}

#[test]
fn read_passes_over_segments_without_records_but_reaches_the_end() {
    run(async {
        let mut world = World::new(1).await;
        let sent = |base| Sent {
            base,
            records: vec![(1, Some(vec![b'v']))],
            producer: None,
            transactional: false,
            abort: None,
        };
        for base in 0..4 {
            world.send(sent(base)).await;
            world.seal().await;
        }
        let options = CompactOptions {
            first_dirty: Offset(0),
            end: Offset(3),
            segment_bytes_max: 1,
            delete_retention_ms: 0,
            map_bytes_max: 1 << 10,
            io_bytes_per_second: None,
        };
        let mut compaction = world.partition.compact(options).await.unwrap();
        while let Some(done) = compaction.next(world.fresh_id()).await.unwrap() {
            world.commit(&done);
            let (old, new) = (&done.old, done.new);
            world.partition.replace_segments(old, new).await.unwrap();
        }
        let read = async |end| {
            let read = mainstem_log::Read {
                from: Offset(0),
                bytes_max: 1 << 20,
                at_least_one_batch: true,
                end: Offset(end),
            };
            let chunk = world.partition.read(read).await.unwrap();
            let first = chunk.batches.first().map(|batch| {
                let header = BatchHeader::parse(batch).unwrap();
                (header.base_offset.0, header.record_count)
            });
            (first, chunk.next.0)
        };
        assert_eq!(read(i64::MAX).await, (Some((2, 1)), 3));
        assert_eq!(
            read(2).await,
            (Some((1, 0)), 2),
            "an empty batch tells the end"
        );
        assert_eq!(read(1).await, (Some((0, 0)), 1));
    });
}

/// Offsets of a compacted segment have gaps, so what follows does not show that an end is spoilt.
#[test]
fn batch_whose_last_offset_is_spoilt_is_not_passed_over() {
    run(async {
        let mut world = World::new(1).await;
        for (base, count) in [(0, 3), (3, 1)] {
            let keys = base as u64..(base + count) as u64;
            let sent = Sent {
                base,
                records: keys.map(|key| (key, Some(vec![b'v']))).collect(),
                producer: None,
                transactional: false,
                abort: None,
            };
            world.send(sent).await;
        }
        world.seal().await;
        let options = CompactOptions {
            first_dirty: Offset(0),
            end: Offset(4),
            segment_bytes_max: 1 << 20,
            delete_retention_ms: 0,
            map_bytes_max: 1 << 10,
            io_bytes_per_second: None,
        };
        let mut compaction = world.partition.compact(options).await.unwrap();
        let done = compaction.next(world.fresh_id()).await.unwrap().unwrap();
        world.commit(&done);
        let (old, new) = (&done.old, done.new);
        world.partition.replace_segments(old, new).await.unwrap();
        let name = &world.fs.files(&format!("{}.log", new.id.0))[0];
        let last_offset_delta = 23..27;
        world.fs.edit(name, |bytes| {
            assert_eq!(bytes[last_offset_delta.clone()], [0, 0, 0, 2]);
            bytes[last_offset_delta].fill(0);
        });
        let read = mainstem_log::Read {
            from: Offset(1),
            bytes_max: 1 << 20,
            at_least_one_batch: true,
            end: Offset(i64::MAX),
        };
        let answer = world.partition.read(read).await;
        let is_named = matches!(answer, Err(mainstem_log::ReadError::Damaged { base, end, .. })
            if (base, end) == (Offset(1), Offset(3)));
        assert!(is_named, "{answer:?}");
    });
}
