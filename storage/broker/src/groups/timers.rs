//! The deadlines of all groups: one heap, one task.
//!
//! A group has at most a few entries, because one is added only for a deadline before the earliest
//! that it has. Deadlines that move back, as with every heartbeat, leave the entry where it is; the
//! group is then looked at once for nothing, and gets a new one.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{coordinator::Coordinator, group::Group};

/// How long the task sleeps when nothing is due; a new entry wakes it.
const IDLE_SLEEP: Duration = Duration::from_secs(3600);

/// The deadlines of all groups.
#[derive(Default)]
pub(crate) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<Due>>>,
    earlier: Notify,
}

struct Due {
    at: Duration,
    group: Arc<Group>,
}

/// Starts the task.
pub(crate) fn start(coordinator: &Arc<Coordinator>) {
    let task = coordinator.clone();
    let run = async move {
        loop {
            let earlier = task.timers.earlier.notified();
            let now = task.world.env().now();
            while let Some(due) = task.timers.take_due(now) {
                task.tick(&due.group, due.at);
            }
            let wait = task
                .timers
                .next()
                .map_or(IDLE_SLEEP, |at| at.saturating_sub(now));
            tokio::select! {
                biased;
                () = task.world.stop().cancelled() => return,
                () = earlier => {}
                () = task.world.env().sleep(wait) => {}
            }
        }
    };
    coordinator.world.spawn("group timers", Box::pin(run));
}

// === impl Timers ===

impl Timers {
    pub(super) fn add(&self, at: Duration, group: Arc<Group>) {
        let mut heap = self.heap.lock();
        let is_earliest = heap.peek().is_none_or(|Reverse(first)| at < first.at);
        heap.push(Reverse(Due { at, group }));
        drop(heap);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    fn next(&self) -> Option<Duration> {
        self.heap.lock().peek().map(|Reverse(first)| first.at)
    }

    fn take_due(&self, now: Duration) -> Option<Due> {
        let mut heap = self.heap.lock();
        if heap.peek().is_some_and(|Reverse(first)| first.at <= now) {
            return heap.pop().map(|Reverse(due)| due);
        }
        None
    }
}

// === impl Due ===

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at
            .cmp(&other.at)
            .then_with(|| self.group.name.cmp(&other.group.name))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}
