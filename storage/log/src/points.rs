//! Recovery points: what lets a start after a crash scan the end of an active segment only.
//!
//! A point is the file `.snap` beside an active segment. It has the form of an index file and holds
//! what a scan up to some offset and position would find: the index, the digests of the chunks, the
//! memories of what was appended. It covers nothing but what is synced, so it may be as old as it
//! likes: what follows it is scanned. A segment begins with one that covers nothing but what is
//! remembered of the segments before it, unless that is nothing: they may be dropped, and their index
//! files with them.
//!
//! The shard chooses whose turn it is, by how much each segment has grown since its last point, and
//! copies what changes with each append; the index, which only grows, is copied later and in
//! slices. When a sync has passed the point, the file is written on the blocking pool. One point is
//! under way per shard.
//!
//! A replica may have to cut what is not committed: its points cover nothing above the committed end,
//! so that a cut never has to make up what was remembered before.

use std::{io, path::Path, sync::Arc};

use mainstem_env::{Env, File, Fs, OpenMode};
use mainstem_record::{Offset, SegmentId};
use tokio::sync::oneshot;

use crate::{
    dedupe::Dedupe,
    digest::{Digest, digest_of_chunks},
    files::delete_file,
    index::{Entry, Index},
    index_file::{self, Header, Labelled},
    options::LogOptions,
    paths,
    segment::Segment,
    spec::SegmentSpec,
};

/// When all together have grown too much, a point is worth its syncs from this part of the usual
/// growth on.
const GROWTH_PART: u64 = 128;

/// What the shard copies for a point is a small part of what was written since the last one.
const GROWTH_PER_COPIED_BYTE: u64 = 4;

/// So many entries of an index are copied while its lock is held: 1 MiB.
const SLICE_ENTRIES: usize = 65_536;

/// A point smaller than this is not synced at a clean stop: losing it with the power costs a scan
/// of as much.
const UNSYNCED_BYTES_MAX: u64 = 1 << 20;

/// An active segment as it was at an offset, for a file that says so.
pub(crate) struct Draft {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// How many entries the index had.
    pub(crate) entries: usize,
    /// Lowest and highest timestamp.
    pub(crate) time_range: (i64, i64),
    pub(crate) digest: Digest,
    pub(crate) dedupe: Dedupe,
}

/// The recovery points of a shard's partitions.
pub(crate) struct Points {
    /// From this growth on a segment wants a point.
    growth_bytes: u64,
    /// From this growth of all segments together on the one that has grown most wants one.
    total_bytes_max: u64,
    slots: Vec<Slot>,
    /// What is unsaved of all slots.
    total: u64,
    /// Somebody may want a point.
    due: bool,
    /// Bytes ever written, and where the next attempt may be made: after a failure there is a
    /// pause.
    written: u64,
    not_before: u64,
    current: Option<Current>,
}

#[derive(Clone, Default)]
struct Slot {
    /// Bytes that a start would have to scan.
    unsaved: u64,
    /// From how many on a point is worth what the shard must copy for it.
    worth_from: u64,
}

struct Current {
    /// `None` if the segment is not the slot's any more.
    slot: Option<usize>,
    segment: SegmentId,
    /// What it saves the next start.
    bytes: u64,
    /// Bytes ever written when it was begun.
    began: u64,
    stage: Stage,
}

enum Stage {
    /// A sync has to pass it first, and what is committed.
    Unsynced(Box<Draft>),
    Writing(oneshot::Receiver<bool>),
}

// === impl Points ===

impl Points {
    pub(crate) fn new(options: &LogOptions) -> Self {
        Self {
            growth_bytes: options.recovery_point_bytes.max(1),
            total_bytes_max: options.recovery_scan_bytes_max / options.shards.max(1) as u64,
            slots: Vec::new(),
            total: 0,
            due: false,
            written: 0,
            not_before: 0,
            current: None,
        }
    }

    /// The segment at `slot` is another one from now on, `bytes` of it past its point.
    pub(crate) fn track(&mut self, slot: usize, bytes: u64) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Slot::default());
        }
        if let Some(current) = self.current.as_mut().filter(|c| c.slot == Some(slot)) {
            current.slot = None;
            if matches!(current.stage, Stage::Unsynced(_)) {
                self.current = None;
            }
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            self.total = self.total - slot.unsaved + bytes;
            slot.unsaved = bytes;
            slot.worth_from = 0;
        }
    }

    /// The segment at `slot` has grown.
    pub(crate) fn grew(&mut self, slot: usize, bytes: u64) {
        self.written += bytes;
        self.total += bytes;
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.unsaved += bytes;
            self.due |= slot.unsaved >= self.growth_bytes;
        }
        self.due |= self.total > self.total_bytes_max;
    }

    /// Bytes of the segment at `slot` that its point does not cover.
    pub(crate) fn unsaved(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.unsaved)
    }

    /// The slot that should begin a point now.
    pub(crate) fn next(&mut self) -> Option<usize> {
        if !self.due {
            return None;
        }
        self.look_at_current();
        self.give_up_late();
        if self.current.is_some() || self.written < self.not_before {
            return None;
        }
        let enough = match self.total > self.total_bytes_max {
            true => self.growth_bytes.div_ceil(GROWTH_PART),
            false => self.growth_bytes,
        };
        let slots = self.slots.iter().enumerate();
        let most = slots
            .filter(|(_, slot)| slot.unsaved >= enough.max(slot.worth_from))
            .max_by_key(|(_, slot)| slot.unsaved);
        self.due = most.is_some();
        most.map(|(slot, _)| slot)
    }

    /// The point of `slot` would take a copy of so many bytes: lets it wait until it is worth that.
    /// Returns whether it has to.
    pub(crate) fn put_off(&mut self, slot: usize, copied_bytes: u64) -> bool {
        let Some(slot) = self.slots.get_mut(slot) else {
            return false;
        };
        slot.worth_from = copied_bytes.saturating_mul(GROWTH_PER_COPIED_BYTE);
        slot.unsaved < slot.worth_from
    }

    /// Takes the point on; it is written once a sync has passed it.
    pub(crate) fn begin(&mut self, slot: usize, draft: Draft) {
        self.current = Some(Current {
            slot: Some(slot),
            segment: draft.segment.id,
            bytes: self.unsaved(slot),
            began: self.written,
            stage: Stage::Unsynced(Box::new(draft)),
        });
    }

    /// A segment is synced up to `position`, and will not be cut below `kept`.
    pub(crate) fn synced(
        &mut self,
        env: &Env,
        segment: SegmentId,
        (position, kept): (u64, Offset),
        interval: u32,
    ) {
        let Some(current) = self.current.as_mut().filter(|c| c.segment == segment) else {
            return;
        };
        let (sender, receiver) = oneshot::channel();
        let draft = match std::mem::replace(&mut current.stage, Stage::Writing(receiver)) {
            Stage::Unsynced(draft) if draft.bytes <= position && draft.end <= kept => draft,
            as_before => {
                current.stage = as_before;
                return;
            }
        };
        let fs = env.fs.clone();
        let work = move || {
            // The shard is gone only when the process ends.
            let _ = sender.send(draft.save(&*fs, interval, true));
        };
        env.tasks.blocking("log-point", Box::new(work));
    }

    /// Waits for the point that is being written.
    pub(crate) async fn settle(&mut self) {
        if let Some(current) = self.current.take()
            && let Stage::Writing(done) = current.stage
        {
            let saved = done.await.unwrap_or(false);
            self.over(current.slot, current.bytes, saved);
        }
    }

    /// A point that what is committed does not pass must not keep others from theirs.
    fn give_up_late(&mut self) {
        let late = |current: &&Current| {
            let waits = matches!(current.stage, Stage::Unsynced(_));
            waits && self.written - current.began > self.growth_bytes
        };
        let Some(slot) = self.current.as_ref().filter(late).map(|late| late.slot) else {
            return;
        };
        self.current = None;
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            // It is its turn again when it has grown as much.
            slot.worth_from = slot.unsaved.saturating_mul(2);
        }
    }

    fn look_at_current(&mut self) {
        let Some(Current {
            slot,
            bytes,
            stage: Stage::Writing(done),
            ..
        }) = &mut self.current
        else {
            return;
        };
        let saved = match done.try_recv() {
            Ok(saved) => saved,
            Err(oneshot::error::TryRecvError::Empty) => return,
            Err(oneshot::error::TryRecvError::Closed) => false,
        };
        let (slot, bytes) = (*slot, *bytes);
        self.current = None;
        self.over(slot, bytes, saved);
    }

    fn over(&mut self, slot: Option<usize>, bytes: u64, saved: bool) {
        if !saved {
            self.not_before = self.written + self.growth_bytes;
            return;
        }
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            slot.unsaved -= bytes;
            self.total -= bytes;
        }
    }
}

// === impl Draft ===

impl Draft {
    /// Bytes of memory, once the index is copied too.
    pub(crate) fn size_bytes(&self) -> usize {
        let index = self.entries * size_of::<Entry>();
        self.digest.size_bytes() + self.dedupe.size_bytes() + index
    }

    /// Writes the point, and says whether it is there. Without it more is scanned at the next
    /// start, so an error is told and no more. Blocks.
    pub(crate) fn save(self, fs: &dyn Fs, interval: u32, sync: bool) -> bool {
        let segment = self.segment.clone();
        let path = segment.path.with_extension(paths::SNAPSHOT);
        // The one whose place it takes may hold what no other file does: the memories of dropped
        // segments.
        let replaces = fs.exists(&path).unwrap_or(true);
        let sync = sync || replaces || self.bytes > UNSYNCED_BYTES_MAX;
        let saved = match self.write(fs, interval, sync) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot write a recovery point");
                false
            }
        };
        if segment.end().is_none() {
            return saved;
        }
        // It was sealed meanwhile. What stays is removed at the next start.
        let _ = delete_file(fs, &path);
        false
    }

    fn write(mut self, fs: &dyn Fs, interval: u32, sync: bool) -> io::Result<bool> {
        self.digest.complete(&*self.file)?;
        let (Some(index), Some(chunks)) = (self.index(interval), self.digest.chunks()) else {
            return Ok(false);
        };
        let (min_timestamp, max_timestamp) = self.time_range;
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
        let bytes = index_file::encode(&header, &chunks, &index, &self.dedupe);
        let path = self.segment.path.with_extension(paths::SNAPSHOT);
        // If the power goes now it is the old one or the new one, and either will do.
        put_point(fs, &path, &bytes, sync)?;
        Ok(true)
    }

    /// The index as it was; `None` if the segment is not active any more.
    fn index(&self, interval: u32) -> Option<Index> {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries);
        while entries.len() < self.entries {
            let state = self.segment.state.read();
            let (_, index) = state.open.as_ref()?;
            let end = self.entries.min(entries.len() + SLICE_ENTRIES);
            entries.extend_from_slice(index.entries().get(entries.len()..end)?);
        }
        Some(Index::from_parts(
            self.segment.base,
            interval,
            entries,
            self.time_range,
        ))
    }
}

/// Puts a point in the place of the one that is there. The directory is not synced. Blocks.
fn put_point(fs: &dyn Fs, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = path.with_added_extension(paths::TEMPORARY);
    let file = fs.open(&temporary, OpenMode::Truncate)?;
    file.write_all_vectored_at(&[io::IoSlice::new(bytes)], 0)?;
    if sync {
        file.sync_data()?;
    }
    fs.rename(&temporary, path)
}

/// Writes the first point of a segment that is to be active: it covers none of its bytes, and holds
/// what was appended before it, since every segment that could tell may be dropped. Nothing is
/// written if nothing is remembered. The caller syncs the directory. Blocks.
pub(crate) fn put_base_point(
    fs: &dyn Fs,
    dir: &Path,
    spec: &SegmentSpec,
    made: (u32, i64),
    dedupe: &Dedupe,
) -> io::Result<()> {
    if dedupe.is_empty() {
        return Ok(());
    }
    put_memory(fs, dir, spec, &base_point(spec, made, dedupe))
}

/// Writes such a point, also one that says that nothing is remembered. Blocks.
pub(crate) fn put_memory(
    fs: &dyn Fs,
    dir: &Path,
    spec: &SegmentSpec,
    point: &[u8],
) -> io::Result<()> {
    let path = paths::segment(dir, spec.base, spec.id).with_extension(paths::SNAPSHOT);
    put_point(fs, &path, point, true)
}

/// The first point of a segment.
pub(crate) fn base_point(
    spec: &SegmentSpec,
    (interval, wall_ms): (u32, i64),
    dedupe: &Dedupe,
) -> Vec<u8> {
    let index = Index::new(spec.base, interval);
    let (min_timestamp, max_timestamp) = index.time_range();
    let header = Header {
        labelled: Labelled::NotYet,
        segment: spec.id,
        base: spec.base,
        end: spec.base,
        epoch: spec.epoch,
        compacted_from: spec.compacted_from,
        bytes: 0,
        min_timestamp,
        max_timestamp,
        created_wall_ms: wall_ms,
        digest: digest_of_chunks(&[]),
    };
    index_file::encode(&header, &[], &index, dedupe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(growth: u64, total: u64) -> Points {
        let mut options = LogOptions::new("/log".into());
        options.shards = 1;
        options.recovery_point_bytes = growth;
        options.recovery_scan_bytes_max = total;
        Points::new(&options)
    }

    #[test]
    fn segment_that_has_grown_enough_is_next() {
        let mut points = points(100, 1000);
        points.track(0, 0);
        points.track(1, 0);
        points.grew(0, 99);
        assert_eq!(points.next(), None);
        points.grew(1, 150);
        points.grew(0, 1);
        assert_eq!(points.next(), Some(1));
        points.track(1, 0);
        assert_eq!(points.next(), Some(0));
        points.track(0, 0);
        assert_eq!(points.next(), None);
    }

    #[test]
    fn many_that_have_grown_a_little_are_bounded_together() {
        let mut points = points(1 << 20, 3 << 20);
        for slot in 0..10 {
            points.track(slot, 0);
            points.grew(slot, (300 << 10) + slot as u64);
        }
        assert_eq!(points.next(), None);
        points.grew(3, 200 << 10);
        assert_eq!(points.next(), Some(3));
        points.over(Some(3), points.unsaved(3), true);
        assert_eq!(points.next(), None, "the rest is within the bound");
    }

    #[test]
    fn large_copies_wait_for_growth() {
        let mut points = points(100, 1000);
        points.track(0, 0);
        points.grew(0, 200);
        assert!(points.put_off(0, 100));
        assert_eq!(points.next(), None);
        points.grew(0, 200);
        assert_eq!(points.next(), Some(0));
        assert!(!points.put_off(0, 100));
    }

    #[test]
    fn failure_makes_a_pause() {
        let mut points = points(100, 1000);
        points.track(0, 0);
        points.grew(0, 200);
        assert_eq!(points.next(), Some(0));
        points.over(Some(0), 200, false);
        points.grew(0, 99);
        assert_eq!(points.next(), None);
        points.grew(0, 1);
        assert_eq!(points.next(), Some(0));
    }
}
