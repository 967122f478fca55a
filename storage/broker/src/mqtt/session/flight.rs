//! What is in flight to a client. Pure.

use std::sync::Arc;

use mainstem_record::{Offset, PartitionId};

use super::{
    inbox::Inbox,
    records::{FlightOrigin, FlightRecord},
};
use crate::mqtt::{
    Delivery, QoS, SubscriptionIds,
    delivery::{Origin, Token},
    share::ShareGroup,
};

/// A message in flight.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) order: u64,
    pub(crate) qos: QoS,
    pub(crate) released: bool,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: SubscriptionIds,
    pub(crate) source: FlightSource,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
}

/// Where a flight's message can be read again.
#[derive(Debug, Clone)]
pub(crate) enum FlightSource {
    /// In the partition.
    Feed,
    /// In the retained view.
    Retained(String),
    /// In the partition; the group waits for it.
    Shared(Option<Arc<ShareGroup>>),
}

// === impl Flight ===

impl Flight {
    pub(crate) fn record(&self, packet_id: u16) -> FlightRecord {
        let origin = match &self.source {
            FlightSource::Feed => FlightOrigin::Feed,
            FlightSource::Retained(topic) => FlightOrigin::Retained(topic.clone()),
            FlightSource::Shared(_) => FlightOrigin::Shared,
        };
        FlightRecord {
            packet_id,
            qos: self.qos,
            released: self.released,
            retain: self.retain,
            origin,
            partition: self.partition,
            offset: self.offset,
            subscription_ids: self.subscription_ids.as_slice().to_vec(),
        }
    }

    pub(crate) fn from_record(record: &FlightRecord) -> Self {
        let source = match &record.origin {
            FlightOrigin::Feed => FlightSource::Feed,
            FlightOrigin::Retained(topic) => FlightSource::Retained(topic.clone()),
            FlightOrigin::Shared => FlightSource::Shared(None),
        };
        Self {
            order: 0,
            qos: record.qos,
            released: record.released,
            retain: record.retain,
            subscription_ids: SubscriptionIds::from_slice(&record.subscription_ids),
            source,
            partition: record.partition,
            offset: record.offset,
        }
    }
}

// === impl Inbox ===

impl Inbox {
    /// A message goes out under a packet id.
    pub(crate) fn sent(&mut self, packet_id: u16, delivery: &Delivery) {
        let token = &delivery.token;
        // In order: what was handed out before it and is still here was let go.
        if let Some(at) = self.handed.iter().position(|other| other.is_same(token)) {
            let passed: Vec<Token> = self.handed.drain(..=at).collect();
            for passed in &passed[..at] {
                self.acknowledge_shared(passed);
            }
        }
        let source = match &token.origin {
            Origin::Feed => FlightSource::Feed,
            Origin::Retained => FlightSource::Retained(delivery.message.topic.clone()),
            Origin::Shared(group) => FlightSource::Shared(Some(group.clone())),
        };
        self.flights += 1;
        let flight = Flight {
            order: self.flights,
            qos: delivery.qos,
            released: false,
            retain: delivery.retain,
            subscription_ids: delivery.subscription_ids.clone(),
            source,
            partition: token.partition,
            offset: token.offset,
        };
        self.inflight.insert(packet_id, flight);
    }

    /// PUBREC came. Whether the packet id is in flight.
    pub(crate) fn received(&mut self, packet_id: u16) -> bool {
        let Some(flight) = self.inflight.get_mut(&packet_id) else {
            return false;
        };
        flight.released = true;
        // The client has it: the group need not wait for it any more.
        if let FlightSource::Shared(group) = &mut flight.source
            && let Some(group) = group.take()
        {
            group.acknowledge(flight.partition, flight.offset);
        }
        true
    }

    /// The client is done with it. Whether it was in flight.
    pub(crate) fn completed(&mut self, packet_id: u16) -> bool {
        let Some(flight) = self.inflight.remove(&packet_id) else {
            return false;
        };
        if let FlightSource::Shared(Some(group)) = &flight.source {
            group.acknowledge(flight.partition, flight.offset);
        }
        true
    }

    /// What is in flight, in the order in which it was sent.
    pub(crate) fn inflight(&self) -> Vec<(u16, &Flight)> {
        let mut flights: Vec<(u16, &Flight)> = self
            .inflight
            .iter()
            .map(|(id, flight)| (*id, flight))
            .collect();
        flights.sort_by_key(|(_, flight)| flight.order);
        flights
    }

    pub(crate) fn inflight_count(&self) -> usize {
        self.inflight.len()
    }

    /// Puts back what is known of an earlier connection's flights.
    pub(crate) fn restore_flight(&mut self, packet_id: u16, mut flight: Flight) {
        self.flights += 1;
        flight.order = self.flights;
        self.inflight.insert(packet_id, flight);
    }

    /// Takes a flight out that cannot be resumed.
    pub(crate) fn drop_flight(&mut self, packet_id: u16) {
        self.inflight.remove(&packet_id);
    }
}
