//! The metrics of the MQTT side of the broker. Handles are resolved once.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::delivery::Lost;

/// Handles on all metrics of MQTT sessions and delivery.
pub(crate) struct MqttMetrics {
    pub(crate) sessions_online: IntGauge,
    pub(crate) sessions_offline: IntGauge,
    pub(crate) subscriptions: IntGauge,
    pub(crate) inflight: IntGauge,
    pub(crate) retained: IntGauge,
    pub(crate) received: [IntCounter; 3],
    pub(crate) sent: [IntCounter; 3],
    pub(crate) overflow: IntCounter,
    /// QoS 0 that found a session's queue full.
    pub(crate) dropped_queue_full: IntCounter,
    /// Expired before it was sent.
    pub(crate) dropped_expired: IntCounter,
    /// Gone from the log before a session came to it.
    pub(crate) dropped_retention: IntCounter,
    pub(crate) dropped_damaged: IntCounter,
    /// QoS 0 publishes that were shed.
    pub(crate) dropped_shed: IntCounter,
    /// Clean sessions that were too far behind.
    pub(crate) dropped_slow: IntCounter,
    /// Batches that could not be read.
    pub(crate) dropped_unreadable: IntCounter,
    /// Headers that have no place in an MQTT message.
    pub(crate) dropped_properties: IntCounter,
    /// Retained messages beyond the limits.
    pub(crate) dropped_retained: IntCounter,
    /// Wills that could not be published.
    pub(crate) dropped_will: IntCounter,
}

// === impl MqttMetrics ===

impl MqttMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sessions = IntGaugeVec::new(
            Opts::new(
                "mainstem_mqtt_sessions",
                "MQTT sessions, with and without a connection",
            ),
            &["state"],
        )?;
        registry.register(Box::new(sessions.clone()))?;
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let received = counters(
            "mainstem_mqtt_messages_received_total",
            "PUBLISHes of MQTT clients",
            "qos",
        )?;
        let sent = counters(
            "mainstem_mqtt_messages_sent_total",
            "PUBLISHes given out to MQTT clients",
            "qos",
        )?;
        let dropped = counters(
            "mainstem_mqtt_dropped_total",
            "What was not delivered to MQTT clients, and why",
            "reason",
        )?;
        let overflow = IntCounter::new(
            "mainstem_mqtt_overflow_total",
            "MQTT messages whose first level has no Kafka topic of its own",
        )?;
        registry.register(Box::new(overflow.clone()))?;
        let by_qos = |counters: &IntCounterVec| {
            ["0", "1", "2"].map(|qos| counters.with_label_values(&[qos]))
        };
        let reason = |reason: &str| dropped.with_label_values(&[reason]);
        Ok(Self {
            sessions_online: sessions.with_label_values(&["online"]),
            sessions_offline: sessions.with_label_values(&["offline"]),
            subscriptions: gauge(
                "mainstem_mqtt_subscriptions",
                "Subscriptions of MQTT sessions that have a connection",
            )?,
            inflight: gauge(
                "mainstem_mqtt_inflight",
                "QoS 1 and 2 messages sent to MQTT clients and not acknowledged",
            )?,
            retained: gauge("mainstem_mqtt_retained_messages", "Retained MQTT messages")?,
            received: by_qos(&received),
            sent: by_qos(&sent),
            overflow,
            dropped_queue_full: reason("queue_full"),
            dropped_expired: reason("expired"),
            dropped_retention: reason("retention"),
            dropped_damaged: reason("damaged"),
            dropped_shed: reason("shed"),
            dropped_slow: reason("slow_consumer"),
            dropped_unreadable: reason("unreadable_batch"),
            dropped_properties: reason("header"),
            dropped_retained: reason("retained_limit"),
            dropped_will: reason("will"),
        })
    }

    /// Where to count records that cannot be had any more.
    pub(crate) fn dropped_lost(&self, why: Lost) -> &IntCounter {
        match why {
            Lost::Retention => &self.dropped_retention,
            Lost::Damage => &self.dropped_damaged,
        }
    }
}
