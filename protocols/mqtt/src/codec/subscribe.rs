//! SUBSCRIBE (3.8): decoding; SUBACK (3.9): encoding.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Limits, PacketId, Peer, Properties, PropertyId, QoS, ReasonCode,
    TopicFilter, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    write::{self, Explain},
};

/// A client's wish for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered by the SUBACK of the same identifier.
    pub packet_id: PacketId,
    /// User properties and the subscription identifier; empty before version 5.
    pub properties: Properties,
    /// At least one and at most [`Limits::filters_per_packet_max`] subscriptions, in the order of the packet.
    pub subscriptions: Vec<Subscription>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics.
    pub filter: TopicFilter,
    /// And how.
    pub options: SubscribeOptions,
}

/// Subscription options (3.8.3.1). Before version 5 only the QoS can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscribeOptions {
    /// The highest QoS that the subscriber wants.
    pub qos: QoS,
    /// Not the subscriber's own messages.
    pub no_local: bool,
    /// The retain flag as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent on a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RetainHandling {
    /// Always (0).
    #[default]
    Send,
    /// Only if the subscription is new (1).
    SendIfNew,
    /// Never (2).
    DoNotSend,
}

impl SubscribeOptions {
    /// The options byte of version 5; older versions use its two lowest bits.
    pub fn bits(self) -> u8 {
        let handling = match self.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DoNotSend => 2u8,
        };
        self.qos.bits()
            | (u8::from(self.no_local) << 2)
            | (u8::from(self.retain_as_published) << 3)
            | (handling << 4)
    }

    fn decode(bits: u8, version: Version) -> Result<Self, DecodeError> {
        if !version.is_v5() {
            let qos = QoS::from_bits(bits)
                .ok_or(DecodeError::malformed("requested QoS is not 0, 1 or 2"))?;
            return Ok(Self {
                qos,
                ..Self::default()
            });
        }
        if bits & 0b1100_0000 != 0 {
            return Err(DecodeError::malformed(
                "reserved subscription options are set",
            ));
        }
        let qos = QoS::from_bits(bits & 0b11)
            .ok_or(DecodeError::protocol("maximum QoS of a subscription is 3"))?;
        let retain_handling = match bits >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::protocol("retain handling is 3")),
        };
        Ok(Self {
            qos,
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling,
        })
    }
}

impl Subscribe {
    /// Decodes the body of a SUBSCRIBE.
    ///
    /// # Errors
    /// Malformed (0x81), protocol error (0x82), topic filter invalid (0x8F), quota exceeded (0x97).
    pub fn decode(
        body: Bytes,
        version: Version,
        limits: &Limits,
    ) -> Result<Subscribe, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            Properties::decode(&mut reader, Allowed::SUBSCRIBE, &mut Budget::new(limits))?
        } else {
            Properties::EMPTY
        };
        let mut subscriptions = Vec::new();
        while !reader.is_empty() {
            if subscriptions.len() == limits.filters_per_packet_max {
                return Err(too_many_filters());
            }
            let filter = limits.topic_filter(reader.text()?)?;
            let options = SubscribeOptions::decode(reader.u8()?, version)?;
            if options.no_local && filter.is_shared() {
                return Err(DecodeError::protocol("No Local on a shared subscription"));
            }
            subscriptions.push(Subscription { filter, options });
        }
        if subscriptions.is_empty() {
            return Err(DecodeError::protocol("SUBSCRIBE without a topic filter"));
        }
        Ok(Subscribe {
            packet_id,
            properties,
            subscriptions,
        })
    }

    /// The subscription identifier of all filters of the packet, 1 to 268,435,455, if any.
    pub fn subscription_identifier(&self) -> Option<u32> {
        self.properties.u32(PropertyId::SubscriptionIdentifier)
    }
}

pub(crate) fn too_many_filters() -> DecodeError {
    DecodeError::new(
        ReasonCode::QUOTA_EXCEEDED,
        "too many topic filters in a packet",
    )
}

/// The answer to a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// That of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter, in the order of the SUBSCRIBE: granted QoS or a refusal.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties; dropped before version 5.
    pub properties: Properties,
}

impl SubAck {
    /// Appends the packet to `out`. Before version 5 all refusals are 0x80.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] as its variant says.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        let fixed = 2 + self.reasons.len();
        let properties = write::fit(peer, Explain::IfAsked, fixed, &self.properties)?;
        let remaining = fixed + write::properties_len(peer.version, &properties);
        write::header(out, peer, PacketType::SubAck.first_byte(), remaining)?;
        out.put_u16(self.packet_id.get());
        write::properties(out, peer.version, &properties);
        for reason in &self.reasons {
            let coarse = reason.is_error() && !peer.version.is_v5();
            out.put_u8(if coarse {
                ReasonCode::UNSPECIFIED_ERROR.0
            } else {
                reason.0
            });
        }
        Ok(())
    }
}
