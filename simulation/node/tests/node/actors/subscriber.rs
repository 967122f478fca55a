//! An MQTT subscriber with a session.

use std::collections::{BTreeSet, HashMap};

use super::{PAUSE, publisher::check_order};
use crate::{
    kafka::Gone,
    mqtt::{Mqtt, Packet},
    node::Door,
};

/// The subscriber.
pub(crate) struct Subscriber {
    name: String,
    /// First level of the topics, and the QoS.
    filters: Vec<(String, u8)>,
    has_session: bool,
    is_subscribed: bool,
    /// QoS 2: received, not yet released.
    unreleased: BTreeSet<u16>,
    /// What came, by topic, in order; QoS 2 without what is known to be repeated.
    received: HashMap<String, Vec<String>>,
}

// === impl Subscriber ===

impl Subscriber {
    pub(crate) fn new(name: &str, filters: &[(&str, u8)]) -> Self {
        let filters = filters.iter();
        Self {
            name: name.to_owned(),
            filters: filters
                .map(|(topic, qos)| ((*topic).to_owned(), *qos))
                .collect(),
            has_session: false,
            is_subscribed: false,
            unreleased: BTreeSet::new(),
            received: HashMap::new(),
        }
    }

    /// Subscribes, if it has not yet been told that it is subscribed.
    pub(crate) async fn begin(&mut self, door: &Door) {
        while !self.is_subscribed {
            if self.connected(door, |_| false).await.is_err() {
                door.clients.sleep(PAUSE).await;
            }
        }
    }

    /// Takes what comes, until `enough` says so of what it has in all.
    pub(crate) async fn live(&mut self, door: &Door, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            if self.connected(door, |this| !enough(this)).await.is_err() {
                door.clients.sleep(PAUSE).await;
            }
        }
    }

    async fn connected(&mut self, door: &Door, on: impl Fn(&Self) -> bool) -> Result<(), Gone> {
        let (mut mqtt, present) = Mqtt::connect(door, &self.name, false).await?;
        assert!(present || !self.has_session, "{}: session lost", self.name);
        self.has_session = true;
        if !self.is_subscribed {
            for (id, (topic, qos)) in (1..).zip(&self.filters) {
                mqtt.subscribe(id, &format!("{topic}/#"), *qos).await?;
            }
        }
        let mut left = self.filters.len();
        while !self.is_subscribed || on(self) {
            match mqtt.receive().await? {
                Packet::SubAck(_, granted) => {
                    assert_ne!(granted, 0x80, "{}: refused", self.name);
                    left -= 1;
                    self.is_subscribed = left == 0;
                }
                packet => self.take(&mut mqtt, packet).await?,
            }
        }
        Ok(())
    }

    async fn take(&mut self, mqtt: &mut Mqtt, packet: Packet) -> Result<(), Gone> {
        match packet {
            Packet::Publish {
                topic,
                qos,
                id,
                payload,
                ..
            } => {
                if qos < 2 || self.unreleased.insert(id) {
                    let (first, _) = topic.split_once('/').expect("two levels");
                    self.received
                        .entry(first.to_owned())
                        .or_default()
                        .push(payload);
                }
                match qos {
                    1 => mqtt.pub_ack(id).await,
                    2 => mqtt.pub_rec(id).await,
                    _ => Ok(()),
                }
            }
            Packet::PubRel(id) => {
                self.unreleased.remove(&id);
                mqtt.pub_comp(id).await
            }
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Whether all of `sent` has come.
    pub(crate) fn has(&self, topic: &str, sent: &[String]) -> bool {
        let received = self.received.get(topic).map_or(&[][..], Vec::as_slice);
        sent.iter().all(|value| received.contains(value))
    }

    /// Everything came, in order; at QoS 2 once.
    pub(crate) fn check(&self, topic: &str, sent: &[String]) {
        let (_, qos) = self
            .filters
            .iter()
            .find(|(filter, _)| filter == topic)
            .expect("a filter");
        let received = self.received.get(topic).map_or(&[][..], Vec::as_slice);
        let received: Vec<&str> = received.iter().map(String::as_str).collect();
        check_order(&format!("{} of {topic}", self.name), &received, sent, *qos);
    }
}
