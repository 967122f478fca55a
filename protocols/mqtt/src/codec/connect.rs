//! CONNECT (3.1): decoding.

use std::fmt;

use bytes::Bytes;

use super::{
    DecodeError, Limits, Peer, Properties, PropertyId, QoS, ReasonCode, TopicName, Utf8Str,
    Version,
    properties::{Allowed, Budget},
    read::Reader,
};

const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// A client's first packet.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that the client speaks.
    pub version: Version,
    /// Clean Start, or Clean Session before version 5.
    pub clean_start: bool,
    /// Keep alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// The client identifier; if empty, the server is to assign one.
    pub client_id: Utf8Str,
    /// The message to publish when the client is gone.
    pub will: Option<Will>,
    /// The user name; it may be present and empty.
    pub username: Option<Utf8Str>,
    /// The password: binary; it may be present and empty.
    pub password: Option<Bytes>,
    /// Properties; empty before version 5.
    pub properties: Properties,
}

/// The message that a server publishes on behalf of a client that is gone (3.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: QoS,
    /// Whether as a retained message.
    pub retain: bool,
    /// Will properties, the delay among them; empty before version 5.
    pub properties: Properties,
}

impl Will {
    /// Seconds between the loss of the connection and the will.
    pub fn delay_secs(&self) -> u32 {
        self.properties
            .u32(PropertyId::WillDelayInterval)
            .unwrap_or(0)
    }

    /// Message expiry interval in seconds, if any.
    pub fn expiry_secs(&self) -> Option<u32> {
        self.properties.u32(PropertyId::MessageExpiryInterval)
    }

    /// Whether the payload is what its Payload Format Indicator says.
    pub fn is_payload_format_kept(&self) -> bool {
        super::publish::is_payload_format_kept(&self.properties, &self.payload)
    }
}

/// Leaves the password out.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_secs", &self.keep_alive_secs)
            .field("client_id", &self.client_id)
            .field("will", &self.will.is_some())
            .field("username", &self.username)
            .field("password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

impl Connect {
    /// Decodes the body of a CONNECT.
    ///
    /// # Errors
    /// Unsupported protocol version (0x84), client identifier not valid (0x85), malformed (0x81),
    /// protocol error (0x82), a limit of ours (0x90, 0x97).
    pub fn decode(body: Bytes, limits: &Limits) -> Result<Connect, DecodeError> {
        let mut reader = Reader::new(body);
        let version = version(&reader.binary()?, reader.u8()?).ok_or(DecodeError::new(
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            "unsupported protocol name or level",
        ))?;
        let flags = reader.u8()?;
        let will_qos = check_flags(flags, version)?;
        let keep_alive_secs = reader.u16()?;
        let mut budget = Budget::new(limits);
        let properties = if version.is_v5() {
            Properties::decode(&mut reader, Allowed::CONNECT, &mut budget)?
        } else {
            Properties::EMPTY
        };
        if properties.has(PropertyId::AuthenticationData)
            && !properties.has(PropertyId::AuthenticationMethod)
        {
            return Err(DecodeError::protocol(
                "authentication data without a method",
            ));
        }
        let client_id = reader.text()?;
        let clean_start = flags & CLEAN_START != 0;
        check_client_id(&client_id, clean_start, version)?;
        let will = if flags & WILL != 0 {
            let properties = if version.is_v5() {
                Properties::decode(&mut reader, Allowed::WILL, &mut budget)?
            } else {
                Properties::EMPTY
            };
            let topic = limits.topic_name(reader.text()?)?;
            let payload = reader.binary()?;
            let retain = flags & WILL_RETAIN != 0;
            Some(Will {
                topic,
                payload,
                qos: will_qos,
                retain,
                properties,
            })
        } else {
            None
        };
        let username = if is_present(flags, USER_NAME, &reader, version) {
            Some(reader.text()?)
        } else {
            None
        };
        let password = if is_present(flags, PASSWORD, &reader, version) {
            Some(reader.binary()?)
        } else {
            None
        };
        reader.finish()?;
        Ok(Connect {
            version,
            clean_start,
            keep_alive_secs,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    /// Seconds that the session outlives the connection; `u32::MAX` means for ever. Before version
    /// 5 that is all that Clean Session can say.
    pub fn session_expiry_secs(&self) -> u32 {
        match self.version {
            Version::V5 => self
                .properties
                .u32(PropertyId::SessionExpiryInterval)
                .unwrap_or(0),
            Version::V31 | Version::V311 if self.clean_start => 0,
            Version::V31 | Version::V311 => u32::MAX,
        }
    }

    /// QoS 1 and 2 messages that the client takes unacknowledged; 65,535 where it does not say.
    pub fn receive_maximum(&self) -> u16 {
        self.properties
            .u16(PropertyId::ReceiveMaximum)
            .unwrap_or(u16::MAX)
    }

    /// Topic aliases that the client takes; 0 where it does not say.
    pub fn topic_alias_maximum(&self) -> u16 {
        self.properties
            .u16(PropertyId::TopicAliasMaximum)
            .unwrap_or(0)
    }

    /// The method of enhanced authentication, if the client wants it.
    pub fn authentication_method(&self) -> Option<Utf8Str> {
        self.properties.text(PropertyId::AuthenticationMethod)
    }

    /// What encoders must know of this client.
    pub fn peer(&self) -> Peer {
        Peer {
            version: self.version,
            packet_bytes_max: self
                .properties
                .u32(PropertyId::MaximumPacketSize)
                .unwrap_or(u32::MAX),
            problem_information: self.properties.byte(PropertyId::RequestProblemInformation)
                != Some(0),
        }
    }
}

/// In which version to answer a CONNECT that cannot be decoded, from what its first bytes say, or
/// `None` if they speak of no MQTT at all and the connection is just closed. A level above 5 is
/// answered as version 5, any other unknown one as 3.1.1, whose clients read return code 1.
pub fn answer_version(body: &Bytes) -> Option<Version> {
    let mut reader = Reader::new(body.clone());
    let name = reader.binary().ok()?;
    let level = reader.u8().ok()?;
    version(&name, level).or(match (&name[..], level) {
        (b"MQTT", 6..=0x7F) => Some(Version::V5),
        (b"MQTT" | b"MQIsdp", _) => Some(Version::V311),
        _ => None,
    })
}

fn version(name: &[u8], level: u8) -> Option<Version> {
    match (name, level) {
        (b"MQIsdp", 3) => Some(Version::V31),
        (b"MQTT", 4) => Some(Version::V311),
        (b"MQTT", 5) => Some(Version::V5),
        _ => None,
    }
}

/// Checks the connect flags (3.1.2.3 to 3.1.2.9); the QoS of the will.
fn check_flags(flags: u8, version: Version) -> Result<QoS, DecodeError> {
    // MQTT 3.1 calls bit 0 unused; a client that sets it is as broken there.
    if flags & 0x01 != 0 {
        return Err(DecodeError::malformed("reserved connect flag is set"));
    }
    let will_qos = QoS::from_bits((flags >> WILL_QOS_SHIFT) & 0b11)
        .ok_or(DecodeError::malformed("will QoS is 3"))?;
    if flags & WILL == 0 && (will_qos != QoS::AtMostOnce || flags & WILL_RETAIN != 0) {
        return Err(DecodeError::malformed(
            "will QoS or will retain without a will",
        ));
    }
    if !version.is_v5() && flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(DecodeError::malformed("password without user name"));
    }
    Ok(will_qos)
}

/// Before version 5 an empty identifier needs a clean session (3.1.1) or is not known at all (3.1);
/// we assign one to clean 3.1 sessions too, since some 3.1 clients do as 3.1.1 taught.
fn check_client_id(id: &Utf8Str, clean_start: bool, version: Version) -> Result<(), DecodeError> {
    if id.is_empty() && !version.is_v5() && !clean_start {
        return Err(DecodeError::new(
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            "empty client identifier with a persistent session",
        ));
    }
    Ok(())
}

/// In MQTT 3.1 the remaining length has the last word over the user name and password flags (3.1
/// specification, 3.1): a flag without its field means that the field is absent.
fn is_present(flags: u8, flag: u8, reader: &Reader, version: Version) -> bool {
    flags & flag != 0 && !(version == Version::V31 && reader.is_empty())
}
