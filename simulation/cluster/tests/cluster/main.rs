//! Clusters of three and five nodes on hosts of their own, in virtual time, while everything goes
//! wrong: what was decided stays decided, and when all is well again the cluster is, too.
//!
//! `BROKER_SEED` replays one seed, `BROKER_SEEDS` sets how many are run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod chaos;
mod far;
mod history;
mod quorum;
mod scenes;
