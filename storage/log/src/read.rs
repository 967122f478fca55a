//! Reads: from the tail cache without leaving the task, else from the file.

use bytes::Bytes;
use mainstem_record::{BatchHeader, Offset};

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// From the batch that holds this offset on.
    pub from: Offset,
    /// The most bytes of batches.
    pub bytes_max: usize,
    /// Return the first batch even if it alone has more than `bytes_max`.
    pub at_least_one_batch: bool,
    /// Batches that begin at or above it are not returned. The committed end bounds a read too.
    pub end: Offset,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Each a run of whole batches, in order. The first batch holds or follows `from`.
    pub batches: Vec<Bytes>,
    /// The length of all `batches`.
    pub bytes: usize,
    /// Where to go on: after the last batch, or `from` if there is none.
    pub next: Offset,
    /// Whether it came from memory.
    pub from_cache: bool,
}

// === impl Chunk ===

impl Chunk {
    /// Nothing, to be continued at `next`.
    pub fn empty(next: Offset) -> Self {
        Self {
            batches: Vec::new(),
            bytes: 0,
            next,
            from_cache: true,
        }
    }

    /// Whether all that was read is one batch without records, as compaction leaves at the end of a
    /// segment. There are clients that do not get past an answer of such batches alone.
    pub fn is_without_records(&self) -> bool {
        let first = self.batches.first();
        let header = first.and_then(|batch| BatchHeader::parse(batch).ok());
        header.is_some_and(|header| header.record_count == 0 && header.next_offset() == self.next)
    }
}
