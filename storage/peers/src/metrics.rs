//! What is counted. Labels are lanes, sides and reasons of this code: bounded.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{CallError, HandshakeError, Lane, Unreachable};

/// All metrics of a node's peers.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    connections: IntGaugeVec,
    closed: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    calls: IntCounterVec,
    served: IntCounterVec,
    handshakes_refused: IntCounterVec,
    dials_failed: IntCounterVec,
    pub(crate) accepts_failed: IntCounter,
    pub(crate) evicted: IntCounter,
}

/// Counts a connection as live until dropped.
#[derive(Debug)]
pub(crate) struct Live(IntGauge);

/// The metrics of one connection, looked up once.
#[derive(Debug)]
pub(crate) struct ConnectionMetrics {
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
    pub(crate) answered: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) busy: IntCounter,
    _live: Live,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let live = Opts::new(
            "mainstem_peers_connections",
            "Connections with other nodes that are open, by lane and by who dialled.",
        );
        let connections = IntGaugeVec::new(live, &["lane", "side"])?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            connections,
            closed: counters(
                "mainstem_peers_connections_closed_total",
                "Connections with other nodes that ended, by reason.",
                &["reason"],
            )?,
            received: counters(
                "mainstem_peers_received_bytes_total",
                "Bytes read from other nodes.",
                &["lane"],
            )?,
            sent: counters(
                "mainstem_peers_sent_bytes_total",
                "Bytes written to other nodes.",
                &["lane"],
            )?,
            calls: counters(
                "mainstem_peers_calls_total",
                "Calls to other nodes and streams opened there, by outcome.",
                &["lane", "outcome"],
            )?,
            served: counters(
                "mainstem_peers_served_total",
                "Calls and streams of other nodes, by outcome.",
                &["lane", "outcome"],
            )?,
            handshakes_refused: counters(
                "mainstem_peers_handshakes_refused_total",
                "Connections that were not wanted, by who dialled and by reason.",
                &["side", "reason"],
            )?,
            dials_failed: counters(
                "mainstem_peers_dials_failed_total",
                "Tries to connect to another node that failed, by reason.",
                &["reason"],
            )?,
            accepts_failed: counter(
                "mainstem_peers_accepts_failed_total",
                "Connections that could not be accepted.",
            )?,
            evicted: counter(
                "mainstem_peers_handshakes_evicted_total",
                "Handshakes that were given up for newer ones.",
            )?,
        })
    }

    pub(crate) fn connection(&self, lane: Lane, side: &'static str) -> ConnectionMetrics {
        let lane = lane.name();
        let live = self.connections.with_label_values(&[lane, side]);
        live.inc();
        let served = |outcome| self.served.with_label_values(&[lane, outcome]);
        ConnectionMetrics {
            received: self.received.with_label_values(&[lane]),
            sent: self.sent.with_label_values(&[lane]),
            answered: served("answered"),
            refused: served("refused"),
            failed: served("no_service"),
            busy: served("busy"),
            _live: Live(live),
        }
    }

    pub(crate) fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }

    pub(crate) fn called<T>(&self, lane: Lane, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => "answered",
            Err(CallError::Unreachable(_)) => "unreachable",
            Err(CallError::TimedOut) => "timed_out",
            Err(CallError::Lost) => "lost",
            Err(CallError::Refused { .. }) => "refused",
            Err(CallError::Busy) => "busy",
            Err(CallError::NoService) => "no_service",
            Err(CallError::TooLarge { .. }) => "too_large",
            Err(CallError::Closed) => "closed",
        };
        self.calls.with_label_values(&[lane.name(), outcome]).inc();
    }

    pub(crate) fn handshake_refused(&self, side: &str, error: &HandshakeError) {
        let reason = match error {
            HandshakeError::Version { .. } => "version",
            HandshakeError::Secret => "secret",
            HandshakeError::Cluster { .. } => "cluster",
            HandshakeError::Itself => "itself",
            HandshakeError::OwnNodeId { .. } => "own_node_id",
            HandshakeError::Duplicate { .. } => "duplicate",
            HandshakeError::WrongNode { .. } => "wrong_node",
            HandshakeError::TooMany => "too_many",
            HandshakeError::TimedOut => "timed_out",
            HandshakeError::Ended => "ended",
            HandshakeError::Malformed(_) => "malformed",
            HandshakeError::Other(_) => "other",
        };
        self.handshakes_refused
            .with_label_values(&[side, reason])
            .inc();
    }

    pub(crate) fn dial_failed(&self, reason: &Unreachable) {
        let reason = match reason {
            Unreachable::NoAddress => "no_address",
            Unreachable::Itself => "itself",
            Unreachable::Refused => "refused",
            Unreachable::TimedOut => "timed_out",
            Unreachable::Unresolved(_) => "unresolved",
            Unreachable::SecretNeeded => "secret_needed",
            Unreachable::Failed(_) => "failed",
            Unreachable::Handshake(_) => "handshake",
        };
        self.dials_failed.with_label_values(&[reason]).inc();
    }
}

// === impl Live ===

impl Drop for Live {
    fn drop(&mut self) {
        self.0.dec();
    }
}
