//! Small values that many packets share.

use std::{fmt, num::NonZeroU16};

use super::{
    DecodeError, FILTERS_PER_PACKET_MAX, PROPERTY_BYTES_MAX, ReasonCode, TOPIC_LEVELS_MAX,
    TopicFilter, TopicName, USER_PROPERTIES_MAX, Utf8Str,
};

/// The protocol version of a connection, fixed by its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    /// The protocol level byte of CONNECT.
    pub const fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name of CONNECT.
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// Whether packets carry properties and reason codes.
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// Quality of service: 0 at most once, 1 at least once, 2 exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// Fire and forget.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The level of two bits, or `None` for the reserved value 3 (and everything above).
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The level as its number, 0 to 2.
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// A packet identifier: 1 to 65,535 (2.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// The smallest identifier.
    pub const FIRST: PacketId = PacketId(NonZeroU16::MIN);

    /// `None` for zero, which is no identifier.
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The identifier after this one; 65,535 is followed by 1.
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(id) => Self(id),
            None => Self::FIRST,
        }
    }
}

impl fmt::Debug for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketId({})", self.0)
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a packet may hold at most, beyond what the protocol itself bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Levels of a topic name or topic filter, a share prefix not counted.
    pub topic_levels_max: usize,
    /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: usize,
    /// User properties in one packet.
    pub user_properties_max: usize,
    /// Bytes of properties in one packet.
    pub property_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topic_levels_max: TOPIC_LEVELS_MAX,
            filters_per_packet_max: FILTERS_PER_PACKET_MAX,
            user_properties_max: USER_PROPERTIES_MAX,
            property_bytes_max: PROPERTY_BYTES_MAX,
        }
    }
}

impl Limits {
    pub(crate) fn topic_name(&self, text: Utf8Str) -> Result<TopicName, DecodeError> {
        let name = TopicName::parse(text)?;
        if name.levels() > self.topic_levels_max {
            let reason = ReasonCode::TOPIC_NAME_INVALID;
            return Err(DecodeError::new(reason, "topic name has too many levels"));
        }
        Ok(name)
    }

    pub(crate) fn topic_filter(&self, text: Utf8Str) -> Result<TopicFilter, DecodeError> {
        let filter = TopicFilter::parse(text)?;
        if filter.levels() > self.topic_levels_max {
            let reason = ReasonCode::TOPIC_FILTER_INVALID;
            return Err(DecodeError::new(reason, "topic filter has too many levels"));
        }
        Ok(filter)
    }
}

/// What an encoder must know of the client that it writes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The version spoken on the connection.
    pub version: Version,
    /// The client's Maximum Packet Size in bytes (3.1.2.11.4); `u32::MAX` where it gave none.
    pub packet_bytes_max: u32,
    /// Request Problem Information (3.1.2.11.7): if false, reason strings and user properties go
    /// only into PUBLISH, CONNACK and DISCONNECT.
    pub problem_information: bool,
}

impl Peer {
    /// A client of this version that asked for nothing.
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            packet_bytes_max: u32::MAX,
            problem_information: true,
        }
    }
}
