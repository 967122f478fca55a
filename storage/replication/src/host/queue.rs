//! What waits to be done for many segments.

use std::collections::BTreeMap;

use mainstem_record::{PartitionId, SegmentId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What waits to be done, one thing per segment: the last one said counts.
pub(crate) struct Queue<T> {
    waiting: Mutex<BTreeMap<(PartitionId, SegmentId), T>>,
    notify: Notify,
}

// === impl Queue ===

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            notify: Notify::new(),
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn put(&self, id: PartitionId, segment: SegmentId, what: T) {
        self.waiting.lock().insert((id, segment), what);
        self.notify.notify_one();
    }

    /// Puts back what could not be done; what was said since counts.
    pub(super) fn put_back(&self, many: Vec<((PartitionId, SegmentId), T)>) {
        let mut waiting = self.waiting.lock();
        for (key, what) in many {
            waiting.entry(key).or_insert(what);
        }
        self.notify.notify_one();
    }

    /// Waits for something and takes it, at most `count_max`. For one waiter at a time.
    pub(super) async fn next(&self, count_max: usize) -> Vec<((PartitionId, SegmentId), T)> {
        loop {
            let taken = self.take(count_max);
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }

    fn take(&self, count_max: usize) -> Vec<((PartitionId, SegmentId), T)> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < count_max
            && let Some(first) = waiting.pop_first()
        {
            taken.push(first);
        }
        taken
    }
}
