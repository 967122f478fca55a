//! What replication streams ask of the host: as follower and as leader.

use bytes::Bytes;
use mainstem_log::{Ack, AppendError, AppendTicket, Partition, ReplicaAppend};
use mainstem_metadata::SegmentState;
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId, SegmentId};

use super::Host;
use crate::machine::leader::FollowRefusal;

/// Whom this node follows in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Following {
    /// The open segment.
    pub(crate) segment: SegmentId,
    /// Its leader epoch.
    pub(crate) epoch: LeaderEpoch,
    /// Who leads it, in which life.
    pub(crate) leader: Member,
    /// From where on: what this node holds and may say so (R11).
    pub(crate) leo: Offset,
    /// Where the log goes on: what comes next must begin here. Above `leo` while something is not
    /// synced.
    pub(crate) log_end: Offset,
    /// What the partition remembers where the segment begins is not known here: it is to be fetched
    /// before anything is appended (see [`mainstem_log::Partition::install_memory`]).
    pub(crate) needs_memory: bool,
}

/// Why what a leader sent was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAppended {
    /// This node does not follow that segment, not any more or not yet: fenced, sealed, or leading.
    #[error("not following")]
    NotFollowing,
    /// What the log says; [`AppendError::NotAtEnd`] is a repetition or a gap.
    #[error(transparent)]
    Log(#[from] AppendError),
}

// === impl Host: follower ===

impl Host {
    /// Whom this node follows in a partition; `None` where it leads, is fenced, or is no replica.
    pub(crate) fn following(&self, id: PartitionId) -> Option<Following> {
        let hosted = self.hosted(id)?;
        let segment = hosted.open_segment()?;
        let needs_memory = hosted.log().needs_memory();
        hosted.feed(self, segment, |replica, _| {
            let follow = replica.follow();
            let follow = follow.filter(|_| replica.segment().state == SegmentState::Active);
            let following = follow.map(|(epoch, _, leo)| Following {
                segment,
                epoch,
                leader: replica.segment().leader,
                leo,
                log_end: replica.ends().log_end,
                needs_memory,
            });
            (following, Vec::new())
        })?
    }

    /// Appends what the leader of `segment` has sent (R9). Waits only for room; when the ticket is
    /// through, [`Host::written`] says what may be acknowledged.
    ///
    /// # Errors
    /// [`NotAppended`]; of the ticket too.
    pub(crate) async fn append(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> Result<AppendTicket, NotAppended> {
        let hosted = self.hosted(id).ok_or(NotAppended::NotFollowing)?;
        let may = hosted.feed(self, segment, |replica, _| {
            (replica.ack().is_some(), Vec::new())
        });
        if may != Some(true) {
            return Err(NotAppended::NotFollowing);
        }
        // The log asks the rest in order with its role: segment, epoch, and that it is its end.
        let append = ReplicaAppend {
            segment,
            at,
            batches,
            ack: Ack::Durable,
        };
        Ok(hosted.log().append_replica(append).await?)
    }

    /// What this node may acknowledge in `segment` now (R10, R11); `None` once it is fenced (R22),
    /// or where it does not follow.
    pub(crate) fn written(&self, id: PartitionId, segment: SegmentId) -> Option<Offset> {
        let hosted = self.hosted(id)?;
        hosted.feed(self, segment, |replica, _| (replica.ack(), Vec::new()))?
    }

    /// The leader of `segment` has told its high watermark: reads here go up to it (R14).
    pub(crate) fn told(&self, id: PartitionId, segment: SegmentId, hw: Offset) {
        let Some(hosted) = self.hosted(id) else {
            return;
        };
        let told = hosted.feed(self, segment, |replica, _| (replica.told(hw), Vec::new()));
        if let Some(hw) = told.flatten() {
            hosted.log().set_high_watermark(hw);
        }
    }
}

// === impl Host: leader ===

impl Host {
    /// Follow: `follower` asks for `segment` from `leo` on. Its log, and the high watermark.
    ///
    /// # Errors
    /// It is not to be streamed to.
    pub(crate) fn follow(
        &self,
        id: PartitionId,
        (segment, epoch): (SegmentId, LeaderEpoch),
        follower: Member,
        leo: Offset,
    ) -> Result<(Partition, Offset), FollowRefusal> {
        let hosted = self.hosted(id).ok_or(FollowRefusal::NotLeading)?;
        let hw = hosted.feed(self, segment, |replica, now| {
            let Some(leader) = replica.leader_mut() else {
                return (Err(FollowRefusal::NotLeading), Vec::new());
            };
            match leader.follow(epoch, follower, leo, now) {
                Ok(effects) => (Ok(leader.high_watermark()), effects),
                Err(refused) => (Err(refused), Vec::new()),
            }
        });
        let hw = hw.unwrap_or(Err(FollowRefusal::NotLeading))?;
        Ok((hosted.log().clone(), hw))
    }

    /// Ack: `follower` holds `segment` up to `leo`. The high watermark now.
    ///
    /// # Errors
    /// It does not count; the stream of that segment ends.
    pub(crate) fn acked(
        &self,
        id: PartitionId,
        segment: SegmentId,
        follower: Member,
        leo: Offset,
    ) -> Result<Offset, FollowRefusal> {
        let hosted = self.hosted(id).ok_or(FollowRefusal::NotLeading)?;
        let hw = hosted.feed(self, segment, |replica, now| {
            let Some(leader) = replica.leader_mut() else {
                return (Err(FollowRefusal::NotLeading), Vec::new());
            };
            match leader.ack(follower, leo, now) {
                Ok(effects) => (Ok(leader.high_watermark()), effects),
                Err(refused) => (Err(refused), Vec::new()),
            }
        });
        hw.unwrap_or(Err(FollowRefusal::NotLeading))
    }

    /// The high watermark of `segment`, while this node leads it.
    pub(crate) fn high_watermark(&self, id: PartitionId, segment: SegmentId) -> Option<Offset> {
        let hosted = self.hosted(id)?;
        let state = hosted.state.lock();
        let replica = state.replica.as_ref();
        let replica = replica.filter(|replica| replica.segment().id == segment)?;
        let leader = replica.leader().filter(|leader| !leader.is_stopped())?;
        Some(leader.high_watermark())
    }

    /// Whether `follower` is in the confirmed ISR of `segment`, which this node leads.
    pub(crate) fn is_in_sync(&self, id: PartitionId, segment: SegmentId, follower: Member) -> bool {
        let Some(hosted) = self.hosted(id) else {
            return false;
        };
        let state = hosted.state.lock();
        let replica = state.replica.as_ref();
        let replica = replica.filter(|replica| replica.segment().id == segment);
        let leader = replica.and_then(|replica| replica.leader());
        leader.is_some_and(|leader| leader.isr().contains(&follower))
    }
}
