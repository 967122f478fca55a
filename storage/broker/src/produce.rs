//! Produce: what a batch must be to enter a partition's log.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use mainstem_config::TopicConfig;
use mainstem_log::{Ack, Append, AppendTicket};
use mainstem_record::{
    BatchError, BatchHeader, Codec, Offset, PartitionId, PartitionIndex, TimestampMs, validate,
    validate_records,
};

use crate::{Broker, Caller, TopicRef, error_code::ErrorCode, internal::code_of};

/// Replicas that are in sync: this node, until there are others.
const IN_SYNC_REPLICAS: i32 = 1;

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
#[derive(Debug)]
pub struct ProduceTicket(AppendTicket);

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
            BatchError::Record(_) | BatchError::Count { .. } | BatchError::Magic(_) => {
                ErrorCode::InvalidRecord
            }
            _ => ErrorCode::CorruptMessage,
        };
        Self::with_message(code, error.to_string())
    }
}

// === impl ProduceTicket ===

impl Future for ProduceTicket {
    type Output = Result<Produced, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| {
            let appended = result
                .map_err(|error| ProduceError::with_message(code_of(&error), error.to_string()))?;
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
        let partition = self.core.writable_partition(PartitionId {
            topic: topic.id,
            index,
        })?;
        let config = self.core.topic_config(&topic);
        self.check_batch(&batch, &config)?;
        if acks == Acks::All && config.min_insync_replicas > IN_SYNC_REPLICAS {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let ack = match acks {
            Acks::None => Ack::None,
            Acks::Leader => Ack::Written,
            Acks::All => Ack::Durable,
        };
        match partition.append(Append::Batch { batch, ack }).await {
            Ok(ticket) => Ok(ProduceTicket(ticket)),
            Err(error) => Err(ProduceError::with_message(
                code_of(&error),
                error.to_string(),
            )),
        }
    }

    /// What Kafka checks of a batch, in its order: size, shape and checksum, marks that are not the
    /// producer's to set, timestamps, keys.
    fn check_batch(&self, batch: &[u8], config: &TopicConfig) -> Result<(), ProduceError> {
        if batch.len() as i64 > i64::from(config.max_message_bytes) {
            let message = format!(
                "a batch of {} bytes; max.message.bytes is {}",
                batch.len(),
                config.max_message_bytes
            );
            return Err(ProduceError::with_message(
                ErrorCode::MessageTooLarge,
                message,
            ));
        }
        let header = validate(batch)?;
        check_marks(&header)?;
        self.check_timestamps(&header, config)?;
        let codec = header.attributes.codec()?;
        // Compressed batches are opened only where their keys matter: they are stored as sent.
        if codec != Codec::None && !config.cleanup.compact {
            return Ok(());
        }
        let limit = self.core.config.storage.decompressed_batch_bytes_max;
        let summary = validate_records(batch, limit)?;
        if config.cleanup.compact && summary.any_null_key {
            let message = "a compacted topic takes no record without a key".to_owned();
            return Err(ProduceError {
                code: ErrorCode::InvalidRecord,
                message: Some("one or more records have been rejected".to_owned()),
                record_errors: vec![(0, message)],
            });
        }
        Ok(())
    }

    fn check_timestamps(
        &self,
        header: &BatchHeader,
        config: &TopicConfig,
    ) -> Result<(), ProduceError> {
        if config.message_timestamp_type == mainstem_record::TimestampType::LogAppendTime {
            return Ok(());
        }
        let ahead = header
            .max_timestamp
            .0
            .saturating_sub(self.core.env.wall_ms());
        let behind = self
            .core
            .env
            .wall_ms()
            .saturating_sub(header.max_timestamp.0);
        if ahead > config.timestamp_after_max_ms || behind > config.timestamp_before_max_ms {
            let message = format!(
                "timestamp {} is outside message.timestamp.before.max.ms and \
                 message.timestamp.after.max.ms of this topic",
                header.max_timestamp.0
            );
            return Err(ProduceError::with_message(
                ErrorCode::InvalidTimestamp,
                message,
            ));
        }
        Ok(())
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
