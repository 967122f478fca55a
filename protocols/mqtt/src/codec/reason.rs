//! Reason codes (2.4) and what is left of them in CONNACK before version 5.

/// A v5 reason code. Any byte is a value of this type; decoding checks which ones a packet may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl ReasonCode {
            $(#[doc = $doc] pub const $name: ReasonCode = ReasonCode($value);)*
        }
    };
}

reason_codes! {
    SUCCESS = 0x00, "Success; also normal disconnection and granted QoS 0.";
    GRANTED_QOS_1 = 0x01, "Granted QoS 1.";
    GRANTED_QOS_2 = 0x02, "Granted QoS 2.";
    DISCONNECT_WITH_WILL = 0x04, "Disconnect with will message.";
    NO_MATCHING_SUBSCRIBERS = 0x10, "No matching subscribers.";
    NO_SUBSCRIPTION_EXISTED = 0x11, "No subscription existed.";
    CONTINUE_AUTHENTICATION = 0x18, "Continue authentication.";
    RE_AUTHENTICATE = 0x19, "Re-authenticate.";
    UNSPECIFIED_ERROR = 0x80, "Unspecified error.";
    MALFORMED_PACKET = 0x81, "Malformed packet.";
    PROTOCOL_ERROR = 0x82, "Protocol error.";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Implementation specific error.";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Unsupported protocol version.";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "Client identifier not valid.";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "Bad user name or password.";
    NOT_AUTHORIZED = 0x87, "Not authorized.";
    SERVER_UNAVAILABLE = 0x88, "Server unavailable.";
    SERVER_BUSY = 0x89, "Server busy.";
    BANNED = 0x8A, "Banned.";
    SERVER_SHUTTING_DOWN = 0x8B, "Server shutting down.";
    BAD_AUTHENTICATION_METHOD = 0x8C, "Bad authentication method.";
    KEEP_ALIVE_TIMEOUT = 0x8D, "Keep alive timeout.";
    SESSION_TAKEN_OVER = 0x8E, "Session taken over.";
    TOPIC_FILTER_INVALID = 0x8F, "Topic filter well-formed but not accepted.";
    TOPIC_NAME_INVALID = 0x90, "Topic name well-formed but not accepted.";
    PACKET_ID_IN_USE = 0x91, "Packet identifier in use.";
    PACKET_ID_NOT_FOUND = 0x92, "Packet identifier not found.";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "Receive Maximum exceeded.";
    TOPIC_ALIAS_INVALID = 0x94, "Topic alias invalid.";
    PACKET_TOO_LARGE = 0x95, "Packet too large.";
    MESSAGE_RATE_TOO_HIGH = 0x96, "Message rate too high.";
    QUOTA_EXCEEDED = 0x97, "A limit of the implementation or its administrator was exceeded.";
    ADMINISTRATIVE_ACTION = 0x98, "Administrative action.";
    PAYLOAD_FORMAT_INVALID = 0x99, "Payload is not what its format indicator says.";
    RETAIN_NOT_SUPPORTED = 0x9A, "Retain not supported.";
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported.";
    USE_ANOTHER_SERVER = 0x9C, "Use another server.";
    SERVER_MOVED = 0x9D, "Server moved.";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "Shared subscriptions not supported.";
    CONNECTION_RATE_EXCEEDED = 0x9F, "Connection rate exceeded.";
    MAXIMUM_CONNECT_TIME = 0xA0, "Maximum connect time.";
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "Subscription identifiers not supported.";
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "Wildcard subscriptions not supported.";
}

impl ReasonCode {
    /// Whether this code refuses something.
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 (3.1.1 specification, table 3.1) that says the
    /// same, or `None` where the connection is to be closed without a CONNACK.
    pub const fn connack_code_v3(self) -> Option<u8> {
        match self {
            Self::SUCCESS => Some(0),
            Self::UNSUPPORTED_PROTOCOL_VERSION => Some(1),
            Self::CLIENT_IDENTIFIER_NOT_VALID => Some(2),
            Self::UNSPECIFIED_ERROR
            | Self::IMPLEMENTATION_SPECIFIC_ERROR
            | Self::SERVER_UNAVAILABLE
            | Self::SERVER_BUSY
            | Self::SERVER_SHUTTING_DOWN
            | Self::QUOTA_EXCEEDED
            | Self::USE_ANOTHER_SERVER
            | Self::SERVER_MOVED
            | Self::CONNECTION_RATE_EXCEEDED => Some(3),
            Self::BAD_USER_NAME_OR_PASSWORD | Self::BAD_AUTHENTICATION_METHOD => Some(4),
            Self::NOT_AUTHORIZED | Self::BANNED => Some(5),
            _ => None,
        }
    }
}
