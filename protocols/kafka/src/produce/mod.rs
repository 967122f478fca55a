//! Produce requests, decoded by hand: the batches stay slices of the frame.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::wire::{DecodeError, Reader};

/// The first flexible version.
const FLEXIBLE_FROM: i16 = 9;
/// A batch that is smaller than this part of its frame is copied: the log keeps batches, and a
/// slice would keep the whole frame.
const FRAME_PART_MIN: usize = 2;

/// A Produce request, version 3 to 12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProduceRequest {
    /// Set by a transactional producer.
    pub(crate) transactional_id: Option<StrBytes>,
    /// -1 all, 0 none, 1 the leader.
    pub(crate) acks: i16,
    /// How long the client wants to wait for the acknowledgement, in milliseconds.
    pub(crate) timeout_ms: i32,
    /// What to append where, in the order of the request.
    pub(crate) topics: Vec<TopicData>,
}

/// The batches for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicData {
    /// The topic's name.
    pub(crate) name: StrBytes,
    /// Its partitions.
    pub(crate) partitions: Vec<PartitionData>,
}

/// The batch for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionData {
    /// The partition.
    pub(crate) index: i32,
    /// What claims to be one batch; `None` if null.
    pub(crate) records: Option<Bytes>,
}

// === impl ProduceRequest ===

impl ProduceRequest {
    /// Decodes a body that has passed the gate. Nothing is reserved by a claimed count.
    pub(crate) fn decode(version: i16, body: &Bytes) -> Result<Self, DecodeError> {
        let compact = version >= FLEXIBLE_FROM;
        let mut reader = Reader::new(body);
        let transactional_id = string(&mut reader, body, compact)?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let mut topics = Vec::new();
        for _ in 0..reader.count(compact)?.ok_or(DecodeError::Null)? {
            topics.push(topic(&mut reader, body, compact)?);
        }
        if compact {
            reader.skip_tags()?;
        }
        Ok(Self {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        })
    }
}

// === impl PartitionData ===

impl PartitionData {
    /// The batch, detached from its frame of `frame_bytes` if it is only a small part of it.
    pub(crate) fn take_batch(&mut self, frame_bytes: usize) -> Option<Bytes> {
        let records = self.records.take()?;
        if records.len().saturating_mul(FRAME_PART_MIN) < frame_bytes {
            return Some(Bytes::copy_from_slice(&records));
        }
        Some(records)
    }
}

fn string(
    reader: &mut Reader<'_>,
    body: &Bytes,
    compact: bool,
) -> Result<Option<StrBytes>, DecodeError> {
    let Some(length) = reader.string_length(compact)? else {
        return Ok(None);
    };
    let range = reader.range(length)?;
    StrBytes::from_utf8(body.slice(range))
        .map(Some)
        .map_err(|_| DecodeError::Utf8)
}

fn topic(reader: &mut Reader<'_>, body: &Bytes, compact: bool) -> Result<TopicData, DecodeError> {
    let name = string(reader, body, compact)?.ok_or(DecodeError::Null)?;
    let mut partitions = Vec::new();
    for _ in 0..reader.count(compact)?.ok_or(DecodeError::Null)? {
        let index = reader.i32()?;
        let records = match reader.long_length(compact)? {
            Some(length) => Some(body.slice(reader.range(length)?)),
            None => None,
        };
        if compact {
            reader.skip_tags()?;
        }
        partitions.push(PartitionData { index, records });
    }
    if compact {
        reader.skip_tags()?;
    }
    Ok(TopicData { name, partitions })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::{
        messages::{
            self as m, TopicName, TransactionalId,
            produce_request::{PartitionProduceData, TopicProduceData},
        },
        protocol::Encodable,
    };
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = ProduceRequest> {
        let records = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        let partition = (any::<i32>(), records).prop_map(|(index, records)| PartitionData {
            index,
            records: records.map(Bytes::from),
        });
        let topic = ("[a-z]{0,10}", proptest::collection::vec(partition, 0..4)).prop_map(
            |(name, partitions)| TopicData {
                name: StrBytes::from_string(name),
                partitions,
            },
        );
        (
            proptest::option::of("[a-z]{0,5}"),
            -1i16..2,
            any::<i32>(),
            proptest::collection::vec(topic, 0..4),
        )
            .prop_map(|(id, acks, timeout_ms, topics)| ProduceRequest {
                transactional_id: id.map(StrBytes::from_string),
                acks,
                timeout_ms,
                topics,
            })
    }

    fn by_codec(request: &ProduceRequest, version: i16) -> Bytes {
        let partition = |partition: &PartitionData| {
            PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.clone())
        };
        let topic = |topic: &TopicData| {
            TopicProduceData::default()
                .with_name(TopicName(topic.name.clone()))
                .with_partition_data(topic.partitions.iter().map(partition).collect())
        };
        let mut out = BytesMut::new();
        m::ProduceRequest::default()
            .with_transactional_id(request.transactional_id.clone().map(TransactionalId))
            .with_acks(request.acks)
            .with_timeout_ms(request.timeout_ms)
            .with_topic_data(request.topics.iter().map(topic).collect())
            .encode(&mut out, version)
            .expect("encode");
        out.freeze()
    }

    proptest! {
        #[test]
        fn what_the_codec_encodes_is_decoded_the_same(request in requests()) {
            for version in 3..=12 {
                let body = by_codec(&request, version);
                prop_assert_eq!(ProduceRequest::decode(version, &body), Ok(request.clone()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let body = Bytes::from(bytes);
            for version in 3..=12 {
                let _ = ProduceRequest::decode(version, &body);
            }
        }
    }

    #[test]
    fn large_batches_are_slices_and_small_ones_leave_the_frame() {
        let body = Bytes::from(vec![0; 1000]);
        let mut large = PartitionData {
            index: 0,
            records: Some(body.slice(100..900)),
        };
        let mut small = PartitionData {
            index: 1,
            records: Some(body.slice(900..1000)),
        };
        let within = |bytes: &Bytes| body.as_ptr_range().contains(&bytes.as_ptr());
        assert!(large.take_batch(1000).is_some_and(|batch| within(&batch)));
        assert!(small.take_batch(1000).is_some_and(|batch| !within(&batch)));
    }
}
