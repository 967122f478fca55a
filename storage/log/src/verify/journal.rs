//! The journal: what its rings hold above the segments' files counts as stored, since the next start
//! writes it there.
//!
//! A node that runs writes its rings while they are read: what does not fit together is read again,
//! and is no damage if the ring has moved on meanwhile.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::PartitionId;

use super::{Checker, Finding, Problem};
use crate::{
    checkpoint::{Points, SyncedPoint},
    error::LogError,
    journal::{Piece, Plan, Target, look_at_ring},
    paths,
};

/// How often a ring that does not fit together is read.
const TRIES: usize = 3;

/// A segment's file, with what a start would write into it from the journal.
struct Overlay {
    file: Arc<dyn File>,
    pieces: Vec<Piece>,
    len: u64,
}

// === impl Checker ===

impl Checker<'_> {
    /// Reads all rings, and raises the synced points by what they say.
    pub(super) fn journal(&mut self, dir: &Path, points: &mut Points) {
        let journal = paths::journal(dir);
        let entries = match self.fs.read_dir(&journal) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.found(Finding::new(journal, Problem::io(&error)));
                return;
            }
        };
        for entry in entries {
            let path = journal.join(&entry.name);
            if paths::parse_ring(&entry.name).is_none() {
                self.other(path);
                continue;
            }
            match read_ring(self.fs, &path) {
                Ok(found) => {
                    for (id, point) in found.points {
                        raise(points, id, point);
                    }
                    for (target, pieces) in found.pieces {
                        self.pieces.entry(target).or_default().extend(pieces);
                    }
                }
                Err(problem) => self.found(Finding::new(path, problem)),
            }
        }
    }

    /// The file of a segment as the next start would make it.
    pub(super) fn with_journal(
        &mut self,
        (file, path): (Arc<dyn File>, &Path),
        target: Target,
    ) -> io::Result<Arc<dyn File>> {
        let Some(pieces) = self.pieces.remove(&target) else {
            return Ok(file);
        };
        let before = file.len()?;
        let overlay = Overlay::new(file, pieces, before)?;
        if overlay.len > before {
            let bytes = overlay.len - before;
            self.found(Finding::new(path, Problem::Journalled { bytes }).at(before));
        }
        Ok(Arc::new(overlay))
    }
}

fn raise(points: &mut Points, id: PartitionId, point: SyncedPoint) {
    let known = points.entry(id).or_insert(point);
    if known.offset < point.offset {
        *known = point;
    }
}

fn read_ring(fs: &dyn Fs, path: &Path) -> Result<Plan, Problem> {
    let mut before = None;
    for _ in 0..TRIES {
        let file = match fs.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) => return Err(Problem::io(&error)),
        };
        let mut plan = Plan::default();
        let problem = match look_at_ring(file, path, &mut plan) {
            Ok(_) => return Ok(plan),
            Err(LogError::Io { source, .. }) => Problem::io(&source),
            Err(error) => Problem::Journal {
                reason: error.to_string(),
            },
        };
        if before.as_ref() == Some(&problem) {
            return Err(problem);
        }
        before = Some(problem);
    }
    // Each time something else: the node writes to it.
    Ok(Plan::default())
}

// === impl Overlay ===

impl Overlay {
    /// Takes what fits: nothing is written behind a hole, as at a start.
    fn new(file: Arc<dyn File>, pieces: Vec<Piece>, before: u64) -> io::Result<Self> {
        let mut len = before;
        let mut kept = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if piece.entry.position > len {
                break;
            }
            // A payload that is damaged in the ring may be whole in the file.
            if piece.is_good()? {
                len = len.max(piece.end());
                kept.push(piece);
            }
        }
        Ok(Self {
            file,
            pieces: kept,
            len,
        })
    }
}

impl File for Overlay {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let room = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(room);
        let Some(buffer) = buffer.get_mut(..wanted) else {
            return Ok(0);
        };
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        // The later ones count where they overlap.
        for piece in &self.pieces {
            let (start, end) = (piece.entry.position, piece.end());
            let from = start.max(offset);
            let to = end.min(offset + buffer.len() as u64);
            if from < to {
                let place = (from - offset) as usize..(to - offset) as usize;
                if let Some(place) = buffer.get_mut(place) {
                    piece.file.read_exact_at(place, piece.at + (from - start))?;
                }
            }
        }
        Ok(buffer.len())
    }

    fn write_all_vectored_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
