//! A Kafka client that knows nothing but the codec.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        BrokerId, CreateTopicsRequest, FetchRequest, GroupId, InitProducerIdRequest,
        ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest, RequestHeader,
        ResponseHeader, TopicName,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        fetch_request::{FetchPartition, FetchTopic},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};
use mainstem_env::Stream;
use mainstem_record::{
    Attributes, BatchBuilder, BatchOptions, Batches, Codec, ProducerEpoch, ProducerId, Sequence,
    TimestampMs,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use mainstem_metadata::apply::UNCLEAN_GAP;

use crate::node::Door;

/// Kafka's code.
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// No partition loses records more often.
const LOSSES_MAX: i64 = 64;

/// There is no error.
pub(crate) const NONE: i16 = 0;
/// The topic is there already.
pub(crate) const TOPIC_ALREADY_EXISTS: i16 = 36;
/// The disk has failed; clients try again.
pub(crate) const KAFKA_STORAGE_ERROR: i16 = 56;

/// The connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// The sending half of a connection.
pub(crate) struct Sender {
    stream: WriteHalf<Box<dyn Stream>>,
    correlation: i32,
}

/// The receiving half of a connection.
pub(crate) struct Receiver {
    stream: ReadHalf<Box<dyn Stream>>,
}

/// A connection.
pub(crate) struct Kafka {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

/// An idempotent producer's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Producer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

// === impl Sender ===

impl Sender {
    /// Sends a request and does not wait for the answer.
    async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), Gone> {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        self.correlation += 1;
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("simulated")))
            .encode(&mut frame, R::header_version(version))
            .expect("header");
        request.encode(&mut frame, version).expect("request");
        let length = i32::try_from(frame.len() - 4).expect("a short frame");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.map_err(|_| Gone)
    }

    /// Sends a batch to partition 0.
    pub(crate) async fn send_batch(
        &mut self,
        topic: &str,
        acks: i16,
        batch: Bytes,
    ) -> Result<(), Gone> {
        let partition = PartitionProduceData::default()
            .with_index(0)
            .with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default()
            .with_acks(acks)
            .with_timeout_ms(60_000)
            .with_topic_data(vec![topic]);
        self.send(9, &request).await
    }
}

// === impl Receiver ===

impl Receiver {
    /// The next answer.
    async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Gone> {
        let length = self.stream.read_i32().await.map_err(|_| Gone)?;
        let mut frame = vec![0; usize::try_from(length).expect("length")];
        let read = self.stream.read_exact(&mut frame).await;
        read.map_err(|_| Gone)?;
        let mut frame = Bytes::from(frame);
        let header_version = R::Response::header_version(version);
        ResponseHeader::decode(&mut frame, header_version).expect("header");
        Ok(R::Response::decode(&mut frame, version).expect("response"))
    }

    /// The answer to a batch: error code and base offset.
    pub(crate) async fn produced(&mut self) -> Result<(i16, i64), Gone> {
        let response = self.receive::<ProduceRequest>(9).await?;
        let partition = &response.responses[0].partition_responses[0];
        Ok((partition.error_code, partition.base_offset))
    }
}

// === impl Kafka ===

impl Kafka {
    pub(crate) async fn connect(door: &Door) -> Result<Self, Gone> {
        let stream = door.dial_kafka().await.ok_or(Gone)?;
        let (read, write) = tokio::io::split(stream);
        Ok(Self {
            sender: Sender {
                stream: write,
                correlation: 0,
            },
            receiver: Receiver { stream: read },
        })
    }

    pub(crate) async fn call<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Gone> {
        self.sender.send(version, request).await?;
        self.receiver.receive::<R>(version).await
    }

    /// Makes a topic of one partition; the error code.
    pub(crate) async fn create(
        &mut self,
        topic: &str,
        configs: &[(&str, &str)],
    ) -> Result<i16, Gone> {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(60_000)
            .with_topics(vec![topic]);
        let response = self.call(7, &request).await?;
        Ok(response.topics[0].error_code)
    }

    /// A producer's identity, or an error code.
    pub(crate) async fn init_producer(&mut self) -> Result<Result<Producer, i16>, Gone> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let response = self.call(4, &request).await?;
        if response.error_code != NONE {
            return Ok(Err(response.error_code));
        }
        Ok(Ok(Producer {
            id: response.producer_id.0,
            epoch: response.producer_epoch,
        }))
    }

    /// Sends a batch to partition 0.
    pub(crate) async fn send_batch(
        &mut self,
        topic: &str,
        acks: i16,
        batch: Bytes,
    ) -> Result<(), Gone> {
        self.sender.send_batch(topic, acks, batch).await
    }

    /// The answer to a batch: error code and base offset.
    pub(crate) async fn produced(&mut self) -> Result<(i16, i64), Gone> {
        self.receiver.produced().await
    }

    /// Commits an offset of partition 0 outside of a generation; the error code.
    pub(crate) async fn commit(
        &mut self,
        group: &str,
        topic: &str,
        offset: i64,
    ) -> Result<i16, Gone> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.call(8, &request).await?;
        Ok(response.topics[0].partitions[0].error_code)
    }

    /// The committed offset of partition 0; -1 if there is none; or an error code.
    pub(crate) async fn committed(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<Result<i64, i16>, Gone> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(vec![topic]));
        let response = self.call(7, &request).await?;
        if response.error_code != NONE {
            return Ok(Err(response.error_code));
        }
        let partition = &response.topics[0].partitions[0];
        Ok(match partition.error_code {
            NONE => Ok(partition.committed_offset),
            error => Err(error),
        })
    }

    /// The first offset of partition 0.
    pub(crate) async fn log_start(&mut self, topic: &str) -> Result<i64, Gone> {
        const EARLIEST: i64 = -2;
        let partition = ListOffsetsPartition::default()
            .with_partition_index(0)
            .with_timestamp(EARLIEST);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let response = self.call(6, &request).await?;
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.error_code, NONE);
        Ok(partition.offset)
    }

    /// The record batches of partition 0 from `offset` on, as far as one answer holds them, and the
    /// high watermark; or an error code.
    pub(crate) async fn fetch(
        &mut self,
        topic: &str,
        offset: i64,
    ) -> Result<Result<(Bytes, i64), i16>, Gone> {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.call(12, &request).await?;
        let partition = &response.responses[0].partitions[0];
        Ok(match partition.error_code {
            NONE => Ok((
                partition.records.clone().unwrap_or_default(),
                partition.high_watermark,
            )),
            error => Err(error),
        })
    }

    /// Every record of partition 0: offset and value.
    pub(crate) async fn read_all(&mut self, topic: &str) -> Result<BTreeMap<i64, String>, Gone> {
        let mut all = BTreeMap::new();
        let mut next = 0;
        loop {
            let fetched = self.fetch(topic, next).await?;
            // Where an unclean recovery has found nothing the log begins behind the hole.
            if fetched
                .as_ref()
                .is_err_and(|error| *error == OFFSET_OUT_OF_RANGE)
                && next % UNCLEAN_GAP == 0
            {
                next += UNCLEAN_GAP;
                assert!(
                    next / UNCLEAN_GAP <= LOSSES_MAX,
                    "{topic}: the log does not begin"
                );
                continue;
            }
            let (records, end) = fetched.expect("a readable partition");
            assert!(next <= end, "{topic}: the log ends at {end}, before {next}");
            let before = next;
            for (offset, value) in records_of(records) {
                if offset >= before {
                    let last = all.insert(offset, value);
                    assert_eq!(last, None, "{topic}: offset {offset} is there twice");
                    next = offset + 1;
                }
            }
            if next >= end {
                return Ok(all);
            }
            if next == before && end - next >= UNCLEAN_GAP / 2 {
                // An unclean recovery left a hole, and nothing is written after it yet.
                return Ok(all);
            }
            assert!(
                next > before,
                "{topic}: nothing to read at {next} before {end}"
            );
        }
    }
}

/// Offsets and values of the records in batches.
fn records_of(bytes: Bytes) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for batch in Batches::new(bytes) {
        // The last one may be cut.
        let Ok((_, batch)) = batch else { break };
        let records = mainstem_record::records(&batch, 1 << 20).expect("records");
        for record in records.iter() {
            let record = record.expect("record");
            let value = record.value.expect("a value").to_vec();
            found.push((record.offset.0, String::from_utf8(value).expect("text")));
        }
    }
    found
}

/// A batch of these values, of a producer whose next sequence is given.
pub(crate) fn batch(values: &[String], producer: Option<(Producer, i32)>, now_ms: i64) -> Bytes {
    let (producer, sequence) = producer.unwrap_or((Producer { id: -1, epoch: -1 }, -1));
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::None,
        attributes: Attributes(0),
        producer_id: ProducerId(producer.id),
        producer_epoch: ProducerEpoch(producer.epoch),
        base_sequence: Sequence(sequence),
    });
    for value in values {
        builder.push_record(0, TimestampMs(now_ms), None, Some(value.as_bytes()), []);
    }
    builder.finish().expect("batch").freeze()
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Whether a client tries again after it: it says that something is not available, never that what
/// was sent is wrong or unknown.
pub(crate) fn is_retriable(error: i16) -> bool {
    const LEADER_NOT_AVAILABLE: i16 = 5;
    const NOT_LEADER: i16 = 6;
    const REQUEST_TIMED_OUT: i16 = 7;
    const COORDINATOR_LOADING: i16 = 14;
    const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    const NOT_COORDINATOR: i16 = 16;
    [
        LEADER_NOT_AVAILABLE,
        NOT_LEADER,
        REQUEST_TIMED_OUT,
        COORDINATOR_LOADING,
        COORDINATOR_NOT_AVAILABLE,
        NOT_COORDINATOR,
        KAFKA_STORAGE_ERROR,
    ]
    .contains(&error)
}
