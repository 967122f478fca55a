//! A message as a record, and back.

use bytes::Bytes;
use mainstem_log::{QOS2_HEADER, Qos2Id};
use mainstem_record::{EncodedRecord, RecordView};

use super::properties::{self, Name};
use crate::mqtt::{
    Message, MessageProperties, QoS,
    limits::{SHARED_BATCH_BYTES_MAX, SHARED_PAYLOAD_PART},
};

/// Record attributes, bits 4-5: QoS. They mean something only in a batch with the MQTT mark.
const QOS_SHIFT: u8 = 4;
/// Record attributes, bit 6: RETAIN.
const RETAIN_BIT: u8 = 1 << 6;

/// A message that is to become a record.
pub(crate) struct Encode<'a> {
    /// The record's key.
    pub(crate) key: Option<&'a str>,
    /// The payload.
    pub(crate) payload: &'a [u8],
    /// The QoS.
    pub(crate) qos: QoS,
    /// The RETAIN flag.
    pub(crate) retain: bool,
    /// The properties.
    pub(crate) properties: &'a MessageProperties,
    /// The publisher.
    pub(crate) client_id: &'a str,
    /// The QoS 2 identity.
    pub(crate) qos2: Option<Qos2Id>,
}

/// The record of a message and its attributes byte.
pub(crate) fn encode(message: &Encode<'_>) -> (EncodedRecord, u8) {
    let scratch = properties::binary(message.properties);
    let identity = message.qos2.map(|id| {
        let mut bytes = [0; 28];
        bytes[..16].copy_from_slice(&id.session);
        bytes[16..20].copy_from_slice(&id.epoch.to_be_bytes());
        bytes[20..].copy_from_slice(&id.sequence.to_be_bytes());
        bytes
    });
    let user = &message.properties.user;
    let names: Vec<Name<'_>> = user
        .iter()
        .map(|(name, _)| properties::user_header(name))
        .collect();
    let mut headers: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(user.len() + 4);
    headers.push((
        properties::CLIENT.as_bytes(),
        Some(message.client_id.as_bytes()),
    ));
    properties::own_headers(message.properties, &scratch, |name, value| {
        headers.push((name.as_bytes(), Some(value)));
    });
    if let Some(identity) = &identity {
        headers.push((QOS2_HEADER.as_bytes(), Some(identity)));
    }
    for (name, (_, value)) in names.iter().zip(user) {
        let name = match name {
            Name::Plain(name) => name.as_bytes(),
            Name::Escaped(name) => name.as_bytes(),
        };
        headers.push((name, Some(value.as_bytes())));
    }
    let key = message.key.map(str::as_bytes);
    let record = EncodedRecord::new(key, Some(message.payload), headers);
    let retain = if message.retain { RETAIN_BIT } else { 0 };
    (record, (message.qos as u8) << QOS_SHIFT | retain)
}

/// Whether a record that was encoded with these attributes is to be retained.
pub(crate) fn is_retained(attributes: u8) -> bool {
    attributes & RETAIN_BIT != 0
}

/// Where a record was found.
pub(crate) struct Source<'a> {
    /// The batch's bytes, for payloads that can be shared with it.
    pub(crate) batch: &'a Bytes,
}

/// What delivery asks of a record before it decodes it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    record: &'a RecordView<'a>,
    is_mqtt: bool,
}

// === impl View ===

impl<'a> View<'a> {
    pub(crate) fn new(record: &'a RecordView<'a>, is_mqtt: bool) -> Self {
        Self { record, is_mqtt }
    }

    /// A Kafka producer's record counts as QoS 1.
    pub(crate) fn qos(&self) -> QoS {
        if !self.is_mqtt {
            return QoS::AtLeastOnce;
        }
        QoS::from_bits((self.record.attributes >> QOS_SHIFT) & 0b11).unwrap_or(QoS::AtLeastOnce)
    }

    /// Only an MQTT publish is retained.
    pub(crate) fn retain(&self) -> bool {
        self.is_mqtt && self.record.attributes & RETAIN_BIT != 0
    }

    /// The client id of the publisher, if it came by MQTT.
    pub(crate) fn publisher(&self) -> Option<&'a [u8]> {
        if !self.is_mqtt {
            return None;
        }
        self.record.headers.last(properties::CLIENT.as_bytes())
    }

    /// The message, and how many headers had no place in it. `topic` is the record's MQTT topic.
    pub(crate) fn message(&self, topic: &str, source: &Source<'_>) -> (Message, usize) {
        let payload = self.record.value.unwrap_or_default();
        let share = |part: &[u8]| share(source.batch, part);
        let (properties, dropped) = properties::read(&self.record.headers, payload, share);
        let message = Message::new(
            topic.to_owned(),
            share(payload),
            (self.qos(), self.retain()),
            properties,
            self.record.timestamp.0,
        );
        (message, dropped)
    }
}

/// `part` as a slice of `batch` if it lies within (a compressed body does not) and is worth keeping
/// the batch in memory for; a copy otherwise.
fn share(batch: &Bytes, part: &[u8]) -> Bytes {
    let bounds = batch.as_ptr_range();
    let range = part.as_ptr_range();
    let inside = bounds.start <= range.start && range.end <= bounds.end;
    let small =
        batch.len() <= SHARED_BATCH_BYTES_MAX || part.len() >= batch.len() / SHARED_PAYLOAD_PART;
    if inside && small && !part.is_empty() {
        batch.slice_ref(part)
    } else {
        Bytes::copy_from_slice(part)
    }
}
