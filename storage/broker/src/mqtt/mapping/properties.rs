//! Properties of a message as headers of a record, and back.

use bytes::Bytes;
use mainstem_record::Headers;

use super::RESERVED_PREFIX;
use crate::mqtt::{MessageProperties, limits::USER_PROPERTIES_MAX, topic};

const CONTENT_TYPE: &str = "content-type";
const PAYLOAD_FORMAT: &str = "mqtt.payload-format";
const RESPONSE_TOPIC: &str = "mqtt.response-topic";
const CORRELATION_DATA: &str = "mqtt.correlation-data";
const EXPIRY: &str = "mqtt.expiry";
/// The publisher's client id.
pub(super) const CLIENT: &str = "mqtt.client";
/// A user property whose name would be taken for one of ours.
const ESCAPE: &str = "mqtt.up.";

/// The longest string or binary value of an MQTT packet.
const VALUE_BYTES_MAX: usize = 65_535;

/// A header under construction: most names are constant, so most cost no allocation.
pub(super) enum Name<'a> {
    Plain(&'a str),
    Escaped(String),
}

/// The name under which a user property is stored. A name that could be taken for a header of ours
/// is escaped, so that a client cannot spoof one.
pub(super) fn user_header(name: &str) -> Name<'_> {
    if name.starts_with(RESERVED_PREFIX) || name == CONTENT_TYPE {
        Name::Escaped(format!("{ESCAPE}{name}"))
    } else {
        Name::Plain(name)
    }
}

/// Calls `add` with each header of `properties`, user properties aside. `scratch` holds what must
/// be encoded.
pub(super) fn own_headers<'a>(
    properties: &'a MessageProperties,
    scratch: &'a ([u8; 1], [u8; 4]),
    mut add: impl FnMut(&'a str, &'a [u8]),
) {
    if let Some(content_type) = &properties.content_type {
        add(CONTENT_TYPE, content_type.as_bytes());
    }
    if properties.payload_format.is_some() {
        add(PAYLOAD_FORMAT, &scratch.0);
    }
    if let Some(response_topic) = &properties.response_topic {
        add(RESPONSE_TOPIC, response_topic.as_bytes());
    }
    if let Some(correlation_data) = &properties.correlation_data {
        add(CORRELATION_DATA, correlation_data);
    }
    if properties.expiry_s.is_some() {
        add(EXPIRY, &scratch.1);
    }
}

/// The binary forms that [`own_headers`] refers to.
pub(super) fn binary(properties: &MessageProperties) -> ([u8; 1], [u8; 4]) {
    (
        [properties.payload_format.unwrap_or(0)],
        properties.expiry_s.unwrap_or(0).to_be_bytes(),
    )
}

/// Reads properties from headers. Returns how many headers had no place in an MQTT message (not
/// UTF-8, too long, too many); ours that are malformed count too.
pub(super) fn read(
    headers: &Headers<'_>,
    payload: &[u8],
    share: impl Fn(&[u8]) -> Bytes,
) -> (MessageProperties, usize) {
    let mut properties = MessageProperties::default();
    let mut dropped = 0;
    for (name, value) in headers.iter() {
        let value = value.unwrap_or_default();
        if !take(&mut properties, (name, value), payload, &share) {
            dropped += 1;
        }
    }
    (properties, dropped)
}

fn take(
    properties: &mut MessageProperties,
    (name, value): (&[u8], &[u8]),
    payload: &[u8],
    share: &impl Fn(&[u8]) -> Bytes,
) -> bool {
    let Some(name) = text(name) else { return false };
    if name == CONTENT_TYPE {
        properties.content_type = text(value).map(str::to_owned);
        return properties.content_type.is_some();
    }
    let user_name = match name.strip_prefix(ESCAPE) {
        Some(escaped) => escaped,
        None if name.starts_with(RESERVED_PREFIX) => {
            return take_reserved(properties, name, value, payload, share);
        }
        None => name,
    };
    let Some(value) = text(value) else {
        return false;
    };
    if properties.user.len() >= USER_PROPERTIES_MAX {
        return false;
    }
    properties
        .user
        .push((user_name.to_owned(), value.to_owned()));
    true
}

fn take_reserved(
    properties: &mut MessageProperties,
    name: &str,
    value: &[u8],
    payload: &[u8],
    share: &impl Fn(&[u8]) -> Bytes,
) -> bool {
    match name {
        PAYLOAD_FORMAT => {
            properties.payload_format = match value {
                [0] => Some(0),
                // A Kafka producer may say so wrongly, and subscribers rely on it.
                [1] if std::str::from_utf8(payload).is_ok() => Some(1),
                _ => None,
            };
            properties.payload_format.is_some()
        }
        RESPONSE_TOPIC => {
            properties.response_topic = text(value)
                .filter(|value| topic::is_legal_name(value))
                .map(str::to_owned);
            properties.response_topic.is_some()
        }
        CORRELATION_DATA if value.len() <= VALUE_BYTES_MAX => {
            properties.correlation_data = Some(share(value));
            true
        }
        EXPIRY => {
            properties.expiry_s = value.try_into().ok().map(u32::from_be_bytes);
            properties.expiry_s.is_some()
        }
        // Ours, and not for subscribers: the publisher, the QoS 2 identity, the topic.
        _ => true,
    }
}

/// An MQTT string: UTF-8 without NUL, of at most 65,535 bytes.
fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= VALUE_BYTES_MAX && !text.contains('\0')).then_some(text)
}
