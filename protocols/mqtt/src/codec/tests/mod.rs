//! Tests of the codec: bad inputs with the reason code that each must get, round trips, bounds.

mod bad_input;
mod bad_properties;
mod bounds;
mod encoding;
mod round_trip;
mod topics;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Connect, DecodeError, Limits, PACKET_BYTES_MAX_WIRE, Packet, ReasonCode, Version, frame, varint,
};

/// A frame with a right remaining length around `body`.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(first);
    varint::write(&mut out, u32::try_from(body.len()).unwrap());
    out.put_slice(body);
    out.to_vec()
}

/// Two bytes of length, then the bytes.
fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A property block with its length.
fn block(raw: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    varint::write(&mut out, u32::try_from(raw.len()).unwrap());
    out.put_slice(raw);
    out.to_vec()
}

/// Decodes bytes that hold exactly one packet of a connection that is open.
fn decode(bytes: &[u8], version: Version) -> Result<Packet, DecodeError> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::split(&mut buffer, PACKET_BYTES_MAX_WIRE)?.expect("a whole packet");
    assert!(buffer.is_empty(), "the test's packet has a wrong length");
    Packet::decode(frame, version, &Limits::default())
}

/// Decodes bytes that hold exactly one first packet.
fn decode_first(bytes: &[u8]) -> Result<Connect, DecodeError> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::split_first(&mut buffer, PACKET_BYTES_MAX_WIRE)?.expect("a whole packet");
    assert!(buffer.is_empty(), "the test's packet has a wrong length");
    Packet::decode_first(frame, &Limits::default())
}

fn reason<T: std::fmt::Debug>(result: Result<T, DecodeError>) -> u8 {
    result.expect_err("must be refused").reason.0
}

/// The parts of a CONNECT, each replaceable.
struct RawConnect {
    name: Vec<u8>,
    level: u8,
    flags: u8,
    properties: Vec<u8>,
    rest: Vec<u8>,
}

impl RawConnect {
    fn v5() -> Self {
        let name = b"MQTT".to_vec();
        Self {
            name,
            level: 5,
            flags: 2,
            properties: Vec::new(),
            rest: field(b"id"),
        }
    }

    fn v311() -> Self {
        Self {
            level: 4,
            ..Self::v5()
        }
    }

    fn v31() -> Self {
        Self {
            name: b"MQIsdp".to_vec(),
            level: 3,
            ..Self::v5()
        }
    }

    fn body(&self) -> Bytes {
        let mut body = field(&self.name);
        body.extend([self.level, self.flags, 0, 60]);
        if self.level == 5 {
            body.extend(block(&self.properties));
        }
        body.extend(&self.rest);
        body.into()
    }

    fn decode(&self) -> Result<Connect, DecodeError> {
        decode_first(&packet(0x10, &self.body()))
    }
}

/// Every version.
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

const MALFORMED: u8 = ReasonCode::MALFORMED_PACKET.0;
const PROTOCOL: u8 = ReasonCode::PROTOCOL_ERROR.0;
const QUOTA: u8 = ReasonCode::QUOTA_EXCEEDED.0;
