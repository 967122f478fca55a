//! Which of many partitions have moved, for one who looks after all of them.

use std::collections::BTreeSet;

use mainstem_record::PartitionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A set of partitions that fills up until it is taken; for one waiter at a time.
#[derive(Debug, Default)]
pub struct Moved {
    ids: Mutex<BTreeSet<PartitionId>>,
    notify: Notify,
}

// === impl Moved ===

impl Moved {
    /// That partition has moved.
    pub fn add(&self, id: PartitionId) {
        if self.ids.lock().insert(id) {
            self.notify.notify_one();
        }
    }

    /// Those partitions have moved.
    pub fn add_all(&self, ids: impl IntoIterator<Item = PartitionId>) {
        self.ids.lock().extend(ids);
        self.notify.notify_one();
    }

    /// What has moved since it was last taken, without waiting.
    pub fn take(&self) -> BTreeSet<PartitionId> {
        std::mem::take(&mut *self.ids.lock())
    }

    /// Waits until something has moved, and takes it. What was taken is not told again, so it is to
    /// be looked at even if this call's caller goes away.
    pub async fn next(&self) -> BTreeSet<PartitionId> {
        loop {
            let ids = self.take();
            if !ids.is_empty() {
                return ids;
            }
            self.notify.notified().await;
        }
    }
}
