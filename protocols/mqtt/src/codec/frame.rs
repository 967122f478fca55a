//! Frames: where a packet begins and ends. The only place that looks at bytes which may be a part
//! of a packet.

use bytes::{Buf, Bytes, BytesMut};

use super::{DecodeError, ReasonCode, packet::PacketType, varint};

/// What the start of a buffer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Not a whole packet yet.
    NeedMore {
        /// The buffer must hold at least this many bytes before it is worth looking again. Bounded
        /// by the packet limit, so reserving it is safe.
        buffer_bytes: usize,
    },
    /// A whole packet lies at the start.
    Ready {
        /// Bytes of type, flags and remaining length.
        header_bytes: usize,
        /// Bytes of the packet, header included.
        frame_bytes: usize,
    },
}

/// One packet's bytes: the first byte, and everything after the remaining length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Packet type (high four bits) and flags (low four).
    pub first: u8,
    /// Variable header and payload; exactly as long as the remaining length said.
    pub body: Bytes,
}

impl Frame {
    /// The packet type, or `None` for the reserved type 0.
    pub fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_bits(self.first >> 4)
    }

    /// The four flag bits.
    pub fn flags(&self) -> u8 {
        self.first & 0x0F
    }
}

/// Looks for a packet at the start of `buffer`, without copying or allocating.
///
/// # Errors
/// Malformed (0x81) for an illegal remaining length, packet too large (0x95) for more than
/// `packet_bytes_max` bytes (header included), as soon as the length is known.
pub fn check(buffer: &[u8], packet_bytes_max: u32) -> Result<Check, DecodeError> {
    let Some((_, rest)) = buffer.split_first() else {
        return Ok(Check::NeedMore { buffer_bytes: 2 });
    };
    let Some((remaining, length_bytes)) = varint::read(rest)? else {
        return Ok(Check::NeedMore {
            buffer_bytes: buffer.len() + 1,
        });
    };
    let header_bytes = 1 + length_bytes;
    let frame_bytes = header_bytes + remaining as usize;
    if frame_bytes > packet_bytes_max as usize {
        return Err(DecodeError::new(
            ReasonCode::PACKET_TOO_LARGE,
            "packet is larger than the server takes",
        ));
    }
    if buffer.len() < frame_bytes {
        return Ok(Check::NeedMore {
            buffer_bytes: frame_bytes,
        });
    }
    Ok(Check::Ready {
        header_bytes,
        frame_bytes,
    })
}

/// As [`check`], for the first packet of a connection: refuses by the very first byte what is no
/// CONNECT, so that a stranger cannot make the server wait for anything else.
///
/// # Errors
/// Those of [`check`]; malformed (0x81) for a CONNECT with flags and the reserved type 0; protocol
/// error (0x82) for other packets.
pub fn check_first(buffer: &[u8], packet_bytes_max: u32) -> Result<Check, DecodeError> {
    if let Some(&first) = buffer.first() {
        match PacketType::from_bits(first >> 4) {
            Some(PacketType::Connect) if first & 0x0F == 0 => {}
            Some(PacketType::Connect) => {
                return Err(DecodeError::malformed(
                    "reserved flags of the fixed header are set",
                ));
            }
            Some(_) => return Err(DecodeError::protocol("first packet is not CONNECT")),
            None => return Err(DecodeError::malformed("packet type 0 is reserved")),
        }
    }
    check(buffer, packet_bytes_max)
}

/// Takes one packet off the start of `buffer`, or `None` if it is not all there. The frame shares
/// the buffer's memory.
///
/// # Errors
/// Those of [`check`]; the buffer is then untouched.
pub fn split(buffer: &mut BytesMut, packet_bytes_max: u32) -> Result<Option<Frame>, DecodeError> {
    let checked = check(buffer, packet_bytes_max)?;
    Ok(take(buffer, checked))
}

/// As [`split`], for the first packet of a connection; see [`check_first`].
///
/// # Errors
/// Those of [`check_first`]; the buffer is then untouched.
pub fn split_first(
    buffer: &mut BytesMut,
    packet_bytes_max: u32,
) -> Result<Option<Frame>, DecodeError> {
    let checked = check_first(buffer, packet_bytes_max)?;
    Ok(take(buffer, checked))
}

fn take(buffer: &mut BytesMut, checked: Check) -> Option<Frame> {
    let Check::Ready {
        header_bytes,
        frame_bytes,
    } = checked
    else {
        return None;
    };
    let mut body = buffer.split_to(frame_bytes).freeze();
    let first = body.first().copied()?;
    body.advance(header_bytes);
    Some(Frame { first, body })
}
