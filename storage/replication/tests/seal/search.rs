//! The walks find the fault cases by themselves: with a rule off, the first seed whose walk breaks an
//! invariant. Nothing tells them the schedule.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::{
    cases::{self, Case},
    switched::{self, Outcome},
    walk::walk_of,
};

/// Walks that are tried for each case.
const SEEDS_MAX: u64 = 2_000;

/// So many of the fault cases are found, at least.
const FOUND_MIN: usize = 30;

/// The first walk that breaks what the case breaks.
///
/// # Panics
/// A walk ends in anything else than an invariant.
fn search(case: &Case, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let outcome: Outcome = switched::without(case.rules, || {
            walk_of(seed, Some(case.options.keeps_life)).violation
        });
        // A case that shares its rule with another is told apart by what breaks.
        let counts = |what: &String| {
            assert!(what.starts_with("I-SEAL-"), "seed {seed}: {what}");
            case.breaks_with(what)
        };
        outcome.filter(counts).map(|what| (seed, what))
    })
}

#[test]
fn walks_find_the_fault_cases_by_themselves() {
    let seeds = std::env::var("BROKER_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS_MAX, |seeds| {
        seeds.parse().expect("BROKER_SEEDS is a number")
    });
    let cases = cases::all();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; cases.len()]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else {
                        break;
                    };
                    let first = search(case, seeds);
                    found.lock()[index] = first;
                }
            });
        }
    });
    let found = found.into_inner();
    println!("| case | rule switched off | seeds needed | what breaks first |\n|---|---|---|---|");
    for (case, found) in cases.iter().zip(&found) {
        let rules: Vec<String> = case.rules.iter().map(|rule| format!("{rule:?}")).collect();
        let (needed, what) = match found {
            Some((seed, what)) => ((seed + 1).to_string(), what.split(':').next().unwrap_or("")),
            None => (format!("not in {seeds}"), ""),
        };
        println!(
            "| {} | {} | {needed} | {what} |",
            case.name,
            rules.join(", ")
        );
    }
    // Cases that a walk cannot tell apart, since rule and invariant are the same, count once.
    let pairs = cases
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_some());
    let distinct: BTreeSet<_> = pairs
        .map(|(case, _)| (case.rules, case.walk_breaks))
        .collect();
    let count = distinct.len();
    println!("{count} of {} found, each counted once", cases.len());
    assert!(count >= FOUND_MIN, "{count} found");
}
