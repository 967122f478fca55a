//! The host, as streams see it.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_log::{AppendTicket, Moved, Partition};
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId, SegmentId};

use super::Replicas;
use crate::{
    host::{Following, Host, NotAppended},
    machine::leader::FollowRefusal,
};

impl Replicas for Host {
    fn me(&self) -> Member {
        self.me()
    }

    fn watch(&self) -> Arc<Moved> {
        self.watch()
    }

    fn log(&self, id: PartitionId) -> Option<Partition> {
        self.hosted(id).map(|hosted| hosted.log().clone())
    }

    fn following(&self, id: PartitionId) -> Option<Following> {
        self.following(id)
    }

    fn append(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> impl Future<Output = Result<AppendTicket, NotAppended>> + Send {
        self.append(id, segment, at, batches)
    }

    fn written(&self, id: PartitionId, segment: SegmentId) -> Option<Offset> {
        self.written(id, segment)
    }

    fn told(&self, id: PartitionId, segment: SegmentId, hw: Offset) {
        self.told(id, segment, hw);
    }

    fn follow(
        &self,
        id: PartitionId,
        segment: (SegmentId, LeaderEpoch),
        follower: Member,
        leo: Offset,
    ) -> Result<(Partition, Offset), FollowRefusal> {
        self.follow(id, segment, follower, leo)
    }

    fn acked(
        &self,
        id: PartitionId,
        segment: SegmentId,
        follower: Member,
        leo: Offset,
    ) -> Result<Offset, FollowRefusal> {
        self.acked(id, segment, follower, leo)
    }

    fn leads(&self, id: PartitionId, segment: SegmentId) -> bool {
        self.high_watermark(id, segment).is_some()
    }

    fn is_in_sync(&self, id: PartitionId, segment: SegmentId, follower: Member) -> bool {
        self.is_in_sync(id, segment, follower)
    }
}
