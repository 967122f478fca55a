//! Reading only the batches that have what is looked for, by the dictionary of a sealed segment.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_env::OpenMode;
use mainstem_record::Offset;

use super::{
    Tools,
    reads::{blocking, in_range, io_error},
};
use crate::{
    error::ReadError,
    files::Files,
    index_file::{self, Labelled},
    paths,
    read::Chunk,
    scan::{BatchReader, SEEK_WINDOW_BYTES},
    segment::{Located, Segment},
    shared::Shared,
};

/// The most batches that are looked up at once; more are read like any others.
const HITS_MAX: usize = 65_536;

/// If more than one of so many batches has what is looked for, reading all is as good.
const NARROW_PART: usize = 4;

/// What a look-up has found; see [`super::Partition::matching`].
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Up to the end of these only they need to be read.
    Hits(Hits),
    /// Up to this offset everything must be read: there is no dictionary, or too much matches.
    All(Offset),
}

/// The batches of one sealed segment that have what was looked for.
#[derive(Clone)]
pub struct Hits {
    segment: Arc<Segment>,
    /// Byte positions, rising.
    positions: Arc<[u32]>,
    end: Offset,
}

// === impl Lookup ===

impl Lookup {
    /// The hits, if not everything must be read.
    pub fn hits(self) -> Option<Hits> {
        match self {
            Self::Hits(hits) => Some(hits),
            Self::All(_) => None,
        }
    }
}

// === impl Hits ===

impl Hits {
    /// The offset after the segment: none of the records below it that are not in these batches has
    /// what was looked for.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// How many batches they are.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}

impl std::fmt::Debug for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hits")
            .field("segment", &self.segment.id)
            .field("batches", &self.len())
            .finish_non_exhaustive()
    }
}

/// Looks in the dictionary of the sealed segment that holds `from`.
pub(super) async fn matching(
    shared: &Arc<Shared>,
    tools: &Tools,
    from: Offset,
    matches: impl FnMut(&[u8]) -> bool + Send + 'static,
) -> Result<Lookup, ReadError> {
    let committed = in_range(shared, from)?;
    let segment = shared.segment_at(from);
    let sealed = segment.and_then(|segment| Some((segment.end()?, segment)));
    let Some((end, segment)) = sealed.filter(|(end, _)| *end <= committed) else {
        return Ok(Lookup::All(committed));
    };
    if segment.labelled() != Labelled::Yes {
        return Ok(Lookup::All(end));
    }
    let files = tools.files.clone();
    blocking(tools, move || {
        let path = segment.path.with_extension(paths::INDEX);
        let found = files
            .fs
            .open(&path, OpenMode::Read)
            .and_then(|file| index_file::read_labels(&*file));
        let dictionary = match found {
            Ok(Ok(dictionary)) => dictionary,
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %path.display(), "the dictionary is damaged");
                segment.set_labelled(Labelled::Never);
                None
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot read the dictionary");
                None
            }
        };
        let found = dictionary.and_then(|dictionary| dictionary.find(matches));
        let narrow = found.filter(|found| {
            let hits = found.positions.len();
            hits <= HITS_MAX && hits.saturating_mul(NARROW_PART) <= found.batches as usize
        });
        Ok(match narrow {
            Some(found) => Lookup::Hits(Hits {
                segment,
                positions: found.positions.into(),
                end,
            }),
            None => Lookup::All(end),
        })
    })
    .await
}

/// Reads those of `hits` that have records from `from` on.
pub(super) async fn read_hits(
    shared: &Arc<Shared>,
    tools: &Tools,
    (hits, from): (&Hits, Offset),
    bytes_max: usize,
) -> Result<Chunk, ReadError> {
    in_range(shared, from)?;
    let (files, hits) = (tools.files.clone(), hits.clone());
    let result = blocking(tools, move || hits.read(&files, from, bytes_max)).await;
    match result {
        Ok(chunk) => {
            tools.metrics.read_bytes_file.inc_by(chunk.bytes as u64);
            Ok(chunk)
        }
        Err(error) => {
            // The segment may have been dropped meanwhile: that is no damage.
            in_range(shared, from)?;
            Err(error)
        }
    }
}

impl Hits {
    fn read(&self, files: &Files, from: Offset, bytes_max: usize) -> Result<Chunk, ReadError> {
        let segment = &*self.segment;
        let from = from.max(segment.base);
        let io = |error| io_error(&error, segment, from, self.end);
        let located = segment.locate_offset(files, from).map_err(io)?;
        let file = located.file.clone();
        let mut reader = BatchReader::new(&*file, located.limit, SEEK_WINDOW_BYTES);
        let start = located.start;
        let mut walk = Walk {
            segment,
            at: located,
        };
        let before = |position: &u32| u64::from(*position) < start;
        let behind = self.positions.partition_point(before);
        let mut chunk = Chunk::empty(self.end);
        chunk.from_cache = false;
        for position in self.positions.get(behind..).unwrap_or_default() {
            let batch = match walk.batch(files, &mut reader, (u64::from(*position), from)) {
                Ok(Some(batch)) => batch,
                Ok(None) => continue,
                // First what lies before the damage, then the damage itself.
                Err(ReadError::Damaged { base, .. }) if base > from => {
                    chunk.next = base;
                    return Ok(chunk);
                }
                Err(error) => return Err(error),
            };
            let full = chunk.bytes > 0 && chunk.bytes + batch.len() > bytes_max;
            if full {
                chunk.next = walk.at.next;
                return Ok(chunk);
            }
            chunk.bytes += batch.len();
            chunk.batches.push(batch);
        }
        Ok(chunk)
    }
}

/// Walks over the headers of a segment to batches whose positions are known: only so can the offset
/// of a batch be trusted, which its checksum does not cover.
struct Walk<'a> {
    segment: &'a Segment,
    at: Located,
}

impl Walk<'_> {
    /// The batch at `position`; `None` if its records are below `from`. The walk stays before it
    /// until the next call.
    fn batch(
        &mut self,
        files: &Files,
        reader: &mut BatchReader<'_>,
        (position, from): (u64, Offset),
    ) -> Result<Option<Bytes>, ReadError> {
        let end = self.segment.end().unwrap_or(from);
        let io = |error| io_error(&error, self.segment, from, end);
        let nearer = self.segment.locate_position(files, position).map_err(io)?;
        if nearer.start > self.at.start {
            self.at = nearer;
        }
        loop {
            let damaged = |at: &Located| {
                let after = self.segment.offset_after(files, at.start, end);
                let base = at.next.max(from);
                ReadError::Damaged {
                    segment: self.segment.id,
                    base,
                    end: after.max(base.next()),
                }
            };
            let header = match reader.header(self.at.start).map_err(io)? {
                Ok(header) if self.segment.rule.check(&header, self.at.next).is_ok() => header,
                Ok(_) | Err(_) => return Err(damaged(&self.at)),
            };
            if self.at.start > position {
                // The dictionary does not fit the batches.
                return Err(damaged(&self.at));
            }
            if self.at.start < position {
                self.at.start += header.size_bytes() as u64;
                self.at.next = header.next_offset();
                continue;
            }
            if header.last_offset() < from {
                return Ok(None);
            }
            self.at.next = header.base_offset;
            return match reader.batch(position, &header).map_err(io)? {
                Ok(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
                Err(_) => Err(damaged(&self.at)),
            };
        }
    }
}
