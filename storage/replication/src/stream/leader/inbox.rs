//! What a follower says: acks are counted at once, the rest waits for the sender.

use std::collections::{BTreeMap, VecDeque};

use mainstem_peers::StreamReceiver;
use mainstem_record::{Member, PartitionId, SegmentId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::Replicas;
use crate::{
    machine::leader::FollowRefusal,
    wire::{AckOf, FollowOf, FollowerHello, FollowerSays, SEGMENTS_MAX, WantOf},
};

/// What may wait for the sender; a follower says no more than it has segments.
const ASKS_MAX: usize = 16 * SEGMENTS_MAX;

/// What the sender is to do.
pub(super) enum Ask {
    Follow(FollowOf),
    Unfollow(SegmentId),
    Want(WantOf),
    /// An ack did not count: the segment is sent no more.
    Refuse(SegmentId, FollowRefusal),
}

/// Between what comes from a follower and what goes to it.
pub(super) struct Inbox {
    follower: Member,
    credit_max: i64,
    state: Mutex<State>,
    /// Something waits for the sender, or credit has come.
    pub(super) notify: Notify,
}

struct State {
    /// Bytes that may still be sent; below zero after a long frame.
    credit: i64,
    asks: VecDeque<Ask>,
    /// The segments that are sent.
    sent: BTreeMap<SegmentId, PartitionId>,
}

// === impl Inbox ===

impl Inbox {
    pub(super) fn new(hello: &FollowerHello) -> Self {
        let credit = i64::from(hello.credit);
        Self {
            follower: hello.follower,
            credit_max: credit,
            state: Mutex::new(State {
                credit,
                asks: VecDeque::new(),
                sent: BTreeMap::new(),
            }),
            notify: Notify::new(),
        }
    }

    /// Reads until the stream ends.
    ///
    /// # Errors
    /// The follower breaks the protocol.
    pub(super) async fn receive<R: Replicas>(
        &self,
        replicas: &R,
        receiver: &mut StreamReceiver,
    ) -> Result<(), String> {
        while let Some(message) = receiver.recv().await {
            let says = FollowerSays::decode(message).map_err(|error| error.to_string())?;
            match says {
                FollowerSays::Ack { credit, acks } => self.acks(replicas, credit, &acks)?,
                FollowerSays::Follow(all) => self.ask(all.into_iter().map(Ask::Follow))?,
                FollowerSays::Unfollow(all) => self.ask(all.into_iter().map(Ask::Unfollow))?,
                FollowerSays::Want(all) => self.ask(all.into_iter().map(Ask::Want))?,
            }
        }
        Ok(())
    }

    fn ask(&self, asks: impl Iterator<Item = Ask>) -> Result<(), String> {
        let mut state = self.state.lock();
        state.asks.extend(asks);
        if state.asks.len() > ASKS_MAX {
            return Err("more questions than segments".to_owned());
        }
        self.notify.notify_one();
        Ok(())
    }

    /// R10: acks count for the life that opened the stream. Those of segments that are sent no more
    /// are late.
    fn acks<R: Replicas>(&self, replicas: &R, credit: u32, acks: &[AckOf]) -> Result<(), String> {
        let mut sent = Vec::with_capacity(acks.len());
        {
            let mut state = self.state.lock();
            state.credit += i64::from(credit);
            if state.credit > self.credit_max {
                return Err("more credit than was spent".to_owned());
            }
            sent.extend(acks.iter().filter_map(|ack| {
                let id = state.sent.get(&ack.segment)?;
                Some((*id, *ack))
            }));
        }
        let refused = sent.into_iter().filter_map(|(id, ack)| {
            let counted = replicas.acked(id, ack.segment, self.follower, ack.leo);
            let why = counted.err()?;
            Some(Ask::Refuse(ack.segment, why))
        });
        self.ask(refused)
    }

    /// Takes what waits.
    pub(super) fn take(&self) -> VecDeque<Ask> {
        std::mem::take(&mut self.state.lock().asks)
    }

    /// Whether a frame may be begun.
    pub(super) fn has_credit(&self) -> bool {
        self.state.lock().credit > 0
    }

    /// A frame is sent.
    pub(super) fn spend(&self, bytes: usize) {
        self.state.lock().credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Where the partition of a segment is told from then on, and acks of it are counted.
    pub(super) fn begin(&self, segment: SegmentId, id: PartitionId) {
        self.state.lock().sent.insert(segment, id);
    }

    /// The segment is sent no more.
    pub(super) fn end(&self, segment: SegmentId) -> Option<PartitionId> {
        self.state.lock().sent.remove(&segment)
    }
}
