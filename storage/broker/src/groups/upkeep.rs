//! What happens to offsets without anybody asking: retention, and the end of topics.

use std::{sync::Arc, time::Duration};

use super::{coordinator::Coordinator, group::Group};
use crate::ErrorCode;

/// Metadata changes with every segment; topics that are gone are looked for at most so often.
/// Until then their commits are hidden: a fetch compares topic ids.
const TOPIC_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

const MINUTE_MS: i64 = 60_000;

/// Starts both tasks.
pub(crate) fn start(coordinator: &Arc<Coordinator>) {
    let task = coordinator.clone();
    let retention = async move {
        let interval = Duration::from_millis(task.config.offsets_retention_check_ms);
        while sleep(&task, interval).await {
            for group in task.all() {
                task.expire(&group).await;
            }
        }
    };
    coordinator
        .world
        .spawn("offset retention", Box::pin(retention));

    let task = coordinator.clone();
    let mut changes = coordinator.world.topic_changes();
    let topics = async move {
        loop {
            for group in task.all() {
                task.drop_orphans(&group).await;
            }
            tokio::select! {
                biased;
                () = task.world.stop().cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            if !sleep(&task, TOPIC_SWEEP_INTERVAL).await {
                return;
            }
        }
    };
    coordinator
        .world
        .spawn("offsets of deleted topics", Box::pin(topics));
}

/// False when the broker ends.
async fn sleep(coordinator: &Coordinator, duration: Duration) -> bool {
    tokio::select! {
        biased;
        () = coordinator.world.stop().cancelled() => false,
        () = coordinator.world.env().sleep(duration) => true,
    }
}

// === impl Coordinator ===

impl Coordinator {
    /// Removes a group's offsets whose time is over, and the group with the last of them.
    pub(super) async fn expire(self: &Arc<Self>, group: &Arc<Group>) {
        let retention_ms = self
            .config
            .offsets_retention_minutes
            .saturating_mul(MINUTE_MS);
        let now_ms = self.now().wall_ms;
        let find = || {
            let inside = group.inside.lock();
            inside
                .offsets
                .expired(&inside.retention(), retention_ms, now_ms)
        };
        if !find().is_empty() {
            let _alone = group.order.write().await;
            // Again: somebody may have committed or joined in the meantime.
            let places = find();
            let count = places.len() as u64;
            if self.bury(group, places, false).await.is_ok() {
                self.metrics.offsets_expired.inc_by(count);
            }
        }
        let is_over = {
            let inside = group.inside.lock();
            inside.offsets.is_empty()
                && inside.machine.was_stored()
                && inside.machine.can_be_forgotten()
        };
        if is_over {
            // A commit or join may still get in first: then there is nothing to delete.
            let result = self.delete_if_unused(group).await;
            if let Err(error) = result {
                tracing::debug!(group = %group.name, error = error.name(), "group not removed");
            }
        } else {
            self.drop_if_vacant(group);
        }
    }

    async fn delete_if_unused(self: &Arc<Self>, group: &Arc<Group>) -> Result<(), ErrorCode> {
        let _alone = group.order.write().await;
        {
            let mut inside = group.inside.lock();
            let unused = inside.offsets.is_empty() && inside.machine.can_be_forgotten();
            if !unused || !inside.machine.kill() {
                return Ok(());
            }
        }
        if let Err(error) = self.bury(group, Vec::new(), true).await {
            group.inside.lock().machine.revive();
            return Err(error);
        }
        self.forget(group);
        Ok(())
    }

    /// Removes the commits of topics that are gone, also where another topic has the name now.
    pub(super) async fn drop_orphans(self: &Arc<Self>, group: &Arc<Group>) {
        let find = || {
            let current = |topic: &str| self.world.topic(topic).map(|view| view.id);
            group.inside.lock().offsets.orphans(current)
        };
        if find().is_empty() {
            return;
        }
        let _alone = group.order.write().await;
        // A failure is logged; the commits stay hidden and go with the next change of metadata.
        let _ = self.bury(group, find(), false).await;
    }
}
