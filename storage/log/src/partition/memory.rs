//! What a partition remembers where a segment begins, on its way from one replica to another.
//!
//! It has the form of the recovery point of a segment that is still empty, so that there is one
//! format of it, with a version and a checksum.

use std::{io, sync::Arc};

use bytes::Bytes;
use mainstem_record::{Offset, SegmentId};

use super::{Inner, chain::blocking};
use crate::{
    dedupe::{Dedupe, PRODUCER_BYTES_MAX, PRODUCERS_MAX, SESSION_BYTES_MAX, SESSIONS_MAX},
    error::PartitionError,
    inbox::Control,
    index_file::{self, INDEX_FILE_BYTES_MAX},
    log::expiry_ms,
    paths,
    points::{base_point, put_memory},
    segment::Segment,
};

/// The longest memory that is taken over, in bytes: as many producers and sessions as a partition
/// remembers, and a header.
pub(super) const MEMORY_BYTES_MAX: usize =
    PRODUCERS_MAX * PRODUCER_BYTES_MAX + SESSIONS_MAX * SESSION_BYTES_MAX + 4096;

pub(super) async fn memory(inner: &Inner, id: SegmentId) -> Result<Bytes, PartitionError> {
    let (segment, before) = {
        let chain = inner.shared.chain.read();
        let at = chain.iter().position(|segment| segment.id == id);
        let at = at.ok_or(PartitionError::NoMemory)?;
        let before = at.checked_sub(1).and_then(|at| chain.get(at)).cloned();
        let segment = chain.get(at).cloned().ok_or(PartitionError::NoMemory)?;
        (segment, before)
    };
    let mut led = None;
    if segment.end().is_none() {
        led = inner.inbox.ask(&inner.shared, Control::Memory).await?;
    }
    let options = inner.tools.options.clone();
    let made = (options.index_interval_bytes, segment.created_wall_ms);
    let fs = inner.tools.env.fs.clone();
    blocking((&inner.tools, &inner.shared.dir), move || {
        let dedupe = match (led, before.filter(|before| before.held)) {
            (Some(led), _) => Some(led),
            (None, Some(before)) => at_end(&*fs, &before, expiry_ms(&options))?,
            // Nothing comes before the first one.
            (None, None) if segment.base == Offset::ZERO => {
                Some(Arc::new(Dedupe::new(expiry_ms(&options))))
            }
            (None, None) => None,
        };
        Ok(dedupe.map(|dedupe| Bytes::from(base_point(&segment.spec(), made, &dedupe))))
    })
    .await?
    .ok_or(PartitionError::NoMemory)
}

/// What the index file of a sealed segment remembers.
fn at_end(
    fs: &dyn mainstem_env::Fs,
    segment: &Segment,
    expiry_ms: i64,
) -> io::Result<Option<Arc<Dedupe>>> {
    let path = segment.path.with_extension(paths::INDEX);
    let bytes = match fs.read(&path, INDEX_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // The interval is of no account: the index is not used.
    let contents = index_file::decode(&bytes, 1, expiry_ms).ok();
    let ours = contents.filter(|contents| {
        contents.header.segment == segment.id && Some(contents.header.end) == segment.end()
    });
    Ok(ours.map(|contents| Arc::new(contents.dedupe)))
}

pub(super) async fn install(inner: &Inner, memory: Bytes) -> Result<(), PartitionError> {
    let _admin = inner.admin.lock().await;
    let shared = &inner.shared;
    if !shared
        .needs_memory
        .load(std::sync::atomic::Ordering::Acquire)
    {
        return Ok(());
    }
    let active = shared.chain.read().last().cloned();
    let active = active
        .filter(|last| last.held && last.end().is_none())
        .ok_or(PartitionError::NoActiveSegment)?;
    if memory.len() > MEMORY_BYTES_MAX {
        return Err(PartitionError::BadMemory);
    }
    let options = inner.tools.options.clone();
    let (fs, dir, spec) = (
        inner.tools.env.fs.clone(),
        shared.dir.clone(),
        active.spec(),
    );
    let decoded = blocking((&inner.tools, &inner.shared.dir), move || {
        let Ok(contents) = index_file::decode(&memory, 1, expiry_ms(&options)) else {
            return Ok(None);
        };
        let header = &contents.header;
        let ours = header.segment == spec.id
            && (header.base, header.end) == (spec.base, spec.base)
            && header.epoch == spec.epoch
            && header.bytes == 0;
        if ours {
            put_memory(&*fs, &dir, &spec, &memory)?;
            fs.sync_dir(&dir)?;
        }
        Ok(Some(contents.dedupe).filter(|_| ours))
    })
    .await?
    .ok_or(PartitionError::BadMemory)?;
    let install = |reply| Control::InstallMemory(Box::new(decoded), reply);
    inner.inbox.ask(shared, install).await?
}
