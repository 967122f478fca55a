//! Errors.

use std::{io, path::PathBuf};

use mainstem_record::{Offset, PartitionId, ProducerId, SegmentId, Sequence};

/// Why an append failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no room for it now.
    #[error("the shard's inbox is full")]
    WouldBlock,
    /// The log is closed, or closed while it waited: it may or may not have been written.
    #[error("the log is closed")]
    Closed,
    /// The partition was removed.
    #[error("the partition was removed")]
    Removed,
    /// The partition cannot be written any more; it can still be read.
    #[error("the partition has failed")]
    PartitionFailed,
    /// A sync failed: nothing more is acknowledged. Whether it was stored is unknown.
    #[error("the shard has failed")]
    ShardFailed,
    /// The disk is full, or nearly so. Nothing was written.
    #[error("no space left for appends")]
    NoSpace,
    /// The write failed. Nothing of it is visible.
    #[error("the write failed: {0}")]
    Io(io::ErrorKind),
    /// The active segment holds all that it can; it must be rolled first.
    #[error("the active segment is full")]
    SegmentFull,
    /// An idempotent producer left out, or repeated, a sequence.
    #[error("producer {producer}: sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        /// The producer.
        producer: ProducerId,
        /// What must come next.
        expected: Sequence,
        /// What came.
        got: Sequence,
    },
    /// A producer or QoS 2 session with a newer epoch has written.
    #[error("an older epoch than the newest one seen")]
    InvalidProducerEpoch,
    /// It is longer than a batch may be.
    #[error("the batch is too large")]
    BatchTooLarge,
    /// It is no whole batch of version 2, or has no record.
    #[error("not a whole batch")]
    InvalidBatch,
}

/// Why a partition could not do what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// The partition was removed.
    #[error("the partition was removed")]
    Removed,
    /// The partition cannot be written any more.
    #[error("the partition has failed")]
    Failed,
    /// A sync failed: nothing more is acknowledged.
    #[error("the shard has failed")]
    ShardFailed,
    /// There is no active segment.
    #[error("the partition has no active segment")]
    NoActiveSegment,
    /// A seal was not begun.
    #[error("no seal was begun")]
    NotFrozen,
    /// The next segment does not begin where the last one ends, or is sealed already.
    #[error("the next segment does not follow the last one, which ends at {end}")]
    NotNext {
        /// Where it must begin.
        end: Offset,
    },
    /// The segment is active, unknown, or reaches above the new log start.
    #[error("segment {0} cannot be dropped")]
    CannotDrop(SegmentId),
    /// They are not sealed neighbours of the chain, or the new segment does not cover exactly their
    /// offsets.
    #[error("segment {0} cannot replace others")]
    CannotReplace(SegmentId),
    /// The offset is above the committed end.
    #[error("offset {offset} is above the committed end {committed_end}")]
    AboveCommitted {
        /// What was asked for.
        offset: Offset,
        /// The highest that is possible.
        committed_end: Offset,
    },
    /// The file system failed; the state is as before, and it may be tried again.
    #[error("input or output failed: {0}")]
    Io(io::ErrorKind),
}

/// Why a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the log start or above the log end.
    #[error("offset out of range: {log_start} to {log_end}")]
    OutOfRange {
        /// The first offset that may be read.
        log_start: Offset,
        /// After the last record written.
        log_end: Offset,
    },
    /// The records from `base` to `end` (exclusive) are missing or damaged on this node.
    #[error("segment {segment} is damaged from {base} to {end}")]
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// The first damaged offset.
        base: Offset,
        /// The offset after the last damaged one.
        end: Offset,
    },
    /// The partition was removed.
    #[error("the partition was removed")]
    Removed,
    /// The file system failed.
    #[error("the read failed: {0}")]
    Io(io::ErrorKind),
}

/// Why the format of a log cannot be told, or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatDamage {
    /// Its checksum or its first bytes are wrong.
    #[error("damaged: it does not tell the format of the log any more; restore the directory")]
    Bytes,
    /// A newer version of Mainstem has written it.
    #[error("format version {found}, but this version of Mainstem knows only version {known}")]
    Version {
        /// What it says.
        found: u32,
        /// What can be read.
        known: u32,
    },
}

/// What is wrong with the journal of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalDamage {
    /// What tells its records apart cannot be read.
    #[error("the journal is damaged at byte {position}")]
    Slot {
        /// Where, in bytes.
        position: u64,
    },
    /// The file was cut or extended.
    #[error("the journal has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A newer version of Mainstem has written it.
    #[error("journal version {found} is newer than this version of Mainstem")]
    Version {
        /// What it says.
        found: u32,
    },
    /// A record that was on stable storage cannot be read, and it cannot be told whose it was.
    #[error("the journal is damaged: record {sequence} cannot be read{}", at(*position))]
    Record {
        /// The number of the record.
        sequence: u64,
        /// Where it begins, in bytes, if that is known.
        position: Option<u64>,
    },
}

fn at(position: Option<u64>) -> String {
    position.map_or_else(String::new, |position| format!(" at byte {position}"))
}

/// Why the log as a whole could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The directory, or a part of it, is gone. Nothing was made in its place.
    #[error(
        "the log directory {dir} has lost the data that this node stored in it: {missing} is missing; mount or restore it, or remove the whole data directory to begin without its records"
    )]
    Lost {
        /// The directory of the log.
        dir: PathBuf,
        /// What is not there.
        missing: PathBuf,
    },
    /// What was to be looked at is no log.
    #[error("no log in {dir}: {missing} is missing")]
    NoLog {
        /// The directory.
        dir: PathBuf,
        /// The file that every log has.
        missing: PathBuf,
    },
    /// The file that tells the format of the log cannot be used. Nothing was changed.
    #[error("{path}: {damage}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: FormatDamage,
    },
    /// What was acknowledged may be in this journal only. Nothing was changed.
    #[error("{path}: {damage}; restore it, or move it away to begin without what only it holds")]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: JournalDamage,
    },
    /// A metric of this name is there already.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The options are unusable.
    #[error("{0}")]
    Options(&'static str),
    /// The chain of segments has holes, or an active one that is not the last.
    #[error("partition {0}: the chain of segments is not one")]
    Chain(PartitionId),
    /// The partition is open already.
    #[error("partition {0} is open already")]
    AlreadyOpen(PartitionId),
    /// The partition is not open.
    #[error("partition {0} is not open")]
    NotOpen(PartitionId),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// Shards or partitions have failed: the log could not be closed cleanly.
    #[error("not everything could be synced")]
    NotClean,
}

// === impl AppendError ===

impl AppendError {
    /// Whether the same append may succeed later, here or at another node, without a change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::WouldBlock
            | Self::Closed
            | Self::Removed
            | Self::PartitionFailed
            | Self::ShardFailed
            | Self::NoSpace
            | Self::Io(_)
            | Self::SegmentFull => true,
            Self::OutOfOrderSequence { .. }
            | Self::InvalidProducerEpoch
            | Self::BatchTooLarge
            | Self::InvalidBatch => false,
        }
    }
}

// === impl LogError ===

impl LogError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl From<PartitionError> for AppendError {
    fn from(error: PartitionError) -> Self {
        match error {
            PartitionError::Closed => Self::Closed,
            PartitionError::Removed => Self::Removed,
            PartitionError::ShardFailed => Self::ShardFailed,
            PartitionError::Io(kind) => Self::Io(kind),
            PartitionError::Failed
            | PartitionError::NoActiveSegment
            | PartitionError::NotFrozen
            | PartitionError::NotNext { .. }
            | PartitionError::CannotDrop(_)
            | PartitionError::CannotReplace(_)
            | PartitionError::AboveCommitted { .. } => Self::PartitionFailed,
        }
    }
}
