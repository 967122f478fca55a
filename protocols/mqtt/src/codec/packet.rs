//! All packets that a client may send, and the way from a frame to one of them.

use super::{
    Ack, AckKind, Auth, Connect, DecodeError, Disconnect, Frame, Limits, Publish, Subscribe,
    Unsubscribe, Version,
};

/// The fifteen packet types (table 2-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(
    missing_docs,
    reason = "the names are those of the standard's table 2-1"
)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type of four bits, or `None` for the reserved type 0 (and everything above 15).
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The flag bits that the type must have (table 2-2); those of PUBLISH mean something.
    const fn flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// The first byte of a packet of this type, PUBLISH excepted.
    pub(crate) const fn first_byte(self) -> u8 {
        ((self as u8) << 4) | self.flags()
    }
}

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Opens the session; the first packet and only that.
    Connect(Box<Connect>),
    /// A message.
    Publish(Publish),
    /// The client has a QoS 1 message.
    PubAck(Ack),
    /// The client has a QoS 2 message.
    PubRec(Ack),
    /// The client will not send this QoS 2 message again.
    PubRel(Ack),
    /// The client is done with a QoS 2 message.
    PubComp(Ack),
    /// Wants messages.
    Subscribe(Subscribe),
    /// Wants them no more.
    Unsubscribe(Unsubscribe),
    /// Is alive.
    PingReq,
    /// Leaves.
    Disconnect(Disconnect),
    /// Proves who it is (v5 only).
    Auth(Auth),
}

impl Packet {
    /// Decodes the first packet of a connection. On an error, [`super::connect::answer_version`]
    /// tells how to say so.
    ///
    /// # Errors
    /// Protocol error (0x82) if it is no CONNECT; else those of a CONNECT, see
    /// [`Connect::decode`].
    pub fn decode_first(frame: Frame, limits: &Limits) -> Result<Connect, DecodeError> {
        match frame.packet_type() {
            Some(PacketType::Connect) => {
                check_flags(&frame, PacketType::Connect, Version::V5)?;
                Connect::decode(frame.body, limits)
            }
            Some(_) => Err(DecodeError::protocol("first packet is not CONNECT")),
            None => Err(DecodeError::malformed("packet type 0 is reserved")),
        }
    }

    /// Decodes any later packet of a connection.
    ///
    /// # Errors
    /// The reason code with which the connection must be closed. A second CONNECT and packets that
    /// only servers send are protocol errors (0x82).
    pub fn decode(frame: Frame, version: Version, limits: &Limits) -> Result<Packet, DecodeError> {
        let kind = frame
            .packet_type()
            .ok_or(DecodeError::malformed("packet type 0 is reserved"))?;
        if kind == PacketType::Publish {
            return Publish::decode(frame, version, limits).map(Packet::Publish);
        }
        check_flags(&frame, kind, version)?;
        let body = frame.body;
        match kind {
            PacketType::PubAck => {
                Ack::decode(AckKind::PubAck, body, version, limits).map(Packet::PubAck)
            }
            PacketType::PubRec => {
                Ack::decode(AckKind::PubRec, body, version, limits).map(Packet::PubRec)
            }
            PacketType::PubRel => {
                Ack::decode(AckKind::PubRel, body, version, limits).map(Packet::PubRel)
            }
            PacketType::PubComp => {
                Ack::decode(AckKind::PubComp, body, version, limits).map(Packet::PubComp)
            }
            PacketType::Subscribe => {
                Subscribe::decode(body, version, limits).map(Packet::Subscribe)
            }
            PacketType::Unsubscribe => {
                Unsubscribe::decode(body, version, limits).map(Packet::Unsubscribe)
            }
            PacketType::PingReq if body.is_empty() => Ok(Packet::PingReq),
            PacketType::PingReq => Err(DecodeError::malformed("PINGREQ is not empty")),
            PacketType::Disconnect => {
                Disconnect::decode(body, version, limits).map(Packet::Disconnect)
            }
            PacketType::Auth if version.is_v5() => Auth::decode(body, limits).map(Packet::Auth),
            PacketType::Auth => Err(DecodeError::malformed("packet type 15 is reserved")),
            PacketType::Connect => Err(DecodeError::protocol("second CONNECT on a connection")),
            PacketType::Publish
            | PacketType::ConnAck
            | PacketType::SubAck
            | PacketType::UnsubAck
            | PacketType::PingResp => {
                Err(DecodeError::protocol("packet is for servers only to send"))
            }
        }
    }
}

/// MQTT 3.1 let clients mark a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE with the DUP bit (3.1
/// specification, 2.1); later versions made all flags but those of PUBLISH reserved.
fn check_flags(frame: &Frame, kind: PacketType, version: Version) -> Result<(), DecodeError> {
    let required = kind.flags();
    let ignored = if version == Version::V31 && required != 0 {
        0b1000
    } else {
        0
    };
    if frame.flags() & !ignored == required {
        Ok(())
    } else {
        Err(DecodeError::malformed(
            "reserved flags of the fixed header are wrong",
        ))
    }
}
