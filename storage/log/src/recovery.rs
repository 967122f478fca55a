//! Opening a partition: what is on disk is checked against the chain that metadata knows.
//!
//! - A sealed segment with a good index file is taken as it is; damage in it is found by whoever
//!   reads it. Without one it is scanned, cut to its sealed end, and the index file made again; if
//!   it does not reach its end, the range that is missing answers [`crate::ReadError::Damaged`].
//! - The active segment is taken as it is after a clean stop, else scanned from its start. A bad
//!   tail is cut if it begins at or above the synced point; below it the partition has failed and
//!   nothing is cut.
//!
//! Everything here blocks.

mod sealed;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::Offset;

use crate::{
    active::Active,
    checkpoint::SyncedPoint,
    dedupe::Dedupe,
    digest::Digest,
    error::LogError,
    event::PartitionFailure,
    files::delete_file,
    index::Index,
    index_file::{self, Contents, INDEX_FILE_BYTES_MAX},
    paths,
    scan::{BatchRule, Scan, ScanOptions, index_headers, rewrite, scan},
    segment::{Segment, SegmentState},
    spec::{Ends, Flush, PartitionSpec, SegmentSpec},
};

/// What recovery needs to know besides the chain.
pub(crate) struct RecoverOptions {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) wall_ms: i64,
    pub(crate) index_interval: u32,
    pub(crate) expiry_ms: i64,
    pub(crate) decompressed_bytes_max: usize,
    /// The run that ended with a clean stop, if the last one did.
    pub(crate) clean_run: Option<u128>,
    /// Up to where the active segment is known to be synced.
    pub(crate) synced: Option<SyncedPoint>,
}

/// A partition that can be used.
pub(crate) struct Recovered {
    pub(crate) chain: Vec<Arc<Segment>>,
    pub(crate) active: Option<Active>,
    pub(crate) ends: Ends,
    pub(crate) dedupe: Dedupe,
    pub(crate) failure: Option<PartitionFailure>,
}

/// The active segment as it was found.
struct Found {
    segment: Arc<Segment>,
    active: Option<Active>,
    end: Offset,
    failure: Option<PartitionFailure>,
}

/// Opens the partition in `dir`, and makes what is new.
pub(crate) fn recover(
    options: &RecoverOptions,
    dir: &Path,
    spec: &PartitionSpec,
) -> Result<Recovered, LogError> {
    check_chain(spec)?;
    make_dir(&*options.fs, dir)?;
    let sealed: Vec<SegmentSpec> = spec.segments.iter().copied().filter(is_sealed).collect();
    tidy(options, dir, spec)?;
    let mut chain = Vec::with_capacity(spec.segments.len());
    for (at, segment) in sealed.iter().enumerate() {
        let previous = at.checked_sub(1).and_then(|before| sealed.get(before));
        chain.push(sealed::open(options, dir, segment, previous)?);
    }
    let mut dedupe = match sealed.last() {
        Some(last) => sealed::dedupe_after(options, dir, last),
        None => Dedupe::new(options.expiry_ms),
    };
    let first = spec.segments.first().map_or(spec.log_start, |s| s.base);
    let last_end = spec.segments.iter().rev().find_map(|segment| segment.end);
    let mut end = last_end.unwrap_or(first);
    let (mut active, mut failure) = (None, None);
    if let Some(last) = spec.segments.last().filter(|s| s.end.is_none()) {
        let found = open_active(options, dir, (last, spec.settings.flush), &mut dedupe)?;
        chain.push(found.segment);
        active = found.active;
        failure = found.failure;
        end = found.end;
    }
    // Where records were lost that had not been synced, the log may end below its start: offsets
    // are given out again from there on, and those records must be readable.
    let log_start = spec.log_start.max(first).min(end);
    Ok(Recovered {
        chain,
        active,
        ends: Ends {
            log_start,
            log_end: end,
            synced_end: end,
            committed_end: end,
        },
        dedupe,
        failure,
    })
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
    if fs.exists(dir).map_err(LogError::io(dir))? {
        return Ok(());
    }
    fs.create_dir_all(dir).map_err(LogError::io(dir))?;
    // The partition in its topic, the topic among the partitions.
    for parent in dir.ancestors().skip(1).take(2) {
        fs.sync_dir(parent).map_err(LogError::io(parent))?;
    }
    Ok(())
}

/// Removes what interrupted operations left, and segments older than the chain: they were dropped
/// by metadata, and the process ended before their files were gone.
fn tidy(options: &RecoverOptions, dir: &Path, spec: &PartitionSpec) -> Result<(), LogError> {
    let fs = &*options.fs;
    let first = spec.segments.first().map(|segment| segment.base);
    for entry in fs.read_dir(dir).map_err(LogError::io(dir))? {
        let path = dir.join(&entry.name);
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some(paths::DELETED | paths::TEMPORARY)) {
            fs.remove_file(&path).map_err(LogError::io(&path))?;
            continue;
        }
        let Some((base, id, _)) = paths::parse_segment(&entry.name) else {
            tracing::warn!(path = %path.display(), "a file that is none of the log's");
            continue;
        };
        if spec.segments.iter().any(|s| s.id == id && s.base == base) {
            continue;
        }
        if first.is_some_and(|first| base < first) {
            delete_file(fs, &path).map_err(LogError::io(&path))?;
        } else {
            tracing::warn!(path = %path.display(), "a segment that metadata does not know");
        }
    }
    Ok(())
}

/// Makes the file of a new active segment, or takes an empty one that is there.
pub(crate) fn create_active(
    fs: &dyn Fs,
    dir: &Path,
    spec: &SegmentSpec,
    index_interval: u32,
    wall_ms: i64,
) -> io::Result<Active> {
    let path = paths::segment(dir, spec.base, spec.id);
    let file = fs.open(&path, OpenMode::Create)?;
    if !file.is_empty()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs.sync_dir(dir)?;
    let index = Index::new(spec.base, index_interval);
    let segment = active_segment(dir, spec, wall_ms, file.clone(), index, 0);
    Ok(Active::new(segment, file, (spec.base, 0), Digest::new()))
}

fn active_segment(
    dir: &Path,
    spec: &SegmentSpec,
    created_wall_ms: i64,
    file: Arc<dyn File>,
    index: Index,
    bytes: u64,
) -> Arc<Segment> {
    let state = SegmentState {
        end: None,
        bytes,
        max_timestamp: index.max_timestamp(),
        open: Some((file, index)),
    };
    Arc::new(Segment::new(dir, spec, created_wall_ms, state))
}

fn open_active(
    options: &RecoverOptions,
    dir: &Path,
    (spec, flush): (&SegmentSpec, Flush),
    dedupe: &mut Dedupe,
) -> Result<Found, LogError> {
    let fs = &*options.fs;
    let path = paths::segment(dir, spec.base, spec.id);
    let synced = options.synced.filter(|point| point.segment == spec.id);
    let synced_bytes = synced.map_or(0, |point| point.position);
    // An index file of a segment that is not sealed would soon be out of date.
    let index_path = path.with_extension(paths::INDEX);
    delete_file(fs, &index_path).map_err(LogError::io(&index_path))?;
    let snapshot_path = path.with_extension(paths::SNAPSHOT);
    let snapshot = read_snapshot(options, &snapshot_path, spec);
    delete_file(fs, &snapshot_path).map_err(LogError::io(&snapshot_path))?;

    let file = match fs.open(&path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && synced_bytes == 0 => {
            let active = create_active(fs, dir, spec, options.index_interval, options.wall_ms)
                .map_err(LogError::io(&path))?;
            return Ok(Found {
                segment: active.segment.clone(),
                end: spec.base,
                active: Some(active),
                failure: None,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(missing_active(options, dir, spec, &path, synced));
        }
        Err(error) => return Err(LogError::io(path)(error)),
    };
    let len = file.len().map_err(LogError::io(&path))?;
    if let Some(contents) = snapshot
        && contents.header.bytes == len
    {
        return Ok(from_snapshot(dir, spec, file, contents, dedupe));
    }
    scan_active(options, dir, (spec, flush), (path, file, len), dedupe)
}

/// Finds out how much of the active segment is good.
fn scan_active(
    options: &RecoverOptions,
    dir: &Path,
    (spec, flush): (&SegmentSpec, Flush),
    (path, file, len): (PathBuf, Arc<dyn File>, u64),
    dedupe: &mut Dedupe,
) -> Result<Found, LogError> {
    let synced = options.synced.filter(|point| point.segment == spec.id);
    let synced_bytes = synced.map_or(0, |point| point.position);
    let scan_options = ScanOptions {
        base: spec.base,
        rule: BatchRule::of(spec),
        limit: len,
        stop_at: None,
        index_interval: options.index_interval,
        wall_ms: options.wall_ms,
        decompressed_bytes_max: options.decompressed_bytes_max,
    };
    let scan = scan(&*file, &scan_options, dedupe).map_err(LogError::io(&path))?;
    if scan.position < synced_bytes {
        return damaged(options, dir, spec, (&path, file, len), (scan, synced));
    }
    if scan.position < len {
        let reason = scan.bad.as_ref().map(ToString::to_string);
        tracing::warn!(
            path = %path.display(), position = scan.position, cut_bytes = len - scan.position,
            reason, "cutting a torn tail above the synced point"
        );
        file.set_len(scan.position).map_err(LogError::io(&path))?;
    }
    // What was written before a crash may be in the page cache only; it counts from now on.
    if flush != Flush::Os {
        rewrite(&*file, synced_bytes, scan.position).map_err(LogError::io(&path))?;
    }
    file.sync_all().map_err(LogError::io(&path))?;
    options.fs.sync_dir(dir).map_err(LogError::io(dir))?;
    let segment = active_segment(
        dir,
        spec,
        options.wall_ms,
        file.clone(),
        scan.index,
        scan.position,
    );
    let at = (scan.next, scan.position);
    let active = Active::new(segment.clone(), file, at, scan.digest);
    Ok(Found {
        segment,
        active: Some(active),
        end: scan.next,
        failure: None,
    })
}

/// The file that a clean stop left beside the active segment.
fn read_snapshot(options: &RecoverOptions, path: &Path, spec: &SegmentSpec) -> Option<Contents> {
    let clean_run = options.clean_run?;
    let bytes = options.fs.read(path, INDEX_FILE_BYTES_MAX).ok()?;
    let contents = index_file::decode(&bytes, options.index_interval, options.expiry_ms).ok()?;
    let header = &contents.header;
    let ours = header.segment == spec.id && header.base == spec.base && header.epoch == spec.epoch;
    (ours && contents.run == Some(clean_run)).then_some(contents)
}

fn from_snapshot(
    dir: &Path,
    spec: &SegmentSpec,
    file: Arc<dyn File>,
    contents: Contents,
    dedupe: &mut Dedupe,
) -> Found {
    let header = contents.header;
    *dedupe = contents.dedupe;
    let segment = active_segment(
        dir,
        spec,
        header.created_wall_ms,
        file.clone(),
        contents.index,
        header.bytes,
    );
    let at = (header.end, header.bytes);
    let active = Active::new(segment.clone(), file, at, contents.digest);
    Found {
        segment,
        active: Some(active),
        end: header.end,
        failure: None,
    }
}

fn missing_active(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
    path: &Path,
    synced: Option<SyncedPoint>,
) -> Found {
    let state = SegmentState {
        end: None,
        bytes: 0,
        max_timestamp: mainstem_record::TimestampMs::NONE,
        open: None,
    };
    let failure = failure(path, 0, synced);
    Found {
        segment: Arc::new(Segment::new(dir, spec, options.wall_ms, state)),
        active: None,
        end: synced.map_or(spec.base, |point| point.offset),
        failure: Some(failure),
    }
}

/// Damage below the synced point: everything is left as it is, and what can be read is read.
fn damaged(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
    (path, file, len): (&PathBuf, Arc<dyn File>, u64),
    (scan, synced): (Scan, Option<SyncedPoint>),
) -> Result<Found, LogError> {
    let reason = scan.bad.as_ref().map(ToString::to_string);
    let failure = failure(path, scan.position, synced);
    tracing::error!(%failure, reason, "the partition has failed");
    let index = index_headers(
        &*file,
        (spec.base, BatchRule::of(spec)),
        options.index_interval,
        len,
    )
    .map_err(LogError::io(path))?;
    Ok(Found {
        segment: active_segment(dir, spec, options.wall_ms, file, index, len),
        active: None,
        // Readers must meet the damage, not an end of the log before it.
        end: synced.map_or(scan.next, |point| point.offset.max(scan.next)),
        failure: Some(failure),
    })
}

fn failure(path: &Path, position: u64, synced: Option<SyncedPoint>) -> PartitionFailure {
    PartitionFailure::Damaged {
        path: path.to_owned(),
        position,
        synced: synced.map_or(0, |point| point.position),
    }
}
