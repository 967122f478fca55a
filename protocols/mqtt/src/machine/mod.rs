//! The packet-level session machine of one connection: what each packet and each answer of the
//! broker makes the server do next.
//!
//! Here live the rules of 3.3 to 3.7 and chapter 4: packet identifiers, the handshakes of QoS 1 and
//! 2 in both directions, Receive Maximum, topic aliases, order of acknowledgements, resumption.
//! Here may not live: sockets, clocks, randomness, storage, topics' meaning. Inputs are decoded
//! packets and answers, outputs are [`Effect`]s that the connection shell carries out **in the
//! order in which they are given**.
//!
//! ```text
//!  from the client, QoS 2 (inbound.rs)            to the client (outbound.rs)
//!
//!  PUBLISH --> Publishing --published--> Received   deliver --> Published --PUBACK--> done
//!   (Publish)     |          (PUBREC)    |   ^  |      (PUBLISH)   | PUBREC
//!             refused                 PUBREL +--+ PUBLISH          v (Received)
//!                 v                      v    (PUBREC)          Received --marked_received-->
//!                gone    <--released-- Releasing                           (PUBREL) Released
//!               (PUBREC 0x8x) (PUBCOMP) (Release)                          --PUBCOMP--> done
//! ```
//!
//! Invariants, upheld here and tested in `tests`:
//! - I-MQTT-1: acknowledgements of PUBLISHes (PUBACK, PUBREC) leave in the order in which the
//!   PUBLISHes came.
//! - I-MQTT-2: a QoS 2 message goes up once, however often its PUBLISH comes before its PUBREL.
//! - I-MQTT-3: no packet identifier is given out while an exchange holds it.
//! - I-MQTT-4: never are more PUBLISHes of QoS 1 and 2 unfinished than the client's Receive Maximum
//!   (and our own bound) allows, after a resumption either.
//! - I-MQTT-5: state that must survive goes to the broker before the packet that reveals it goes to
//!   the client: PUBREC after `published`, PUBCOMP after `released`, PUBREL after
//!   `marked_received`.
//!
//! After [`Effect::Close`] or [`Effect::Disconnected`] a machine does nothing any more.

mod effect;
mod inbound;
mod outbound;

#[cfg(test)]
mod tests;

pub use effect::{Effect, InboundPublish, Outgoing, Receipt, SendPublish};
pub use outbound::{Outbound, Resume, ResumePhase};

use crate::codec::{Ack, AckKind, DecodeError, Disconnect, Packet, PacketId, ReasonCode, Version};
use inbound::Inbound;
use outbound::OutboundHalf;

/// What a machine must know of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The version spoken.
    pub version: Version,
    /// PUBLISHes of QoS 1 and 2 that the client may have unacknowledged: the Receive Maximum that
    /// CONNACK tells. Clients of older versions are not told; they are read no further instead
    /// ([`Machine::wants_input`]).
    pub receive_maximum: u16,
    /// QoS 2 messages of the client that may wait for their PUBREL, those of earlier connections
    /// included. A lower value than `receive_maximum` counts as that.
    pub awaiting_rel_max: usize,
    /// Topic aliases that CONNACK allows; 0 is none.
    pub topic_alias_maximum: u16,
    /// PUBLISHes of QoS 1 and 2 that may be unacknowledged by the client: the smaller of its
    /// Receive Maximum and our own bound. At least 1.
    pub window: u16,
    /// The session expiry interval of the CONNECT, which a DISCONNECT may not raise from 0.
    pub session_expiry_secs: u32,
    /// Whether payloads are checked against their Payload Format Indicator.
    pub payload_format_checked: bool,
    /// What a refused PUBLISH of an older version gets.
    pub v3_refusal: V3Refusal,
}

/// MQTT 3.1 and 3.1.1 have no negative acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum V3Refusal {
    /// Close the connection.
    #[default]
    Close,
    /// Acknowledge what was not stored.
    AckAndDrop,
}

/// The machine of one connection. `D` is whatever the shell hands over to be delivered; it passes
/// through unseen.
#[derive(Debug)]
pub struct Machine<D> {
    options: Options,
    inbound: Inbound,
    outbound: OutboundHalf<D>,
    closed: bool,
}

impl<D> Machine<D> {
    /// A machine that goes on where the session's earlier connections ended.
    ///
    /// `inbound_qos2` are the client's identifiers that were published and not released.
    /// `outbound` are the exchanges towards the client, in the order in which they were first sent;
    /// what of it may be sent at once (again, under the same identifiers) is in `effects`, the rest
    /// follows as the window allows, before anything new.
    pub fn new(
        options: Options,
        inbound_qos2: impl IntoIterator<Item = PacketId>,
        outbound: impl IntoIterator<Item = Resume<D>>,
        effects: &mut Vec<Effect<D>>,
    ) -> Self {
        let outbound = OutboundHalf::resume(options.window, outbound, effects);
        let inbound = Inbound::new(&options, inbound_qos2);
        Self {
            options,
            inbound,
            outbound,
            closed: false,
        }
    }

    /// A packet came.
    pub fn packet(&mut self, packet: Packet, effects: &mut Vec<Effect<D>>) {
        if self.closed {
            return;
        }
        let result = match packet {
            Packet::Publish(publish) => self.inbound.publish(&self.options, publish, effects),
            Packet::PubRel(ack) => self.inbound.pub_rel(ack.packet_id, effects),
            Packet::PubAck(ack) => self.outbound.pub_ack(ack.packet_id, effects),
            Packet::PubRec(ack) => self.outbound.pub_rec(&ack, effects),
            Packet::PubComp(ack) => self.outbound.pub_comp(ack.packet_id, effects),
            Packet::Subscribe(subscribe) => {
                effects.push(Effect::Subscribe(subscribe));
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                effects.push(Effect::Unsubscribe(unsubscribe));
                Ok(())
            }
            Packet::PingReq => {
                effects.push(Effect::Send(Outgoing::PingResp));
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.disconnect(&disconnect, effects),
            // No CONNECT with an authentication method is accepted, so nobody may send AUTH.
            Packet::Auth(_) => Err(DecodeError::protocol(
                "AUTH without enhanced authentication",
            )),
            Packet::Connect(_) => Err(DecodeError::protocol("second CONNECT on a connection")),
        };
        self.close_on(result, effects);
    }

    fn disconnect(
        &mut self,
        disconnect: &Disconnect,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        let session_expiry_secs = disconnect.session_expiry_secs();
        if self.options.session_expiry_secs == 0 && session_expiry_secs.is_some_and(|secs| secs > 0)
        {
            return Err(DecodeError::protocol(
                "DISCONNECT raises session expiry from 0",
            ));
        }
        self.closed = true;
        effects.push(Effect::Disconnected {
            // Only a normal end discards the will (3.14.4).
            publish_will: disconnect.reason != ReasonCode::SUCCESS,
            session_expiry_secs,
        });
        Ok(())
    }

    fn close_on(&mut self, result: Result<(), DecodeError>, effects: &mut Vec<Effect<D>>) {
        if let Err(error) = result {
            self.closed = true;
            effects.push(Effect::Close(error));
        }
    }

    /// The broker has answered [`Effect::Publish`]: the message is as durable as its topic wants,
    /// or refused for good. What will pass must not be told here: the shell holds it back or closes
    /// the connection, so that the client keeps the message.
    ///
    /// Answers may come in any order; acknowledgements leave in the order of the PUBLISHes.
    pub fn published(
        &mut self,
        receipt: Receipt,
        outcome: Result<(), ReasonCode>,
        effects: &mut Vec<Effect<D>>,
    ) {
        if self.closed {
            return;
        }
        let result = self
            .inbound
            .published(&self.options, receipt, outcome, effects);
        self.close_on(result, effects);
    }

    /// The broker has carried out [`Effect::Release`] durably; `known` as it said.
    pub fn released(&mut self, id: PacketId, known: bool, effects: &mut Vec<Effect<D>>) {
        if !self.closed {
            self.inbound.released(id, known, effects);
        }
    }

    /// Sends a message to the client, as an [`Effect::Deliver`] with its packet identifier.
    ///
    /// # Errors
    /// Gives the message back if its QoS is 1 or 2 and [`Machine::window_free`] is 0, or if the
    /// machine has ended.
    pub fn deliver(
        &mut self,
        message: Outbound<D>,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), Outbound<D>> {
        if self.closed {
            Err(message)
        } else {
            self.outbound.deliver(message, effects)
        }
    }

    /// The broker has carried out [`Effect::Received`] durably: PUBREL may go out.
    pub fn marked_received(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        if !self.closed {
            self.outbound.marked_received(id, effects);
        }
    }

    /// The message of an [`Effect::Deliver`] is not going to be written: it has expired or is too
    /// large for the client. Its exchange counts as completed and says so, so the broker must know
    /// of its identifier by then, as of any other. Not for a message that was written: its answer
    /// is still to come.
    pub fn abandon(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        if !self.closed {
            self.outbound.abandon(id, effects);
        }
    }

    /// How many more messages of QoS 1 and 2 may be delivered now; 0 while old ones wait to be sent
    /// again.
    pub fn window_free(&self) -> usize {
        if self.closed {
            0
        } else {
            self.outbound.window_free()
        }
    }

    /// Whether the next packet may be read. False is back-pressure for clients that know no Receive
    /// Maximum; acknowledgements that come behind it wait too, which is why it does not count what
    /// waits for the client itself.
    pub fn wants_input(&self) -> bool {
        !self.closed
            && (self.options.version.is_v5()
                || self.inbound.unanswered() < usize::from(self.options.receive_maximum.max(1)))
    }

    /// Whether the machine has ended.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Exchanges that are open: from the client and to the client.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.inbound.open(), self.outbound.open())
    }
}

/// An acknowledgement to send.
fn ack<D>(kind: AckKind, id: PacketId, reason: ReasonCode) -> Effect<D> {
    Effect::Send(Outgoing::Ack(kind, Ack::new(id, reason)))
}
