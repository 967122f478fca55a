//! Reading the files of a log without being its node: checking them ([`verify`]) and showing what
//! they hold ([`dump`]).
//!
//! Nothing is written, locked or changed, so the node may be running: files that grow, are sealed
//! or vanish meanwhile are expected. Every byte is taken for hostile. What a killed node leaves is
//! no damage: bytes above the synced point are a torn tail, which its next start cuts off.
//!
//! What cannot be told from these files alone is which partitions and segments the metadata knows: a
//! hole between two segments shows, and that a segment is missing which something says was synced,
//! but not that the first segments of a partition are gone, or a whole partition.
//!
//! Everything here blocks.

mod chain;
mod compare;
mod dump;
mod findings;
mod journal;
mod layout;
mod segment;
mod walk;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use mainstem_env::Fs;

use chain::Link;
pub use dump::{DumpOptions, Item, Value, dump};
pub use findings::{Finding, Problem, Severity, Summary};
use layout::{Listing, PartitionDir, SegmentFiles};
pub(crate) use segment::damaged_batches;

use crate::{
    checkpoint, dir,
    error::LogError,
    journal::{Piece, Target},
    paths,
};

/// One run over a log.
struct Checker<'a> {
    fs: &'a dyn Fs,
    summary: Summary,
    /// What the next start would write into segments.
    pieces: BTreeMap<Target, Vec<Piece>>,
    on_finding: &'a mut dyn FnMut(&Finding),
}

/// Checks every file of the log in `dir`, which is the log's own directory or the data directory
/// of its node, and tells `on_finding` what is wrong as it is found. It must not fail the caller:
/// findings never end the check.
///
/// # Errors
/// [`LogError::NoLog`] if there is no log, [`LogError::Io`] if its directory cannot be listed.
pub fn verify(
    fs: &dyn Fs,
    dir: &Path,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Summary, LogError> {
    let dir = open_dir(fs, dir)?;
    let mut checker = Checker {
        fs,
        summary: Summary::default(),
        pieces: BTreeMap::new(),
        on_finding,
    };
    checker.run(&dir)?;
    Ok(checker.summary)
}

/// The directory of the log, if there is one.
fn open_dir(fs: &dyn Fs, dir: &Path) -> Result<PathBuf, LogError> {
    let log = layout::log_dir(fs, dir).map_err(LogError::io(dir))?;
    let format = paths::format(&log);
    if fs.exists(&format).map_err(LogError::io(&format))? {
        Ok(log)
    } else {
        Err(LogError::NoLog {
            dir: log,
            missing: format,
        })
    }
}

// === impl Checker ===

impl Checker<'_> {
    fn found(&mut self, finding: Finding) {
        self.summary.count(finding.problem.severity());
        (self.on_finding)(&finding);
    }

    fn run(&mut self, dir: &Path) -> Result<(), LogError> {
        if let Err(error) = dir::check_format(self.fs, &paths::format(dir)) {
            let reason = match error {
                LogError::Format { damage, .. } => damage.to_string(),
                other => return Err(other),
            };
            self.found(Finding::new(paths::format(dir), Problem::Format { reason }));
        }
        // Before the segments: what it says must be in them, however much is appended meanwhile.
        let mut points = self.checkpoint(&paths::checkpoint(dir));
        self.journal(dir, &mut points);
        let mut others = Vec::new();
        let partitions = layout::partitions(self.fs, dir, |path| others.push(path))
            .map_err(LogError::io(paths::partitions(dir)))?;
        for path in others {
            self.other(path);
        }
        for partition in partitions {
            let synced = points.get(&partition.id).copied();
            self.partition(&partition, synced);
        }
        Ok(())
    }

    fn checkpoint(&mut self, path: &Path) -> checkpoint::Points {
        let problem = match self.fs.read(path, checkpoint::FILE_BYTES_MAX) {
            Ok(bytes) => match checkpoint::decode(&bytes) {
                Some(points) => return points,
                None => Problem::Checkpoint,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return checkpoint::Points::new();
            }
            Err(error) => Problem::io(&error),
        };
        self.found(Finding::new(path, problem));
        checkpoint::Points::new()
    }

    fn other(&mut self, path: PathBuf) {
        let problem = if layout::is_leftover(&path) {
            Problem::Leftover
        } else {
            Problem::UnknownFile
        };
        self.found(Finding::new(path, problem));
    }

    fn partition(&mut self, partition: &PartitionDir, synced: Option<checkpoint::SyncedPoint>) {
        let listing = match layout::list(self.fs, &partition.path) {
            Ok(listing) => listing,
            Err(error) => {
                self.found(Finding::new(&partition.path, Problem::io(&error)));
                return;
            }
        };
        self.summary.partitions += 1;
        let Listing {
            segments,
            leftovers,
            unknown,
        } = listing;
        for path in leftovers.into_iter().chain(unknown) {
            self.other(path);
        }
        let last = segments.iter().rev().find(|files| files.log).copied();
        let mut links = Vec::with_capacity(segments.len());
        for files in &segments {
            let mut link = Link {
                files: *files,
                end: None,
                torn: None,
            };
            if !files.log {
                // What only a recovery point tells of is judged with the others.
                if files.index {
                    self.without_batches(&partition.path, files);
                    links.push(link);
                }
                continue;
            }
            let point = synced.filter(|point| point.segment == files.id);
            if let Some(checked) = self.segment(partition, files, point) {
                if !checked.is_sealed && last != Some(*files) {
                    let path = segment::log_path(&partition.path, files);
                    self.found(Finding::new(path, Problem::NoIndex));
                }
                link.end = Some(checked.end);
                link.torn = checked.torn;
            }
            links.push(link);
        }
        self.chain(partition, segments, (links, synced));
    }

    /// An index file whose batches are not there.
    fn without_batches(&mut self, dir: &Path, files: &SegmentFiles) {
        let path = segment::log_path(dir, files);
        // The file with the batches goes first, so this may be a removal under way.
        let still_there = self.fs.exists(&path.with_extension(paths::INDEX));
        if still_there.unwrap_or(false) {
            self.found(Finding::new(path, Problem::MissingSegment));
        } else {
            self.found(Finding::new(path, Problem::Vanished));
        }
    }
}
