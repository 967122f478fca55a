//! PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7): one shape, both directions.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Limits, PacketId, Peer, Properties, ReasonCode, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    write::{self, Explain},
};

/// Which of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// Answers a QoS 1 PUBLISH.
    PubAck,
    /// Answers a QoS 2 PUBLISH.
    PubRec,
    /// Answers a PUBREC.
    PubRel,
    /// Answers a PUBREL.
    PubComp,
}

/// The content of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The exchange that it belongs to.
    pub packet_id: PacketId,
    /// Always success before version 5.
    pub reason: ReasonCode,
    /// Reason string and user properties.
    pub properties: Properties,
}

impl AckKind {
    fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }

    /// The reason codes of tables 3-4 to 3-7.
    fn allows(self, reason: ReasonCode) -> bool {
        match self {
            Self::PubAck | Self::PubRec => matches!(
                reason,
                ReasonCode::SUCCESS
                    | ReasonCode::NO_MATCHING_SUBSCRIBERS
                    | ReasonCode::UNSPECIFIED_ERROR
                    | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
                    | ReasonCode::NOT_AUTHORIZED
                    | ReasonCode::TOPIC_NAME_INVALID
                    | ReasonCode::PACKET_ID_IN_USE
                    | ReasonCode::QUOTA_EXCEEDED
                    | ReasonCode::PAYLOAD_FORMAT_INVALID
            ),
            Self::PubRel | Self::PubComp => {
                matches!(
                    reason,
                    ReasonCode::SUCCESS | ReasonCode::PACKET_ID_NOT_FOUND
                )
            }
        }
    }
}

impl Ack {
    /// An acknowledgement without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: Properties::EMPTY,
        }
    }

    /// Decodes the body of an acknowledgement. In version 5 a packet of two bytes means success,
    /// one of three has no properties (3.4.2.1).
    ///
    /// # Errors
    /// Malformed (0x81); protocol error (0x82) for a reason code that this packet cannot have.
    pub fn decode(
        kind: AckKind,
        body: Bytes,
        version: Version,
        limits: &Limits,
    ) -> Result<Ack, DecodeError> {
        let mut reader = Reader::new(body);
        let mut ack = Ack::new(reader.packet_id()?, ReasonCode::SUCCESS);
        if version.is_v5() && !reader.is_empty() {
            ack.reason = ReasonCode(reader.u8()?);
            if !kind.allows(ack.reason) {
                return Err(DecodeError::protocol(
                    "reason code is not one of this packet",
                ));
            }
            if !reader.is_empty() {
                ack.properties =
                    Properties::decode(&mut reader, Allowed::ACK, &mut Budget::new(limits))?;
            }
        }
        reader.finish()?;
        Ok(ack)
    }

    /// Appends the packet to `out`, in the shortest form that says it. Before version 5 only the
    /// identifier is said, so a refusal must not be encoded for those: it would read as success.
    ///
    /// # Errors
    /// [`EncodeError::NotInVersion`] for a refused PUBLISH before version 5;
    /// [`EncodeError::TooLarge`] as its variant says.
    pub fn encode(
        &self,
        kind: AckKind,
        peer: &Peer,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let first = kind.packet_type().first_byte();
        if !peer.version.is_v5() {
            if self.reason.is_error() && matches!(kind, AckKind::PubAck | AckKind::PubRec) {
                return Err(EncodeError::NotInVersion);
            }
            write::header(out, peer, first, 2)?;
            out.put_u16(self.packet_id.get());
            return Ok(());
        }
        let properties = if self.properties.is_empty() {
            Properties::EMPTY
        } else {
            write::fit(peer, Explain::IfAsked, 3, &self.properties)?
        };
        let with_reason = self.reason != ReasonCode::SUCCESS || !properties.is_empty();
        let mut remaining = 2 + usize::from(with_reason);
        if !properties.is_empty() {
            remaining += write::properties_len(peer.version, &properties);
        }
        write::header(out, peer, first, remaining)?;
        out.put_u16(self.packet_id.get());
        if with_reason {
            out.put_u8(self.reason.0);
        }
        if !properties.is_empty() {
            write::properties(out, peer.version, &properties);
        }
        Ok(())
    }
}
