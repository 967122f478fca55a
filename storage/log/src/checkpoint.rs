//! Up to where each active segment is known to be synced, kept in one file of the node.
//!
//! Recovery cuts a torn tail only above this point. The file is written now and then, not at each
//! sync: an older claim is still true, since what was synced once stays synced.
//!
//! ```text
//! "MSCP"  version u32  { topic 16  index i32  segment 16  offset i64  position u64 }*  crc32c u32
//! ```

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mainstem_env::{Env, Fs};
use mainstem_record::{Offset, PartitionId, PartitionIndex, SegmentId, TopicId};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::dedupe::Fields;

/// The longest time between a sync and its being noted here.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);

/// The largest file that is read: some millions of partitions.
pub(crate) const FILE_BYTES_MAX: usize = 256 << 20;

pub(crate) const MAGIC: [u8; 4] = *b"MSCP";
pub(crate) const VERSION: u32 = 1;

/// Where each partition is synced, as the file says; sorted, so that the same points give the same file.
pub(crate) type Points = BTreeMap<PartitionId, SyncedPoint>;

/// Up to where a segment is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncedPoint {
    pub(crate) segment: SegmentId,
    pub(crate) offset: Offset,
    pub(crate) position: u64,
}

/// The synced points of the node.
pub(crate) struct Checkpoint {
    env: Env,
    path: PathBuf,
    points: Mutex<Points>,
    writing: AtomicBool,
    /// Two writers would share the temporary file.
    file: Mutex<()>,
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Reads the file if it is there. One that cannot be understood counts as none, since it only
    /// guards against damage that is rarer than a crash while it is replaced.
    pub(crate) fn load(env: Env, path: PathBuf) -> io::Result<Self> {
        let points = match env.fs.read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::error!(path = %path.display(), "the checkpoint is damaged, ignoring it");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    path = %path.display(),
                    "the checkpoint is gone: what was synced is known less well"
                );
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            env,
            path,
            points: Mutex::new(points),
            writing: AtomicBool::new(false),
            file: Mutex::new(()),
        })
    }

    pub(crate) fn get(&self, id: PartitionId) -> Option<SyncedPoint> {
        self.points.lock().get(&id).copied()
    }

    pub(crate) fn set(&self, id: PartitionId, point: SyncedPoint) {
        self.points.lock().insert(id, point);
    }

    /// Takes over a point that is newer than what is known; offsets of a partition only rise.
    pub(crate) fn raise(&self, id: PartitionId, point: SyncedPoint) {
        let mut points = self.points.lock();
        let known = points.entry(id).or_insert(point);
        let is_newer = (known.offset, known.position) < (point.offset, point.position);
        if known.offset < point.offset || (known.segment == point.segment && is_newer) {
            *known = point;
        }
    }

    pub(crate) fn remove(&self, id: PartitionId) {
        self.points.lock().remove(&id);
    }

    /// Starts writing the file in the background, unless that is under way.
    ///
    /// Returns whether it was started; otherwise try again later.
    pub(crate) fn write_soon(self: &Arc<Self>) -> bool {
        if self.writing.swap(true, Ordering::AcqRel) {
            return false;
        }
        let this = self.clone();
        self.env.tasks.blocking(
            "log-checkpoint",
            Box::new(move || {
                if let Err(error) = this.write(&*this.env.fs) {
                    let path = this.path.display();
                    tracing::warn!(%error, %path, "cannot write the checkpoint");
                }
                this.writing.store(false, Ordering::Release);
            }),
        );
        true
    }

    /// Writes the file; blocks.
    pub(crate) fn write(&self, fs: &dyn Fs) -> io::Result<()> {
        let _file = self.file.lock();
        let bytes = encode(&self.points.lock());
        fs.write_atomic(&self.path, &bytes)
    }
}

pub(crate) fn encode(points: &Points) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + points.len() * 52);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    // In order, so that the same state gives the same bytes.
    let mut sorted: Vec<_> = points.iter().collect();
    sorted.sort_unstable_by_key(|(id, _)| **id);
    for (id, point) in sorted {
        out.extend_from_slice(id.topic.0.as_bytes());
        out.extend_from_slice(&id.index.0.to_le_bytes());
        out.extend_from_slice(point.segment.0.as_bytes());
        out.extend_from_slice(&point.offset.0.to_le_bytes());
        out.extend_from_slice(&point.position.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The points of a file; `None` if it is damaged.
pub(crate) fn decode(file: &[u8]) -> Option<Points> {
    let (body, trailer) = file.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*trailer) {
        return None;
    }
    let mut fields = Fields(body);
    if fields.take()? != MAGIC || fields.u32()? != VERSION {
        return None;
    }
    let mut points = BTreeMap::new();
    while !fields.0.is_empty() {
        let id = PartitionId {
            topic: TopicId(Uuid::from_bytes(fields.take()?)),
            index: PartitionIndex(fields.i32()?),
        };
        let point = SyncedPoint {
            segment: SegmentId(Uuid::from_bytes(fields.take()?)),
            offset: Offset(fields.i64()?),
            position: fields.u64()?,
        };
        points.insert(id, point);
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_round_trips_and_damage_is_found() {
        let id = |index| PartitionId {
            topic: TopicId(Uuid::from_u128(3)),
            index: PartitionIndex(index),
        };
        let point = |position| SyncedPoint {
            segment: SegmentId(Uuid::from_u128(4)),
            offset: Offset(9),
            position,
        };
        let points = BTreeMap::from([(id(0), point(1)), (id(1), point(2))]);
        let file = encode(&points);
        assert_eq!(decode(&file), Some(points));
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None);
        }
    }
}
