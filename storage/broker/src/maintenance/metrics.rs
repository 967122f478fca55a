//! What an operator sees of compaction.

use prometheus::{Counter, Gauge, IntCounter, IntGauge, Registry};

#[derive(Debug, Clone)]
pub(super) struct CleanerMetrics {
    pub(super) runs: IntCounter,
    pub(super) failures: IntCounter,
    pub(super) seconds: Counter,
    pub(super) bytes_in: IntCounter,
    pub(super) bytes_out: IntCounter,
    pub(super) dirty_ratio_max: Gauge,
    pub(super) uncleanable: IntGauge,
}

// === impl CleanerMetrics ===

impl CleanerMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let seconds = Counter::new(
            "mainstem_compaction_seconds_total",
            "Time spent on compactions, waits of the throttle included.",
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let dirty_ratio_max = Gauge::new(
            "mainstem_compaction_dirty_ratio_max",
            "The greatest share of bytes that are not compacted of any compacted partition.",
        )?;
        registry.register(Box::new(dirty_ratio_max.clone()))?;
        let uncleanable = IntGauge::new(
            "mainstem_compaction_uncleanable_partitions",
            "Partitions that are not compacted any more because of damage.",
        )?;
        registry.register(Box::new(uncleanable.clone()))?;
        Ok(Self {
            runs: counter(
                "mainstem_compaction_runs_total",
                "Compactions of a partition.",
            )?,
            failures: counter(
                "mainstem_compaction_failures_total",
                "Compactions that failed.",
            )?,
            seconds,
            bytes_in: counter(
                "mainstem_compaction_bytes_in_total",
                "Bytes of the segments that compacted ones have replaced.",
            )?,
            bytes_out: counter(
                "mainstem_compaction_bytes_out_total",
                "Bytes of the compacted segments.",
            )?,
            dirty_ratio_max,
            uncleanable,
        })
    }
}
