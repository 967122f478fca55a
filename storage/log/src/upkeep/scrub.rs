//! The scrub: sealed segments are read again and compared with the digests of their chunks, so that
//! what a disk has spoilt is known before somebody needs it.
//!
//! ```text
//! "MSSB"  version u32  last pass i64  topic 16  index i32  base i64  crc32c u32
//! ```
//! The file `scrub` holds when the last whole pass ended, in milliseconds since the Unix epoch, and
//! after which segment an interrupted one goes on: its partition and its base. Partitions are gone
//! through in the order of their ids. Without the file, or with a damaged one, a pass begins anew.

use std::{io, path::PathBuf, sync::Arc};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{Offset, PartitionId, PartitionIndex, TopicId};
use parking_lot::Mutex;
use uuid::Uuid;

use super::pause;
use crate::{
    damage::DamageKind,
    dedupe::Fields,
    digest::{CHUNK_BYTES, chunk_is},
    error::LogError,
    event::LogEvent,
    index_file::{self, Contents, INDEX_FILE_BYTES_MAX},
    log::Log,
    paths,
    segment::Segment,
    verify::damaged_batches,
};

pub(crate) const MAGIC: [u8; 4] = *b"MSSB";
pub(crate) const VERSION: u32 = 1;

/// The largest state file that is read.
const FILE_BYTES_MAX: usize = 4096;

/// After how many bytes the state is written.
const SAVE_BYTES: u64 = 1 << 30;

/// Where a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    /// When the last whole pass ended; 0 if none has.
    passed_wall_ms: i64,
    /// The last segment of the pass that was looked at.
    after: Option<(PartitionId, Offset)>,
}

/// The state of the scrub of one log.
#[derive(Debug)]
pub(crate) struct ScrubState {
    path: PathBuf,
    place: Mutex<Place>,
}

/// One segment that is being checked.
struct Check {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    contents: Contents,
    chunks: Vec<u128>,
}

// === impl ScrubState ===

impl ScrubState {
    /// Reads the state; what cannot be read begins anew. Blocks.
    pub(crate) fn load(fs: &dyn Fs, path: PathBuf) -> Self {
        let bytes = fs.read(&path, FILE_BYTES_MAX).unwrap_or_default();
        let place = Mutex::new(decode(&bytes).unwrap_or_default());
        Self { path, place }
    }

    /// Whether a segment was looked at already in this pass.
    fn is_behind(&self, id: PartitionId, base: Offset) -> bool {
        let after = self.place.lock().after;
        after.is_some_and(|after| (id, base) <= after)
    }

    fn save(&self, fs: &dyn Fs) {
        let bytes = encode(&self.place.lock());
        if let Err(error) = fs.write_atomic(&self.path, &bytes) {
            tracing::warn!(%error, path = %self.path.display(), "cannot note the scrub");
        }
    }
}

fn encode(place: &Place) -> Vec<u8> {
    let nowhere = PartitionId {
        topic: TopicId(Uuid::nil()),
        index: PartitionIndex(-1),
    };
    let (id, base) = place.after.unwrap_or((nowhere, Offset(-1)));
    let mut out = Vec::with_capacity(48);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&place.passed_wall_ms.to_le_bytes());
    out.extend_from_slice(id.topic.0.as_bytes());
    out.extend_from_slice(&id.index.0.to_le_bytes());
    out.extend_from_slice(&base.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(file: &[u8]) -> Option<Place> {
    let (body, crc) = file.split_last_chunk::<4>()?;
    let mut fields = Fields(body);
    let is_ours = crc32c::crc32c(body) == u32::from_le_bytes(*crc)
        && fields.take()? == MAGIC
        && fields.u32()? == VERSION;
    if !is_ours {
        return None;
    }
    let passed_wall_ms = fields.i64()?;
    let id = PartitionId {
        topic: TopicId(Uuid::from_bytes(fields.take()?)),
        index: PartitionIndex(fields.i32()?),
    };
    let after = Some((id, Offset(fields.i64()?))).filter(|(_, base)| base.0 >= 0);
    Some(Place {
        passed_wall_ms,
        after,
    })
}

impl Log {
    /// Whether a pass is under way or the last one is longer ago than the interval.
    pub(crate) fn scrub_is_due(&self) -> bool {
        let options = &self.tools().options;
        let place = *self.scrub_state().place.lock();
        let age_ms = self.tools().env.wall_ms() - place.passed_wall_ms;
        let interval_ms = i64::try_from(options.scrub_interval.as_millis()).unwrap_or(i64::MAX);
        options.scrub_bytes_per_second > 0 && (place.after.is_some() || age_ms >= interval_ms)
    }

    /// Goes once through all sealed segments, from where an interrupted pass has stopped, and
    /// returns how many chunks are damaged, and how many segments have lost their file: each is logged, counted and told as
    /// [`LogEvent::SegmentDamaged`]. Readers of what is damaged get
    /// [`crate::ReadError::Damaged`], the rest is served. The log does this by itself (see
    /// [`crate::LogOptions::scrub_interval`]).
    pub async fn scrub(&self) -> usize {
        let (tools, state) = (self.tools(), self.scrub_state());
        if !self.is_open() {
            return 0;
        }
        let (mut damaged, mut unsaved) = (self.look_for_files().await, 0);
        let mut partitions = self.partitions();
        partitions.sort_unstable_by_key(|partition| partition.id());
        for partition in partitions {
            let id = partition.id();
            let sealed: Vec<Arc<Segment>> = {
                let chain = partition.shared().chain.read();
                chain
                    .iter()
                    .filter(|s| s.end().is_some() && s.held)
                    .cloned()
                    .collect()
            };
            for segment in sealed {
                if state.is_behind(id, segment.base) {
                    continue;
                }
                let Some(found) = self.scrub_segment(id, &segment).await else {
                    return damaged;
                };
                damaged += found;
                state.place.lock().after = Some((id, segment.base));
                unsaved += segment.state.read().bytes;
                if unsaved > SAVE_BYTES {
                    unsaved = 0;
                    self.save_scrub().await;
                }
            }
        }
        *state.place.lock() = Place {
            passed_wall_ms: tools.env.wall_ms(),
            after: None,
        };
        self.save_scrub().await;
        tools.metrics.scrub_passes.inc();
        damaged
    }

    async fn save_scrub(&self) {
        let (fs, state) = (self.tools().env.fs.clone(), self.scrub_state().clone());
        let env = &self.tools().env;
        // `None` at the end of the process: the pass begins a little earlier then.
        let _ = env.blocking("log-scrub", move || state.save(&*fs)).await;
    }

    /// How many chunks are damaged; `None` if the log is closing.
    async fn scrub_segment(&self, id: PartitionId, segment: &Arc<Segment>) -> Option<usize> {
        let tools = self.tools();
        let opened = {
            let (fs, segment) = (tools.env.fs.clone(), segment.clone());
            let interval = tools.options.index_interval_bytes;
            let open = move || Check::open(&*fs, segment, interval);
            tools.env.blocking("log-scrub", open).await?
        };
        let mut check = match opened {
            Ok(check) => check,
            Err(error) => {
                // Dropped meanwhile, gone, or without a good index file: others tell of that.
                tracing::debug!(%error, path = %segment.path.display(), "not scrubbed");
                return Some(0);
            }
        };
        let (mut damaged, mut is_whole) = (0, true);
        for number in 0..check.chunks.len() {
            if !self.is_open() {
                return None;
            }
            if segment.is_dropped() {
                is_whole = false;
                break;
            }
            let (checked, is_good) = tools
                .env
                .blocking("log-scrub", move || {
                    let is_good = check.chunk(number);
                    (check, is_good)
                })
                .await?;
            check = checked;
            match is_good {
                Ok(true) => {}
                Ok(false) => {
                    damaged += 1;
                    check = self.report(id, check, number).await?;
                }
                Err(error) => {
                    is_whole = false;
                    tracing::error!(%error, path = %segment.path.display(), "scrub: cannot read");
                    tools.metrics.scrub_unreadable.inc();
                }
            }
            let bytes = check.chunk_bytes(number);
            tools.metrics.scrub_bytes.inc_by(bytes);
            let rate = tools.options.scrub_bytes_per_second;
            if rate > 0 {
                tools.env.sleep(pause(bytes, rate)).await;
            }
        }
        if damaged == 0 && is_whole {
            tools.damages.clear(id, segment);
        }
        Some(damaged)
    }

    /// Names the batches of a damaged chunk.
    async fn report(&self, id: PartitionId, check: Check, number: usize) -> Option<Check> {
        let tools = self.tools();
        let (check, found) = tools
            .env
            .blocking("log-scrub", move || {
                let found = check.damage(number);
                (check, found)
            })
            .await?;
        let segment = &check.segment;
        if segment.is_dropped() {
            return Some(check);
        }
        let position = number as u64 * CHUNK_BYTES;
        let (base, end) = found.unwrap_or((check.contents.header.base, check.contents.header.end));
        tracing::error!(
            path = %segment.path.display(), position, base = base.0, end = end.0,
            "a sealed segment is damaged"
        );
        tools.metrics.scrub_damaged.inc();
        tools.damages.note(id, segment, DamageKind::Damaged);
        self.tell(LogEvent::SegmentDamaged {
            partition: id,
            segment: segment.id,
            path: segment.path.clone(),
            position,
            offsets: (base, end),
        });
        Some(check)
    }
}

// === impl Check ===

impl Check {
    fn open(fs: &dyn Fs, segment: Arc<Segment>, interval: u32) -> Result<Self, LogError> {
        let io = LogError::io(&segment.path);
        let index_path = segment.path.with_extension(paths::INDEX);
        let opened = fs
            .open(&segment.path, OpenMode::Read)
            .and_then(|file| Ok((file, fs.read(&index_path, INDEX_FILE_BYTES_MAX)?)))
            .and_then(|(file, bytes)| {
                let decoded = index_file::decode(&bytes, interval, i64::MAX);
                Ok((file, decoded.map_err(io::Error::other)?))
            });
        let (file, contents) = opened.map_err(io)?;
        // What is read here is read once: it must not push out of the page cache what others read.
        file.read_once();
        let chunks = contents.digest.chunks().unwrap_or_default();
        Ok(Self {
            segment,
            file,
            contents,
            chunks,
        })
    }

    fn chunk(&self, number: usize) -> io::Result<bool> {
        let digest = self.chunks.get(number).copied().unwrap_or_default();
        chunk_is(&*self.file, self.contents.header.bytes, (number, digest))
    }

    fn chunk_bytes(&self, number: usize) -> u64 {
        let start = number as u64 * CHUNK_BYTES;
        let bytes = self.contents.header.bytes;
        bytes.min(start + CHUNK_BYTES).saturating_sub(start)
    }

    /// The offsets of the damaged batches of a chunk, from the first to after the last.
    fn damage(&self, number: usize) -> Option<(Offset, Offset)> {
        let start = number as u64 * CHUNK_BYTES;
        let range = start..start + self.chunk_bytes(number);
        damaged_batches(&*self.file, &self.contents, range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_round_trips_and_damage_is_found() {
        let id = PartitionId {
            topic: TopicId(Uuid::from_u128(3)),
            index: PartitionIndex(4),
        };
        for after in [None, Some((id, Offset(9)))] {
            let place = Place {
                passed_wall_ms: 77,
                after,
            };
            let file = encode(&place);
            assert_eq!(decode(&file), Some(place));
            for at in 0..file.len() {
                let mut bad = file.clone();
                bad[at] ^= 1;
                assert_eq!(decode(&bad), None);
            }
        }
    }
}
