//! Opening sealed segments.

use std::{io, path::Path, sync::Arc};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::TimestampMs;

use super::RecoverOptions;
use crate::{
    damage::DamageKind,
    dedupe::Dedupe,
    digest::digest_of_chunks,
    error::LogError,
    index_file::{self, Contents, HEADER_PREFIX_BYTES, Header, INDEX_FILE_BYTES_MAX, Labelled},
    paths,
    scan::{BatchRule, Scan, ScanOptions, read_range, scan},
    segment::{Segment, SegmentState},
    spec::SegmentSpec,
};

/// A sealed segment, and what is wrong with it.
type Opened = (Arc<Segment>, Option<DamageKind>);

/// Opens a sealed segment. Damage is no error here: it is reported, and met by readers.
///
/// `before` are the sealed segments before it, opened already.
pub(super) fn open(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
    before: &[SegmentSpec],
) -> Result<Opened, LogError> {
    let path = paths::segment(dir, spec.base, spec.id);
    if let Some(header) = good_header(&*options.fs, &path, spec) {
        let opened = options.fs.open(&path, OpenMode::Read);
        let damage = match opened.and_then(|file| file.len()) {
            Ok(len) if len >= header.bytes => None,
            Ok(len) => {
                tracing::error!(
                    path = %path.display(), bytes = len, sealed_bytes = header.bytes,
                    "a sealed segment is short"
                );
                Some(DamageKind::Short)
            }
            Err(error) => Some(unopened(&path, &error)),
        };
        let state = SegmentState {
            end: spec.end,
            bytes: header.bytes,
            max_timestamp: TimestampMs(header.max_timestamp.max(TimestampMs::NONE.0)),
            open: None,
        };
        let segment = Segment::new(dir, spec, header.created_wall_ms, state);
        segment.set_labelled(header.labelled);
        return Ok((Arc::new(segment), damage));
    }
    let mut dedupe = dedupe_after(options, dir, before)?;
    rebuild(options, dir, spec, &mut dedupe)
}

/// Tells that the file of a sealed segment cannot be opened: its range is lost, all else is served.
fn unopened(path: &Path, error: &io::Error) -> DamageKind {
    if error.kind() == io::ErrorKind::NotFound {
        tracing::error!(path = %path.display(), "a sealed segment is missing");
        DamageKind::Missing
    } else {
        tracing::error!(path = %path.display(), %error, "a sealed segment cannot be opened");
        DamageKind::Unreadable
    }
}

/// Whether there is nothing to be read, now or later: it is not there, or not a file that this
/// process can read. Whatever else the disk says may be over at the next try.
fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput
    )
}

/// What the partition remembers at the end of these sealed segments: what the newest good index
/// file says, and what the batches after it do. What the disk refuses to read is an error, not
/// forgotten: a producer that is forgotten may store its batch twice.
pub(super) fn dedupe_after(
    options: &RecoverOptions,
    dir: &Path,
    sealed: &[SegmentSpec],
) -> Result<Dedupe, LogError> {
    let mut dedupe = Dedupe::new(options.expiry_ms);
    let mut unread = Vec::new();
    for spec in sealed.iter().rev() {
        if let Some(contents) = decoded(options, dir, spec)? {
            dedupe = contents.dedupe;
            break;
        }
        let point = last_point(options, dir, spec)?;
        let remembers = point.is_some();
        unread.push((spec, point));
        if remembers {
            break;
        }
    }
    for (spec, point) in unread.into_iter().rev() {
        let path = paths::segment(dir, spec.base, spec.id);
        match options.fs.open(&path, OpenMode::Read) {
            Ok(file) => {
                scan_sealed(options, &*file, (spec, point), &mut dedupe)
                    .map_err(LogError::io(path))?;
            }
            // Its loss has been told when it was opened.
            Err(error) if is_lost(&error) => {
                dedupe = point.map_or(dedupe, |point| point.dedupe);
            }
            Err(error) => return Err(LogError::io(path)(error)),
        }
    }
    Ok(dedupe)
}

/// The header of the index file, if there is a good one for just this segment.
pub(crate) fn good_header(fs: &dyn Fs, path: &Path, spec: &SegmentSpec) -> Option<Header> {
    let file = fs.open(&path.with_extension(paths::INDEX), OpenMode::Read);
    let prefix = read_range(&*file.ok()?, 0, HEADER_PREFIX_BYTES as u64).ok()?;
    let header = index_file::decode_header(&prefix).ok()?;
    let ours = header.segment == spec.id
        && header.base == spec.base
        && header.epoch == spec.epoch
        && header.compacted_from == spec.compacted_from
        && Some(header.end) == spec.end;
    ours.then_some(header)
}

/// The index file, if there is a good one.
fn decoded(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
) -> Result<Option<Contents>, LogError> {
    let path = paths::segment(dir, spec.base, spec.id).with_extension(paths::INDEX);
    let ours = |contents: &Contents| {
        contents.header.segment == spec.id && Some(contents.header.end) == spec.end
    };
    Ok(read_contents(options, &path)?.filter(ours))
}

/// The last recovery point of a segment that was sealed, if its index file was not written any more.
fn last_point(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
) -> Result<Option<Contents>, LogError> {
    let path = paths::segment(dir, spec.base, spec.id).with_extension(paths::SNAPSHOT);
    let ours = |contents: &Contents| {
        contents.header.segment == spec.id
            && contents.header.base == spec.base
            && Some(contents.header.end) <= spec.end
    };
    Ok(read_contents(options, &path)?.filter(ours))
}

/// An index file or a recovery point, if there is a good one. What the disk refuses to read is an
/// error.
pub(super) fn read_contents(
    options: &RecoverOptions,
    path: &Path,
) -> Result<Option<Contents>, LogError> {
    let bytes = match options.fs.read(path, INDEX_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::UnexpectedEof => return Ok(None),
            _ => return Err(LogError::io(path)(error)),
        },
    };
    Ok(index_file::decode(&bytes, options.index_interval, options.expiry_ms).ok())
}

fn scan_sealed(
    options: &RecoverOptions,
    file: &dyn File,
    (spec, point): (&SegmentSpec, Option<Contents>),
    dedupe: &mut Dedupe,
) -> io::Result<Scan> {
    let mut scan_options = ScanOptions {
        rule: BatchRule::of(spec),
        limit: file.len()?,
        stop_at: spec.end,
        wall_ms: options.wall_ms,
        decompressed_bytes_max: options.decompressed_bytes_max,
    };
    let mut scanned = Scan::new(spec.base, options.index_interval);
    if let Some(point) = point {
        // The point remembers what is below it, and also what was before the segment.
        scan_options.stop_at = Some(point.header.end);
        let mut known = Dedupe::new(options.expiry_ms);
        scanned = scan(file, &scan_options, scanned, &mut known)?;
        scan_options.stop_at = spec.end;
        *dedupe = point.dedupe;
    }
    if scanned.bad.is_none() {
        scanned = scan(file, &scan_options, scanned, dedupe)?;
    }
    options.progress.scanned(scanned.position);
    Ok(scanned)
}

/// Checks the batches of a segment without a good index file, cuts what lies above the sealed
/// end (it was never acknowledged), and writes the index file.
fn rebuild(
    options: &RecoverOptions,
    dir: &Path,
    spec: &SegmentSpec,
    dedupe: &mut Dedupe,
) -> Result<Opened, LogError> {
    let fs = &*options.fs;
    let path = paths::segment(dir, spec.base, spec.id);
    let mut state = SegmentState {
        end: spec.end,
        bytes: 0,
        max_timestamp: TimestampMs::NONE,
        open: None,
    };
    let file = match fs.open(&path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if is_lost(&error) => {
            let damage = unopened(&path, &error);
            let segment = Segment::new(dir, spec, options.wall_ms, state);
            return Ok((Arc::new(segment), Some(damage)));
        }
        Err(error) => return Err(LogError::io(path)(error)),
    };
    let point = last_point(options, dir, spec)?;
    let scan = scan_sealed(options, &*file, (spec, point), dedupe).map_err(LogError::io(&path))?;
    state.max_timestamp = scan.index.max_timestamp();
    if Some(scan.next) != spec.end {
        let reason = scan.bad.as_ref().map(ToString::to_string);
        tracing::error!(
            path = %path.display(), position = scan.position, reason,
            "a sealed segment is damaged"
        );
        state.bytes = file.len().map_err(LogError::io(&path))?;
        // The highest timestamp may be in what cannot be read.
        state.max_timestamp = TimestampMs(i64::MAX);
        let segment = Segment::new(dir, spec, options.wall_ms, state);
        return Ok((Arc::new(segment), Some(DamageKind::Damaged)));
    }
    state.bytes = scan.position;
    if file.len().map_err(LogError::io(&path))? > scan.position {
        file.set_len(scan.position).map_err(LogError::io(&path))?;
    }
    file.sync_all().map_err(LogError::io(&path))?;
    // Everything was read, so nothing of it is missing.
    let chunks = scan.digest.chunks().unwrap_or_default();
    let (min_timestamp, max_timestamp) = scan.index.time_range();
    let header = Header {
        labelled: Labelled::NotYet,
        segment: spec.id,
        base: spec.base,
        end: scan.next,
        epoch: spec.epoch,
        compacted_from: spec.compacted_from,
        bytes: scan.position,
        min_timestamp,
        max_timestamp,
        created_wall_ms: options.wall_ms,
        digest: digest_of_chunks(&chunks),
    };
    let bytes = index_file::encode(&header, &chunks, &scan.index, dedupe);
    let index_path = path.with_extension(paths::INDEX);
    fs.write_atomic(&index_path, &bytes)
        .map_err(LogError::io(&index_path))?;
    let segment = Segment::new(dir, spec, options.wall_ms, state);
    Ok((Arc::new(segment), None))
}
