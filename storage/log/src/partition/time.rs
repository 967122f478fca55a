//! Looking records up by their timestamp.

use std::{io, sync::Arc};

use mainstem_record::{BatchHeader, Offset, SegmentId, TimestampMs, records};

use super::{
    Tools,
    reads::{blocking, io_error, not_held},
};
use crate::{
    error::ReadError,
    files::Files,
    scan::{BatchReader, WINDOW_BYTES},
    segment::Segment,
    shared::{Shared, Status},
};

/// Offset and timestamp of a record.
pub type TimeFound = Option<(Offset, TimestampMs)>;

/// Which record is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// The first with a timestamp of at least this.
    AtLeast(TimestampMs),
    /// The one with the highest timestamp, the first of several.
    Highest,
}

/// What is known here of the record with the highest timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Highest {
    /// The one among those that are here.
    pub here: TimeFound,
    /// Sealed segments that are not here and may have a higher one, or the same one earlier; oldest
    /// first.
    pub elsewhere: Vec<SegmentId>,
}

/// Which records count.
#[derive(Clone, Copy)]
struct Range {
    start: Offset,
    end: Offset,
    decompressed_bytes_max: usize,
}

pub(super) async fn find(
    shared: &Arc<Shared>,
    tools: &Tools,
    (at_least, from): (TimestampMs, Offset),
) -> Result<TimeFound, ReadError> {
    search(shared, tools, from, move |files, chain, range| {
        for segment in chain {
            if !segment.held {
                if segment.may_reach(at_least) {
                    return Err(not_held(segment));
                }
                continue;
            }
            if let Some(found) = find_in(files, segment, at_least, range)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    })
    .await
}

pub(super) async fn max(shared: &Arc<Shared>, tools: &Tools) -> Result<Highest, ReadError> {
    search(shared, tools, Offset::ZERO, |files, chain, range| {
        let mut best: TimeFound = None;
        // The newest segments are the likeliest; an older one with the same timestamp wins.
        let (held, elsewhere): (Vec<_>, Vec<_>) = chain.iter().partition(|segment| segment.held);
        for segment in held.into_iter().rev() {
            if let Some(found) = max_in(files, segment, best, range)?
                && best.is_none_or(|(_, timestamp)| found.1 >= timestamp)
            {
                best = Some(found);
            }
        }
        // A later one with the same timestamp is no better.
        let beats = |segment: &&&Arc<Segment>| {
            best.is_none_or(|(offset, timestamp)| {
                let later = segment.base > offset;
                segment.may_reach(TimestampMs(timestamp.0 + i64::from(later)))
            })
        };
        let elsewhere = elsewhere.iter().filter(beats);
        Ok(Highest {
            here: best,
            elsewhere: elsewhere.map(|segment| segment.id).collect(),
        })
    })
    .await
}

/// Of the records from `from` on of a sealed segment that is held.
pub(super) async fn find_in_sealed(
    tools: &Tools,
    (segment, from): (Arc<Segment>, Offset),
    sought: Sought,
) -> Result<TimeFound, ReadError> {
    let range = Range {
        start: from,
        end: segment.end().unwrap_or(segment.base),
        decompressed_bytes_max: tools.options.decompressed_bytes_max,
    };
    let files = tools.files.clone();
    blocking(tools, move || match sought {
        Sought::AtLeast(at_least) => find_in(&files, &segment, at_least, range),
        Sought::Highest => max_in(&files, &segment, None, range),
    })
    .await
}

/// Runs `look` off the async workers, over the segments that hold readable records from `from` on.
async fn search<T: Send + 'static>(
    shared: &Arc<Shared>,
    tools: &Tools,
    from: Offset,
    look: impl Fn(&Files, &[Arc<Segment>], Range) -> Result<T, ReadError> + Clone + Send + 'static,
) -> Result<T, ReadError> {
    loop {
        let start = shared.ends().log_start;
        let found = search_once(shared, tools, from, look.clone()).await;
        // A segment may have been dropped or replaced meanwhile: that is no damage.
        let is_gone = match found {
            Ok(_) => false,
            Err(ReadError::Damaged { segment, .. }) => !shared.has_segment(segment),
            Err(_) => shared.ends().log_start != start,
        };
        if !is_gone {
            return found;
        }
    }
}

async fn search_once<T: Send + 'static>(
    shared: &Arc<Shared>,
    tools: &Tools,
    from: Offset,
    look: impl FnOnce(&Files, &[Arc<Segment>], Range) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let state = *shared.state.read();
    if state.status == Status::Removed {
        return Err(ReadError::Removed);
    }
    let range = Range {
        start: state.ends.log_start.max(from),
        end: state.ends.committed_end,
        decompressed_bytes_max: tools.options.decompressed_bytes_max,
    };
    let chain: Vec<Arc<Segment>> = {
        let chain = shared.chain.read();
        let readable = chain.iter().filter(|segment| {
            segment.base < range.end && segment.end().is_none_or(|end| end > range.start)
        });
        readable.cloned().collect()
    };
    let files = tools.files.clone();
    blocking(tools, move || look(&files, &chain, range)).await
}

/// The first record of the range with a timestamp of at least `at_least`.
fn find_in(
    files: &Files,
    segment: &Segment,
    at_least: TimestampMs,
    range: Range,
) -> Result<TimeFound, ReadError> {
    if segment.state.read().max_timestamp < at_least {
        return Ok(None);
    }
    let start = segment.base.max(range.start);
    walk(files, segment, (at_least, start), range, |header, batch| {
        if header.max_timestamp < at_least {
            return Ok(None);
        }
        first_in(batch, at_least, range)
    })
}

/// The first record of the range with the highest timestamp, unless it is below `best`.
fn max_in(
    files: &Files,
    segment: &Segment,
    best: TimeFound,
    range: Range,
) -> Result<TimeFound, ReadError> {
    let (highest, end) = {
        let state = segment.state.read();
        (state.max_timestamp, state.end)
    };
    if best.is_some_and(|(_, timestamp)| highest < timestamp) {
        return Ok(None);
    }
    let whole = range.start <= segment.base && end.is_some_and(|end| end <= range.end);
    if whole && let Some(found) = find_in(files, segment, highest, range)? {
        return Ok(Some(found));
    }
    // Part of it does not count: its highest timestamp may be there. Look at all that does.
    let mut top: TimeFound = None;
    let start = segment.base.max(range.start);
    let from = (TimestampMs(i64::MIN), start);
    walk(files, segment, from, range, |header, batch| {
        let beaten = top.is_some_and(|(_, timestamp)| header.max_timestamp <= timestamp);
        if !beaten {
            let found = max_of(batch, range)?;
            if found.is_some_and(|(_, t)| top.is_none_or(|(_, highest)| t > highest)) {
                top = found;
            }
        }
        Ok(None)
    })?;
    Ok(top)
}

/// A batch is not what it must be.
struct BadBatch;

/// Walks the batches of the range until `visit` returns something. Each is checked before: one whose
/// header says that it is too old may be damaged just there.
fn walk(
    files: &Files,
    segment: &Segment,
    (at_least, start): (TimestampMs, Offset),
    range: Range,
    mut visit: impl FnMut(&BatchHeader, &[u8]) -> Result<TimeFound, BadBatch>,
) -> Result<TimeFound, ReadError> {
    let end = segment.end().unwrap_or(range.end);
    let io = |error: io::Error| io_error(&error, segment, start, end);
    let located = segment
        .locate_timestamp(files, at_least, start)
        .map_err(io)?;
    let mut reader = BatchReader::new(&*located.file, located.limit, WINDOW_BYTES);
    let (mut position, mut next) = (located.start, located.next);
    while position < located.limit {
        let damaged = |next: Offset| ReadError::Damaged {
            segment: segment.id,
            base: next,
            end,
        };
        let header = reader.header(position).map_err(io)?;
        let Some(header) = header
            .ok()
            .filter(|header| segment.rule.check(header, next).is_ok())
        else {
            return Err(damaged(next));
        };
        if header.base_offset >= range.end {
            return Ok(None);
        }
        if header.last_offset() >= range.start {
            let batch = reader.batch(position, &header).map_err(io)?;
            let batch = batch.map_err(|_| BadBatch);
            match batch.and_then(|batch| visit(&header, batch)) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(BadBatch) => return Err(damaged(header.base_offset)),
            }
        }
        next = header.next_offset();
        position += header.size_bytes() as u64;
    }
    // Fewer batches than the segment must have: what was looked for may be among the missing.
    if next < end.min(range.end) {
        return Err(ReadError::Damaged {
            segment: segment.id,
            base: next,
            end,
        });
    }
    Ok(None)
}

/// The first record of a batch that is in the range and new enough.
fn first_in(batch: &[u8], at_least: TimestampMs, range: Range) -> Result<TimeFound, BadBatch> {
    let records = records(batch, range.decompressed_bytes_max).map_err(|_| BadBatch)?;
    for record in records.iter() {
        let record = record.map_err(|_| BadBatch)?;
        if record.timestamp >= at_least && range.holds(record.offset) {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

/// The first record of a batch that is in the range and has the highest timestamp.
fn max_of(batch: &[u8], range: Range) -> Result<TimeFound, BadBatch> {
    let records = records(batch, range.decompressed_bytes_max).map_err(|_| BadBatch)?;
    let mut top: TimeFound = None;
    for record in records.iter() {
        let record = record.map_err(|_| BadBatch)?;
        let higher = top.is_none_or(|(_, timestamp)| record.timestamp > timestamp);
        if higher && range.holds(record.offset) {
            top = Some((record.offset, record.timestamp));
        }
    }
    Ok(top)
}

// === impl Range ===

impl Range {
    fn holds(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }
}
