//! Walking the batches of a run of sealed segments, a bounded step at a time.

use std::{path::PathBuf, sync::Arc};

use mainstem_env::{Fs, OpenMode};
use mainstem_record::{BatchHeader, Offset};

use super::CompactError;
use crate::scan::{BatchReader, WINDOW_BYTES};
use crate::spec::SegmentSpec;
use crate::{scan::BatchRule, segment::Segment};

/// A sealed segment that is read.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) spec: SegmentSpec,
    pub(super) end: Offset,
    pub(super) bytes: u64,
    pub(super) created_wall_ms: i64,
    path: PathBuf,
}

/// Where a walk is.
#[derive(Clone)]
pub(super) struct Walk {
    fs: Arc<dyn Fs>,
    sources: Arc<[Source]>,
    /// Which segment, where in it, and the first offset that is free there.
    at: usize,
    position: u64,
    next: Offset,
}

/// What a visitor wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// The next batch.
    Next,
    /// Nothing more; the walk stays before this batch.
    Stop,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more.
    More,
    /// The visitor has stopped it.
    Stopped,
    /// There is nothing more.
    Done,
}

// === impl Source ===

impl Source {
    /// `None` if it is not sealed, or not held here.
    pub(super) fn of(segment: &Segment) -> Option<Self> {
        let info = segment.info();
        let end = info.end.filter(|_| info.held)?;
        Some(Self {
            spec: segment.spec(),
            end,
            bytes: info.bytes,
            created_wall_ms: info.created_wall_ms,
            path: segment.path.clone(),
        })
    }

    /// The file with its batches.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The lowest epoch of its batches.
    pub(super) fn first_epoch(&self) -> mainstem_record::LeaderEpoch {
        self.spec.compacted_from.unwrap_or(self.spec.epoch)
    }
}

// === impl Walk ===

impl Walk {
    pub(super) fn new(fs: Arc<dyn Fs>, sources: Arc<[Source]>) -> Self {
        let next = sources
            .first()
            .map_or(Offset::ZERO, |first| first.spec.base);
        Self {
            fs,
            sources,
            at: 0,
            position: 0,
            next,
        }
    }

    /// Visits checked batches until about `budget` bytes are read; takes what was read off it.
    pub(super) fn step(
        &mut self,
        budget: &mut u64,
        mut visit: impl FnMut(&BatchHeader, &[u8]) -> Result<Visit, CompactError>,
    ) -> Result<Step, CompactError> {
        while let Some(source) = self.sources.get(self.at) {
            let rule = BatchRule::of(&source.spec);
            let file = self.fs.open(&source.path, OpenMode::Read)?;
            let mut reader = BatchReader::new(&*file, source.bytes, WINDOW_BYTES);
            while self.position < source.bytes {
                if *budget == 0 {
                    return Ok(Step::More);
                }
                let damaged = |bad: &dyn std::fmt::Display| CompactError::Damaged {
                    segment: source.spec.id,
                    position: self.position,
                    reason: bad.to_string(),
                };
                let header = reader.header(self.position)?.map_err(|bad| damaged(&bad))?;
                rule.check(&header, self.next)
                    .map_err(|bad| damaged(&bad))?;
                let batch = reader.batch(self.position, &header)?;
                let batch = batch.map_err(|bad| damaged(&bad))?;
                let wanted = visit(&header, batch).map_err(|error| match error {
                    CompactError::Batch(error) => damaged(&error),
                    other => other,
                })?;
                if wanted == Visit::Stop {
                    return Ok(Step::Stopped);
                }
                self.position += header.size_bytes() as u64;
                self.next = header.next_offset();
                *budget = budget.saturating_sub(header.size_bytes() as u64);
            }
            if self.next != source.end {
                return Err(CompactError::Damaged {
                    segment: source.spec.id,
                    position: self.position,
                    reason: format!("it ends at offset {}, not {}", self.next, source.end),
                });
            }
            self.at += 1;
            self.position = 0;
            if let Some(following) = self.sources.get(self.at) {
                self.next = following.spec.base;
            }
        }
        Ok(Step::Done)
    }
}
