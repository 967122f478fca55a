//! A whole node, both protocols included, on a disk that forgets what is not synced, at random
//! moments: what was acknowledged must be there.
//!
//! `BROKER_SEED` replays one seed, `BROKER_SEEDS` sets how many are run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod actors;
mod chaos;
mod crashes;
mod disk;
mod failed_sync;
mod kafka;
mod limits;
mod mqtt;
mod node;
mod nodes;
mod promises;
mod seeds;
mod world;
