//! Sealed segments are copied from one replica to another, through crashes at every step, spoilt
//! chunks, short logs and files that are whole already. What must hold: a segment that was taken is
//! the source's, byte for byte, and stays so; what is read there, and what is remembered of producers,
//! is what the source has; nothing that is here already is copied again.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use mainstem_env::{Env, Fs, MemFs};
use mainstem_log::{
    Ack, Commit, Flush, Log, LogOptions, Partition, PartitionError, PartitionSpec, Read, ReadError,
    ReplicaAppend, Role, SegmentSpec, Sought,
};
use mainstem_record::{Codec, Offset, TimestampMs};
use mainstem_simulation::{Dice, Process, SimFs, World, run as simulate};

use crate::{
    seeded::each_seed,
    support::{append, batch_of, inline_env, options, partition_id, run, segment_spec, settings},
};

const CHUNK_BYTES: usize = 1 << 20;
/// Seeds of an ordinary run.
const SEEDS: u64 = 12;
/// Steps of a seed.
const STEPS: usize = 30;
/// Sealed segments of the source.
const SEGMENTS: usize = 3;

/// A partition with sealed segments, and what metadata would know of them.
struct Source {
    partition: Partition,
    /// Sealed ones, then the active one.
    chain: Vec<SegmentSpec>,
    facts: Vec<Known>,
    _log: Log,
}

#[derive(Clone, Copy)]
struct Known {
    bytes: u64,
    digest: u128,
    max_timestamp: TimestampMs,
}

/// Values of about `bytes` bytes, by a producer of its own in every segment.
async fn source(env: Env, sizes: &[usize]) -> Source {
    let registry = prometheus::Registry::new();
    let started = Log::start(env, options(), &registry).await;
    let (log, _events) = started.unwrap();
    let spec = PartitionSpec {
        id: partition_id(0),
        log_start: Offset(0),
        segments: vec![segment_spec(0, 0)],
        settings: settings(Flush::Os),
        role: Role::Leader(Commit::Own),
    };
    let partition = log.open_partition(spec).await.unwrap();
    let (mut chain, mut facts) = (Vec::new(), Vec::new());
    let mut active = segment_spec(0, 0);
    for (number, size) in sizes.iter().enumerate() {
        for (at, part) in vec![b'x'; *size].chunks(300_000).enumerate() {
            let time = 1000 * (number as i64 + 1) + at as i64;
            let id = number as i64;
            let batch = batch_of(
                &[(part.to_vec(), time)],
                Some((id, 0, at as i32)),
                Codec::None,
            );
            let ticket = partition.append(append(batch)).await.unwrap();
            ticket.await.unwrap();
        }
        let sealed = partition.seal_begin().await.unwrap();
        facts.push(Known {
            bytes: sealed.bytes,
            digest: sealed.digest,
            max_timestamp: sealed.max_timestamp,
        });
        chain.push(SegmentSpec {
            end: Some(sealed.end),
            ..active
        });
        active = segment_spec(number as i32 + 1, sealed.end.0);
        partition.seal_commit(active).await.unwrap();
    }
    chain.push(active);
    Source {
        partition,
        chain,
        facts,
        _log: log,
    }
}

fn path_of(spec: &SegmentSpec, extension: &str) -> PathBuf {
    let topic = partition_id(0).topic;
    let name = format!("{:020}-{}.{extension}", spec.base.0, spec.id.0);
    PathBuf::from(format!("/log/partitions/{topic}/0/{name}"))
}

/// A replica that holds those of the sealed segments that `held` says, and follows.
fn replica_spec(source: &Source, held: impl Fn(usize) -> bool) -> PartitionSpec {
    let mut segments = source.chain.clone();
    let sealed = segments.len() - 1;
    for (at, segment) in segments.iter_mut().enumerate() {
        segment.held = at == sealed || held(at);
    }
    PartitionSpec {
        id: partition_id(0),
        log_start: Offset(0),
        segments,
        settings: settings(Flush::Os),
        role: Role::Follower,
    }
}

/// A node that helps to seal a segment which it did not hold: it begins at the base, whatever an
/// earlier life has left of it, and needs to be told what came before.
#[test]
fn the_active_segment_can_be_held_later() {
    run(async {
        let fs = Arc::new(MemFs::new());
        let source = source(inline_env(fs.clone()), &[100]).await;
        let mut spec = replica_spec(&source, |_| true);
        let active = spec.segments[1];
        spec.segments[1].held = false;
        spec.role = Role::Fenced;
        let fs = Arc::new(MemFs::new());
        let (log, _events) = Log::start(
            inline_env(fs.clone()),
            options(),
            &prometheus::Registry::new(),
        )
        .await
        .unwrap();
        // The sealed one has no file here either, which is none of this test's business.
        spec.segments[0].held = false;
        let path = path_of(&active, "log");
        let replica = log.open_partition(spec).await.unwrap();
        fs.write_atomic(&path, b"of an earlier life").unwrap();

        let other = source.chain[0].id;
        let refused = replica.hold(other).await;
        assert!(matches!(refused, Err(PartitionError::NotNext { .. })));
        replica.hold(active.id).await.unwrap();
        assert!(replica.segments().last().unwrap().held);
        assert_eq!(replica.ends().log_end, active.base);
        assert!(fs.read(&path, 64).unwrap().is_empty());

        assert!(replica.needs_memory());
        let memory = source.partition.memory(active.id).await.unwrap();
        replica.install_memory(memory).await.unwrap();
        let tail = batch_of(&[(b"tail".to_vec(), 1)], Some((9, 0, 0)), Codec::None);
        let ticket = source.partition.append(append(tail)).await.unwrap();
        ticket.await.unwrap();
        let tail = source
            .partition
            .read_tail(active.base, 1 << 20)
            .await
            .unwrap();
        let copied = ReplicaAppend {
            segment: active.id,
            at: active.base,
            batches: tail.batches.concat().into(),
            ack: Ack::Durable,
        };
        replica.append_copied(copied).await.unwrap().await.unwrap();
        assert_eq!(replica.ends().log_end, source.partition.ends().log_end);
        // Once more, it stays as it is.
        replica.hold(active.id).await.unwrap();
        assert_eq!(replica.ends().log_end, source.partition.ends().log_end);
    });
}

/// Copies what is missing of a segment; returns how many chunks that were.
async fn copy(source: &Source, target: &Partition, at: usize) -> Result<usize, PartitionError> {
    let id = source.chain[at].id;
    let facts = source.partition.copy_facts(id).await.unwrap();
    let digest = Some(source.facts[at].digest);
    let mut copy = target.begin_copy(id, digest, facts).await?;
    let missing: Vec<u32> = copy.missing().collect();
    for number in &missing {
        let chunk = source.partition.read_chunk(id, *number).await.unwrap();
        copy.put(*number, chunk).await?;
    }
    target.add_copy(copy).await?;
    Ok(missing.len())
}

/// All batches of a sealed segment, as readers get them.
async fn read_segment(partition: &Partition, spec: &SegmentSpec) -> Result<Vec<u8>, ReadError> {
    let (mut all, mut from, end) = (Vec::new(), spec.base, spec.end.unwrap());
    while from < end {
        let read = Read {
            from,
            bytes_max: 1 << 20,
            at_least_one_batch: true,
            end,
        };
        let chunk = partition.read(read).await?;
        all.extend(chunk.batches.concat());
        from = chunk.next;
    }
    Ok(all)
}

fn bytes_of(fs: &dyn Fs, spec: &SegmentSpec, extension: &str) -> Vec<u8> {
    fs.read(&path_of(spec, extension), 1 << 30).unwrap()
}

fn write(fs: &dyn Fs, path: &std::path::Path, bytes: &[u8]) {
    let file = fs.open(path, mainstem_env::OpenMode::Truncate).unwrap();
    let slices = [std::io::IoSlice::new(bytes)];
    file.write_all_vectored_at(&slices, 0).unwrap();
}

async fn open(fs: &Arc<dyn Fs>, spec: PartitionSpec) -> (Log, Partition) {
    let registry = prometheus::Registry::new();
    let started = Log::start(inline_env(fs.clone()), options(), &registry).await;
    let (log, _events) = started.unwrap();
    let partition = log.open_partition(spec).await.unwrap();
    (log, partition)
}

#[test]
fn copied_segment_is_the_sources_and_only_what_is_missing_is_copied() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let source = source(inline_env(fs.clone()), &[2 * CHUNK_BYTES + 5000, 100]).await;
        let other: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, target) = open(&other, replica_spec(&source, |_| false)).await;
        let spec = source.chain[0];
        let read = target.read_chunk(spec.id, 0).await;
        assert!(matches!(read, Err(ReadError::NotHeld { .. })));
        assert_eq!(copy(&source, &target, 0).await, Ok(3));
        let whole = bytes_of(&*fs, &spec, "log");
        assert_eq!(read_segment(&target, &spec).await.as_ref(), Ok(&whole));
        let not_here = read_segment(&target, &source.chain[1]).await;
        assert!(matches!(not_here, Err(ReadError::NotHeld { .. })));
        assert_eq!(bytes_of(&*other, &spec, "log"), whole);
        assert_eq!(
            copy(&source, &target, 0).await,
            Err(PartitionError::CannotCopy(spec.id))
        );
        // One that has it can be copied from.
        let again = target.copy_facts(spec.id).await.unwrap();
        let facts = source.partition.copy_facts(spec.id).await.unwrap();
        assert_eq!(again, facts);

        // One chunk is spoilt.
        let mut spoilt = whole.clone();
        spoilt[CHUNK_BYTES + 77] ^= 1;
        write(&*other, &path_of(&spec, "log"), &spoilt);
        target.remove_copy(spec.id).await.unwrap();
        let known = (source.facts[0].bytes, Some(source.facts[0].digest));
        assert!(target.check_copy(spec.id, known).await.unwrap().is_none());
        assert_eq!(copy(&source, &target, 0).await, Ok(1));
        assert_eq!(bytes_of(&*other, &spec, "log"), whole);

        // It is short.
        target.remove_copy(spec.id).await.unwrap();
        write(&*other, &path_of(&spec, "log"), &whole[..CHUNK_BYTES + 9]);
        assert_eq!(copy(&source, &target, 0).await, Ok(2));

        // It is whole, with something behind it, and nobody had proved it.
        target.remove_copy(spec.id).await.unwrap();
        let longer = [&whole[..], b"never committed"].concat();
        write(&*other, &path_of(&spec, "log"), &longer);
        let found = target.check_copy(spec.id, known).await.unwrap().unwrap();
        assert_eq!(found.missing().count(), 0);
        target.add_copy(found).await.unwrap();
        assert_eq!(bytes_of(&*other, &spec, "log"), whole);
        // The same without a digest: the batches tell.
        target.remove_copy(spec.id).await.unwrap();
        let found = target.check_copy(spec.id, (known.0, None)).await.unwrap();
        target.add_copy(found.unwrap()).await.unwrap();
        target.remove_copy(spec.id).await.unwrap();
        write(&*other, &path_of(&spec, "log"), &spoilt);
        let found = target.check_copy(spec.id, (known.0, None)).await.unwrap();
        assert!(found.is_none());
        assert_eq!(copy(&source, &target, 0).await, Ok(3));
        log.close().await.unwrap();
    });
}

#[test]
fn facts_and_chunks_of_something_else_are_refused() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let source = source(inline_env(fs.clone()), &[1000, 2000]).await;
        let other: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (_log, target) = open(&other, replica_spec(&source, |_| false)).await;
        let (first, second) = (source.chain[0].id, source.chain[1].id);
        let facts = source.partition.copy_facts(first).await.unwrap();
        let digest = source.facts[0].digest;
        let refused = PartitionError::BadCopy(first);
        let begin = |digest, facts: Bytes| target.begin_copy(first, digest, facts);
        let wrong = begin(Some(digest ^ 1), facts.clone()).await;
        assert_eq!(wrong.err(), Some(refused));
        let others = source.partition.copy_facts(second).await.unwrap();
        assert_eq!(begin(None, others).await.err(), Some(refused));
        for at in (0..facts.len()).step_by(7) {
            let mut spoilt = facts.to_vec();
            spoilt[at] ^= 1;
            let spoilt = begin(Some(digest), Bytes::from(spoilt)).await;
            assert_eq!(spoilt.err(), Some(refused), "byte {at}");
            let cut = begin(Some(digest), facts.slice(..at)).await;
            assert_eq!(cut.err(), Some(refused), "first {at} bytes");
        }
        let mut copy = begin(Some(digest), facts.clone()).await.unwrap();
        let chunk = source.partition.read_chunk(first, 0).await.unwrap();
        let mut spoilt = chunk.to_vec();
        spoilt[70] ^= 1;
        assert_eq!(copy.put(0, Bytes::from(spoilt)).await, Err(refused));
        assert_eq!(copy.put(0, chunk.slice(1..)).await, Err(refused));
        assert_eq!(copy.put(1, chunk.clone()).await, Ok(()));
        assert_eq!(target.add_copy(copy).await, Err(refused));
        let mut copy = begin(Some(digest), facts).await.unwrap();
        copy.put(0, chunk).await.unwrap();
        // It was dropped meanwhile.
        target.set_high_watermark(source.chain[2].base);
        let end = source.chain[0].end.unwrap();
        target.drop_segments(&[first], end).await.unwrap();
        let gone = target.add_copy(copy).await;
        assert_eq!(gone, Err(PartitionError::CannotCopy(first)));
    });
}

#[test]
fn look_ups_by_time_pass_over_segments_that_are_too_old() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let source = source(inline_env(fs.clone()), &[1000, 1000, 1000]).await;
        let other: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (_log, target) = open(&other, replica_spec(&source, |_| false)).await;
        copy(&source, &target, 1).await.unwrap();
        let find = |at: i64| target.find_timestamp(TimestampMs(at), Offset::ZERO);
        assert!(matches!(find(2000).await, Err(ReadError::NotHeld { .. })));
        for (segment, known) in source.chain.iter().zip(&source.facts) {
            target.tell_max_timestamp(segment.id, known.max_timestamp);
        }
        assert!(matches!(find(900).await, Err(ReadError::NotHeld { .. })));
        let found = find(2000).await.unwrap();
        assert_eq!(found, Some((Offset(1), TimestampMs(2000))));
        // What was not found here is found by those who have it.
        let later = target.find_timestamp(TimestampMs(900), Offset(1));
        assert_eq!(later.await.unwrap(), found);
        let highest = target.max_timestamp().await.unwrap();
        assert_eq!(highest.here, found);
        assert_eq!(highest.elsewhere, [source.chain[2].id]);
        let whole = source.partition.max_timestamp().await.unwrap();
        assert_eq!(whole.here, Some((Offset(2), TimestampMs(3000))));
        for (number, spec) in source.chain.iter().take(3).enumerate() {
            let at = TimestampMs(1000 * (number as i64 + 1));
            let asked = [Sought::AtLeast(TimestampMs(at.0 - 5)), Sought::Highest];
            for sought in asked {
                let from = Offset::ZERO;
                let found = source.partition.find_in_segment(spec.id, from, sought);
                assert_eq!(found.await.unwrap(), Some((spec.base, at)));
                let end = spec.end.unwrap_or(spec.base.next());
                let none = source.partition.find_in_segment(spec.id, end, sought);
                assert_eq!(none.await.unwrap(), None);
            }
        }
        let not_here = target.find_in_segment(source.chain[0].id, Offset::ZERO, Sought::Highest);
        assert!(matches!(not_here.await, Err(ReadError::NotHeld { .. })));
        copy(&source, &target, 2).await.unwrap();
        let highest = target.max_timestamp().await.unwrap();
        assert_eq!(highest, whole);
        assert_eq!(find(4000).await.unwrap(), None);
    });
}

#[test]
fn digest_near_the_end_is_that_of_a_seal_there() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let registry = prometheus::Registry::new();
        let env = inline_env(fs.clone());
        let (log, _events) = Log::start(env, options(), &registry).await.unwrap();
        let spec = |index| PartitionSpec {
            id: partition_id(index),
            log_start: Offset(0),
            segments: vec![segment_spec(0, 0)],
            settings: settings(Flush::Os),
            role: Role::Leader(Commit::Own),
        };
        let long = log.open_partition(spec(0)).await.unwrap();
        let id = segment_spec(0, 0).id;
        let batches: Vec<_> = (0..9)
            .map(|at: i64| {
                let value = vec![at as u8; 250_000];
                // Timestamps go up and down.
                let records = [(value, 100 + (at * 7) % 5), (vec![1], 50)];
                batch_of(&records, None, Codec::None)
            })
            .collect();
        for batch in &batches {
            let ticket = long.append(append(batch.clone())).await.unwrap();
            ticket.await.unwrap();
        }
        for count in 0..=batches.len() {
            let end = Offset(2 * count as i64);
            let short = log.open_partition(spec(1 + count as i32)).await.unwrap();
            for batch in &batches[..count] {
                let ticket = short.append(append(batch.clone())).await.unwrap();
                ticket.await.unwrap();
            }
            let sealed = short.seal_begin().await.unwrap();
            let told = long.digest_at(id, end).await.unwrap();
            assert_eq!(told, Some(sealed), "at {end}");
            let between = long.digest_at(id, Offset(end.0 + 1)).await.unwrap();
            assert_eq!(between, None, "no batch ends there");
        }
        let end = long.ends().log_end;
        let sealed = long.seal_begin().await.unwrap();
        long.seal_commit(segment_spec(1, end.0)).await.unwrap();
        assert_eq!(long.digest_at(id, end).await.unwrap(), Some(sealed));
        assert_eq!(long.digest_at(id, Offset(0)).await.unwrap(), None);
    });
}

// === through crashes ===

/// The replica that copies, on a disk that crashes.
struct Target {
    world: World,
    dice: Dice,
    fs: SimFs,
    process: Process,
    log: Log,
    partition: Partition,
    /// What metadata would list as complete here.
    complete: [bool; SEGMENTS],
    /// Whether a source has told what is remembered at its end.
    told: [bool; SEGMENTS],
    life: u64,
    copied: u64,
}

impl Target {
    async fn start(
        world: &World,
        fs: SimFs,
        life: u64,
        spec: PartitionSpec,
    ) -> (Process, Log, Partition) {
        let process = world.process(&fs, life);
        let registry = prometheus::Registry::new();
        let options = LogOptions {
            scrub_bytes_per_second: 0,
            ..options()
        };
        let started = Log::start(process.env.clone(), options, &registry).await;
        let (log, mut events) = started.unwrap();
        let partition = log.open_partition(spec).await.unwrap();
        if let Ok(event) = events.try_recv() {
            panic!("{event:?}");
        }
        (process, log, partition)
    }

    async fn crash(&mut self, source: &Source) {
        let fs = match self.dice.one_in(2) {
            true => self.fs.power_cut(self.dice.next_u64()),
            false => self.fs.process_death(),
        };
        self.restart(source, fs).await;
    }

    async fn restart(&mut self, source: &Source, fs: SimFs) {
        self.process.end();
        self.life += 1;
        let complete = self.complete;
        let spec = replica_spec(source, |at| complete[at]);
        let (process, log, partition) = Self::start(&self.world, fs.clone(), self.life, spec).await;
        (self.fs, self.process, self.log, self.partition) = (fs, process, log, partition);
        self.check(source).await;
    }

    /// Every segment that is complete is the source's.
    async fn check(&self, source: &Source) {
        assert_eq!(self.log.damages(), [], "of what is complete");
        for at in (0..SEGMENTS).filter(|at| self.complete[*at]) {
            let spec = &source.chain[at];
            let held = self.partition.segments()[at].held;
            assert!(held, "segment {at}");
            let facts = self.partition.copy_facts(spec.id).await;
            let expected = source.partition.copy_facts(spec.id).await.unwrap();
            assert!(
                facts.as_ref() == Ok(&expected) || !self.told[at],
                "segment {at}"
            );
            let count = source.facts[at].bytes.div_ceil(CHUNK_BYTES as u64);
            for number in 0..count as u32 {
                let here = self.partition.read_chunk(spec.id, number).await;
                let there = source.partition.read_chunk(spec.id, number).await;
                assert!(here == there, "segment {at}, chunk {number}");
            }
        }
    }

    /// Some of a copy, or all of it.
    async fn copy(&mut self, source: &Source) {
        let at = self.dice.index(SEGMENTS);
        let (id, known) = (source.chain[at].id, source.facts[at]);
        if self.complete[at] {
            return;
        }
        if self.dice.one_in(3) {
            let known = (known.bytes, Some(known.digest));
            let found = self.partition.check_copy(id, known).await.unwrap();
            if let Some(found) = found {
                self.partition.add_copy(found).await.unwrap();
                (self.complete[at], self.told[at]) = (true, false);
            }
            return;
        }
        let facts = source.partition.copy_facts(id).await.unwrap();
        let begun = self.partition.begin_copy(id, Some(known.digest), facts);
        let mut copy = begun.await.unwrap();
        let missing: Vec<u32> = copy.missing().collect();
        for number in missing {
            if self.dice.one_in(8) {
                return;
            }
            let chunk = source.partition.read_chunk(id, number).await.unwrap();
            if self.dice.one_in(4) {
                let mut spoilt = chunk.to_vec();
                let bit = self.dice.index(spoilt.len());
                spoilt[bit] ^= 1;
                let refused = copy.put(number, Bytes::from(spoilt)).await;
                assert_eq!(refused, Err(PartitionError::BadCopy(id)));
            }
            copy.put(number, chunk).await.unwrap();
            self.copied += 1;
        }
        let crashes = self.dice.one_in(3);
        if crashes {
            // What is left after some of the changes that follow, if there are as many.
            self.fs
                .crash_in(1 + self.dice.below(9), self.dice.next_u64());
        }
        self.partition.add_copy(copy).await.unwrap();
        match self.fs.take_image().filter(|_| crashes) {
            Some(image) => self.restart(source, image).await,
            None => (self.complete[at], self.told[at]) = (true, true),
        }
    }

    /// A copy turns out to be spoilt.
    async fn spoil(&mut self, source: &Source) {
        let at = self.dice.index(SEGMENTS);
        if !self.complete[at] {
            return;
        }
        let spec = source.chain[at];
        let mut bytes = bytes_of(&self.fs, &spec, "log");
        match self.dice.below(3) {
            0 => bytes.truncate(self.dice.index(bytes.len())),
            1 => bytes.extend_from_slice(b"more"),
            _ => {
                let at = self.dice.index(bytes.len());
                bytes[at] ^= 1;
            }
        }
        // Metadata is told first.
        self.complete[at] = false;
        self.partition.remove_copy(spec.id).await.unwrap();
        write(&self.fs, &path_of(&spec, "log"), &bytes);
        let read = self.partition.read_chunk(spec.id, 0).await;
        assert!(matches!(read, Err(ReadError::NotHeld { .. })));
    }
}

/// Runs one seed; returns how many chunks were copied.
pub(crate) fn history(seed: u64) -> u64 {
    simulate(seed, |world| async move {
        let mut dice = world.dice(0);
        let kept = world.process(&world.disk(), 0);
        let sizes = [
            dice.index(CHUNK_BYTES),
            CHUNK_BYTES + dice.index(2 * CHUNK_BYTES),
            50,
        ];
        let source = source(kept.env.clone(), &sizes.map(|size| size.max(1))).await;
        let fs = world.disk();
        let spec = replica_spec(&source, |_| false);
        let (process, log, partition) = Target::start(&world, fs.clone(), 0, spec).await;
        let mut target = Target {
            world,
            dice,
            fs,
            process,
            log,
            partition,
            complete: [false; SEGMENTS],
            told: [false; SEGMENTS],
            life: 0,
            copied: 0,
        };
        for _ in 0..STEPS {
            match target.dice.below(10) {
                0..6 => target.copy(&source).await,
                6 => target.spoil(&source).await,
                _ => target.crash(&source).await,
            }
        }
        target.check(&source).await;
        target.copied
    })
}

#[test]
fn copies_outlive_crashes_at_every_step() {
    let copied: u64 = each_seed(SEEDS, history).iter().sum();
    println!("{copied} chunks copied");
    assert!(copied > 0);
}
