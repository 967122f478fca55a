//! Internal, compacted topics: the logs that the coordinators are.
//!
//! One mechanism, used by consumer groups, MQTT sessions and retained messages: the leader of a
//! partition is the coordinator of its keys, appends what must survive, and rebuilds its state by
//! replay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_log::{Ack, Append, AppendError, AppendTicket, Partition, Read};
use mainstem_metadata::TopicOrigin;
use mainstem_record::{
    Batches, EncodedRecord, Offset, PartitionId, PartitionIndex, TimestampMs, TopicId,
    partition_for_key, records,
};
use parking_lot::RwLock;

use crate::{
    core::{BrokerError, Core},
    error_code::ErrorCode,
    topics::NewTopic,
};

/// How much is read from the log at once during replay.
const REPLAY_READ_BYTES: usize = 1 << 20;

/// The segments of internal topics, in bytes. What is not sealed is not compacted and must be replayed
/// at a start, so they are smaller than those of others (Kafka: 100 MiB).
const SEGMENT_BYTES: u64 = 32 << 20;

/// A key and its value; no value forgets the key.
#[derive(Debug, Clone)]
pub(crate) struct KeyValue {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// A record during replay.
pub(crate) struct ReplayRecord<'a> {
    pub(crate) offset: Offset,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// A handle on one internal topic. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InternalTopic {
    core: Arc<Core>,
    name: &'static str,
    id: TopicId,
    partitions: i32,
    /// Those that could not be read back: nothing is known of their keys.
    broken: Arc<RwLock<BTreeSet<PartitionIndex>>>,
}

// === impl InternalTopic ===

impl InternalTopic {
    /// Opens the topic; the first start makes it with `partitions`, which stay fixed.
    pub(crate) async fn open(
        core: &Arc<Core>,
        name: &'static str,
        partitions: i32,
    ) -> Result<Self, BrokerError> {
        let segment_bytes = SEGMENT_BYTES.to_string();
        let configs = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact".to_owned()),
            ("segment.bytes".to_owned(), segment_bytes),
        ]);
        let new = NewTopic {
            name: name.to_owned(),
            partitions,
            origin: TopicOrigin::Internal,
            configs,
        };
        let topic = core
            .ensure_topic(new)
            .await
            .map_err(|error| BrokerError::Internal {
                topic: name.to_owned(),
                code: error.code,
            })?;
        let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        Ok(Self {
            core: core.clone(),
            name,
            id: topic.id,
            partitions,
            broken: Arc::default(),
        })
    }

    /// Where a key's records live.
    pub(crate) fn partition_of(&self, hash_key: &[u8]) -> PartitionIndex {
        partition_for_key(hash_key, self.partitions)
    }

    /// Whether the state of a key is known: its partition was read back.
    pub(crate) fn serves(&self, hash_key: &[u8]) -> bool {
        let broken = self.broken.read();
        broken.is_empty() || !broken.contains(&self.partition_of(hash_key))
    }

    /// Whether all partitions were read back.
    pub(crate) fn is_whole(&self) -> bool {
        self.broken.read().is_empty()
    }

    fn partition(&self, index: PartitionIndex) -> Result<Partition, ErrorCode> {
        self.core.partition(PartitionId {
            topic: self.id,
            index,
        })
    }

    /// Takes a place in the partition's order; the ticket completes when the records are durable.
    /// All records are in one batch: all or none survives.
    pub(crate) async fn append(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> Result<AppendTicket, ErrorCode> {
        let partition = self.core.writable_partition(PartitionId {
            topic: self.id,
            index,
        })?;
        let now = TimestampMs(self.core.env.wall_ms());
        let encode = |record: &KeyValue| {
            let encoded = EncodedRecord::new(Some(&record.key), record.value.as_deref(), []);
            (encoded, now)
        };
        let records = records.iter().map(encode).collect();
        let append = Append::Records {
            records,
            ack: Ack::Durable,
        };
        partition
            .append(append)
            .await
            .map_err(|error| code_of(&error))
    }

    /// As [`InternalTopic::append`], and waits. The offset of the first record.
    pub(crate) async fn append_durable(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> Result<Offset, ErrorCode> {
        let ticket = self.append(index, records).await?;
        ticket
            .await
            .map(|appended| appended.base_offset)
            .map_err(|error| code_of(&error))
    }

    /// Gives every committed record of every partition to `each`, in the order of the partition. One
    /// that cannot be read to its end fails: nothing is served of its keys, so that what was kept of
    /// them is not taken for gone; the rest of the node serves.
    pub(crate) async fn replay(&self, each: &mut (dyn FnMut(ReplayRecord<'_>) + Send)) {
        for index in (0..self.partitions).map(PartitionIndex) {
            let Err(error) = self.replay_partition(index, each).await else {
                continue;
            };
            tracing::error!(%error, "the coordinator of a partition does not serve");
            self.broken.write().insert(index);
            let id = PartitionId {
                topic: self.id,
                index,
            };
            self.core.mark_failed(id, error.to_string());
        }
    }

    async fn replay_partition(
        &self,
        index: PartitionIndex,
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
    ) -> Result<(), BrokerError> {
        let partition = self
            .partition(index)
            .map_err(|code| BrokerError::Internal {
                topic: self.name.to_owned(),
                code,
            })?;
        let ends = partition.ends();
        let mut from = ends.log_start;
        while from < ends.committed_end {
            let read = Read {
                from,
                bytes_max: REPLAY_READ_BYTES,
                at_least_one_batch: true,
                end: ends.committed_end,
            };
            let chunk = partition
                .read(read)
                .await
                .map_err(|error| self.broken(index, &error))?;
            for run in chunk.batches {
                for batch in Batches::new(run) {
                    let (_, bytes) = batch.map_err(|error| self.broken(index, &error))?;
                    self.replay_batch(index, &bytes, from, each)?;
                }
            }
            from = chunk.next;
        }
        Ok(())
    }

    fn replay_batch(
        &self,
        index: PartitionIndex,
        batch: &[u8],
        from: Offset,
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
    ) -> Result<(), BrokerError> {
        let limit = self.core.config.storage.decompressed_batch_bytes_max;
        let records = records(batch, limit).map_err(|error| self.broken(index, &error))?;
        for record in records.iter() {
            let record = record.map_err(|error| self.broken(index, &error))?;
            // A record without a key belongs to nobody; the first batch may begin before `from`.
            if let Some(key) = record.key.filter(|_| record.offset >= from) {
                each(ReplayRecord {
                    offset: record.offset,
                    key,
                    value: record.value,
                });
            }
        }
        Ok(())
    }

    fn broken(&self, partition: PartitionIndex, error: &dyn std::error::Error) -> BrokerError {
        BrokerError::Replay {
            topic: self.name.to_owned(),
            partition,
            reason: error.to_string(),
        }
    }
}

/// What a failed append is called on the wire.
pub(crate) fn code_of(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        AppendError::BatchTooLarge => ErrorCode::RecordListTooLarge,
        AppendError::InvalidBatch => ErrorCode::CorruptMessage,
        AppendError::Removed => ErrorCode::UnknownTopicOrPartition,
        AppendError::Closed | AppendError::NotLeader => ErrorCode::NotLeaderOrFollower,
        AppendError::WouldBlock => ErrorCode::RequestTimedOut,
        // Retriable: the disk may have space again, or another node may lead one day.
        _ => ErrorCode::KafkaStorageError,
    }
}
