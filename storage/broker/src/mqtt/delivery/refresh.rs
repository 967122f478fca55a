//! Which partitions a subscription wants, and what happens when topics come, go or change their
//! exposure.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_config::{MqttAccess, OVERFLOW_TOPIC};
use mainstem_metadata::{Image, RouteTarget, Topic};
use mainstem_record::{PartitionId, PartitionIndex, TopicId};

use crate::mqtt::{hub::Hub, mapping, session::StartAt, topic};

/// What is seen of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    partitions: usize,
    is_readable: bool,
}

/// The partitions of a topic.
pub(crate) fn partitions_of(topic: &Topic) -> impl Iterator<Item = PartitionId> + use<> {
    let id = topic.id;
    (0..)
        .map(PartitionIndex)
        .take(topic.partitions.len())
        .map(move |index| PartitionId { topic: id, index })
}

impl Hub {
    /// Whether a filter may match records of a Kafka topic, by its first level.
    pub(crate) fn is_relevant(&self, image: &Image, filter: &str, kafka_topic: &Topic) -> bool {
        let (first, _) = topic::split_first_level(filter);
        if matches!(first, "+" | "#") || first == kafka_topic.name {
            return true;
        }
        if kafka_topic.name != OVERFLOW_TOPIC || first.starts_with('$') {
            return false;
        }
        // Records of this first level may be in the overflow topic, unless it is settled that they
        // are in a topic of its own.
        let route = image.routes.get(first).map(|route| route.target);
        let is_own = matches!(route, Some(RouteTarget::OwnTopic(_)));
        let is_exposed = image.topic(first).is_some_and(|own| {
            mapping::access(own, &self.core.topic_config(own)) != MqttAccess::None
        });
        !(is_own && is_exposed)
    }

    /// Whether subscribers may see a topic's records.
    pub(crate) fn is_readable(&self, topic: &Topic) -> bool {
        mapping::is_readable(mapping::access(topic, &self.core.topic_config(topic)))
    }

    fn seen(&self, image: &Image) -> BTreeMap<TopicId, Seen> {
        let visible = image.topics_by_id.values().filter(|topic| !topic.internal);
        let seen = visible.map(|topic| {
            let is_readable = self.is_readable(topic);
            (
                topic.id,
                Seen {
                    partitions: topic.partitions.len(),
                    is_readable,
                },
            )
        });
        seen.collect()
    }

    /// Follows the metadata until the node ends. What is there already is looked at now, not when
    /// the future first runs: a session may connect before that.
    pub(crate) fn follow_metadata(
        self: &Arc<Self>,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let hub = self.clone();
        let mut changes = hub.core.metadata.changes();
        let mut opened = hub.core.opened_partitions();
        let mut before = hub.seen(&hub.core.image());
        async move {
            loop {
                let mut is_again = false;
                tokio::select! {
                    biased;
                    () = hub.core.stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                    _ = opened.changed() => is_again = true,
                }
                // Marks the value as seen before the image is taken: a later one wakes again.
                changes.borrow_and_update();
                // A new topic is in the metadata before its partitions are open. While this lock is
                // held, every topic of the image has its partitions open.
                let topics_stand_still = hub.core.topics_change.lock().await;
                let image = hub.core.image();
                let now = hub.seen(&image);
                if now != before {
                    hub.topics_changed(&image, &before, &now);
                    before = now;
                }
                if is_again {
                    // What could not be followed when it was wanted.
                    let topics = image.topics_by_id.values().cloned();
                    hub.add_all_feeds(
                        &image,
                        &topics
                            .map(|topic| (topic, StartAt::Left))
                            .collect::<Vec<_>>(),
                    );
                }
                drop(topics_stand_still);
            }
        }
    }

    fn topics_changed(
        self: &Arc<Self>,
        image: &Image,
        before: &BTreeMap<TopicId, Seen>,
        now: &BTreeMap<TopicId, Seen>,
    ) {
        let is_open = |id: &TopicId| now.get(id).is_some_and(|seen| seen.is_readable);
        let closed = before
            .iter()
            .any(|(id, seen)| seen.is_readable && !is_open(id));
        let mut opened: Vec<(Arc<Topic>, StartAt)> = Vec::new();
        for (id, seen) in now.iter().filter(|(_, seen)| seen.is_readable) {
            let start = match before.get(id) {
                None => StartAt::Left,
                Some(old) if old.partitions < seen.partitions => StartAt::Left,
                // What was written while it was closed belongs to no subscription.
                Some(old) if !old.is_readable => StartAt::End,
                Some(_) => continue,
            };
            opened.extend(image.topic_by_id(*id).map(|topic| (topic.clone(), start)));
        }
        if closed {
            for entry in &self.online {
                let mut state = entry.state.lock();
                state
                    .inbox
                    .retain_feeds(|partition| is_open(&partition.topic));
            }
            for group in &self.groups {
                group.retain_feeds(|partition| is_open(&partition.topic));
            }
        }
        self.add_all_feeds(image, &opened);
    }

    /// Gives everybody who wants one of `topics` and does not follow it a feed of it.
    fn add_all_feeds(self: &Arc<Self>, image: &Image, topics: &[(Arc<Topic>, StartAt)]) {
        if topics.is_empty() {
            return;
        }
        for entry in self.all_online() {
            for (topic, start) in topics {
                self.add_feeds(&entry, image, topic, *start);
            }
        }
        for group in self.all_groups() {
            for (topic, start) in topics {
                self.add_group_feeds(&group, image, topic, *start);
            }
        }
    }
}
