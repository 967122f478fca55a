//! Open files and indexes of sealed segments: opened on demand, bounded, the longest unused go.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::SegmentId;
use parking_lot::Mutex;

use crate::{
    index::Index,
    index_file::{self, INDEX_FILE_BYTES_MAX},
    paths,
    scan::index_headers,
    segment::Segment,
};

/// Bytes of memory that the indexes of open sealed segments may take.
const INDEX_BYTES_MAX: usize = 64 << 20;

/// A sealed segment that is open for reading.
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn File>,
    pub(crate) index: Arc<Index>,
}

/// The open sealed segments of a node.
pub(crate) struct Files {
    pub(crate) fs: Arc<dyn Fs>,
    files_max: usize,
    index_interval: u32,
    expiry_ms: i64,
    lru: Mutex<Lru>,
}

#[derive(Default)]
struct Lru {
    open: HashMap<SegmentId, (Arc<OpenSegment>, u64)>,
    by_use: BTreeMap<u64, SegmentId>,
    uses: u64,
    index_bytes: usize,
}

// === impl Files ===

impl Files {
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        files_max: usize,
        index_interval: u32,
        expiry_ms: i64,
    ) -> Self {
        Self {
            fs,
            files_max: files_max.max(1),
            index_interval,
            expiry_ms,
            lru: Mutex::new(Lru::default()),
        }
    }

    /// The segment if it is open.
    pub(crate) fn cached(&self, id: SegmentId) -> Option<Arc<OpenSegment>> {
        self.lru.lock().touch(id)
    }

    /// Opens the segment, whose file has `limit` readable bytes. Blocks.
    pub(crate) fn get(&self, segment: &Segment, limit: u64) -> io::Result<Arc<OpenSegment>> {
        if let Some(open) = self.cached(segment.id) {
            return Ok(open);
        }
        let file = self.fs.open(&segment.path, OpenMode::Read)?;
        let index = match self.load_index(segment) {
            Some(index) => index,
            // Derived data: it can always be made again from the batches.
            None => {
                let begin = (segment.base, segment.rule);
                index_headers(&*file, begin, self.index_interval, limit)?
            }
        };
        let open = Arc::new(OpenSegment {
            file,
            index: Arc::new(index),
        });
        self.keep(segment, open.clone());
        Ok(open)
    }

    /// Keeps a segment open, unless it was dropped while it was being opened: its space would not
    /// come free.
    fn keep(&self, segment: &Segment, open: Arc<OpenSegment>) {
        self.put(segment.id, open);
        if segment.dropped.load(Ordering::Acquire) {
            self.lru.lock().remove(segment.id);
        }
    }

    fn load_index(&self, segment: &Segment) -> Option<Index> {
        let path = segment.path.with_extension(paths::INDEX);
        let bytes = match self.fs.read(&path, INDEX_FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot read the index file");
                return None;
            }
        };
        match index_file::decode(&bytes, self.index_interval, self.expiry_ms) {
            Ok(contents) if contents.header.segment == segment.id => Some(contents.index),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "the index file is of another segment");
                None
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the index file is damaged");
                None
            }
        }
    }

    pub(crate) fn put(&self, id: SegmentId, open: Arc<OpenSegment>) {
        let mut lru = self.lru.lock();
        lru.remove(id);
        lru.uses += 1;
        let uses = lru.uses;
        lru.index_bytes += open.index.size_bytes();
        lru.by_use.insert(uses, id);
        lru.open.insert(id, (open, uses));
        while lru.open.len() > self.files_max
            || (lru.index_bytes > INDEX_BYTES_MAX && lru.open.len() > 1)
        {
            let Some((_, oldest)) = lru.by_use.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            lru.remove(oldest);
        }
    }

    /// Closes a segment for good.
    pub(crate) fn evict(&self, segment: &Segment) {
        segment.dropped.store(true, Ordering::Release);
        self.lru.lock().remove(segment.id);
    }

    /// Removes the files of a segment; each is renamed first, so that a crash leaves no segment
    /// that looks whole. Blocks. What is not there counts as removed.
    pub(crate) fn delete(&self, segment: &Segment) -> io::Result<()> {
        self.evict(segment);
        for extension in [paths::LOG, paths::INDEX, paths::SNAPSHOT] {
            delete_file(&*self.fs, &segment.path.with_extension(extension))?;
        }
        delete_file(&*self.fs, &segment.path.with_added_extension(paths::COPY))?;
        Ok(())
    }
}

/// Renames and removes a file that may not be there.
pub(crate) fn delete_file(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    let deleted = path.with_added_extension(paths::DELETED);
    match fs.rename(path, &deleted) {
        Ok(()) => fs.remove_file(&deleted),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

// === impl Lru ===

impl Lru {
    fn touch(&mut self, id: SegmentId) -> Option<Arc<OpenSegment>> {
        self.uses += 1;
        let (open, used) = self.open.get_mut(&id)?;
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(self.uses, id);
        Some(open.clone())
    }

    fn remove(&mut self, id: SegmentId) {
        if let Some((open, used)) = self.open.remove(&id) {
            self.by_use.remove(&used);
            self.index_bytes -= open.index.size_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstem_env::MemFs;
    use mainstem_record::{LeaderEpoch, Offset, TimestampMs};

    use super::*;
    use crate::{segment::SegmentState, spec::SegmentSpec};

    #[test]
    fn segment_that_is_dropped_while_it_is_opened_does_not_stay_open() {
        let fs = Arc::new(MemFs::new());
        fs.create_dir_all(Path::new("/p")).expect("directory");
        let spec = SegmentSpec {
            id: SegmentId(uuid::Uuid::from_u128(1)),
            base: Offset(0),
            epoch: LeaderEpoch(0),
            end: Some(Offset(1)),
            compacted_from: None,
            held: true,
        };
        let state = SegmentState {
            end: spec.end,
            bytes: 0,
            max_timestamp: TimestampMs::NONE,
            open: None,
        };
        let segment = Segment::new(Path::new("/p"), &spec, 0, state);
        fs.open(&segment.path, OpenMode::Create).expect("file");
        let files = Files::new(fs, 10, 4096, 0);
        let open = files.get(&segment, 0).expect("opens");
        assert!(files.cached(segment.id).is_some());
        files.delete(&segment).expect("deletes");
        // The reader had opened the file just before.
        files.keep(&segment, open);
        assert!(files.cached(segment.id).is_none());
    }
}
