//! A segment of a partition, as readers and the shard share it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use mainstem_env::File;
use mainstem_record::{LeaderEpoch, Offset, SegmentId, TimestampMs};
use parking_lot::RwLock;

use crate::{
    files::Files, index::Index, index_file::Labelled, paths, read_ahead::ReadAhead,
    scan::BatchRule, spec::SegmentInfo, spec::SegmentSpec,
};

/// One segment.
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) base: Offset,
    pub(crate) epoch: LeaderEpoch,
    /// Which batches belong in it.
    pub(crate) rule: BatchRule,
    /// The file with the batches.
    pub(crate) path: PathBuf,
    pub(crate) created_wall_ms: i64,
    /// Its records are to be had here.
    pub(crate) held: bool,
    /// Its file is gone or about to go: it must not stay open.
    pub(crate) dropped: AtomicBool,
    /// A [`Labelled`].
    labelled: AtomicU8,
    pub(crate) state: RwLock<SegmentState>,
    pub(crate) read_ahead: ReadAhead,
}

/// What changes of a segment.
pub(crate) struct SegmentState {
    /// The offset after the last record, once sealed.
    pub(crate) end: Option<Offset>,
    /// Bytes that may be read.
    pub(crate) bytes: u64,
    pub(crate) max_timestamp: TimestampMs,
    /// File and index while the segment is active; those of sealed ones are opened on demand.
    pub(crate) open: Option<(Arc<dyn File>, Index)>,
}

/// Where to read in a segment.
pub(crate) struct Located {
    pub(crate) file: Arc<dyn File>,
    /// Where to begin, and the offset of the batch that begins there.
    pub(crate) start: u64,
    pub(crate) next: Offset,
    /// Where the readable bytes end.
    pub(crate) limit: u64,
}

// === impl Segment ===

impl Segment {
    pub(crate) fn new(
        dir: &Path,
        spec: &SegmentSpec,
        created_wall_ms: i64,
        state: SegmentState,
    ) -> Self {
        Self {
            id: spec.id,
            base: spec.base,
            epoch: spec.epoch,
            rule: BatchRule::of(spec),
            path: paths::segment(dir, spec.base, spec.id),
            created_wall_ms,
            held: spec.held,
            dropped: AtomicBool::new(false),
            labelled: AtomicU8::new(Labelled::NotYet.to_byte()),
            state: RwLock::new(state),
            read_ahead: ReadAhead::default(),
        }
    }

    /// One whose records are not to be had here.
    pub(crate) fn not_held(dir: &Path, spec: &SegmentSpec) -> Self {
        let state = SegmentState {
            end: spec.end,
            bytes: 0,
            max_timestamp: TimestampMs::NONE,
            open: None,
        };
        Self::new(dir, spec, 0, state)
    }

    pub(crate) fn info(&self) -> SegmentInfo {
        let state = self.state.read();
        SegmentInfo {
            id: self.id,
            base: self.base,
            end: state.end,
            epoch: self.epoch,
            compacted_from: self.rule.compacted_from,
            bytes: state.bytes,
            max_timestamp: state.max_timestamp,
            held: self.held,
            created_wall_ms: self.created_wall_ms,
        }
    }

    /// As metadata knows it.
    pub(crate) fn spec(&self) -> SegmentSpec {
        SegmentSpec {
            id: self.id,
            base: self.base,
            epoch: self.epoch,
            end: self.end(),
            compacted_from: self.rule.compacted_from,
            held: self.held,
        }
    }

    /// Whether it has a dictionary of labels, once it is sealed.
    pub(crate) fn labelled(&self) -> Labelled {
        Labelled::from_byte(self.labelled.load(Ordering::Acquire)).unwrap_or(Labelled::NotYet)
    }

    pub(crate) fn set_labelled(&self, labelled: Labelled) {
        self.labelled.store(labelled.to_byte(), Ordering::Release);
    }

    /// Of one that is not held here: whether it may have a record with a timestamp of at least
    /// `at_least`, as far as [`crate::Partition::tell_max_timestamp`] has told.
    pub(crate) fn may_reach(&self, at_least: TimestampMs) -> bool {
        let highest = self.state.read().max_timestamp;
        highest == TimestampMs::NONE || highest >= at_least
    }

    /// Whether its files are gone or about to go.
    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> Option<Offset> {
        self.state.read().end
    }

    /// Where the batch that holds `offset` is to be looked for. May open files: blocks.
    pub(crate) fn locate_offset(&self, files: &Files, offset: Offset) -> io::Result<Located> {
        self.locate(files, |index| index.by_offset(offset))
    }

    /// Where to begin so as to reach the batch at `position`. May open files: blocks.
    pub(crate) fn locate_position(&self, files: &Files, position: u64) -> io::Result<Located> {
        self.locate(files, |index| index.by_position(position))
    }

    /// Where the first batch with a timestamp of at least `at_least`, and records from `offset`
    /// on, is to be looked for. May open files: blocks.
    pub(crate) fn locate_timestamp(
        &self,
        files: &Files,
        at_least: TimestampMs,
        offset: Offset,
    ) -> io::Result<Located> {
        self.locate(files, |index| {
            let by_time = index.by_timestamp(at_least);
            by_time.max(index.by_offset(offset))
        })
    }

    /// The offset of the first indexed batch after `position`, or else the end.
    pub(crate) fn offset_after(&self, files: &Files, position: u64, end: Offset) -> Offset {
        let from_index = |index: &Index| index.offset_after(position);
        let found = match &self.state.read().open {
            Some((_, index)) => from_index(index),
            None => files.cached(self.id).and_then(|o| from_index(&o.index)),
        };
        found.unwrap_or(end)
    }

    fn locate(&self, files: &Files, find: impl Fn(&Index) -> (u64, Offset)) -> io::Result<Located> {
        let limit;
        {
            let state = self.state.read();
            limit = state.bytes;
            if let Some((file, index)) = &state.open {
                let (start, next) = find(index);
                return Ok(Located {
                    file: file.clone(),
                    start,
                    next,
                    limit,
                });
            }
        }
        let open = files.get(self, limit)?;
        let (start, next) = find(&open.index);
        Ok(Located {
            file: open.file.clone(),
            start,
            next,
            limit,
        })
    }
}
