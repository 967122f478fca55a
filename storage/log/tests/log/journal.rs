//! The journal: what it makes durable survives, wherever the crash comes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mainstem_env::Fs;
use mainstem_log::{
    AppendError, Flush, JournalDamage, Log, LogError, LogEvent, LogOptions, Partition,
    PartitionSpec,
};
use mainstem_record::Codec;
use mainstem_simulation::{Dice, Faults, SimFs, World, seeds};
use parking_lot::Mutex;
use prometheus::Registry;

use crate::support::{
    append, batch_of, inline_env, options, partition_id, run, segment_spec, spec, values,
};

const SEEDS: u64 = 30;

const PARTITIONS: i32 = 6;

/// Writers that do not wait for each other, per partition.
const WRITERS: usize = 3;

pub(crate) fn spec_of(index: i32) -> PartitionSpec {
    let mut spec = spec(Flush::Always);
    spec.id = partition_id(index);
    spec.segments[0].id = segment_spec(100 * index, 0).id;
    spec
}

/// What was acknowledged of each partition: offset and value.
type Acknowledged = Arc<Mutex<BTreeMap<i32, BTreeMap<i64, String>>>>;

/// A counter of the log.
fn metric(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metric = family.unwrap().get_metric();
    metric
        .iter()
        .map(|m| m.get_counter().get_value() as u64)
        .sum()
}

fn value_of(dice: &mut Dice) -> String {
    let length = match dice.below(20) {
        0 => 70_000,
        1..5 => dice.below(20_000),
        _ => dice.below(300),
    };
    let mut value = format!("{:x}.", dice.next_u64());
    value.extend(std::iter::repeat_n('x', length as usize));
    value
}

fn one(value: &str) -> Bytes {
    batch_of(&[(value.as_bytes().to_vec(), 1)], None, Codec::None)
}

/// A crash that is to come: what is acknowledged later does not count.
#[derive(Clone)]
struct Crash {
    fs: SimFs,
    changes: u64,
}

impl Crash {
    fn after(fs: &SimFs, changes: u64, dice: &mut Dice) -> Self {
        fs.crash_in(changes, dice.next_u64());
        Self {
            fs: fs.clone(),
            changes: fs.changes() + changes,
        }
    }

    fn has_come(&self) -> bool {
        self.fs.changes() > self.changes
    }
}

async fn write(partition: Partition, mut dice: Dice, acknowledged: Acknowledged, crash: Crash) {
    let index = partition.id().index.0;
    loop {
        let value = value_of(&mut dice);
        let Ok(ticket) = partition.append(append(one(&value))).await else {
            return;
        };
        let appended = match ticket.await {
            Ok(appended) => appended,
            // The process has ended.
            Err(AppendError::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        if crash.has_come() {
            return;
        }
        let mut all = acknowledged.lock();
        let known = all.entry(index).or_default();
        let before = known.insert(appended.base_offset.0, value);
        assert!(before.is_none(), "an offset was given out twice");
    }
}

async fn open(log: &Log) -> Vec<Partition> {
    let mut partitions = Vec::new();
    for index in 0..PARTITIONS {
        partitions.push(log.open_partition(spec_of(index)).await.unwrap());
    }
    partitions
}

/// What was acknowledged is there.
async fn check(partitions: &[Partition], acknowledged: &Acknowledged) {
    for partition in partitions {
        let index = partition.id().index.0;
        let found = values(partition).await;
        let mut all = acknowledged.lock();
        let known = all.entry(index).or_default();
        for (offset, value) in known.iter() {
            assert!(
                found.get(*offset as usize) == Some(value),
                "{index}: {offset}"
            );
        }
        // What was stored without being acknowledged counts from now on.
        let found = found.into_iter().enumerate();
        known.extend(found.map(|(at, value)| (at as i64, value)));
    }
}

/// Runs a log until a crash; returns what that leaves, and how many bytes went through the journal
/// and how many syncs made room in it.
async fn live(
    world: &World,
    (fs, incarnation): (SimFs, u64),
    acknowledged: &Acknowledged,
) -> (SimFs, [u64; 2]) {
    let mut dice = world.dice(incarnation);
    let process = world.process(&fs, incarnation);
    let registry = Registry::new();
    let options = LogOptions {
        shards: 1 + dice.index(3),
        ..options()
    };
    // A crash in the middle of the replay, too.
    let early = dice
        .one_in(3)
        .then(|| Crash::after(&fs, dice.below(60), &mut dice.clone()));
    let started = Log::start(process.env.clone(), options, &registry).await;
    let (log, _events) = started.unwrap();
    let partitions = open(&log).await;
    if early.is_some_and(|early| early.has_come()) {
        process.end();
        return (fs.take_image().unwrap(), [0, 0]);
    }
    check(&partitions, acknowledged).await;
    let crash = Crash::after(&fs, 1 + dice.below(1500), &mut dice);
    for partition in &partitions {
        for _ in 0..WRITERS {
            let (partition, dice) = (partition.clone(), dice.fork());
            let writer = write(partition, dice, acknowledged.clone(), crash.clone());
            process.env.spawn("writer", writer);
        }
    }
    while !crash.has_come() {
        tokio::task::yield_now().await;
    }
    process.end();
    let counts = [JOURNAL_BYTES, "mainstem_log_journal_trim_syncs_total"];
    let counts = counts.map(|name| metric(&registry, name));
    let left = if dice.one_in(4) {
        // Not the power was cut, but the process killed.
        fs.process_death()
    } else {
        fs.take_image().unwrap()
    };
    (left, counts)
}

#[test]
fn acknowledged_records_survive_crashes_at_any_moment_lap_after_lap() {
    let mut totals = [0, 0];
    for seed in seeds(SEEDS) {
        simulation_run(seed, &mut totals);
    }
    let [bytes, trims] = totals;
    println!("{bytes} bytes through the journals, {trims} syncs made room in them");
    if std::env::var("BROKER_SEED").is_err() {
        assert!(bytes > SEEDS * 2 * (128 << 10), "several laps: {bytes}");
        assert!(trims > 0);
    }
}

fn simulation_run(seed: u64, totals: &mut [u64; 2]) {
    println!("BROKER_SEED={seed}");
    mainstem_simulation::run(seed, |world| async move {
        let acknowledged = Acknowledged::default();
        let mut fs = world.disk();
        let mut totals = [0, 0];
        for incarnation in 0..6 {
            let (left, counts) = live(&world, (fs, incarnation), &acknowledged).await;
            fs = left;
            for (total, count) in totals.iter_mut().zip(counts) {
                *total += count;
            }
        }
        let process = world.process(&fs, 100);
        let (log, _events) = Log::start(process.env.clone(), options(), &Registry::new())
            .await
            .unwrap();
        check(&open(&log).await, &acknowledged).await;
        totals
    })
    .into_iter()
    .zip(totals)
    .for_each(|(count, total)| *total += count);
}

/// A log with one shard, and so many partitions whose journal is ready.
async fn warm(fs: &SimFs, count: i32, registry: &Registry) -> (Log, Vec<Partition>) {
    let options = LogOptions {
        shards: 1,
        // A file that is closed with something unsynced in it is synced: not here.
        open_files_max: 1024,
        ..options()
    };
    let env = inline_env(Arc::new(fs.clone()));
    let (log, _events) = Log::start(env, options, registry).await.unwrap();
    let mut partitions = Vec::new();
    for index in 0..count {
        let partition = log.open_partition(spec_of(index)).await.unwrap();
        while metric(registry, JOURNAL_BYTES) == 0 {
            put(&partition, "warm").await;
        }
        partitions.push(partition);
    }
    (log, partitions)
}

const JOURNAL_BYTES: &str = "mainstem_log_journal_bytes_total";

pub(crate) async fn put(partition: &Partition, value: &str) {
    let ticket = partition.append(append(one(value))).await.unwrap();
    ticket.await.unwrap();
}

#[test]
fn one_sync_serves_all_partitions_that_wait() {
    run(async {
        let fs = SimFs::new();
        let registry = Registry::new();
        let (_log, partitions) = warm(&fs, 64, &registry).await;
        let before = fs.syncs();
        let mut tickets = Vec::new();
        for partition in &partitions {
            // Without letting the shard run: all wait at the same time.
            tickets.push(partition.try_append(append(one("a"))).unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        // The shard may take them out of its inbox in some pieces.
        let syncs = fs.syncs() - before;
        assert!(syncs <= 4, "{syncs} syncs for 64 partitions");
    });
}

#[test]
fn ring_never_takes_the_room_that_appends_and_metadata_need() {
    const FREE: u64 = 10 << 20;
    run(async {
        let fs = SimFs::new();
        fs.set_faults(Faults {
            available: Some(FREE),
            ..Faults::default()
        });
        let options = LogOptions {
            low_space_bytes: 1 << 20,
            // With it, just less than twice the watermark would be free.
            journal_bytes: (8 << 20) / 2 + 4096,
            shards: 2,
            ..options()
        };
        let registry = Registry::new();
        let env = inline_env(Arc::new(fs.clone()));
        let (log, _events) = Log::start(env, options, &registry).await.unwrap();
        let partition = log.open_partition(spec_of(0)).await.unwrap();
        for _ in 0..50 {
            put(&partition, "stored all the same").await;
        }
        assert_eq!(metric(&registry, JOURNAL_BYTES), 0);
        assert_eq!(partition.ends().synced_end.0, 50);
        assert!(!fs.exists("/log/journal".as_ref()).unwrap());
    });
}

#[test]
fn large_batches_are_synced_in_place_and_not_written_twice() {
    run(async {
        let fs = SimFs::new();
        let registry = Registry::new();
        let (_log, partitions) = warm(&fs, 1, &registry).await;
        let before = metric(&registry, JOURNAL_BYTES);
        for _ in 0..10 {
            put(&partitions[0], &"x".repeat(64 << 10)).await;
        }
        // Notes of where the file is synced, of a block each.
        let written = metric(&registry, JOURNAL_BYTES) - before;
        assert!(written <= 10 * 4096, "{written}");
    });
}

#[test]
fn failed_sync_of_the_journal_fails_the_shard() {
    run(async {
        let fs = SimFs::new();
        let (log, partitions) = warm(&fs, 1, &Registry::new()).await;
        fs.set_faults(Faults {
            sync: true,
            ..Faults::default()
        });
        let ticket = partitions[0].append(append(one("a"))).await.unwrap();
        assert_eq!(ticket.await, Err(AppendError::ShardFailed));
        fs.set_faults(Faults::default());
        let syncs = fs.syncs();
        let again = partitions[0].append(append(one("b"))).await;
        assert!(matches!(again, Err(AppendError::ShardFailed)));
        assert_eq!(fs.syncs(), syncs, "never repeated");
        let failure = log.health().remove(0).failure.unwrap();
        assert!(failure.path.ends_with("journal/0.ring"), "{failure}");
    });
}

#[test]
fn rings_of_shards_that_are_gone_are_replayed_and_removed_and_a_clean_stop_leaves_nothing() {
    simulation_world(|world| async move {
        let fs = world.disk();
        for (incarnation, shards) in [(0, 3), (1, 1), (2, 2)] {
            let process = world.process(&fs, incarnation);
            let registry = Registry::new();
            let options = LogOptions {
                shards,
                ..options()
            };
            let started = Log::start(process.env.clone(), options, &registry).await;
            let (log, _events) = started.unwrap();
            let expected = incarnation as usize * 20;
            for partition in open(&log).await {
                assert_eq!(values(&partition).await.len(), expected);
                for _ in 0..20 {
                    put(&partition, "a").await;
                }
            }
            assert!(fs.files(".ring").len() <= shards);
            if incarnation == 1 {
                log.close().await.unwrap();
                // Nothing in them counts.
                for ring in fs.files(".ring") {
                    fs.edit(&ring, |content| content[2 * 4096..].fill(7));
                }
            } else {
                process.end();
            }
        }
    });
}

/// A power cut that left the ring, and nothing of the segment: with the position in the ring of the
/// first record with payload.
pub(crate) async fn only_the_ring_is_left(world: &World) -> (SimFs, usize) {
    let fs = world.disk();
    let process = world.process(&fs, 0);
    let (log, _events) = Log::start(process.env.clone(), options(), &Registry::new())
        .await
        .unwrap();
    let partition = log.open_partition(spec_of(0)).await.unwrap();
    while fs.files(".ring").is_empty() {
        put(&partition, "a").await;
    }
    for _ in 0..5 {
        put(&partition, "a").await;
    }
    process.end();
    let ring = fs.files(".ring").remove(0);
    let content = fs.content(&ring);
    let mut blocks = content.chunks(4096).enumerate().skip(2);
    let with_payload = |block: &[u8]| block.starts_with(b"MSJR") && block[52] != 0;
    let (at, _) = blocks.find(|(_, block)| with_payload(block)).unwrap();
    let left = fs.process_death();
    left.edit(&left.files(".log")[0], |content| {
        content.truncate(BATCH_BYTES)
    });
    (left, at * 4096)
}

/// The first append was synced in place: there was no ring yet.
pub(crate) const BATCH_BYTES: usize = 69;

#[test]
fn damage_in_the_ring_is_reported_and_shortens_nothing() {
    simulation_world(|world| async move {
        let length = one("a").len();
        assert_eq!(length, BATCH_BYTES);
        for flipped in [None, Some(30), Some(64 + 68 + 20)] {
            let (fs, record) = only_the_ring_is_left(&world).await;
            let ring = fs.files(".ring").remove(0);
            if let Some(at) = flipped {
                fs.edit(&ring, |content| content[record + at] ^= 1);
            }
            let before = fs.image_digest();
            let env = world.process(&fs, 1).env;
            let started = Log::start(env, options(), &Registry::new()).await;
            match flipped {
                None => {
                    let (log, _events) = started.unwrap();
                    let partition = log.open_partition(spec_of(0)).await.unwrap();
                    assert!(values(&partition).await.len() >= 6);
                }
                // The head: whose it was cannot be told.
                Some(30) => {
                    let Err(LogError::Journal { path, damage }) = started else {
                        panic!("{started:?}");
                    };
                    assert_eq!(path, ring);
                    assert!(matches!(damage, JournalDamage::Record { .. }), "{damage}");
                    assert_eq!(fs.image_digest(), before, "nothing was changed");
                }
                // The payload: the partition has lost what was acknowledged.
                Some(_) => {
                    let (log, mut events) = started.unwrap();
                    log.open_partition(spec_of(0)).await.unwrap();
                    let event = events.recv().await;
                    assert!(
                        matches!(event, Some(LogEvent::PartitionFailed { .. })),
                        "{event:?}"
                    );
                }
            }
        }
    });
}

fn simulation_world<F: Future<Output = ()>>(body: impl FnOnce(World) -> F) {
    mainstem_simulation::run(7, body);
}
