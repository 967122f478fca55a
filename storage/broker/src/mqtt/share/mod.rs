//! Shared subscriptions, `$share/{group}/{filter}`.
//!
//! A group follows partitions as a session does, and gives each record to one member, in turns. If
//! no member has room, the group falls behind and whichever member has room again reads the log for
//! it. What a member did not acknowledge before its connection ended is given to another one; QoS 2
//! that is in flight stays with its member (MQTT 5.0 section 4.8.2).
//!
//! Locks: `inner` comes before the `state` of members; `outstanding` is taken last, for a moment,
//! and may be taken under a member's `state`.

mod membership;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_record::{Offset, PartitionId};
use parking_lot::Mutex;

use super::{
    Delivery, Message, QoS,
    delivery::{Origin, Reading, Scan, Token, scan},
    hub::Hub,
    limits::{CATCH_UP_READ_BYTES, RETRY_PAUSE, SHARE_OUTSTANDING_MAX},
    metrics::MqttMetrics,
    session::{
        SessionEntry, Subscription,
        inbox::{Feed, Mode},
    },
    topic,
};

/// One group and its filter.
pub(crate) struct ShareGroup {
    /// Names it in the trie.
    pub(crate) number: u64,
    /// `{group}/{filter}`.
    pub(crate) name: Arc<str>,
    filter: Arc<str>,
    starts: Arc<[(PartitionId, Offset)]>,
    inner: Mutex<Inner>,
    /// Given to a member and not acknowledged.
    outstanding: Mutex<BTreeSet<(PartitionId, Offset)>>,
    /// Held by the member that reads for the group.
    driving: tokio::sync::Mutex<()>,
    has_work: AtomicBool,
    is_dirty: AtomicBool,
}

/// A record for one member.
pub(crate) struct Candidate {
    pub(crate) offset: Offset,
    pub(crate) message: Arc<Message>,
}

#[derive(Default)]
struct Inner {
    members: Vec<Member>,
    turn: usize,
    feeds: HashMap<PartitionId, Feed>,
    behind: VecDeque<PartitionId>,
    returned: VecDeque<(PartitionId, Offset)>,
    /// Members whose sessions outlive their connections.
    offline: HashSet<Arc<str>>,
    /// Where it goes on when a member comes back.
    cursors: HashMap<PartitionId, Offset>,
}

struct Member {
    entry: Arc<SessionEntry>,
    subscription: Arc<Subscription>,
}

// === impl ShareGroup ===

impl ShareGroup {
    fn start(&self, partition: PartitionId) -> Option<Offset> {
        let at = self
            .starts
            .binary_search_by_key(&partition, |(partition, _)| *partition)
            .ok()?;
        Some(self.starts[at].1)
    }

    /// What the records say of a group whose members have no connection yet.
    pub(crate) fn restore(&self, client: &str, parked: &[(PartitionId, Offset)]) {
        let mut inner = self.inner.lock();
        inner.offline.insert(Arc::from(client));
        inner.cursors = parked.iter().copied().collect();
    }

    fn is_persistent(&self) -> bool {
        let inner = self.inner.lock();
        let is_persistent = |member: &Member| member.entry.state.lock().is_persistent();
        !inner.offline.is_empty() || inner.members.iter().any(is_persistent)
    }

    /// A member is done with a record.
    pub(crate) fn acknowledge(&self, partition: PartitionId, offset: Offset) {
        self.outstanding.lock().remove(&(partition, offset));
        self.is_dirty.store(true, Ordering::Relaxed);
    }

    /// A member's connection ended before it acknowledged a record.
    pub(crate) fn give_back(&self, partition: PartitionId, offset: Offset) {
        let mut inner = self.inner.lock();
        if inner.members.is_empty() {
            // Nobody is there: it is read again from here.
            let cursor = inner.cursors.entry(partition).or_insert(offset);
            *cursor = offset.min(*cursor);
            self.outstanding.lock().remove(&(partition, offset));
            return;
        }
        inner.returned.push_back((partition, offset));
        self.note_work(&inner);
        drop(inner);
        self.wake();
    }

    /// Whether records wait for a member that has room.
    pub(crate) fn has_work(&self) -> bool {
        self.has_work.load(Ordering::SeqCst)
            && self.outstanding.lock().len() < SHARE_OUTSTANDING_MAX
    }

    fn note_work(&self, inner: &Inner) {
        let has_work = !inner.behind.is_empty() || !inner.returned.is_empty();
        self.has_work.store(has_work, Ordering::SeqCst);
    }

    fn wake(&self) {
        self.wake_others(0);
    }

    /// Wakes all members but `number` (0: all), if there is something to do.
    fn wake_others(&self, number: u64) {
        if self.has_work() {
            let inner = self.inner.lock();
            for member in inner
                .members
                .iter()
                .filter(|member| member.entry.number != number)
            {
                member.entry.notify.notify_one();
            }
        }
    }

    /// Forgets the feeds that `keep` refuses.
    pub(crate) fn retain_feeds(&self, keep: impl Fn(PartitionId) -> bool) {
        let mut inner = self.inner.lock();
        inner.feeds.retain(|partition, _| keep(*partition));
        inner.behind.retain(|partition| keep(*partition));
        inner.returned.retain(|(partition, _)| keep(*partition));
        self.outstanding
            .lock()
            .retain(|(partition, _)| keep(*partition));
        self.note_work(&inner);
    }

    /// Per partition the lowest offset that no member has acknowledged.
    fn positions(&self, inner: &Inner) -> Vec<(PartitionId, Offset)> {
        let outstanding = self.outstanding.lock();
        let lowest = |partition: PartitionId| {
            let range = (partition, Offset(i64::MIN))..=(partition, Offset(i64::MAX));
            outstanding.range(range).next().map(|(_, offset)| *offset)
        };
        let position = |(partition, feed): (&PartitionId, &Feed)| {
            let passed = match feed.mode {
                Mode::Live(from) => from.max(feed.position.done()),
                Mode::Behind(next) => next,
            };
            (
                *partition,
                lowest(*partition).map_or(passed, |lowest| lowest.min(passed)),
            )
        };
        let parked = inner
            .cursors
            .iter()
            .map(|(partition, offset)| (*partition, *offset));
        let parked = parked.filter(|(partition, _)| !inner.feeds.contains_key(partition));
        let mut all: Vec<_> = inner.feeds.iter().map(position).chain(parked).collect();
        all.sort_unstable();
        all
    }

    /// What the follower of a partition found, in order.
    pub(crate) fn push_live(
        &self,
        partition: PartitionId,
        candidates: Vec<Candidate>,
        metrics: &MqttMetrics,
    ) {
        let mut inner = self.inner.lock();
        let Some(Feed {
            mode: Mode::Live(from),
            ..
        }) = inner.feeds.get(&partition)
        else {
            return;
        };
        let from = *from;
        for candidate in candidates
            .into_iter()
            .filter(|candidate| candidate.offset >= from)
        {
            if self.assign(&mut inner, partition, &candidate) {
                continue;
            }
            if candidate.message.qos == QoS::AtMostOnce {
                metrics.dropped_queue_full.inc();
                continue;
            }
            self.fall_behind(&mut inner, partition, candidate.offset);
            break;
        }
        self.is_dirty.store(true, Ordering::Relaxed);
    }

    fn fall_behind(&self, inner: &mut Inner, partition: PartitionId, next: Offset) {
        if let Some(feed) = inner.feeds.get_mut(&partition) {
            feed.mode = Mode::Behind(next);
            inner.behind.retain(|other| *other != partition);
            inner.behind.push_back(partition);
        }
        self.note_work(inner);
    }

    /// Gives a record to the next member that has room.
    fn assign(&self, inner: &mut Inner, partition: PartitionId, candidate: &Candidate) -> bool {
        let count = inner.members.len();
        if self.outstanding.lock().len() >= SHARE_OUTSTANDING_MAX {
            return false;
        }
        for step in 0..count {
            let place = (inner.turn + step) % count;
            let member = &inner.members[place];
            if self.give(member, partition, candidate) {
                inner.turn = (place + 1) % count;
                return true;
            }
        }
        false
    }

    fn give(&self, member: &Member, partition: PartitionId, candidate: &Candidate) -> bool {
        let Some(group) = &member.subscription.group else {
            return false;
        };
        let offset = candidate.offset;
        let token = Token {
            origin: Origin::Shared(group.clone()),
            partition,
            offset,
        };
        let message = candidate.message.clone();
        let delivery = Delivery::new(message, &member.subscription.options, token);
        let is_acknowledged = delivery.qos > QoS::AtMostOnce;
        if is_acknowledged {
            self.outstanding.lock().insert((partition, offset));
        }
        let mut state = member.entry.state.lock();
        let given = state.online && state.inbox.push(delivery).is_ok();
        drop(state);
        if given {
            member.entry.notify.notify_one();
        } else if is_acknowledged {
            self.outstanding.lock().remove(&(partition, offset));
        }
        given
    }

    /// One step for the group by a member (`number`) that has room. Whether it got anywhere.
    pub(crate) async fn drive(&self, hub: &Hub, number: u64) -> bool {
        let Ok(driving) = self.driving.try_lock() else {
            return false;
        };
        let moved = self.drive_step(hub).await;
        drop(driving);
        // Who found the lock taken looks again.
        self.wake_others(number);
        moved
    }

    async fn drive_step(&self, hub: &Hub) -> bool {
        let returned = self.inner.lock().returned.front().copied();
        if let Some((partition, offset)) = returned {
            return self.give_again(hub, partition, offset).await;
        }
        let Some((partition, from)) = self.next_behind() else {
            return true;
        };
        match hub.read_log(partition, from, CATCH_UP_READ_BYTES).await {
            Reading::Chunk(chunk) => self.give_chunk(hub, (partition, from), &chunk),
            Reading::Gap(next, why) => {
                if next > from {
                    let lost = next.0.abs_diff(from.0);
                    hub.metrics.dropped_lost(why).inc_by(lost);
                }
                self.fall_behind(&mut self.inner.lock(), partition, next);
                true
            }
            Reading::Gone => {
                self.retain_feeds(|other| other != partition);
                true
            }
            Reading::Retry => {
                hub.core.env.sleep(RETRY_PAUSE).await;
                true
            }
        }
    }

    async fn give_again(&self, hub: &Hub, partition: PartitionId, offset: Offset) -> bool {
        let read = hub.read_message(partition, offset).await;
        if read.is_err() {
            hub.core.env.sleep(RETRY_PAUSE).await;
            return true;
        }
        let mut inner = self.inner.lock();
        if inner.returned.front() != Some(&(partition, offset)) {
            return true;
        }
        let given = match read {
            Ok(Some(message)) => {
                // It is outstanding already, and given again it is so still.
                let candidate = Candidate { offset, message };
                let given = self.assign(&mut inner, partition, &candidate);
                if !given {
                    self.outstanding.lock().insert((partition, offset));
                }
                given
            }
            _ => {
                hub.metrics.dropped_retention.inc();
                self.acknowledge(partition, offset);
                true
            }
        };
        if given {
            inner.returned.pop_front();
            self.note_work(&inner);
        }
        given
    }

    fn next_behind(&self) -> Option<(PartitionId, Offset)> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut found = None;
        while let Some(partition) = inner.behind.pop_front() {
            let Some(feed) = inner.feeds.get_mut(&partition) else {
                continue;
            };
            let Mode::Behind(next) = feed.mode else {
                continue;
            };
            if next >= feed.position.begun() {
                feed.mode = Mode::Live(next);
                continue;
            }
            inner.behind.push_back(partition);
            found = Some((partition, next));
            break;
        }
        self.note_work(inner);
        found
    }

    fn give_chunk(
        &self,
        hub: &Hub,
        (partition, from): (PartitionId, Offset),
        chunk: &mainstem_log::Chunk,
    ) -> bool {
        let image = hub.core.image();
        let Some(kafka_topic) = image.topic_by_id(partition.topic) else {
            return true;
        };
        let how = Scan {
            kafka_topic: &kafka_topic.name,
            image: &image,
            decompressed_bytes_max: hub.core.config.storage.decompressed_batch_bytes_max,
            metrics: &hub.metrics,
        };
        let now_ms = hub.core.env.wall_ms();
        let mut inner = self.inner.lock();
        let is_current = inner
            .feeds
            .get(&partition)
            .is_some_and(|feed| feed.mode == Mode::Behind(from));
        if !is_current {
            return true;
        }
        let mut next = chunk.next;
        scan(&how, chunk, from, &mut String::new(), |scanned| {
            if !topic::matches(&self.filter, scanned.topic)
                || self
                    .start(partition)
                    .is_some_and(|start| scanned.offset < start)
            {
                return ControlFlow::Continue(());
            }
            let message = Arc::new(scanned.message());
            let candidate = Candidate {
                offset: scanned.offset,
                message,
            };
            if candidate.message.is_expired(now_ms) {
                hub.metrics.dropped_expired.inc();
                return ControlFlow::Continue(());
            }
            if self.assign(&mut inner, partition, &candidate)
                || candidate.message.qos == QoS::AtMostOnce
            {
                return ControlFlow::Continue(());
            }
            next = scanned.offset;
            ControlFlow::Break(())
        });
        self.fall_behind(&mut inner, partition, next);
        self.is_dirty.store(true, Ordering::Relaxed);
        next > from
    }
}

impl std::fmt::Debug for ShareGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ShareGroup").field(&self.name).finish()
    }
}
