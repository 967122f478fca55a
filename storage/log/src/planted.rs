//! Bugs that the tests of this crate plant, to show that they would be found.
//!
//! Without the feature `planted-bugs`, which only the tests' own build has, every question is
//! answered with a constant no, and nothing of this is left in the code.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Appends are acknowledged as durable before their sync.
    EarlyAck,
    /// Under `always` records are readable before their sync.
    EarlyRead,
    /// The sync of segment files is left out.
    NoSegmentSync,
    /// The sync of the journal is left out.
    NoJournalSync,
    /// The start empties the journals without replaying them.
    NoReplay,
    /// The journal is emptied before what it held is synced in the segments.
    NoSyncOfReplay,
    /// Torn payloads of the journal are taken for good ones.
    UncheckedJournal,
    /// The journal lets records go whose segments have not been synced.
    TrimAhead,
    /// A segment is sealed without waiting for its sync.
    NoSyncBeforeSeal,
    /// The directory of a new segment is not synced.
    NoDirectorySync,
    /// A failed sync is tried again, and its success believed.
    RetriedSync,
    /// The synced point that is noted is the written one.
    SyncedPointAhead,
    /// A failed write leaves sequences of producers noted.
    NoUnwind,
    /// Recovery takes batches without looking at their checksums.
    UncheckedCrc,
    /// Recovery cuts whatever is bad, also below the synced point.
    CutBelowSynced,
    /// Recovery believes that a sync writes what an earlier, failed one has lost.
    NoRewrite,
    /// Recovery does not take producers over from batches.
    ProducersNotRebuilt,
    /// Index entries point behind their batch.
    IndexOffByOne,
    /// Compaction drops the newest record of a key.
    NewestDropped,
    /// Compaction drops tombstones before their horizon.
    TombstoneEarly,
    /// Compaction drops the newest batch of a producer.
    SequenceDropped,
    /// A compacted segment gets its name before its bytes are synced.
    RenameBeforeSync,
    /// The directory of a compacted segment is not synced.
    NoSyncOfCompactedName,
    /// A leader acknowledges before the high watermark has passed.
    AckBeforeCommit,
    /// A follower takes batches without looking at their checksums.
    UncheckedReplica,
    /// A follower takes batches wherever they begin, and of any leader.
    UnfencedReplica,
    /// A follower does not remember the producers of the batches that it takes.
    ReplicaForgetsProducers,
    /// Records above the high watermark are readable.
    ReadAboveHighWatermark,
    /// The journal is not told of a cut.
    UnnotedCut,
    /// A cut leaves the synced point where it was.
    SyncedPointAboveCut,
    /// A cut forgets nothing of what it cuts.
    CutKeepsProducers,
    /// A recovery point covers what may still be cut.
    PointAboveCommitted,
    /// Copied chunks are taken without looking at their digests, and batches as they come.
    UncheckedCopy,
    /// A copy gets its name before its bytes are synced.
    NoSyncOfCopy,
}

#[cfg(feature = "planted-bugs")]
mod choice {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants this bug, and no other, in every log of this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.with(|planted| planted.get() == Some(bug))
    }
}

#[cfg(feature = "planted-bugs")]
pub use choice::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use choice::planted;

/// Whether this bug is planted: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::EarlyAck,
        Self::EarlyRead,
        Self::NoSegmentSync,
        Self::NoJournalSync,
        Self::NoReplay,
        Self::NoSyncOfReplay,
        Self::UncheckedJournal,
        Self::TrimAhead,
        Self::NoSyncBeforeSeal,
        Self::NoDirectorySync,
        Self::RetriedSync,
        Self::SyncedPointAhead,
        Self::NoUnwind,
        Self::UncheckedCrc,
        Self::CutBelowSynced,
        Self::NoRewrite,
        Self::ProducersNotRebuilt,
        Self::IndexOffByOne,
        Self::NewestDropped,
        Self::TombstoneEarly,
        Self::SequenceDropped,
        Self::RenameBeforeSync,
        Self::NoSyncOfCompactedName,
        Self::AckBeforeCommit,
        Self::UncheckedReplica,
        Self::UnfencedReplica,
        Self::ReplicaForgetsProducers,
        Self::ReadAboveHighWatermark,
        Self::UnnotedCut,
        Self::SyncedPointAboveCut,
        Self::CutKeepsProducers,
        Self::PointAboveCommitted,
        Self::UncheckedCopy,
        Self::NoSyncOfCopy,
    ];
}
