//! Which partitions of the group log this node coordinates, and since when.
//!
//! A **term** is the time in which one life of this broker leads a partition of the group log without
//! a break and knows everything that is in it. Groups belong to a term: with it they go, and the next
//! term reads them back from the log.
//!
//! ```text
//!  led ──> loading ──> serving ──> over: not led any more, or the outcome of an append is unknown
//!             └──────> broken (cannot be read back; another node may)
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_record::{LeaderEpoch, PartitionIndex};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::ErrorCode;

/// One term.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) index: PartitionIndex,
    /// The leader epoch in which it began.
    pub(crate) since: LeaderEpoch,
    over: AtomicBool,
    /// Held shared while an append takes its place: whoever holds it alone after the end knows that
    /// no more come.
    pub(crate) placing: tokio::sync::RwLock<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Loading,
    Serving,
    Broken,
}

/// The terms of this node.
#[derive(Default)]
pub(crate) struct Terms {
    present: RwLock<BTreeMap<PartitionIndex, (Arc<Term>, Standing)>>,
    /// Woken when a term is over for another reason than that the image says so.
    pub(crate) ended: Notify,
}

// === impl Term ===

impl Term {
    /// Whether nothing of it holds any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

// === impl Terms ===

impl Terms {
    /// The term in which requests for keys of the partition are served.
    pub(crate) fn serving(&self, index: PartitionIndex) -> Result<Arc<Term>, ErrorCode> {
        match self.present.read().get(&index) {
            None => Err(ErrorCode::NotCoordinator),
            // It begins anew in a moment.
            Some((term, _)) if term.is_over() => Err(ErrorCode::CoordinatorLoadInProgress),
            Some((_, Standing::Loading)) => Err(ErrorCode::CoordinatorLoadInProgress),
            Some((_, Standing::Broken)) => Err(ErrorCode::CoordinatorNotAvailable),
            Some((term, Standing::Serving)) => Ok(term.clone()),
        }
    }

    /// Whether this node leads the partition and cannot read it.
    pub(crate) fn is_broken(&self, index: PartitionIndex) -> bool {
        let present = self.present.read();
        matches!(present.get(&index), Some((_, Standing::Broken)))
    }

    /// Begins a term that has to be loaded; `None` if there is one.
    pub(crate) fn begin(&self, index: PartitionIndex, since: LeaderEpoch) -> Option<Arc<Term>> {
        let mut present = self.present.write();
        if present.contains_key(&index) {
            return None;
        }
        let term = Arc::new(Term {
            index,
            since,
            over: AtomicBool::new(false),
            placing: tokio::sync::RwLock::new(()),
        });
        present.insert(index, (term.clone(), Standing::Loading));
        Some(term)
    }

    /// All that is in the log is known.
    pub(crate) fn loaded(&self, term: &Arc<Term>) {
        self.stand(term, Standing::Serving);
    }

    /// What is in the log cannot be read.
    pub(crate) fn broken(&self, term: &Arc<Term>) {
        self.stand(term, Standing::Broken);
    }

    fn stand(&self, term: &Arc<Term>, standing: Standing) {
        if let Some((present, now)) = self.present.write().get_mut(&term.index)
            && Arc::ptr_eq(present, term)
        {
            *now = standing;
        }
    }

    /// What is in the log may be more than is known: it has to be read again.
    pub(crate) fn doubt(&self, term: &Term) {
        term.end();
        self.ended.notify_one();
    }

    /// Ends those that do not hold any more, and returns them.
    pub(crate) fn end(&self, holds: impl Fn(&Term) -> bool) -> Vec<Arc<Term>> {
        let mut ended = Vec::new();
        self.present.write().retain(|_, (term, _)| {
            let goes_on = !term.is_over() && holds(term);
            if !goes_on {
                term.end();
                ended.push(term.clone());
            }
            goes_on
        });
        ended
    }
}
