//! The active segment, as its shard owns it.

use std::sync::Arc;

use mainstem_env::File;
use mainstem_record::Offset;

use crate::{
    dedupe::Dedupe,
    digest::{Digest, digest_of_chunks},
    index_file::{self, Header, Labelled},
    segment::Segment,
};

/// The segment that is being written.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    /// The offset of the next record.
    pub(crate) next: Offset,
    /// Where the next batch goes, in bytes.
    pub(crate) position: u64,
    /// Up to where it is on stable storage, in its file or in the journal.
    pub(crate) synced: Offset,
    pub(crate) synced_position: u64,
    /// Where its recovery point ended when it was opened.
    pub(crate) saved_position: u64,
    /// Up to where its file is on stable storage.
    pub(crate) in_place: u64,
    /// The oldest record of the journal that holds some of what its file does not.
    pub(crate) journaled: Option<u64>,
    /// The same, from before the sync of its file that is under way to make room in the journal.
    pub(crate) journaled_before: Option<u64>,
    /// Kept up to date with the appends, so that a seal need not read the file again.
    pub(crate) digest: Digest,
}

/// A segment that takes no more appends and is synced.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

// === impl Active ===

impl Active {
    /// A segment that is written and synced up to `(next, position)`.
    pub(crate) fn new(
        segment: Arc<Segment>,
        file: Arc<dyn File>,
        (next, position): (Offset, u64),
        digest: Digest,
    ) -> Self {
        Self {
            segment,
            file,
            next,
            position,
            synced: next,
            synced_position: position,
            saved_position: position,
            in_place: position,
            journaled: None,
            journaled_before: None,
            digest,
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.synced_position < self.position
    }

    /// Whether all of it is on stable storage in its own file.
    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place == self.position
    }

    pub(crate) fn freeze(&self) -> Frozen {
        Frozen {
            segment: self.segment.clone(),
            file: self.file.clone(),
            end: self.next,
            bytes: self.position,
            digest: self.digest.clone(),
        }
    }
}

// === impl Frozen ===

impl Frozen {
    /// The content of the index file; `None` if the segment is not active any more, or its digest
    /// not complete.
    pub(crate) fn index_file(&self, dedupe: &Dedupe) -> Option<Vec<u8>> {
        let chunks = self.digest.chunks()?;
        let state = self.segment.state.read();
        let (_, index) = state.open.as_ref()?;
        let (min_timestamp, max_timestamp) = index.time_range();
        let header = Header {
            labelled: Labelled::NotYet,
            segment: self.segment.id,
            base: self.segment.base,
            end: self.end,
            epoch: self.segment.epoch,
            compacted_from: self.segment.rule.compacted_from,
            bytes: self.bytes,
            min_timestamp,
            max_timestamp,
            created_wall_ms: self.segment.created_wall_ms,
            digest: digest_of_chunks(&chunks),
        };
        Some(index_file::encode(&header, &chunks, index, dedupe))
    }
}
