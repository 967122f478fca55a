//! Reading batches.

use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use mainstem_record::{BatchHeader, Offset, check_stored};

use super::Tools;
use crate::{
    error::ReadError,
    files::Files,
    read::{Chunk, Read},
    scan::{BatchReader, BatchRule, SEEK_WINDOW_BYTES, read_range},
    segment::{Located, Segment},
    shared::{Shared, Status},
};

/// One read of a file returns no more, however much was asked for; a single batch may be larger.
const READ_BYTES_MAX: usize = 16 << 20;

pub(super) async fn read(
    shared: &Arc<Shared>,
    tools: &Tools,
    read: Read,
) -> Result<Chunk, ReadError> {
    let bound = in_range(shared, read.from)?.min(read.end);
    read_below(shared, tools, read, bound).await
}

/// What is in memory below the log end, for followers.
pub(super) fn cached_tail(
    shared: &Shared,
    tools: &Tools,
    (from, bytes_max): (Offset, usize),
    at_least_one_batch: bool,
) -> Option<Chunk> {
    let bound = shared.ends().log_end;
    if from >= bound {
        return Some(Chunk::empty(from));
    }
    let read = Read {
        from,
        bytes_max,
        at_least_one_batch,
        end: bound,
    };
    let chunk = shared.cache.lock().read(&read, bound)?;
    tools.metrics.read_bytes_cache.inc_by(chunk.bytes as u64);
    Some(chunk)
}

/// Reads up to the log end, for followers. What a cut takes away meanwhile is not damaged.
pub(super) async fn read_tail(
    shared: &Arc<Shared>,
    tools: &Tools,
    (from, bytes_max): (Offset, usize),
) -> Result<Chunk, ReadError> {
    let read = Read {
        from,
        bytes_max,
        at_least_one_batch: true,
        end: Offset(i64::MAX),
    };
    loop {
        let cuts = shared.cuts.load(Ordering::Acquire);
        in_log(shared, from)?;
        let found = read_below(shared, tools, read, shared.ends().log_end).await;
        if shared.cuts.load(Ordering::Acquire) == cuts {
            return found;
        }
    }
}

async fn read_below(
    shared: &Arc<Shared>,
    tools: &Tools,
    read: Read,
    bound: Offset,
) -> Result<Chunk, ReadError> {
    if read.from >= bound {
        return Ok(Chunk::empty(read.from));
    }
    let cached = shared.cache.lock().read(&read, bound);
    if let Some(chunk) = cached {
        tools.metrics.read_bytes_cache.inc_by(chunk.bytes as u64);
        return Ok(chunk);
    }
    // A segment that compaction has left no records of ends in a batch without any: what follows is
    // looked for first.
    let mut passed: Option<Chunk> = None;
    let mut ahead = read;
    loop {
        let chunk = match read_file(shared, tools, ahead, bound).await {
            Ok(chunk) => chunk,
            Err(error) => return passed.ok_or(error),
        };
        if chunk.batches.is_empty() {
            return Ok(passed.unwrap_or(chunk));
        }
        if chunk.next >= bound || !chunk.is_without_records() {
            return Ok(chunk);
        }
        ahead.from = chunk.next;
        passed = Some(chunk);
    }
}

/// Reads from the file of the segment that holds `read.from`, or else begins after it.
async fn read_file(
    shared: &Arc<Shared>,
    tools: &Tools,
    read: Read,
    bound: Offset,
) -> Result<Chunk, ReadError> {
    loop {
        let Some(segment) = shared.segment_at(read.from) else {
            return Ok(Chunk::empty(read.from));
        };
        if !segment.held {
            return Err(not_held(&segment));
        }
        let (files, id) = (tools.files.clone(), segment.id);
        let result = blocking(tools, move || read_segment(&files, &segment, &read, bound)).await;
        match result {
            Ok((chunk, next_segment)) => {
                tools.metrics.read_bytes_file.inc_by(chunk.bytes as u64);
                if let Some(base) = next_segment {
                    read_ahead(shared, tools, base);
                }
                return Ok(chunk);
            }
            Err(error) => {
                // The segment may have been dropped meanwhile: that is no damage.
                in_range(shared, read.from)?;
                // Or replaced by a compacted one, which has what was looked for.
                if shared.has_segment(id) {
                    return Err(error);
                }
            }
        }
    }
}

/// That a segment is not here.
pub(super) fn not_held(segment: &Segment) -> ReadError {
    ReadError::NotHeld {
        segment: segment.id,
        end: segment.end(),
    }
}

/// A replica holds what lies below the log start too: who is to be one needs it.
fn in_log(shared: &Shared, from: Offset) -> Result<(), ReadError> {
    let state = *shared.state.read();
    match state.status {
        Status::Removed => Err(ReadError::Removed),
        Status::Open | Status::Failed if from <= state.ends.log_end => Ok(()),
        Status::Open | Status::Failed => Err(ReadError::OutOfRange {
            log_start: state.ends.log_start,
            log_end: state.ends.log_end,
        }),
    }
}

/// The committed end, if `from` may be read.
pub(super) fn in_range(shared: &Shared, from: Offset) -> Result<Offset, ReadError> {
    let state = *shared.state.read();
    if state.status == Status::Removed {
        return Err(ReadError::Removed);
    }
    if from < state.ends.log_start || from > state.ends.log_end {
        return Err(ReadError::OutOfRange {
            log_start: state.ends.log_start,
            log_end: state.ends.log_end,
        });
    }
    Ok(state.ends.committed_end)
}

/// Opens the sealed segment that begins at `base` and asks for its first bytes, for a reader that
/// will be there soon.
fn read_ahead(shared: &Shared, tools: &Tools, base: Offset) {
    let next = shared.segment_at(base).filter(|next| next.end().is_some());
    // Where all readers are at work the disk needs no more of it.
    let (Some(next), Ok(reader)) = (next, tools.readers.clone().try_acquire_owned()) else {
        return;
    };
    let files = tools.files.clone();
    let work = move || {
        let _reader = reader;
        // Who reads it will meet the error again, and report it.
        if let Ok(located) = next.locate_offset(&files, next.base) {
            ask_ahead(&next, &located, 0);
        }
    };
    tools.env.tasks.blocking("log-read-ahead", Box::new(work));
}

/// Asks for what comes after a read at `position`. Returns whether it reaches the end of the
/// segment.
fn ask_ahead(segment: &Segment, located: &Located, position: u64) -> bool {
    let Some(ahead) = segment.read_ahead.begin(position, located.limit) else {
        return false;
    };
    let Range { start, end } = ahead.range;
    located.file.read_ahead(start, end - start);
    ahead.reaches_end
}

/// Reads off the async workers.
pub(super) async fn blocking<T: Send + 'static>(
    tools: &Tools,
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    // Held by the work itself, which goes on if its reader is gone. Never closed.
    let reader = tools.readers.clone().acquire_owned().await;
    let work = move || {
        let _reader = reader;
        work()
    };
    tools
        .env
        .blocking("log-read", work)
        .await
        .unwrap_or(Err(ReadError::Io(io::ErrorKind::Interrupted)))
}

/// Says that a segment is damaged, or what the file system said.
pub(super) fn io_error(
    error: &io::Error,
    segment: &Segment,
    base: Offset,
    end: Offset,
) -> ReadError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ReadError::Damaged {
            segment: segment.id,
            base,
            end,
        },
        kind => {
            tracing::error!(%error, path = %segment.path.display(), "read failed");
            ReadError::Io(kind)
        }
    }
}

/// What was read, and where the next segment begins if the reader will soon be there.
fn read_segment(
    files: &Files,
    segment: &Segment,
    read: &Read,
    bound: Offset,
) -> Result<(Chunk, Option<Offset>), ReadError> {
    // There may be a hole in the chain before the segment.
    let from = read.from.max(segment.base);
    if from >= bound {
        return Ok((Chunk::empty(from), None));
    }
    let sealed_end = segment.end();
    let end = sealed_end.unwrap_or(bound);
    let io = |error: io::Error| io_error(&error, segment, from, end);
    let located = segment.locate_offset(files, from).map_err(io)?;
    let damaged = |position: u64, end_hint: Option<Offset>| {
        let after = segment.offset_after(files, position, end);
        let hint = end_hint.filter(|hint| *hint > from && *hint <= after);
        tracing::error!(
            path = %segment.path.display(), position, offset = from.0, "damaged batch"
        );
        ReadError::Damaged {
            segment: segment.id,
            base: from,
            end: hint.unwrap_or(after.max(from.next())),
        }
    };

    let (position, first) = match seek(segment, &located, from, sealed_end).map_err(io)? {
        Ok(found) => found,
        Err(Spoilt { position, end }) => return Err(damaged(position, end)),
    };
    if first.base_offset >= bound {
        // All before it was compacted away.
        return Ok((Chunk::empty(bound), None));
    }
    let bytes_max = read.bytes_max.min(READ_BYTES_MAX);
    let wanted = if first.size_bytes() <= bytes_max {
        bytes_max
    } else if read.at_least_one_batch {
        first.size_bytes()
    } else {
        return Ok((Chunk::empty(from), None));
    };
    // What is being written is in the page cache.
    let reaches_end = sealed_end.is_some() && ask_ahead(segment, &located, position);
    let stop = located.limit.min(position.saturating_add(wanted as u64));
    let bytes = read_range(&*located.file, position, stop).map_err(io)?;
    let (length, next) = whole_batches(&bytes, segment.rule, (first.base_offset, bound));
    if length == 0 {
        return Err(damaged(position, Some(first.next_offset())));
    }
    segment.read_ahead.ended(position, position + length as u64);
    let chunk = Chunk {
        batches: vec![bytes.slice(..length)],
        bytes: length,
        next,
        from_cache: false,
    };
    Ok((chunk, sealed_end.filter(|_| reaches_end)))
}

/// A batch that is damaged, and what its header says to come after it, if that can be told.
struct Spoilt {
    position: u64,
    end: Option<Offset>,
}

/// The batch that a reader from `from` on gets first, and its position; else what is damaged.
///
/// Batches are passed over by their headers. One that would have had to be read if its header were
/// spoilt is checked whole first: nothing is left out because of what the disk says of it.
fn seek(
    segment: &Segment,
    located: &Located,
    from: Offset,
    sealed_end: Option<Offset>,
) -> io::Result<Result<(u64, BatchHeader), Spoilt>> {
    let spoilt = |position, end| Ok(Err(Spoilt { position, end }));
    let mut reader = BatchReader::new(&*located.file, located.limit, SEEK_WINDOW_BYTES);
    let (mut position, mut next) = (located.start, located.next);
    let mut passed = None;
    loop {
        let header = match reader.header(position)? {
            Ok(header) if segment.rule.check(&header, next).is_ok() => header,
            Ok(_) | Err(_) => return spoilt(position, None),
        };
        let begins_after = header.base_offset > from;
        if let Some((before, passed)) = passed.take_if(|_| begins_after)
            && reader.batch(before, &passed)?.is_err()
        {
            return spoilt(before, Some(header.base_offset));
        }
        let is_last = sealed_end.is_some_and(|end| header.next_offset() >= end);
        if header.last_offset() >= from {
            if header.record_count > 0 || is_last {
                return Ok(Ok((position, header)));
            }
            if reader.batch(position, &header)?.is_err() {
                return spoilt(position, Some(header.next_offset()));
            }
        } else {
            passed = Some((position, header));
        }
        position += header.size_bytes() as u64;
        next = header.next_offset();
    }
}

/// How many bytes of good batches there are that begin below `bound`, and what comes after them.
fn whole_batches(
    bytes: &[u8],
    rule: BatchRule,
    (first, bound): (Offset, Offset),
) -> (usize, Offset) {
    let mut length = 0;
    let mut next = first;
    while next < bound {
        let rest = bytes.get(length..).unwrap_or_default();
        let Ok(header) = BatchHeader::parse(rest) else {
            break;
        };
        let Some(batch) = rest.get(..header.size_bytes()) else {
            break;
        };
        if header.base_offset >= bound {
            break;
        }
        // What the disk has spoilt must not reach a reader that does not look at checksums.
        if rule.check(&header, next).is_err() || check_stored(batch).is_err() {
            break;
        }
        length += batch.len();
        next = header.next_offset();
    }
    (length, next)
}
