//! Which files there are, as a listing of the directory tells it. On a node that runs they may be
//! gone a moment later.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use mainstem_env::Fs;
use mainstem_record::{Offset, PartitionId, SegmentId};

use crate::paths;

/// The highest base offset that is looked at: far above what a log reaches, far below overflow.
const BASE_MAX: i64 = i64::MAX / 2;

/// The directory of one partition.
#[derive(Debug)]
pub(super) struct PartitionDir {
    pub(super) id: PartitionId,
    pub(super) path: PathBuf,
}

/// What there is of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFiles {
    pub(super) id: SegmentId,
    pub(super) base: Offset,
    pub(super) log: bool,
    pub(super) index: bool,
    pub(super) snapshot: bool,
}

/// What a directory of a partition holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By base offset, then by name.
    pub(super) segments: Vec<SegmentFiles>,
    /// What interrupted operations have left.
    pub(super) leftovers: Vec<PathBuf>,
    /// What is none of the log's.
    pub(super) unknown: Vec<PathBuf>,
}

/// The directory of the log in `dir`, which may be the node's data directory or its log directory.
pub(super) fn log_dir(fs: &dyn Fs, dir: &Path) -> io::Result<PathBuf> {
    let within = dir.join("log");
    let is_log = |path: &Path| fs.exists(&paths::format(path));
    if !is_log(dir)? && is_log(&within)? {
        return Ok(within);
    }
    Ok(dir.to_owned())
}

/// All partitions that have a directory, and what else lies there.
pub(super) fn partitions(
    fs: &dyn Fs,
    dir: &Path,
    mut other: impl FnMut(PathBuf),
) -> io::Result<Vec<PartitionDir>> {
    let dir = paths::partitions(dir);
    let mut found = Vec::new();
    for topic_entry in fs.read_dir(&dir)? {
        let topic_dir = dir.join(&topic_entry.name);
        let Some(topic) = paths::parse_topic(&topic_entry.name).filter(|_| topic_entry.is_dir)
        else {
            other(topic_dir);
            continue;
        };
        let entries = match fs.read_dir(&topic_dir) {
            Ok(entries) => entries,
            // A topic that was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = topic_dir.join(&entry.name);
            match paths::parse_index(&entry.name).filter(|_| entry.is_dir) {
                Some(index) => found.push(PartitionDir {
                    id: PartitionId { topic, index },
                    path,
                }),
                None => other(path),
            }
        }
    }
    Ok(found)
}

/// What is in the directory of one partition.
pub(super) fn list(fs: &dyn Fs, dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut segments: BTreeMap<(Offset, SegmentId), SegmentFiles> = BTreeMap::new();
    for entry in fs.read_dir(dir)? {
        let path = dir.join(&entry.name);
        if is_leftover(&path) {
            listing.leftovers.push(path);
            continue;
        }
        let parsed = paths::parse_segment(&entry.name)
            .filter(|(base, ..)| (0..=BASE_MAX).contains(&base.0) && !entry.is_dir);
        let Some((base, id, extension)) = parsed else {
            listing.unknown.push(path);
            continue;
        };
        let files = segments.entry((base, id)).or_insert(SegmentFiles {
            id,
            base,
            log: false,
            index: false,
            snapshot: false,
        });
        match extension {
            paths::LOG => files.log = true,
            paths::INDEX => files.index = true,
            paths::SNAPSHOT => files.snapshot = true,
            _ => listing.unknown.push(path),
        }
    }
    listing.segments = segments.into_values().collect();
    listing
        .segments
        .retain(|files| files.log || files.index || files.snapshot);
    Ok(listing)
}

/// Whether it is rubbish of an interrupted operation, by its name.
pub(super) fn is_leftover(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(
        extension,
        Some(paths::DELETED | paths::TEMPORARY | paths::COPY)
    )
}
