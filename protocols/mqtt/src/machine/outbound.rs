//! What goes to the client: PUBLISH and PUBREL, and the client's answers to them.

use std::collections::{BTreeMap, VecDeque};

use super::{Effect, SendPublish, ack};
use crate::codec::{Ack, AckKind, DecodeError, PacketId, QoS, ReasonCode};

/// A message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound<D> {
    /// The QoS that its subscription was granted.
    pub qos: QoS,
    /// Whether the client may have had it before, under another identifier.
    pub dup: bool,
    /// The message.
    pub delivery: D,
}

/// An exchange that an earlier connection has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume<D> {
    /// Its identifier.
    pub packet_id: PacketId,
    /// How far it got.
    pub phase: ResumePhase<D>,
}

/// How far an exchange got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumePhase<D> {
    /// PUBLISH was (perhaps) sent; it is sent again.
    Published {
        /// QoS 1 or 2.
        qos: QoS,
        /// The message.
        delivery: D,
    },
    /// The client has the QoS 2 message; PUBREL is sent again.
    Released,
}

/// State of an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Of an earlier connection; waits for a place in the window to be sent again.
    Queued,
    /// QoS 1, waits for PUBACK.
    AtLeastOnce,
    /// QoS 2, waits for PUBREC.
    ExactlyOnce,
    /// PUBREC came, and is being made durable.
    Received,
    /// PUBREL was sent, waits for PUBCOMP.
    Released,
}

#[derive(Debug)]
pub(super) struct OutboundHalf<D> {
    window: usize,
    exchanges: BTreeMap<PacketId, State>,
    /// Messages of earlier connections that are still to be sent again, in order.
    queue: VecDeque<(PacketId, QoS, D)>,
    /// Where to look for the next identifier. They go round, so that one is reused as late as
    /// possible.
    next_id: PacketId,
}

impl<D> OutboundHalf<D> {
    pub(super) fn resume(
        window: u16,
        exchanges: impl IntoIterator<Item = Resume<D>>,
        effects: &mut Vec<Effect<D>>,
    ) -> Self {
        let mut half = Self {
            window: usize::from(window.max(1)),
            exchanges: BTreeMap::new(),
            queue: VecDeque::new(),
            next_id: PacketId::FIRST,
        };
        for Resume { packet_id, phase } in exchanges {
            half.next_id = packet_id.next();
            match phase {
                ResumePhase::Published { qos, delivery } => {
                    half.exchanges.insert(packet_id, State::Queued);
                    half.queue.push_back((packet_id, qos, delivery));
                    half.send_queued(effects);
                }
                ResumePhase::Released => {
                    half.exchanges.insert(packet_id, State::Released);
                    effects.push(ack(AckKind::PubRel, packet_id, ReasonCode::SUCCESS));
                }
            }
        }
        half
    }

    pub(super) fn open(&self) -> usize {
        self.exchanges.len()
    }

    fn unfinished(&self) -> usize {
        self.exchanges.len() - self.queue.len()
    }

    /// While messages are queued the window is full, so that nothing new overtakes them.
    pub(super) fn window_free(&self) -> usize {
        let free = self.window.saturating_sub(self.unfinished());
        debug_assert!(free == 0 || self.queue.is_empty());
        free
    }

    fn send_queued(&mut self, effects: &mut Vec<Effect<D>>) {
        while self.unfinished() < self.window {
            let Some((id, qos, delivery)) = self.queue.pop_front() else {
                return;
            };
            self.exchanges.insert(id, waiting_state(qos));
            effects.push(Effect::Deliver(SendPublish {
                packet_id: Some(id),
                qos,
                dup: true,
                resumed: true,
                delivery,
            }));
        }
    }

    pub(super) fn deliver(
        &mut self,
        message: Outbound<D>,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), Outbound<D>> {
        let packet_id = if message.qos == QoS::AtMostOnce {
            None
        } else if self.window_free() == 0 {
            return Err(message);
        } else {
            let Some(id) = self.allocate() else {
                return Err(message);
            };
            self.exchanges.insert(id, waiting_state(message.qos));
            Some(id)
        };
        effects.push(Effect::Deliver(SendPublish {
            packet_id,
            qos: message.qos,
            dup: message.dup && packet_id.is_some(),
            resumed: false,
            delivery: message.delivery,
        }));
        Ok(())
    }

    /// The next identifier that no exchange holds. Resumed exchanges may hold more than a window,
    /// so the search is bounded by their number, not by the window.
    fn allocate(&mut self) -> Option<PacketId> {
        let mut id = self.next_id;
        for _ in 0..=self.exchanges.len() {
            if !self.exchanges.contains_key(&id) {
                self.next_id = id.next();
                return Some(id);
            }
            id = id.next();
        }
        None
    }

    fn complete(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        self.exchanges.remove(&id);
        effects.push(Effect::Completed(id));
        self.send_queued(effects);
    }

    /// Any reason ends the exchange: after a refusal the message is not to be sent again (4.4).
    pub(super) fn pub_ack(
        &mut self,
        id: PacketId,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        match self.exchanges.get(&id) {
            Some(State::AtLeastOnce) => {
                self.complete(id, effects);
                Ok(())
            }
            // An answer to what an earlier connection sent cannot come on this one.
            Some(_) => Err(DecodeError::protocol("PUBACK does not fit its exchange")),
            None => Ok(()),
        }
    }

    pub(super) fn pub_rec(
        &mut self,
        answer: &Ack,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        let id = answer.packet_id;
        match self.exchanges.get_mut(&id) {
            Some(State::ExactlyOnce) if answer.reason.is_error() => {
                self.complete(id, effects);
                Ok(())
            }
            Some(state @ State::ExactlyOnce) => {
                *state = State::Received;
                effects.push(Effect::Received(id));
                Ok(())
            }
            // Its PUBREL is on its way.
            Some(State::Received) => Ok(()),
            Some(State::Released) => {
                effects.push(ack(AckKind::PubRel, id, ReasonCode::SUCCESS));
                Ok(())
            }
            Some(State::AtLeastOnce | State::Queued) => {
                Err(DecodeError::protocol("PUBREC does not fit its exchange"))
            }
            // A refusal of what we do not know needs no answer; else the client waits for one.
            None if answer.reason.is_error() => Ok(()),
            None => {
                effects.push(ack(AckKind::PubRel, id, ReasonCode::PACKET_ID_NOT_FOUND));
                Ok(())
            }
        }
    }

    pub(super) fn marked_received(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        if let Some(state @ State::Received) = self.exchanges.get_mut(&id) {
            *state = State::Released;
            effects.push(ack(AckKind::PubRel, id, ReasonCode::SUCCESS));
        }
    }

    pub(super) fn pub_comp(
        &mut self,
        id: PacketId,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        match self.exchanges.get(&id) {
            Some(State::Released) => {
                self.complete(id, effects);
                Ok(())
            }
            Some(_) => Err(DecodeError::protocol("PUBCOMP does not fit its exchange")),
            None => Ok(()),
        }
    }

    pub(super) fn abandon(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        if let Some(State::AtLeastOnce | State::ExactlyOnce) = self.exchanges.get(&id) {
            self.complete(id, effects);
        }
    }
}

fn waiting_state(qos: QoS) -> State {
    if qos == QoS::ExactlyOnce {
        State::ExactlyOnce
    } else {
        State::AtLeastOnce
    }
}
