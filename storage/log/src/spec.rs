//! What the log is told of a partition, and what it tells of its segments.

use std::time::Duration;

use mainstem_record::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, SegmentId, Sequence, TimestampMs,
    TimestampType,
};

/// A partition as metadata knows it.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Which one.
    pub id: PartitionId,
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The chain, oldest first, without holes; only the last one may be active. Without an active
    /// one, appends wait until [`crate::Partition::seal_commit`] brings it.
    pub segments: Vec<SegmentSpec>,
    /// How it is written.
    pub settings: PartitionSettings,
    /// What this node does in it.
    pub role: Role,
}

/// What a node does in a partition, as far as its log must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It appends what clients send.
    Leader(Commit),
    /// It appends what the leader has appended, byte for byte.
    Follower,
    /// It appends what it copies from other replicas ([`crate::Partition::append_copied`]), and
    /// nothing else: the end of the active segment is being decided (R22, R24).
    Fenced,
}

/// Who decides what counts as committed, that is as acknowledged and readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Commit {
    /// This log: there is no other replica.
    Own,
    /// Its owner, who hears of the other replicas: [`crate::Partition::set_high_watermark`].
    External,
}

/// A segment as metadata knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Its identity.
    pub id: SegmentId,
    /// The offset of its first record.
    pub base: Offset,
    /// The one leader epoch of all its batches; in a compacted segment that of the last ones.
    pub epoch: LeaderEpoch,
    /// The offset after its last record if it is sealed, `None` while it is active.
    pub end: Option<Offset>,
    /// Set if it is compacted: the lowest leader epoch that its batches may have. Its offsets may
    /// have gaps.
    pub compacted_from: Option<LeaderEpoch>,
    /// Whether its records are to be had on this node. Of one that is not, files may be there:
    /// nobody reads them.
    pub held: bool,
}

/// When an append counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flush {
    /// When it is in the page cache; the operating system writes it back.
    Os,
    /// When it is in the page cache; a sync begins soon, by bytes or by time, whichever comes first.
    Interval {
        /// Unsynced bytes of the partition that start a sync; at least 1.
        bytes: u64,
        /// How long after a write a sync begins at the latest.
        time: Duration,
    },
    /// When it is on stable storage.
    Always,
}

/// How a partition is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSettings {
    /// When an append counts as durable.
    pub flush: Flush,
    /// From this size on, in bytes, the active segment should be rolled (a wish, not a bound).
    pub segment_bytes: u64,
    /// From this age on, in milliseconds, the active segment should be rolled.
    pub segment_ms: i64,
    /// Whose clock stamps the records.
    pub timestamp_type: TimestampType,
}

/// The offsets of a partition.
///
/// ```text
/// log_start <= committed_end <= log_end        synced_end <= log_end
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// After the last record written.
    pub log_end: Offset,
    /// After the last record that is known to be on stable storage.
    pub synced_end: Offset,
    /// After the last record that counts as acknowledged and may be read. With [`Commit::Own`] that
    /// is under [`Flush::Always`] the synced end, else the log end; otherwise no more than that, and
    /// no more than the high watermark. Never goes back.
    pub committed_end: Offset,
}

/// What is known of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its identity.
    pub id: SegmentId,
    /// The offset of its first record.
    pub base: Offset,
    /// The offset after its last record if it is sealed, `None` while it is active.
    pub end: Option<Offset>,
    /// The leader epoch of its batches; in a compacted segment that of the last ones.
    pub epoch: LeaderEpoch,
    /// Set if it is compacted: the lowest leader epoch of its batches.
    pub compacted_from: Option<LeaderEpoch>,
    /// Bytes written.
    pub bytes: u64,
    /// The highest timestamp of its batches; [`TimestampMs::NONE`] if there is none.
    pub max_timestamp: TimestampMs,
    /// Whether its records are to be had here.
    pub held: bool,
    /// When it was made here, in milliseconds since the Unix epoch.
    pub created_wall_ms: i64,
}

/// A frozen, synced segment that is about to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealInfo {
    /// Its identity.
    pub segment: SegmentId,
    /// The offset after its last record; its base if it is empty.
    pub end: Offset,
    /// Bytes of its file.
    pub bytes: u64,
    /// The highest timestamp of its batches; [`TimestampMs::NONE`] if there is none.
    pub max_timestamp: TimestampMs,
    /// XXH3-128 of the little-endian XXH3-128s of the file's chunks of 1 MiB.
    pub digest: u128,
}

/// What the partition remembers of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSnapshot {
    /// Which producer.
    pub id: ProducerId,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// The last sequence of its newest batch; [`Sequence::NONE`] if it has none.
    pub last_sequence: Sequence,
    /// The offset of the last record of its newest batch; -1 if it has none.
    pub last_offset: Offset,
    /// When it wrote last, in milliseconds since the Unix epoch.
    pub last_seen_ms: i64,
}
