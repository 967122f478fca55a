//! Property identifiers, the kinds of their values, and which packet may carry which (table 2-4).

/// A property identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(
    missing_docs,
    reason = "the names are those of the standard's table 2-4"
)]
pub enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0B,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1A,
    ServerReference = 0x1C,
    ReasonString = 0x1F,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQos = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2A,
}

/// How the value of a property is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Byte,
    U16,
    U32,
    Varint,
    Text,
    Binary,
    Pair,
}

impl PropertyId {
    /// The identifier of a byte, or `None` if there is none.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::PayloadFormatIndicator,
            0x02 => Self::MessageExpiryInterval,
            0x03 => Self::ContentType,
            0x08 => Self::ResponseTopic,
            0x09 => Self::CorrelationData,
            0x0B => Self::SubscriptionIdentifier,
            0x11 => Self::SessionExpiryInterval,
            0x12 => Self::AssignedClientIdentifier,
            0x13 => Self::ServerKeepAlive,
            0x15 => Self::AuthenticationMethod,
            0x16 => Self::AuthenticationData,
            0x17 => Self::RequestProblemInformation,
            0x18 => Self::WillDelayInterval,
            0x19 => Self::RequestResponseInformation,
            0x1A => Self::ResponseInformation,
            0x1C => Self::ServerReference,
            0x1F => Self::ReasonString,
            0x21 => Self::ReceiveMaximum,
            0x22 => Self::TopicAliasMaximum,
            0x23 => Self::TopicAlias,
            0x24 => Self::MaximumQos,
            0x25 => Self::RetainAvailable,
            0x26 => Self::UserProperty,
            0x27 => Self::MaximumPacketSize,
            0x28 => Self::WildcardSubscriptionAvailable,
            0x29 => Self::SubscriptionIdentifierAvailable,
            0x2A => Self::SharedSubscriptionAvailable,
            _ => return None,
        })
    }

    /// The identifier's byte on the wire.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The identifier's bit in a mask; all are below 64.
    pub const fn bit(self) -> u64 {
        1 << (self as u8)
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::PayloadFormatIndicator
            | Self::RequestProblemInformation
            | Self::RequestResponseInformation
            | Self::MaximumQos
            | Self::RetainAvailable
            | Self::WildcardSubscriptionAvailable
            | Self::SubscriptionIdentifierAvailable
            | Self::SharedSubscriptionAvailable => Kind::Byte,
            Self::ServerKeepAlive
            | Self::ReceiveMaximum
            | Self::TopicAliasMaximum
            | Self::TopicAlias => Kind::U16,
            Self::MessageExpiryInterval
            | Self::SessionExpiryInterval
            | Self::WillDelayInterval
            | Self::MaximumPacketSize => Kind::U32,
            Self::SubscriptionIdentifier => Kind::Varint,
            Self::CorrelationData | Self::AuthenticationData => Kind::Binary,
            Self::UserProperty => Kind::Pair,
            Self::ContentType
            | Self::ResponseTopic
            | Self::AssignedClientIdentifier
            | Self::AuthenticationMethod
            | Self::ResponseInformation
            | Self::ServerReference
            | Self::ReasonString => Kind::Text,
        }
    }
}

/// Which properties a packet may carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Allowed in this packet from this sender.
    pub(crate) mask: u64,
    /// Of those, the ones that may repeat.
    pub(crate) repeat: u64,
    /// Known in this packet, but not from this sender: a protocol error (0x82), where an identifier
    /// that the packet does not know at all is malformed (0x81).
    pub(crate) other_role: u64,
}

const fn mask(ids: &[PropertyId]) -> u64 {
    let mut mask = PropertyId::UserProperty.bit();
    let mut at = 0;
    while at < ids.len() {
        mask |= ids[at].bit();
        at += 1;
    }
    mask
}

impl Allowed {
    const fn of(ids: &[PropertyId]) -> Self {
        Self {
            mask: mask(ids),
            repeat: PropertyId::UserProperty.bit(),
            other_role: 0,
        }
    }

    pub(crate) const CONNECT: Self = Self::of(&[
        PropertyId::SessionExpiryInterval,
        PropertyId::ReceiveMaximum,
        PropertyId::MaximumPacketSize,
        PropertyId::TopicAliasMaximum,
        PropertyId::RequestResponseInformation,
        PropertyId::RequestProblemInformation,
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
    ]);

    pub(crate) const WILL: Self = Self::of(&[
        PropertyId::WillDelayInterval,
        PropertyId::PayloadFormatIndicator,
        PropertyId::MessageExpiryInterval,
        PropertyId::ContentType,
        PropertyId::ResponseTopic,
        PropertyId::CorrelationData,
    ]);

    pub(crate) const PUBLISH: Self = Self {
        other_role: PropertyId::SubscriptionIdentifier.bit(),
        ..Self::of(&[
            PropertyId::PayloadFormatIndicator,
            PropertyId::MessageExpiryInterval,
            PropertyId::ContentType,
            PropertyId::ResponseTopic,
            PropertyId::CorrelationData,
            PropertyId::TopicAlias,
        ])
    };

    pub(crate) const PUBLISH_FROM_SERVER: Self = Self {
        mask: Self::PUBLISH.mask | PropertyId::SubscriptionIdentifier.bit(),
        repeat: Self::PUBLISH.repeat | PropertyId::SubscriptionIdentifier.bit(),
        other_role: 0,
    };

    pub(crate) const ACK: Self = Self::of(&[PropertyId::ReasonString]);

    pub(crate) const SUBSCRIBE: Self = Self::of(&[PropertyId::SubscriptionIdentifier]);

    pub(crate) const UNSUBSCRIBE: Self = Self::of(&[]);

    pub(crate) const DISCONNECT: Self = Self {
        other_role: PropertyId::ServerReference.bit(),
        ..Self::of(&[PropertyId::SessionExpiryInterval, PropertyId::ReasonString])
    };

    pub(crate) const DISCONNECT_FROM_SERVER: Self = Self {
        other_role: PropertyId::SessionExpiryInterval.bit(),
        ..Self::of(&[PropertyId::ServerReference, PropertyId::ReasonString])
    };

    pub(crate) const AUTH: Self = Self::of(&[
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
        PropertyId::ReasonString,
    ]);

    pub(crate) const CONNACK: Self = Self::of(&[
        PropertyId::SessionExpiryInterval,
        PropertyId::ReceiveMaximum,
        PropertyId::MaximumQos,
        PropertyId::RetainAvailable,
        PropertyId::MaximumPacketSize,
        PropertyId::AssignedClientIdentifier,
        PropertyId::TopicAliasMaximum,
        PropertyId::ReasonString,
        PropertyId::WildcardSubscriptionAvailable,
        PropertyId::SubscriptionIdentifierAvailable,
        PropertyId::SharedSubscriptionAvailable,
        PropertyId::ServerKeepAlive,
        PropertyId::ResponseInformation,
        PropertyId::ServerReference,
        PropertyId::AuthenticationMethod,
        PropertyId::AuthenticationData,
    ]);
}
