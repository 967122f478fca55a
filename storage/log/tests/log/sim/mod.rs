//! Random histories of a whole log on a disk that fails in every way that disks fail.
//!
//! Each seed is a world of its own: a few partitions with a flush policy each, clients of every
//! kind, a node that is stopped, killed and cut from power while they send, also while it starts.
//! Metadata is played by the [`model`]; it never fails. What must hold:
//!
//! - what was acknowledged is there, as its flush policy promises, once, in order, where it was
//!   said to be; what failed is not;
//! - what idempotent producers and QoS 2 clients send again is stored once;
//! - nothing is read wrong; nothing below a synced point is cut, and damage there is named;
//! - what comes back is what its batches say: indexes, times and producers are the same without
//!   any file but the batches.
//!
//! `BROKER_SEED=n` runs one seed, call by call as it was; `BROKER_SEEDS=n` the first n.

mod copies;
mod model;
mod node;
mod ops;
#[cfg(feature = "planted-bugs")]
mod planted;
mod world;
mod writer;

use mainstem_simulation::{Counts, run};

use crate::seeded::each_seed;
use world::{Report, Sim};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2000;

/// Steps of a seed: each is at least one operation.
const STEPS_MIN: u64 = 200;

/// Crashes of a seed.
const CRASHES_MIN: u64 = 3;

/// In so many seeds every kind of fault happens.
const ENOUGH_FOR_ALL_FAULTS: usize = 100;

/// Runs one seed.
fn world_of(seed: u64) -> Report {
    run(seed, |world| async move {
        let mut sim = Sim::new(world).await;
        sim.set_mood();
        while sim.report.operations < STEPS_MIN || sim.report.crashes < CRASHES_MIN {
            sim.step().await;
        }
        sim.end().await
    })
}

#[test]
fn nothing_is_lost_on_a_disk_that_fails_in_every_way() {
    let reports = each_seed(SEEDS, world_of);
    let mut faults = Counts::default();
    for report in &reports {
        faults.add(&report.faults);
    }
    let total = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    println!(
        "{} seeds, {} operations, {} crashes, {} appends\n{faults}",
        reports.len(),
        total(|r| r.operations),
        total(|r| r.crashes),
        total(|r| r.records)
    );
    let few = reports.len() < ENOUGH_FOR_ALL_FAULTS;
    let missing = faults.missing();
    assert!(few || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn same_seed_makes_the_same_calls_and_leaves_the_same_bytes() {
    for seed in 0..10 {
        assert_eq!(world_of(seed), world_of(seed), "seed {seed}");
    }
}
