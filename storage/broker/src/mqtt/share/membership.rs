//! Who is in a group, which partitions it follows, and what of it survives.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_metadata::{Image, Topic};
use mainstem_record::{Offset, PartitionId};
use parking_lot::Mutex;

use super::{Member, ShareGroup};
use crate::{
    internal::KeyValue,
    mqtt::{
        delivery::{Target, partitions_of},
        hub::Hub,
        limits::SHARE_GROUPS_MAX,
        session::{
            SessionEntry, StartAt, Subscription,
            inbox::{Feed, Mode},
            records::{Key, encode_group},
        },
    },
};

// === impl Hub ===

impl Hub {
    /// The group, made if it is not there; `None` if there are too many.
    pub(crate) fn group(
        &self,
        group: &str,
        filter: &str,
        starts: &Arc<[(PartitionId, Offset)]>,
    ) -> Option<Arc<ShareGroup>> {
        let name: Arc<str> = Arc::from(format!("{group}/{filter}"));
        if !self.groups.contains_key(&name) && self.groups.len() >= SHARE_GROUPS_MAX {
            return None;
        }
        let fresh = || {
            Arc::new(ShareGroup {
                number: self.next_number(),
                name: name.clone(),
                filter: Arc::from(filter),
                starts: starts.clone(),
                inner: Mutex::default(),
                outstanding: Mutex::default(),
                driving: tokio::sync::Mutex::default(),
                has_work: AtomicBool::new(false),
                is_dirty: AtomicBool::new(false),
            })
        };
        Some(
            self.groups
                .entry(name.clone())
                .or_insert_with(fresh)
                .clone(),
        )
    }

    /// A connected session takes its turns from now on.
    pub(crate) fn join_group(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        subscription: &Arc<Subscription>,
        image: &Image,
    ) {
        let Some(group) = &subscription.group else {
            return;
        };
        {
            let mut inner = group.inner.lock();
            inner.offline.remove(&entry.client_id);
            inner
                .members
                .retain(|member| member.entry.number != entry.number);
            let member = Member {
                entry: entry.clone(),
                subscription: subscription.clone(),
            };
            inner.members.push(member);
        }
        // A group that its last member had just left is taken out of the table; this one is back.
        self.groups
            .entry(group.name.clone())
            .or_insert_with(|| group.clone());
        self.trie
            .write()
            .insert(&group.filter, group.number, Target::Group(group.clone()));
        for topic in image.topics_by_id.values() {
            self.add_group_feeds(group, image, topic, StartAt::Left);
        }
        group.wake();
    }

    /// A session takes no more turns; `keep`: it may come back.
    pub(crate) fn leave_group(
        self: &Arc<Self>,
        group: &Arc<ShareGroup>,
        entry: &SessionEntry,
        keep: bool,
    ) {
        let (is_idle, is_over) = {
            let mut inner = group.inner.lock();
            inner
                .members
                .retain(|member| member.entry.number != entry.number);
            match keep {
                true => inner.offline.insert(entry.client_id.clone()),
                false => inner.offline.remove(&entry.client_id),
            };
            let is_idle = inner.members.is_empty();
            if is_idle {
                let positions = group.positions(&inner);
                inner.cursors = positions.into_iter().collect();
                group.outstanding.lock().clear();
                inner.feeds = HashMap::new();
                inner.behind = VecDeque::new();
                inner.returned = VecDeque::new();
            }
            (is_idle, is_idle && inner.offline.is_empty())
        };
        if is_idle {
            self.trie.write().remove(&group.filter, group.number);
        }
        group.is_dirty.store(true, Ordering::Relaxed);
        if is_over {
            self.groups
                .remove_if(&group.name, |_, other| Arc::ptr_eq(other, group));
            let (hub, name) = (self.clone(), group.name.clone());
            self.core.spawn("mqtt share end", async move {
                hub.delete_group_record(&name).await
            });
        }
    }

    /// Makes a group follow a topic that it wants and does not follow yet.
    pub(crate) fn add_group_feeds(
        self: &Arc<Self>,
        group: &Arc<ShareGroup>,
        image: &Image,
        topic: &Topic,
        start: StartAt,
    ) {
        if topic.internal
            || !self.is_readable(topic)
            || !self.is_relevant(image, &group.filter, topic)
        {
            return;
        }
        for partition in partitions_of(topic) {
            let Ok(opened) = self.core.reader(partition) else {
                continue;
            };
            let ends = opened.ends();
            if group.inner.lock().feeds.contains_key(&partition) {
                continue;
            }
            let Ok((position, interest)) = self.follow(topic, partition) else {
                continue;
            };
            let mut inner = group.inner.lock();
            if inner.members.is_empty() || inner.feeds.contains_key(&partition) {
                continue;
            }
            let left = inner.cursors.remove(&partition);
            let left = left
                .or_else(|| group.start(partition))
                .unwrap_or(Offset::ZERO);
            let mode = match start {
                StartAt::Left => Mode::Behind(self.left_off(left, &ends)),
                StartAt::End => Mode::Live(ends.committed_end),
            };
            let online_from = ends.committed_end;
            inner.feeds.insert(
                partition,
                Feed {
                    mode,
                    position,
                    online_from,
                    _interest: Some(interest),
                },
            );
            if start == StartAt::Left {
                inner.behind.push_back(partition);
            }
            group.note_work(&inner);
        }
        group.wake();
    }

    /// Writes the positions of groups that have changed and have members whose sessions outlive
    /// their connections.
    pub(crate) async fn checkpoint_groups(&self) {
        for group in self.all_groups() {
            if !group.is_dirty.swap(false, Ordering::Relaxed) || !group.is_persistent() {
                continue;
            }
            let positions = group.positions(&group.inner.lock());
            let key = Key::Group { name: &group.name }.encode();
            let record = KeyValue {
                key,
                value: Some(encode_group(&positions)),
            };
            let partition = self.store.partition_of(group.name.as_bytes());
            // Not waited for: a lost checkpoint repeats, it loses nothing.
            let append = self.store.append_anywhere(partition, vec![record]);
            if append.await.is_err() {
                group.is_dirty.store(true, Ordering::Relaxed);
            }
        }
    }

    pub(crate) async fn delete_group_record(&self, name: &str) {
        let record = KeyValue {
            key: Key::Group { name }.encode(),
            value: None,
        };
        let partition = self.store.partition_of(name.as_bytes());
        // What remains is deleted at the next start.
        let _ = self.store.append_anywhere(partition, vec![record]).await;
    }
}
