//! How far a start is.

use std::sync::atomic::{AtomicU64, Ordering};

/// What all recoveries of a log have done so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    scanned_bytes: AtomicU64,
}

// === impl Progress ===

impl Progress {
    /// So many bytes of batches more were checked.
    pub(crate) fn scanned(&self, bytes: u64) {
        self.scanned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn scanned_bytes(&self) -> u64 {
        self.scanned_bytes.load(Ordering::Relaxed)
    }
}
