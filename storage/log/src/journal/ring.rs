//! The space of a ring: where the next record goes, and which records are still needed.
//!
//! Blocks are counted on and on; the place in the file is that count modulo the ring's blocks. A
//! record lies in one piece: what is left at the end of the file stays unused.
//!
//! A record may be overwritten once a *durable* record says that nothing needs it: otherwise a
//! crash in the middle of the overwriting would leave a hole among records that still count.

use std::collections::VecDeque;

use super::{header::SLOTS, record::BLOCK_BYTES};

/// Blocks that are left free for the records that only say what is not needed any more.
const RESERVE_BLOCKS: u64 = 4;

/// Where records lie.
#[derive(Debug)]
pub(crate) struct Ring {
    blocks: u64,
    /// Where the next record begins.
    head: u64,
    /// Not yet to be overwritten, oldest first: sequence and first block.
    kept: VecDeque<(u64, u64)>,
    next_sequence: u64,
    /// All records up to this one are on stable storage.
    durable: u64,
    /// What the newest record on stable storage says of the trim point.
    durable_trim: u64,
}

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    /// In the file, in bytes.
    pub(crate) position: u64,
}

// === impl Ring ===

impl Ring {
    /// An empty ring in a file of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            blocks: (bytes / BLOCK_BYTES as u64).saturating_sub(SLOTS),
            head: 0,
            kept: VecDeque::new(),
            next_sequence: 1,
            durable: 0,
            durable_trim: 1,
        }
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn durable_trim(&self) -> u64 {
        self.durable_trim
    }

    /// Blocks from the oldest record that must be kept to the newest.
    fn used(&self) -> u64 {
        self.head - self.kept.front().map_or(self.head, |(_, start)| *start)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used() * BLOCK_BYTES as u64
    }

    /// The most payload that one record of this ring should have: several must fit.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        (self.blocks as usize / 8 * BLOCK_BYTES).min(super::record::PAYLOAD_BYTES_MAX)
    }

    /// Takes the place for a record of so many blocks; `None` if there is no room for it. Only one
    /// that makes room may take the reserve.
    pub(crate) fn place(&mut self, blocks: u64, makes_room: bool) -> Option<Place> {
        let reserve = if makes_room { 0 } else { RESERVE_BLOCKS };
        let used = self.used();
        let in_lap = self.head % self.blocks;
        let skipped = if in_lap + blocks > self.blocks {
            self.blocks - in_lap
        } else {
            0
        };
        if used + skipped + blocks + reserve > self.blocks {
            return None;
        }
        let start = self.head + skipped;
        let sequence = self.next_sequence;
        self.kept.push_back((sequence, start));
        self.next_sequence += 1;
        self.head = start + blocks;
        let position = (SLOTS + start % self.blocks) * BLOCK_BYTES as u64;
        Some(Place { sequence, position })
    }

    /// All records up to this one are on stable storage, and this one says that those below `trim`
    /// are not needed.
    pub(crate) fn synced(&mut self, sequence: u64, trim: u64) {
        debug_assert!(self.durable < sequence && self.durable_trim <= trim);
        self.durable = sequence;
        self.durable_trim = trim;
        while self.kept.front().is_some_and(|(kept, _)| *kept < trim) {
            self.kept.pop_front();
        }
    }

    /// With `trim` as the trim point: if more than half of the ring is in use, the sequence that
    /// divides the older part of what is in use from the newer.
    pub(crate) fn crowded(&self, trim: u64) -> Option<u64> {
        let first = self.kept.partition_point(|(kept, _)| *kept < trim);
        let (_, oldest) = self.kept.get(first)?;
        let used = self.head - oldest;
        if used <= self.blocks / 2 {
            return None;
        }
        let middle = oldest + used / 2;
        let after = self.kept.partition_point(|(_, start)| *start < middle);
        Some(
            self.kept
                .get(after)
                .map_or(self.next_sequence, |kept| kept.0),
        )
    }
}
