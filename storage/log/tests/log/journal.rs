//! The journal: what it makes durable survives, wherever the crash comes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mainstem_log::{AppendError, Flush, Log, LogOptions, Partition, PartitionSpec};
use mainstem_record::Codec;
use mainstem_simulation::{Dice, SimFs, World, seeds};
use parking_lot::Mutex;
use prometheus::Registry;

use crate::support::{append, batch_of, options, partition_id, segment_spec, spec, values};

const SEEDS: u64 = 30;

const PARTITIONS: i32 = 6;

/// Writers that do not wait for each other, per partition.
const WRITERS: usize = 3;

fn spec_of(index: i32) -> PartitionSpec {
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
    let counts = [
        "mainstem_log_journal_bytes_total",
        "mainstem_log_journal_trim_syncs_total",
    ];
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
