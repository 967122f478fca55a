//! Properties (2.2.2): a block of validated raw bytes, read lazily.
//!
//! A block is walked once, when its packet is decoded: every identifier known, allowed in this
//! packet, present once only unless it may repeat, every value complete and in its range. After
//! that it is only a slice of the frame and a bitmap of what is in it: looking for a property that
//! is not there costs one AND.

mod id;
mod validate;
mod writer;

use bytes::{Bytes, BytesMut};

pub use id::PropertyId;
pub(crate) use id::{Allowed, Kind};
pub(crate) use validate::Budget;
pub use writer::PropertyWriter;

use super::{Utf8Str, varint};

/// A validated property block, without its length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    raw: Bytes,
    present: u64,
}

/// One property of a block. Strings are bytes that were checked to be UTF-8 without NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Which one.
    pub id: PropertyId,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a property, by the kind that its identifier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// One byte.
    Byte(u8),
    /// Two byte integer.
    U16(u16),
    /// Four byte integer.
    U32(u32),
    /// Variable byte integer.
    Varint(u32),
    /// UTF-8 string, checked.
    Text(&'a [u8]),
    /// Binary data.
    Binary(&'a [u8]),
    /// Two UTF-8 strings, checked: a user property.
    Pair(&'a [u8], &'a [u8]),
}

impl Properties {
    /// No properties.
    pub const EMPTY: Properties = Properties {
        raw: Bytes::new(),
        present: 0,
    };

    /// The block's bytes, without its length; what an encoder copies into another packet.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whether there is no property.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether a property is there.
    pub fn has(&self, id: PropertyId) -> bool {
        self.present & id.bit() != 0
    }

    /// All properties in the order of the packet.
    pub fn iter(&self) -> PropertyIter<'_> {
        PropertyIter { rest: &self.raw }
    }

    fn find(&self, id: PropertyId) -> Option<Value<'_>> {
        if !self.has(id) {
            return None;
        }
        self.iter()
            .find(|property| property.id == id)
            .map(|property| property.value)
    }

    /// The value of a byte property.
    pub fn byte(&self, id: PropertyId) -> Option<u8> {
        match self.find(id)? {
            Value::Byte(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a two byte integer property.
    pub fn u16(&self, id: PropertyId) -> Option<u16> {
        match self.find(id)? {
            Value::U16(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a four byte or variable byte integer property.
    pub fn u32(&self, id: PropertyId) -> Option<u32> {
        match self.find(id)? {
            Value::U32(value) | Value::Varint(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a string property, a slice of the block.
    pub fn text(&self, id: PropertyId) -> Option<Utf8Str> {
        match self.find(id)? {
            Value::Text(bytes) => Some(Utf8Str::from_checked(self.raw.slice_ref(bytes))),
            _ => None,
        }
    }

    /// The value of a binary property, a slice of the block.
    pub fn binary(&self, id: PropertyId) -> Option<Bytes> {
        match self.find(id)? {
            Value::Binary(bytes) => Some(self.raw.slice_ref(bytes)),
            _ => None,
        }
    }

    /// The user properties, names and values, in order and with repeats; checked UTF-8.
    pub fn user_properties(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let rest = if self.has(PropertyId::UserProperty) {
            &self.raw[..]
        } else {
            &[]
        };
        PropertyIter { rest }.filter_map(|property| match property.value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// This block without the properties of a mask of [`PropertyId::bit`]s. Copies only if there
    /// is something to leave out.
    #[must_use]
    pub fn without(&self, mask: u64) -> Properties {
        if self.present & mask == 0 {
            return self.clone();
        }
        let mut raw = BytesMut::with_capacity(self.raw.len());
        let mut rest = self.iter();
        loop {
            let before = rest.rest;
            let Some(property) = rest.next() else { break };
            let bytes = before.len() - rest.rest.len();
            if property.id.bit() & mask == 0 {
                raw.extend_from_slice(before.get(..bytes).unwrap_or_default());
            }
        }
        Properties {
            raw: raw.freeze(),
            present: self.present & !mask,
        }
    }
}

/// Walks a property block. Ends early on bytes that are no property; a [`Properties`] has none.
#[derive(Debug, Clone)]
pub struct PropertyIter<'a> {
    rest: &'a [u8],
}

impl<'a> PropertyIter<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let bytes = u16::from_be_bytes(self.array()?);
        self.take(usize::from(bytes))
    }

    fn value(&mut self, kind: Kind) -> Option<Value<'a>> {
        Some(match kind {
            Kind::Byte => Value::Byte(u8::from_be_bytes(self.array()?)),
            Kind::U16 => Value::U16(u16::from_be_bytes(self.array()?)),
            Kind::U32 => Value::U32(u32::from_be_bytes(self.array()?)),
            Kind::Varint => {
                let (value, bytes) = varint::read(self.rest).ok()??;
                self.take(bytes)?;
                Value::Varint(value)
            }
            Kind::Text => Value::Text(self.binary()?),
            Kind::Binary => Value::Binary(self.binary()?),
            Kind::Pair => {
                let name = self.binary()?;
                Value::Pair(name, self.binary()?)
            }
        })
    }
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        // All identifiers are below 128, so that their variable byte integer is one byte.
        let [id] = self.array()?;
        let id = PropertyId::from_byte(id)?;
        let value = self.value(id.kind())?;
        Some(Property { id, value })
    }
}
