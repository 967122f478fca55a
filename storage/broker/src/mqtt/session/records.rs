//! The records of `__mqtt_sessions`. Pure.
//!
//! All records of a client have its client id in the key and are hashed by it, so they are in one
//! partition, in order. A key is a kind, the owner's name and what the kind adds; the first byte of
//! a value is its format.
//!
//! ```text
//! 0 client             -> the session: id, owner epoch, expiry, connected or since when not, will
//! 1 client, filter     -> a subscription: options, and where it began in each partition
//! 2 client, packet id  -> an inbound QoS 2 publish that is not released: its sequence
//! 3 client             -> outbound: per partition the lowest offset not yet sent, and what is in
//!                         flight (of QoS 1 possibly stale, of QoS 2 exact)
//! 4 group/filter       -> a shared subscription's positions
//! 5 client             -> a claim: who owns the session, and its term (in a cluster)
//! ```

use bytes::Bytes;
use mainstem_record::{Offset, PartitionId};

use crate::{
    access::wire::{Claim, read_claim, write_claim},
    mqtt::{
        QoS, Will,
        codec::{Reader, Writer},
    },
};

/// The format of all values.
const FORMAT: u8 = 1;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A session.
    Session { client: &'a str },
    /// A subscription; the filter includes `$share/{group}/`.
    Subscription { client: &'a str, filter: &'a str },
    /// An inbound QoS 2 publish.
    Intent { client: &'a str, packet_id: u16 },
    /// Outbound state.
    Outbound { client: &'a str },
    /// A shared subscription: `{group}/{filter}`.
    Group { name: &'a str },
    /// Who owns a session.
    Claim { client: &'a str },
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) id: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) expiry_s: u32,
    /// When its connection ended, in milliseconds since the Unix epoch; `None` while it has one.
    pub(crate) offline_since_ms: Option<i64>,
    pub(crate) will: Option<Will>,
}

/// The options of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_id: Option<u32>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionRecord {
    pub(crate) options: Options,
    /// For each partition that was there: nothing below belongs to this subscription.
    pub(crate) starts: Vec<(PartitionId, Offset)>,
}

/// Where a message in flight comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FlightOrigin {
    /// A partition that the session follows.
    Feed,
    /// The retained message of this topic.
    Retained(String),
    /// A shared subscription.
    Shared,
}

/// A message in flight to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlightRecord {
    pub(crate) packet_id: u16,
    pub(crate) qos: QoS,
    /// PUBREC came.
    pub(crate) released: bool,
    pub(crate) retain: bool,
    pub(crate) origin: FlightOrigin,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) subscription_ids: Vec<u32>,
}

/// Outbound state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OutboundRecord {
    pub(crate) feeds: Vec<(PartitionId, Offset)>,
    /// In the order in which they were sent.
    pub(crate) inflight: Vec<FlightRecord>,
}

// === impl Key ===

impl<'a> Key<'a> {
    pub(crate) fn encode(&self) -> Bytes {
        let (kind, name) = match self {
            Self::Session { client } => (0, client),
            Self::Subscription { client, .. } => (1, client),
            Self::Intent { client, .. } => (2, client),
            Self::Outbound { client } => (3, client),
            Self::Group { name } => (4, name),
            Self::Claim { client } => (5, client),
        };
        let mut writer = Writer::new(kind);
        writer.text(name);
        match self {
            Self::Subscription { filter, .. } => {
                writer.raw(filter.as_bytes());
            }
            Self::Intent { packet_id, .. } => {
                writer.u16(*packet_id);
            }
            _ => {}
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let name = reader.text()?;
        Some(match kind {
            0 => Self::Session { client: name },
            1 => Self::Subscription {
                client: name,
                filter: std::str::from_utf8(reader.rest()).ok()?,
            },
            2 => Self::Intent {
                client: name,
                packet_id: reader.u16()?,
            },
            3 => Self::Outbound { client: name },
            4 => Self::Group { name },
            5 => Self::Claim { client: name },
            _ => return None,
        })
    }
}

// === impl SessionRecord ===

impl SessionRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer.raw(&self.id).u32(self.epoch).u32(self.expiry_s);
        writer.optional(self.offline_since_ms, |w, since| {
            w.i64(since);
        });
        writer.optional(self.will.as_ref(), |w, will| {
            w.text(&will.topic).bytes(&will.payload).u8(will.qos as u8);
            w.u8(will.retain.into())
                .u32(will.delay_s)
                .properties(&will.properties);
        });
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = open(bytes)?;
        Some(Self {
            id: reader.id()?,
            epoch: reader.u32()?,
            expiry_s: reader.u32()?,
            offline_since_ms: reader.optional(Reader::i64)?,
            will: reader.optional(|r| {
                Some(Will {
                    topic: r.text()?.to_owned(),
                    payload: Bytes::copy_from_slice(r.bytes()?),
                    qos: r.qos()?,
                    retain: r.bool()?,
                    delay_s: r.u32()?,
                    properties: r.properties()?,
                })
            })?,
        })
    }
}

// === impl SubscriptionRecord ===

impl SubscriptionRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        let Options {
            qos,
            no_local,
            retain_as_published,
            subscription_id,
        } = self.options;
        writer
            .u8(qos as u8)
            .u8(no_local.into())
            .u8(retain_as_published.into());
        writer.optional(subscription_id, |w, id| {
            w.u32(id);
        });
        write_positions(&mut writer, &self.starts);
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = open(bytes)?;
        let options = Options {
            qos: reader.qos()?,
            no_local: reader.bool()?,
            retain_as_published: reader.bool()?,
            subscription_id: reader.optional(Reader::u32)?,
        };
        Some(Self {
            options,
            starts: read_positions(&mut reader)?,
        })
    }
}

// === impl OutboundRecord ===

impl OutboundRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        write_positions(&mut writer, &self.feeds);
        writer.varint(self.inflight.len() as u64);
        for flight in &self.inflight {
            let flags = u8::from(flight.released) | u8::from(flight.retain) << 1;
            writer.u16(flight.packet_id).u8(flight.qos as u8).u8(flags);
            match &flight.origin {
                FlightOrigin::Feed => writer.u8(0),
                FlightOrigin::Retained(topic) => writer.u8(1).text(topic),
                FlightOrigin::Shared => writer.u8(2),
            };
            writer.partition(flight.partition).offset(flight.offset);
            writer.varint(flight.subscription_ids.len() as u64);
            for id in &flight.subscription_ids {
                writer.varint(u64::from(*id));
            }
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = open(bytes)?;
        Some(Self {
            feeds: read_positions(&mut reader)?,
            inflight: reader.list(read_flight)?,
        })
    }
}

fn read_flight(reader: &mut Reader<'_>) -> Option<FlightRecord> {
    let packet_id = reader.u16()?;
    let qos = reader.qos()?;
    let flags = reader.u8()?;
    let origin = match reader.u8()? {
        0 => FlightOrigin::Feed,
        1 => FlightOrigin::Retained(reader.text()?.to_owned()),
        2 => FlightOrigin::Shared,
        _ => return None,
    };
    Some(FlightRecord {
        packet_id,
        qos,
        released: flags & 1 != 0,
        retain: flags & 2 != 0,
        origin,
        partition: reader.partition()?,
        offset: reader.offset()?,
        subscription_ids: reader.list(|r| u32::try_from(r.varint()?).ok())?,
    })
}

/// The value of [`Key::Intent`]: the publish's sequence.
pub(crate) fn encode_intent(sequence: u64) -> Bytes {
    let mut writer = Writer::new(FORMAT);
    writer.u64(sequence);
    writer.finish()
}

pub(crate) fn decode_intent(bytes: &[u8]) -> Option<u64> {
    open(bytes)?.u64()
}

/// The value of [`Key::Group`].
pub(crate) fn encode_group(positions: &[(PartitionId, Offset)]) -> Bytes {
    let mut writer = Writer::new(FORMAT);
    write_positions(&mut writer, positions);
    writer.finish()
}

pub(crate) fn decode_group(bytes: &[u8]) -> Option<Vec<(PartitionId, Offset)>> {
    read_positions(&mut open(bytes)?)
}

/// The value of [`Key::Claim`].
pub(crate) fn encode_claim(claim: Claim) -> Bytes {
    let mut writer = Writer::new(FORMAT);
    write_claim(&mut writer, claim);
    writer.finish()
}

pub(crate) fn decode_claim(bytes: &[u8]) -> Option<Claim> {
    read_claim(&mut open(bytes)?)
}

fn open(bytes: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(bytes);
    (reader.u8()? == FORMAT).then_some(reader)
}

fn write_positions(writer: &mut Writer, positions: &[(PartitionId, Offset)]) {
    writer.varint(positions.len() as u64);
    for (partition, offset) in positions {
        writer.partition(*partition).offset(*offset);
    }
}

fn read_positions(reader: &mut Reader<'_>) -> Option<Vec<(PartitionId, Offset)>> {
    reader.list(|r| Some((r.partition()?, r.offset()?)))
}

#[cfg(test)]
mod tests {
    use mainstem_record::{BrokerId, Incarnation, Member, PartitionIndex, TopicId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::mqtt::MessageProperties;

    fn partition() -> impl Strategy<Value = PartitionId> {
        (any::<u128>(), 0..i32::MAX).prop_map(|(topic, index)| PartitionId {
            topic: TopicId(Uuid::from_u128(topic)),
            index: PartitionIndex(index),
        })
    }

    fn positions() -> impl Strategy<Value = Vec<(PartitionId, Offset)>> {
        prop::collection::vec((partition(), (0..i64::MAX).prop_map(Offset)), 0..5)
    }

    fn qos() -> impl Strategy<Value = QoS> {
        (0u8..3).prop_map(|bits| QoS::from_bits(bits).expect("three of them"))
    }

    fn will() -> impl Strategy<Value = Will> {
        (
            ".{0,9}",
            any::<Vec<u8>>(),
            qos(),
            any::<(bool, u32)>(),
            any::<Option<u32>>(),
            any::<Vec<(String, String)>>(),
        )
            .prop_map(
                |(topic, payload, qos, (retain, delay_s), expiry_s, user)| Will {
                    topic,
                    payload: payload.into(),
                    qos,
                    retain,
                    delay_s,
                    properties: MessageProperties {
                        expiry_s,
                        user,
                        ..MessageProperties::default()
                    },
                },
            )
    }

    fn flight() -> impl Strategy<Value = FlightRecord> {
        let origin = prop_oneof![
            Just(FlightOrigin::Feed),
            Just(FlightOrigin::Shared),
            ".{1,9}".prop_map(FlightOrigin::Retained)
        ];
        (
            any::<(u16, bool, bool)>(),
            qos(),
            origin,
            partition(),
            0..i64::MAX,
            any::<Vec<u32>>(),
        )
            .prop_map(
                |(
                    (packet_id, released, retain),
                    qos,
                    origin,
                    partition,
                    offset,
                    subscription_ids,
                )| FlightRecord {
                    packet_id,
                    qos,
                    released,
                    retain,
                    origin,
                    partition,
                    offset: Offset(offset),
                    subscription_ids,
                },
            )
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(
            id in any::<[u8; 16]>(),
            (epoch, expiry_s) in any::<(u32, u32)>(),
            offline_since_ms in any::<Option<i64>>(),
            will in prop::option::of(will()),
            starts in positions(),
            inflight in prop::collection::vec(flight(), 0..5),
            qos in qos(),
            (no_local, retain_as_published, subscription_id) in any::<(bool, bool, Option<u32>)>(),
            sequence in any::<u64>(),
        ) {
            let session = SessionRecord { id, epoch, expiry_s, offline_since_ms, will };
            prop_assert_eq!(SessionRecord::decode(&session.encode()), Some(session));
            let options = Options { qos, no_local, retain_as_published, subscription_id };
            let subscription = SubscriptionRecord { options, starts: starts.clone() };
            prop_assert_eq!(SubscriptionRecord::decode(&subscription.encode()), Some(subscription));
            let outbound = OutboundRecord { feeds: starts.clone(), inflight };
            prop_assert_eq!(OutboundRecord::decode(&outbound.encode()), Some(outbound));
            prop_assert_eq!(decode_intent(&encode_intent(sequence)), Some(sequence));
            let owner = Member::new(BrokerId(3), Incarnation(sequence));
            let claim = Claim { term: epoch, owner };
            prop_assert_eq!(decode_claim(&encode_claim(claim)), Some(claim));
            prop_assert_eq!(decode_group(&encode_group(&starts)), Some(starts));
        }

        #[test]
        fn keys_come_back_and_differ(client in ".{0,12}", filter in ".{0,12}", packet_id in any::<u16>()) {
            let keys = [
                Key::Session { client: &client },
                Key::Subscription { client: &client, filter: &filter },
                Key::Intent { client: &client, packet_id },
                Key::Outbound { client: &client },
                Key::Group { name: &client },
                Key::Claim { client: &client },
            ];
            let mut encoded: Vec<Bytes> = keys.iter().map(Key::encode).collect();
            for (key, bytes) in keys.iter().zip(&encoded) {
                prop_assert_eq!(Key::decode(bytes), Some(*key));
            }
            encoded.dedup();
            prop_assert_eq!(encoded.len(), keys.len());
        }

        #[test]
        fn damaged_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut with_format = vec![FORMAT];
            with_format.extend(&bytes);
            for bytes in [&bytes, &with_format] {
                let _ = (Key::decode(bytes), SessionRecord::decode(bytes), decode_group(bytes));
                let _ = (SubscriptionRecord::decode(bytes), OutboundRecord::decode(bytes));
            }
        }
    }
}
