//! What a connection does: effects of the machine, and packets into the output.

use mainstem_broker::Delivery;

use super::{Shell, convert, deliver};
use crate::{
    codec::{
        AckKind, DecodeError, EncodeError, PacketId, Properties, ReasonCode, SubAck, UnsubAck,
        packet::PacketType,
    },
    machine::{Effect, Outgoing, SendPublish},
    shell::end::End,
};

// === impl Shell ===

impl Shell<'_> {
    /// Carries out all effects, and those that follow from them.
    pub(super) fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                if self.end.is_none() {
                    self.effect(effect);
                }
            }
        }
    }

    fn effect(&mut self, effect: Effect<Delivery>) {
        match effect {
            Effect::Publish(publish) => {
                let now = self.deadlines.now;
                self.inbound
                    .publish(self.session, &self.context.env, publish, now);
            }
            Effect::Release(id) => self.inbound.release(self.session, id),
            Effect::Subscribe(subscribe) => self.inbound.subscribe(self.session, &subscribe),
            Effect::Unsubscribe(unsubscribe) => {
                self.inbound.unsubscribe(self.session, &unsubscribe);
            }
            Effect::Send(outgoing) => {
                let encoded = outgoing.encode(&self.peer, self.output.tail());
                self.written(kind_of(&outgoing), encoded);
            }
            Effect::Deliver(message) => self.outbound.deliver(message),
            Effect::Received(id) => self.outbound.received(id),
            Effect::Completed(id) => self.outbound.completed(id),
            Effect::Disconnected {
                publish_will,
                session_expiry_secs,
            } => self.end(End::Client {
                publish_will,
                session_expiry_s: session_expiry_secs,
            }),
            Effect::Close(error) => self.end(End::Protocol(error)),
        }
    }

    pub(super) fn suback(
        &mut self,
        packet_id: PacketId,
        granted: &[Result<mainstem_broker::QoS, u8>],
    ) {
        let reason = |granted: &Result<mainstem_broker::QoS, u8>| match granted {
            Ok(qos) => ReasonCode(convert::qos_down(*qos).bits()),
            Err(code) => ReasonCode(*code),
        };
        let suback = SubAck {
            packet_id,
            reasons: granted.iter().map(reason).collect(),
            properties: Properties::EMPTY,
        };
        let encoded = suback.encode(&self.peer, self.output.tail());
        self.written(PacketType::SubAck, encoded);
    }

    pub(super) fn unsuback(&mut self, packet_id: PacketId, existed: &[bool]) {
        let reason = |existed: &bool| match existed {
            true => ReasonCode::SUCCESS,
            false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
        };
        let unsuback = UnsubAck {
            packet_id,
            reasons: existed.iter().map(reason).collect(),
            properties: Properties::EMPTY,
        };
        let encoded = unsuback.encode(&self.peer, self.output.tail());
        self.written(PacketType::UnsubAck, encoded);
    }

    /// An answer that the client has no room for cannot be left out: the client would wait for it.
    fn written(&mut self, kind: PacketType, encoded: Result<(), EncodeError>) {
        match encoded {
            Ok(()) => self.context.metrics.sent(kind),
            Err(EncodeError::NotInVersion) => {}
            Err(EncodeError::TooLarge { .. }) => {
                let reason = ReasonCode::PACKET_TOO_LARGE;
                let what = "an answer is larger than the client takes";
                self.end(End::Protocol(DecodeError::new(reason, what)));
            }
        }
    }

    pub(super) fn write(&mut self, message: &SendPublish<Delivery>) {
        let now_ms = self.context.env.wall_ms();
        match deliver::write(message, &self.peer, now_ms, &mut self.output) {
            Ok(()) => {
                let metrics = &self.context.metrics;
                metrics.sent(PacketType::Publish);
                metrics.fetched(message.delivery.message.payload.len());
            }
            Err(unsent) => {
                self.context.metrics.unsent(unsent.label());
                if let Some(id) = message.packet_id {
                    self.machine.abandon(id, &mut self.effects);
                    self.carry_out();
                }
            }
        }
    }
}

fn kind_of(outgoing: &Outgoing) -> PacketType {
    match outgoing {
        Outgoing::Ack(AckKind::PubAck, _) => PacketType::PubAck,
        Outgoing::Ack(AckKind::PubRec, _) => PacketType::PubRec,
        Outgoing::Ack(AckKind::PubRel, _) => PacketType::PubRel,
        Outgoing::Ack(AckKind::PubComp, _) => PacketType::PubComp,
        Outgoing::PingResp => PacketType::PingResp,
    }
}
