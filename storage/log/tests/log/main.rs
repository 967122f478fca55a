//! Tests of the log through its public interface.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod clock;
mod compaction;
mod concurrent;
mod copies;
mod directory;
mod faults;
mod golden;
mod interval;
mod isolation;
mod journal;
mod kept;
mod labels;
mod lifecycle;
mod lost;
mod memory;
mod model;
mod reading;
mod recovery;
mod replicas;
mod rolling;
mod scrub;
mod seeded;
mod sim;
mod space;
mod support;
mod timestamps;
mod verify;
