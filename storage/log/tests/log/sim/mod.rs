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

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use mainstem_simulation::{Counts, run, seeds};
use parking_lot::Mutex;

use world::{Report, Sim};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2000;

/// Steps of a seed: each is at least one operation.
const STEPS_MIN: u64 = 200;

/// Crashes of a seed.
const CRASHES_MIN: u64 = 3;

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

/// Runs all seeds on all cores, and says which failed.
fn run_all(seeds: std::ops::Range<u64>) -> (Vec<Report>, Vec<u64>) {
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Vec::new());
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .filter(|seed| *seed < seeds.end && failed.lock().len() < 5)
                {
                    match catch_unwind(AssertUnwindSafe(|| world_of(seed))) {
                        Ok(report) => reports.lock().push(report),
                        Err(_) => {
                            eprintln!("seed {seed} failed; again with BROKER_SEED={seed}");
                            failed.lock().push(seed);
                        }
                    }
                }
            });
        }
    });
    (reports.into_inner(), failed.into_inner())
}

#[test]
fn nothing_is_lost_on_a_disk_that_fails_in_every_way() {
    let count = std::env::var("BROKER_SEEDS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let seeds = seeds(count);
    let many = seeds.end - seeds.start >= 100;
    let (reports, failed) = run_all(seeds);
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
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    assert!(
        !many || faults.missing().is_empty(),
        "never happened: {:?}",
        faults.missing()
    );
}

#[test]
fn same_seed_makes_the_same_calls_and_leaves_the_same_bytes() {
    for seed in 0..10 {
        assert_eq!(world_of(seed), world_of(seed), "seed {seed}");
    }
}
