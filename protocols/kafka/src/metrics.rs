//! What a scrape sees of the Kafka side. Every handle is resolved once.

use std::time::Duration;

use mainstem_broker::ErrorCode;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::api::APIS;

/// Upper bounds of latency buckets, in seconds: from a metadata answer out of memory to a long
/// poll.
const LATENCY_BUCKETS_S: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

/// Why a connection ended that the client did not close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Bytes that are no request.
    Malformed,
    /// An API or version that is not served.
    Unsupported,
    /// No request for too long.
    Idle,
    /// A request or a reader that stopped halfway.
    Stalled,
    /// acks=0 and the batch was refused: there is no other way to tell.
    Refused,
    /// Our own fault: a response that could not be encoded.
    Internal,
}

/// The metrics of the Kafka protocol.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Vec<IntCounter>,
    seconds: Vec<Histogram>,
    errors: IntCounterVec,
    closed: IntCounterVec,
    /// Bytes of batches that producers had acknowledged.
    pub(crate) produced_bytes: IntCounter,
    /// Records of them.
    pub(crate) produced_records: IntCounter,
    /// Bytes of batches that consumers were sent.
    pub(crate) fetched_bytes: IntCounter,
    /// Records of them.
    pub(crate) fetched_records: IntCounter,
    /// From a produce request with acks=all being read to all its batches being durable.
    pub(crate) produce_durable: Histogram,
    /// Incremental fetch sessions that are kept.
    pub(crate) fetch_sessions: IntGauge,
}

// === impl Closed ===

impl Closed {
    const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Refused => "refused",
            Self::Internal => "internal",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers all metrics of the protocol.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = labelled(
            registry,
            "mainstem_kafka_requests_total",
            "Kafka requests, by API.",
            &["api"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "mainstem_kafka_request_seconds",
                "From a Kafka request being read to its response being ready, in seconds, by API. \
                 Long polls wait on purpose.",
            )
            .buckets(LATENCY_BUCKETS_S.to_vec()),
            &["api"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let produce_durable = Histogram::with_opts(
            HistogramOpts::new(
                "mainstem_produce_durable_seconds",
                "From a produce request with acks=all being read to its batches being as durable \
                 as their topics say, in seconds.",
            )
            .buckets(LATENCY_BUCKETS_S.to_vec()),
        )?;
        registry.register(Box::new(produce_durable.clone()))?;
        let fetch_sessions = IntGauge::new(
            "mainstem_kafka_fetch_sessions",
            "Incremental fetch sessions that are kept.",
        )?;
        registry.register(Box::new(fetch_sessions.clone()))?;
        Ok(Self {
            requests: APIS
                .iter()
                .map(|api| requests.with_label_values(&[api.name]))
                .collect(),
            seconds: APIS
                .iter()
                .map(|api| seconds.with_label_values(&[api.name]))
                .collect(),
            errors: labelled(
                registry,
                "mainstem_kafka_request_errors_total",
                "Error codes in responses to Kafka requests, by API and code.",
                &["api", "code"],
            )?,
            closed: labelled(
                registry,
                "mainstem_kafka_closed_total",
                "Kafka connections that the broker closed, by reason.",
                &["reason"],
            )?,
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
            produce_durable,
            fetch_sessions,
        })
    }

    /// A request of the API at `api` in the table was read.
    pub(crate) fn began(&self, api: usize) {
        if let Some(counter) = self.requests.get(api) {
            counter.inc();
        }
    }

    /// Its response is ready after `elapsed`.
    pub(crate) fn finished(&self, api: usize, elapsed: Duration) {
        if let Some(histogram) = self.seconds.get(api) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// An error code goes into a response.
    pub(crate) fn error(&self, api: usize, code: ErrorCode) {
        let name = APIS.get(api).map_or("", |api| api.name);
        self.errors.with_label_values(&[name, code.name()]).inc();
    }

    /// A connection is closed by us.
    pub(crate) fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.label()]).inc();
    }
}

fn labelled(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// A counter that the other protocol has too, each with its own constant label.
fn flow(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::with_opts(Opts::new(name, help).const_label("protocol", "kafka"))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_register_once_and_can_be_scraped() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("register");
        assert!(Metrics::register(&registry).is_err());
        metrics.began(0);
        metrics.error(0, ErrorCode::CorruptMessage);
        metrics.closed(Closed::Idle);
        let families = registry.gather();
        assert!(
            families
                .iter()
                .all(|family| family.name().starts_with("mainstem_"))
        );
    }
}
