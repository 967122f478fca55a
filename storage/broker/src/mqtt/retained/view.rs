//! The retained messages by topic. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use mainstem_record::{LeaderEpoch, Offset, PartitionId, TimestampMs};

use super::Place;
use crate::mqtt::{
    Message,
    limits::{RETAINED_BYTES_TOTAL_MAX, RETAINED_DELETIONS_MAX},
    topic,
};

/// One retained message.
#[derive(Debug, Clone)]
pub(crate) struct RetainedEntry {
    pub(crate) topic: Arc<str>,
    pub(crate) message: Arc<Message>,
    /// The client that published it.
    pub(crate) publisher: Arc<str>,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) offset: Offset,
    pub(crate) timestamp: TimestampMs,
}

/// Some retained messages.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<RetainedEntry>,
    /// Where to go on; `None`: that was all.
    pub(crate) next: Option<Arc<str>>,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The topic has this message now.
    Set,
    /// The topic has none any more.
    Deleted,
    /// A later one stands, or there was nothing to delete.
    Nothing,
    /// There is no room.
    Full,
}

/// All retained messages, in the order of topics.
#[derive(Debug, Default)]
pub(crate) struct View {
    entries: BTreeMap<Arc<str>, RetainedEntry>,
    bytes: usize,
    /// The places of the latest deletions, so that an earlier publish that arrives late does not
    /// bring a message back.
    deleted: HashMap<Arc<str>, Place>,
    deletions: VecDeque<Arc<str>>,
}

// === impl RetainedEntry ===

impl RetainedEntry {
    pub(crate) fn new(message: Message, publisher: Arc<str>, place: Place) -> Self {
        Self {
            topic: Arc::from(message.topic.as_str()),
            message: Arc::new(message),
            publisher,
            partition: place.partition,
            epoch: place.epoch,
            offset: place.offset,
            timestamp: place.timestamp,
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            partition: self.partition,
            epoch: self.epoch,
            offset: self.offset,
            timestamp: self.timestamp,
        }
    }

    fn bytes(&self) -> usize {
        self.message.queued_bytes() + self.topic.len()
    }
}

// === impl View ===

impl View {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, topic: &str) -> Option<RetainedEntry> {
        self.entries.get(topic).cloned()
    }

    /// A retained record; an empty payload deletes. The later place wins.
    pub(crate) fn apply(&mut self, entry: RetainedEntry, messages_max: usize) -> Change {
        let place = entry.place();
        let former = self.entries.get(&entry.topic);
        let known = former
            .map(RetainedEntry::place)
            .or(self.deleted.get(&entry.topic).copied());
        if known.is_some_and(|known| !place.is_after(&known)) {
            return Change::Nothing;
        }
        let former_bytes = former.map_or(0, RetainedEntry::bytes);
        let had = former.is_some();
        if entry.message.payload.is_empty() {
            self.remove(&entry.topic);
            self.remember_deletion(entry.topic, place);
            return if had {
                Change::Deleted
            } else {
                Change::Nothing
            };
        }
        let bytes = self.bytes - former_bytes + entry.bytes();
        if bytes > RETAINED_BYTES_TOTAL_MAX || (!had && self.entries.len() >= messages_max) {
            return Change::Full;
        }
        self.bytes = bytes;
        self.deleted.remove(&entry.topic);
        self.entries.insert(entry.topic.clone(), entry);
        Change::Set
    }

    /// Forgets a topic.
    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let Some(former) = self.entries.remove(topic) else {
            return false;
        };
        self.bytes -= former.bytes();
        true
    }

    fn remember_deletion(&mut self, topic: Arc<str>, place: Place) {
        if self.deleted.insert(topic.clone(), place).is_none() {
            self.deletions.push_back(topic);
        }
        while self.deletions.len() > RETAINED_DELETIONS_MAX {
            if let Some(oldest) = self.deletions.pop_front() {
                self.deleted.remove(&oldest);
            }
        }
    }

    /// What `filter` matches among the next `step` topics after `after`.
    pub(crate) fn page(&self, filter: &str, after: Option<&Arc<str>>, step: usize) -> Page {
        let mut page = Page::default();
        let prefix = literal_prefix(filter);
        if prefix.len() == filter.len() {
            page.entries.extend(self.get(filter));
            return page;
        }
        let from = match after {
            Some(after) => Bound::Excluded(after.as_ref()),
            None => Bound::Included(prefix),
        };
        let mut walked = 0;
        for (topic, entry) in self.entries.range::<str, _>((from, Bound::Unbounded)) {
            if !topic.starts_with(prefix) {
                return page;
            }
            if topic::matches(filter, topic) {
                page.entries.push(entry.clone());
            }
            walked += 1;
            if walked >= step {
                page.next = Some(topic.clone());
                return page;
            }
        }
        page
    }

    /// Topics among the next `step` after `after` whose message has expired, and where to go on.
    pub(crate) fn expired(
        &self,
        after: Option<&Arc<str>>,
        step: usize,
        now_ms: i64,
    ) -> (Vec<RetainedEntry>, Option<Arc<str>>) {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_ref()));
        let range = self
            .entries
            .range::<str, _>((from, Bound::Unbounded))
            .take(step);
        let (mut expired, mut last, mut walked) = (Vec::new(), None, 0);
        for (topic, entry) in range {
            walked += 1;
            last = Some(topic);
            if entry.message.is_expired(now_ms) {
                expired.push(entry.clone());
            }
        }
        (expired, last.filter(|_| walked == step).cloned())
    }
}

/// What every topic that `filter` matches begins with: the levels before the first wildcard,
/// without the slash after them, since `a/#` matches `a`.
fn literal_prefix(filter: &str) -> &str {
    let mut end = 0;
    for level in filter.split('/') {
        if matches!(level, "+" | "#") {
            return filter[..end].strip_suffix('/').unwrap_or(&filter[..end]);
        }
        end = (end + level.len() + 1).min(filter.len());
    }
    filter
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mainstem_record::{PartitionIndex, TopicId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::mqtt::{MessageProperties, QoS};

    fn entry(topic: &str, payload: &str, offset: i64) -> RetainedEntry {
        let place = Place {
            partition: PartitionId {
                topic: TopicId(Uuid::nil()),
                index: PartitionIndex(0),
            },
            epoch: LeaderEpoch(0),
            offset: Offset(offset),
            timestamp: TimestampMs(offset),
        };
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let flags = (QoS::AtLeastOnce, true);
        let message = Message::new(
            topic.into(),
            payload,
            flags,
            MessageProperties::default(),
            0,
        );
        RetainedEntry::new(message, Arc::from("c"), place)
    }

    proptest! {
        /// Whatever the order in which records get here, the one with the highest place stands.
        #[test]
        fn the_latest_place_stands(
            records in prop::collection::vec(("[ab]", "[xy]?"), 1..40),
            order in any::<prop::sample::Index>(),
        ) {
            let mut shuffled: Vec<(usize, &(String, String))> = records.iter().enumerate().collect();
            shuffled.rotate_left(order.index(records.len()));
            shuffled.reverse();
            let mut view = View::default();
            for (offset, (topic, payload)) in shuffled {
                view.apply(entry(topic, payload, offset as i64), usize::MAX);
            }
            for topic in ["a", "b"] {
                let last = records.iter().rposition(|(other, _)| other == topic);
                let expected = last
                    .filter(|at| !records[*at].1.is_empty())
                    .map(|at| (at as i64, records[at].1.clone()));
                let found = view.get(topic).map(|entry| {
                    let payload = String::from_utf8_lossy(&entry.message.payload).into_owned();
                    (entry.offset.0, payload)
                });
                prop_assert_eq!(found, expected);
            }
            let bytes: usize = view.entries.values().map(RetainedEntry::bytes).sum();
            prop_assert_eq!(view.bytes, bytes);
        }

        /// Pages give each matching topic once, in order, whatever the step.
        #[test]
        fn pages_cover_exactly_what_matches(
            topics in prop::collection::btree_set("[ab]?(/[ab]?){0,2}", 1..30),
            filter in prop_oneof![Just("#"), Just("+"), Just("a/#"), Just("a/+"), Just("+/b"), Just("a/b"), Just("/#")],
            step in 1usize..5,
        ) {
            let mut view = View::default();
            let topics: Vec<String> = topics.into_iter().filter(|topic| !topic.is_empty()).collect();
            for topic in &topics {
                view.apply(entry(topic, "x", 1), usize::MAX);
            }
            let expected: Vec<&str> =
                topics.iter().map(String::as_str).filter(|topic| topic::matches(filter, topic)).collect();
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = view.page(filter, after.as_ref(), step);
                found.extend(page.entries.into_iter().map(|entry| entry.topic));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            let found: Vec<&str> = found.iter().map(AsRef::as_ref).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn limits_refuse_new_topics_and_let_known_ones_change() {
        let mut view = View::default();
        assert_eq!(view.apply(entry("a", "1", 1), 1), Change::Set);
        assert_eq!(view.apply(entry("b", "1", 2), 1), Change::Full);
        assert_eq!(view.apply(entry("a", "22", 3), 1), Change::Set);
        assert_eq!(view.apply(entry("a", "", 4), 1), Change::Deleted);
        assert_eq!(view.apply(entry("b", "1", 5), 1), Change::Set);
    }
}
