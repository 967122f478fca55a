//! Kafka's primitive types as the records of `__consumer_offsets` hold them: big-endian integers,
//! strings behind an `i16` length, byte strings and arrays behind an `i32` one. -1 = null.

use bytes::{BufMut, Bytes, BytesMut};

/// Why a record could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// The bytes end too early.
    #[error("the record ends too early")]
    Truncated,
    /// A length is negative where null is not allowed, or below -1.
    #[error("a length of {0} is not allowed")]
    Length(i32),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A newer program, or damage.
    #[error("version {version} of {what} is not known")]
    Version {
        /// Which part of the record.
        what: &'static str,
        /// The version that it names.
        version: i16,
    },
    /// Bytes follow where nothing may follow.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// A value does not fit into its length field.
    #[error("{bytes} bytes are too long for their length field")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
}

/// Reads from the front; never beyond the end, never allocating by a claimed length.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// Writes to the back.
#[derive(Default)]
pub(crate) struct Writer {
    buffer: BytesMut,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(FormatError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| FormatError::Truncated)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, FormatError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, FormatError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<String>, FormatError> {
        let length = self.i16()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| FormatError::Length(length.into()))?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| FormatError::Utf8)?;
        Ok(Some(text.to_owned()))
    }

    pub(crate) fn string(&mut self) -> Result<String, FormatError> {
        self.nullable_string()?.ok_or(FormatError::Length(-1))
    }

    /// Null is read as empty: both mean "nothing" for subscriptions and assignments.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, FormatError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(Bytes::new());
        }
        let length = usize::try_from(length).map_err(|_| FormatError::Length(length))?;
        self.take(length).map(Bytes::copy_from_slice)
    }

    pub(crate) fn finish(self) -> Result<(), FormatError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(FormatError::LeftOver(left)),
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(crate) fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    pub(crate) fn string(&mut self, value: &str) -> Result<(), FormatError> {
        let too_long = FormatError::TooLong { bytes: value.len() };
        self.i16(i16::try_from(value.len()).map_err(|_| too_long)?);
        self.buffer.put_slice(value.as_bytes());
        Ok(())
    }

    pub(crate) fn nullable_string(&mut self, value: Option<&str>) -> Result<(), FormatError> {
        match value {
            Some(value) => self.string(value),
            None => {
                self.i16(-1);
                Ok(())
            }
        }
    }

    pub(crate) fn count(&mut self, count: usize) -> Result<(), FormatError> {
        let too_long = FormatError::TooLong { bytes: count };
        self.i32(i32::try_from(count).map_err(|_| too_long)?);
        Ok(())
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> Result<(), FormatError> {
        self.count(value.len())?;
        self.buffer.put_slice(value);
        Ok(())
    }

    pub(crate) fn finish(self) -> Bytes {
        self.buffer.freeze()
    }
}
