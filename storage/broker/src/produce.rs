//! Produce: what a batch must be to enter a partition's log.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use mainstem_config::TopicConfig;
use mainstem_log::{Ack, Append, AppendTicket};
use mainstem_record::{
    BatchError, BatchHeader, Offset, PartitionId, PartitionIndex, RecordsSummary, TimestampMs,
    TimestampType, stamp_max_timestamp, validate, validate_records,
};

use crate::{Broker, Caller, TopicRef, core::Core, error_code::ErrorCode, internal::code_of};

/// Up to how many unpacked bytes a compressed batch is checked on the connection's own task.
const INLINE_DECOMPRESSED_BYTES: usize = 1 << 20;

/// When a produce counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nobody waits (acks=0).
    None,
    /// Written by the leader (acks=1).
    Leader,
    /// As durable as the topic says (acks=all).
    All,
}

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct ProduceError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// For people.
    pub message: Option<String>,
    /// Index in the batch and reason, where single records are at fault (KIP-467).
    pub record_errors: Vec<(i32, String)>,
}

/// Where a batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The broker's time if the topic asks for it, else none.
    pub log_append_time: TimestampMs,
    /// The first offset that the partition still has.
    pub log_start: Offset,
}

/// Completes when the batch is as safe as asked. The place in the order is taken already.
pub struct ProduceTicket {
    ticket: AppendTicket,
    core: Arc<Core>,
    partition: PartitionId,
    /// Whether other replicas must have it first.
    replicated: bool,
}

// === impl ProduceError ===

impl ProduceError {
    fn with_message(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            record_errors: Vec::new(),
        }
    }
}

impl From<ErrorCode> for ProduceError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            message: None,
            record_errors: Vec::new(),
        }
    }
}

impl From<BatchError> for ProduceError {
    fn from(error: BatchError) -> Self {
        let code = match error {
            BatchError::Codec(_) => ErrorCode::UnsupportedCompressionType,
            // Not CORRUPT_MESSAGE, which clients send again as it is.
            BatchError::Record(_)
            | BatchError::Count { .. }
            | BatchError::Magic(_)
            | BatchError::Decompress(_)
            | BatchError::TooLarge { .. } => ErrorCode::InvalidRecord,
            _ => ErrorCode::CorruptMessage,
        };
        Self::with_message(code, error.to_string())
    }
}

// === impl ProduceTicket ===

impl ProduceTicket {
    /// Whether the batch waits for other replicas: then the client's own time limit holds.
    pub fn is_replicated(&self) -> bool {
        self.replicated
    }

    /// What it is called that the batch is not as safe as asked in time. It may be one day: whoever
    /// sends it again must be an idempotent producer, or live with duplicates.
    pub fn timed_out(&self) -> ErrorCode {
        let (in_sync, needed) = self.core.in_sync(self.partition);
        match self.replicated && in_sync < needed {
            true => ErrorCode::NotEnoughReplicasAfterAppend,
            false => ErrorCode::RequestTimedOut,
        }
    }
}

impl std::fmt::Debug for ProduceTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProduceTicket")
            .field("ticket", &self.ticket)
            .field("partition", &self.partition)
            .field("replicated", &self.replicated)
            .finish_non_exhaustive()
    }
}

impl Future for ProduceTicket {
    type Output = Result<Produced, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.ticket).poll(context).map(|result| {
            let appended = result
                .map_err(|error| ProduceError::with_message(code_of(&error), error.to_string()))?;
            if appended.base_offset < Offset::ZERO {
                // The producer takes it as a success of which no offset is known.
                return Err(ErrorCode::DuplicateSequenceNumber.into());
            }
            Ok(Produced {
                base_offset: appended.base_offset,
                log_append_time: appended.log_append_time.unwrap_or(TimestampMs::NONE),
                log_start: appended.log_start,
            })
        })
    }
}

// === impl Broker ===

impl Broker {
    /// Appends one batch. The returned future only waits for room; when it is done, the batch has
    /// its place in the partition's order and the ticket tells the rest.
    ///
    /// `batch` must not share its memory with a much larger frame for long: the log's tail cache
    /// keeps what it appends.
    pub async fn produce(
        &self,
        _caller: &Caller,
        topic: &TopicRef<'_>,
        index: PartitionIndex,
        batch: Bytes,
        acks: Acks,
    ) -> Result<ProduceTicket, ProduceError> {
        let image = self.core.image();
        let topic = self.core.find_topic(&image, topic)?;
        if topic.internal {
            let message = format!("'{}' is internal: only the broker writes it", topic.name);
            return Err(ProduceError::with_message(
                ErrorCode::InvalidTopicException,
                message,
            ));
        }
        let id = PartitionId {
            topic: topic.id,
            index,
        };
        let partition = self.core.writable_partition(id)?;
        let config = self.core.topic_config(&topic);
        let batch = self.core.checked_batch(batch, &config).await?;
        if acks == Acks::All {
            self.core.check_in_sync(id, &config)?;
        }
        let ack = match acks {
            Acks::None => Ack::None,
            Acks::Leader => Ack::Written,
            Acks::All => Ack::Durable,
        };
        let appended = partition.append(Append::Batch { batch, ack }).await;
        let ticket = appended
            .map_err(|error| ProduceError::with_message(code_of(&error), error.to_string()))?;
        Ok(ProduceTicket {
            ticket,
            replicated: acks == Acks::All && self.core.replica_count(id) > 1,
            core: self.core.clone(),
            partition: id,
        })
    }
}

// === impl Core ===

impl Core {
    /// Refuses what could not be acknowledged now, before it is appended. A topic may ask for more
    /// replicas in sync than it has: then nothing is ever enough.
    fn check_in_sync(&self, id: PartitionId, config: &TopicConfig) -> Result<(), ErrorCode> {
        let (in_sync, needed) = self.in_sync(id);
        let configured = usize::try_from(config.min_insync_replicas).unwrap_or(0);
        match in_sync < needed.max(configured) {
            true => Err(ErrorCode::NotEnoughReplicas),
            false => Ok(()),
        }
    }

    /// What Kafka checks of a batch, in its order: size, shape and checksum, marks that are not the
    /// producer's to set, every record (also compressed ones: what consumers could not read must
    /// not enter the log), timestamps, keys. Returns the batch as it is to be stored: as it was
    /// sent, but for a wrong max timestamp, which look-ups and retention rely on.
    pub(crate) async fn checked_batch(
        &self,
        batch: Bytes,
        config: &TopicConfig,
    ) -> Result<Bytes, ProduceError> {
        if batch.len() as i64 > i64::from(config.max_message_bytes) {
            let message = format!(
                "a batch of {} bytes; max.message.bytes is {}",
                batch.len(),
                config.max_message_bytes
            );
            let code = ErrorCode::MessageTooLarge;
            return Err(ProduceError::with_message(code, message));
        }
        let header = validate(&batch)?;
        check_marks(&header)?;
        let summary = self.read_records(&batch).await?;
        if config.cleanup.compact && summary.any_null_key {
            let message = "a compacted topic takes no record without a key".to_owned();
            return Err(ProduceError {
                code: ErrorCode::InvalidRecord,
                message: Some("one or more records have been rejected".to_owned()),
                record_errors: vec![(0, message)],
            });
        }
        if config.message_timestamp_type == TimestampType::LogAppendTime {
            return Ok(batch);
        }
        self.check_timestamps(&summary, config)?;
        if summary.max_timestamp == header.max_timestamp {
            return Ok(batch);
        }
        let mut corrected = BytesMut::from(&batch[..]);
        stamp_max_timestamp(&mut corrected, summary.max_timestamp);
        Ok(corrected.freeze())
    }

    /// Walks all records. What unpacks to more than [`INLINE_DECOMPRESSED_BYTES`] does so off the
    /// async workers: a few KiB can hold a hundred MiB.
    async fn read_records(&self, batch: &Bytes) -> Result<RecordsSummary, ProduceError> {
        match validate_records(batch, INLINE_DECOMPRESSED_BYTES) {
            Err(BatchError::TooLarge { .. }) => {}
            summary => return Ok(summary?),
        }
        let limit = self.config.storage.decompressed_batch_bytes_max;
        let batch = batch.clone();
        let work = move || validate_records(&batch, limit);
        let summary = self.env.blocking("decompress", work).await;
        Ok(summary.ok_or(ErrorCode::NotLeaderOrFollower)??)
    }

    fn check_timestamps(
        &self,
        summary: &RecordsSummary,
        config: &TopicConfig,
    ) -> Result<(), ProduceError> {
        let now = self.env.wall_ms();
        let (min, max) = (summary.min_timestamp.0, summary.max_timestamp.0);
        let is_ahead = max.saturating_sub(now) > config.timestamp_after_max_ms;
        let is_behind = now.saturating_sub(min) > config.timestamp_before_max_ms;
        if !is_ahead && !is_behind {
            return Ok(());
        }
        let message = format!(
            "timestamp {} is outside message.timestamp.before.max.ms and \
             message.timestamp.after.max.ms of this topic",
            if is_ahead { max } else { min }
        );
        let code = ErrorCode::InvalidTimestamp;
        Err(ProduceError::with_message(code, message))
    }
}

/// Marks that only the broker may set.
fn check_marks(header: &BatchHeader) -> Result<(), ProduceError> {
    let attributes = header.attributes;
    let refused = if attributes.is_mqtt() {
        "batch attribute 14 is set by the broker alone"
    } else if attributes.is_control() {
        "clients do not write control batches"
    } else if attributes.is_transactional() {
        "transactions are not supported yet"
    } else if attributes.has_delete_horizon() {
        "the delete horizon is set by the broker alone"
    } else if attributes.timestamp_type() == TimestampType::LogAppendTime {
        "the timestamp type is set by the broker alone"
    } else if header.has_producer() && header.base_sequence.0 < 0 {
        "an idempotent batch needs a sequence number"
    } else {
        return Ok(());
    };
    Err(ProduceError::with_message(
        ErrorCode::InvalidRecord,
        refused,
    ))
}

#[cfg(test)]
mod tests;
