//! A bounds-checked cursor over one frame.

use bytes::{Buf, Bytes};

use super::{DecodeError, PacketId, Utf8Str, text::TextError, varint};

/// Reads a frame from its start; everything that it hands out is a slice of the frame.
pub(crate) struct Reader {
    frame: Bytes,
    at: usize,
}

impl Reader {
    pub(crate) fn new(frame: Bytes) -> Self {
        Self { frame, at: 0 }
    }

    fn rest(&self) -> &[u8] {
        self.frame.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.frame.len().saturating_sub(self.at)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// The frame's next `bytes` bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<Bytes, DecodeError> {
        if bytes > self.remaining() {
            return Err(DecodeError::malformed("packet ends inside a field"));
        }
        let start = self.at;
        self.at += bytes;
        Ok(self.frame.slice(start..self.at))
    }

    /// Everything that is left. Gives the frame itself away: a PUBLISH ends so, and is spared one
    /// count of references.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        let at = std::mem::take(&mut self.at);
        let mut rest = std::mem::take(&mut self.frame);
        rest.advance(at.min(rest.len()));
        rest
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = *self
            .rest()
            .first_chunk::<N>()
            .ok_or(DecodeError::malformed("packet ends inside a field"))?;
        self.at += N;
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, bytes) = varint::read(self.rest())?.ok_or(DecodeError::malformed(
            "packet ends inside a variable byte integer",
        ))?;
        self.at += bytes;
        Ok(value)
    }

    /// Two bytes of length, then as many bytes (1.5.6).
    pub(crate) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    /// Two bytes of length, then UTF-8 (1.5.4).
    pub(crate) fn text(&mut self) -> Result<Utf8Str, DecodeError> {
        Ok(Utf8Str::from_bytes(self.binary()?)?)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::malformed("packet identifier is 0"))
    }

    /// A frame must be used up.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::malformed("bytes after the end of the packet"))
        }
    }
}

impl From<TextError> for DecodeError {
    fn from(error: TextError) -> Self {
        DecodeError::malformed(match error {
            TextError::NotUtf8 => "string is not UTF-8",
            TextError::Nul => "string contains NUL",
            TextError::TooLong(_) => "string is longer than 65,535 bytes",
        })
    }
}
