//! Names of files and directories.
//!
//! ```text
//! <dir>/checkpoint                                         synced points
//! <dir>/scrub                                              how far the scrub is
//! <dir>/format                                             version; there once the rest is
//! <dir>/clean-shutdown                                     there only after a clean stop
//! <dir>/journal/<shard>.ring                               what is not yet synced in its segment
//! <dir>/trash/<wall clock ms>-...                         what metadata did not name, kept rings
//! <dir>/partitions/<topic uuid>/<index>/<20-digit base>-<segment uuid>.log   batches
//!                                                                     .idx   once sealed
//!                                                                     .snap  active, recovery point
//!                                                                     .log.copy  being copied here
//! ```
//! What ends in `.deleted` or `.tmp` is rubbish of an interrupted operation.

use std::path::{Path, PathBuf};

use mainstem_record::{Offset, PartitionId, PartitionIndex, SegmentId, TopicId};
use uuid::Uuid;

pub(crate) const LOG: &str = "log";
pub(crate) const INDEX: &str = "idx";
pub(crate) const SNAPSHOT: &str = "snap";
pub(crate) const RING: &str = "ring";
pub(crate) const DELETED: &str = "deleted";
pub(crate) const TEMPORARY: &str = "tmp";
/// Added to the name of a segment that is being copied here.
pub(crate) const COPY: &str = "copy";

pub(crate) fn partitions(dir: &Path) -> PathBuf {
    dir.join("partitions")
}

pub(crate) fn topic(dir: &Path, topic: TopicId) -> PathBuf {
    partitions(dir).join(topic.0.to_string())
}

pub(crate) fn partition(dir: &Path, id: PartitionId) -> PathBuf {
    topic(dir, id.topic).join(id.index.0.to_string())
}

pub(crate) fn checkpoint(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

/// Where what nobody knows waits to be removed.
pub(crate) fn trash(dir: &Path) -> PathBuf {
    dir.join("trash")
}

/// For how long each thing there has been seen.
pub(crate) fn trash_seen(dir: &Path) -> PathBuf {
    dir.join("trash-seen")
}

/// How far the scrub is.
pub(crate) fn scrub(dir: &Path) -> PathBuf {
    dir.join("scrub")
}

/// The directory of the shards' rings.
pub(crate) fn journal(dir: &Path) -> PathBuf {
    dir.join("journal")
}

pub(crate) fn ring(dir: &Path, shard: usize) -> PathBuf {
    journal(dir).join(format!("{shard}.{RING}"))
}

/// The shard whose ring has this name.
pub(crate) fn parse_ring(name: &str) -> Option<usize> {
    let (shard, extension) = name.split_once('.')?;
    (extension == RING).then(|| shard.parse().ok())?
}

/// The file that tells the version of the format.
pub(crate) fn format(dir: &Path) -> PathBuf {
    dir.join("format")
}

pub(crate) fn marker(dir: &Path) -> PathBuf {
    dir.join("clean-shutdown")
}

/// The file with the batches of a segment.
pub(crate) fn segment(partition_dir: &Path, base: Offset, id: SegmentId) -> PathBuf {
    partition_dir.join(format!("{:020}-{}.{LOG}", base.0, id.0))
}

/// Base, id and extension of a segment's file.
pub(crate) fn parse_segment(name: &str) -> Option<(Offset, SegmentId, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let (base, id) = stem.split_once('-')?;
    let base = base.parse().ok()?;
    let id = Uuid::parse_str(id).ok()?;
    Some((Offset(base), SegmentId(id), extension))
}

pub(crate) fn parse_topic(name: &str) -> Option<TopicId> {
    Uuid::parse_str(name).ok().map(TopicId)
}

pub(crate) fn parse_index(name: &str) -> Option<PartitionIndex> {
    name.parse().ok().map(PartitionIndex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_sort_by_base_and_parse_back() {
        let id = SegmentId(Uuid::from_u128(77));
        let path = segment(Path::new("/p"), Offset(42), id);
        let name = path.file_name().and_then(|n| n.to_str()).expect("utf-8");
        assert!(name.starts_with("00000000000000000042-"));
        assert_eq!(parse_segment(name), Some((Offset(42), id, LOG)));
        assert_eq!(parse_segment("x"), None);
    }
}
