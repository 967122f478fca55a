//! Feeds hostile bytes to everything that reads the log's formats: record batches, codecs, and the
//! files of a log, through recovery, reads, `verify` and `dump`; and to the listener for peers.
//!
//! A [`Target`] is a plain function over bytes. [`Fuzzer`] mutates a corpus of valid inputs, which
//! our own encoders make, and repairs the checksums afterwards, so that mutations get past them.
//! Inputs with which a target behaved in a new way (it notes what it met in a [`Trace`]) join the
//! corpus. Everything follows from the seed.
//!
//! A target must neither panic nor allocate beyond its bound, and checks what must hold for any
//! input. `docs/testing.md` tells how to run it, and why the compiler's coverage is not used.

mod fuzzer;
mod mutator;
mod targets;
mod trace;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

pub use fuzzer::{Failure, Fuzzer, Report, run_once};
pub use mutator::Mutator;
pub use targets::{TARGETS, Target};
pub use trace::Trace;

/// Counts what a target allocates.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
