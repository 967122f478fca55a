//! Frames: what passes on a connection after its handshake.
//!
//! ```text
//!  0  u32  bytes of the payload          16  u32  CRC-32C of the payload
//!  4  u8   version of the protocol       20  u32  CRC-32C of bytes 0 to 19
//!  5  u8   kind                          24  payload
//!  6  u16  service (Call and Open; else 0)
//!  8  u64  id of the call, stream or ping
//! ```
//! Integers are little-endian. The header has its own checksum, so that no length is believed that
//! was damaged. What each kind means is told in `docs/peers.md`.

use bytes::Bytes;

use crate::{BODY_BYTES_MAX, HELLO_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX, Refusal, Service};

/// The length of a header.
pub const HEADER_BYTES: usize = 24;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks a service; the id is new and higher than those before.
    Call = 1,
    /// Answers a call.
    Answer = 2,
    /// A handler's no to a call, or the last frame of its stream: code, then text.
    Refuse = 3,
    /// A call or a stream that reached no handler: a [`Failure`].
    Fail = 4,
    /// Opens a stream; the id is new and higher than those before.
    Open = 5,
    /// The stream has a handler.
    Opened = 6,
    /// A message of a stream.
    Data = 7,
    /// The sender of this sends no more messages on the stream.
    End = 8,
    /// The sender of this takes no more messages on the stream.
    Stop = 9,
    /// Bytes of messages that were taken and may be sent anew.
    Credit = 10,
    /// Asks for a pong.
    Ping = 11,
    /// Answers a ping.
    Pong = 12,
    /// The last frame: the sender closes the connection; code 0, or why, then text.
    Close = 13,
}

/// Why a call or a stream reached no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Failure {
    /// Nothing serves it.
    NoService = 1,
    /// Too many calls, bytes of calls or streams at a time.
    Busy = 2,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The version of the protocol that the connection speaks.
    pub version: u8,
    /// What it is.
    pub kind: Kind,
    /// Whom it asks.
    pub service: Service,
    /// Which call, stream or ping.
    pub id: u64,
    /// The length of the payload.
    pub payload_bytes: usize,
    /// Its checksum.
    pub payload_crc: u32,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is damaged, or no header.
    #[error("the checksum of a header is wrong")]
    HeaderChecksum,
    /// The payload is damaged.
    #[error("the checksum of a payload is wrong")]
    PayloadChecksum,
    /// Another version than was agreed upon.
    #[error("a frame of version {0}")]
    Version(u8),
    /// No kind of this version.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// Longer or shorter than its kind may be.
    #[error("a {kind:?} frame of {bytes} bytes")]
    Length {
        /// The kind.
        kind: Kind,
        /// The length of its payload.
        bytes: usize,
    },
    /// A service where none belongs.
    #[error("a {0:?} frame that names a service")]
    Service(Kind),
    /// The payload is none of its kind.
    #[error("the payload of a {0:?} frame makes no sense")]
    Payload(Kind),
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 13] = [
        Self::Call,
        Self::Answer,
        Self::Refuse,
        Self::Fail,
        Self::Open,
        Self::Opened,
        Self::Data,
        Self::End,
        Self::Stop,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Close,
    ];

    fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// How long its payload may be.
    fn bytes(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Call | Self::Answer | Self::Data => 0..=BODY_BYTES_MAX,
            Self::Open => 0..=HELLO_BYTES_MAX,
            Self::Refuse | Self::Close => 2..=2 + REFUSAL_TEXT_BYTES_MAX,
            Self::Fail => 2..=2,
            Self::Credit => 4..=4,
            Self::Opened | Self::End | Self::Stop | Self::Ping | Self::Pong => 0..=0,
        }
    }
}

// === impl Header ===

impl Header {
    /// The header of a payload.
    pub fn of(version: u8, kind: Kind, service: Service, id: u64, payload: &[u8]) -> Self {
        Self {
            version,
            kind,
            service,
            id,
            payload_bytes: payload.len(),
            payload_crc: crc32c::crc32c(payload),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.payload_bytes).expect("payloads are bounded far below");
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&length.to_le_bytes());
        out[4] = self.version;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.service.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..20]);
        out[20..24].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header on a connection of `version`.
    ///
    /// # Errors
    /// It is damaged, unknown, or announces more or less than its kind may have.
    pub fn decode(bytes: &[u8; HEADER_BYTES], version: u8) -> Result<Self, FrameError> {
        let [
            l0,
            l1,
            l2,
            l3,
            found,
            kind,
            s0,
            s1,
            i0,
            i1,
            i2,
            i3,
            i4,
            i5,
            i6,
            i7,
            rest @ ..,
        ] = *bytes;
        let [p0, p1, p2, p3, h0, h1, h2, h3] = rest;
        if crc32c::crc32c(&bytes[..20]) != u32::from_le_bytes([h0, h1, h2, h3]) {
            return Err(FrameError::HeaderChecksum);
        }
        if found != version {
            return Err(FrameError::Version(found));
        }
        let kind = Kind::from_u8(kind).ok_or(FrameError::Kind(kind))?;
        let payload_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if !kind.bytes().contains(&payload_bytes) {
            return Err(FrameError::Length {
                kind,
                bytes: payload_bytes,
            });
        }
        let service = Service(u16::from_le_bytes([s0, s1]));
        if service.0 != 0 && !matches!(kind, Kind::Call | Kind::Open) {
            return Err(FrameError::Service(kind));
        }
        Ok(Self {
            version: found,
            kind,
            service,
            id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            payload_bytes,
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }

    /// Checks that `payload` is what the header announced.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        if payload.len() != self.payload_bytes || crc32c::crc32c(payload) != self.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        Ok(())
    }
}

// === impl Failure ===

impl Failure {
    /// Its payload.
    pub fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&(self as u16).to_le_bytes())
    }

    /// Reads the payload of a [`Kind::Fail`].
    ///
    /// # Errors
    /// It is none of this version.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        match payload {
            [1, 0] => Ok(Self::NoService),
            [2, 0] => Ok(Self::Busy),
            _ => Err(FrameError::Payload(Kind::Fail)),
        }
    }
}

/// The payload of a [`Kind::Refuse`] or [`Kind::Close`]; the text is cut where it is too long.
pub fn encode_refusal(refusal: &Refusal) -> Bytes {
    let mut end = refusal.text.len().min(REFUSAL_TEXT_BYTES_MAX);
    while !refusal.text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = Vec::with_capacity(2 + end);
    out.extend_from_slice(&refusal.code.to_le_bytes());
    out.extend_from_slice(&refusal.text.as_bytes()[..end]);
    out.into()
}

/// Reads the payload of a [`Kind::Refuse`] or [`Kind::Close`].
///
/// # Errors
/// It is none.
pub fn decode_refusal(kind: Kind, payload: &[u8]) -> Result<Refusal, FrameError> {
    let (code, text) = payload
        .split_first_chunk()
        .ok_or(FrameError::Payload(kind))?;
    let text = std::str::from_utf8(text).map_err(|_| FrameError::Payload(kind))?;
    Ok(Refusal {
        code: u16::from_le_bytes(*code),
        text: text.to_owned(),
    })
}

/// Reads the payload of a [`Kind::Credit`].
///
/// # Errors
/// It is none.
pub fn decode_credit(payload: &[u8]) -> Result<u32, FrameError> {
    let bytes = payload
        .try_into()
        .map_err(|_| FrameError::Payload(Kind::Credit))?;
    Ok(u32::from_le_bytes(bytes))
}
