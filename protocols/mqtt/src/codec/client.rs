//! The other side of the codec: what clients write and read. The broker does not need it; tests,
//! benches and small tools do, so that what the server's side decodes and encodes can be checked in
//! a round trip. It trusts its caller (a test) and is not strict about what servers send.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Ack, AckKind, ConnAck, Connect, DecodeError, Disconnect, EncodeError, Frame, Limits, Peer,
    Properties, Publish, QoS, ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    write,
};

/// A packet from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the packet of its name")]
pub enum ServerPacket {
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck(SubAck),
    UnsubAck(UnsubAck),
    PingResp,
    Disconnect(Disconnect),
}

impl ServerPacket {
    /// Decodes a packet from a server. CONNACK before version 5 has its return code as `reason`.
    ///
    /// # Errors
    /// As for packets from clients.
    pub fn decode(frame: Frame, version: Version) -> Result<ServerPacket, DecodeError> {
        let limits = &limits();
        let kind = frame
            .packet_type()
            .ok_or(DecodeError::malformed("packet type 0 is reserved"))?;
        if kind == PacketType::Publish {
            let allowed = Allowed::PUBLISH_FROM_SERVER;
            return Publish::decode_with(frame, version, limits, allowed).map(Self::Publish);
        }
        if frame.first != kind.first_byte() {
            return Err(DecodeError::malformed(
                "reserved flags of the fixed header are wrong",
            ));
        }
        let body = frame.body;
        match kind {
            PacketType::ConnAck => decode_connack(body, version).map(Self::ConnAck),
            PacketType::PubAck => {
                Ack::decode(AckKind::PubAck, body, version, limits).map(Self::PubAck)
            }
            PacketType::PubRec => {
                Ack::decode(AckKind::PubRec, body, version, limits).map(Self::PubRec)
            }
            PacketType::PubRel => {
                Ack::decode(AckKind::PubRel, body, version, limits).map(Self::PubRel)
            }
            PacketType::PubComp => {
                Ack::decode(AckKind::PubComp, body, version, limits).map(Self::PubComp)
            }
            PacketType::SubAck => {
                decode_reasons(body, version).map(|(packet_id, properties, reasons)| {
                    Self::SubAck(SubAck {
                        packet_id,
                        reasons,
                        properties,
                    })
                })
            }
            PacketType::UnsubAck => {
                decode_reasons(body, version).map(|(packet_id, properties, reasons)| {
                    Self::UnsubAck(UnsubAck {
                        packet_id,
                        reasons,
                        properties,
                    })
                })
            }
            PacketType::PingResp if body.is_empty() => Ok(Self::PingResp),
            PacketType::Disconnect if version.is_v5() => {
                Disconnect::decode_with(body, version, limits, Allowed::DISCONNECT_FROM_SERVER)
                    .map(Self::Disconnect)
            }
            _ => Err(DecodeError::protocol("packet is for clients only to send")),
        }
    }
}

/// What a server says is not bounded beyond its frame.
fn limits() -> Limits {
    Limits {
        topic_levels_max: usize::MAX,
        filters_per_packet_max: usize::MAX,
        user_properties_max: usize::MAX,
        property_bytes_max: usize::MAX,
    }
}

fn decode_connack(body: Bytes, version: Version) -> Result<ConnAck, DecodeError> {
    let mut reader = Reader::new(body);
    let flags = reader.u8()?;
    let reason = ReasonCode(reader.u8()?);
    let properties = block(&mut reader, version, Allowed::CONNACK)?;
    reader.finish()?;
    if flags > 1 {
        return Err(DecodeError::malformed("reserved flags of CONNACK are set"));
    }
    Ok(ConnAck {
        session_present: flags == 1,
        reason,
        properties,
    })
}

fn decode_reasons(
    body: Bytes,
    version: Version,
) -> Result<(super::PacketId, Properties, Vec<ReasonCode>), DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = block(&mut reader, version, Allowed::ACK)?;
    let reasons = reader.take_rest().iter().copied().map(ReasonCode).collect();
    Ok((packet_id, properties, reasons))
}

fn block(
    reader: &mut Reader,
    version: Version,
    allowed: Allowed,
) -> Result<Properties, DecodeError> {
    if version.is_v5() {
        Properties::decode(reader, allowed, &mut Budget::new(&limits()))
    } else {
        Ok(Properties::EMPTY)
    }
}

/// Appends a CONNECT.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_connect(connect: &Connect, out: &mut BytesMut) -> Result<(), EncodeError> {
    let version = connect.version;
    let mut body = BytesMut::new();
    write::binary(&mut body, version.protocol_name().as_bytes());
    body.put_u8(version.level());
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | (will.qos.bits() << 3) | (u8::from(will.retain) << 5);
    }
    flags |= u8::from(connect.password.is_some()) << 6;
    flags |= u8::from(connect.username.is_some()) << 7;
    body.put_u8(flags);
    body.put_u16(connect.keep_alive_secs);
    write::properties(&mut body, version, &connect.properties);
    write::text(&mut body, &connect.client_id);
    if let Some(will) = &connect.will {
        write::properties(&mut body, version, &will.properties);
        write::text(&mut body, will.topic.text());
        write::binary(&mut body, &will.payload);
    }
    if let Some(username) = &connect.username {
        write::text(&mut body, username);
    }
    if let Some(password) = &connect.password {
        write::binary(&mut body, password);
    }
    encode_body(PacketType::Connect.first_byte(), &body, out)
}

/// Appends a PUBLISH.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_publish(
    publish: &Publish,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    write::binary(
        &mut body,
        publish
            .topic
            .as_ref()
            .map_or(&[], |topic| topic.text().as_bytes()),
    );
    if let Some(id) = publish.packet_id {
        body.put_u16(id.get());
    }
    write::properties(&mut body, version, &publish.properties);
    body.put_slice(&publish.payload);
    let first = ((PacketType::Publish as u8) << 4)
        | (u8::from(publish.dup && publish.qos != QoS::AtMostOnce) << 3)
        | (publish.qos.bits() << 1)
        | u8::from(publish.retain);
    encode_body(first, &body, out)
}

/// Appends a SUBSCRIBE.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_subscribe(
    subscribe: &Subscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    body.put_u16(subscribe.packet_id.get());
    write::properties(&mut body, version, &subscribe.properties);
    for subscription in &subscribe.subscriptions {
        write::text(&mut body, subscription.filter.text());
        body.put_u8(subscription.options.bits());
    }
    encode_body(PacketType::Subscribe.first_byte(), &body, out)
}

/// Appends an UNSUBSCRIBE.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_unsubscribe(
    unsubscribe: &Unsubscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    body.put_u16(unsubscribe.packet_id.get());
    write::properties(&mut body, version, &unsubscribe.properties);
    for filter in &unsubscribe.filters {
        write::text(&mut body, filter.text());
    }
    encode_body(PacketType::Unsubscribe.first_byte(), &body, out)
}

/// Appends a client's DISCONNECT; only version 5 says more than that.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_disconnect(
    disconnect: &Disconnect,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let first = PacketType::Disconnect.first_byte();
    if !version.is_v5() {
        return encode_body(first, &[], out);
    }
    let mut body = BytesMut::new();
    body.put_u8(disconnect.reason.0);
    write::properties(&mut body, version, &disconnect.properties);
    encode_body(first, &body, out)
}

/// Appends an AUTH; its method and data are among `properties`.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the wire format cannot express its size.
pub fn encode_auth(
    reason: ReasonCode,
    properties: &Properties,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    body.put_u8(reason.0);
    write::properties(&mut body, Version::V5, properties);
    encode_body(PacketType::Auth.first_byte(), &body, out)
}

/// Appends a PINGREQ.
pub fn encode_ping_req(out: &mut BytesMut) {
    out.put_slice(&[PacketType::PingReq.first_byte(), 0]);
}

fn encode_body(first: u8, body: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    write::header(out, &Peer::new(Version::V5), first, body.len())?;
    out.put_slice(body);
    Ok(())
}
