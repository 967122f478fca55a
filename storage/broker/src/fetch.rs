//! Fetch: reading a partition as a consumer may see it.

use std::{sync::Arc, time::Duration};

use mainstem_log::{Chunk, Partition, Read, ReadError, Subscription};
use mainstem_metadata::{PartitionRecord, SegmentRecord};
use mainstem_record::{LeaderEpoch, Offset, PartitionId, PartitionIndex};
use tokio::sync::Notify;

use crate::{
    Broker, Caller, TopicRef,
    access::is_lack,
    core::{Core, leads_since},
    error_code::ErrorCode,
};

/// How long records of other brokers may take: less than clients wait for an answer (10 s and more).
const ELSEWHERE_LIMIT: Duration = Duration::from_secs(3);

/// What a reader may see of transactions (`isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything below the high watermark.
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

/// Why a read was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct FetchError {
    /// Kafka's code; [`ErrorCode::None`] with `diverging` set.
    pub code: ErrorCode,
    /// The largest epoch not above the one that the reader last saw, and where it ends: the reader
    /// has to go back to it (KIP-320).
    pub diverging: Option<(LeaderEpoch, Offset)>,
}

/// A partition that a caller may read.
#[derive(Clone)]
pub struct FetchPartition {
    core: Arc<Core>,
    partition: Partition,
    record: Arc<PartitionRecord>,
    isolation: Isolation,
}

// === impl FetchError ===

impl From<ErrorCode> for FetchError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            diverging: None,
        }
    }
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> Self {
        Self::from(read_code(&error))
    }
}

/// What an error of a read is on the wire.
pub(crate) fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Removed => ErrorCode::UnknownTopicOrPartition,
        // Other brokers have it, and do not answer now. All clients, of all versions, take this for a
        // reason to look for the leader and to ask again from the same position. What would say it
        // better, OFFSET_NOT_AVAILABLE or KAFKA_STORAGE_ERROR, some hand to the application.
        ReadError::NotHeld { .. } => ErrorCode::NotLeaderOrFollower,
        // Not CORRUPT_MESSAGE, which is fatal to the Java consumer.
        _ => ErrorCode::KafkaStorageError,
    }
}

// === impl Core ===

impl Core {
    /// A led partition with its chain, after the caller's idea of the leader epoch was checked:
    /// -1 is unchecked; an older one passes only if this very incarnation has led since.
    pub(crate) fn led_partition(
        &self,
        topic: &TopicRef<'_>,
        index: PartitionIndex,
        current_leader_epoch: LeaderEpoch,
    ) -> Result<(Partition, Arc<PartitionRecord>), ErrorCode> {
        let image = self.image();
        let topic = self.find_topic(&image, topic)?;
        let id = PartitionId {
            topic: topic.id,
            index,
        };
        let record = image
            .partition(id)
            .cloned()
            .ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let partition = self.partition(id)?;
        let present = record.epoch();
        if current_leader_epoch == LeaderEpoch::NONE || current_leader_epoch == present {
            return Ok((partition, record));
        }
        if current_leader_epoch > present {
            return Err(ErrorCode::UnknownLeaderEpoch);
        }
        if leads_since(&record, self.me(), current_leader_epoch) {
            Ok((partition, record))
        } else {
            Err(ErrorCode::FencedLeaderEpoch)
        }
    }
}

// === impl Broker ===

impl Broker {
    /// A partition for reading.
    pub fn fetch_partition(
        &self,
        _caller: &Caller,
        topic: &TopicRef<'_>,
        index: PartitionIndex,
        current_leader_epoch: LeaderEpoch,
        isolation: Isolation,
    ) -> Result<FetchPartition, ErrorCode> {
        let (partition, record) = self
            .core
            .led_partition(topic, index, current_leader_epoch)?;
        Ok(FetchPartition {
            core: self.core.clone(),
            partition,
            record,
            isolation,
        })
    }
}

// === impl FetchPartition ===

impl FetchPartition {
    /// The partition.
    pub fn id(&self) -> PartitionId {
        self.partition.id()
    }

    /// The end of what is replicated and may be read.
    pub fn high_watermark(&self) -> Offset {
        self.partition.ends().committed_end
    }

    /// The end of what a `read_committed` reader may see. Without transactions it is the high
    /// watermark.
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    /// The first offset that is still there.
    pub fn log_start(&self) -> Offset {
        self.partition.ends().log_start
    }

    /// The epoch of the active segment.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.record.epoch()
    }

    /// Wakes `notify` whenever there may be more to read. Subscribe first, then look.
    pub fn subscribe(&self, notify: &Arc<Notify>) -> Subscription {
        self.partition.subscribe(notify)
    }

    fn readable_end(&self) -> Offset {
        match self.isolation {
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }

    /// An estimate of the bytes from `from` on, for `fetch.min.bytes`; 0 only if there are none.
    pub fn available_bytes(&self, from: Offset) -> u64 {
        let here = self.partition.estimate_bytes(from, self.readable_end());
        // Of a segment that is not here the log knows no size.
        let segments = &self.record.segments;
        let found = segments.binary_search_by(|segment| segment.base.cmp(&from));
        let at = found.unwrap_or_else(|next| next.saturating_sub(1));
        let sealed = segments.get(at).filter(|_| here > 0);
        here.max(sealed.map_or(0, |segment| bytes_left(segment, from)))
    }

    /// Whole batches from the one that holds `from`. An empty chunk at the end of what may be read.
    /// `None` if they are not all here: [`FetchPartition::read_elsewhere`] may have them, later than
    /// other partitions of the same request should wait.
    pub async fn read(
        &self,
        from: Offset,
        last_fetched_epoch: LeaderEpoch,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Option<Chunk>, FetchError> {
        if last_fetched_epoch != LeaderEpoch::NONE {
            self.check_divergence(from, last_fetched_epoch)?;
        }
        let end = self.readable_end();
        if from == end && self.partition.has_failed() {
            // More will never come from here: who waits for it is told.
            return Err(ErrorCode::KafkaStorageError.into());
        }
        let read = Read {
            from,
            bytes_max,
            at_least_one_batch: at_least_one,
            end,
        };
        match self.partition.read(read).await {
            Ok(chunk) if chunk.next < end && chunk.is_without_records() => Ok(None),
            Err(lack) if is_lack(&lack) => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// As [`FetchPartition::read`], also from brokers that have what this one lacks: at least one
    /// batch, and else at most about `bytes_max` bytes. Takes some seconds at most.
    ///
    /// # Errors
    /// [`ErrorCode::NotLeaderOrFollower`] if none of those answers.
    pub async fn read_elsewhere(
        &self,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Chunk, FetchError> {
        let read = Read {
            from,
            bytes_max,
            at_least_one_batch: true,
            end: self.readable_end(),
        };
        let read = self.core.read_replica(&self.partition, read);
        match self.core.env.timeout(ELSEWHERE_LIMIT, read).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(FetchError::from(ErrorCode::NotLeaderOrFollower)),
        }
    }

    fn check_divergence(&self, from: Offset, last: LeaderEpoch) -> Result<(), FetchError> {
        let log_end = self.partition.ends().log_end;
        let Some((epoch, end)) = self.record.end_of_epoch(last, log_end) else {
            return Ok(());
        };
        if epoch < last || end < from {
            return Err(FetchError {
                code: ErrorCode::None,
                diverging: Some((epoch, end)),
            });
        }
        Ok(())
    }
}

/// About how many bytes of a sealed segment lie from `from` on; 0 of an open one.
fn bytes_left(segment: &SegmentRecord, from: Offset) -> u64 {
    let Some(end) = segment.end.filter(|end| *end > from) else {
        return 0;
    };
    let left = u128::from(end.0.abs_diff(from.max(segment.base).0));
    let all = u128::from(end.0.abs_diff(segment.base.0).max(1));
    u64::try_from(u128::from(segment.bytes) * left / all).unwrap_or(u64::MAX)
}
