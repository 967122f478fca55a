//! Building a property block.

use bytes::{BufMut, BytesMut};

use super::{Kind, Properties, PropertyId};
use crate::codec::{TextError, Utf8Str, text, varint, write};

/// Builds a [`Properties`] block. Each method wants an identifier of the kind that it writes; that
/// is a matter of the code that calls it, so it is only checked in debug builds. Text and lengths
/// may come from anywhere and are always checked.
#[derive(Debug, Default)]
pub struct PropertyWriter {
    raw: BytesMut,
    present: u64,
}

impl PropertyWriter {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    fn id(&mut self, id: PropertyId, kind: Kind) {
        debug_assert_eq!(id.kind(), kind);
        self.raw.put_u8(id.byte());
        self.present |= id.bit();
    }

    /// Adds a byte property.
    pub fn byte(&mut self, id: PropertyId, value: u8) -> &mut Self {
        self.id(id, Kind::Byte);
        self.raw.put_u8(value);
        self
    }

    /// Adds a two byte integer property.
    pub fn u16(&mut self, id: PropertyId, value: u16) -> &mut Self {
        self.id(id, Kind::U16);
        self.raw.put_u16(value);
        self
    }

    /// Adds a four byte integer property.
    pub fn u32(&mut self, id: PropertyId, value: u32) -> &mut Self {
        self.id(id, Kind::U32);
        self.raw.put_u32(value);
        self
    }

    /// Adds a subscription identifier, 1 to 268,435,455.
    pub fn subscription_identifier(&mut self, value: u32) -> &mut Self {
        self.id(PropertyId::SubscriptionIdentifier, Kind::Varint);
        varint::write(&mut self.raw, value.min(varint::VALUE_MAX));
        self
    }

    /// Adds a string property.
    pub fn text(&mut self, id: PropertyId, value: &Utf8Str) -> &mut Self {
        self.id(id, Kind::Text);
        write::text(&mut self.raw, value);
        self
    }

    /// Adds a string property from bytes of unknown origin, such as a Kafka header.
    ///
    /// # Errors
    /// If they are no protocol string; nothing is added then.
    pub fn text_bytes(&mut self, id: PropertyId, value: &[u8]) -> Result<&mut Self, TextError> {
        text::check(value)?;
        self.id(id, Kind::Text);
        write::binary(&mut self.raw, value);
        Ok(self)
    }

    /// Adds a binary property.
    ///
    /// # Errors
    /// [`TextError::TooLong`] over 65,535 bytes; nothing is added then.
    pub fn binary(&mut self, id: PropertyId, value: &[u8]) -> Result<&mut Self, TextError> {
        if value.len() > text::TEXT_BYTES_MAX {
            return Err(TextError::TooLong(value.len()));
        }
        self.id(id, Kind::Binary);
        write::binary(&mut self.raw, value);
        Ok(self)
    }

    /// Adds a user property from bytes of unknown origin, such as a Kafka header.
    ///
    /// # Errors
    /// If name or value is no protocol string; nothing is added then.
    pub fn user(&mut self, name: &[u8], value: &[u8]) -> Result<&mut Self, TextError> {
        text::check(name)?;
        text::check(value)?;
        self.id(PropertyId::UserProperty, Kind::Pair);
        write::binary(&mut self.raw, name);
        write::binary(&mut self.raw, value);
        Ok(self)
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The block.
    pub fn finish(self) -> Properties {
        Properties {
            raw: self.raw.freeze(),
            present: self.present,
        }
    }
}
