//! The attributes field of a batch: codec, kind of timestamps, transaction and other marks.
//!
//! Bits (Kafka protocol guide): 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete
//! horizon (KIP-534). Ours: 14, built by the MQTT adapter. Bit 7 is never used: there are clients
//! that refuse it.

use crate::batch::BatchError;
use crate::compression::Codec;

/// Whose clock the timestamps of a batch come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's, per record.
    #[default]
    CreateTime,
    /// The broker's, one for the whole batch: its max timestamp.
    LogAppendTime,
}

/// The attributes field of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(pub i16);

// === impl Attributes ===

impl Attributes {
    const CODEC_MASK: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;
    const MQTT: i16 = 1 << 14;

    /// The codec of the records; [`BatchError::Codec`] for ids that do not exist.
    pub const fn codec(self) -> Result<Codec, BatchError> {
        let id = (self.0 & Self::CODEC_MASK) as u8;
        match Codec::from_id(id) {
            Some(codec) => Ok(codec),
            None => Err(BatchError::Codec(id)),
        }
    }

    /// Whose clock the timestamps come from.
    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.has(Self::LOG_APPEND_TIME) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// The batch belongs to a transaction.
    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.has(Self::TRANSACTIONAL)
    }

    /// The batch holds control records (transaction markers), which no application may see.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.has(Self::CONTROL)
    }

    /// The base timestamp is the time at which the batch's tombstones may go (KIP-534).
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.has(Self::DELETE_HORIZON)
    }

    /// The batch was built by the MQTT adapter, mapping version 1: bits 4-6 of its records'
    /// attributes have a meaning.
    #[must_use]
    pub const fn is_mqtt(self) -> bool {
        self.has(Self::MQTT)
    }

    /// The same with another codec.
    #[must_use]
    pub const fn with_codec(self, codec: Codec) -> Self {
        Self((self.0 & !Self::CODEC_MASK) | codec.id() as i16)
    }

    /// The same with another kind of timestamps.
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(
            Self::LOG_APPEND_TIME,
            matches!(timestamp_type, TimestampType::LogAppendTime),
        )
    }

    /// The same, in a transaction or not.
    #[must_use]
    pub const fn with_transactional(self, on: bool) -> Self {
        self.with(Self::TRANSACTIONAL, on)
    }

    /// The same, of control records or not.
    #[must_use]
    pub const fn with_control(self, on: bool) -> Self {
        self.with(Self::CONTROL, on)
    }

    /// The same, with a delete horizon or not.
    #[must_use]
    pub const fn with_delete_horizon(self, on: bool) -> Self {
        self.with(Self::DELETE_HORIZON, on)
    }

    /// The same, marked as built by the MQTT adapter or not.
    #[must_use]
    pub const fn with_mqtt(self, on: bool) -> Self {
        self.with(Self::MQTT, on)
    }

    const fn has(self, bit: i16) -> bool {
        self.0 & bit != 0
    }

    const fn with(self, bit: i16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}
