//! The MQTT wire format, versions 3.1, 3.1.1 and 5, for the server's role.
//!
//! Here live: frame detection, decoding of what clients send, encoding of what servers send, and
//! the rules of topic names and filters. Here may not live: I/O, clocks, session state, or a
//! decision about what a packet means; a packet that leaves this module is well-formed and
//! allowed for its version and its sender, nothing more.
//!
//! Rules that hold everywhere:
//! - nothing is allocated because of a length that a peer claims; a frame is bounded by its header
//!   ([`frame::check`]) and everything inside is a slice of it;
//! - a frame is used up to its last byte, or it is malformed;
//! - a [`DecodeError`] carries the v5 reason code with which the connection is to be closed;
//! - v5 properties stay the validated raw bytes of the frame ([`Properties`]) and are read lazily,
//!   so that a PUBLISH that is only passed on costs no allocation.
//!
//! ```text
//! bytes --frame::split--> Frame --Packet::decode(version, limits)--> Packet
//! ```
//!
//! Sections named in this module ("3.8.3.1") are those of the OASIS MQTT 5.0 standard.

pub mod ack;
pub mod auth;
pub mod client;
pub mod connack;
pub mod connect;
pub mod disconnect;
mod error;
pub mod frame;
pub mod packet;
pub mod properties;
pub mod publish;
mod read;
mod reason;
pub mod subscribe;
mod text;
pub mod topic;
mod types;
pub mod unsubscribe;
pub mod varint;
mod write;

#[cfg(test)]
mod tests;

pub use ack::{Ack, AckKind};
pub use auth::Auth;
pub use connack::ConnAck;
pub use connect::{Connect, Will};
pub use disconnect::Disconnect;
pub use error::{DecodeError, EncodeError};
pub use frame::Frame;
pub use packet::Packet;
pub use properties::{Properties, PropertyId, PropertyWriter};
pub use publish::{Publish, PublishOut};
pub use reason::ReasonCode;
pub use subscribe::{RetainHandling, SubAck, Subscribe, SubscribeOptions, Subscription};
pub use text::{TextError, Utf8Str};
pub use topic::{TopicFilter, TopicName};
pub use types::{Limits, PacketId, Peer, QoS, Version};
pub use unsubscribe::{UnsubAck, Unsubscribe};

/// Largest packet accepted by default, in bytes and with its fixed header.
pub const PACKET_BYTES_MAX_DEFAULT: u32 = 2_000_000;

/// Largest packet that the protocol can express, in bytes and with its fixed header (2.1.4).
pub const PACKET_BYTES_MAX_WIRE: u32 = varint::VALUE_MAX + 5;

/// Largest CONNECT accepted, in bytes: 64 KiB, and 256 KiB for the will. It is read from a peer of
/// whom nothing is known yet, so it does not follow the configured packet size.
pub const CONNECT_BYTES_MAX: u32 = 320 * 1024;

/// User properties that one packet may carry, by default.
pub const USER_PROPERTIES_MAX: usize = 64;

/// Bytes of properties that one packet may carry, by default (in CONNECT, the will's included).
pub const PROPERTY_BYTES_MAX: usize = 32 * 1024;

/// Topic filters in one SUBSCRIBE or UNSUBSCRIBE, by default.
pub const FILTERS_PER_PACKET_MAX: usize = 100;

/// Levels of a topic name or topic filter (a share prefix not counted), by default.
pub const TOPIC_LEVELS_MAX: usize = 128;
