//! What the network layer counts. Labels are the names of listeners and a few reasons: bounded.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::NetError;

/// The metrics of all listeners of a node, and the source of its connection ids. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetMetrics {
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    refused: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    last_id: Arc<AtomicU64>,
}

/// The metrics of one listener, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct ListenerMetrics {
    pub(crate) connections: IntGauge,
    pub(crate) accepted: IntCounter,
    pub(crate) refused_limit: IntCounter,
    pub(crate) refused_error: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    last_id: Arc<AtomicU64>,
}

/// Counts a connection as live until dropped.
pub(crate) struct Live(IntGauge);

// === impl NetMetrics ===

impl NetMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// They are registered already.
    pub fn register(registry: &Registry) -> Result<Self, NetError> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<_, NetError> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let live = Opts::new("mainstem_connections", "Connections that are open.");
        let connections = IntGaugeVec::new(live, &["listener"])?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            connections,
            accepted: counter(
                "mainstem_connections_accepted_total",
                "Connections that were accepted and served.",
                &["listener"],
            )?,
            refused: counter(
                "mainstem_connections_refused_total",
                "Connections that were closed at once or could not be accepted.",
                &["listener", "reason"],
            )?,
            received: counter(
                "mainstem_received_bytes_total",
                "Bytes read from connections.",
                &["listener"],
            )?,
            sent: counter(
                "mainstem_sent_bytes_total",
                "Bytes written to connections.",
                &["listener"],
            )?,
            last_id: Arc::default(),
        })
    }

    pub(crate) fn listener(&self, name: &'static str) -> ListenerMetrics {
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            accepted: self.accepted.with_label_values(&[name]),
            refused_limit: self.refused.with_label_values(&[name, "limit"]),
            refused_error: self.refused.with_label_values(&[name, "error"]),
            received: self.received.with_label_values(&[name]),
            sent: self.sent.with_label_values(&[name]),
            last_id: Arc::clone(&self.last_id),
        }
    }
}

// === impl ListenerMetrics ===

impl ListenerMetrics {
    /// A connection id that no other listener of these metrics gives.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn live(&self) -> Live {
        self.connections.inc();
        Live(self.connections.clone())
    }
}

// === impl Live ===

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}
