//! What comes from the client: PUBLISH and PUBREL, and the broker's answers to them.

use std::collections::{BTreeMap, VecDeque};

use super::{Effect, InboundPublish, Options, Receipt, V3Refusal, ack};
use crate::codec::{
    AckKind, DecodeError, PacketId, PropertyId, Publish, QoS, ReasonCode, TopicName, Version,
};

/// The most PUBLISHes that may wait for the broker's answer where the client knows no Receive
/// Maximum and its shell reads on regardless of [`super::Machine::wants_input`].
const UNANSWERED_MAX: usize = 65_535;

/// State of a QoS 2 identifier of the client.
#[derive(Debug)]
struct Exchange {
    phase: Phase,
    /// Whether it takes a place of the Receive Maximum: not, if only an earlier connection saw its
    /// PUBLISH (4.9: the quota starts anew with each connection).
    counted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Open since an earlier connection. Whether its record was stored, and so whether PUBREC may be
    /// sent, only the broker knows: a repeated PUBLISH goes up once more, under the same identity.
    Resumed,
    /// With the broker; PUBREC is to come.
    Publishing,
    /// PUBREC was sent.
    Received {
        /// Another PUBREC waits its turn. One is enough for any number of repeats.
        repeat_waits: bool,
    },
    /// PUBREL came, and is being made durable.
    Releasing,
}

/// An acknowledgement that waits for its turn.
#[derive(Debug)]
struct Waiting {
    kind: WaitingKind,
    id: PacketId,
    outcome: Option<Result<(), ReasonCode>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitingKind {
    /// PUBACK.
    AtLeastOnce,
    /// PUBREC.
    ExactlyOnce,
    /// PUBREC for a PUBLISH that had its first one before.
    Again,
}

#[derive(Debug)]
pub(super) struct Inbound {
    version: Version,
    receive_maximum: usize,
    awaiting_rel_max: usize,
    /// Places of the Receive Maximum that are taken.
    quota_used: usize,
    exchanges: BTreeMap<PacketId, Exchange>,
    /// In the order of the PUBLISHes.
    waiting: VecDeque<Waiting>,
    /// The receipt of the first entry of `waiting`.
    first_receipt: u64,
    /// Topics by alias less one; as long as the highest alias used.
    aliases: Vec<Option<TopicName>>,
}

impl Inbound {
    pub(super) fn new(options: &Options, released_not: impl IntoIterator<Item = PacketId>) -> Self {
        let resumed = || Exchange {
            phase: Phase::Resumed,
            counted: false,
        };
        let receive_maximum = usize::from(options.receive_maximum.max(1));
        Self {
            version: options.version,
            receive_maximum,
            awaiting_rel_max: options.awaiting_rel_max.max(receive_maximum),
            quota_used: 0,
            exchanges: released_not.into_iter().map(|id| (id, resumed())).collect(),
            waiting: VecDeque::new(),
            first_receipt: 0,
            aliases: Vec::new(),
        }
    }

    /// PUBLISHes whose acknowledgement waits for the broker, or behind one that does.
    pub(super) fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn open(&self) -> usize {
        let at_least_once = self
            .waiting
            .iter()
            .filter(|waiting| waiting.kind == WaitingKind::AtLeastOnce)
            .count();
        at_least_once + self.exchanges.len()
    }

    pub(super) fn publish<D>(
        &mut self,
        options: &Options,
        publish: Publish,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        let topic = self.resolve_topic(options, &publish)?;
        let Some(id) = publish.packet_id else {
            if options.payload_format_checked && !publish.is_payload_format_kept() {
                let reason = ReasonCode::PAYLOAD_FORMAT_INVALID;
                return Err(DecodeError::new(reason, "payload is not UTF-8 as it says"));
            }
            effects.push(Effect::Publish(upward(topic, publish, None)));
            return Ok(());
        };
        let open = (publish.qos == QoS::ExactlyOnce)
            .then(|| self.exchanges.get(&id))
            .flatten();
        let is_resumed = open.is_some_and(|exchange| exchange.phase == Phase::Resumed);
        if open.is_some() && !is_resumed {
            return self.publish_again(id, effects);
        }
        self.take_quota()?;
        let kind = if publish.qos == QoS::ExactlyOnce {
            if !is_resumed && self.exchanges.len() >= self.awaiting_rel_max {
                let reason = ReasonCode::QUOTA_EXCEEDED;
                return Err(DecodeError::new(
                    reason,
                    "too many messages wait for PUBREL",
                ));
            }
            let exchange = Exchange {
                phase: Phase::Publishing,
                counted: true,
            };
            self.exchanges.insert(id, exchange);
            WaitingKind::ExactlyOnce
        } else {
            WaitingKind::AtLeastOnce
        };
        let receipt = Receipt(self.first_receipt + self.waiting.len() as u64);
        self.waiting.push_back(Waiting {
            kind,
            id,
            outcome: None,
        });
        if options.payload_format_checked && !publish.is_payload_format_kept() {
            let refusal = Err(ReasonCode::PAYLOAD_FORMAT_INVALID);
            return self.published(options, receipt, refusal, effects);
        }
        effects.push(Effect::Publish(upward(topic, publish, Some(receipt))));
        Ok(())
    }

    /// Only clients of version 5 know the limit, so only they can be blamed for passing it.
    fn take_quota(&mut self) -> Result<(), DecodeError> {
        let full = if self.version.is_v5() {
            self.quota_used >= self.receive_maximum
        } else {
            self.waiting.len() >= UNANSWERED_MAX
        };
        if full {
            let reason = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
            return Err(DecodeError::new(
                reason,
                "more PUBLISHes than the Receive Maximum",
            ));
        }
        self.quota_used += 1;
        Ok(())
    }

    /// The PUBLISH of an exchange that is open: it must not go up again (4.3.3).
    fn publish_again<D>(
        &mut self,
        id: PacketId,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        let counted = self
            .exchanges
            .get(&id)
            .is_some_and(|exchange| exchange.counted);
        if !counted {
            self.take_quota()?;
        }
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return Ok(());
        };
        exchange.counted = true;
        match exchange.phase {
            // Its PUBREC is on its way, and so is the second one.
            Phase::Resumed | Phase::Publishing | Phase::Received { repeat_waits: true } => Ok(()),
            Phase::Received {
                repeat_waits: false,
            } => {
                exchange.phase = Phase::Received { repeat_waits: true };
                let kind = WaitingKind::Again;
                self.waiting.push_back(Waiting {
                    kind,
                    id,
                    outcome: Some(Ok(())),
                });
                self.answer_in_order(V3Refusal::Close, effects)
            }
            Phase::Releasing => Err(DecodeError::protocol("PUBLISH between PUBREL and PUBCOMP")),
        }
    }

    fn resolve_topic(
        &mut self,
        options: &Options,
        publish: &Publish,
    ) -> Result<TopicName, DecodeError> {
        let Some(alias) = publish.topic_alias() else {
            return publish
                .topic
                .clone()
                .ok_or(DecodeError::protocol("no topic and no topic alias"));
        };
        if alias.get() > options.topic_alias_maximum {
            let reason = ReasonCode::TOPIC_ALIAS_INVALID;
            return Err(DecodeError::new(reason, "topic alias is above the maximum"));
        }
        let at = usize::from(alias.get() - 1);
        if let Some(topic) = &publish.topic {
            if self.aliases.len() <= at {
                self.aliases.resize(at + 1, None);
            }
            if let Some(slot) = self.aliases.get_mut(at)
                && slot.as_ref() != Some(topic)
            {
                // Memory of its own, or ten aliases would keep ten frames alive.
                *slot = Some(topic.detached());
            }
            return Ok(topic.clone());
        }
        self.aliases
            .get(at)
            .cloned()
            .flatten()
            .ok_or(DecodeError::protocol("topic alias stands for no topic"))
    }

    pub(super) fn published<D>(
        &mut self,
        options: &Options,
        receipt: Receipt,
        outcome: Result<(), ReasonCode>,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        let waiting = receipt
            .0
            .checked_sub(self.first_receipt)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| self.waiting.get_mut(at));
        if let Some(waiting) = waiting
            && waiting.outcome.is_none()
        {
            waiting.outcome = Some(outcome);
        }
        self.answer_in_order(options.v3_refusal, effects)
    }

    /// Sends all acknowledgements that wait for nothing any more.
    fn answer_in_order<D>(
        &mut self,
        v3_refusal: V3Refusal,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        while let Some(&Waiting {
            kind,
            id,
            outcome: Some(mut outcome),
        }) = self.waiting.front()
        {
            self.waiting.pop_front();
            self.first_receipt += 1;
            if let Err(reason) = outcome
                && !self.version.is_v5()
            {
                match v3_refusal {
                    V3Refusal::Close => {
                        return Err(DecodeError::new(reason, "PUBLISH was refused"));
                    }
                    V3Refusal::AckAndDrop => outcome = Ok(()),
                }
            }
            let reason = outcome.err().unwrap_or(ReasonCode::SUCCESS);
            match kind {
                WaitingKind::AtLeastOnce => {
                    self.quota_used = self.quota_used.saturating_sub(1);
                    effects.push(ack(AckKind::PubAck, id, reason));
                }
                WaitingKind::ExactlyOnce => {
                    if outcome.is_err() {
                        self.end(id);
                    } else if let Some(exchange) = self.exchanges.get_mut(&id) {
                        exchange.phase = Phase::Received {
                            repeat_waits: false,
                        };
                    }
                    effects.push(ack(AckKind::PubRec, id, reason));
                }
                WaitingKind::Again => self.answer_again(id, effects),
            }
        }
        Ok(())
    }

    /// Not if PUBREL came meanwhile: then the client has the first PUBREC.
    fn answer_again<D>(&mut self, id: PacketId, effects: &mut Vec<Effect<D>>) {
        if let Some(exchange) = self.exchanges.get_mut(&id)
            && exchange.phase == (Phase::Received { repeat_waits: true })
        {
            exchange.phase = Phase::Received {
                repeat_waits: false,
            };
            effects.push(ack(AckKind::PubRec, id, ReasonCode::SUCCESS));
        }
    }

    fn end(&mut self, id: PacketId) {
        if let Some(exchange) = self.exchanges.remove(&id)
            && exchange.counted
        {
            self.quota_used = self.quota_used.saturating_sub(1);
        }
    }

    pub(super) fn pub_rel<D>(
        &mut self,
        id: PacketId,
        effects: &mut Vec<Effect<D>>,
    ) -> Result<(), DecodeError> {
        match self.exchanges.get_mut(&id) {
            None => {
                effects.push(ack(AckKind::PubComp, id, ReasonCode::PACKET_ID_NOT_FOUND));
                Ok(())
            }
            Some(exchange) => match exchange.phase {
                Phase::Publishing => Err(DecodeError::protocol("PUBREL before PUBREC")),
                // The client has its PUBREC, of this connection or an earlier one.
                Phase::Resumed | Phase::Received { .. } => {
                    exchange.phase = Phase::Releasing;
                    effects.push(Effect::Release(id));
                    Ok(())
                }
                // Its PUBCOMP is on its way.
                Phase::Releasing => Ok(()),
            },
        }
    }

    pub(super) fn released<D>(&mut self, id: PacketId, known: bool, effects: &mut Vec<Effect<D>>) {
        let releasing = self
            .exchanges
            .get(&id)
            .is_some_and(|exchange| exchange.phase == Phase::Releasing);
        if releasing {
            self.end(id);
            let reason = if known {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::PACKET_ID_NOT_FOUND
            };
            effects.push(ack(AckKind::PubComp, id, reason));
        }
    }
}

fn upward(topic: TopicName, publish: Publish, receipt: Option<Receipt>) -> InboundPublish {
    InboundPublish {
        topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        packet_id: publish.packet_id,
        properties: publish.properties.without(PropertyId::TopicAlias.bit()),
        receipt,
    }
}
