//! Metrics of replication streams.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// Handles, resolved once.
#[derive(Clone)]
pub(super) struct Metrics {
    /// Streams to leaders that are open.
    pub(super) following: IntGauge,
    /// Streams of followers that are open.
    pub(super) leading: IntGauge,
    /// Bytes of batches sent from memory.
    pub(super) sent_tail: IntCounter,
    /// Bytes of batches sent from disk.
    pub(super) sent_catch_up: IntCounter,
    /// Bytes of batches received.
    pub(super) received: IntCounter,
    /// Segments that a leader refused to send.
    pub(super) refused: IntCounter,
    /// How often a segment was followed anew since what came did not go on at the log end.
    pub(super) resumed: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |side: &str| {
            let opts = Opts::new(
                "mainstem_replication_streams",
                "Open replication streams, by the side that this node is on",
            );
            let gauge = IntGauge::with_opts(opts.const_label("side", side))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |opts: Opts| {
            let counter = IntCounter::with_opts(opts)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let sent = |source: &str| {
            let opts = Opts::new(
                "mainstem_replication_sent_bytes_total",
                "Bytes of batches sent to followers, by where they came from",
            );
            counter(opts.const_label("source", source))
        };
        Ok(Self {
            following: gauge("follower")?,
            leading: gauge("leader")?,
            sent_tail: sent("memory")?,
            sent_catch_up: sent("disk")?,
            received: counter(Opts::new(
                "mainstem_replication_received_bytes_total",
                "Bytes of batches received from leaders",
            ))?,
            refused: counter(Opts::new(
                "mainstem_replication_refused_total",
                "Segments that a leader refused to send",
            ))?,
            resumed: counter(Opts::new(
                "mainstem_replication_resumed_total",
                "Segments followed anew since batches did not go on at the log end",
            ))?,
        })
    }
}
