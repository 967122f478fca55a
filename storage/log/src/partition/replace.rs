//! Putting compacted segments in the place of those that they were made from.

use std::{io, sync::Arc};

use mainstem_record::{SegmentId, TimestampMs};

use super::{
    Inner,
    chain::{blocking, delete_files},
};
use crate::{
    compact, error::PartitionError, paths, recovery::good_header, segment::Segment,
    segment::SegmentState, shared::Status, spec::SegmentSpec,
};

pub(super) async fn replace_segments(
    inner: &Inner,
    old: &[SegmentId],
    new: SegmentSpec,
) -> Result<(), PartitionError> {
    let _admin = inner.admin.lock().await;
    let shared = &inner.shared;
    if shared.status() == Status::Removed {
        return Err(PartitionError::Removed);
    }
    if shared.has_segment(new.id) {
        return Ok(());
    }
    let (tools, dir) = (inner.tools.clone(), shared.dir.clone());
    let segment = blocking((&inner.tools, &inner.shared.dir), move || {
        let path = paths::segment(&dir, new.base, new.id);
        let header = good_header(&*tools.env.fs, &path, &new).ok_or(io::ErrorKind::NotFound)?;
        let state = SegmentState {
            end: new.end,
            bytes: header.bytes,
            max_timestamp: TimestampMs(header.max_timestamp.max(TimestampMs::NONE.0)),
            open: None,
        };
        let made = header.created_wall_ms;
        Ok(Arc::new(Segment::new(&dir, &new, made, state)))
    })
    .await?;
    let gone = splice(inner, old, segment)?;
    delete_files(inner, gone).await
}

/// Changes the chain; returns what was replaced. Readers see all of the old segments or the new one.
fn splice(
    inner: &Inner,
    old: &[SegmentId],
    new: Arc<Segment>,
) -> Result<Vec<Arc<Segment>>, PartitionError> {
    let refused = PartitionError::CannotReplace(new.id);
    let mut chain = inner.shared.chain.write();
    let begins = chain
        .iter()
        .position(|segment| Some(&segment.id) == old.first())
        .ok_or(refused)?;
    let range = begins..begins + old.len();
    let run = chain.get(range.clone()).ok_or(refused)?;
    let same = run.iter().map(|segment| &segment.id).eq(old);
    let covers = run.first().is_some_and(|first| first.base == new.base)
        && run.last().is_some_and(|last| last.end() == new.end());
    if !same || !covers || new.end().is_none() {
        return Err(refused);
    }
    Ok(chain.splice(range, [new]).collect())
}

pub(super) async fn discard(inner: &Inner, new: SegmentSpec) {
    // Under the lock: it must not be what is being put in its place.
    let _admin = inner.admin.lock().await;
    if inner.shared.has_segment(new.id) {
        return;
    }
    let (tools, shared) = (inner.tools.clone(), inner.shared.clone());
    // The log is closing if it does not run.
    let _ = blocking((&inner.tools, &inner.shared.dir), move || {
        compact::discard(&tools, &shared, &new);
        Ok(())
    })
    .await;
}
