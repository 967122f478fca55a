//! Writing a new segment: under a temporary name until it is whole and durable.
//!
//! ```text
//! write .log.tmp -> fsync -> .idx (atomically) -> rename to .log -> fsync of the directory
//! ```
//! A crash leaves temporary files, or a segment that metadata does not know: both are removed when
//! the partition is opened.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::BatchHeader;

use super::CompactError;
use crate::{
    dedupe::Dedupe,
    digest::{Digest, digest_of_chunks},
    files::delete_file,
    index::{Index, SEGMENT_BYTES_MAX},
    index_file::{self, Header, Labelled},
    log::expiry_ms,
    partition::Tools,
    paths,
    planted::{Bug, planted},
    scan::{BatchRule, Scan, ScanOptions, scan},
    spec::SegmentSpec,
};

/// How much is gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// After so many bytes what was written is synced, so that the last sync is short and little of the
/// page cache is dirty.
const SYNC_BYTES: u64 = 32 << 20;

/// A segment that is being written.
pub(super) struct Output {
    fs: Arc<dyn Fs>,
    pub(super) spec: SegmentSpec,
    /// Its final name.
    path: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    /// Bytes in the file, and those that are synced.
    written: u64,
    synced: u64,
    pub(super) index: Index,
    digest: Digest,
    created_wall_ms: i64,
}

/// A segment that is durable.
pub(super) struct Finished {
    pub(super) bytes: u64,
    pub(super) digest: u128,
}

// === impl Output ===

impl Output {
    pub(super) fn create(
        fs: Arc<dyn Fs>,
        (dir, spec): (&std::path::Path, SegmentSpec),
        index_interval: u32,
        created_wall_ms: i64,
    ) -> io::Result<Self> {
        let path = paths::segment(dir, spec.base, spec.id);
        let temporary = path.with_added_extension(paths::TEMPORARY);
        let file = fs.open(&temporary, OpenMode::Truncate)?;
        Ok(Self {
            fs,
            spec,
            path,
            file,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: 0,
            synced: 0,
            index: Index::new(spec.base, index_interval),
            digest: Digest::new(),
            created_wall_ms,
        })
    }

    /// Appends a batch.
    pub(super) fn push(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), CompactError> {
        let position = self.written + self.buffer.len() as u64;
        if position + batch.len() as u64 > SEGMENT_BYTES_MAX {
            return Err(CompactError::TooLarge);
        }
        self.index.push(header, position);
        self.digest.update(batch);
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let bytes = [IoSlice::new(&self.buffer)];
        self.file.write_all_vectored_at(&bytes, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Makes the segment durable under its name. `dedupe` is what the partition remembers at its
    /// end; if that is not known, it is told from the batches.
    pub(super) fn finish(&mut self, tools: &Tools, dedupe: Option<Dedupe>) -> io::Result<Finished> {
        if !self.buffer.is_empty() {
            self.write()?;
        }
        if !planted(Bug::RenameBeforeSync) {
            self.file.sync_all()?;
        }
        let dedupe = match dedupe {
            Some(dedupe) => dedupe,
            None => self.replay(tools)?,
        };
        // Everything was taken in, so nothing of it is missing.
        let chunks = self.digest.chunks().unwrap_or_default();
        let digest = digest_of_chunks(&chunks);
        let end = self.spec.end.unwrap_or(self.spec.base);
        let (min_timestamp, max_timestamp) = self.index.time_range();
        let header = Header {
            labelled: Labelled::NotYet,
            segment: self.spec.id,
            base: self.spec.base,
            end,
            epoch: self.spec.epoch,
            compacted_from: self.spec.compacted_from,
            bytes: self.written,
            min_timestamp,
            max_timestamp,
            created_wall_ms: self.created_wall_ms,
            digest,
        };
        let index_file = index_file::encode(&header, &chunks, &self.index, &dedupe);
        let index_path = self.path.with_extension(paths::INDEX);
        self.fs.write_atomic(&index_path, &index_file)?;
        let temporary = self.path.with_added_extension(paths::TEMPORARY);
        self.fs.rename(&temporary, &self.path)?;
        if let Some(dir) = self.path.parent()
            && !planted(Bug::NoSyncOfCompactedName)
        {
            self.fs.sync_dir(dir)?;
        }
        Ok(Finished {
            bytes: self.written,
            digest,
        })
    }

    fn replay(&self, tools: &Tools) -> io::Result<Dedupe> {
        let mut dedupe = Dedupe::new(expiry_ms(&tools.options));
        let options = ScanOptions {
            rule: BatchRule::of(&self.spec),
            limit: self.written,
            stop_at: self.spec.end,
            wall_ms: tools.env.wall_ms(),
            decompressed_bytes_max: tools.options.decompressed_bytes_max,
        };
        let start = Scan::new(self.spec.base, tools.options.index_interval_bytes);
        scan(&*self.file, &options, start, &mut dedupe)?;
        Ok(dedupe)
    }

    /// Removes what was written. What cannot be removed goes when the partition is opened.
    pub(super) fn abandon(self) {
        let temporary = self.path.with_added_extension(paths::TEMPORARY);
        let _ = self.fs.remove_file(&temporary);
        discard(&*self.fs, &self.path);
    }
}

/// Removes the files of a segment that metadata does not know. What cannot be removed goes when the
/// partition is opened.
pub(super) fn discard(fs: &dyn Fs, path: &std::path::Path) {
    for extension in [paths::LOG, paths::INDEX] {
        let _ = delete_file(fs, &path.with_extension(extension));
    }
}
