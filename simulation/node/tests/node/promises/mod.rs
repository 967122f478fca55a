//! What each acknowledgement means, under each policy, after each event: a test for every cell of the
//! table in `docs/durability.md`, which the tests read.
//!
//! A run writes a numbered series, lets the event happen, starts the node again and counts how many of
//! the series are there. What is there must be a prefix of what was sent, whatever was promised.

mod probe;
mod table;

use std::{sync::Arc, time::Duration};

use mainstem_env::Clock as _;
use mainstem_metadata::MemoryDisk;
use mainstem_simulation::{Dice, World};

use self::{
    probe::{Probe, Written},
    table::{Event, Policy, Promise, Word},
};
use crate::{
    disk::{Crash, Disk, Syncs},
    node::{self, Node},
    world::Place,
};

/// Runs of each cell.
const SEEDS: u64 = 16;

/// The longest series.
const WRITES_MAX: u64 = 24;

/// The longest pause between two writes.
const PAUSE_MS_MAX: u64 = 40;

/// `mainstem.flush.interval.ms` of the test.
const INTERVAL: Duration = Duration::from_millis(100);

/// A sync that has begun has ended after this: the world's blocking work takes 2 ms at most, and a
/// sync may have to wait for the one before it.
const SYNC_MAX: Duration = Duration::from_millis(10);

/// One cell: what is promised, by which policy, and what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    promise: Promise,
    policy: Policy,
    event: Event,
}

/// How a run went.
struct Run {
    /// When each of the series was acknowledged; `None` if it was not.
    acknowledged: Vec<Option<Duration>>,
    /// When the event happened; of a failed sync, the last moment before it.
    happened: Duration,
    /// How many of the series are there afterwards.
    found: usize,
}

/// Runs a cell and compares it with what the table says.
fn check(cell: Cell) {
    let word = table::word(cell);
    let mut lost = 0;
    for seed in 0..SEEDS {
        let run = mainstem_simulation::run(seed, |world| Box::pin(run(world, cell)));
        let kept_since = match (word, cell.policy) {
            (Word::Kept, _) => Some(Duration::MAX),
            (Word::LastMayBeLost, Policy::Interval) => {
                Some(run.happened.saturating_sub(INTERVAL + SYNC_MAX))
            }
            (Word::LastMayBeLost, _) => Some(run.happened.saturating_sub(SYNC_MAX)),
            (Word::MayBeLost | Word::NotPromised, _) => None,
        };
        let is_kept = |at: &Option<Duration>| at.is_some_and(|at| Some(at) <= kept_since);
        let kept = run.acknowledged.iter().rposition(is_kept);
        let kept = kept.map_or(0, |last| last + 1);
        assert!(
            run.found >= kept,
            "{cell:?}, seed {seed}: {kept} are kept, {} are there",
            run.found
        );
        let told = run.acknowledged.iter().rposition(Option::is_some);
        if told.is_some_and(|last| last >= run.found) {
            lost += 1;
        }
        if cell.event == Event::SyncFailed && cell.policy == Policy::Always {
            let last = run.acknowledged.last().expect("a series");
            let refused = last.is_none() || word == Word::NotPromised;
            assert!(refused, "{cell:?}: the shard has failed and acknowledges");
        }
    }
    let may_lose = word != Word::Kept;
    assert_eq!(
        lost > 0,
        may_lose,
        "{cell:?}: {lost} of {SEEDS} runs lost something"
    );
}

async fn run(world: World, cell: Cell) -> Run {
    let mut dice = world.dice(1);
    let metadata = MemoryDisk::default();
    let disk = Disk::new(world.disk());
    let (place, node) = start(&world, 0, &disk, &metadata, cell).await;
    let mut probe = Probe::start(&node, cell.promise).await;
    let mut acknowledged = Vec::new();
    write(&world, &mut probe, &mut dice, &mut acknowledged).await;
    let happened = world.clock().now();
    if cell.event == Event::SyncFailed {
        disk.set_syncs(Syncs::FailOnce);
        write(&world, &mut probe, &mut dice, &mut acknowledged).await;
        // Whatever was begun has ended, and one more is sent.
        world.clock().sleep(INTERVAL + SYNC_MAX).await;
        one(&world, &mut probe, &mut acknowledged).await;
    }
    let crash = match cell.event {
        Event::ProcessKilled => Crash::ProcessKill,
        Event::PowerCut | Event::SyncFailed => Crash::PowerCut,
    };
    disk.end_now(crash, dice.next_u64());
    place.process.end();

    let disk = Disk::new(disk.left());
    let (_place, node) = start(&world, 1, &disk, &metadata.copy(), cell).await;
    let found = probe.found(&node, acknowledged.len()).await;
    assert!(found <= acknowledged.len(), "{cell:?}: more than was sent");
    Run {
        acknowledged,
        happened,
        found,
    }
}

/// Some more of the series.
async fn write(
    world: &World,
    probe: &mut Probe,
    dice: &mut Dice,
    acknowledged: &mut Vec<Option<Duration>>,
) {
    for _ in 0..1 + dice.below(WRITES_MAX) {
        one(world, probe, acknowledged).await;
        if dice.one_in(2) {
            let pause = Duration::from_millis(dice.below(PAUSE_MS_MAX));
            world.clock().sleep(pause).await;
        }
    }
}

async fn one(world: &World, probe: &mut Probe, acknowledged: &mut Vec<Option<Duration>>) {
    match probe.write(acknowledged.len()).await {
        Written::Acknowledged => acknowledged.push(Some(world.clock().now())),
        Written::Refused => acknowledged.push(None),
    }
}

async fn start(
    world: &World,
    life: u64,
    disk: &Disk,
    metadata: &MemoryDisk,
    cell: Cell,
) -> (Place, Node) {
    let place = Place::new(world, 1, life, Arc::new(disk.clone()));
    let interval = INTERVAL.as_millis().to_string();
    let config = node::config(&[
        ("mainstem.io.shards", "1"),
        ("mainstem.flush", cell.policy.name()),
        ("mainstem.flush.interval.ms", &interval),
    ]);
    let node = Node::start(&place, &config, metadata).await;
    (place, node.expect("the node starts"))
}

/// One test per cell, named after it, and the list of all.
macro_rules! cells {
    ($($promise:ident $row:ident)*) => {
        $(
            mod $row {
                use super::{Cell, Event, Policy, Promise};

                cells!(@row $promise: os Os, interval Interval, always Always);
            }
        )*

        /// Those for which there is a test.
        const TESTED: &[Promise] = &[$(Promise::$promise),*];
    };
    (@row $promise:ident: $($name:ident $policy:ident),*) => {
        $(
            mod $name {
                use super::{Cell, Event, Policy, Promise};

                cells!(@cell $promise $policy: process_killed ProcessKilled, power_cut PowerCut,
                    sync_failed SyncFailed);
            }
        )*
    };
    (@cell $promise:ident $policy:ident: $($name:ident $event:ident),*) => {
        $(
            #[test]
            fn $name() {
                super::super::check(Cell {
                    promise: Promise::$promise,
                    policy: Policy::$policy,
                    event: Event::$event,
                });
            }
        )*
    };
}

cells! {
    Acks0 acks_0
    Acks1 acks_1
    AcksAll acks_all
    Qos0 qos_0
    Qos1 qos_1
    Qos2 qos_2
    OffsetCommit offset_commit
    Session session
    Retained retained
}

#[test]
fn every_row_of_the_table_has_its_tests() {
    assert_eq!(table::promises(), TESTED);
}
