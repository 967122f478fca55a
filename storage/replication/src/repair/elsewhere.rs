//! Reads of sealed segments that are not held here, for readers of this node.

use bytes::Bytes;
use mainstem_log::{Chunk, ReadError};
use mainstem_metadata::{SegmentRecord, SegmentState};
use mainstem_record::{BatchHeader, BrokerId, Offset, PartitionId, check_stored};

use super::{Copies, Repair, plan};
use crate::wire::{Asked, CopyAnswer, CopyQuestion, FRAME_BYTES};

/// How many holders are asked for one read.
const SOURCES_MAX: usize = 3;

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
        let inner = &self.inner;
        let (image, me) = (inner.host.image(), inner.host.me());
        let record = image.partition(id).ok_or(ReadError::Removed)?;
        let mut sealed = record.segments.iter();
        let segment = sealed
            .find(|segment| segment.end.is_some_and(|end| from < end))
            .filter(|segment| segment.state == SegmentState::Sealed);
        let segment = segment.ok_or_else(|| ReadError::OutOfRange {
            log_start: record.log_start,
            log_end: record.segments.last().map_or(from, |last| last.base),
        })?;
        let complete = segment.complete.iter().map(|copy| copy.member());
        let others: Vec<BrokerId> = complete
            .filter(|member| image.is_current(*member) && member.broker != me.broker)
            .map(|member| member.broker)
            .collect();
        let sources = plan::sources(&image, &others);
        if sources.is_empty() {
            return Err(ReadError::NotHeld {
                segment: segment.id,
                end: segment.end,
            });
        }
        inner.metrics.elsewhere.inc();
        let from = from.max(segment.base);
        let bytes_max = u32::try_from(bytes_max.min(FRAME_BYTES)).unwrap_or(u32::MAX);
        for source in sources.into_iter().take(SOURCES_MAX) {
            let question = CopyQuestion {
                partition: id,
                segment: segment.id,
                asked: Asked::Batches { from, bytes_max },
            };
            match inner.asker.ask(source, question).await {
                Ok(CopyAnswer::Batches { end, batches }) => {
                    match checked(segment, from, (end, batches)) {
                        Some(chunk) => return Ok(chunk),
                        None => tracing::warn!(
                            partition = %id, segment = %segment.id, %source, offset = from.0,
                            "batches that are not of the segment"
                        ),
                    }
                }
                Ok(_) => tracing::warn!(%source, "an answer to something else"),
                Err(error) => tracing::debug!(%source, %error, "not read from another broker"),
            }
        }
        Err(ReadError::Io(std::io::ErrorKind::NotConnected))
    }
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
