//! PUBLISH (3.3): decoding what clients send, encoding what subscribers get.

use std::{num::NonZeroU16, str};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DecodeError, EncodeError, Frame, Limits, PacketId, Peer, Properties, PropertyId, QoS,
    TopicName, Version,
    packet::PacketType,
    properties::{Allowed, Budget},
    read::Reader,
    text, varint, write,
};

const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// A message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Whether the client says that it may have sent this before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is to become the topic's retained message.
    pub retain: bool,
    /// The topic; `None` only if there is an alias to tell it.
    pub topic: Option<TopicName>,
    /// The identifier; `Some` exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Properties; empty before version 5. A topic alias is still among them.
    pub properties: Properties,
    /// The payload, a slice of the frame.
    pub payload: Bytes,
}

impl Publish {
    /// Decodes a PUBLISH from a client.
    ///
    /// # Errors
    /// Malformed (0x81), protocol error (0x82), topic name invalid (0x90), topic alias invalid
    /// (0x94), quota exceeded (0x97).
    pub fn decode(frame: Frame, version: Version, limits: &Limits) -> Result<Publish, DecodeError> {
        Self::decode_with(frame, version, limits, Allowed::PUBLISH)
    }

    /// Decodes a PUBLISH from either side.
    pub(crate) fn decode_with(
        frame: Frame,
        version: Version,
        limits: &Limits,
        allowed: Allowed,
    ) -> Result<Publish, DecodeError> {
        let flags = frame.flags();
        let dup = flags & DUP != 0;
        let qos = QoS::from_bits((flags >> 1) & 0b11)
            .ok_or(DecodeError::malformed("QoS of PUBLISH is 3"))?;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::malformed("DUP is set with QoS 0"));
        }
        let mut reader = Reader::new(frame.body);
        let topic = reader.text()?;
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            Some(reader.packet_id()?)
        };
        let properties = if version.is_v5() {
            Properties::decode(&mut reader, allowed, &mut Budget::new(limits))?
        } else {
            Properties::EMPTY
        };
        let topic = if topic.is_empty() && version.is_v5() {
            if !properties.has(PropertyId::TopicAlias) {
                return Err(DecodeError::protocol("no topic and no topic alias"));
            }
            None
        } else {
            Some(limits.topic_name(topic)?)
        };
        let payload = reader.take_rest();
        Ok(Publish {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload,
        })
    }

    /// The topic alias, if the packet has one.
    pub fn topic_alias(&self) -> Option<NonZeroU16> {
        self.properties
            .u16(PropertyId::TopicAlias)
            .and_then(NonZeroU16::new)
    }

    /// Message expiry interval in seconds, if any.
    pub fn expiry_secs(&self) -> Option<u32> {
        self.properties.u32(PropertyId::MessageExpiryInterval)
    }

    /// Whether the payload is what its Payload Format Indicator says (3.3.2.3.2). The standard
    /// leaves the check to the server's choice, and it costs a walk over the payload, so decoding
    /// does not make it; the answer to "no" is 0x99.
    pub fn is_payload_format_kept(&self) -> bool {
        is_payload_format_kept(&self.properties, &self.payload)
    }
}

pub(crate) fn is_payload_format_kept(properties: &Properties, payload: &[u8]) -> bool {
    properties.byte(PropertyId::PayloadFormatIndicator) != Some(1)
        || str::from_utf8(payload).is_ok()
}

/// A message to a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct PublishOut<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// The retain flag that this subscriber is to see.
    pub retain: bool,
    /// The topic, a legal topic name. Of these rules only its length is looked at here.
    pub topic: &'a str,
    /// The identifier; `Some` exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Seconds that are left until the message expires.
    pub expiry_secs: Option<u32>,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: &'a [u32],
    /// The raw block ([`Properties::raw`]) of the other properties: the same for all subscribers,
    /// without those that fields of this struct stand for, and without a topic alias. Ignored
    /// before version 5.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a Bytes,
}

impl PublishOut<'_> {
    /// Appends the packet to `out`, its payload included.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`]: the message is not to be sent to this client at all.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        let remaining = self.remaining(peer)?;
        write::header(out, peer, self.first_byte(), remaining)?;
        self.put_variable_header(peer, out);
        out.put_slice(self.payload);
        Ok(())
    }

    /// Appends all of the packet but its payload, which the caller sends next: a large payload is
    /// then never copied.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`]: the message is not to be sent to this client at all.
    pub fn encode_head(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        let remaining = self.remaining(peer)?;
        let length = write::check_size(peer, remaining)?;
        out.reserve(1 + varint::BYTES_MAX + remaining - self.payload.len());
        out.put_u8(self.first_byte());
        varint::write(out, length);
        self.put_variable_header(peer, out);
        Ok(())
    }

    fn first_byte(&self) -> u8 {
        debug_assert_eq!(self.packet_id.is_some(), self.qos != QoS::AtMostOnce);
        let dup = if self.dup && self.qos != QoS::AtMostOnce {
            DUP
        } else {
            0
        };
        ((PacketType::Publish as u8) << 4) | dup | (self.qos.bits() << 1) | u8::from(self.retain)
    }

    fn property_bytes(&self) -> usize {
        let expiry = if self.expiry_secs.is_some() { 5 } else { 0 };
        let ids: usize = self
            .subscription_ids
            .iter()
            .map(|&id| 1 + varint::len(id))
            .sum();
        expiry + ids + self.properties.len()
    }

    fn remaining(&self, peer: &Peer) -> Result<usize, EncodeError> {
        if self.topic.len() > text::TEXT_BYTES_MAX {
            let (bytes, max) = (self.topic.len(), text::TEXT_BYTES_MAX);
            return Err(EncodeError::TooLarge { bytes, max });
        }
        let properties = if peer.version.is_v5() {
            let bytes = self.property_bytes();
            varint::len(u32::try_from(bytes).unwrap_or(u32::MAX)) + bytes
        } else {
            0
        };
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        Ok(2 + self.topic.len() + packet_id + properties + self.payload.len())
    }

    fn put_variable_header(&self, peer: &Peer, out: &mut BytesMut) {
        write::binary(out, self.topic.as_bytes());
        if let Some(id) = self.packet_id {
            out.put_u16(id.get());
        }
        if !peer.version.is_v5() {
            return;
        }
        varint::write(
            out,
            u32::try_from(self.property_bytes()).unwrap_or(varint::VALUE_MAX),
        );
        if let Some(secs) = self.expiry_secs {
            out.put_u8(PropertyId::MessageExpiryInterval.byte());
            out.put_u32(secs);
        }
        for &id in self.subscription_ids {
            out.put_u8(PropertyId::SubscriptionIdentifier.byte());
            varint::write(out, id);
        }
        out.put_slice(self.properties);
    }
}
