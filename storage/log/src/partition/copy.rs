//! A sealed segment on its way here.
//!
//! ```text
//! <name>.log.copy   chunk by chunk, each checked -> all batches checked -> fsync
//!                   -> rename to <name>.log -> .idx (atomically, syncs the directory) -> in the chain
//! ```
//! A crash leaves the file that was begun, which the next copy goes on with, or a whole file that
//! nobody has been told of, which the next look finds ([`super::Partition::check_copy`]).

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{SegmentId, TimestampMs};
use xxhash_rust::xxh3::xxh3_128;

use super::{Tools, cut::io_of, memory::MEMORY_BYTES_MAX};
use crate::{
    dedupe::Dedupe,
    digest::{CHUNK_BYTES, chunk_count, chunk_is, digest_of_chunks},
    error::PartitionError,
    files::delete_file,
    index::SEGMENT_BYTES_MAX,
    index_file::{self, Contents, Header, Labelled},
    log::expiry_ms,
    paths,
    planted::{Bug, planted},
    recovery::{RecoverOptions, dedupe_before},
    scan::{BatchRule, Scan, ScanOptions, read_range, scan},
    segment::{Segment, SegmentState},
    shared::Shared,
    spec::SegmentSpec,
};

/// The longest facts that are taken: what is remembered, and the digests of as many chunks as the
/// longest segment has.
const FACTS_BYTES_MAX: usize =
    MEMORY_BYTES_MAX + (SEGMENT_BYTES_MAX / CHUNK_BYTES + 1) as usize * size_of::<u128>();

/// After so many bytes what was copied is synced, so that the last sync is short.
const SYNC_BYTES: u64 = 32 << 20;

/// A copy of a sealed segment that is being made. Dropped, what it has so far stays on the disk.
pub struct SegmentCopy {
    tools: Tools,
    spec: SegmentSpec,
    /// The name that the segment will have, in the directory of its partition.
    path: PathBuf,
    /// The name that the file has.
    named: PathBuf,
    file: Arc<dyn File>,
    bytes: u64,
    chunks: Vec<u128>,
    /// What is remembered at the end of the segment, if a source has told.
    memory: Option<Dedupe>,
    created_wall_ms: i64,
    missing: BTreeSet<u32>,
    unsynced: u64,
}

/// A copy whose every batch was checked, on stable storage under the name of a copy.
pub(super) struct Checked {
    copy: SegmentCopy,
    scan: Scan,
    dedupe: Dedupe,
}

// === impl SegmentCopy ===

impl SegmentCopy {
    /// Of which segment.
    pub fn id(&self) -> SegmentId {
        self.spec.id
    }

    /// The length of the segment in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The numbers of the chunks that are not here yet, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + use<'_> {
        self.missing.iter().copied()
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self, number: u32) -> u64 {
        let start = u64::from(number) * CHUNK_BYTES;
        self.bytes.min(start + CHUNK_BYTES).saturating_sub(start)
    }

    /// Writes a chunk that is missing.
    ///
    /// # Errors
    /// [`PartitionError::BadCopy`] if it is not that chunk: nothing was written.
    /// [`PartitionError::Io`]: this copy is of no use any more.
    pub async fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), PartitionError> {
        if !self.missing.contains(&number) {
            return Ok(());
        }
        let digest = self.chunks.get(number as usize).copied();
        let fits = bytes.len() as u64 == self.chunk_bytes(number);
        let refused = PartitionError::BadCopy(self.spec.id);
        let digest = digest.filter(|_| fits).ok_or(refused)?;
        self.unsynced += bytes.len() as u64;
        let syncs = self.unsynced >= SYNC_BYTES;
        if syncs {
            self.unsynced = 0;
        }
        let (file, fs, path) = (
            self.file.clone(),
            self.tools.env.fs.clone(),
            self.named.clone(),
        );
        let write = move || {
            if xxh3_128(&bytes) != digest && !planted(Bug::UncheckedCopy) {
                return Ok(false);
            }
            let start = u64::from(number) * CHUNK_BYTES;
            file.write_all_vectored_at(&[IoSlice::new(&bytes)], start)?;
            if syncs {
                sync(&*fs, &*file, &path)?;
            }
            Ok(true)
        };
        let dir = self.path.parent().unwrap_or(&self.path).to_owned();
        let is_good = super::chain::blocking((&self.tools, &dir), write).await?;
        if !is_good {
            return Err(refused);
        }
        self.missing.remove(&number);
        Ok(())
    }

    /// Opens the file of a copy of `segment`; `None` if the facts are not its facts. Blocks.
    pub(super) fn open(
        tools: &Tools,
        segment: Arc<Segment>,
        digest: Option<u128>,
        facts: &[u8],
    ) -> io::Result<Option<Self>> {
        let spec = segment.spec();
        let Some(contents) = decode_facts(tools, &spec, digest, facts) else {
            return Ok(None);
        };
        let (fs, path) = (tools.env.fs.clone(), segment.path.clone());
        let copy = copy_path(&path);
        if !fs.exists(&copy)? && fs.exists(&path)? {
            fs.rename(&path, &copy)?;
        }
        let file = fs.open(&copy, OpenMode::Create)?;
        let there = file.len()?;
        let bytes = contents.header.bytes;
        let room = fs.space(&tools.options.dir)?.available;
        let wanted = bytes.saturating_sub(there);
        if room < wanted.saturating_add(tools.options.low_space_bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if there > bytes {
            file.set_len(bytes)?;
        }
        let chunks = contents.digest.chunks().unwrap_or_default();
        Ok(Some(Self {
            tools: tools.clone(),
            spec: SegmentSpec { held: true, ..spec },
            path,
            named: copy,
            file,
            bytes,
            missing: (0..).take(chunks.len()).collect(),
            chunks,
            memory: Some(contents.dedupe),
            created_wall_ms: contents.header.created_wall_ms,
            unsynced: 0,
        }))
    }

    /// Finds out which chunks need not be copied. Blocks.
    pub(super) fn look_at_what_is_there(mut self) -> io::Result<Self> {
        let there = self.file.len()?;
        self.file.read_once();
        for (at, digest) in self.chunks.iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let start = at as u64 * CHUNK_BYTES;
            if start >= there {
                break;
            }
            if chunk_is(&*self.file, self.bytes, (at, *digest))? {
                self.missing.remove(&number);
            }
        }
        Ok(self)
    }

    /// A copy with nothing missing, if the file that is here is the segment. Blocks.
    pub(super) fn of_own_file(
        tools: &Tools,
        (options, shared): (&RecoverOptions, &Shared),
        segment: Arc<Segment>,
        (bytes, digest): (u64, Option<u128>),
    ) -> io::Result<Option<Self>> {
        let (fs, path) = (tools.env.fs.clone(), segment.path.clone());
        let copy = copy_path(&path);
        let named = if fs.exists(&copy)? {
            copy
        } else {
            path.clone()
        };
        let file = match fs.open(&named, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.len()? < bytes || bytes > SEGMENT_BYTES_MAX {
            return Ok(None);
        }
        let chunks = chunks_of(&*file, bytes)?;
        if digest.is_some_and(|digest| digest_of_chunks(&chunks) != digest) {
            return Ok(None);
        }
        file.set_len(bytes)?;
        let spec = SegmentSpec {
            held: true,
            ..segment.spec()
        };
        let own = own_index(tools, &path, &spec);
        let created_wall_ms = own.as_ref().map(|own| own.header.created_wall_ms);
        let memory = own.map(|own| own.dedupe);
        let whole = Self {
            tools: tools.clone(),
            spec,
            path,
            named,
            file,
            bytes,
            chunks,
            memory,
            created_wall_ms: created_wall_ms.unwrap_or_else(|| tools.env.wall_ms()),
            missing: BTreeSet::new(),
            unsynced: 0,
        };
        // Without a digest only the batches can tell.
        match digest {
            Some(_) => Ok(Some(whole)),
            None => Ok(whole.check(options, shared)?.map(|checked| checked.copy)),
        }
    }

    /// Checks every batch, and syncs the file. `None` if it is not the segment; the file is gone then.
    /// Blocks.
    pub(super) fn check(
        mut self,
        options: &RecoverOptions,
        shared: &Shared,
    ) -> io::Result<Option<Checked>> {
        let scan_options = ScanOptions {
            rule: BatchRule::of(&self.spec),
            limit: self.bytes,
            stop_at: self.spec.end,
            wall_ms: options.wall_ms,
            decompressed_bytes_max: options.decompressed_bytes_max,
        };
        let begin = Scan::new(self.spec.base, options.index_interval);
        let told = self.memory.take();
        let mut dedupe = match &told {
            // What the batches would tell is in it already.
            Some(_) => Dedupe::new(options.expiry_ms),
            None => self.remembered_before(options, shared)?,
        };
        let fs = &*options.fs;
        let named = &self.named;
        let scan = scan(&*self.file, &scan_options, begin, &mut dedupe)?;
        let digest = scan.digest.chunks().map(|chunks| digest_of_chunks(&chunks));
        let is_whole = self.missing.is_empty()
            && Some(scan.next) == self.spec.end
            && scan.position == self.bytes
            && digest == Some(digest_of_chunks(&self.chunks));
        if !is_whole && !planted(Bug::UncheckedCopy) {
            tracing::error!(
                path = %named.display(), position = scan.position, bytes = self.bytes,
                reason = scan.bad.as_ref().map(ToString::to_string),
                "a copy is not the segment"
            );
            delete_file(fs, named)?;
            return Ok(None);
        }
        if !planted(Bug::NoSyncOfCopy) {
            sync(fs, &*self.file, named)?;
        }
        Ok(Some(Checked {
            copy: self,
            scan,
            dedupe: told.unwrap_or(dedupe),
        }))
    }

    /// What the partition remembers at the base of the segment, as far as that is known here.
    fn remembered_before(&self, options: &RecoverOptions, shared: &Shared) -> io::Result<Dedupe> {
        let before: Vec<SegmentSpec> = {
            let chain = shared.chain.read();
            let before = chain.iter().filter(|s| s.base < self.spec.base);
            before.map(|segment| segment.spec()).collect()
        };
        dedupe_before(options, &shared.dir, &before).map_err(io_of)
    }
}

impl std::fmt::Debug for SegmentCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentCopy")
            .field("path", &self.path)
            .field("bytes", &self.bytes)
            .field("missing", &self.missing.len())
            .finish_non_exhaustive()
    }
}

// === impl Checked ===

impl Checked {
    /// Gives the segment its name and its index file, durably. Blocks.
    pub(super) fn name(self, tools: &Tools) -> io::Result<Segment> {
        let Self { copy, scan, dedupe } = self;
        let fs = &*tools.env.fs;
        if copy.named != copy.path {
            fs.rename(&copy.named, &copy.path)?;
        }
        let (min_timestamp, max_timestamp) = scan.index.time_range();
        let header = Header {
            labelled: Labelled::NotYet,
            segment: copy.spec.id,
            base: copy.spec.base,
            end: scan.next,
            epoch: copy.spec.epoch,
            compacted_from: copy.spec.compacted_from,
            bytes: copy.bytes,
            min_timestamp,
            max_timestamp,
            created_wall_ms: copy.created_wall_ms,
            digest: digest_of_chunks(&copy.chunks),
        };
        let index_file = index_file::encode(&header, &copy.chunks, &scan.index, &dedupe);
        fs.write_atomic(&copy.path.with_extension(paths::INDEX), &index_file)?;
        delete_file(fs, &copy.path.with_extension(paths::SNAPSHOT))?;
        let state = SegmentState {
            end: copy.spec.end,
            bytes: copy.bytes,
            max_timestamp: TimestampMs(max_timestamp.max(TimestampMs::NONE.0)),
            open: None,
        };
        let dir = copy.path.parent().unwrap_or(&copy.path);
        Ok(Segment::new(dir, &copy.spec, copy.created_wall_ms, state))
    }
}

fn copy_path(path: &std::path::Path) -> PathBuf {
    path.with_added_extension(paths::COPY)
}

/// Syncs a copy. After a failure nothing is known of what it holds, so it goes.
fn sync(fs: &dyn Fs, file: &dyn File, path: &std::path::Path) -> io::Result<()> {
    file.sync_all().inspect_err(|_| {
        let _ = delete_file(fs, path);
    })
}

fn decode_facts(
    tools: &Tools,
    spec: &SegmentSpec,
    digest: Option<u128>,
    facts: &[u8],
) -> Option<Contents> {
    if facts.len() > FACTS_BYTES_MAX {
        return None;
    }
    let expiry_ms = expiry_ms(&tools.options);
    let interval = tools.options.index_interval_bytes;
    let contents = index_file::decode(facts, interval, expiry_ms).ok()?;
    let is_ours = is_of(&contents.header, spec);
    let has_digest = digest.is_none_or(|digest| contents.header.digest == digest);
    (is_ours && has_digest).then_some(contents)
}

fn is_of(header: &Header, spec: &SegmentSpec) -> bool {
    header.segment == spec.id
        && header.base == spec.base
        && Some(header.end) == spec.end
        && header.epoch == spec.epoch
        && header.compacted_from == spec.compacted_from
}

/// The index file that was here before, if it is a good one of this segment.
fn own_index(tools: &Tools, path: &std::path::Path, spec: &SegmentSpec) -> Option<Contents> {
    let path = path.with_extension(paths::INDEX);
    let bytes = tools.env.fs.read(&path, index_file::INDEX_FILE_BYTES_MAX);
    let interval = tools.options.index_interval_bytes;
    let contents = index_file::decode(&bytes.ok()?, interval, expiry_ms(&tools.options)).ok()?;
    is_of(&contents.header, spec).then_some(contents)
}

/// The digests of the chunks of the first `bytes` bytes of a file that has as many.
fn chunks_of(file: &dyn File, bytes: u64) -> io::Result<Vec<u128>> {
    file.read_once();
    let mut chunks = Vec::new();
    for number in 0..chunk_count(bytes) {
        let start = number * CHUNK_BYTES;
        let chunk = read_range(file, start, bytes.min(start + CHUNK_BYTES))?;
        chunks.push(xxh3_128(&chunk));
    }
    Ok(chunks)
}
