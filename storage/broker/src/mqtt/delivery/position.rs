//! Where a follower is in its partition, for those whom it pushes to.

use std::sync::atomic::{AtomicI64, Ordering};

use mainstem_record::Offset;

/// The records below `done` have been pushed to whom they concern; those below `begun` are being
/// pushed or have been.
#[derive(Debug)]
pub(crate) struct Position {
    begun: AtomicI64,
    done: AtomicI64,
}

// === impl Position ===

impl Position {
    pub(crate) fn new(at: Offset) -> Self {
        Self {
            begun: AtomicI64::new(at.0),
            done: AtomicI64::new(at.0),
        }
    }

    /// Announces that all below `end` is about to be matched. Comes before the subscriptions are
    /// looked at, so that who subscribes and then sees an older value knows that it will be seen.
    pub(crate) fn begin(&self, end: Offset) {
        self.begun.store(end.0, Ordering::SeqCst);
    }

    /// All below `end` has been pushed.
    pub(crate) fn finish(&self, end: Offset) {
        self.done.store(end.0, Ordering::SeqCst);
    }

    pub(crate) fn begun(&self) -> Offset {
        Offset(self.begun.load(Ordering::SeqCst))
    }

    pub(crate) fn done(&self) -> Offset {
        Offset(self.done.load(Ordering::SeqCst))
    }
}
