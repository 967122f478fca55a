//! AUTH (3.15): decoding.

use bytes::Bytes;

use super::{
    DecodeError, Limits, Properties, PropertyId, ReasonCode, Utf8Str,
    properties::{Allowed, Budget},
    read::Reader,
};

/// A step of enhanced authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Continue (0x18) or re-authenticate (0x19).
    pub reason: ReasonCode,
    /// The method that the step belongs to.
    pub method: Utf8Str,
    /// Properties, method and data among them.
    pub properties: Properties,
}

impl Auth {
    /// Decodes the body of a client's AUTH.
    ///
    /// # Errors
    /// Malformed (0x81); protocol error (0x82) for a reason code that is a server's to send, which
    /// success is (an empty AUTH says that), and without a method.
    pub fn decode(body: Bytes, limits: &Limits) -> Result<Auth, DecodeError> {
        let mut reader = Reader::new(body);
        let reason = if reader.is_empty() {
            ReasonCode::SUCCESS
        } else {
            ReasonCode(reader.u8()?)
        };
        if !matches!(
            reason,
            ReasonCode::CONTINUE_AUTHENTICATION | ReasonCode::RE_AUTHENTICATE
        ) {
            return Err(DecodeError::protocol(
                "reason code is not one of a client's AUTH",
            ));
        }
        let properties = Properties::decode(&mut reader, Allowed::AUTH, &mut Budget::new(limits))?;
        reader.finish()?;
        let method =
            properties
                .text(PropertyId::AuthenticationMethod)
                .ok_or(DecodeError::protocol(
                    "AUTH without an authentication method",
                ))?;
        Ok(Auth {
            reason,
            method,
            properties,
        })
    }

    /// Authentication data, if any.
    pub fn data(&self) -> Option<Bytes> {
        self.properties.binary(PropertyId::AuthenticationData)
    }
}
