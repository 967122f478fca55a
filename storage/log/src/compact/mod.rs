//! Compaction: sealed segments are written anew with the newest record of each key.
//!
//! ```text
//! survey:  the newest offset of each key in what is dirty       (survey.rs, offset_map.rs)
//! groups:  neighbours that fit one segment, from the oldest on
//! rewrite: what stays of each batch of a group                  (filter.rs, output.rs)
//! owner:   commits the replacement, then Partition::replace_segments
//! ```
//! Offsets never change: a new segment covers exactly the offsets of those that it replaces, with
//! gaps. The order of the groups matters: what a tombstone hides must be gone before the tombstone
//! may go, so a group is begun only after the one before it was replaced, or given up.
//!
//! Files are read and written a bounded step at a time on the blocking pool, through no cache; the
//! memory of a compaction is its map, one index and a few windows.

mod filter;
mod offset_map;
mod output;
mod survey;
mod walk;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use mainstem_record::{BatchError, BatchHeader, Offset, SegmentId, TimestampMs};

use self::{
    filter::{Filter, FilterOptions, Kept, NewestBatches},
    offset_map::OffsetMap,
    output::{Finished, Output},
    survey::Survey,
    walk::{Source, Step, Visit, Walk},
};
use crate::{
    dedupe::Dedupe,
    index::{SEGMENT_BYTES_MAX, SEGMENT_OFFSETS_MAX},
    index_file::{self, INDEX_FILE_BYTES_MAX},
    log::expiry_ms,
    partition::Tools,
    paths,
    shared::{Shared, Status},
    spec::SegmentSpec,
};

/// How much is read before a compaction looks around: at its throttle, and whether it is to go on.
const STEP_BYTES: u64 = 8 << 20;

/// How a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactOptions {
    /// Records below it are compacted already, as the last compaction said
    /// ([`Compaction::clean_end`]).
    pub first_dirty: Offset,
    /// Only sealed segments that end at or below it are touched.
    pub end: Offset,
    /// Neighbours are merged as long as they have no more bytes together.
    pub segment_bytes_max: u64,
    /// How long a tombstone or marker stays after compaction has first met it, in milliseconds.
    pub delete_retention_ms: i64,
    /// Bytes of memory for the offsets of keys. If they do not suffice, less is compacted.
    pub map_bytes_max: usize,
    /// The most bytes per second that are read and written together; `None` is without bound.
    pub io_bytes_per_second: Option<u64>,
}

/// Why a compaction failed. The partition is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// A segment is damaged: it cannot be compacted before it is repaired.
    #[error("segment {segment} is damaged at position {position}: {reason}")]
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// Where in its file, in bytes.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A batch cannot be read or built.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// What stays would not fit a segment.
    #[error("the new segment would be larger than a segment may be")]
    TooLarge,
    /// The partition was removed.
    #[error("the partition was removed")]
    Removed,
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// The file system failed; it may be tried again.
    #[error("input or output failed: {0}")]
    Io(io::ErrorKind),
}

/// A new segment that is durable and that nobody knows. Its owner either commits it and calls
/// [`crate::Partition::replace_segments`], or [`crate::Partition::discard_replacement`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The neighbours that it replaces, in order.
    pub old: Vec<SegmentId>,
    /// Their bytes.
    pub old_bytes: u64,
    /// What it is.
    pub new: SegmentSpec,
    /// Records below it are the newest of their keys; at most the end of the segment.
    pub clean_end: Offset,
    /// Bytes of its file.
    pub bytes: u64,
    /// The highest timestamp of its batches; [`TimestampMs::NONE`] if there is none.
    pub max_timestamp: TimestampMs,
    /// Its digest, as [`crate::SealInfo::digest`].
    pub digest: u128,
}

/// A compaction of one partition that is under way; see the [`crate::Partition::compact`].
pub struct Compaction {
    shared: Arc<Shared>,
    tools: Tools,
    options: CompactOptions,
    /// `None` only while a step runs.
    filter: Option<Filter>,
    clean_end: Offset,
    keys: usize,
    groups: VecDeque<Arc<[Source]>>,
    throttle: Throttle,
}

/// Keeps to a number of bytes per second.
struct Throttle {
    bytes_per_second: Option<u64>,
    bytes: u64,
}

/// A group that is being written.
struct Rewrite {
    walk: Walk,
    filter: Filter,
    output: Output,
    end: Offset,
    is_changed: bool,
    done: bool,
}

// === impl CompactError ===

impl From<io::Error> for CompactError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

// === impl Compaction ===

impl Compaction {
    pub(crate) async fn begin(
        shared: Arc<Shared>,
        tools: Tools,
        options: CompactOptions,
    ) -> Result<Self, CompactError> {
        let sources: Vec<Source> = {
            let chain = shared.chain.read();
            let sealed = chain.iter().map_while(|segment| Source::of(segment));
            sealed.take_while(|s| s.end <= options.end).collect()
        };
        let from = options.first_dirty;
        let dirty: Arc<[Source]> = sources.iter().filter(|s| s.end > from).cloned().collect();
        let limit = dirty.last().map_or(from, |last| last.end);
        let keys_max: i64 = dirty
            .iter()
            .map(|s| s.end.0 - s.spec.base.0.max(from.0))
            .sum();
        let secrets = [tools.env.random_u64(), tools.env.random_u64()];
        let map = OffsetMap::new(options.map_bytes_max, keys_max.unsigned_abs(), secrets);
        let unpack = tools.options.decompressed_bytes_max;
        let files = (tools.env.fs.clone(), dirty);
        let mut survey = Survey::new(files, (from, limit), map, unpack);
        let mut throttle = Throttle::new(options.io_bytes_per_second);
        loop {
            let (moved, done, read) = run(&shared, &tools, move || {
                let mut budget = STEP_BYTES;
                let done = survey.step(&mut budget)?;
                Ok((survey, done, STEP_BYTES - budget))
            })
            .await?;
            survey = moved;
            throttle.wait(&tools, read).await;
            if done {
                break;
            }
        }
        let (map, transactions, clean_end) = survey.finish();
        let (keys, newest) = (map.len(), newest_batches(&shared, &tools, &sources).await?);
        let filter_options = FilterOptions {
            now_ms: tools.env.wall_ms(),
            delete_retention_ms: options.delete_retention_ms,
            decompressed_bytes_max: unpack,
        };
        let filter = Filter::new((map, transactions, clean_end), newest, filter_options);
        let groups = match clean_end > from {
            true => groups(&sources, clean_end, options.segment_bytes_max),
            false => VecDeque::new(),
        };
        Ok(Self {
            shared,
            tools,
            options,
            filter: Some(filter),
            clean_end,
            keys,
            groups,
            throttle,
        })
    }

    /// Below which offset everything is compacted when the last replacement is done: where the next
    /// compaction begins.
    pub fn clean_end(&self) -> Offset {
        self.clean_end
    }

    /// How many different keys there were in the records that were not compacted before.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Writes the next new segment, called `id`; `None` at the end. Only after the one before it
    /// was replaced: else the compaction must end.
    ///
    /// # Errors
    /// [`CompactError`]; the compaction must end, and nothing is left of what was being written.
    pub async fn next(&mut self, id: SegmentId) -> Result<Option<Replacement>, CompactError> {
        while let Some(group) = self.groups.pop_front() {
            if let Some(replacement) = self.rewrite(group, id).await? {
                return Ok(Some(replacement));
            }
        }
        Ok(None)
    }

    async fn rewrite(
        &mut self,
        group: Arc<[Source]>,
        id: SegmentId,
    ) -> Result<Option<Replacement>, CompactError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(None);
        };
        let Some(filter) = self.filter.take() else {
            return Err(CompactError::Closed);
        };
        let spec = SegmentSpec {
            id,
            base: first.spec.base,
            epoch: last.spec.epoch,
            end: Some(last.end),
            compacted_from: Some(first.first_epoch()),
            held: true,
        };
        let (fs, dir) = (self.tools.env.fs.clone(), self.shared.dir.clone());
        let interval = self.tools.options.index_interval_bytes;
        let created = group.iter().map(|s| s.created_wall_ms).max().unwrap_or(0);
        let (walk, end) = (Walk::new(fs.clone(), group.clone()), last.end);
        let mut rewrite = run(&self.shared, &self.tools, move || {
            let output = Output::create(fs, (&dir, spec), interval, created)?;
            Ok(Rewrite {
                walk,
                filter,
                output,
                end,
                is_changed: false,
                done: false,
            })
        })
        .await?;
        while !rewrite.done {
            let work = move || rewrite.step();
            let (moved, bytes) = run(&self.shared, &self.tools, work).await?;
            rewrite = moved;
            self.throttle.wait(&self.tools, bytes).await;
        }
        let is_clean = group.len() == 1 && last.end <= self.options.first_dirty;
        if is_clean && !rewrite.is_changed {
            let Rewrite { filter, output, .. } = rewrite;
            run(&self.shared, &self.tools, move || {
                output.abandon();
                Ok(())
            })
            .await?;
            self.filter = Some(filter);
            return Ok(None);
        }
        self.finish(group, rewrite).await.map(Some)
    }

    async fn finish(
        &mut self,
        group: Arc<[Source]>,
        rewrite: Rewrite,
    ) -> Result<Replacement, CompactError> {
        let tools = self.tools.clone();
        let last = group.last().cloned();
        let Rewrite { filter, output, .. } = rewrite;
        let new = output.spec;
        let max_timestamp = output.index.max_timestamp();
        let finished = run(&self.shared, &self.tools, move || {
            let mut output = output;
            let dedupe = last.and_then(|last| dedupe_after(&tools, &last));
            output.finish(&tools, dedupe).map_err(|error| {
                output.abandon();
                error.into()
            })
        });
        let Finished { bytes, digest } = finished.await?;
        self.filter = Some(filter);
        Ok(Replacement {
            old: group.iter().map(|source| source.spec.id).collect(),
            old_bytes: group.iter().map(|source| source.bytes).sum(),
            new,
            clean_end: self.clean_end.min(new.end.unwrap_or(new.base)),
            bytes,
            max_timestamp,
            digest,
        })
    }
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compaction")
            .field("partition", &self.shared.id)
            .field("clean_end", &self.clean_end)
            .finish_non_exhaustive()
    }
}

// === impl Rewrite ===

impl Rewrite {
    /// One step; bytes read and written. After an error nothing is left of it.
    fn step(mut self) -> Result<(Self, u64), CompactError> {
        match self.try_step() {
            Ok(bytes) => Ok((self, bytes)),
            Err(error) => {
                self.output.abandon();
                Err(error)
            }
        }
    }

    fn try_step(&mut self) -> Result<u64, CompactError> {
        let mut budget = STEP_BYTES;
        let mut written = 0;
        let (filter, output) = (&mut self.filter, &mut self.output);
        let (end, is_changed) = (self.end, &mut self.is_changed);
        let step = self.walk.step(&mut budget, |header, batch| {
            match filter.filter(header, batch, header.next_offset() == end)? {
                Kept::Nothing => *is_changed = true,
                Kept::Same => {
                    output.push(header, batch)?;
                    written += batch.len() as u64;
                }
                Kept::Changed(batch) => {
                    *is_changed = true;
                    output.push(&BatchHeader::parse(&batch)?, &batch)?;
                    written += batch.len() as u64;
                }
            }
            Ok(Visit::Next)
        })?;
        self.done = step != Step::More;
        Ok(STEP_BYTES - budget + written)
    }
}

// === impl Throttle ===

impl Throttle {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            bytes: 0,
        }
    }

    /// Waits as long as `bytes` more should have taken.
    async fn wait(&mut self, tools: &Tools, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        self.bytes += bytes;
        let micros = u128::from(self.bytes) * 1_000_000 / u128::from(rate.max(1));
        self.bytes = 0;
        let pause = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        tools.env.sleep(pause).await;
    }
}

/// Neighbours that together are no larger than a segment, as far as they begin below `clean_end`.
fn groups(
    sources: &[Source],
    clean_end: Offset,
    segment_bytes_max: u64,
) -> VecDeque<Arc<[Source]>> {
    let bytes_max = segment_bytes_max.min(SEGMENT_BYTES_MAX);
    let mut groups: Vec<Vec<Source>> = Vec::new();
    let mut bytes = 0;
    for source in sources.iter().filter(|s| s.spec.base < clean_end) {
        let fits = groups.last().is_some_and(|group| {
            let bounds = (group.first(), group.last());
            let (Some(first), Some(last)) = bounds else {
                return false;
            };
            bytes + source.bytes <= bytes_max
                && source.end.0 - first.spec.base.0 <= SEGMENT_OFFSETS_MAX
                && source.spec.base == last.end
        });
        match groups.last_mut().filter(|_| fits) {
            Some(group) => {
                bytes += source.bytes;
                group.push(source.clone());
            }
            None => {
                bytes = source.bytes;
                groups.push(vec![source.clone()]);
            }
        }
    }
    groups.into_iter().map(Into::into).collect()
}

/// The newest batch of each producer in `sources`: of what is sealed, not of what may still be lost.
async fn newest_batches(
    shared: &Arc<Shared>,
    tools: &Tools,
    sources: &[Source],
) -> Result<NewestBatches, CompactError> {
    let (last, reading) = (sources.last().cloned(), tools.clone());
    run(shared, tools, move || {
        let sealed = last.and_then(|last| dedupe_after(&reading, &last));
        Ok(NewestBatches::of(sealed.as_ref()))
    })
    .await
}

/// What the partition remembers at the end of a sealed segment, from its index file. Blocks.
fn dedupe_after(tools: &Tools, source: &Source) -> Option<Dedupe> {
    let path = source.path().with_extension(paths::INDEX);
    let bytes = tools.env.fs.read(&path, INDEX_FILE_BYTES_MAX).ok()?;
    let interval = tools.options.index_interval_bytes;
    let expiry_ms = expiry_ms(&tools.options);
    let contents = index_file::decode(&bytes, interval, expiry_ms).ok()?;
    let ours = contents.header.segment == source.spec.id && contents.header.end == source.end;
    ours.then_some(contents.dedupe)
}

/// Runs a step on the blocking pool, unless the partition is gone.
async fn run<T: Send + 'static>(
    shared: &Shared,
    tools: &Tools,
    work: impl FnOnce() -> Result<T, CompactError> + Send + 'static,
) -> Result<T, CompactError> {
    if shared.status() == Status::Removed {
        return Err(CompactError::Removed);
    }
    let result = tools.env.blocking("log-compact", work).await;
    result.unwrap_or(Err(CompactError::Closed))
}

/// Removes the files of a replacement that was not committed. Blocks.
pub(crate) fn discard(tools: &Tools, shared: &Shared, new: &SegmentSpec) {
    output::discard(
        &*tools.env.fs,
        &paths::segment(&shared.dir, new.base, new.id),
    );
}
