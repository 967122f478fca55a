//! Writes a numbered series by one kind of acknowledgement, and counts how much of it is there.

use std::time::Duration;

use super::table::Promise;
use crate::{
    kafka::{Gone, Kafka, NONE, batch},
    mqtt::{Mqtt, Packet},
    node::Node,
};

/// The topic of the series.
const TOPIC: &str = "series";

/// Its only device.
const DEVICE: &str = "series/device";

/// Who writes it by MQTT, and whose session it is.
const CLIENT: &str = "probe";

/// What is not there after this is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// When records were made.
const NOW_MS: i64 = 1_700_000_000_000;

/// What became of one write.
pub(super) enum Written {
    /// It was acknowledged; what is not acknowledged was sent.
    Acknowledged,
    /// It was refused, or the connection was lost.
    Refused,
}

/// A client that writes.
pub(super) struct Probe {
    promise: Promise,
    kafka: Kafka,
    mqtt: Mqtt,
}

// === impl Probe ===

impl Probe {
    pub(super) async fn start(node: &Node, promise: Promise) -> Self {
        let mut kafka = Kafka::connect(node).await.expect("a connection");
        assert_eq!(kafka.create(TOPIC, &[]).await, Ok(NONE));
        let connected = Mqtt::connect(node, CLIENT, false).await;
        let (mqtt, _) = connected.expect("a connection");
        Self {
            promise,
            kafka,
            mqtt,
        }
    }

    /// Writes the `number`-th of the series.
    pub(super) async fn write(&mut self, number: usize) -> Written {
        let written = match self.promise {
            Promise::Acks0 => self.produce(number, 0).await,
            Promise::Acks1 => self.produce(number, 1).await,
            Promise::AcksAll => self.produce(number, -1).await,
            Promise::Qos0 => self.publish(number, 0).await,
            Promise::Qos1 => self.publish(number, 1).await,
            Promise::Qos2 => self.publish(number, 2).await,
            Promise::OffsetCommit => self.commit(number).await,
            Promise::Session => self.subscribe(number).await,
            Promise::Retained => self.retain(number).await,
        };
        match written {
            Ok(true) => Written::Acknowledged,
            Ok(false) | Err(Gone) => Written::Refused,
        }
    }

    async fn produce(&mut self, number: usize, acks: i16) -> Result<bool, Gone> {
        let bytes = batch(&[number.to_string()], None, NOW_MS);
        self.kafka.send_batch(TOPIC, acks, bytes).await?;
        if acks == 0 {
            return Ok(true);
        }
        Ok(self.kafka.produced().await?.0 == NONE)
    }

    async fn publish(&mut self, number: usize, qos: u8) -> Result<bool, Gone> {
        let id = packet_id(number);
        let payload = number.to_string();
        self.mqtt
            .publish((DEVICE, qos, id), &payload, false)
            .await?;
        match qos {
            1 => assert_eq!(self.mqtt.receive().await?, Packet::PubAck(id)),
            2 => {
                assert_eq!(self.mqtt.receive().await?, Packet::PubRec(id));
                self.mqtt.pub_rel(id).await?;
                assert_eq!(self.mqtt.receive().await?, Packet::PubComp(id));
            }
            _ => {}
        }
        Ok(true)
    }

    async fn commit(&mut self, number: usize) -> Result<bool, Gone> {
        let offset = i64::try_from(number + 1).expect("a short series");
        Ok(self.kafka.commit("group", TOPIC, offset).await? == NONE)
    }

    async fn subscribe(&mut self, number: usize) -> Result<bool, Gone> {
        let (id, filter) = (packet_id(number), filter(number));
        self.mqtt.subscribe(id, &filter, 1).await?;
        Ok(self.mqtt.receive().await? == Packet::SubAck(id, 1))
    }

    async fn retain(&mut self, number: usize) -> Result<bool, Gone> {
        let id = packet_id(number);
        let payload = (number + 1).to_string();
        self.mqtt.retain(DEVICE, id, &payload).await?;
        Ok(self.mqtt.receive().await? == Packet::PubAck(id))
    }

    /// How many of the `sent` ones are there in the node's next life: the first so many and no others.
    pub(super) async fn found(&self, node: &Node, sent: usize) -> usize {
        match self.promise {
            Promise::OffsetCommit => committed(node).await,
            Promise::Session => subscriptions(node, sent).await,
            Promise::Retained => retained(node).await,
            _ => records(node).await,
        }
    }
}

fn packet_id(number: usize) -> u16 {
    u16::try_from(number + 1).expect("a short series")
}

/// The filter of a subscription of the series.
fn filter(number: usize) -> String {
    format!("commands/{number}")
}

async fn records(node: &Node) -> usize {
    let mut kafka = Kafka::connect(node).await.expect("a connection");
    let found = kafka.read_all(TOPIC).await.expect("records");
    let expected = (0..).zip((0..found.len()).map(|number| number.to_string()));
    assert!(
        found.clone().into_iter().eq(expected),
        "a prefix: {found:?}"
    );
    found.len()
}

async fn committed(node: &Node) -> usize {
    let mut kafka = Kafka::connect(node).await.expect("a connection");
    let found = kafka.committed("group", TOPIC).await;
    let found = found.expect("an answer").expect("an offset");
    usize::try_from(found.max(0)).expect("not negative")
}

async fn retained(node: &Node) -> usize {
    let connected = Mqtt::connect(node, "looker", true).await;
    let (mut mqtt, _) = connected.expect("a connection");
    mqtt.subscribe(1, DEVICE, 0).await.expect("sent");
    let answer = mqtt.receive().await;
    assert_eq!(answer, Ok(Packet::SubAck(1, 0)));
    match node.env.timeout(PATIENCE, mqtt.receive()).await {
        Err(_) => 0,
        Ok(Ok(Packet::Publish { payload, .. })) => payload.parse().expect("a number"),
        Ok(other) => panic!("{other:?} instead of the retained message"),
    }
}

/// Publishes to every filter and counts what comes to the session.
async fn subscriptions(node: &Node, sent: usize) -> usize {
    let connected = Mqtt::connect(node, CLIENT, false).await;
    let (mut session, present) = connected.expect("a connection");
    let connected = Mqtt::connect(node, "commander", true).await;
    let (mut commander, _) = connected.expect("a connection");
    for number in 0..sent {
        let (topic, id) = (filter(number), packet_id(number));
        let payload = number.to_string();
        let sent = commander.publish((&topic, 1, id), &payload, false).await;
        sent.expect("sent");
        assert_eq!(commander.receive().await, Ok(Packet::PubAck(id)));
    }
    let mut found = 0;
    while let Ok(packet) = node.env.timeout(PATIENCE, session.receive()).await {
        match packet.expect("a connection") {
            Packet::Publish { payload, id, .. } => {
                assert_eq!(payload, found.to_string(), "a prefix, in order");
                found += 1;
                session.pub_ack(id).await.expect("sent");
            }
            other => panic!("{other:?} instead of a message"),
        }
    }
    assert!(present || found == 0, "subscriptions of no session");
    found
}
