//! Kafka's primitive encodings, read with bounds and written into a growing buffer.
//!
//! Nothing here allocates for a length that the bytes do not back.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

/// The longest encoding of an unsigned 32-bit varint.
const VARINT_BYTES_MAX: usize = 5;

/// Why bytes of a request are not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field reaches past the end.
    #[error("a field reaches past the end of the request")]
    Truncated,
    /// A varint is longer than five bytes or than 32 bits.
    #[error("a varint is too long")]
    Varint,
    /// A length or count below -1.
    #[error("a length is {0}")]
    Length(i32),
    /// More elements than bytes are left.
    #[error("{count} elements in {remaining} bytes")]
    Count {
        /// What the request claims.
        count: usize,
        /// The bytes that are left for them.
        remaining: usize,
    },
    /// What the request would take once decoded is out of proportion.
    #[error("decoded, the request would take {cost} bytes of at most {cost_max}")]
    Cost {
        /// The estimate, in bytes.
        cost: usize,
        /// The bound that it passes.
        cost_max: usize,
    },
    /// A tagged field has not the size of its type, or is not known in this version.
    #[error("tagged field {0} is malformed")]
    Tag(u32),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A null where the protocol has none.
    #[error("a field is null that may not be")]
    Null,
    /// The message codec refused what passed the gate.
    #[error("malformed request: {0}")]
    Codec(String),
    /// Nobody here serves this API in this version.
    #[error("API {key} version {version} is not served")]
    Unsupported {
        /// The API key of the request.
        key: i16,
        /// Its version.
        version: i16,
    },
}

/// A cursor over the bytes of a request.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Appends an unsigned varint.
pub(crate) fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes behind the cursor.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Bytes ahead of the cursor.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(count).ok_or(DecodeError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    /// A byte.
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// An INT16.
    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// An INT32.
    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// An unsigned varint of at most 32 bits.
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u64 = 0;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| DecodeError::Varint);
            }
        }
        Err(DecodeError::Varint)
    }

    /// The length of a STRING (`compact`: COMPACT_STRING); `None` is null.
    pub(crate) fn string_length(&mut self, compact: bool) -> Result<Option<usize>, DecodeError> {
        if compact {
            return self.compact_length();
        }
        let length = self.i16()?;
        signed_length(i32::from(length))
    }

    /// The length of BYTES or of an array (`compact`: their compact forms); `None` is null.
    pub(crate) fn long_length(&mut self, compact: bool) -> Result<Option<usize>, DecodeError> {
        if compact {
            return self.compact_length();
        }
        let length = self.i32()?;
        signed_length(length)
    }

    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    /// The count of an array, at most one element for each byte that is left; null is `None`.
    pub(crate) fn count(&mut self, compact: bool) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.long_length(compact)? else {
            return Ok(None);
        };
        let remaining = self.remaining();
        if count > remaining {
            return Err(DecodeError::Count { count, remaining });
        }
        Ok(Some(count))
    }

    /// Where the next `length` bytes are.
    pub(crate) fn range(&mut self, length: usize) -> Result<Range<usize>, DecodeError> {
        let start = self.at;
        self.take(length)?;
        Ok(start..self.at)
    }

    /// A nullable string, UTF-8 checked.
    pub(crate) fn string(&mut self, compact: bool) -> Result<Option<&'a str>, DecodeError> {
        let Some(length) = self.string_length(compact)? else {
            return Ok(None);
        };
        std::str::from_utf8(self.take(length)?)
            .map(Some)
            .map_err(|_| DecodeError::Utf8)
    }

    /// Steps over the tagged fields of a struct whatever they are.
    pub(crate) fn skip_tags(&mut self) -> Result<(), DecodeError> {
        let count = self.varint()? as usize;
        let remaining = self.remaining();
        if count > remaining {
            return Err(DecodeError::Count { count, remaining });
        }
        for _ in 0..count {
            self.varint()?;
            let size = self.varint()? as usize;
            self.take(size)?;
        }
        Ok(())
    }
}

fn signed_length(length: i32) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| DecodeError::Length(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_as_written() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(&out).varint(), Ok(value));
        }
    }

    #[test]
    fn overlong_and_oversized_varints_are_refused() {
        assert_eq!(Reader::new(&[0x80; 6]).varint(), Err(DecodeError::Varint));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).varint(),
            Err(DecodeError::Varint)
        );
    }

    #[test]
    fn counts_are_bounded_by_what_is_left() {
        let mut bytes = 1_000_000i32.to_be_bytes().to_vec();
        bytes.push(0);
        assert_eq!(
            Reader::new(&bytes).count(false),
            Err(DecodeError::Count {
                count: 1_000_000,
                remaining: 1
            })
        );
    }

    #[test]
    fn negative_lengths_other_than_null_are_refused() {
        assert_eq!(
            Reader::new(&(-2i16).to_be_bytes()).string_length(false),
            Err(DecodeError::Length(-2))
        );
        assert_eq!(Reader::new(&(-1i32).to_be_bytes()).count(false), Ok(None));
    }
}
