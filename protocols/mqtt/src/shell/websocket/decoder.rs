//! Frames of a client, taken apart in place (RFC 6455, section 5).

use std::io;

/// The longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;
/// Control frames have at most this much payload (5.5).
const CONTROL_BYTES_MAX: u64 = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What the client is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// With the payload of its ping.
    Pong(Vec<u8>),
    /// It has closed.
    Close,
}

/// Why a connection is no longer understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// MQTT is binary (MQTT 5.0, 6.0-1).
    #[error("text frame")]
    Text,
    /// No such opcode.
    #[error("unknown opcode")]
    Opcode,
    /// Extension bits without an extension.
    #[error("reserved bits are set")]
    Reserved,
    /// Clients must mask.
    #[error("frame without a mask")]
    Unmasked,
    /// Control frames are short and whole.
    #[error("control frame that is long or in parts")]
    Control,
    /// A continuation of nothing, or a new message within one.
    #[error("frame out of order")]
    Order,
    /// Larger than the configured size.
    #[error("frame is too large")]
    TooLarge,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Where in the stream of frames the next byte is.
#[derive(Debug)]
pub(super) struct Decoder {
    frame_bytes_max: u64,
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// Payload of the frame that is still to come; its header is complete then.
    left: u64,
    mask: [u8; 4],
    mask_at: usize,
    opcode: u8,
    /// Within a message whose last frame has not come.
    in_message: bool,
    /// The payload of the control frame that is coming.
    control: Vec<u8>,
    reply: Option<Reply>,
    closed: bool,
}

// === impl Decoder ===

impl Decoder {
    pub(super) fn new(frame_bytes_max: u64) -> Self {
        Self {
            frame_bytes_max,
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            left: 0,
            mask: [0; 4],
            mask_at: 0,
            opcode: 0,
            in_message: false,
            control: Vec::new(),
            reply: None,
            closed: false,
        }
    }

    /// Whether the client's close has come. What follows it is not looked at.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is to be sent. Of several pings only the latest is answered (5.5.3), so that nobody can
    /// make replies pile up.
    pub(super) fn take_reply(&mut self) -> Option<Reply> {
        self.reply.take()
    }

    /// Takes the frames in `bytes` apart, and moves their payload to the front; how much it is.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, FrameError> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && !self.closed {
            if self.left == 0 {
                let rest = bytes.get(from..).unwrap_or_default();
                from += self.decode_header(rest)?;
                continue;
            }
            let count = usize::try_from(self.left).unwrap_or(usize::MAX);
            let count = count.min(bytes.len() - from);
            let part = bytes.get_mut(from..from + count).unwrap_or_default();
            for byte in part.iter_mut() {
                *byte ^= self.mask[self.mask_at & 3];
                self.mask_at += 1;
            }
            if self.opcode < CLOSE {
                bytes.copy_within(from..from + count, to);
                to += count;
            } else {
                self.control.extend_from_slice(part);
            }
            from += count;
            self.left -= count as u64;
            if self.left == 0 {
                self.end_frame();
            }
        }
        Ok(to)
    }

    /// Takes bytes of a header; how many.
    fn decode_header(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        for &byte in bytes {
            if let Some(place) = self.header.get_mut(self.header_bytes) {
                *place = byte;
            }
            self.header_bytes += 1;
            taken += 1;
            if self.header_bytes == 2 {
                self.check_start()?;
            }
            if self.header_bytes == self.header_needs() {
                self.begin_frame()?;
                break;
            }
        }
        Ok(taken)
    }

    /// Bytes of the header, as far as its first two tell.
    fn header_needs(&self) -> usize {
        match (self.header_bytes, self.header[1] & !MASKED) {
            (0 | 1, _) => 2,
            (_, 126) => 8,
            (_, 127) => 14,
            _ => 6,
        }
    }

    fn check_start(&self) -> Result<(), FrameError> {
        let [first, second, ..] = self.header;
        let opcode = first & 0x0F;
        if first & RESERVED != 0 {
            return Err(FrameError::Reserved);
        }
        match opcode {
            TEXT => return Err(FrameError::Text),
            BINARY if self.in_message => return Err(FrameError::Order),
            CONTINUATION if !self.in_message => return Err(FrameError::Order),
            CONTINUATION | BINARY => {}
            CLOSE | PING | PONG => {
                if first & FIN == 0 || u64::from(second & !MASKED) > CONTROL_BYTES_MAX {
                    return Err(FrameError::Control);
                }
            }
            _ => return Err(FrameError::Opcode),
        }
        if second & MASKED == 0 {
            return Err(FrameError::Unmasked);
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> Result<(), FrameError> {
        let [first, second, a, b, c, d, e, f, g, h, ..] = self.header;
        let length = match second & !MASKED {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        };
        if length > self.frame_bytes_max.max(CONTROL_BYTES_MAX) {
            return Err(FrameError::TooLarge);
        }
        let mask_at = self.header_bytes - 4;
        for (to, from) in self.mask.iter_mut().zip(self.header.iter().skip(mask_at)) {
            *to = *from;
        }
        self.mask_at = 0;
        self.header_bytes = 0;
        self.opcode = first & 0x0F;
        self.left = length;
        if self.opcode < CLOSE {
            self.in_message = first & FIN == 0;
        }
        if length == 0 {
            self.end_frame();
        }
        Ok(())
    }

    fn end_frame(&mut self) {
        let payload = std::mem::take(&mut self.control);
        match self.opcode {
            PING => self.reply = Some(Reply::Pong(payload)),
            CLOSE => {
                self.reply = Some(Reply::Close);
                self.closed = true;
            }
            _ => {}
        }
    }
}
