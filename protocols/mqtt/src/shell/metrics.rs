//! What is counted.

use mainstem_broker::QoS;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::codec::{Version, packet::PacketType};

/// Seconds of the publish histogram: from what memory takes to what a stalled disk takes.
const PUBLISH_SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// The label of each packet type, by its number.
const TYPES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

/// Counters of the protocol. A label has few values, all of them ours.
pub(crate) struct Metrics {
    connections: IntGaugeVec,
    received: [IntCounter; 16],
    sent: [IntCounter; 16],
    disconnects: IntCounterVec,
    publish_seconds: [Histogram; 3],
    unsent: IntCounterVec,
    produced_bytes: IntCounter,
    produced_records: IntCounter,
    fetched_bytes: IntCounter,
    fetched_records: IntCounter,
}

/// A connection that is counted as live until this is dropped.
pub(crate) struct Live(IntGauge);

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGaugeVec::new(
            Opts::new(
                "mainstem_mqtt_connections",
                "MQTT clients that are connected",
            ),
            &["version"],
        )?;
        let received = by_type(
            registry,
            "mainstem_mqtt_packets_received_total",
            "Packets received from MQTT clients",
        )?;
        let sent = by_type(
            registry,
            "mainstem_mqtt_packets_sent_total",
            "Packets handed to the sockets of MQTT clients",
        )?;
        let disconnects = IntCounterVec::new(
            Opts::new(
                "mainstem_mqtt_disconnects_total",
                "Connections of MQTT clients that ended or were refused, by reason",
            ),
            &["reason"],
        )?;
        let publish_seconds = HistogramVec::new(
            HistogramOpts::new(
                "mainstem_mqtt_publish_seconds",
                "Seconds from a decoded PUBLISH until it may be acknowledged",
            )
            .buckets(PUBLISH_SECONDS.to_vec()),
            &["qos"],
        )?;
        let unsent = IntCounterVec::new(
            Opts::new(
                "mainstem_mqtt_unsent_total",
                "Messages that were due to a client and not sent, by reason",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(disconnects.clone()))?;
        registry.register(Box::new(publish_seconds.clone()))?;
        registry.register(Box::new(unsent.clone()))?;
        Ok(Self {
            connections,
            received,
            sent,
            disconnects,
            publish_seconds: ["0", "1", "2"].map(|qos| publish_seconds.with_label_values(&[qos])),
            unsent,
            produced_bytes: flow(
                registry,
                "mainstem_produced_bytes_total",
                "Bytes of record batches that were acknowledged to producers, by protocol.",
            )?,
            produced_records: flow(
                registry,
                "mainstem_produced_records_total",
                "Records that were acknowledged to producers, by protocol.",
            )?,
            fetched_bytes: flow(
                registry,
                "mainstem_fetched_bytes_total",
                "Bytes of record batches that were sent to consumers, by protocol.",
            )?,
            fetched_records: flow(
                registry,
                "mainstem_fetched_records_total",
                "Records that were sent to consumers, by protocol.",
            )?,
        })
    }

    /// Counts a connection as live.
    pub(crate) fn live(&self, version: Version) -> Live {
        let label = match version {
            Version::V31 => "3.1",
            Version::V311 => "3.1.1",
            Version::V5 => "5",
        };
        let gauge = self.connections.with_label_values(&[label]);
        gauge.inc();
        Live(gauge)
    }

    /// A packet came; `first` is its first byte.
    pub(crate) fn received(&self, first: u8) {
        if let Some(counter) = self.received.get(usize::from(first >> 4)) {
            counter.inc();
        }
    }

    /// A packet goes out.
    pub(crate) fn sent(&self, kind: PacketType) {
        if let Some(counter) = self.sent.get(kind as usize) {
            counter.inc();
        }
    }

    /// A connection ended; `reason` is one of a fixed set.
    pub(crate) fn disconnected(&self, reason: &'static str) {
        self.disconnects.with_label_values(&[reason]).inc();
    }

    /// A message may be acknowledged.
    pub(crate) fn published(&self, qos: QoS, elapsed: std::time::Duration) {
        if let Some(histogram) = self.publish_seconds.get(qos as usize) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// A message with so many bytes of payload was stored.
    pub(crate) fn produced(&self, payload_bytes: usize) {
        self.produced_bytes.inc_by(payload_bytes as u64);
        self.produced_records.inc();
    }

    /// A message with so many bytes of payload goes out.
    pub(crate) fn fetched(&self, payload_bytes: usize) {
        self.fetched_bytes.inc_by(payload_bytes as u64);
        self.fetched_records.inc();
    }

    /// A message was not sent; `reason` is one of a fixed set.
    pub(crate) fn unsent(&self, reason: &'static str) {
        self.unsent.with_label_values(&[reason]).inc();
    }
}

fn by_type(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<[IntCounter; 16], prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &["type"])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(TYPES.map(|kind| counters.with_label_values(&[kind])))
}

/// A counter that the other protocol has too, each with its own constant label. The registry takes
/// both only if their help is the same; here a batch is one message, and its bytes are the payload.
fn flow(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::with_opts(Opts::new(name, help).const_label("protocol", "mqtt"))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

// === impl Live ===

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help texts of the Kafka protocol, which registers the same names.
    const SHARED: [(&str, &str); 4] = [
        (
            "mainstem_produced_bytes_total",
            "Bytes of record batches that were acknowledged to producers, by protocol.",
        ),
        (
            "mainstem_produced_records_total",
            "Records that were acknowledged to producers, by protocol.",
        ),
        (
            "mainstem_fetched_bytes_total",
            "Bytes of record batches that were sent to consumers, by protocol.",
        ),
        (
            "mainstem_fetched_records_total",
            "Records that were sent to consumers, by protocol.",
        ),
    ];

    #[test]
    fn flows_of_both_protocols_are_in_one_registry() {
        let registry = Registry::new();
        for (name, help) in SHARED {
            let opts = Opts::new(name, help).const_label("protocol", "kafka");
            let counter = IntCounter::with_opts(opts).expect("a counter");
            registry.register(Box::new(counter)).expect("registered");
        }
        let metrics = Metrics::register(&registry).expect("registered beside them");
        metrics.produced(7);
        let families = registry.gather();
        for (name, _) in SHARED {
            let family = families.iter().find(|family| family.name() == name);
            let count = family.map_or(0, |family| family.get_metric().len());
            assert_eq!(count, 2, "{name}");
        }
    }
}
