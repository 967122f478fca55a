//! Bugs of the kind that logs have had, planted one by one: the tests find each of them.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use mainstem_log::planted::{Bug, plant};
use parking_lot::Mutex;

use super::world_of;
use crate::{compaction, copies, replicas};

/// A bug that is not found in so many seeds is not found.
const SEEDS_MAX: u64 = 1000;

thread_local! {
    /// What the first panic said since this was emptied.
    static FIRST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A bug, and how it was found.
struct Finding {
    bug: Bug,
    /// Seed and words; `None` if it was not found.
    found: Option<(u64, String)>,
}

/// The history that meets the bug.
fn history(bug: Bug, seed: u64) {
    match bug {
        Bug::NewestDropped
        | Bug::TombstoneEarly
        | Bug::SequenceDropped
        | Bug::RenameBeforeSync
        | Bug::NoSyncOfCompactedName => {
            compaction::history(seed);
        }
        Bug::UncheckedCopy | Bug::NoSyncOfCopy => {
            copies::history(seed);
        }
        Bug::AckBeforeCommit
        | Bug::UncheckedReplica
        | Bug::UnfencedReplica
        | Bug::ReplicaForgetsProducers
        | Bug::ReadAboveHighWatermark
        | Bug::UnnotedCut
        | Bug::SyncedPointAboveCut
        | Bug::CutKeepsProducers
        | Bug::PointAboveCommitted => {
            replicas::history(seed);
        }
        _ => {
            world_of(seed);
        }
    }
}

fn search(bug: Bug) -> Finding {
    plant(Some(bug));
    let mut found = None;
    for seed in 0..SEEDS_MAX {
        FIRST_PANIC.set(None);
        if catch_unwind(AssertUnwindSafe(|| history(bug, seed))).is_err() {
            let words = FIRST_PANIC.take().unwrap_or_default();
            found = Some((seed, words.replace('\n', " ")));
            break;
        }
    }
    plant(None);
    Finding { bug, found }
}

/// Keeps what the first panic of a seed says instead of printing all of them.
fn keep_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_search = std::thread::current().name() == Some(SEARCH);
        if !is_search {
            return print(panic);
        }
        FIRST_PANIC.with_borrow_mut(|first| {
            let words = panic.payload_as_str().unwrap_or("a panic");
            first.get_or_insert_with(|| words.to_owned());
        });
    }));
}

const SEARCH: &str = "planted";

#[test]
fn every_planted_bug_is_found() {
    keep_panics();
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let search = || {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    findings.lock().push(search(*bug));
                }
            };
            let thread = std::thread::Builder::new().name(SEARCH.to_owned());
            thread.spawn_scoped(scope, search).unwrap();
        }
    });
    let mut findings = findings.into_inner();
    findings.sort_by_key(|finding| Bug::ALL.iter().position(|bug| *bug == finding.bug));
    println!("| bug | seeds until found | how |\n|---|---|---|");
    for Finding { bug, found } in &findings {
        match found {
            Some((seed, words)) => {
                let words: String = words.chars().take(110).collect();
                println!("| {bug:?} | {} | {words} |", seed + 1);
            }
            None => println!("| {bug:?} | not in {SEEDS_MAX} | |"),
        }
    }
    let missed = findings.iter().filter(|finding| finding.found.is_none());
    let missed: Vec<Bug> = missed.map(|finding| finding.bug).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
