//! The gate before the message codec: every array, string, byte field and tagged field of a request
//! is checked against the bytes that are really there, before the codec may allocate for it.
//!
//! The codec (`kafka-protocol`) reserves memory by the counts that a request claims: five bytes
//! would make it ask for hundreds of gigabytes, which ends the process. A walker goes over the
//! request by the table in [`schema`], allocates nothing, and adds up what the decoded form will
//! take; only what passes goes on to the codec. The Produce decoder is our own, but its requests
//! pass the same gate, so that there is one rule.

pub(crate) mod schema;

use schema::{Scalar, Struct, Type};

use crate::{
    api::Api,
    wire::{DecodeError, Reader},
};

/// Decoded, a request may take this many times its encoded size,
const COST_FACTOR_MAX: usize = 16;
/// or this much, whichever is more (small requests of short strings are legitimate),
const COST_BYTES_FLOOR: usize = 1 << 20;
/// but never more than this.
const COST_BYTES_MAX: usize = 64 << 20;

/// What a decoded struct takes besides its fields (the map of unknown tagged fields).
const STRUCT_BYTES: usize = 24;
/// What a decoded field takes at most by itself: a string, byte field or vector.
const FIELD_BYTES: usize = 32;
/// What an unknown tagged field takes in its map.
const TAG_BYTES: usize = 64;

/// Walks one request.
struct Walker<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    cost: usize,
    cost_max: usize,
}

/// Checks the body of a request of `api` and returns what its decoded form takes besides the
/// bytes of the body, in bytes (an upper estimate).
pub(crate) fn check(api: &Api, version: i16, body: &[u8]) -> Result<usize, DecodeError> {
    let mut walker = Walker {
        reader: Reader::new(body),
        version,
        flexible: version >= api.flexible_from,
        cost: 0,
        cost_max: body
            .len()
            .saturating_mul(COST_FACTOR_MAX)
            .clamp(COST_BYTES_FLOOR, COST_BYTES_MAX),
    };
    walker.structure(api.schema)?;
    // Bytes behind the last field are left alone, as Kafka does.
    Ok(walker.cost)
}

// === impl Walker ===

impl Walker<'_> {
    fn structure(&mut self, schema: &Struct) -> Result<(), DecodeError> {
        for field in schema.fields {
            if (field.min..=field.max).contains(&self.version) {
                self.field(field.kind)?;
            }
        }
        if self.flexible {
            self.tags(schema)?;
        }
        Ok(())
    }

    fn field(&mut self, kind: Type) -> Result<(), DecodeError> {
        match kind {
            Type::One(scalar) => self.scalar(scalar),
            Type::Nested(schema) => self.structure(schema),
            Type::Many(scalar) => {
                let Some(count) = self.reader.count(self.flexible)? else {
                    return Ok(());
                };
                self.charge(count, scalar_bytes(scalar))?;
                match fixed_bytes(scalar) {
                    Some(size) => self.skip(count, size),
                    None => (0..count).try_for_each(|_| self.scalar(scalar)),
                }
            }
            Type::Structs(schema) => {
                let Some(count) = self.reader.count(self.flexible)? else {
                    return Ok(());
                };
                self.charge(count, STRUCT_BYTES + FIELD_BYTES * schema.fields.len())?;
                (0..count).try_for_each(|_| self.structure(schema))
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Result<(), DecodeError> {
        let length = match scalar {
            Scalar::Str => self.reader.string_length(self.flexible)?,
            Scalar::Bytes => self.reader.long_length(self.flexible)?,
            _ => fixed_bytes(scalar),
        };
        self.skip(1, length.unwrap_or(0))
    }

    fn tags(&mut self, schema: &Struct) -> Result<(), DecodeError> {
        let count = self.reader.varint()? as usize;
        let remaining = self.reader.remaining();
        if count > remaining {
            return Err(DecodeError::Count { count, remaining });
        }
        self.charge(count, TAG_BYTES)?;
        for _ in 0..count {
            let tag = self.reader.varint()?;
            let size = self.reader.varint()? as usize;
            let Some(known) = schema.tags.iter().find(|known| known.tag == tag) else {
                self.skip(1, size)?;
                continue;
            };
            // The codec reads a known tag by its type and believes no size, so both must agree.
            let start = self.reader.position();
            if self.version < known.min || size > self.reader.remaining() {
                return Err(DecodeError::Tag(tag));
            }
            self.field(known.kind)?;
            if self.reader.position() - start != size {
                return Err(DecodeError::Tag(tag));
            }
        }
        Ok(())
    }

    fn skip(&mut self, count: usize, size: usize) -> Result<(), DecodeError> {
        let bytes = count.checked_mul(size).ok_or(DecodeError::Truncated)?;
        self.reader.take(bytes).map(|_| ())
    }

    fn charge(&mut self, count: usize, size: usize) -> Result<(), DecodeError> {
        self.cost = self.cost.saturating_add(count.saturating_mul(size));
        if self.cost > self.cost_max {
            return Err(DecodeError::Cost {
                cost: self.cost,
                cost_max: self.cost_max,
            });
        }
        Ok(())
    }
}

/// The encoded size of a type that has one.
const fn fixed_bytes(scalar: Scalar) -> Option<usize> {
    match scalar {
        Scalar::Bool | Scalar::I8 => Some(1),
        Scalar::I16 => Some(2),
        Scalar::I32 => Some(4),
        Scalar::I64 => Some(8),
        Scalar::Uuid => Some(16),
        Scalar::Str | Scalar::Bytes => None,
    }
}

/// What an element of an array takes once decoded.
const fn scalar_bytes(scalar: Scalar) -> usize {
    match fixed_bytes(scalar) {
        Some(size) => size,
        None => FIELD_BYTES,
    }
}

#[cfg(test)]
mod tests;
