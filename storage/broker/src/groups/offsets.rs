//! The committed offsets of one group, in memory.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_record::{Offset, PartitionIndex, TopicId};

use super::store::StoredOffset;

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) stored: StoredOffset,
    /// Which topic was meant: a topic that is made again under the same name is another one.
    /// None only between replay and the first look at the metadata.
    pub(crate) topic: Option<TopicId>,
    /// Where the record is in the group's log. Of two commits at once the later record counts,
    /// as it does at replay.
    pub(crate) at: Offset,
}

/// From when the retention of a group's offsets counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Nothing expires now.
    Keep,
    /// From the commit: nobody was ever a member.
    SinceCommit,
    /// From when the last member went, in milliseconds since the Unix epoch, or from a later commit.
    SinceEmpty(i64),
    /// From the commit, for topics that no member subscribes to.
    Unsubscribed(BTreeSet<String>),
}

/// The committed offsets of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OffsetTable {
    topics: BTreeMap<String, BTreeMap<PartitionIndex, Committed>>,
}

// === impl OffsetTable ===

impl OffsetTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Takes a commit over, unless a later record is known.
    pub(crate) fn commit(&mut self, topic: &str, partition: PartitionIndex, committed: Committed) {
        let partitions = match self.topics.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        match partitions.get(&partition) {
            Some(known) if known.at > committed.at => {}
            _ => {
                partitions.insert(partition, committed);
            }
        }
    }

    /// Forgets a commit.
    pub(crate) fn remove(&mut self, topic: &str, partition: PartitionIndex) {
        if let Some(partitions) = self.topics.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    pub(crate) fn get(&self, topic: &str, partition: PartitionIndex) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    /// The topics and their partitions.
    pub(crate) fn topics(
        &self,
    ) -> impl Iterator<Item = (&str, &BTreeMap<PartitionIndex, Committed>)> {
        self.topics
            .iter()
            .map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    /// Every commit's place.
    pub(crate) fn places(&self) -> Vec<(String, PartitionIndex)> {
        self.filter(|_, _| true)
    }

    /// The commits whose topic is gone: `current` tells the id that a name has now.
    pub(crate) fn orphans(
        &self,
        current: impl Fn(&str) -> Option<TopicId>,
    ) -> Vec<(String, PartitionIndex)> {
        let mut orphans = Vec::new();
        for (topic, partitions) in &self.topics {
            let id = current(topic);
            for (partition, committed) in partitions {
                if id.is_none() || committed.topic.is_some_and(|meant| Some(meant) != id) {
                    orphans.push((topic.clone(), *partition));
                }
            }
        }
        orphans
    }

    /// Binds the commits that replay brought to the topics of today.
    pub(crate) fn bind(&mut self, current: impl Fn(&str) -> Option<TopicId>) {
        for (topic, partitions) in &mut self.topics {
            let id = current(topic);
            for committed in partitions.values_mut() {
                committed.topic = committed.topic.or(id);
            }
        }
    }

    /// The commits whose time is over (KIP-211).
    pub(crate) fn expired(
        &self,
        retention: &Retention,
        retention_ms: i64,
        now_ms: i64,
    ) -> Vec<(String, PartitionIndex)> {
        self.filter(|topic, committed| {
            let commit_ms = committed.stored.commit_ms;
            let since_ms = match retention {
                Retention::Keep => return false,
                Retention::SinceCommit => commit_ms,
                Retention::SinceEmpty(empty_ms) => commit_ms.max(*empty_ms),
                Retention::Unsubscribed(subscribed) if subscribed.contains(topic) => return false,
                Retention::Unsubscribed(_) => commit_ms,
            };
            now_ms.saturating_sub(since_ms) >= retention_ms
        })
    }

    fn filter(&self, wanted: impl Fn(&str, &Committed) -> bool) -> Vec<(String, PartitionIndex)> {
        let mut places = Vec::new();
        for (topic, partitions) in &self.topics {
            for (partition, committed) in partitions {
                if wanted(topic, committed) {
                    places.push((topic.clone(), *partition));
                }
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use mainstem_record::LeaderEpoch;

    use super::*;

    fn committed(offset: i64, commit_ms: i64, at: i64) -> Committed {
        let stored = StoredOffset {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: String::new(),
            commit_ms,
        };
        Committed {
            stored,
            topic: None,
            at: Offset(at),
        }
    }

    const P: PartitionIndex = PartitionIndex(0);

    #[test]
    fn the_later_record_counts_whatever_comes_first() {
        let mut table = OffsetTable::default();
        table.commit("t", P, committed(9, 0, 5));
        table.commit("t", P, committed(3, 0, 4));
        assert_eq!(table.get("t", P).map(|c| c.stored.offset), Some(Offset(9)));
        table.commit("t", P, committed(1, 0, 6));
        assert_eq!(table.get("t", P).map(|c| c.stored.offset), Some(Offset(1)));
        table.remove("t", P);
        assert!(table.is_empty());
    }

    #[test]
    fn offsets_expire_by_what_the_group_is() {
        let mut table = OffsetTable::default();
        table.commit("old", P, committed(1, 100, 0));
        table.commit("new", P, committed(1, 500, 1));
        let expired = |retention: Retention, now_ms| {
            let places = table.expired(&retention, 1000, now_ms);
            places
                .into_iter()
                .map(|(topic, _)| topic)
                .collect::<Vec<_>>()
        };
        assert_eq!(expired(Retention::Keep, i64::MAX), Vec::<String>::new());
        assert_eq!(expired(Retention::SinceCommit, 1100), ["old"]);
        assert_eq!(
            expired(Retention::SinceEmpty(400), 1399),
            Vec::<String>::new()
        );
        assert_eq!(expired(Retention::SinceEmpty(400), 1400), ["old"]);
        assert_eq!(expired(Retention::SinceEmpty(-1), 1500), ["new", "old"]);
        let subscribed = BTreeSet::from(["old".to_owned()]);
        assert_eq!(expired(Retention::Unsubscribed(subscribed), 9999), ["new"]);
    }

    #[test]
    fn a_topic_made_again_does_not_inherit_commits() {
        let id = |n| TopicId(n_uuid(n));
        let mut table = OffsetTable::default();
        table.commit("t", P, committed(1, 0, 0));
        table.bind(|_| Some(id(1)));
        assert_eq!(table.orphans(|_| Some(id(1))), []);
        assert_eq!(table.orphans(|_| Some(id(2))), [("t".to_owned(), P)]);
        assert_eq!(table.orphans(|_| None), [("t".to_owned(), P)]);
    }

    fn n_uuid(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }
}
