//! What happened in a world, to compare one run with another.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

/// FNV-1a, 64 bits.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
const HASH_PRIME: u64 = 0x0100_0000_01b3;

/// The history of a world: one line for each thing that happened, and a digest of them all. Clones
/// are the same history.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    digest: u64,
    lines: u64,
    /// All lines, if somebody wants them.
    kept: Option<String>,
    line: String,
}

// === impl Trace ===

impl Trace {
    /// Keeps the lines from now on; else only their digest is.
    pub fn keep(&self) {
        self.0.lock().kept.get_or_insert_default();
    }

    /// The lines that were kept, each with the world's time in microseconds before it.
    pub fn text(&self) -> String {
        self.0.lock().kept.clone().unwrap_or_default()
    }

    /// The digest of all lines, and how many there were.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.digest, state.lines)
    }

    /// Adds a line.
    pub fn add(&self, now: Duration, what: fmt::Arguments<'_>) {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.line.clear();
        // Text that is written to a string does not fail.
        let _ = writeln!(state.line, "{} {what}", now.as_micros());
        state.digest = extend(state.digest, state.line.as_bytes());
        state.lines += 1;
        if let Some(kept) = &mut state.kept {
            kept.push_str(&state.line);
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            digest: HASH_START,
            lines: 0,
            kept: None,
            line: String::new(),
        }
    }
}

/// A digest of some bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    extend(HASH_START, bytes)
}

fn extend(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(HASH_PRIME);
    bytes.iter().fold(hash, step)
}
