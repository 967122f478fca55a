//! Many seeds, on all cores.

use std::{
    cell::Cell,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

thread_local! {
    /// Failures are expected: they are not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Panics of this thread. The runtime keeps those of tasks to itself; in the binary they end the
    /// process.
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// The seeds that a test runs: `count` of them from 0 on, or the one of `BROKER_SEED`, which a
/// failure names.
///
/// # Panics
/// If `BROKER_SEED` is no number.
pub fn seeds(count: u64) -> Range<u64> {
    match std::env::var("BROKER_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("BROKER_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// Runs `one` with every seed: `count` of them, or as many as `BROKER_SEEDS` says, or the one of
/// `BROKER_SEED`. Tells how many.
///
/// # Panics
/// With the seed of the first that fails, in a task or in the test itself.
pub fn each_seed(name: &str, count: u64, one: impl Fn(u64) + Sync) -> u64 {
    watch_panics();
    let many = std::env::var("BROKER_SEEDS").ok();
    let count = many.map_or(count, |many| many.parse().expect("a number"));
    let seeds = seeds(count);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if fails(|| one(seed)) {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.load(Ordering::Relaxed);
    assert_eq!(
        failed,
        u64::MAX,
        "{name} fails with seed {failed}: replay with BROKER_SEED={failed}"
    );
    seeds.end - seeds.start
}

/// The first of the seeds below `count` with which `one` fails, as it should.
pub fn first_failure(count: u64, one: impl Fn(u64)) -> Option<u64> {
    watch_panics();
    QUIET.with(|quiet| quiet.set(true));
    let found = (0..count).find(|seed| fails(|| one(*seed)));
    QUIET.with(|quiet| quiet.set(false));
    found
}

/// Counts panics, and prints them as before.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            if !QUIET.with(Cell::get) {
                before(info);
            }
        }));
    });
}

/// Whether `work` panics, itself or in one of its tasks.
fn fails(work: impl FnOnce()) -> bool {
    PANICS.with(|panics| panics.set(0));
    let ended = panic::catch_unwind(AssertUnwindSafe(work));
    ended.is_err() || PANICS.with(Cell::get) > 0
}
