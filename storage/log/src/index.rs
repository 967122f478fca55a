//! The sparse index of one segment: where a batch lies, by offset and by time.
//!
//! An entry is made at the first batch that begins at least one interval after the last entry. It
//! says where that batch begins and the highest timestamp of everything **before** it, so that the
//! batch with the first timestamp of at least `t` lies at or after the last entry whose timestamp
//! is below `t`.

use mainstem_record::{BatchHeader, Offset, TimestampMs};

/// The most bytes of a segment: positions in the index are 32 bits.
pub(crate) const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// The most offsets of a segment: offsets in the index are 32 bits, relative to the base.
pub(crate) const SEGMENT_OFFSETS_MAX: i64 = u32::MAX as i64;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Offset of the batch, relative to the base of the segment.
    pub(crate) offset: u32,
    /// Byte position of the batch.
    pub(crate) position: u32,
    /// The highest timestamp before the batch; `i64::MIN` for the first.
    pub(crate) max_before: i64,
}

/// The sparse index of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    base: Offset,
    interval: u32,
    entries: Vec<Entry>,
    next_at: u64,
    max_timestamp: i64,
    min_timestamp: i64,
}

// === impl Index ===

impl Index {
    pub(crate) fn new(base: Offset, interval: u32) -> Self {
        Self {
            base,
            interval: interval.max(1),
            entries: Vec::new(),
            next_at: 0,
            max_timestamp: i64::MIN,
            min_timestamp: i64::MAX,
        }
    }

    /// From entries that are known to rise; `next_at` is where the next entry may be made.
    pub(crate) fn from_parts(
        base: Offset,
        interval: u32,
        entries: Vec<Entry>,
        (min_timestamp, max_timestamp): (i64, i64),
    ) -> Self {
        let interval = interval.max(1);
        let next_at = entries
            .last()
            .map_or(0, |last| u64::from(last.position) + u64::from(interval));
        Self {
            base,
            interval,
            entries,
            next_at,
            max_timestamp,
            min_timestamp,
        }
    }

    /// Takes note of the batch at `position`. Both position and relative offset fit 32 bits: the
    /// shard refuses what does not.
    pub(crate) fn push(&mut self, header: &BatchHeader, position: u64) {
        if position >= self.next_at {
            let offset = u32::try_from(header.base_offset.0 - self.base.0);
            if let (Ok(offset), Ok(position32)) = (offset, u32::try_from(position)) {
                self.entries.push(Entry {
                    offset,
                    position: position32,
                    max_before: self.max_timestamp,
                });
                self.next_at = position + u64::from(self.interval);
            }
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp.0);
        self.min_timestamp = self.min_timestamp.min(header.base_timestamp.0);
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Lowest base timestamp and highest timestamp of all batches, or the neutral extremes.
    pub(crate) fn time_range(&self) -> (i64, i64) {
        (self.min_timestamp, self.max_timestamp)
    }

    /// The highest timestamp, [`TimestampMs::NONE`] if there is no batch.
    pub(crate) fn max_timestamp(&self) -> TimestampMs {
        TimestampMs(self.max_timestamp.max(TimestampMs::NONE.0))
    }

    /// Bytes of memory.
    pub(crate) fn size_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + size_of::<Self>()
    }

    /// Position and offset of a batch at or before the one that holds `offset`.
    pub(crate) fn by_offset(&self, offset: Offset) -> (u64, Offset) {
        let relative = offset.0.saturating_sub(self.base.0);
        let after = self
            .entries
            .partition_point(|entry| i64::from(entry.offset) <= relative);
        self.entry_before(after)
    }

    /// Position and offset of the last indexed batch that begins at or before `offset`, and the highest
    /// timestamp before it; `i64::MIN` if nothing is.
    pub(crate) fn before(&self, offset: Offset) -> (u64, Offset, i64) {
        let (position, base) = self.by_offset(offset);
        let at = self
            .entries
            .partition_point(|entry| u64::from(entry.position) < position);
        let entry = self.entries.get(at);
        (position, base, entry.map_or(i64::MIN, |e| e.max_before))
    }

    /// Position and offset of a batch at or before the first one with a timestamp of at least
    /// `at_least`.
    pub(crate) fn by_timestamp(&self, at_least: TimestampMs) -> (u64, Offset) {
        let after = self
            .entries
            .partition_point(|entry| entry.max_before < at_least.0);
        self.entry_before(after)
    }

    /// Position and offset of the last indexed batch at or before `position`.
    pub(crate) fn by_position(&self, position: u64) -> (u64, Offset) {
        let after = self
            .entries
            .partition_point(|entry| u64::from(entry.position) <= position);
        self.entry_before(after)
    }

    /// The offset of the first indexed batch after `position`.
    pub(crate) fn offset_after(&self, position: u64) -> Option<Offset> {
        let after = self
            .entries
            .partition_point(|entry| u64::from(entry.position) <= position);
        self.entries
            .get(after)
            .map(|entry| self.base.plus(i64::from(entry.offset)))
    }

    /// Where the first indexed batch after `position` begins, in bytes.
    pub(crate) fn next_after(&self, position: u64) -> Option<u64> {
        let after = self
            .entries
            .partition_point(|entry| u64::from(entry.position) <= position);
        self.entries
            .get(after)
            .map(|entry| u64::from(entry.position))
    }

    fn entry_before(&self, after: usize) -> (u64, Offset) {
        let entry = after.checked_sub(1).and_then(|at| self.entries.get(at));
        entry.map_or((0, self.base), |entry| {
            let offset = self.base.plus(i64::from(entry.offset));
            (u64::from(entry.position), offset)
        })
    }
}
