//! Offsets: what is at a time, at an epoch, at the ends; deleting records; producer ids.

use mainstem_metadata::{Applied, Command};
use mainstem_record::{
    LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TimestampMs,
};

use crate::{
    Broker, Caller, Isolation, TopicRef, core::Core, error_code::ErrorCode, fetch::read_code,
};

/// How many producer ids are taken from metadata at once (Kafka's block size).
const PRODUCER_ID_BLOCK: i32 = 1000;

/// What `ListOffsets` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The end of what may be read.
    Latest,
    /// The first offset that is still there.
    Earliest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first offset on local disks (KIP-405).
    EarliestLocal,
    /// The last offset in object storage (KIP-1005).
    LatestTiered,
    /// The first record whose timestamp is at least this.
    Timestamp(TimestampMs),
}

/// An offset with what is known of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset, or -1.
    pub offset: Offset,
    /// The record's timestamp, or -1.
    pub timestamp: TimestampMs,
    /// The epoch of its segment, or -1.
    pub epoch: LeaderEpoch,
}

/// Producer ids that this node may give out.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
}

// === impl Core ===

impl Core {
    /// A producer id that nobody in the cluster ever had.
    async fn new_producer_id(&self) -> Result<ProducerId, ErrorCode> {
        let mut ids = self.producer_ids.lock().await;
        if ids.next >= ids.end {
            let command = Command::AllocateProducerIds {
                count: PRODUCER_ID_BLOCK,
            };
            match self.metadata.propose(command).await {
                Ok(Applied::ProducerIds { first, count }) => {
                    *ids = ProducerIds {
                        next: first,
                        end: first + i64::from(count),
                    };
                }
                Ok(other) => panic!("metadata answered an allocation with {other:?}"),
                Err(error) => {
                    tracing::warn!(%error, "no producer ids");
                    return Err(ErrorCode::CoordinatorLoadInProgress);
                }
            }
        }
        let id = ids.next;
        ids.next += 1;
        Ok(ProducerId(id))
    }
}

// === impl Broker ===

impl Broker {
    /// `ListOffsets` for one partition.
    pub async fn list_offset(
        &self,
        _caller: &Caller,
        (topic, index): (&TopicRef<'_>, PartitionIndex),
        current_leader_epoch: LeaderEpoch,
        _isolation: Isolation,
        query: OffsetQuery,
    ) -> Result<FoundOffset, ErrorCode> {
        let (partition, record) = self
            .core
            .led_partition(topic, index, current_leader_epoch)?;
        let ends = partition.ends();
        let epoch_of = |offset: Offset| {
            let segment = record
                .segments
                .iter()
                .rev()
                .find(|segment| segment.base <= offset);
            segment.map_or(LeaderEpoch::NONE, |segment| segment.epoch)
        };
        let plain = |offset: Offset| FoundOffset {
            offset,
            timestamp: TimestampMs::NONE,
            epoch: epoch_of(offset),
        };
        let record_at = |found: Option<(Offset, TimestampMs)>| match found {
            Some((offset, timestamp)) => FoundOffset {
                offset,
                timestamp,
                epoch: epoch_of(offset),
            },
            None => FoundOffset {
                offset: Offset(-1),
                timestamp: TimestampMs::NONE,
                epoch: LeaderEpoch::NONE,
            },
        };
        match query {
            // Without transactions the last stable offset is the high watermark.
            OffsetQuery::Latest => Ok(plain(ends.committed_end)),
            OffsetQuery::Earliest | OffsetQuery::EarliestLocal => Ok(plain(ends.log_start)),
            OffsetQuery::LatestTiered => Ok(record_at(None)),
            OffsetQuery::MaxTimestamp => {
                let found = self.core.max_timestamp(&partition).await;
                found.map(record_at).map_err(|error| read_code(&error))
            }
            OffsetQuery::Timestamp(at_least) => {
                let found = self.core.find_timestamp(&partition, at_least).await;
                found.map(record_at).map_err(|error| read_code(&error))
            }
        }
    }

    /// `OffsetForLeaderEpoch`: the largest epoch not above the one asked for, and its end; (-1, -1)
    /// if the chain knows none.
    pub fn epoch_end(
        &self,
        _caller: &Caller,
        (topic, index): (&TopicRef<'_>, PartitionIndex),
        current_leader_epoch: LeaderEpoch,
        asked: LeaderEpoch,
    ) -> Result<(LeaderEpoch, Offset), ErrorCode> {
        let (partition, record) = self
            .core
            .led_partition(topic, index, current_leader_epoch)?;
        // An epoch that is not there yet has no end (KIP-320).
        if asked > record.epoch() {
            return Ok((LeaderEpoch::NONE, Offset(-1)));
        }
        let found = record.end_of_epoch(asked, partition.ends().log_end);
        Ok(found.unwrap_or((LeaderEpoch::NONE, Offset(-1))))
    }

    /// `DeleteRecords`: everything below `before` (-1: the high watermark) is gone at once for
    /// readers. Returns the new first offset.
    pub async fn delete_records(
        &self,
        _caller: &Caller,
        (topic, index): (&TopicRef<'_>, PartitionIndex),
        before: Offset,
    ) -> Result<Offset, ErrorCode> {
        let image = self.core.image();
        let found = self.core.find_topic(&image, topic)?;
        if found.internal {
            return Err(ErrorCode::InvalidTopicException);
        }
        let config = self.core.topic_config(&found);
        if !config.cleanup.delete {
            return Err(ErrorCode::PolicyViolation);
        }
        let (partition, _) = self.core.led_partition(topic, index, LeaderEpoch::NONE)?;
        let ends = partition.ends();
        let log_start = if before == Offset(-1) {
            ends.committed_end
        } else {
            before
        };
        if log_start < Offset::ZERO || log_start > ends.committed_end {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if log_start <= ends.log_start {
            return Ok(ends.log_start);
        }
        if log_start > ends.synced_end {
            // After a power cut the log must not end below its start: offsets that are given out
            // again there would count as deleted.
            partition.flush().await.map_err(|error| {
                tracing::warn!(%error, "log start not moved");
                ErrorCode::KafkaStorageError
            })?;
        }
        let command = Command::SetLogStart {
            partition: partition.id(),
            log_start,
        };
        self.core.metadata.propose(command).await.map_err(|error| {
            tracing::warn!(%error, "log start not moved");
            ErrorCode::UnknownServerError
        })?;
        partition.set_log_start(log_start).await.map_err(|error| {
            tracing::error!(%error, partition = ?partition.id(), "log start not moved");
            ErrorCode::KafkaStorageError
        })?;
        Ok(partition.ends().log_start)
    }

    /// `InitProducerId` for an idempotent producer: a fresh id, or the next epoch of the one that it
    /// has (KIP-360).
    pub async fn init_producer_id(
        &self,
        _caller: &Caller,
        transactional_id: Option<&str>,
        current: Option<(ProducerId, ProducerEpoch)>,
    ) -> Result<(ProducerId, ProducerEpoch), ErrorCode> {
        if transactional_id.is_some() {
            // Transactions are not there yet; fatal, so that the application is told at once.
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        match current {
            Some((id, epoch)) if id.0 >= 0 && (0..i16::MAX).contains(&epoch.0) => {
                Ok((id, ProducerEpoch(epoch.0 + 1)))
            }
            _ => Ok((self.core.new_producer_id().await?, ProducerEpoch(0))),
        }
    }
}
