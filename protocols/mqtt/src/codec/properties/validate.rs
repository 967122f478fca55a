//! The one walk over a block that an untrusted peer sent.

use bytes::Bytes;

use super::{Allowed, Kind, Properties, Property, PropertyId, PropertyIter, Value};
use crate::codec::{DecodeError, Limits, ReasonCode, read::Reader, text, topic, varint};

/// What is left of one packet's property limits; a CONNECT has two blocks that share them.
pub(crate) struct Budget {
    bytes: usize,
    user: usize,
}

impl Budget {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self {
            bytes: limits.property_bytes_max,
            user: limits.user_properties_max,
        }
    }
}

impl Properties {
    /// Reads a block with its length.
    ///
    /// # Errors
    /// Malformed (0x81): unknown or misplaced identifiers, truncated values, illegal strings.
    /// Protocol error (0x82): a repeat, a value out of its range. Topic alias invalid (0x94): alias
    /// 0. Quota exceeded (0x97): over the limits of this server.
    pub(crate) fn decode(
        reader: &mut Reader,
        allowed: Allowed,
        budget: &mut Budget,
    ) -> Result<Properties, DecodeError> {
        let bytes = reader.varint()? as usize;
        if bytes > reader.remaining() {
            return Err(DecodeError::malformed(
                "properties are longer than the packet",
            ));
        }
        if bytes == 0 {
            return Ok(Properties::EMPTY);
        }
        budget.bytes = budget.bytes.checked_sub(bytes).ok_or(DecodeError::new(
            ReasonCode::QUOTA_EXCEEDED,
            "too many bytes of properties in a packet",
        ))?;
        let raw = reader.take(bytes)?;
        let present = walk(&raw, allowed, budget)?;
        Ok(Properties { raw, present })
    }
}

fn walk(raw: &Bytes, allowed: Allowed, budget: &mut Budget) -> Result<u64, DecodeError> {
    let mut present = 0u64;
    let mut iter = PropertyIter { rest: raw };
    while !iter.rest.is_empty() {
        let id = identifier(&mut iter, allowed)?;
        let repeats = allowed.repeat & id.bit() != 0;
        if present & id.bit() != 0 && !repeats {
            return Err(DecodeError::protocol("property is included more than once"));
        }
        present |= id.bit();
        if id.kind() == Kind::Varint {
            // The lazy iterator cannot tell an illegal integer from a truncated one; both are
            // malformed, but the description should say which.
            varint::read(iter.rest)?;
        }
        let value = iter
            .value(id.kind())
            .ok_or(DecodeError::malformed("properties end inside a property"))?;
        if id == PropertyId::UserProperty {
            budget.user = budget.user.checked_sub(1).ok_or(DecodeError::new(
                ReasonCode::QUOTA_EXCEEDED,
                "too many user properties in a packet",
            ))?;
        }
        check_value(Property { id, value })?;
    }
    Ok(present)
}

fn identifier(iter: &mut PropertyIter<'_>, allowed: Allowed) -> Result<PropertyId, DecodeError> {
    let (byte, bytes) = varint::read(iter.rest)?.ok_or(DecodeError::malformed(
        "properties end inside an identifier",
    ))?;
    iter.take(bytes);
    let id = u8::try_from(byte)
        .ok()
        .and_then(PropertyId::from_byte)
        .ok_or(DecodeError::malformed("unknown property identifier"))?;
    if allowed.other_role & id.bit() != 0 {
        return Err(DecodeError::protocol(
            "property is for the other side to send",
        ));
    }
    if allowed.mask & id.bit() == 0 {
        return Err(DecodeError::malformed(
            "property is not allowed in this packet",
        ));
    }
    Ok(id)
}

fn check_value(property: Property<'_>) -> Result<(), DecodeError> {
    let protocol = |legal: bool, what| {
        if legal {
            Ok(())
        } else {
            Err(DecodeError::protocol(what))
        }
    };
    match property.value {
        Value::Byte(value) => protocol(value <= 1, "property is neither 0 nor 1"),
        Value::U16(value) => match property.id {
            PropertyId::ReceiveMaximum => protocol(value != 0, "Receive Maximum is 0"),
            PropertyId::TopicAlias if value == 0 => Err(DecodeError::new(
                ReasonCode::TOPIC_ALIAS_INVALID,
                "topic alias is 0",
            )),
            _ => Ok(()),
        },
        Value::U32(value) => protocol(
            value != 0 || property.id != PropertyId::MaximumPacketSize,
            "Maximum Packet Size is 0",
        ),
        Value::Varint(value) => protocol(value != 0, "subscription identifier is 0"),
        Value::Text(value) => {
            text::check(value)?;
            protocol(
                property.id != PropertyId::ResponseTopic || topic::check_name(value).is_ok(),
                "response topic is not a topic name",
            )
        }
        Value::Binary(_) => Ok(()),
        Value::Pair(name, value) => {
            text::check(name)?;
            text::check(value)?;
            Ok(())
        }
    }
}
