//! Opening the active segment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{Offset, TimestampMs};

use super::{RecoverOptions, sealed::read_contents};
use crate::{
    active::Active,
    checkpoint::SyncedPoint,
    dedupe::Dedupe,
    digest::Digest,
    error::LogError,
    event::PartitionFailure,
    files::delete_file,
    index::Index,
    index_file::Contents,
    paths,
    planted::{Bug, planted},
    points::put_base_point,
    pool::ShardPool,
    scan::{
        BatchReader, BatchRule, SEEK_WINDOW_BYTES, Scan, ScanOptions, index_headers, rewrite, scan,
    },
    segment::{Segment, SegmentState},
    spec::SegmentSpec,
};

/// The active segment as it was found.
pub(super) struct Found {
    pub(super) segment: Arc<Segment>,
    pub(super) active: Option<Active>,
    pub(super) end: Offset,
    pub(super) dedupe: Dedupe,
    pub(super) failure: Option<PartitionFailure>,
    /// It was begun here: what is remembered at its base was known then.
    pub(super) began: bool,
}

/// An active segment that is being opened.
struct Opening<'a> {
    options: &'a RecoverOptions,
    dir: &'a Path,
    spec: &'a SegmentSpec,
    path: PathBuf,
    /// Up to where it is known to be on stable storage.
    synced: Option<SyncedPoint>,
    /// It can be told what is remembered at its base.
    memory_known: bool,
    began: bool,
}

/// Where to begin, and what is known there.
struct Start {
    scan: Scan,
    dedupe: Dedupe,
    created_wall_ms: i64,
}

/// Opens the active segment, or makes it. `before` tells what the partition remembers where the
/// segment begins, if that must be known; as far as it can be told.
pub(super) fn open(
    options: &RecoverOptions,
    dir: &Path,
    (spec, memory_known): (&SegmentSpec, bool),
    before: impl FnOnce() -> Result<Dedupe, LogError>,
) -> Result<Found, LogError> {
    let fs = &*options.fs;
    let path = paths::segment(dir, spec.base, spec.id);
    // An index file of a segment that is not sealed would soon be out of date.
    let index_path = path.with_extension(paths::INDEX);
    delete_file(fs, &index_path).map_err(LogError::io(&index_path))?;
    let point = read_point(options, &path, spec)?;
    let mut opening = Opening {
        memory_known,
        began: point.is_some(),
        synced: later(
            options.synced.filter(|s| s.segment == spec.id),
            point.as_ref(),
        ),
        options,
        dir,
        spec,
        path,
    };
    let file = match options.pool.open(&opening.path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dedupe = match point {
                Some(point) => point.dedupe,
                None => opening.remember(before()?)?,
            };
            return opening.missing(dedupe);
        }
        Err(error) => return Err(LogError::io(opening.path)(error)),
    };
    let len = file.len().map_err(LogError::io(&opening.path))?;
    // Nothing is appended before it is known.
    opening.began |= len > 0;
    let is_new = point.is_none();
    let start = match opening.start_at(point, &*file, len)? {
        Some(start) => start,
        None => Start {
            scan: Scan::new(spec.base, options.index_interval),
            dedupe: match is_new {
                true => opening.remember(before()?)?,
                // One that does not fit tells of damage, and stays.
                false => before()?,
            },
            created_wall_ms: options.wall_ms,
        },
    };
    opening.scan((file, len), start)
}

/// Makes the file of a new active segment, or takes an empty one that is there.
pub(crate) fn create_active(
    (fs, pool): (&dyn Fs, &ShardPool),
    dir: &Path,
    spec: &SegmentSpec,
    index_interval: u32,
    wall_ms: i64,
) -> io::Result<Active> {
    let path = paths::segment(dir, spec.base, spec.id);
    let file = pool.open(&path, OpenMode::Create)?;
    if !file.is_empty()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if !planted(Bug::NoDirectorySync) {
        fs.sync_dir(dir)?;
    }
    let index = Index::new(spec.base, index_interval);
    let segment = active_segment(dir, spec, wall_ms, (file.clone(), index), 0);
    Ok(Active::new(segment, file, (spec.base, 0), Digest::new()))
}

fn active_segment(
    dir: &Path,
    spec: &SegmentSpec,
    created_wall_ms: i64,
    (file, index): (Arc<dyn File>, Index),
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

/// The recovery point of the segment, if there is a good one.
pub(super) fn read_point(
    options: &RecoverOptions,
    path: &Path,
    spec: &SegmentSpec,
) -> Result<Option<Contents>, LogError> {
    let ours = |contents: &Contents| {
        let header = &contents.header;
        header.segment == spec.id && header.base == spec.base && header.epoch == spec.epoch
    };
    let path = path.with_extension(paths::SNAPSHOT);
    Ok(read_contents(options, &path)?.filter(ours))
}

/// A recovery point covers nothing but what is synced, and may be newer than the checkpoint.
fn later(synced: Option<SyncedPoint>, point: Option<&Contents>) -> Option<SyncedPoint> {
    let point = point.map(|contents| SyncedPoint {
        segment: contents.header.segment,
        offset: contents.header.end,
        position: contents.header.bytes,
    });
    synced
        .into_iter()
        .chain(point)
        .max_by_key(|point| point.position)
}

// === impl Opening ===

impl Opening<'_> {
    fn synced_bytes(&self) -> u64 {
        self.synced.map_or(0, |point| point.position)
    }

    /// Makes what is remembered at the base durable with the segment: what told it may be dropped.
    fn remember(&self, dedupe: Dedupe) -> Result<Dedupe, LogError> {
        if !self.memory_known {
            return Ok(dedupe);
        }
        let (fs, options) = (&*self.options.fs, self.options);
        let made = (options.index_interval, options.wall_ms);
        put_base_point(fs, self.dir, self.spec, made, &dedupe).map_err(LogError::io(&self.path))?;
        if !dedupe.is_empty() {
            fs.sync_dir(self.dir).map_err(LogError::io(self.dir))?;
        }
        Ok(dedupe)
    }

    fn missing(self, dedupe: Dedupe) -> Result<Found, LogError> {
        let (options, spec) = (self.options, self.spec);
        if self.synced_bytes() == 0 {
            let interval = options.index_interval;
            let active = create_active(
                (&*options.fs, &options.pool),
                self.dir,
                spec,
                interval,
                options.wall_ms,
            )
            .map_err(LogError::io(&self.path))?;
            return Ok(Found {
                segment: active.segment.clone(),
                end: spec.base,
                active: Some(active),
                dedupe,
                failure: None,
                began: self.began,
            });
        }
        let state = SegmentState {
            end: None,
            bytes: 0,
            max_timestamp: TimestampMs::NONE,
            open: None,
        };
        let failure = self.failure(0);
        tracing::error!(%failure, "the partition has failed");
        Ok(Found {
            segment: Arc::new(Segment::new(self.dir, spec, options.wall_ms, state)),
            active: None,
            end: self.synced.map_or(spec.base, |point| point.offset),
            dedupe,
            failure: Some(failure),
            began: true,
        })
    }

    /// What the recovery point tells, if the file goes on from there. Else it is of no use any
    /// more, and the scan from the start will find what is wrong.
    fn start_at(
        &self,
        point: Option<Contents>,
        file: &dyn File,
        len: u64,
    ) -> Result<Option<Start>, LogError> {
        let Some(contents) = point else {
            return Ok(None);
        };
        let header = &contents.header;
        let goes_on = header.bytes <= len
            && self
                .leads_to_its_end(&contents, file)
                .map_err(LogError::io(&self.path))?;
        let digest = if !goes_on {
            None
        } else if self.options.clean {
            Some(contents.digest)
        } else {
            // After a crash of the machine the end of what was synced is looked at once more.
            contents
                .digest
                .verify_last(file)
                .map_err(LogError::io(&self.path))?
        };
        let Some(digest) = digest else {
            tracing::warn!(
                path = %self.path.display(), position = header.bytes, bytes = len,
                "the recovery point is of something else than the segment"
            );
            return Ok(None);
        };
        Ok(Some(Start {
            scan: Scan {
                position: contents.header.bytes,
                next: contents.header.end,
                bad: None,
                index: contents.index,
                digest,
            },
            dedupe: contents.dedupe,
            created_wall_ms: contents.header.created_wall_ms,
        }))
    }

    /// Whether the batches from the last one on that the index of a recovery point names end at the
    /// byte and the offset at which it says that it ends: what follows is numbered from there, and
    /// its digests cover bytes only. That is a few headers.
    fn leads_to_its_end(&self, contents: &Contents, file: &dyn File) -> io::Result<bool> {
        let header = &contents.header;
        let last = header.bytes.saturating_sub(1);
        let (mut position, mut next) = contents.index.by_position(last);
        let rule = BatchRule::of(self.spec);
        let mut reader = BatchReader::new(file, header.bytes, SEEK_WINDOW_BYTES);
        while position < header.bytes {
            let Ok(batch) = reader.header(position)? else {
                return Ok(false);
            };
            if rule.check(&batch, next).is_err() {
                return Ok(false);
            }
            position += batch.size_bytes() as u64;
            next = batch.next_offset();
        }
        Ok(next == header.end)
    }

    /// Finds out how much of the segment is good.
    fn scan(self, (file, len): (Arc<dyn File>, u64), start: Start) -> Result<Found, LogError> {
        let scan_options = ScanOptions {
            rule: BatchRule::of(self.spec),
            limit: len,
            stop_at: None,
            wall_ms: self.options.wall_ms,
            decompressed_bytes_max: self.options.decompressed_bytes_max,
        };
        let (mut dedupe, saved_position) = (start.dedupe, start.scan.position);
        let scan = scan(&*file, &scan_options, start.scan, &mut dedupe)
            .map_err(LogError::io(&self.path))?;
        self.options
            .progress
            .scanned(scan.position - saved_position);
        if scan.position < self.synced_bytes() && !planted(Bug::CutBelowSynced) {
            return self.damaged((file, len), scan, dedupe);
        }
        if scan.position < len {
            let reason = scan.bad.as_ref().map(ToString::to_string);
            tracing::warn!(
                path = %self.path.display(), position = scan.position,
                cut_bytes = len - scan.position, reason,
                "cutting a torn tail above the synced point"
            );
            file.set_len(scan.position)
                .map_err(LogError::io(&self.path))?;
        }
        self.make_durable(&*file, (scan.position, len))?;
        let segment = active_segment(
            self.dir,
            self.spec,
            start.created_wall_ms,
            (file.clone(), scan.index),
            scan.position,
        );
        let at = (scan.next, scan.position);
        let mut active = Active::new(segment.clone(), file, at, scan.digest);
        active.saved_position = saved_position;
        Ok(Found {
            segment,
            active: Some(active),
            end: scan.next,
            dedupe,
            failure: None,
            began: self.began,
        })
    }

    /// What was written before a crash may be in the page cache only, and a sync of the earlier
    /// process may have failed, which leaves it clean there and lost: written again it counts from
    /// now on, whatever the policy, since the synced point will say so.
    fn make_durable(&self, file: &dyn File, (position, len): (u64, u64)) -> Result<(), LogError> {
        let synced_bytes = self.synced_bytes();
        if position > synced_bytes && !planted(Bug::NoRewrite) {
            rewrite(file, synced_bytes, position).map_err(LogError::io(&self.path))?;
        }
        if len > synced_bytes {
            file.sync_all().map_err(LogError::io(&self.path))?;
        }
        // Its name was made durable before anything in it was synced.
        if synced_bytes == 0 {
            let fs = &self.options.fs;
            fs.sync_dir(self.dir).map_err(LogError::io(self.dir))?;
        }
        Ok(())
    }

    /// Damage below the synced point: everything is left as it is, and what can be read is read.
    fn damaged(
        self,
        (file, len): (Arc<dyn File>, u64),
        scan: Scan,
        dedupe: Dedupe,
    ) -> Result<Found, LogError> {
        let reason = scan.bad.as_ref().map(ToString::to_string);
        let failure = self.failure(scan.position);
        tracing::error!(%failure, reason, "the partition has failed");
        let (spec, options) = (self.spec, self.options);
        let index = index_headers(
            &*file,
            (spec.base, BatchRule::of(spec)),
            options.index_interval,
            len,
        )
        .map_err(LogError::io(&self.path))?;
        Ok(Found {
            segment: active_segment(self.dir, spec, options.wall_ms, (file, index), len),
            active: None,
            // Readers must meet the damage, not an end of the log before it.
            end: self
                .synced
                .map_or(scan.next, |point| point.offset.max(scan.next)),
            dedupe,
            failure: Some(failure),
            began: true,
        })
    }

    fn failure(&self, position: u64) -> PartitionFailure {
        PartitionFailure::Damaged {
            path: self.path.clone(),
            position,
            synced: self.synced_bytes(),
        }
    }
}
