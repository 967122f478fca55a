//! Walking the batches of a segment file.

use std::io;

use bytes::{Bytes, BytesMut};
use mainstem_env::File;
use mainstem_record::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, LeaderEpoch, Offset, check_stored,
};

use crate::{
    dedupe::Dedupe,
    digest::Digest,
    index::Index,
    planted::{Bug, planted},
    spec::SegmentSpec,
};

/// How much is read at a time.
pub(crate) const WINDOW_BYTES: usize = 1 << 20;

/// What is read at a time when a batch is looked for from an index entry on.
pub(crate) const SEEK_WINDOW_BYTES: usize = 8 << 10;

/// Why a batch does not belong where it lies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Bad {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("offset {got} where {expected} must be")]
    Offset { got: Offset, expected: Offset },
    #[error("leader epoch {got} in a segment of epoch {expected}")]
    Epoch {
        got: LeaderEpoch,
        expected: LeaderEpoch,
    },
    #[error("the file ends within a batch")]
    Short,
    #[error("a batch that reaches into the next one")]
    Length,
}

/// Which batches belong in a segment, and where. Offset and epoch are not covered by the checksum of
/// a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRule {
    /// The epoch of all batches; the highest in a compacted segment.
    epoch: LeaderEpoch,
    /// Set if the segment is compacted: its lowest epoch. Offsets may have gaps then.
    pub(crate) compacted_from: Option<LeaderEpoch>,
}

/// Reads a file through a window.
pub(crate) struct BatchReader<'a> {
    file: &'a dyn File,
    limit: u64,
    window: BytesMut,
    start: u64,
    read_bytes: usize,
}

/// Which batches a scan expects.
pub(crate) struct ScanOptions {
    pub(crate) rule: BatchRule,
    /// Readable bytes of the file.
    pub(crate) limit: u64,
    /// The sealed end: nothing from it on is looked at.
    pub(crate) stop_at: Option<Offset>,
    /// Now, as milliseconds since the Unix epoch.
    pub(crate) wall_ms: i64,
    pub(crate) decompressed_bytes_max: usize,
}

/// How far a scan has come: everything is as of the last good batch.
pub(crate) struct Scan {
    /// Where the good batches end, in bytes.
    pub(crate) position: u64,
    /// The offset after the last good batch.
    pub(crate) next: Offset,
    /// What follows, if it is not the end.
    pub(crate) bad: Option<Bad>,
    pub(crate) index: Index,
    pub(crate) digest: Digest,
}

// === impl BatchRule ===

impl BatchRule {
    pub(crate) fn of(spec: &SegmentSpec) -> Self {
        Self::new(spec.epoch, spec.compacted_from)
    }

    pub(crate) fn new(epoch: LeaderEpoch, compacted_from: Option<LeaderEpoch>) -> Self {
        Self {
            epoch,
            compacted_from,
        }
    }

    /// Whether a batch has an epoch of the segment.
    pub(crate) fn has_epoch(&self, header: &BatchHeader) -> bool {
        let lowest = self.compacted_from.unwrap_or(self.epoch);
        (lowest..=self.epoch).contains(&header.leader_epoch)
    }

    /// Whether a batch with this header may stand where `next` is the first offset that is free.
    pub(crate) fn check(&self, header: &BatchHeader, next: Offset) -> Result<(), Bad> {
        let (offset, epoch) = (header.base_offset, header.leader_epoch);
        let offset_fits = match self.compacted_from {
            None => offset == next,
            Some(_) => offset >= next,
        };
        let epoch_fits = self.has_epoch(header);
        if !offset_fits {
            return Err(Bad::Offset {
                got: offset,
                expected: next,
            });
        }
        if !epoch_fits {
            return Err(Bad::Epoch {
                got: epoch,
                expected: self.epoch,
            });
        }
        Ok(())
    }
}

// === impl BatchReader ===

impl<'a> BatchReader<'a> {
    /// Reads of `file` no further than `limit`, at least `read_bytes` at a time.
    pub(crate) fn new(file: &'a dyn File, limit: u64, read_bytes: usize) -> Self {
        Self {
            file,
            limit,
            window: BytesMut::new(),
            start: 0,
            read_bytes,
        }
    }

    /// `len` bytes at `position`; `None` if they are not all there.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = position.saturating_add(len as u64);
        if end > self.limit {
            return Ok(None);
        }
        let within = position >= self.start && end <= self.start + self.window.len() as u64;
        if !within && !self.fill(position, len)? {
            return Ok(None);
        }
        let at = (position - self.start) as usize;
        Ok(self.window.get(at..at + len))
    }

    /// Moves the window; the bytes that are in it already are not read again.
    fn fill(&mut self, position: u64, len: usize) -> io::Result<bool> {
        let kept = match position.checked_sub(self.start) {
            Some(skip) if skip <= self.window.len() as u64 => {
                let skipped = self.window.split_to(skip as usize);
                drop(skipped);
                self.window.len()
            }
            _ => {
                self.window.clear();
                0
            }
        };
        self.start = position;
        let room = usize::try_from(self.limit - position).unwrap_or(usize::MAX);
        let wanted = len.max(self.read_bytes).min(room);
        self.window.resize(wanted.max(kept), 0);
        let mut filled = kept;
        while filled < self.window.len() {
            let offset = position + filled as u64;
            let rest = self.window.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, offset) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        Ok(filled >= len)
    }

    /// The header at `position`, if a whole batch of its length is there.
    pub(crate) fn header(&mut self, position: u64) -> io::Result<Result<BatchHeader, Bad>> {
        let Some(bytes) = self.bytes(position, BATCH_HEADER_BYTES)? else {
            return Ok(Err(Bad::Short));
        };
        let header = match BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.into())),
        };
        if position.saturating_add(header.size_bytes() as u64) > self.limit {
            return Ok(Err(Bad::Short));
        }
        Ok(Ok(header))
    }

    /// The batch at `position` that has this header, checked.
    pub(crate) fn batch(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<Result<&[u8], Bad>> {
        let Some(bytes) = self.bytes(position, header.size_bytes())? else {
            return Ok(Err(Bad::Short));
        };
        Ok(match check_stored(bytes) {
            Err(error) if !planted(Bug::UncheckedCrc) => Err(error.into()),
            Ok(_) | Err(_) => Ok(bytes),
        })
    }
}

// === impl Scan ===

impl Scan {
    /// At the start of a segment.
    pub(crate) fn new(base: Offset, index_interval: u32) -> Self {
        Self {
            position: 0,
            next: base,
            bad: None,
            index: Index::new(base, index_interval),
            digest: Digest::new(),
        }
    }
}

/// Walks and checks all batches from where `scan` is, takes them over into `dedupe`, and stops
/// before the first that is bad.
pub(crate) fn scan(
    file: &dyn File,
    options: &ScanOptions,
    mut scan: Scan,
    dedupe: &mut Dedupe,
) -> io::Result<Scan> {
    let mut reader = BatchReader::new(file, options.limit, WINDOW_BYTES);
    while scan.position < options.limit && options.stop_at.is_none_or(|end| scan.next < end) {
        let checked = reader.header(scan.position)?.and_then(|header| {
            options.rule.check(&header, scan.next)?;
            Ok(header)
        });
        let header = match checked {
            Ok(header) => header,
            Err(bad) => {
                scan.bad = Some(bad);
                break;
            }
        };
        let batch = match reader.batch(scan.position, &header)? {
            Ok(batch) => batch,
            Err(bad) => {
                scan.bad = Some(bad);
                break;
            }
        };
        scan.index.push(&header, scan.position);
        scan.digest.update(batch);
        let limit = options.decompressed_bytes_max;
        if !planted(Bug::ProducersNotRebuilt) {
            dedupe.replay(&header, batch, options.wall_ms, limit);
        }
        scan.position += header.size_bytes() as u64;
        scan.next = header.next_offset();
    }
    Ok(scan)
}

/// Makes an index from the headers alone, as far as they follow each other: for reading around
/// damage. What is read through it is still checked batch by batch.
pub(crate) fn index_headers(
    file: &dyn File,
    (base, rule): (Offset, BatchRule),
    interval: u32,
    limit: u64,
) -> io::Result<Index> {
    let mut index = Index::new(base, interval);
    let mut reader = BatchReader::new(file, limit, WINDOW_BYTES);
    let (mut position, mut next) = (0, base);
    while let Ok(header) = reader.header(position)? {
        if rule.check(&header, next).is_err() {
            break;
        }
        index.push(&header, position);
        position += header.size_bytes() as u64;
        next = header.next_offset();
    }
    Ok(index)
}

/// Reads the bytes from `start` to `end`, or fewer if the file ends before.
pub(crate) fn read_range(file: &dyn File, start: u64, end: u64) -> io::Result<Bytes> {
    let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let (filled, rest) = (buffer.len(), len - buffer.len());
        match file.read_append_at(&mut buffer, rest, start + filled as u64) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Bytes::from(buffer))
}

/// Writes what is there from `start` to `end` once more: after a failed sync the page cache may
/// hold, as clean, what never reached the disk, and a sync alone would pass it over.
pub(crate) fn rewrite(file: &dyn File, start: u64, end: u64) -> io::Result<()> {
    let mut position = start;
    while position < end {
        let bytes = read_range(file, position, end.min(position + WINDOW_BYTES as u64))?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_vectored_at(&[io::IoSlice::new(&bytes)], position)?;
        position += bytes.len() as u64;
    }
    Ok(())
}
