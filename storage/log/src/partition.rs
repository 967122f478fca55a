//! The handle of a partition.

use std::sync::Arc;

use mainstem_record::{LeaderEpoch, Offset, PartitionId, SegmentId, TimestampMs};
use tokio::sync::Notify;

use crate::{append::{Append, AppendTicket}, error::*, read::*, spec::*};

/// A partition. Cheap to clone.
#[derive(Clone)]
pub struct Partition;

/// Ends when dropped.
pub struct Subscription;

#[allow(unused_variables, missing_docs)]
impl Partition {
    pub fn id(&self) -> PartitionId { unimplemented!() }
    pub fn epoch(&self) -> LeaderEpoch { unimplemented!() }
    pub fn ends(&self) -> Ends { unimplemented!() }
    pub async fn append(&self, append: Append) -> Result<AppendTicket, AppendError> { unimplemented!() }
    pub fn try_append(&self, append: Append) -> Result<AppendTicket, AppendError> { unimplemented!() }
    pub async fn read(&self, read: Read) -> Result<Chunk, ReadError> { unimplemented!() }
    pub fn subscribe(&self, notify: &Arc<Notify>) -> Subscription { unimplemented!() }
    pub async fn find_timestamp(&self, at_least: TimestampMs) -> Result<Option<(Offset, TimestampMs)>, ReadError> { unimplemented!() }
    pub async fn max_timestamp(&self) -> Result<Option<(Offset, TimestampMs)>, ReadError> { unimplemented!() }
    pub fn segments(&self) -> Vec<SegmentInfo> { unimplemented!() }
    /// An estimate, from the index in memory, of the bytes between two offsets; above 0 whenever `from < end`.
    pub fn estimate_bytes(&self, from: Offset, end: Offset) -> u64 { unimplemented!() }
    /// How many segments there are.
    pub fn segment_count(&self) -> usize { unimplemented!() }
    pub fn size_bytes(&self) -> u64 { unimplemented!() }
    pub async fn seal_begin(&self) -> Result<SealInfo, PartitionError> { unimplemented!() }
    pub async fn seal_commit(&self, next: SegmentSpec) -> Result<(), PartitionError> { unimplemented!() }
    pub async fn seal_abort(&self) { unimplemented!() }
    pub async fn drop_segments(&self, segments: &[SegmentId], log_start: Offset) -> Result<(), PartitionError> { unimplemented!() }
    pub async fn set_log_start(&self, log_start: Offset) -> Result<(), PartitionError> { unimplemented!() }
    pub async fn update_settings(&self, settings: PartitionSettings) { unimplemented!() }
    pub async fn flush(&self) -> Result<Offset, PartitionError> { unimplemented!() }
    pub fn producers(&self) -> Vec<ProducerSnapshot> { unimplemented!() }
}
