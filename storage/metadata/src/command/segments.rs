//! What commands say of segments.

use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, SegmentId, TimestampMs,
};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::command::Command;
use crate::image::SegmentFlush;

/// The first segment of a new partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSegment {
    /// A fresh id.
    pub id: SegmentId,
    /// The brokers that are to hold it; as many as the topic's replication factor. Those that are not
    /// fenced are its ISR: it starts empty, so each has everything. Empty: the broker that the
    /// command names, alone.
    #[serde(default)]
    pub replicas: Vec<BrokerId>,
    /// Who leads it: one of `replicas` that is not fenced; `None` for the first of those.
    #[serde(default)]
    pub leader: Option<BrokerId>,
    /// When its replicas sync, for its whole life.
    #[serde(default)]
    pub flush: SegmentFlush,
}

/// The segment that follows a sealed one. It starts empty, so its replicas may be any brokers
/// (R31).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextSegment {
    /// A fresh id.
    pub id: SegmentId,
    /// The brokers that are to hold it.
    pub replicas: Vec<BrokerId>,
    /// Its first ISR: replicas in their current lives, at least `min_insync`, the leader among them.
    pub isr: Vec<Member>,
    /// Who leads it.
    pub leader: Member,
    /// When its replicas sync, for its whole life.
    pub flush: SegmentFlush,
}

/// A change of an in-sync set by the leader (R15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlterIsr {
    /// Which partition.
    pub partition: PartitionId,
    /// The active segment.
    pub segment: SegmentId,
    /// The version that the leader acted on.
    pub version: u32,
    /// The new set, the leader among it.
    pub isr: Vec<Member>,
}

/// A follower that the controller drops from an in-sync set (R20).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvictReplica {
    /// Which partition.
    pub partition: PartitionId,
    /// The active segment.
    pub segment: SegmentId,
    /// The version that the controller acted on.
    pub version: u32,
    /// Whom; never the leader.
    pub member: Member,
}

/// A segment whose end is to be decided by others than its leader (R21).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginSeal {
    /// Which partition.
    pub partition: PartitionId,
    /// The active segment.
    pub segment: SegmentId,
    /// The version that the controller acted on.
    pub version: u32,
}

/// Why an unplanned seal begins. Changes nothing of what is done; for the log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SealReason {
    /// The leader's session is over.
    LeaderLost,
    /// Other nodes cannot reach the leader.
    LeaderUnreachable,
    /// The leader has been frozen for too long (R30).
    LeaderStuck,
    /// The leader was declared lost.
    LeaderDeclaredLost,
    /// Somebody asked for it.
    Requested,
}

/// What a fenced broker says of a segment that is being sealed (R22, R24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Who, in which life.
    pub member: Member,
    /// Its log end when it was fenced; copying does not change it.
    pub certificate: Offset,
    /// Its log end now.
    pub leo: Offset,
}

/// Where a `Sealing` segment ends and what follows it (R26; for [`Command::UncleanRecover`] R36).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitSeal {
    /// Which partition.
    pub partition: PartitionId,
    /// The segment.
    pub segment: SegmentId,
    /// The version that the answers are for.
    pub version: u32,
    /// Offset after its last record. If it lies below the start of the log (records that had been
    /// deleted were lost), all that was in the chain is deleted and the next begins at that start.
    pub end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file up to the end, the same on all in `complete`, if known.
    pub digest: Option<[u8; 16]>,
    /// All answers that the end was chosen from.
    pub answers: Vec<Answer>,
    /// Who holds everything up to the end.
    pub complete: Vec<Member>,
    /// Those of them that have synced it.
    #[serde(default)]
    pub durable: Vec<Member>,
    /// What follows.
    pub next: NextSegment,
}

/// Where an `Active` segment ends, says its leader (R28), and what follows it. Its ISR is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealAndOpen {
    /// Which partition.
    pub partition: PartitionId,
    /// The segment.
    pub segment: SegmentId,
    /// The version that the leader froze under.
    pub version: u32,
    /// Offset after its last record. An empty segment (it is the base) is replaced, not sealed. If it
    /// lies below the start of the log, all that was in the chain is deleted and the next begins at
    /// that start.
    pub end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file, if known.
    pub digest: Option<[u8; 16]>,
    /// Those of its ISR that have synced all of it.
    #[serde(default)]
    pub durable: Vec<Member>,
    /// What follows.
    pub next: NextSegment,
}

/// A broker's whole copy of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentCopy {
    /// Which partition.
    pub partition: PartitionId,
    /// The sealed segment.
    pub segment: SegmentId,
    /// Who verified or synced it, in which life.
    pub member: Member,
    /// The digest that the copy has; `None` if it was not computed.
    pub digest: Option<[u8; 16]>,
}

/// A copy that leaves the complete ones (R35).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCopy {
    /// Which partition.
    pub partition: PartitionId,
    /// The sealed segment.
    pub segment: SegmentId,
    /// Whose copy.
    pub member: Member,
    /// Whether it is damaged: then it goes at once, else only while enough others remain.
    pub corrupt: bool,
}

/// A seal of formats 1 and 2 ([`Command::SealAndOpenSingle`]): seals the open segment of one partition and opens the next one, which begins where the sealed one
/// ends, with the next epoch. An empty segment (`end` is its base) is replaced instead of sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealAndOpenSingle {
    /// Which partition.
    pub partition: PartitionId,
    /// The segment that the proposer seals.
    pub segment: SegmentId,
    /// The version of that segment that the proposer acted on.
    pub version: u32,
    /// Offset after its last record. If it lies below the start of the log (an unclean restart lost
    /// deleted records), all that was in the chain is deleted and the next begins at that start.
    pub end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file, if known.
    pub digest: Option<[u8; 16]>,
    /// A fresh id for the next segment.
    pub next: SegmentId,
    /// Who leads the next segment; a replica.
    pub leader: BrokerId,
    /// The current incarnation of that leader.
    pub leader_incarnation: Incarnation,
}

/// A compacted segment: what differs from the last of those that it replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplacementSegment {
    /// A fresh id.
    pub id: SegmentId,
    /// The base of the first replaced segment.
    pub base: Offset,
    /// The end of the last replaced segment.
    pub end: Offset,
    /// That of the last replaced segment. The others and their ends are remembered with the new one.
    pub epoch: LeaderEpoch,
    /// Records below it are the newest of their keys, compared with each other: where the next
    /// compaction begins to look for newer ones. At most `end`.
    #[serde(default = "nothing_clean")]
    pub clean_end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file, if known.
    pub digest: Option<[u8; 16]>,
    /// Who holds it, synced: complete in each replaced segment, and enough of them (R35). Empty: the
    /// one replica that the replaced segments have.
    #[serde(default)]
    pub complete: Vec<Member>,
}

/// What a command of format 1 means, which says nothing of it.
fn nothing_clean() -> Offset {
    Offset::ZERO
}
