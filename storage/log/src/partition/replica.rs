//! What a replica needs of the log: its role, the batches of a leader, the high watermark, the tail
//! above it, and what is remembered where a segment begins.

use std::sync::{Arc, atomic::Ordering};

use mainstem_record::{Offset, SegmentId};
use tokio::sync::Notify;

use super::{Partition, chain, reads};
use crate::{
    append::{AppendTicket, ReplicaAppend},
    error::{AppendError, PartitionError, ReadError},
    inbox::Control,
    moved::Moved,
    read::Chunk,
    shared::{Subscription, Wake},
    spec::{Ends, Role, SegmentSpec},
};

impl Partition {
    /// Takes on a role, in order with appends: those that came before are written, those that come
    /// after are refused or taken by the new one. Appends of the old role that still wait fail with
    /// [`AppendError::NotLeader`] or [`AppendError::NotFollower`], which leaves their outcome open.
    ///
    /// Returns the ends at that moment: from [`Role::Fenced`] on the committed end does not move, and
    /// the log end only with [`Partition::append_copied`] (R22, R24). Under [`crate::Flush::Always`] what was written last is not synced yet:
    /// [`Partition::flush`].
    ///
    /// # Errors
    /// [`PartitionError::NoMemory`] for a leader that must call [`Partition::install_memory`]
    /// first; [`PartitionError`]. The role is as before.
    pub async fn set_role(&self, role: Role) -> Result<Ends, PartitionError> {
        self.ask(|reply| Control::Role(role, reply)).await?
    }

    /// Appends what the leader has appended, as a follower. Waits only for room.
    ///
    /// Every batch is checked as recovery does, and must go on where this log ends, in the active
    /// segment, with its epoch (R9). Index, cache and what is remembered of producers and QoS 2
    /// sessions are what the leader's are.
    ///
    /// # Errors
    /// What can be told at once: [`AppendError::InvalidBatch`]. The ticket tells the rest:
    /// [`AppendError::NotFollower`], [`AppendError::NotAtEnd`], [`AppendError::WrongSegment`],
    /// [`AppendError::NoMemory`]. Nothing was appended then.
    pub async fn append_replica(&self, append: ReplicaAppend) -> Result<AppendTicket, AppendError> {
        let (inbox, shared) = (&self.inner.inbox, &self.inner.shared);
        inbox.append_replica(shared, append, false).await
    }

    /// As [`Partition::append_replica`], fenced: what another replica holds of a segment that is
    /// being sealed (R24). Nothing that its leader sends is taken in that role, and none of this in
    /// another one.
    ///
    /// # Errors
    /// As [`Partition::append_replica`].
    pub async fn append_copied(&self, append: ReplicaAppend) -> Result<AppendTicket, AppendError> {
        let (inbox, shared) = (&self.inner.inbox, &self.inner.shared);
        inbox.append_replica(shared, append, true).await
    }

    /// Says that all below is committed in the partition (R12): the committed end follows, as far as
    /// this log reaches and, under [`crate::Flush::Always`], is synced; durable appends complete
    /// and readers are woken. A lower one than before changes nothing, nor does any with
    /// [`crate::Commit::Own`]. Never waits.
    pub fn set_high_watermark(&self, high_watermark: Offset) {
        let shared = &self.inner.shared;
        if shared.tell_high_watermark(high_watermark) {
            self.inner.inbox.told().push(shared);
        }
    }

    /// As [`Partition::read`], up to the log end: what may still be cut, for followers and for
    /// nobody else. Returns at least one batch below the log end, and no more than about
    /// `bytes_max` bytes. What lies below the log start is read too, while it is there.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub async fn read_tail(&self, from: Offset, bytes_max: usize) -> Result<Chunk, ReadError> {
        let (shared, tools) = (&self.inner.shared, &self.inner.tools);
        reads::read_tail(shared, tools, (from, bytes_max)).await
    }

    /// What [`Partition::read_tail`] would return if that is in memory, without waiting; nothing if
    /// the first batch alone has more than `bytes_max` bytes, unless `at_least_one_batch`. `None` if
    /// it must be read from the file.
    pub fn cached_tail(
        &self,
        from: Offset,
        bytes_max: usize,
        at_least_one_batch: bool,
    ) -> Option<Chunk> {
        let (shared, tools) = (&self.inner.shared, &self.inner.tools);
        reads::cached_tail(shared, tools, (from, bytes_max), at_least_one_batch)
    }

    /// As [`Partition::subscribe`], and also when the log end or the synced end has moved.
    pub fn subscribe_tail(&self, notify: &Arc<Notify>) -> Subscription {
        self.inner.shared.subscribe(Wake::One(notify.clone()), true)
    }

    /// As [`Partition::subscribe_tail`], for one who looks after many partitions: `moved` tells which
    /// of them to look at.
    pub fn subscribe_moved(&self, moved: &Arc<Moved>) -> Subscription {
        self.inner.shared.subscribe(Wake::Many(moved.clone()), true)
    }

    /// Goes on with `next` once metadata has sealed the active segment as `sealed`. Appends wait
    /// since [`Partition::seal_begin`], unless there is no segment that is written.
    ///
    /// With `sealed.held` this log must end where the segment does ([`Partition::cut`]). Otherwise
    /// it is not all here: its records answer [`ReadError::NotHeld`] from here on, and its file
    /// stays for whoever completes it. `next` may be one that is not held, and may begin above the
    /// end: an unclean recovery leaves a hole (R37). Everything below `next` counts as committed.
    ///
    /// # Errors
    /// As [`Partition::seal_commit`].
    pub async fn advance(
        &self,
        sealed: SegmentSpec,
        next: SegmentSpec,
    ) -> Result<(), PartitionError> {
        let sealed = Some(sealed);
        self.step(chain::Step { sealed, next }).await
    }

    /// Begins to hold the active segment `id`, which was not to be had here, from its base on: this
    /// node helps to seal it (R23). Nothing happens if it is held.
    ///
    /// # Errors
    /// [`PartitionError::NotNext`] if it is not the active one; as [`Partition::seal_commit`].
    pub async fn hold(&self, id: SegmentId) -> Result<(), PartitionError> {
        let inner = self.inner.clone();
        let work = async move { chain::hold(&inner, id).await };
        super::to_its_end(&self.inner.tools.env, "log-seal", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Cuts the active segment to `end` (R33), as a follower or fenced: what lies above is gone, also
    /// from what is remembered of producers and QoS 2 sessions, and stays gone after a crash. A
    /// [`Partition::seal_begin`] before it does not count any more.
    ///
    /// # Errors
    /// [`PartitionError::CannotCut`] if no batch ends at `end`, it is above the log end, or below
    /// what was committed here: such a copy must be dropped. [`PartitionError::Leading`];
    /// [`PartitionError::Failed`] if the file could not be cut. Otherwise nothing was changed.
    pub async fn cut(&self, end: Offset) -> Result<(), PartitionError> {
        let inner = self.inner.clone();
        let work = async move { super::cut::cut(&inner, end).await };
        super::to_its_end(&self.inner.tools.env, "log-cut", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Whether [`Partition::install_memory`] must be called before anything is appended: this node
    /// has not what came before the active segment.
    pub fn needs_memory(&self) -> bool {
        self.inner.shared.needs_memory.load(Ordering::Acquire)
    }

    /// What the partition remembers of producers and QoS 2 sessions where segment `id` begins, for
    /// [`Partition::install_memory`] of another replica. It is had where the segment is led, and
    /// where the segment before it is held.
    ///
    /// # Errors
    /// [`PartitionError::NoMemory`]; [`PartitionError`].
    pub async fn memory(&self, id: SegmentId) -> Result<bytes::Bytes, PartitionError> {
        super::memory::memory(&self.inner, id).await
    }

    /// Takes over what the partition remembers where the active segment begins, as
    /// [`Partition::memory`] of another replica has given it. Nothing may have been appended to the
    /// segment yet. It is durable when this returns.
    ///
    /// # Errors
    /// [`PartitionError::BadMemory`] if it is damaged, too long or of another place;
    /// [`PartitionError::NoActiveSegment`] if the segment is not at its base.
    pub async fn install_memory(&self, memory: bytes::Bytes) -> Result<(), PartitionError> {
        super::memory::install(&self.inner, memory).await
    }
}
