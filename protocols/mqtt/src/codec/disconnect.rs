//! DISCONNECT (3.14), both directions, and PINGRESP, which has nothing of its own to say.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Limits, Peer, Properties, PropertyId, ReasonCode, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    write::{self, Explain},
};

/// The end of a connection, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disconnect {
    /// Why; always success (a normal end) from older clients.
    pub reason: ReasonCode,
    /// Properties; empty before version 5.
    pub properties: Properties,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: Properties::EMPTY,
        }
    }

    /// Decodes the body of a client's DISCONNECT. In version 5 an empty one means success, one of
    /// a single byte has no properties (3.14.2).
    ///
    /// # Errors
    /// Malformed (0x81); protocol error (0x82) for a reason code or a property that a client cannot
    /// give.
    pub fn decode(
        body: Bytes,
        version: Version,
        limits: &Limits,
    ) -> Result<Disconnect, DecodeError> {
        let disconnect = Self::decode_with(body, version, limits, Allowed::DISCONNECT)?;
        if !is_reason_of_client(disconnect.reason) {
            return Err(DecodeError::protocol(
                "reason code is not one of a client's DISCONNECT",
            ));
        }
        Ok(disconnect)
    }

    pub(crate) fn decode_with(
        body: Bytes,
        version: Version,
        limits: &Limits,
        allowed: Allowed,
    ) -> Result<Disconnect, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Disconnect::default();
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason = ReasonCode(reader.u8()?);
            if !reader.is_empty() {
                disconnect.properties =
                    Properties::decode(&mut reader, allowed, &mut Budget::new(limits))?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    /// The session expiry interval in seconds that the client wants from now on, if it says so.
    /// That it may not be raised from 0 (3.14.2.2.2) needs the CONNECT to tell.
    pub fn session_expiry_secs(&self) -> Option<u32> {
        self.properties.u32(PropertyId::SessionExpiryInterval)
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`EncodeError::NotInVersion`] before version 5, where servers only close;
    /// [`EncodeError::TooLarge`] as its variant says.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !peer.version.is_v5() {
            return Err(EncodeError::NotInVersion);
        }
        let properties = if self.properties.is_empty() {
            Properties::EMPTY
        } else {
            write::fit(peer, Explain::Always, 1, &self.properties)?
        };
        let explained = !properties.is_empty();
        let with_reason = explained || self.reason != ReasonCode::SUCCESS;
        let mut remaining = usize::from(with_reason);
        if explained {
            remaining += write::properties_len(peer.version, &properties);
        }
        write::header(out, peer, PacketType::Disconnect.first_byte(), remaining)?;
        if with_reason {
            out.put_u8(self.reason.0);
        }
        if explained {
            write::properties(out, peer.version, &properties);
        }
        Ok(())
    }
}

/// Appends a PINGRESP (3.13) to `out`.
pub fn encode_ping_resp(out: &mut BytesMut) {
    out.put_slice(&[PacketType::PingResp.first_byte(), 0]);
}

/// The reason codes of table 3-13 that are marked as sent by clients.
fn is_reason_of_client(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::SUCCESS
            | ReasonCode::DISCONNECT_WITH_WILL
            | ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::MALFORMED_PACKET
            | ReasonCode::PROTOCOL_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::RECEIVE_MAXIMUM_EXCEEDED
            | ReasonCode::TOPIC_ALIAS_INVALID
            | ReasonCode::PACKET_TOO_LARGE
            | ReasonCode::MESSAGE_RATE_TOO_HIGH
            | ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::ADMINISTRATIVE_ACTION
            | ReasonCode::PAYLOAD_FORMAT_INVALID
    )
}
