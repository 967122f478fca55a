//! Tests of the log through its public interface.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod concurrent;
mod faultfs;
mod faults;
mod lifecycle;
mod model;
mod support;
mod timestamps;
