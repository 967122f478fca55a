//! Segments that are known to be lost or damaged, as starts, the scrub and the look for missing files
//! have found them.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use mainstem_record::{Offset, PartitionId, SegmentId};
use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::segment::Segment;

/// What is wrong with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// Its file is not there.
    Missing,
    /// Its file cannot be opened.
    Unreadable,
    /// Its file is shorter than it must be.
    Short,
    /// Batches in it are damaged.
    Damaged,
}

/// A segment of which records are lost or cannot be read. The rest of its partition is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its partition.
    pub partition: PartitionId,
    /// Which one it is.
    pub segment: SegmentId,
    /// Its file.
    pub path: PathBuf,
    /// Its first offset.
    pub base: Offset,
    /// The offset after its last record; `None` if it is the active one.
    pub end: Option<Offset>,
    /// What is wrong with it.
    pub kind: DamageKind,
}

/// By partition and offset.
type Known = BTreeMap<(PartitionId, Offset, SegmentId), (Arc<Segment>, DamageKind)>;

/// All that are known.
pub(crate) struct Damages {
    known: Mutex<Known>,
    count: IntGauge,
}

// === impl Damages ===

impl Damages {
    /// `count` tells how many there are.
    pub(crate) fn new(count: IntGauge) -> Self {
        let known = Mutex::default();
        Self { known, count }
    }

    /// Takes note of one; says whether it was not known.
    pub(crate) fn note(&self, id: PartitionId, segment: &Arc<Segment>, kind: DamageKind) -> bool {
        let mut known = self.known.lock();
        let place = (id, segment.base, segment.id);
        let before = known.insert(place, (segment.clone(), kind));
        self.count.set(known.len() as i64);
        before.is_none_or(|(_, before)| before != kind)
    }

    /// It has been looked at and is whole.
    pub(crate) fn clear(&self, id: PartitionId, segment: &Segment) {
        let mut known = self.known.lock();
        known.remove(&(id, segment.base, segment.id));
        self.count.set(known.len() as i64);
    }

    /// Those that were not dropped meanwhile, by partition and offset.
    pub(crate) fn all(&self) -> Vec<Damage> {
        let mut known = self.known.lock();
        known.retain(|_, (segment, _)| !segment.is_dropped());
        self.count.set(known.len() as i64);
        let damages = known.iter().map(|((id, ..), (segment, kind))| Damage {
            partition: *id,
            segment: segment.id,
            path: segment.path.clone(),
            base: segment.base,
            end: segment.end(),
            kind: *kind,
        });
        damages.collect()
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Short => "short",
            Self::Damaged => "damaged",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.end {
            Some(end) => write!(
                f,
                "{path} (offsets {} to {end}) is {}",
                self.base, self.kind
            ),
            None => write!(f, "{path} (offsets from {}) is {}", self.base, self.kind),
        }
    }
}
