//! Three replicas of one partition, each on a simulated disk of its own: one is led, two follow, by
//! nothing but the log's own interface. Roles change, logs are cut, nodes crash, also in the middle
//! of a cut. What must hold:
//!
//! - all logs are prefixes of one log, byte for byte, after every crash, cut and change of leader;
//! - nothing is readable, and no durable append complete, above the high watermark;
//! - what was cut does not come back;
//! - what is remembered of producers and QoS 2 publishes is what the batches say;
//! - an append that is refused changes nothing.

mod cluster;
mod failover;
mod refused;

use mainstem_simulation::run;

use crate::seeded::each_seed;
use cluster::Cluster;

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;

/// Steps of a seed.
const STEPS: usize = 60;

/// Runs one seed; returns how many records it has appended, and how often logs were cut.
pub(crate) fn history(seed: u64) -> (u64, u64) {
    run(seed, |world| async move {
        let mut cluster = Cluster::new(world).await;
        for _ in 0..STEPS {
            cluster.step().await;
        }
        cluster.settle().await;
        cluster.check_all().await;
        (cluster.numbers, cluster.cuts)
    })
}

#[test]
fn replicas_are_prefixes_of_one_log_through_crashes_cuts_and_changes_of_leader() {
    let all = each_seed(SEEDS, history);
    let records: u64 = all.iter().map(|(records, _)| records).sum();
    let cuts: u64 = all.iter().map(|(_, cuts)| cuts).sum();
    println!("{} seeds, {records} appends, {cuts} cuts", all.len());
    assert!(all.len() < 10 || cuts > 0, "nothing was ever cut");
}
