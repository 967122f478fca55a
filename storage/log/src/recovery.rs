//! Opening a partition: what is on disk is checked against the chain that metadata knows.
//!
//! - A sealed segment with a good index file is taken as it is; damage in it is found by whoever
//!   reads it. Without one it is scanned, cut to its sealed end, and the index file made again; if
//!   it does not reach its end, the range that is missing answers [`crate::ReadError::Damaged`].
//! - The active segment is scanned from its recovery point on, from its start if it has none. A
//!   bad tail is cut if it begins at or above the synced point; below it the partition has failed
//!   and nothing is cut. What lies below the recovery point is not looked at: damage there is met
//!   by readers.
//!
//! Everything here blocks.

mod active;
mod cut;
mod replaced;
mod sealed;

pub(crate) use sealed::good_header;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::Fs;
use mainstem_record::Offset;
use parking_lot::RwLock;

pub(crate) use active::create_active;
pub(crate) use cut::{Rebuilt, rebuild};

use crate::{
    active::Active,
    checkpoint::SyncedPoint,
    damage::DamageKind,
    dedupe::Dedupe,
    error::LogError,
    event::PartitionFailure,
    files::delete_file,
    paths,
    pool::ShardPool,
    progress::Progress,
    segment::Segment,
    spec::{Commit, Ends, PartitionSpec, Role, SegmentSpec},
    trash,
};

/// What recovery needs to know besides the chain.
pub(crate) struct RecoverOptions {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) pool: ShardPool,
    pub(crate) wall_ms: i64,
    pub(crate) index_interval: u32,
    pub(crate) expiry_ms: i64,
    pub(crate) decompressed_bytes_max: usize,
    /// The last run ended with a clean stop.
    pub(crate) clean: bool,
    /// Up to where the active segment is known to be synced.
    pub(crate) synced: Option<SyncedPoint>,
    /// The directory of the log.
    pub(crate) log_dir: PathBuf,
    pub(crate) progress: Arc<Progress>,
    /// Held while directories are made: the directory of a topic is not removed meanwhile. Only
    /// threads that may block wait for it.
    pub(crate) dirs: Arc<RwLock<()>>,
}

/// A partition that can be used.
pub(crate) struct Recovered {
    pub(crate) chain: Vec<Arc<Segment>>,
    pub(crate) active: Option<Active>,
    pub(crate) ends: Ends,
    pub(crate) dedupe: Dedupe,
    /// Sealed segments that are not whole.
    pub(crate) damaged: Vec<(Arc<Segment>, DamageKind)>,
    pub(crate) failure: Option<PartitionFailure>,
    /// What is remembered at its base is not known.
    pub(crate) needs_memory: bool,
}

/// Opens the partition in `dir`, and makes what is new.
pub(crate) fn recover(
    options: &RecoverOptions,
    dir: &Path,
    spec: &PartitionSpec,
) -> Result<Recovered, LogError> {
    check_chain(spec)?;
    {
        let _dirs = options.dirs.read();
        make_dir(&*options.fs, dir)?;
    }
    let sealed: Vec<SegmentSpec> = spec.segments.iter().copied().filter(is_sealed).collect();
    let replaced = tidy(options, dir, spec)?;
    let mut chain = Vec::with_capacity(spec.segments.len());
    let mut damaged = Vec::new();
    for (at, segment) in sealed.iter().enumerate() {
        let before = held_run(sealed.get(..at).unwrap_or_default());
        if !segment.held {
            chain.push(Arc::new(Segment::not_held(dir, segment)));
            continue;
        }
        let (segment, damage) = sealed::open(options, dir, segment, before)?;
        damaged.extend(damage.map(|kind| (segment.clone(), kind)));
        chain.push(segment);
    }
    let dedupe_after_sealed = || sealed::dedupe_after(options, dir, held_run(&sealed));
    let first = spec.segments.first().map_or(spec.log_start, |s| s.base);
    let last_end = spec.segments.iter().rev().find_map(|segment| segment.end);
    let mut end = last_end.unwrap_or(first);
    let (mut active, mut failure) = (None, None);
    let mut needs_memory = !is_memory_known(spec, &sealed, end);
    let dedupe;
    let last = spec.segments.last().filter(|s| s.end.is_none());
    if let Some(last) = last.filter(|last| last.held) {
        let before = || match replaced::dedupe(options, dir, &replaced)? {
            Some(dedupe) => Ok(dedupe),
            None => dedupe_after_sealed(),
        };
        let found = active::open(options, dir, (last, !needs_memory), before)?;
        if found.failure.is_none() {
            replaced::remove_points(options, dir, &replaced)?;
        }
        needs_memory &= !found.began;
        chain.push(found.segment);
        active = found.active;
        failure = found.failure;
        end = found.end;
        dedupe = found.dedupe;
    } else {
        dedupe = dedupe_after_sealed()?;
        if let Some(last) = last {
            chain.push(Arc::new(Segment::not_held(dir, last)));
            end = last.base;
        }
    }
    // Where records were lost that had not been synced, the log may end below its start: offsets
    // are given out again from there on, and those records must be readable.
    let log_start = spec.log_start.max(first).min(end);
    let committed_end = match spec.role {
        Role::Leader(Commit::Own) => end,
        // What the high watermark was is not known; all below the segment is sealed (R14).
        Role::Leader(Commit::External) | Role::Follower | Role::Fenced => {
            let sealed = last.map_or(end, |last| last.base);
            sealed.max(log_start).min(end)
        }
    };
    Ok(Recovered {
        chain,
        active,
        ends: Ends {
            log_start,
            log_end: end,
            synced_end: end,
            committed_end,
        },
        dedupe,
        damaged,
        failure,
        needs_memory,
    })
}

/// What the partition remembers at the end of these sealed segments, as far as those say that are here
/// and come last. Blocks.
pub(crate) fn dedupe_before(
    options: &RecoverOptions,
    dir: &Path,
    before: &[SegmentSpec],
) -> Result<Dedupe, LogError> {
    sealed::dedupe_after(options, dir, held_run(before))
}

/// Those of these neighbours that come last and are here: what they tell of producers is whole.
fn held_run(sealed: &[SegmentSpec]) -> &[SegmentSpec] {
    let begins = sealed.iter().rposition(|segment| !segment.held);
    sealed
        .get(begins.map_or(0, |at| at + 1)..)
        .unwrap_or(sealed)
}

/// Whether it can be told here what is remembered after the sealed segments, which end at `end`.
fn is_memory_known(spec: &PartitionSpec, sealed: &[SegmentSpec], end: Offset) -> bool {
    match sealed.last() {
        Some(last) => last.held,
        // Nothing was ever dropped, or by a node that was ever alone, which remembers it.
        None => {
            let nothing = spec.log_start == Offset::ZERO || end == Offset::ZERO;
            nothing || spec.role == Role::Leader(Commit::Own)
        }
    }
}

/// Sealed, and not empty: an empty segment has no file.
fn is_sealed(segment: &SegmentSpec) -> bool {
    segment.end.is_some_and(|end| end > segment.base)
}

/// Segments follow each other, and only the last may be active. Holes between them are possible:
/// an unclean recovery leaves them.
fn check_chain(spec: &PartitionSpec) -> Result<(), LogError> {
    let mut next = Some(Offset::ZERO);
    for segment in &spec.segments {
        let follows = next.is_some_and(|next| segment.base >= next);
        let forward = segment.end.is_none_or(|end| end >= segment.base);
        if !follows || !forward {
            return Err(LogError::Chain(spec.id));
        }
        next = segment.end;
    }
    Ok(())
}

/// Makes the directory of a partition so that it is there after a crash.
fn make_dir(fs: &dyn Fs, dir: &Path) -> Result<(), LogError> {
    // Files come after all of this; a directory without any may be of a start that died before its
    // name was durable.
    let exists = fs.exists(dir).map_err(LogError::io(dir))?;
    if exists && !fs.read_dir(dir).map_err(LogError::io(dir))?.is_empty() {
        return Ok(());
    }
    fs.create_dir_all(dir).map_err(LogError::io(dir))?;
    // The partition in its topic, the topic among the partitions.
    for parent in dir.ancestors().skip(1).take(2) {
        fs.sync_dir(parent).map_err(LogError::io(parent))?;
    }
    Ok(())
}

/// Removes what interrupted operations left, segments older than the chain (they were dropped by
/// metadata, and the process ended before their files were gone), and those of which a compacted one
/// has taken the place. Other segments that metadata does not name are moved aside. Returns the
/// recovery points of what the active segment has replaced, which stay.
fn tidy(
    options: &RecoverOptions,
    dir: &Path,
    spec: &PartitionSpec,
) -> Result<Vec<String>, LogError> {
    let fs = &*options.fs;
    let mut replaced = Vec::new();
    let first = spec.segments.first().map(|segment| segment.base);
    for entry in fs.read_dir(dir).map_err(LogError::io(dir))? {
        let path = dir.join(&entry.name);
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some(paths::DELETED | paths::TEMPORARY)) {
            fs.remove_file(&path).map_err(LogError::io(&path))?;
            continue;
        }
        let Some((base, id, extension)) = paths::parse_segment(&entry.name) else {
            tracing::warn!(path = %path.display(), "a file that is none of the log's");
            continue;
        };
        if replaced::is_point(spec, &entry.name) {
            replaced.push(entry.name);
            continue;
        }
        let known = spec.segments.iter().find(|s| s.id == id && s.base == base);
        if let Some(known) = known {
            // A recovery point of what has been sealed, once the index file is there.
            let is_behind = extension == paths::SNAPSHOT && good_header(fs, &path, known).is_some();
            // A copy of it was begun, and completed under its own name.
            let is_copied = known.held && path.extension().is_some_and(|e| e == paths::COPY);
            if is_behind || is_copied {
                fs.remove_file(&path).map_err(LogError::io(&path))?;
            }
            continue;
        }
        // An empty file is nobody's loss.
        let is_rubbish = first.is_some_and(|first| base < first) || entry.len == 0;
        if is_rubbish || is_replaced(fs, dir, spec, base)? {
            delete_file(fs, &path).map_err(LogError::io(&path))?;
            continue;
        }
        let what = format!("{}-{}-{}", spec.id.topic.0, spec.id.index.0, entry.name);
        let place = trash::put(fs, &options.log_dir, &path, (&what, options.wall_ms))
            .map_err(LogError::io(&path))?;
        tracing::warn!(
            path = %path.display(), moved_to = %place.display(),
            "metadata does not name this segment; it is removed in a day"
        );
    }
    Ok(replaced)
}

/// Whether another, sealed segment has the records of an unknown one with that base: it was replaced
/// by that one, or was to replace it and that was not committed.
fn is_replaced(
    fs: &dyn Fs,
    dir: &Path,
    spec: &PartitionSpec,
    base: Offset,
) -> Result<bool, LogError> {
    let holds =
        |known: &&SegmentSpec| known.base <= base && known.end.is_some_and(|end| base < end);
    let Some(known) = spec.segments.iter().find(holds) else {
        return Ok(false);
    };
    // If that one is lost, this may be all that is left.
    let path = paths::segment(dir, known.base, known.id);
    fs.exists(&path).map_err(LogError::io(&path))
}
