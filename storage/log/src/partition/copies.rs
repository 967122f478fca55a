//! Sealed segments that others copy, and what becomes of copies here.
//!
//! Whoever copies a segment asks first for its **facts**: length, digests of all chunks, and what the
//! partition remembers of producers at its end. They are checked against the digest that metadata has;
//! every chunk is checked against them when it comes, and so is what is here already, so that a copy
//! that was interrupted, a log that was short, or a file with one spoilt chunk costs only what is
//! missing. Facts have the form of an index file without entries: one format, with a version and a
//! checksum.

use std::{io, sync::Arc};

use bytes::Bytes;
use mainstem_record::{SegmentId, TimestampMs};

use super::{Inner, Partition, chain, copy::SegmentCopy, cut::recover_options, reads, to_its_end};
use crate::{
    digest::CHUNK_BYTES,
    error::{PartitionError, ReadError},
    index::Index,
    index_file::{self, INDEX_FILE_BYTES_MAX},
    paths,
    scan::read_range,
    segment::Segment,
    shared::Shared,
    spec::SegmentSpec,
};

impl Partition {
    /// What whoever copies sealed segment `id` must know of it, for [`Partition::begin_copy`] of
    /// another replica.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if it is not to be had here; [`ReadError::Damaged`] if its index file
    /// is not.
    pub async fn copy_facts(&self, id: SegmentId) -> Result<Bytes, ReadError> {
        let segment = held(&self.inner.shared, id)?;
        let tools = &self.inner.tools;
        let (fs, interval) = (tools.env.fs.clone(), tools.options.index_interval_bytes);
        reads::blocking(tools, move || {
            let path = segment.path.with_extension(paths::INDEX);
            let bytes = match fs.read(&path, INDEX_FILE_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let end = segment.end().unwrap_or(segment.base);
                    return Err(reads::io_error(&error, &segment, segment.base, end));
                }
            };
            facts(&segment.spec(), &bytes, interval).ok_or_else(|| damaged(&segment))
        })
        .await
    }

    /// A chunk of sealed segment `id`, by its number: as it lies there, checked by whoever copies it.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if it is not to be had here; [`ReadError::Damaged`] if it ends before.
    pub async fn read_chunk(&self, id: SegmentId, number: u32) -> Result<Bytes, ReadError> {
        let segment = held(&self.inner.shared, id)?;
        let files = self.inner.tools.files.clone();
        reads::blocking(&self.inner.tools, move || {
            let end = segment.end().unwrap_or(segment.base);
            let io = |error: io::Error| reads::io_error(&error, &segment, segment.base, end);
            let limit = segment.state.read().bytes;
            let start = u64::from(number) * CHUNK_BYTES;
            let stop = limit.min(start + CHUNK_BYTES);
            let located = segment.locate_position(&files, start).map_err(io)?;
            let bytes = read_range(&*located.file, start, stop).map_err(io)?;
            let whole = start < limit && bytes.len() as u64 == stop - start;
            whole.then_some(bytes).ok_or_else(|| damaged(&segment))
        })
        .await
    }

    /// Looks whether all of sealed segment `id`, which is not held, is here all the same: the file of
    /// a log that was not short, or of an earlier life that proved nothing. `bytes` and `digest` are
    /// what metadata has. `None` if it is not; otherwise [`Partition::add_copy`] takes it.
    ///
    /// For a segment that nobody else has: [`Partition::begin_copy`] finds the same, and its facts
    /// tell what is remembered at the end. Here that is told by an index file of an earlier life, else
    /// by the batches of those segments that are held.
    ///
    /// # Errors
    /// [`PartitionError::CannotCopy`] if it is held, active, or not of the chain;
    /// [`PartitionError::Io`].
    pub async fn check_copy(
        &self,
        id: SegmentId,
        (bytes, digest): (u64, Option<u128>),
    ) -> Result<Option<SegmentCopy>, PartitionError> {
        let segment = lacking(&self.inner.shared, id)?;
        let (tools, shared) = (self.inner.tools.clone(), self.inner.shared.clone());
        let options = recover_options(&self.inner);
        chain::blocking((&self.inner.tools, &self.inner.shared.dir), move || {
            SegmentCopy::of_own_file(&tools, (&options, &shared), segment, (bytes, digest))
        })
        .await
    }

    /// Begins a copy of sealed segment `id`, which is not held here, or goes on with one. `facts` are
    /// what [`Partition::copy_facts`] of another replica has given, and `digest` is what metadata
    /// has.
    ///
    /// # Errors
    /// [`PartitionError::BadCopy`] if the facts are damaged, too long, or of another segment or
    /// digest; [`PartitionError::CannotCopy`] if it is held, active, or not of the chain;
    /// [`PartitionError::Io`], also if there is not room enough on the disk.
    pub async fn begin_copy(
        &self,
        id: SegmentId,
        digest: Option<u128>,
        facts: Bytes,
    ) -> Result<SegmentCopy, PartitionError> {
        let opened = {
            // A segment that is dropped meanwhile must not leave a file.
            let _admin = self.inner.admin.lock().await;
            let segment = lacking(&self.inner.shared, id)?;
            let tools = self.inner.tools.clone();
            chain::blocking((&self.inner.tools, &self.inner.shared.dir), move || {
                SegmentCopy::open(&tools, segment, digest, &facts)
            })
            .await?
            .ok_or(PartitionError::BadCopy(id))?
        };
        chain::blocking((&self.inner.tools, &self.inner.shared.dir), move || {
            opened.look_at_what_is_there()
        })
        .await
    }

    /// Takes a whole copy: its batches are checked, it is made durable under its name, and its records
    /// are to be had here from then on.
    ///
    /// # Errors
    /// [`PartitionError::BadCopy`] if chunks are missing, or it is not what its segment must be: the
    /// file is removed then; [`PartitionError::CannotCopy`] if the segment was dropped meanwhile;
    /// [`PartitionError::Io`].
    pub async fn add_copy(&self, copy: SegmentCopy) -> Result<(), PartitionError> {
        let inner = self.inner.clone();
        let work = async move { add(&inner, copy).await };
        to_its_end(&self.inner.tools.env, "log-copy", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Gives up sealed segment `id`, whose file is not what it must be: its records answer
    /// [`ReadError::NotHeld`] from here on. The file stays for [`Partition::begin_copy`]. One that is
    /// not held is left as it is.
    ///
    /// # Errors
    /// [`PartitionError::CannotCopy`] if it is active, or not of the chain.
    pub async fn remove_copy(&self, id: SegmentId) -> Result<(), PartitionError> {
        let _admin = self.inner.admin.lock().await;
        let shared = &self.inner.shared;
        let refused = PartitionError::CannotCopy(id);
        let removed = {
            let mut chain = shared.chain.write();
            let place = chain.iter_mut().find(|segment| segment.id == id);
            let place = place.filter(|segment| segment.end().is_some());
            let place = place.ok_or(refused)?;
            if !place.held {
                return Ok(());
            }
            let mut spec = place.spec();
            spec.held = false;
            let without = Segment::not_held(&shared.dir, &spec);
            without.state.write().max_timestamp = place.state.read().max_timestamp;
            std::mem::replace(place, Arc::new(without))
        };
        let tools = &self.inner.tools;
        tools.files.evict(&removed);
        tools.damages.clear(shared.id, &removed);
        Ok(())
    }

    /// Tells the highest timestamp of a sealed segment that is not held here, as metadata has it:
    /// look-ups by time pass over it if it is too old. Of one that is held nothing changes.
    pub fn tell_max_timestamp(&self, id: SegmentId, max_timestamp: TimestampMs) {
        let chain = self.inner.shared.chain.read();
        let segment = chain.iter().find(|segment| segment.id == id);
        if let Some(segment) = segment.filter(|s| !s.held && s.end().is_some()) {
            segment.state.write().max_timestamp = max_timestamp;
        }
    }
}

async fn add(inner: &Inner, copy: SegmentCopy) -> Result<(), PartitionError> {
    let (options, dir) = (recover_options(inner), inner.shared.dir.clone());
    let (id, shared) = (copy.id(), inner.shared.clone());
    let check = move || copy.check(&options, &shared);
    let checked = chain::blocking((&inner.tools, &dir), check).await?;
    let checked = checked.ok_or(PartitionError::BadCopy(id))?;
    let _admin = inner.admin.lock().await;
    lacking(&inner.shared, id)?;
    let tools = inner.tools.clone();
    let segment = chain::blocking((&inner.tools, &dir), move || checked.name(&tools)).await?;
    let mut chain = inner.shared.chain.write();
    if let Some(place) = chain.iter_mut().find(|segment| segment.id == id) {
        *place = Arc::new(segment);
    }
    Ok(())
}

/// The sealed segment, if it is held here.
pub(super) fn held(shared: &Shared, id: SegmentId) -> Result<Arc<Segment>, ReadError> {
    let chain = shared.chain.read();
    let found = chain.iter().find(|segment| segment.id == id);
    let (end, held) = (found.and_then(|s| s.end()), found.filter(|s| s.held));
    let sealed = held.filter(|_| end.is_some()).cloned();
    sealed.ok_or(ReadError::NotHeld { segment: id, end })
}

/// The sealed segment, if it is not held here.
fn lacking(shared: &Shared, id: SegmentId) -> Result<Arc<Segment>, PartitionError> {
    let chain = shared.chain.read();
    let found = chain.iter().find(|segment| segment.id == id);
    let found = found.filter(|segment| !segment.held && segment.end().is_some());
    found.cloned().ok_or(PartitionError::CannotCopy(id))
}

fn damaged(segment: &Segment) -> ReadError {
    ReadError::Damaged {
        segment: segment.id,
        base: segment.base,
        end: segment.end().unwrap_or(segment.base),
    }
}

/// The facts that the index file of a segment tells, if it is a good one.
fn facts(spec: &SegmentSpec, index_file: &[u8], interval: u32) -> Option<Bytes> {
    let contents = index_file::decode(index_file, interval, i64::MAX).ok()?;
    let header = &contents.header;
    let ours = header.segment == spec.id && header.base == spec.base;
    if !ours || Some(header.end) != spec.end {
        return None;
    }
    let chunks = contents.digest.chunks()?;
    let none = Index::new(spec.base, interval);
    let facts = index_file::encode(header, &chunks, &none, &contents.dedupe);
    Some(Bytes::from(facts))
}
