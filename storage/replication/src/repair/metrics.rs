//! Metrics of copies.

use prometheus::{IntCounter, IntGauge, Registry};

/// Handles, resolved once.
#[derive(Clone)]
pub(super) struct Metrics {
    /// Sealed segments that this node is to hold and does not.
    pub(super) missing: IntGauge,
    /// Sealed segments that were copied, or found to be here.
    pub(super) copied: IntCounter,
    /// Bytes of them that were copied.
    pub(super) copied_bytes: IntCounter,
    /// Copies that came to nothing.
    pub(super) failed: IntCounter,
    /// Bytes of tails of fenced segments that were copied.
    pub(super) tail_bytes: IntCounter,
    /// Reads of segments that are not held here.
    pub(super) elsewhere: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let missing = IntGauge::new(
            "mainstem_repair_segments_missing",
            "Sealed segments that this node is to hold and does not have whole",
        )?;
        registry.register(Box::new(missing.clone()))?;
        Ok(Self {
            missing,
            copied: counter(
                "mainstem_repair_segments_copied_total",
                "Sealed segments that were copied, or found to be whole",
            )?,
            copied_bytes: counter(
                "mainstem_repair_copied_bytes_total",
                "Bytes of sealed segments that were copied from other brokers",
            )?,
            failed: counter(
                "mainstem_repair_failures_total",
                "Copies of sealed segments that failed, and are tried again",
            )?,
            tail_bytes: counter(
                "mainstem_repair_tail_bytes_total",
                "Bytes of tails that were copied for seals",
            )?,
            elsewhere: counter(
                "mainstem_repair_remote_reads_total",
                "Reads of segments that are not on this broker",
            )?,
        })
    }
}
