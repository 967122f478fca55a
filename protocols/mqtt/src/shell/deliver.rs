//! One PUBLISH to one client.
//!
//! What all receivers share is encoded once: the head (everything before the payload) of a message
//! for its version and for "with packet identifier" or not, in the message's own slots. A receiver
//! gets a copy with its own first byte and packet identifier written into it; only a remaining
//! expiry or subscription identifiers make a head of its own.

use bytes::{Bytes, BytesMut};
use mainstem_broker::{Delivery, Message};

use super::{convert, output::Output};
use crate::{
    codec::{EncodeError, PacketId, Peer, PublishOut, QoS, Version, varint},
    machine::SendPublish,
};

/// Why a message is not sent. It counts as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// It has expired.
    Expired,
    /// It is larger than the client takes (3.1.2.11.4), or than any packet can be.
    TooLarge,
}

/// Where things are in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// The packet identifier, if the head has one.
    packet_id_at: usize,
    /// Bytes of the packet, its payload included.
    packet_bytes: usize,
}

// === impl Unsent ===

impl Unsent {
    /// The label of the metric.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
        }
    }
}

/// Appends the PUBLISH to `output`; `now_ms` is wall-clock time.
///
/// What an earlier connection has sent already is sent again even if it has expired: the client may
/// have it and wait for the rest of the exchange.
pub(crate) fn write(
    send: &SendPublish<Delivery>,
    peer: &Peer,
    now_ms: i64,
    output: &mut Output,
) -> Result<(), Unsent> {
    let message = &*send.delivery.message;
    let expiry_secs = message.expiry_remaining_s(now_ms);
    if expiry_secs == Some(0) && !send.resumed {
        return Err(Unsent::Expired);
    }
    let v5 = peer.version.is_v5();
    let head = shared_head(message, peer.version, send.packet_id.is_some());
    let layout = Layout::of(head, message).ok_or(Unsent::TooLarge)?;
    let subscription_ids = send.delivery.subscription_ids.as_slice();
    if v5 && (expiry_secs.is_some() || !subscription_ids.is_empty()) {
        let properties = layout
            .properties(head, send.packet_id.is_some())
            .ok_or(Unsent::TooLarge)?;
        let publish = PublishOut {
            dup: send.dup,
            qos: send.qos,
            retain: send.delivery.retain,
            topic: &message.topic,
            packet_id: send.packet_id,
            expiry_secs,
            subscription_ids,
            properties,
            payload: &message.payload,
        };
        publish
            .encode_head(peer, output.tail())
            .map_err(|_: EncodeError| Unsent::TooLarge)?;
    } else {
        if layout.packet_bytes > peer.packet_bytes_max as usize {
            return Err(Unsent::TooLarge);
        }
        copy_head(head, layout, send, output.tail());
    }
    output.put_payload(&message.payload);
    Ok(())
}

/// The head for a version; empty if no packet can hold the message.
fn shared_head(message: &Message, version: Version, with_packet_id: bool) -> &Bytes {
    let slot = usize::from(version.is_v5()) * 2 + usize::from(with_packet_id);
    message.encoding(slot, || {
        let properties = if version.is_v5() {
            convert::properties_down(&message.properties)
        } else {
            crate::codec::Properties::EMPTY
        };
        let publish = PublishOut {
            dup: false,
            qos: if with_packet_id {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            },
            retain: false,
            topic: &message.topic,
            packet_id: with_packet_id.then_some(PacketId::FIRST),
            expiry_secs: None,
            subscription_ids: &[],
            properties: properties.raw(),
            payload: &message.payload,
        };
        let mut head = BytesMut::new();
        match publish.encode_head(&Peer::new(version), &mut head) {
            Ok(()) => Bytes::copy_from_slice(&head),
            Err(_) => Bytes::new(),
        }
    })
}

fn copy_head(head: &[u8], layout: Layout, send: &SendPublish<Delivery>, out: &mut BytesMut) {
    let start = out.len();
    out.extend_from_slice(head);
    let Some(copy) = out.get_mut(start..) else {
        return;
    };
    if let Some(first) = copy.first_mut() {
        let dup = send.dup && send.packet_id.is_some();
        *first = (*first & 0xF0)
            | (u8::from(dup) << 3)
            | (send.qos.bits() << 1)
            | u8::from(send.delivery.retain);
    }
    if let Some(id) = send.packet_id
        && let Some(place) = copy.get_mut(layout.packet_id_at..layout.packet_id_at + 2)
    {
        place.copy_from_slice(&id.get().to_be_bytes());
    }
}

// === impl Layout ===

impl Layout {
    fn of(head: &[u8], message: &Message) -> Option<Self> {
        let (remaining, length_bytes) = varint::read(head.get(1..)?).ok()??;
        Some(Self {
            packet_id_at: 1 + length_bytes + 2 + message.topic.len(),
            packet_bytes: 1 + length_bytes + remaining as usize,
        })
    }

    /// The property block of a version 5 head, without its length.
    fn properties(self, head: &[u8], with_packet_id: bool) -> Option<&[u8]> {
        let rest = head.get(self.packet_id_at + if with_packet_id { 2 } else { 0 }..)?;
        let (_, length_bytes) = varint::read(rest).ok()??;
        rest.get(length_bytes..)
    }
}
