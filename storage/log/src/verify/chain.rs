//! Checking that the segments of a partition follow each other without a hole, and that those are
//! there which something says were synced.
//!
//! A segment that another one follows is sealed, whether or not its index file is there: it must
//! end where the next one begins, or behind that, since compaction has old and new files there at
//! once while it puts the new ones in place. The files of a node that runs change meanwhile: what
//! shows in the listing that the check began with must show in one that is made after it, too.

use std::{collections::BTreeSet, path::Path};

use mainstem_record::{Offset, SegmentId};

use super::{
    Checker, Finding, Problem,
    layout::{self, PartitionDir, SegmentFiles},
    segment::{self, Torn},
};
use crate::{checkpoint::SyncedPoint, paths};

/// One segment of a partition, as the check of its files has found it.
pub(super) struct Link {
    pub(super) files: SegmentFiles,
    /// The offset after its last record; `None` if that could not be told.
    pub(super) end: Option<Offset>,
    /// Where its batches stop, if there are bytes behind that.
    pub(super) torn: Option<Torn>,
}

/// What the files of a partition looked like before and after its segments were checked.
struct Looks {
    before: Vec<SegmentFiles>,
    after: Vec<SegmentFiles>,
}

// === impl Looks ===

impl Looks {
    /// Whether nothing has come or gone among the segments that begin there.
    fn agree(&self, from: Offset, to: Offset) -> bool {
        let between = |files: &[SegmentFiles]| -> BTreeSet<(Offset, SegmentId)> {
            let there = files
                .iter()
                .filter(|f| f.log && from <= f.base && f.base <= to);
            there.map(|f| (f.base, f.id)).collect()
        };
        between(&self.before) == between(&self.after)
    }

    /// Whether the segment has no file of batches, and none that begins at this offset or above.
    /// It would have gone after another one took its place as the active one.
    fn lack(&self, segment: SegmentId, end: Offset) -> bool {
        let lacks = |files: &[SegmentFiles]| {
            let mut there = files.iter().filter(|f| f.log);
            !there.any(|f| f.id == segment || f.base >= end)
        };
        lacks(&self.before) && lacks(&self.after)
    }
}

// === impl Checker ===

impl Checker<'_> {
    /// Checks what the segments of a partition, by base offset, are to each other.
    pub(super) fn chain(
        &mut self,
        partition: &PartitionDir,
        before: Vec<SegmentFiles>,
        (links, synced): (Vec<Link>, Option<SyncedPoint>),
    ) {
        let after = match layout::list(self.fs, &partition.path) {
            Ok(listing) => listing.segments,
            // The partition was removed meanwhile, or cannot be looked at: nothing can be judged.
            Err(error) => {
                self.found(Finding::new(&partition.path, Problem::io(&error)));
                return;
            }
        };
        let looks = Looks { before, after };
        self.holes(&partition.path, &links, &looks);
        self.synced_segments(partition, synced, &looks);
    }

    fn holes(&mut self, dir: &Path, links: &[Link], looks: &Looks) {
        // What reaches furthest so far.
        let mut furthest: Option<(SegmentFiles, Offset)> = None;
        for (number, link) in links.iter().enumerate() {
            let base = link.files.base;
            let path = segment::log_path(dir, &link.files);
            if let Some((before, end)) = furthest
                && end > base
                && link.files.log
            {
                let problem = Problem::Overlap { other: before.id };
                self.found(Finding::new(&path, problem).of(base, end));
            }
            let mut next = links.iter().skip(number + 1).map(|next| next.files);
            let next = next.find(|next| next.base > base);
            // One that cannot be looked at is named already, and may reach to the next one.
            let own_end = link.end.or(next.map(|next| next.base));
            let own = (link.files, own_end.unwrap_or(base));
            let (before, end) = furthest.filter(|(_, end)| *end > own.1).unwrap_or(own);
            furthest = Some((before, end));
            // Of those with one base the last one tells.
            let follower = links.get(number + 1).filter(|next| next.files.base > base);
            let hole = follower
                .map(|next| next.files)
                .filter(|next| end < next.base && looks.agree(before.base, next.base));
            let Some(next) = hole else {
                self.torn_tail(&path, link);
                continue;
            };
            match &link.torn {
                Some(torn) if before == link.files => {
                    let problem = Problem::Batch {
                        reason: torn.reason.clone(),
                    };
                    let finding = Finding::new(&path, problem).at(torn.position);
                    self.found(finding.of(end, next.base));
                }
                _ => {
                    self.torn_tail(&path, link);
                    let problem = Problem::Hole {
                        before: name(&before),
                        after: name(&next),
                    };
                    self.found(Finding::new(dir, problem).of(end, next.base));
                }
            }
        }
    }

    fn torn_tail(&mut self, path: &Path, link: &Link) {
        if let Some(Torn {
            position, bytes, ..
        }) = link.torn
        {
            self.found(Finding::new(path, Problem::TornTail { bytes }).at(position));
        }
    }

    /// The segments that the checkpoint, the journal or a recovery point says were synced.
    fn synced_segments(
        &mut self,
        partition: &PartitionDir,
        synced: Option<SyncedPoint>,
        looks: &Looks,
    ) {
        let missing = synced
            .filter(|point| point.position > 0 && looks.lack(point.segment, point.offset))
            .map(|point| (point.segment, point.offset));
        let mut is_named = false;
        for files in looks.before.iter().filter(|f| !f.log) {
            let is_missing = missing.is_some_and(|(id, _)| id == files.id);
            is_named |= is_missing;
            // One with an index file is judged already.
            if !files.index {
                let path = segment::log_path(&partition.path, files);
                let problem = if is_missing || self.snapshot_lacks(&path, files, looks) {
                    Problem::MissingSegment
                } else {
                    Problem::Vanished
                };
                self.found(Finding::new(path, problem));
            }
        }
        if let Some((segment, end)) = missing.filter(|_| !is_named) {
            let problem = Problem::MissingSynced { segment, end };
            self.found(Finding::new(&partition.path, problem));
        }
    }

    /// Whether the recovery point tells of batches that are not there.
    fn snapshot_lacks(&self, log: &Path, files: &SegmentFiles, looks: &Looks) -> bool {
        let snapshot = log.with_extension(paths::SNAPSHOT);
        segment::index_file(self.fs, &snapshot).is_ok_and(|contents| {
            let header = &contents.header;
            let is_this = header.segment == files.id && header.base == files.base;
            is_this && header.bytes > 0 && looks.lack(files.id, header.end)
        })
    }
}

fn name(files: &SegmentFiles) -> String {
    let path = segment::log_path(Path::new(""), files);
    path.display().to_string()
}
