//! What waits for one session, and what is in flight to it. Pure: no I/O, no clock.
//!
//! For every partition that the session wants there is a *feed*. A live feed is pushed by the
//! partition's follower. When the queue is full, a message of QoS 1 or 2 is not dropped: the feed
//! falls behind at its offset, nothing more is pushed, and the session itself reads the log from
//! there once it has room, until it has caught up with the follower and is live again.
//!
//! ```text
//!                queue full                          read up to what the follower handles
//!   Live(from) ─────────────> Behind(next)  ────────────────────────────────> Live(next)
//! ```
//!
//! I-MQTT-1: a record of QoS 1 or 2 that matches is in the queue, handed out, in flight, done, or at
//! or above [`Inbox::positions`] of its partition. The positions are what survives, so nothing is
//! missed. Becoming live again is safe because a follower announces which records it is about to
//! handle ([`Position::begin`]) before it matches them, and pushes under the same lock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use mainstem_record::{Offset, PartitionId};

pub(crate) use super::flight::{Flight, FlightSource};
use super::retained_job::RetainedJob;
use crate::mqtt::{
    Delivery, Message, QoS,
    delivery::{Interest, Origin, Position, Token},
    limits::DELIVERIES_PER_CALL_MAX,
    share::ShareGroup,
};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What waits for one session, and what is in flight to it.
#[derive(Debug)]
pub(crate) struct Inbox {
    limits: QueueLimits,
    /// QoS 0 and the rest apart, so that a full window does not hold QoS 0 back; the number orders
    /// them among each other.
    unacked_queue: VecDeque<(u64, Delivery)>,
    acked_queue: VecDeque<(u64, Delivery)>,
    sequence: u64,
    bytes: usize,
    /// QoS 1 and 2, given out and not yet in flight.
    pub(super) handed: VecDeque<Token>,
    feeds: HashMap<PartitionId, Feed>,
    /// The feeds that are behind.
    behind: VecDeque<PartitionId>,
    pub(super) inflight: BTreeMap<u16, Flight>,
    pub(super) flights: u64,
    /// Retained messages that are still to be queued.
    pub(crate) retained_jobs: VecDeque<RetainedJob>,
}

/// One partition as the session follows it.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) mode: Mode,
    /// Where the follower is.
    pub(crate) position: Arc<Position>,
    /// QoS 0 below it was published while the session had no connection, and is not delivered.
    pub(crate) online_from: Offset,
    /// Keeps the follower running.
    pub(crate) _interest: Option<Interest>,
}

/// How a feed gets its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The follower pushes what is at or above.
    Live(Offset),
    /// The session reads from here.
    Behind(Offset),
}

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The session has something to do.
    pub(crate) wake: bool,
    /// QoS 0 messages that found no room.
    pub(crate) dropped: u64,
    /// Where reading goes on, if what was read counts.
    pub(crate) reached: Option<Offset>,
}

/// Records of shared subscriptions that others must get.
pub(crate) type Returned = Vec<(Arc<ShareGroup>, PartitionId, Offset)>;

// === impl Inbox ===

impl Inbox {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            unacked_queue: VecDeque::new(),
            acked_queue: VecDeque::new(),
            sequence: 0,
            bytes: 0,
            handed: VecDeque::new(),
            feeds: HashMap::new(),
            behind: VecDeque::new(),
            inflight: BTreeMap::new(),
            flights: 0,
            retained_jobs: VecDeque::new(),
        }
    }

    fn queued(&self) -> usize {
        self.unacked_queue.len() + self.acked_queue.len()
    }

    fn has_room_for(&self, message: &Message) -> bool {
        // One message always fits, however large it is.
        self.queued() == 0
            || (self.queued() < self.limits.messages
                && self.bytes + message.queued_bytes() <= self.limits.bytes)
    }

    /// How many more messages may be read for it; 0 until half of the queue is free, so that reads
    /// are worth their while.
    pub(crate) fn room(&self) -> usize {
        if self.bytes > self.limits.bytes / 2 || self.queued() > self.limits.messages / 2 {
            return 0;
        }
        (self.limits.messages - self.queued()).max(1)
    }

    fn enqueue(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.queued_bytes();
        self.sequence += 1;
        let queue = match delivery.qos {
            QoS::AtMostOnce => &mut self.unacked_queue,
            _ => &mut self.acked_queue,
        };
        queue.push_back((self.sequence, delivery));
    }

    /// Queues a delivery that belongs to no feed (retained, shared); gives it back if it does not
    /// fit.
    pub(crate) fn push(&mut self, delivery: Delivery) -> Result<(), Delivery> {
        if !self.has_room_for(&delivery.message) {
            return Err(delivery);
        }
        self.enqueue(delivery);
        Ok(())
    }

    /// What the follower of a partition found, in order.
    pub(crate) fn push_live(
        &mut self,
        partition: PartitionId,
        deliveries: &mut Vec<Delivery>,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        let from = match self.feeds.get(&partition) {
            Some(Feed {
                mode: Mode::Live(from),
                ..
            }) => *from,
            // Behind: it reads them itself. No feed: it does not want them any more.
            _ => {
                deliveries.clear();
                return pushed;
            }
        };
        let mut passed = from;
        for delivery in deliveries.drain(..) {
            let offset = delivery.token.offset;
            if offset < from {
                continue;
            }
            if self.has_room_for(&delivery.message) {
                self.enqueue(delivery);
                pushed.wake = true;
            } else if delivery.qos == QoS::AtMostOnce {
                pushed.dropped += 1;
            } else {
                self.set_mode(partition, Mode::Behind(offset));
                pushed.wake = true;
                return pushed;
            }
            passed = offset.next();
        }
        // The follower says that it has passed them a little later. Until then a position below one
        // of them could be written together with its flight, and it would come a second time.
        if let Some(feed) = self.feeds.get_mut(&partition) {
            feed.mode = Mode::Live(passed);
        }
        pushed
    }

    fn set_mode(&mut self, partition: PartitionId, mode: Mode) {
        let Some(feed) = self.feeds.get_mut(&partition) else {
            return;
        };
        feed.mode = mode;
        self.behind.retain(|other| *other != partition);
        if matches!(mode, Mode::Behind(_)) {
            self.behind.push_back(partition);
        }
    }

    /// Whether the session follows a partition.
    pub(crate) fn has_feed(&self, partition: PartitionId) -> bool {
        self.feeds.contains_key(&partition)
    }

    /// Follows a partition from now on; a feed that is there stays as it is.
    pub(crate) fn add_feed(&mut self, partition: PartitionId, feed: Feed) {
        if self.has_feed(partition) {
            return;
        }
        let mode = feed.mode;
        self.feeds.insert(partition, feed);
        self.set_mode(partition, mode);
    }

    /// Forgets the feeds that `keep` refuses.
    pub(crate) fn retain_feeds(&mut self, mut keep: impl FnMut(PartitionId) -> bool) {
        self.feeds.retain(|partition, _| keep(*partition));
        let feeds = &self.feeds;
        self.behind
            .retain(|partition| feeds.contains_key(partition));
    }

    /// A feed that is behind, where it must go on, and up to where QoS 0 is skipped. Feeds that
    /// have caught up become live on the way. They take turns.
    pub(crate) fn next_behind(&mut self) -> Option<(PartitionId, Offset)> {
        for _ in 0..self.behind.len() {
            let partition = self.behind.pop_front()?;
            let Some(feed) = self.feeds.get_mut(&partition) else {
                continue;
            };
            let Mode::Behind(next) = feed.mode else {
                continue;
            };
            if next >= feed.position.begun() {
                feed.mode = Mode::Live(next);
                continue;
            }
            self.behind.push_back(partition);
            return Some((partition, next));
        }
        None
    }

    /// How far a feed that is behind lags, in records.
    pub(crate) fn lag(&self) -> i64 {
        let behind = self
            .behind
            .iter()
            .filter_map(|partition| self.feeds.get(partition));
        let lag = behind.map(|feed| match feed.mode {
            Mode::Behind(next) => feed.position.begun().0.saturating_sub(next.0),
            Mode::Live(_) => 0,
        });
        lag.max().unwrap_or(0)
    }

    /// What the session read for a feed that was behind at `from`: all that matches up to `next`.
    /// Returns whether the feed goes on being behind.
    pub(crate) fn push_read(
        &mut self,
        partition: PartitionId,
        (from, next): (Offset, Offset),
        deliveries: Vec<Delivery>,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        let Some(feed) = self.feeds.get(&partition) else {
            return pushed;
        };
        if feed.mode != Mode::Behind(from) {
            return pushed;
        }
        let (online_from, tail) = (feed.online_from, feed.position.begun());
        let mut reached = next;
        for delivery in deliveries {
            let offset = delivery.token.offset;
            if delivery.qos == QoS::AtMostOnce {
                let too_far = tail.0.saturating_sub(offset.0) > self.limits.messages as i64;
                if offset < online_from || too_far || !self.has_room_for(&delivery.message) {
                    pushed.dropped += u64::from(offset >= online_from);
                    continue;
                }
            } else if !self.has_room_for(&delivery.message) {
                reached = offset;
                break;
            }
            self.enqueue(delivery);
            pushed.wake = true;
        }
        self.set_mode(partition, Mode::Behind(reached));
        pushed.reached = Some(reached);
        pushed
    }

    /// Takes what may be sent now: `window` of QoS 1 and 2, and QoS 0. What has expired is dropped;
    /// the second value counts it.
    pub(crate) fn take(&mut self, window: usize, now_ms: i64) -> (Vec<Delivery>, u64) {
        let mut taken = Vec::new();
        let (mut acked, mut expired) = (0, 0);
        while taken.len() < window.max(DELIVERIES_PER_CALL_MAX) {
            let acked_is_next = match (self.unacked_queue.front(), self.acked_queue.front()) {
                (None, None) => break,
                (Some((first, _)), Some((second, _))) => second < first && acked < window,
                (None, Some(_)) if acked >= window => break,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            let queue = if acked_is_next {
                &mut self.acked_queue
            } else {
                &mut self.unacked_queue
            };
            let Some((_, delivery)) = queue.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(delivery.message.queued_bytes());
            if delivery.message.is_expired(now_ms) {
                expired += 1;
                self.acknowledge_shared(&delivery.token);
                continue;
            }
            if acked_is_next {
                acked += 1;
                self.handed.push_back(delivery.token.clone());
            }
            taken.push(delivery);
        }
        self.give_back_memory();
        (taken, expired)
    }

    /// A burst must not cost an idle session its memory for ever.
    fn give_back_memory(&mut self) {
        for queue in [&mut self.unacked_queue, &mut self.acked_queue] {
            if queue.is_empty() && queue.capacity() > 64 {
                queue.shrink_to(0);
            }
        }
    }

    pub(super) fn acknowledge_shared(&self, token: &Token) {
        if let Origin::Shared(group) = &token.origin {
            group.acknowledge(token.partition, token.offset);
        }
    }

    /// Whether anything of QoS 0, or of QoS 1 or 2 if `window` allows, waits.
    pub(crate) fn has_deliverable(&self, window: usize) -> bool {
        !self.unacked_queue.is_empty() || (window > 0 && !self.acked_queue.is_empty())
    }

    /// What was handed out and never sent counts as done: the connection has let it go (expired,
    /// larger than the client takes).
    pub(crate) fn forget_handed(&mut self) {
        for token in std::mem::take(&mut self.handed) {
            self.acknowledge_shared(&token);
        }
    }

    /// Per partition the lowest offset that has not gone out: with what is in flight, all that must
    /// survive.
    pub(crate) fn positions(&self) -> Vec<(PartitionId, Offset)> {
        let mut lowest: HashMap<PartitionId, Offset> = HashMap::new();
        let queued = self.acked_queue.iter().map(|(_, delivery)| &delivery.token);
        for token in queued.chain(&self.handed).filter(|token| token.is_feed()) {
            let entry = lowest.entry(token.partition).or_insert(token.offset);
            *entry = token.offset.min(*entry);
        }
        let position = |(partition, feed): (&PartitionId, &Feed)| {
            let passed = match feed.mode {
                Mode::Live(from) => from.max(feed.position.done()),
                Mode::Behind(next) => next,
            };
            let unsent = lowest.get(partition).copied().unwrap_or(passed);
            (*partition, passed.min(unsent))
        };
        let mut all: Vec<_> = self.feeds.iter().map(position).collect();
        all.sort_unstable();
        all
    }

    /// The connection has ended: drops the queue and all feeds. The caller has taken
    /// [`Inbox::positions`] before. Retained messages that were queued stay queued.
    pub(crate) fn detach(&mut self) -> Returned {
        let mut returned = Returned::new();
        let mut kept = VecDeque::new();
        for (sequence, delivery) in std::mem::take(&mut self.acked_queue) {
            match &delivery.token.origin {
                Origin::Retained => kept.push_back((sequence, delivery)),
                Origin::Shared(group) => {
                    let token = &delivery.token;
                    returned.push((group.clone(), token.partition, token.offset));
                }
                Origin::Feed => {}
            }
        }
        for token in std::mem::take(&mut self.handed) {
            if let Origin::Shared(group) = token.origin {
                returned.push((group, token.partition, token.offset));
            }
        }
        // QoS 1 goes to another member; QoS 2 must be finished with this client
        // (MQTT 5.0 section 4.8.2), so the group need not wait for it.
        self.inflight.retain(|_, flight| {
            let FlightSource::Shared(group) = &mut flight.source else {
                return true;
            };
            let Some(group) = group.take() else {
                return true;
            };
            if flight.qos == QoS::ExactlyOnce {
                group.acknowledge(flight.partition, flight.offset);
                return true;
            }
            returned.push((group, flight.partition, flight.offset));
            false
        });
        self.unacked_queue = VecDeque::new();
        self.bytes = kept
            .iter()
            .map(|(_, delivery)| delivery.message.queued_bytes())
            .sum();
        self.acked_queue = kept;
        self.feeds = HashMap::new();
        self.behind = VecDeque::new();
        returned
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
