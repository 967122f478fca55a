//! The MQTT side of the broker: sessions, delivery, retained messages, wills and shared
//! subscriptions, over the log.
//!
//! - [`mapping`] (pure): how MQTT topics and messages are Kafka topics and records, both ways.
//! - [`trie`], [`topic`] (pure): subscriptions and their matching.
//! - [`session`]: what is known of a client. Its durable part is the records of `__mqtt_sessions`.
//! - [`delivery`]: from the log to the sessions; a session is subscriptions and a cursor per
//!   partition, so nothing is copied for those who are away.
//! - [`publish`]: where a publish goes, and its append.
//! - [`overflow`]: says in the log what a Kafka consumer will not find under its own name.
//! - [`retained`], [`wills`], [`share`], [`timers`].
//!
//! What may not live here: packets, sockets, keep alive, topic aliases, packet ids of outgoing
//! messages: the protocol crate's affair. It calls [`Mqtt::connect`] and then the [`Session`].
//!
//! Invariants:
//! - I-MQTT-1: nothing of QoS 1 or 2 is missed by a persistent session (`session/inbox.rs`).
//! - I-MQTT-2: an inbound QoS 2 publish is stored once (`session/inbound.rs`).
//! - I-MQTT-3: an outbound QoS 2 message goes out under one packet id only: the session's outbound
//!   record, written before it goes out, is past its offset and has it in flight.
//! - I-MQTT-4: the owner epoch of a session rises with every connection; older handles are refused.

pub(crate) mod codec;
mod delivery;
mod hub;
mod labels;
mod limits;
mod mapping;
mod metrics;
mod overflow;
mod publish;
mod retained;
mod serve;
mod session;
mod share;
mod timers;
mod topic;
mod trie;
mod types;
mod wills;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

pub use mapping::forged_header;
pub use session::{PublishTicket, Session};
pub use types::{
    ConnectError, ConnectRequest, Connected, Delivery, Disconnect, ENCODING_SLOTS, Message,
    MessageProperties, MqttStats, OutboundPhase, Publish, PublishError, QoS, Refusal, Resume,
    SessionEvent, SubscribeFilter, SubscriptionIds, Will,
};

use self::hub::Hub;
use crate::{
    caller::Caller,
    core::{BrokerError, Core},
};

/// The MQTT side of one node. Cheap to clone.
#[derive(Clone)]
pub struct Mqtt {
    hub: Arc<Hub>,
}

// === impl Mqtt ===

impl Mqtt {
    /// Opens `__mqtt_sessions` and `__mqtt_retained`, rebuilds sessions and retained messages by
    /// replay, and starts the background work.
    pub(crate) async fn start(core: &Arc<Core>) -> Result<Self, BrokerError> {
        core.log
            .set_labels(Arc::new(labels::TopicLabels::new(core)));
        Ok(Self {
            hub: Hub::start(core).await?,
        })
    }

    /// Tells every connection [`SessionEvent::Shutdown`] and makes the positions of persistent
    /// sessions durable. New connections are refused.
    pub(crate) async fn close(&self) {
        self.hub.close().await;
    }

    /// A CONNECT that the codec has accepted. A connection that has the session now gets
    /// [`SessionEvent::TakenOver`], and its handle is fenced.
    ///
    /// # Errors
    /// See [`ConnectError`]; each has its v5 reason code.
    pub async fn connect(
        &self,
        caller: &Caller,
        request: ConnectRequest,
    ) -> Result<Connected, ConnectError> {
        self.hub.connect(caller, request).await
    }

    /// Gives a message that is not in the log (`$SYS` topics) to the present subscribers, with
    /// QoS 0. It is dropped for those who have no room.
    pub fn broadcast(&self, topic: &str, payload: Bytes) {
        self.hub.broadcast(topic, payload);
    }

    /// Present numbers.
    pub fn stats(&self) -> MqttStats {
        self.hub.stats()
    }
}
