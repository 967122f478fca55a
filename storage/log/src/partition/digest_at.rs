//! What a segment holds up to an offset near its end, told without reading it again: replicas compare
//! it before they agree on the end (R26).

use std::io;

use mainstem_record::{Offset, SegmentId, TimestampMs};

use super::{Inner, Partition, chain::blocking};
use crate::{
    active::Frozen,
    error::PartitionError,
    inbox::Control,
    recovery::good_header,
    scan::{BatchReader, SEEK_WINDOW_BYTES},
    segment::Segment,
    spec::SealInfo,
};

impl Partition {
    /// What segment `id` holds up to `end`: [`SealInfo`] as if it had been sealed there. `None` if the
    /// segment is not held, or no batch of it ends there. Nothing is synced for it.
    ///
    /// The segment may go on growing meanwhile; it must not be cut.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn digest_at(
        &self,
        id: SegmentId,
        end: Offset,
    ) -> Result<Option<SealInfo>, PartitionError> {
        digest_at(&self.inner, id, end).await
    }
}

async fn digest_at(
    inner: &Inner,
    id: SegmentId,
    end: Offset,
) -> Result<Option<SealInfo>, PartitionError> {
    let chain = inner.shared.chain.read().clone();
    let Some(segment) = chain.into_iter().find(|segment| segment.id == id) else {
        return Ok(None);
    };
    if !segment.held {
        return Ok(None);
    }
    let tools = (&inner.tools, &*inner.shared.dir);
    if let Some(sealed_end) = segment.end() {
        if sealed_end != end {
            return Ok(None);
        }
        let fs = inner.tools.env.fs.clone();
        return blocking(tools, move || {
            let header = good_header(&*fs, &segment.path, &segment.spec());
            Ok(header.map(|header| SealInfo {
                segment: id,
                end,
                bytes: header.bytes,
                max_timestamp: TimestampMs(header.max_timestamp.max(TimestampMs::NONE.0)),
                digest: header.digest,
            }))
        })
        .await;
    }
    let looked = inner.inbox.ask(&inner.shared, Control::Look).await?;
    let Some(frozen) = looked.filter(|frozen| frozen.segment.id == id) else {
        return Ok(None);
    };
    if end < segment.base || end > frozen.end {
        return Ok(None);
    }
    blocking(tools, move || up_to(frozen, end)).await
}

fn up_to(frozen: Frozen, end: Offset) -> io::Result<Option<SealInfo>> {
    let Some((bytes, max_timestamp)) = place_of(&frozen, end)? else {
        return Ok(None);
    };
    let segment = frozen.segment.id;
    let digest = frozen.digest.of_prefix(&*frozen.file, bytes)?;
    Ok(Some(SealInfo {
        segment,
        end,
        bytes,
        max_timestamp,
        digest,
    }))
}

/// Where the batch ends that ends at `end`, and the highest timestamp up to there.
fn place_of(frozen: &Frozen, end: Offset) -> io::Result<Option<(u64, TimestampMs)>> {
    let segment: &Segment = &frozen.segment;
    let (mut position, mut next, mut highest) = {
        let state = segment.state.read();
        let Some((_, index)) = &state.open else {
            return Ok(None);
        };
        index.before(end)
    };
    let mut reader = BatchReader::new(&*frozen.file, frozen.bytes, SEEK_WINDOW_BYTES);
    while next < end {
        let header = match reader.header(position)? {
            Ok(header) if segment.rule.check(&header, next).is_ok() => header,
            Ok(_) | Err(_) => return Ok(None),
        };
        highest = highest.max(header.max_timestamp.0);
        position += header.size_bytes() as u64;
        next = header.next_offset();
    }
    let highest = TimestampMs(highest.max(TimestampMs::NONE.0));
    Ok((next == end).then_some((position, highest)))
}
