//! UNSUBSCRIBE (3.10): decoding; UNSUBACK (3.11): encoding.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Limits, PacketId, Peer, Properties, ReasonCode, TopicFilter, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    subscribe::too_many_filters,
    write::{self, Explain},
};

/// A client's wish to have no more messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered by the UNSUBACK of the same identifier.
    pub packet_id: PacketId,
    /// User properties; empty before version 5.
    pub properties: Properties,
    /// At least one and at most [`Limits::filters_per_packet_max`] filters, in the order of the packet.
    pub filters: Vec<TopicFilter>,
}

impl Unsubscribe {
    /// Decodes the body of an UNSUBSCRIBE.
    ///
    /// # Errors
    /// Malformed (0x81), protocol error (0x82), topic filter invalid (0x8F), quota exceeded (0x97).
    pub fn decode(
        body: Bytes,
        version: Version,
        limits: &Limits,
    ) -> Result<Unsubscribe, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            Properties::decode(&mut reader, Allowed::UNSUBSCRIBE, &mut Budget::new(limits))?
        } else {
            Properties::EMPTY
        };
        let mut filters = Vec::new();
        while !reader.is_empty() {
            if filters.len() == limits.filters_per_packet_max {
                return Err(too_many_filters());
            }
            filters.push(limits.topic_filter(reader.text()?)?);
        }
        if filters.is_empty() {
            return Err(DecodeError::protocol("UNSUBSCRIBE without a topic filter"));
        }
        Ok(Unsubscribe {
            packet_id,
            properties,
            filters,
        })
    }
}

/// The answer to an UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubAck {
    /// That of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter, in the order of the UNSUBSCRIBE; dropped before version 5.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties; dropped before version 5.
    pub properties: Properties,
}

impl UnsubAck {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] as its variant says.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        let reasons: &[ReasonCode] = if peer.version.is_v5() {
            &self.reasons
        } else {
            &[]
        };
        let fixed = 2 + reasons.len();
        let properties = write::fit(peer, Explain::IfAsked, fixed, &self.properties)?;
        let remaining = fixed + write::properties_len(peer.version, &properties);
        write::header(out, peer, PacketType::UnsubAck.first_byte(), remaining)?;
        out.put_u16(self.packet_id.get());
        write::properties(out, peer.version, &properties);
        for reason in reasons {
            out.put_u8(reason.0);
        }
        Ok(())
    }
}
