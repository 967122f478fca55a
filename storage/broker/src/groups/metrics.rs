//! What an operator sees of the coordinator; lag is a gauge of the broker's.

use prometheus::{IntCounter, Registry};

/// Counters of the coordinator.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) rebalances: IntCounter,
    pub(crate) members_expired: IntCounter,
    pub(crate) commits: IntCounter,
    pub(crate) store_failures: IntCounter,
    pub(crate) offsets_expired: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let counter = |name: &str, help: &str| {
            IntCounter::new(name, help).expect("the names are constants that Prometheus allows")
        };
        Self {
            rebalances: counter(
                "mainstem_consumer_group_rebalances_total",
                "Rebalances that consumer groups have begun.",
            ),
            members_expired: counter(
                "mainstem_consumer_group_members_expired_total",
                "Group members that were removed because they were silent for too long.",
            ),
            commits: counter(
                "mainstem_consumer_group_offsets_committed_total",
                "Offsets that were committed, counted by partition.",
            ),
            store_failures: counter(
                "mainstem_consumer_group_store_failures_total",
                "Records of groups and offsets that could not be made durable.",
            ),
            offsets_expired: counter(
                "mainstem_consumer_group_offsets_expired_total",
                "Committed offsets that were removed because their retention was over.",
            ),
        }
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let counters = [
            &self.rebalances,
            &self.members_expired,
            &self.commits,
            &self.store_failures,
            &self.offsets_expired,
        ];
        for counter in counters {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }
}
