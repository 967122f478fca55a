//! An MQTT publisher with a session, at QoS 1 or 2.

use std::collections::VecDeque;

use mainstem_simulation::Dice;

use super::{PAUSE, Records, own, short, value};
use crate::{
    kafka::Gone,
    mqtt::{Mqtt, Packet},
    node::Door,
};

/// Messages in flight.
const WINDOW: usize = 4;
/// Packet ids come round so soon.
const IDS: u16 = 9;

struct Message {
    id: u16,
    value: String,
    /// It may have been received: what is sent next is a repetition.
    tried: bool,
    /// QoS 2: PUBREC was received.
    received: bool,
}

/// The publisher.
pub(crate) struct Publisher {
    name: String,
    pub(crate) topic: String,
    qos: u8,
    dice: Dice,
    has_session: bool,
    numbers: u64,
    last_id: u16,
    waiting: VecDeque<Message>,
    sent: Vec<String>,
    /// PUBACK, or PUBREC.
    promised: Vec<String>,
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn new(name: &str, topic: &str, qos: u8, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            topic: topic.to_owned(),
            qos,
            dice: Dice::new(seed),
            has_session: false,
            numbers: 0,
            last_id: 0,
            waiting: VecDeque::new(),
            sent: Vec::new(),
            promised: Vec::new(),
        }
    }

    /// Publishes so many more messages and waits until all are completed.
    pub(crate) async fn live(&mut self, door: &Door, mut messages: u64) {
        while self.connected(door, &mut messages).await.is_err() {
            door.clients.sleep(PAUSE).await;
        }
    }

    async fn connected(&mut self, door: &Door, messages: &mut u64) -> Result<(), Gone> {
        let (mut mqtt, present) = Mqtt::connect(door, &self.name, false).await?;
        assert!(present || !self.has_session, "{}: session lost", self.name);
        self.has_session = true;
        let topic = format!("{}/device", self.topic);
        for message in &mut self.waiting {
            if message.received {
                mqtt.pub_rel(message.id).await?;
            } else {
                let dup = std::mem::replace(&mut message.tried, true);
                let head = (topic.as_str(), self.qos, message.id);
                mqtt.publish(head, &message.value, dup).await?;
            }
        }
        loop {
            while self.waiting.len() < WINDOW && *messages > 0 {
                *messages -= 1;
                let message = self.make();
                let (id, value) = (message.id, message.value.clone());
                self.waiting.push_back(message);
                mqtt.publish((&topic, self.qos, id), &value, false).await?;
                if self.dice.one_in(3) {
                    break;
                }
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            let packet = mqtt.receive().await?;
            self.answered(&mut mqtt, packet).await?;
        }
    }

    fn make(&mut self) -> Message {
        self.numbers += 1;
        let value = value(&self.name, self.numbers, &mut self.dice);
        self.sent.push(value.clone());
        loop {
            self.last_id = self.last_id % IDS + 1;
            if self.waiting.iter().all(|other| other.id != self.last_id) {
                break;
            }
        }
        Message {
            id: self.last_id,
            value,
            tried: true,
            received: false,
        }
    }

    async fn answered(&mut self, mqtt: &mut Mqtt, packet: Packet) -> Result<(), Gone> {
        let place = |id| self.waiting.iter().position(|message| message.id == id);
        match packet {
            Packet::PubAck(id) if self.qos == 1 => {
                let place = place(id).expect("a PUBACK for what is in flight");
                let message = self.waiting.remove(place).expect("it is there");
                self.promised.push(message.value);
            }
            Packet::PubRec(id) if self.qos == 2 => {
                let place = place(id).expect("a PUBREC for what is in flight");
                let message = &mut self.waiting[place];
                if !std::mem::replace(&mut message.received, true) {
                    self.promised.push(message.value.clone());
                }
                mqtt.pub_rel(id).await?;
            }
            Packet::PubComp(id) if self.qos == 2 => {
                let place = place(id).expect("a PUBCOMP for what is in flight");
                assert!(self.waiting[place].received, "PUBREC comes first");
                self.waiting.remove(place);
            }
            other => panic!("{}: {other:?}", self.name),
        }
        Ok(())
    }

    /// Everything is there, in order; at QoS 2 once.
    pub(crate) fn check(&self, records: &Records) {
        assert!(self.waiting.is_empty(), "all is completed in the end");
        let found = own(records, &self.name);
        check_order(&self.name, &found, &self.sent, self.qos);
        for value in &self.promised {
            assert!(found.contains(&value.as_str()), "lost: {}", short(value));
        }
    }

    /// What every subscriber has to get.
    pub(crate) fn sent(&self) -> &[String] {
        &self.sent
    }

    pub(crate) fn promised(&self) -> usize {
        self.promised.len()
    }
}

/// The first occurrences are `sent`, in order; at QoS 2 there are no others.
pub(super) fn check_order(name: &str, found: &[&str], sent: &[String], qos: u8) {
    let mut seen = std::collections::HashSet::new();
    let firsts = found.iter().filter(|value| seen.insert(**value));
    let firsts: Vec<&str> = firsts.map(|value| short(value)).collect();
    let expected: Vec<&str> = sent.iter().map(|value| short(value)).collect();
    assert_eq!(firsts, expected, "{name}: all, in order");
    if qos == 2 {
        assert_eq!(found.len(), sent.len(), "{name}: exactly once");
    }
}
