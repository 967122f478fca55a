//! The host, as copies see it.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_log::{AppendTicket, Moved, Partition};
use mainstem_metadata::{Image, RemoveCopy, SegmentCopy};
use mainstem_record::{Member, Offset, PartitionId, SegmentId};

use super::Copies;
use crate::{
    host::{Host, NotAppended},
    machine::FenceAnswer,
};

impl Copies for Host {
    fn me(&self) -> Member {
        self.me()
    }

    fn image(&self) -> Arc<Image> {
        self.image()
    }

    fn watch(&self) -> Arc<Moved> {
        self.watch()
    }

    fn log(&self, id: PartitionId) -> Option<Partition> {
        self.hosted(id).map(|hosted| hosted.log().clone())
    }

    fn answer(&self, id: PartitionId, segment: SegmentId) -> Option<FenceAnswer> {
        self.answer(id, segment)
    }

    fn copied(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> impl Future<Output = Result<AppendTicket, NotAppended>> + Send {
        self.copied(id, segment, at, batches)
    }

    fn add_complete(&self, copy: SegmentCopy) {
        self.proposals().add_complete(copy);
    }

    fn mark_durable(&self, copy: SegmentCopy) {
        self.proposals().mark_durable(copy);
    }

    fn remove_complete(&self, copy: RemoveCopy) {
        self.proposals().remove_complete(copy);
    }
}
