//! The active segment, as its shard owns it.

use std::{path::PathBuf, sync::Arc};

use mainstem_env::File;
use mainstem_record::Offset;
use xxhash_rust::xxh3::Xxh3Default;

use crate::{
    dedupe::Dedupe,
    index_file::{self, Header},
    paths,
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
    /// Up to where it is on stable storage.
    pub(crate) synced: Offset,
    pub(crate) synced_position: u64,
    pub(crate) digest: Digest,
}

/// XXH3-128 of the file: kept up to date with the appends, so that a seal need not read it again.
pub(crate) enum Digest {
    /// Of everything so far.
    Running(Box<Xxh3Default>),
    /// As it was at the clean stop; nothing was appended since.
    Known(u128),
    /// It must be read from the file.
    Unknown,
}

/// A segment that takes no more appends and is synced.
pub(crate) struct Frozen {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    pub(crate) digest: Option<u128>,
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
            digest,
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.synced_position < self.position
    }

    pub(crate) fn freeze(&self) -> Frozen {
        Frozen {
            segment: self.segment.clone(),
            file: self.file.clone(),
            end: self.next,
            bytes: self.position,
            digest: self.digest.value(),
        }
    }

    /// The file that lets the next start take this segment as it is; `None` if that would need
    /// the whole segment to be read.
    pub(crate) fn snapshot(&self, dedupe: &Dedupe, run: u128) -> Option<(PathBuf, Vec<u8>)> {
        let digest = self.digest.value()?;
        let path = self.segment.path.with_extension(paths::SNAPSHOT);
        let bytes = self.freeze().index_file(digest, dedupe, Some(run))?;
        Some((path, bytes))
    }
}

// === impl Digest ===

impl Digest {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Running(hasher) => hasher.update(bytes),
            Self::Known(_) => *self = Self::Unknown,
            Self::Unknown => {}
        }
    }

    fn value(&self) -> Option<u128> {
        match self {
            Self::Running(hasher) => Some(hasher.digest128()),
            Self::Known(digest) => Some(*digest),
            Self::Unknown => None,
        }
    }
}

// === impl Frozen ===

impl Frozen {
    /// The content of the index file; `None` if the segment is not active any more.
    pub(crate) fn index_file(
        &self,
        digest: u128,
        dedupe: &Dedupe,
        run: Option<u128>,
    ) -> Option<Vec<u8>> {
        let state = self.segment.state.read();
        let (_, index) = state.open.as_ref()?;
        let (min_timestamp, max_timestamp) = index.time_range();
        let header = Header {
            segment: self.segment.id,
            base: self.segment.base,
            end: self.end,
            epoch: self.segment.epoch,
            bytes: self.bytes,
            min_timestamp,
            max_timestamp,
            created_wall_ms: self.segment.created_wall_ms,
            digest,
        };
        Some(index_file::encode(&header, index, dedupe, run))
    }
}
