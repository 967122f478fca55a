//! What can go wrong between bytes and packets.

use super::ReasonCode;

/// A packet that cannot be accepted. The connection must be closed; `reason` is what a v5 client is
/// told first (in CONNACK for a CONNECT, else in DISCONNECT), older ones are told nothing, except
/// by [`ReasonCode::connack_code_v3`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (0x{:02x})", reason.0)]
pub struct DecodeError {
    /// The v5 reason code, always 0x80 or above.
    pub reason: ReasonCode,
    /// What was wrong: ours, never the peer's text, so that it may go into logs and reason strings.
    pub what: &'static str,
}

impl DecodeError {
    /// An error with any reason code.
    pub const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self { reason, what }
    }

    /// Bytes that are no packet (0x81).
    pub const fn malformed(what: &'static str) -> Self {
        Self::new(ReasonCode::MALFORMED_PACKET, what)
    }

    /// A packet that the protocol forbids here (0x82).
    pub const fn protocol(what: &'static str) -> Self {
        Self::new(ReasonCode::PROTOCOL_ERROR, what)
    }
}

/// A packet that was not written; the output buffer is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Larger than the client's Maximum Packet Size, even without its reason string and user
    /// properties. A PUBLISH is then dropped as if it had been delivered (3.1.2.11.4).
    #[error("packet of {bytes} bytes, the client takes {max}")]
    TooLarge {
        /// Size of the packet in bytes, saturated at `usize::MAX`.
        bytes: usize,
        /// What the client (or the wire format) allows.
        max: usize,
    },
    /// The client's protocol version has no way to say this; the sender just closes or goes on.
    #[error("no such packet in the client's protocol version")]
    NotInVersion,
}
