//! Strings of the protocol (1.5.4).

use std::{
    fmt,
    hash::{Hash, Hasher},
    str,
};

use bytes::Bytes;

/// The longest string that the two length bytes can tell.
pub(crate) const TEXT_BYTES_MAX: usize = 65_535;

/// Why bytes are no string of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not UTF-8; surrogates and overlong forms included.
    #[error("not UTF-8")]
    NotUtf8,
    /// Contains U+0000.
    #[error("contains NUL")]
    Nul,
    /// Longer than 65,535 bytes; the length in bytes.
    #[error("{0} bytes, more than 65,535")]
    TooLong(usize),
}

/// A string of the protocol: UTF-8 without NUL, at most 65,535 bytes, a shared slice of the frame
/// that it came in. A BOM is kept and control characters are allowed, both as the standard says.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utf8Str(Bytes);

impl Utf8Str {
    /// Checks `bytes`; no copy.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, TextError> {
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Copies `text`.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn copy_from(text: &str) -> Result<Self, TextError> {
        check(text.as_bytes())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// For bytes that were checked when they were read.
    pub(crate) fn from_checked(bytes: Bytes) -> Self {
        debug_assert!(check(&bytes).is_ok());
        Self(bytes)
    }

    /// The string. Walks over the bytes once (there is no unsafe code here to skip that); where
    /// bytes are good enough, [`Utf8Str::as_bytes`] is free.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("was checked to be UTF-8 when it was made")
    }

    /// The string's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string's bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no characters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy in memory of its own, so that keeping a short string does not keep its frame alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// The rules of 1.5.4.
pub(crate) fn check(bytes: &[u8]) -> Result<(), TextError> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(TextError::TooLong(bytes.len()));
    }
    if bytes.contains(&0) {
        return Err(TextError::Nul);
    }
    str::from_utf8(bytes)
        .map(|_| ())
        .map_err(|_| TextError::NotUtf8)
}

impl Hash for Utf8Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Utf8Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Utf8Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl TryFrom<&str> for Utf8Str {
    type Error = TextError;

    fn try_from(text: &str) -> Result<Self, TextError> {
        Self::copy_from(text)
    }
}
