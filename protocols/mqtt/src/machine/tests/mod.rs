//! Tests of the machine: its rules one by one, an inbound reference model, and a lossy world of
//! client, machine and broker.

mod inbound_model;
mod rules;
mod world;

use std::num::NonZeroU16;

use bytes::Bytes;

use super::*;
use crate::codec::{Properties, PropertyId, PropertyWriter, Publish, QoS, TopicName, Utf8Str};

fn id(number: u16) -> PacketId {
    PacketId(NonZeroU16::new(number).unwrap())
}

fn options(version: Version) -> Options {
    Options {
        version,
        receive_maximum: 3,
        awaiting_rel_max: 5,
        topic_alias_maximum: 2,
        window: 2,
        session_expiry_secs: 60,
        payload_format_checked: false,
        v3_refusal: V3Refusal::Close,
    }
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(Utf8Str::copy_from(text).unwrap()).unwrap()
}

fn publish(qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic("t")),
        packet_id: PacketId::new(packet_id).filter(|_| qos != QoS::AtMostOnce),
        properties: Properties::EMPTY,
        payload: Bytes::from_static(b"payload"),
    }
}

fn with_alias(topic: Option<&str>, alias: u16) -> Publish {
    let mut writer = PropertyWriter::new();
    writer.user(b"k", b"v").unwrap();
    writer.u16(PropertyId::TopicAlias, alias);
    let topic = topic.map(super::tests::topic);
    Publish {
        topic,
        properties: writer.finish(),
        ..publish(QoS::AtMostOnce, 0)
    }
}

/// A machine whose deliveries are numbers, with the effects of each step.
struct Steps {
    machine: Machine<u32>,
}

type Effects = Vec<Effect<u32>>;

impl Steps {
    fn new(options: Options) -> Self {
        Self {
            machine: Machine::new(options, [], [], &mut Vec::new()),
        }
    }

    fn resumed(options: Options, qos2: &[u16], outbound: Vec<Resume<u32>>) -> (Self, Effects) {
        let mut effects = Vec::new();
        let qos2 = qos2.iter().map(|&number| id(number));
        let machine = Machine::new(options, qos2, outbound, &mut effects);
        (Self { machine }, effects)
    }

    fn step(&mut self, run: impl FnOnce(&mut Machine<u32>, &mut Effects)) -> Effects {
        let mut effects = Vec::new();
        run(&mut self.machine, &mut effects);
        effects
    }

    fn packet(&mut self, packet: Packet) -> Effects {
        self.step(|machine, effects| machine.packet(packet, effects))
    }

    fn publish(&mut self, publish: Publish) -> Effects {
        self.packet(Packet::Publish(publish))
    }

    /// Publishes what must go up; its receipt.
    fn receipt(&mut self, qos: QoS, number: u16) -> Receipt {
        match &self.publish(publish(qos, number))[..] {
            [Effect::Publish(up)] => up.receipt.expect("QoS 1 and 2 have receipts"),
            other => panic!("{other:?}"),
        }
    }

    fn published(&mut self, receipt: Receipt, outcome: Result<(), ReasonCode>) -> Effects {
        self.step(|machine, effects| machine.published(receipt, outcome, effects))
    }

    fn pub_rel(&mut self, number: u16) -> Effects {
        self.packet(Packet::PubRel(Ack::new(id(number), ReasonCode::SUCCESS)))
    }

    fn deliver(&mut self, qos: QoS, delivery: u32) -> Result<Effects, ()> {
        let mut effects = Vec::new();
        let message = Outbound {
            qos,
            dup: false,
            delivery,
        };
        self.machine
            .deliver(message, &mut effects)
            .map(|()| effects)
            .map_err(drop)
    }

    fn answer(&mut self, kind: AckKind, number: u16, reason: ReasonCode) -> Effects {
        let ack = Ack::new(id(number), reason);
        self.packet(match kind {
            AckKind::PubAck => Packet::PubAck(ack),
            AckKind::PubRec => Packet::PubRec(ack),
            AckKind::PubRel => Packet::PubRel(ack),
            AckKind::PubComp => Packet::PubComp(ack),
        })
    }
}

fn sends(kind: AckKind, number: u16, reason: ReasonCode) -> Effect<u32> {
    ack(kind, id(number), reason)
}

fn closes(effects: &[Effect<u32>]) -> Option<u8> {
    match effects {
        [.., Effect::Close(error)] => Some(error.reason.0),
        _ => None,
    }
}
