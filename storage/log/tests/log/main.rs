//! Tests of the log through its public interface.

mod concurrent;
mod faultfs;
mod faults;
mod lifecycle;
mod model;
mod support;
mod timestamps;
