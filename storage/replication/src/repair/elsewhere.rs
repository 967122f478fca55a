//! Reads of sealed segments that are not held here, and look-ups by time in them, for readers of this
//! node.

use std::time::Duration;

use bytes::Bytes;
use mainstem_log::{Chunk, ReadError, Sought, TimeFound};
use mainstem_metadata::{SegmentRecord, SegmentState};
use mainstem_record::{
    BatchHeader, BrokerId, Offset, PartitionId, SegmentId, TimestampMs, check_stored,
};

use super::{Copies, Repair, ask::TIMEOUT, plan};
use crate::wire::{Asked, CopyAnswer, CopyQuestion, FRAME_BYTES};

/// How many holders are asked for one read.
const SOURCES_MAX: usize = 3;
/// How long one may take to answer with batches if there is another one to ask. One that is cut off
/// and not fenced yet does not answer at all.
const READ_PATIENCE: Duration = Duration::from_secs(1);
/// The same for a look-up by time, which may have to read more of its disk.
const TIME_PATIENCE: Duration = Duration::from_secs(4);

impl<H: Copies> Repair<H> {
    /// Reads whole batches of the sealed segment that holds `from`, or else begins after it, from a
    /// broker that has all of it: at least one batch, and else at most about `bytes_max` bytes.
    /// Checksums, offsets and epochs are checked as those of an own file are. For what
    /// [`mainstem_log::Partition::read`] answered with [`ReadError::NotHeld`] or
    /// [`ReadError::Damaged`]; whether it may be read is the caller's to know.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if nobody else has it; [`ReadError::OutOfRange`] if it is not sealed, or
    /// deleted; [`ReadError::Io`] if nobody who has it answers.
    pub(crate) async fn read_elsewhere(
        &self,
        id: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        let is_there = |segment: &SegmentRecord| segment.end.is_some_and(|end| from < end);
        let segment = self.sealed(id, from, is_there)?;
        let from = from.max(segment.base);
        let bytes_max = u32::try_from(bytes_max.min(FRAME_BYTES)).unwrap_or(u32::MAX);
        let asked = Asked::Batches { from, bytes_max };
        self.ask_holders(
            id,
            &segment,
            (asked, READ_PATIENCE),
            |answer| match answer {
                CopyAnswer::Batches { end, batches } => checked(&segment, from, (end, batches)),
                _ => None,
            },
        )
        .await
    }

    /// Looks in sealed segment `segment`, at or above `from`, for a record by its timestamp.
    ///
    /// # Errors
    /// As [`Repair::read_elsewhere`].
    pub(crate) async fn find_elsewhere(
        &self,
        id: PartitionId,
        (segment, from): (SegmentId, Offset),
        sought: Sought,
    ) -> Result<TimeFound, ReadError> {
        let segment = self.sealed(id, from, |record| record.id == segment)?;
        let highest = segment.max_timestamp;
        if let Sought::AtLeast(at_least) = sought
            && highest != TimestampMs::NONE
            && highest < at_least
        {
            return Ok(None);
        }
        let from = from.max(segment.base);
        let asked = Asked::Time { from, sought };
        self.ask_holders(
            id,
            &segment,
            (asked, TIME_PATIENCE),
            |answer| match answer {
                CopyAnswer::Found(found) => fits(&segment, (from, sought), found).then_some(found),
                _ => None,
            },
        )
        .await
    }

    /// The sealed segment that `is_it`.
    fn sealed(
        &self,
        id: PartitionId,
        from: Offset,
        is_it: impl Fn(&SegmentRecord) -> bool,
    ) -> Result<SegmentRecord, ReadError> {
        let image = self.inner.host.image();
        let record = image.partition(id).ok_or(ReadError::Removed)?;
        let found = record.segments.iter().find(|segment| is_it(segment));
        let sealed = found.filter(|segment| segment.state == SegmentState::Sealed);
        sealed.cloned().ok_or_else(|| ReadError::OutOfRange {
            log_start: record.log_start,
            log_end: record.segments.last().map_or(from, |last| last.base),
        })
    }

    /// Asks those who have all of a segment, one after the other, until `take` takes an answer. All
    /// but the last have no longer than the patience.
    async fn ask_holders<T>(
        &self,
        partition: PartitionId,
        segment: &SegmentRecord,
        (asked, patience): (Asked, Duration),
        take: impl Fn(CopyAnswer) -> Option<T>,
    ) -> Result<T, ReadError> {
        let inner = &self.inner;
        let (image, me) = (inner.host.image(), inner.host.me());
        let complete = segment.complete.iter().map(|copy| copy.member());
        let others: Vec<BrokerId> = complete
            .filter(|member| image.is_current(*member) && member.broker != me.broker)
            .map(|member| member.broker)
            .collect();
        let mut sources = plan::sources(&image, &others);
        sources.truncate(SOURCES_MAX);
        let Some(last) = sources.last().copied() else {
            return Err(ReadError::NotHeld {
                segment: segment.id,
                end: segment.end,
            });
        };
        inner.metrics.elsewhere.inc();
        for source in sources {
            let question = CopyQuestion {
                partition,
                segment: segment.id,
                asked,
            };
            let limit = if source == last { TIMEOUT } else { patience };
            match inner.asker.ask_within(source, question, limit).await {
                Ok(answer) => match take(answer) {
                    Some(taken) => return Ok(taken),
                    None => tracing::warn!(
                        %partition, segment = %segment.id, %source, ?asked,
                        "an answer that is not of the segment"
                    ),
                },
                Err(error) => tracing::debug!(%source, %error, "not read from another broker"),
            }
        }
        Err(ReadError::Io(std::io::ErrorKind::NotConnected))
    }
}

/// Whether it may be what was looked for.
fn fits(segment: &SegmentRecord, (from, sought): (Offset, Sought), found: TimeFound) -> bool {
    let at_least = match sought {
        Sought::AtLeast(at_least) => at_least,
        Sought::Highest => TimestampMs(i64::MIN),
    };
    found.is_none_or(|(offset, timestamp)| {
        let within = from <= offset && segment.end.is_some_and(|end| offset < end);
        within && timestamp >= at_least
    })
}

/// The chunk, if these are batches of the segment of which the first holds or follows `from`.
fn checked(
    segment: &SegmentRecord,
    from: Offset,
    (next, batches): (Offset, Bytes),
) -> Option<Chunk> {
    let end = segment.end?;
    let epochs = segment.first_epoch()..=segment.epoch;
    let is_compacted = segment.compaction.is_some();
    let mut expected: Option<Offset> = None;
    let mut rest = &batches[..];
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).ok()?;
        let batch = rest.get(..header.size_bytes())?;
        check_stored(batch).ok()?;
        let follows = match expected {
            Some(expected) if is_compacted => header.base_offset >= expected,
            Some(expected) => header.base_offset == expected,
            None if is_compacted => header.last_offset() >= from,
            None => header.base_offset <= from && header.last_offset() >= from,
        };
        let within = header.base_offset >= segment.base && header.next_offset() <= end;
        if !follows || !within || !epochs.contains(&header.leader_epoch) {
            return None;
        }
        expected = Some(header.next_offset());
        rest = rest.get(header.size_bytes()..)?;
    }
    // At least one: the last batch of a segment reaches its end.
    (expected? == next).then(|| Chunk {
        bytes: batches.len(),
        batches: vec![batches],
        next,
        from_cache: false,
    })
}
