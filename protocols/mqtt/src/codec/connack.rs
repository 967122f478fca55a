//! CONNACK (3.2): encoding.

use bytes::{BufMut, BytesMut};

use super::{
    EncodeError, Peer, Properties, ReasonCode,
    packet::PacketType,
    write::{self, Explain},
};

/// The server's answer to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAck {
    /// Whether the server has a session for the client; false with every refusal.
    pub session_present: bool,
    /// Success or why not.
    pub reason: ReasonCode,
    /// Properties of the session and of a refusal; dropped before version 5.
    pub properties: Properties,
}

impl ConnAck {
    /// A refusal without properties.
    pub fn refusal(reason: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason,
            properties: Properties::EMPTY,
        }
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`EncodeError::NotInVersion`] where an older version has no return code for the reason: the
    /// connection is then closed without an answer. [`EncodeError::TooLarge`] as its variant says.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        let session_present = self.session_present && !self.reason.is_error();
        let code = if peer.version.is_v5() {
            self.reason.0
        } else {
            self.reason
                .connack_code_v3()
                .ok_or(EncodeError::NotInVersion)?
        };
        let properties = write::fit(peer, Explain::Always, 2, &self.properties)?;
        let remaining = 2 + write::properties_len(peer.version, &properties);
        write::header(out, peer, PacketType::ConnAck.first_byte(), remaining)?;
        // In MQTT 3.1 the first byte is reserved and 0: that version knows no "session present".
        let known = peer.version != super::Version::V31;
        out.put_u8(u8::from(session_present && known));
        out.put_u8(code);
        write::properties(out, peer.version, &properties);
        Ok(())
    }
}
