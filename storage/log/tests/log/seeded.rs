//! Runs of many seeds: on all cores, and each failure with what repeats it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use mainstem_simulation::seeds;
use parking_lot::Mutex;

/// After so many failures no more are looked for.
const FAILURES_MAX: usize = 5;

/// What `history` says of each seed below `count`: of the one in `BROKER_SEED` if that is set, of the
/// first `BROKER_SEEDS` if that is.
///
/// # Panics
/// If a seed fails.
pub(crate) fn each_seed<R: Send>(count: u64, history: impl Fn(u64) -> R + Sync) -> Vec<R> {
    let wanted = std::env::var("BROKER_SEEDS").ok();
    let count = wanted.map_or(count, |count| {
        count.parse().expect("BROKER_SEEDS is a number")
    });
    let seeds = seeds(count);
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new(Vec::new());
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().len() < FAILURES_MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match catch_unwind(AssertUnwindSafe(|| history(seed))) {
                        Ok(result) => results.lock().push(result),
                        Err(_) => {
                            eprintln!("seed {seed} failed; again with BROKER_SEED={seed}");
                            failed.lock().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    results.into_inner()
}
