//! What the log tells its owner unasked.

use std::{path::PathBuf, sync::Arc};

use mainstem_record::{Offset, PartitionId, SegmentId};

/// How many events may wait for the owner. What does not fit is dropped; a wish to roll is told
/// again at the next append, a failure is also told by [`crate::Log::health`].
pub const EVENTS_MAX: usize = 4096;

/// Something that the owner of the log should act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// The active segment should be sealed and the next one opened.
    RollWanted {
        /// The partition.
        partition: PartitionId,
        /// Its active segment.
        segment: SegmentId,
        /// Why.
        reason: RollReason,
    },
    /// A shard no longer acknowledges appends.
    ShardFailed {
        /// Which one.
        shard: usize,
        /// Why.
        failure: ShardFailure,
    },
    /// The scrub has found damage in a sealed segment. The rest of it is served.
    SegmentDamaged {
        /// Which partition.
        partition: PartitionId,
        /// Its segment.
        segment: SegmentId,
        /// The file.
        path: PathBuf,
        /// Where the damaged chunk begins, in bytes.
        position: u64,
        /// The damaged offsets: the first, and the one after the last.
        offsets: (Offset, Offset),
    },
    /// A partition can no longer be written.
    PartitionFailed {
        /// Which one.
        partition: PartitionId,
        /// Why.
        failure: PartitionFailure,
    },
}

/// Why the active segment should be rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RollReason {
    /// It has reached `segment_bytes`.
    Size,
    /// It has reached `segment_ms`.
    Age,
    /// Its positions or offsets will soon no longer fit the index.
    IndexFull,
}

/// Why a shard stopped acknowledging.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sync of {path} failed: {error}", path = path.display())]
pub struct ShardFailure {
    /// The file whose sync failed.
    pub path: PathBuf,
    /// What the operating system said.
    pub error: Arc<str>,
}

/// Why a partition can no longer be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionFailure {
    /// Damage below the synced point: what was acknowledged may be lost. Nothing was cut.
    #[error("{path} is damaged at byte {position}, below the synced point {synced}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        position: u64,
        /// Up to where the file had been synced, in bytes.
        synced: u64,
    },
    /// After a failed write the file could not be cut back.
    #[error("{path} could not be cut back to byte {position}: {error}", path = path.display())]
    Truncate {
        /// The file.
        path: PathBuf,
        /// To where it had to be cut, in bytes.
        position: u64,
        /// What the operating system said.
        error: Arc<str>,
    },
}

/// The state of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHealth {
    /// Which one, from 0.
    pub shard: usize,
    /// Why it stopped acknowledging, if it did.
    pub failure: Option<ShardFailure>,
}
