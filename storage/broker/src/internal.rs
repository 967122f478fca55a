//! Internal, compacted topics: the logs that the coordinators are.
//!
//! One mechanism, used by consumer groups, MQTT sessions and retained messages: the leader of a
//! partition is the coordinator of its keys, appends what must survive, and rebuilds its state by
//! replay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_log::{Ack, Append, AppendError, AppendTicket, Partition, Read, ReadError};
use mainstem_metadata::{Topic, TopicOrigin};
use mainstem_record::{
    Batches, EncodedRecord, LeaderEpoch, Offset, PartitionId, PartitionIndex, TimestampMs, TopicId,
    partition_for_key, records,
};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{
    access::{AccessTicket, PartitionAccess, Reader},
    cluster::live_count,
    core::{BrokerError, Core, leads_since},
    error_code::ErrorCode,
    topics::{NewTopic, REPLICAS_USUAL, Replicas, TopicError},
};

/// How much is read from the log at once during replay.
const REPLAY_READ_BYTES: usize = 1 << 20;

/// The segments of internal topics, in bytes. What is not sealed is not compacted and must be replayed
/// at a start, so they are smaller than those of others (Kafka: 100 MiB).
const SEGMENT_BYTES: u64 = 32 << 20;

/// How long the first topics wait for as many brokers as the cluster is to have at first.
const BROKERS_WAIT: Duration = Duration::from_secs(20);
/// How long a start waits for a leader of the metadata.
const METADATA_WAIT: Duration = Duration::from_secs(60);
/// The pause before it is tried again.
const ENSURE_PAUSE: Duration = Duration::from_millis(100);
/// How long a load waits for what earlier leaders left to be committed, before it begins anew.
const COMMIT_WAIT: Duration = Duration::from_secs(1);

/// The pause before a partition that could not be followed is looked for again.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

/// A key and its value; no value forgets the key.
#[derive(Debug, Clone)]
pub(crate) struct KeyValue {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// Why a partition was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReplayed {
    /// It is not open, not led here or not all here; that may change.
    #[error("{0}")]
    NotYet(ErrorCode),
    /// It cannot be read on this node.
    #[error("{0}")]
    Broken(BrokerError),
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
            // Where there is another replica: what a coordinator has promised outlives one node.
            ("min.insync.replicas".to_owned(), "2".to_owned()),
        ]);
        let topic = ensure(core, || NewTopic {
            name: name.to_owned(),
            partitions,
            replicas: Replicas::Default,
            origin: TopicOrigin::Internal,
            configs: configs.clone(),
        });
        let topic = topic.await.map_err(|error| BrokerError::Internal {
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

    /// How many partitions it has.
    pub(crate) fn partition_count(&self) -> i32 {
        self.partitions
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

    pub(crate) fn partition_id(&self, index: PartitionIndex) -> PartitionId {
        PartitionId {
            topic: self.id,
            index,
        }
    }

    fn partition(&self, index: PartitionIndex) -> Result<Partition, ErrorCode> {
        self.core.partition(self.partition_id(index))
    }

    /// The partitions that this node leads, with their leader epochs.
    pub(crate) fn led(&self) -> Vec<(PartitionIndex, LeaderEpoch)> {
        let image = self.core.image();
        let me = self.core.me();
        let indexes = (0..self.partitions).map(PartitionIndex);
        let led = indexes.filter_map(|index| {
            let record = image.partition(self.partition_id(index))?;
            let epoch = record.epoch();
            leads_since(record, me, epoch).then_some((index, epoch))
        });
        led.collect()
    }

    /// Takes a place in the partition's order; the ticket completes when the records are durable.
    /// All records are in one batch: all or none survives.
    pub(crate) async fn append(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> Result<AppendTicket, ErrorCode> {
        let partition = self.core.writable_partition(self.partition_id(index))?;
        let append = self.append_of(&records, Ack::Durable);
        partition
            .append(append)
            .await
            .map_err(|error| code_of(&error))
    }

    /// As [`InternalTopic::append`], whichever node leads the partition.
    pub(crate) async fn append_anywhere(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> Result<AccessTicket, ErrorCode> {
        let access = self.writer(index)?;
        let append = self.append_of(&records, Ack::Durable);
        access.append(append).await.map_err(|error| code_of(&error))
    }

    /// Where appends to a partition go.
    pub(crate) fn writer(&self, index: PartitionIndex) -> Result<PartitionAccess, ErrorCode> {
        self.core.writer(self.partition_id(index))
    }

    /// One batch of `records`.
    pub(crate) fn append_of(&self, records: &[KeyValue], ack: Ack) -> Append {
        let now = TimestampMs(self.core.env.wall_ms());
        let encode = |record: &KeyValue| {
            let encoded = EncodedRecord::new(Some(&record.key), record.value.as_deref(), []);
            (encoded, now)
        };
        let records = records.iter().map(encode).collect();
        Append::Records { records, ack }
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
            self.core
                .mark_failed(self.partition_id(index), error.to_string());
        }
    }

    /// Gives every record of a partition that this node leads to `each`, in order: all that was there
    /// when it began to lead, so it waits until that is committed. One that cannot be read to its end
    /// is marked as failed.
    pub(crate) async fn replay_led(
        &self,
        index: PartitionIndex,
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
    ) -> Result<(), NotReplayed> {
        let partition = self.partition(index).map_err(NotReplayed::NotYet)?;
        let end = partition.ends().log_end;
        if !self.is_committed(&partition, end).await {
            return Err(NotReplayed::NotYet(ErrorCode::NotEnoughReplicas));
        }
        let Err(error) = self.replay_to(index, (&partition, end), each).await else {
            return Ok(());
        };
        if self.core.leads(partition.id()) && !error.is_transient() {
            self.core.mark_failed(partition.id(), error.to_string());
            return Err(NotReplayed::Broken(error));
        }
        Err(NotReplayed::NotYet(ErrorCode::NotLeaderOrFollower))
    }

    /// Waits a while for everything below `end` to be committed.
    async fn is_committed(&self, partition: &Partition, end: Offset) -> bool {
        let moved = Arc::new(Notify::new());
        let _subscription = partition.subscribe(&moved);
        let committed = async {
            while partition.ends().committed_end < end {
                moved.notified().await;
            }
        };
        self.core.env.timeout(COMMIT_WAIT, committed).await.is_ok()
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
        let end = partition.ends().committed_end;
        self.replay_to(index, (&partition, end), each).await
    }

    async fn replay_to(
        &self,
        index: PartitionIndex,
        (partition, end): (&Partition, Offset),
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
    ) -> Result<(), BrokerError> {
        let mut from = partition.ends().log_start;
        while from < end {
            let read = Read {
                from,
                bytes_max: REPLAY_READ_BYTES,
                at_least_one_batch: true,
                end,
            };
            let chunk = match self.core.read_replica(partition, read).await {
                Ok(chunk) => chunk,
                // Retention or a deletion has been faster.
                Err(ReadError::OutOfRange { .. }) if from < partition.ends().log_start => {
                    from = partition.ends().log_start;
                    continue;
                }
                Err(ReadError::NotHeld { .. }) => {
                    return Err(BrokerError::NotHeld {
                        topic: self.name.to_owned(),
                        partition: index,
                    });
                }
                Err(error) => return Err(self.broken(index, &error)),
            };
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

    /// Gives every committed record of a partition to `each`, in order, whoever leads it, and goes on
    /// as they come until the node ends. `reached` is told where it is.
    pub(crate) async fn follow(
        &self,
        index: PartitionIndex,
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
        reached: &(dyn Fn(Offset) + Sync),
    ) {
        let mut from = Offset::ZERO;
        while !self.core.stop.is_cancelled() {
            if let Ok(reader) = self.core.reader_when_open(self.partition_id(index)).await
                && let Err(error) = self
                    .follow_by(&reader, (index, &mut from), each, reached)
                    .await
            {
                tracing::warn!(%error, "an internal topic is not followed; tried again");
            }
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => {}
                () = self.core.env.sleep(FOLLOW_PAUSE) => {}
            }
        }
    }

    /// Until the partition is to be read elsewhere.
    async fn follow_by(
        &self,
        reader: &Reader,
        (index, from): (PartitionIndex, &mut Offset),
        each: &mut (dyn FnMut(ReplayRecord<'_>) + Send),
        reached: &(dyn Fn(Offset) + Sync),
    ) -> Result<(), BrokerError> {
        let notify = Arc::new(Notify::new());
        let _subscription = reader.subscribe(&notify);
        loop {
            let end = reader.ends().committed_end;
            if *from >= end {
                reached(end);
                let is_more = tokio::select! {
                    biased;
                    () = self.core.stop.cancelled() => false,
                    is_more = reader.more(&notify) => is_more,
                };
                match is_more {
                    true => continue,
                    false => return Ok(()),
                }
            }
            let read = Read {
                from: *from,
                bytes_max: REPLAY_READ_BYTES,
                at_least_one_batch: true,
                end,
            };
            let chunk = match reader.read(read).await {
                Ok(chunk) => chunk,
                Err(ReadError::OutOfRange { log_start, .. }) if log_start > *from => {
                    *from = log_start;
                    continue;
                }
                Err(error) => return Err(self.broken(index, &error)),
            };
            for run in chunk.batches {
                for batch in Batches::new(run) {
                    let (_, bytes) = batch.map_err(|error| self.broken(index, &error))?;
                    self.replay_batch(index, &bytes, *from, each)?;
                }
            }
            if chunk.next <= *from {
                return Ok(());
            }
            *from = chunk.next;
            reached(*from);
        }
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

/// A topic of the broker's own, made if it is not there. In a cluster that is just being made other
/// nodes may still be on their way, and so may be a leader of the metadata.
async fn ensure(core: &Arc<Core>, new: impl Fn() -> NewTopic) -> Result<Arc<Topic>, TopicError> {
    let began = core.env.now();
    let name = new().name;
    let expected = core.config.cluster.seeds.len().min(REPLICAS_USUAL);
    loop {
        let waited = core.env.now().saturating_sub(began);
        let image = core.image();
        let is_there = image.topic(&name).is_some();
        let is_complete = live_count(&image) >= expected;
        if is_there || is_complete || waited >= BROKERS_WAIT {
            match core.ensure_topic(new()).await {
                Err(error) if error.code == ErrorCode::NotController && waited < METADATA_WAIT => {
                    tracing::info!(topic = %name, reason = %error, "internal topic not made yet");
                }
                made => return made,
            }
        }
        core.env.sleep(ENSURE_PAUSE).await;
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
