//! Randomness.

use parking_lot::Mutex;
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// A source of random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The thread's generator, seeded by the operating system.
#[derive(Debug, Default)]
pub struct RealRandom;

/// A generator that repeats itself for the same seed: tests and simulation.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

// === impl RealRandom ===

impl Random for RealRandom {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

// === impl SeededRandom ===

impl SeededRandom {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}
