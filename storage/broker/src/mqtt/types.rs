//! What the MQTT protocol crate hands in and gets back.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::delivery::Token;

/// Quality of service (MQTT 5.0 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Delivered at most once, not acknowledged.
    AtMostOnce = 0,
    /// Delivered at least once: PUBACK.
    AtLeastOnce = 1,
    /// Delivered exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

/// What a client asks for in CONNECT, checked by the codec.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The client identifier; empty: the broker assigns one.
    pub client_id: String,
    /// Forget what is known of an earlier session (Clean Start, or Clean Session of MQTT 3).
    pub clean_start: bool,
    /// Seconds that the session outlives the connection: 0 ends with it, `u32::MAX` never ends;
    /// cut to `mqtt.max.session.expiry.interval`.
    pub session_expiry_s: u32,
    /// Whether the client speaks MQTT 5.
    pub v5: bool,
    /// What is published if the connection is lost.
    pub will: Option<Will>,
    /// QoS 1 and 2 messages that the client takes before the first is acknowledged.
    pub receive_maximum: u16,
}

/// A will message (MQTT 5.0 section 3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// The topic name.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service with which it is published.
    pub qos: QoS,
    /// Whether it becomes the retained message of its topic.
    pub retain: bool,
    /// Seconds to wait after the connection was lost; the end of the session cuts it short.
    pub delay_s: u32,
    /// Its properties.
    pub properties: MessageProperties,
}

/// What CONNACK says, and what a session that goes on must send again.
#[derive(Debug)]
pub struct Connected {
    /// The connection's handle on the session.
    pub session: super::Session,
    /// Whether there was a session (Session Present).
    pub session_present: bool,
    /// The client identifier, the assigned one if the client gave none.
    pub client_id: String,
    /// Seconds that the session outlives the connection, as granted.
    pub session_expiry_s: u32,
    /// Packet ids of QoS 2 publishes that were received and not yet released.
    pub inbound_qos2: Vec<u16>,
    /// What must be sent again, in this order, before anything new.
    pub outbound: Vec<Resume>,
}

/// A message that was in flight to the client when its last connection ended.
#[derive(Debug, Clone)]
pub struct Resume {
    /// The packet id, the same as before.
    pub packet_id: u16,
    /// How far it was.
    pub phase: OutboundPhase,
}

/// How far a message in flight to a client is.
#[derive(Debug, Clone)]
pub enum OutboundPhase {
    /// PUBLISH was sent, or was about to be; send it again with DUP.
    Published(Delivery),
    /// PUBREC came: send PUBREL again.
    Released,
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The client identifier is not acceptable (v5 0x85).
    #[error("the client identifier is not acceptable")]
    ClientIdentifier,
    /// The will's topic is not one that may be published to (v5 0x90).
    #[error("the topic of the will is not acceptable")]
    WillTopic,
    /// The will is larger than `mqtt.will.max.bytes` (v5 0x95).
    #[error("the will is too large")]
    WillTooLarge,
    /// The node has as many sessions as it takes (v5 0x97).
    #[error("too many sessions")]
    TooManySessions,
    /// The session's state cannot be stored now (v5 0x88).
    #[error("the session cannot be stored now")]
    Unavailable,
    /// The node is ending (v5 0x8B).
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// One PUBLISH of a client.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The topic name, aliases resolved.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// Its quality of service.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The packet id; 0 for QoS 0.
    pub packet_id: u16,
    /// Its properties.
    pub properties: MessageProperties,
}

/// A refusal for good: the client is told, and has no duty to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The client may not publish to this topic.
    #[error("not authorised")]
    NotAuthorized = 0x87,
    /// The topic name is legal but not accepted.
    #[error("topic name not accepted")]
    TopicNameInvalid = 0x90,
    /// The message is larger than its topic takes.
    #[error("message too large")]
    TooLarge = 0x95,
    /// A quota is exceeded.
    #[error("quota exceeded")]
    Quota = 0x97,
    /// The payload is not the UTF-8 that its format indicator says.
    #[error("payload format invalid")]
    PayloadFormat = 0x99,
}

/// Why a session's call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// For good: a negative acknowledgement may be sent.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// It may pass: hold the acknowledgement back, then close the connection. Never a negative
    /// acknowledgement.
    #[error("not now: {0}")]
    Transient(String),
    /// A newer connection owns the session.
    #[error("another connection has taken over the session")]
    Fenced,
}

/// One filter of a SUBSCRIBE, checked by the codec except for its quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// The filter, `$share/{group}/` included.
    pub filter: String,
    /// The highest quality of service that is wanted.
    pub qos: QoS,
    /// Nothing that this client published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// 0: send retained messages; 1: only if the subscription is new; 2: do not.
    pub retain_handling: u8,
    /// Comes with each message that this subscription matches.
    pub subscription_id: Option<u32>,
}

/// What a connection has to do next.
#[derive(Debug)]
pub enum SessionEvent {
    /// Messages to send, in this order.
    Deliveries(Vec<Delivery>),
    /// A newer connection has the session: close (v5 0x8E).
    TakenOver,
    /// The node is ending: close (v5 0x8B).
    Shutdown,
    /// A clean session is too far behind: close (v5 0x97).
    SlowConsumer,
}

/// One message for one session.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message, shared with all who get it.
    pub message: Arc<Message>,
    /// The quality of service to send it with.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub subscription_ids: SubscriptionIds,
    /// Where it comes from.
    pub(crate) token: Token,
    /// It may have been sent before: set DUP.
    pub duplicate: bool,
}

/// The subscription identifiers of a delivery; nearly always none or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SubscriptionIds {
    /// No matching subscription has one.
    #[default]
    None,
    /// Exactly one.
    One(u32),
    /// Several.
    Many(Arc<[u32]>),
}

/// How to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// Publish the will: every end but a DISCONNECT with reason 0x00.
    pub publish_will: bool,
    /// The session expiry of a v5 DISCONNECT, if it carries one.
    pub session_expiry_s: Option<u32>,
}

/// A message, decoded once and shared by all who get it.
#[derive(Debug)]
pub struct Message {
    /// The topic name.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service with which it was published; 1 for a Kafka producer's record.
    pub qos: QoS,
    /// Whether it was published with RETAIN.
    pub retain: bool,
    /// Its properties; `expiry_s` is what was published, see [`Message::expiry_remaining_s`].
    pub properties: MessageProperties,
    /// When it expires, in milliseconds since the Unix epoch.
    pub deadline_ms: Option<i64>,
    encodings: [OnceLock<Bytes>; ENCODING_SLOTS],
}

/// How many encodings a message can share.
pub const ENCODING_SLOTS: usize = 4;

/// The properties of a message that travel with it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MessageProperties {
    /// Payload Format Indicator: 1 is UTF-8.
    pub payload_format: Option<u8>,
    /// Message Expiry Interval in seconds.
    pub expiry_s: Option<u32>,
    /// Content Type.
    pub content_type: Option<String>,
    /// Response Topic.
    pub response_topic: Option<String>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User Properties, in order, repeats kept.
    pub user: Vec<(String, String)>,
}

/// Gauges for `/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MqttStats {
    /// Sessions with a connection.
    pub sessions_online: usize,
    /// Sessions without one that may come back.
    pub sessions_offline: usize,
    /// Subscriptions of online sessions.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained: usize,
}

// === impl QoS ===

impl QoS {
    /// From the two bits of the wire; `None` for 3 and above.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

// === impl SubscriptionIds ===

impl SubscriptionIds {
    /// The identifiers.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    /// Adds one.
    pub(crate) fn add(&mut self, id: Option<u32>) {
        let Some(id) = id else { return };
        *self = match self {
            Self::None => Self::One(id),
            _ => {
                let mut ids = self.as_slice().to_vec();
                ids.push(id);
                Self::Many(ids.into())
            }
        };
    }

    /// From any number.
    pub(crate) fn from_slice(ids: &[u32]) -> Self {
        match ids {
            [] => Self::None,
            [id] => Self::One(*id),
            many => Self::Many(many.into()),
        }
    }
}

// === impl Message ===

impl Message {
    /// A message that expires `properties.expiry_s` after `timestamp_ms`.
    pub(crate) fn new(
        topic: String,
        payload: Bytes,
        flags: (QoS, bool),
        properties: MessageProperties,
        timestamp_ms: i64,
    ) -> Self {
        let expiry_ms = properties.expiry_s.map(|seconds| i64::from(seconds) * 1000);
        Self {
            topic,
            payload,
            qos: flags.0,
            retain: flags.1,
            properties,
            deadline_ms: expiry_ms.map(|expiry| timestamp_ms.saturating_add(expiry)),
            encodings: Default::default(),
        }
    }

    /// The encoding in `slot`, made by the first who asks and shared by all. What a slot means is
    /// the protocol crate's affair; a slot that does not exist is made anew in the last one's place.
    pub fn encoding(&self, slot: usize, make: impl FnOnce() -> Bytes) -> &Bytes {
        self.encodings[slot.min(ENCODING_SLOTS - 1)].get_or_init(make)
    }

    /// The Message Expiry Interval to send, rounded up; 0: expired, do not send. `None`: it does
    /// not expire.
    pub fn expiry_remaining_s(&self, now_ms: i64) -> Option<u32> {
        let remaining_ms = self.deadline_ms?.saturating_sub(now_ms).max(0);
        Some(u32::try_from(remaining_ms.saturating_add(999) / 1000).unwrap_or(u32::MAX))
    }

    pub(crate) fn is_expired(&self, now_ms: i64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
    }

    /// What it costs in a queue, in bytes.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.payload.len() + self.topic.len() + super::limits::QUEUED_OVERHEAD_BYTES
    }
}
