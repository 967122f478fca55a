//! SUBSCRIBE and UNSUBSCRIBE.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_metadata::{Image, Topic};
use mainstem_record::{Offset, PartitionId};

use super::{
    RetainedJob, SessionEntry, State, Subscription,
    records::{Key, Options},
    store,
};
use crate::{
    error_code::ErrorCode,
    internal::KeyValue,
    mqtt::{
        PublishError, QoS, SubscribeFilter,
        delivery::{Target, partitions_of},
        hub::Hub,
        topic::{self, ParsedFilter},
    },
};

/// Reason codes of SUBACK (MQTT 5.0 section 3.9.3).
const TOPIC_FILTER_INVALID: u8 = 0x8f;
const QUOTA_EXCEEDED: u8 = 0x97;

/// Where a session begins in a partition that it did not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartAt {
    /// Where it left off, or where its subscriptions begin.
    Left,
    /// At the end.
    End,
}

impl Hub {
    /// Adds subscriptions; durable, if the session is, when it returns.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        epoch: u32,
        filters: Vec<SubscribeFilter>,
    ) -> Result<Vec<Result<QoS, u8>>, PublishError> {
        let _control = entry.control.lock().await;
        if entry.state.lock().epoch != epoch {
            return Err(PublishError::Fenced);
        }
        let image = self.core.image();
        let mut answers = Vec::with_capacity(filters.len());
        let mut added = Vec::new();
        for filter in filters {
            match self.add_subscription(entry, &image, &filter).await? {
                Ok((subscription, is_new)) => {
                    answers.push(Ok(filter.qos));
                    let wanted = match filter.retain_handling {
                        0 => true,
                        1 => is_new,
                        _ => false,
                    };
                    added.push((subscription, wanted));
                }
                Err(reason) => answers.push(Err(reason)),
            }
        }
        for (subscription, _) in &added {
            self.go_live(entry, subscription, &image);
        }
        // A topic may have been made since the image was taken, before the subscription was seen.
        let newer = self.core.image();
        for topic in newer.topics_by_id.values() {
            self.add_feeds(entry, &newer, topic, StartAt::Left);
        }
        self.write_subscriptions(entry, epoch, &added).await?;
        let mut state = entry.state.lock();
        for (subscription, wanted) in added {
            if wanted && subscription.group.is_none() {
                let jobs = &mut state.inbox.retained_jobs;
                jobs.retain(|job| job.subscription.full != subscription.full);
                jobs.push_back(RetainedJob {
                    subscription,
                    after: None,
                });
            }
        }
        drop(state);
        entry.notify.notify_one();
        Ok(answers)
    }

    async fn write_subscriptions(
        &self,
        entry: &SessionEntry,
        epoch: u32,
        added: &[(Arc<Subscription>, bool)],
    ) -> Result<(), PublishError> {
        let client = &entry.client_id;
        let build = |state: &mut State| {
            if !state.is_persistent() || added.is_empty() {
                return Vec::new();
            }
            let records = added
                .iter()
                .map(|(added, _)| store::subscription(client, added));
            let mut records: Vec<KeyValue> = records.collect();
            records.push(store::outbound(client, state));
            records
        };
        self.write_durable(entry, epoch, build).await
    }

    /// Puts a subscription into the session's state; a filter that is there is replaced without an
    /// interruption of its flow.
    async fn add_subscription(
        self: &Arc<Self>,
        entry: &SessionEntry,
        image: &Image,
        asked: &SubscribeFilter,
    ) -> Result<Result<(Arc<Subscription>, bool), u8>, PublishError> {
        let config = &self.core.config.mqtt;
        let Some(parsed) = topic::parse_filter(&asked.filter) else {
            return Ok(Err(TOPIC_FILTER_INVALID));
        };
        let (plain, group) = match parsed {
            ParsedFilter::Plain(filter) => (filter, None),
            ParsedFilter::Shared { group, filter } => (filter, Some(group)),
        };
        if topic::level_count(plain) > config.topic_levels_max {
            return Ok(Err(TOPIC_FILTER_INVALID));
        }
        let former = {
            let state = entry.state.lock();
            let former = state.subscriptions.get(asked.filter.as_str()).cloned();
            if former.is_none() && state.subscriptions.len() >= config.subscriptions_per_client_max
            {
                return Ok(Err(QUOTA_EXCEEDED));
            }
            former
        };
        let starts = match &former {
            Some(former) => former.starts.clone(),
            None => self.starts(image, plain).await?,
        };
        let group = match group {
            Some(group) => match self.group(group, plain, &starts) {
                Some(group) => Some(group),
                None => return Ok(Err(QUOTA_EXCEEDED)),
            },
            None => None,
        };
        let subscription = Arc::new(Subscription {
            full: Arc::from(asked.filter.as_str()),
            filter: Arc::from(plain),
            group,
            options: Options {
                qos: asked.qos,
                no_local: asked.no_local,
                retain_as_published: asked.retain_as_published,
                subscription_id: asked.subscription_id,
            },
            starts,
        });
        let mut state = entry.state.lock();
        state
            .subscriptions
            .insert(subscription.full.clone(), subscription.clone());
        state.subscriptions_version += 1;
        drop(state);
        if former.is_none() {
            self.metrics.subscriptions.inc();
        }
        Ok(Ok((subscription, former.is_none())))
    }

    /// The present ends of the partitions that a filter may match, exposed or not: what is below is
    /// not part of a subscription that is made now.
    /// Where this node follows a leader, its own knowledge of the end counts: nothing can come in
    /// below it later, and it is not above the leader's.
    async fn starts(
        &self,
        image: &Image,
        filter: &str,
    ) -> Result<Arc<[(PartitionId, Offset)]>, PublishError> {
        let mut starts: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        let relevant =
            |topic: &&Arc<Topic>| !topic.internal && self.is_relevant(image, filter, topic);
        for topic in image.topics_by_id.values().filter(relevant) {
            for id in partitions_of(topic) {
                match self.core.reader_when_open(id).await {
                    Ok(partition) => {
                        starts.insert(id, partition.ends().committed_end);
                    }
                    // A partition whose end is not known would be taken for one that is made later,
                    // and be given from its beginning.
                    Err(code @ ErrorCode::LeaderNotAvailable) => {
                        return Err(PublishError::Transient(code.to_string()));
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(starts.into_iter().collect())
    }

    /// First the trie, then the feeds: see `Position::begin`.
    fn go_live(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        subscription: &Arc<Subscription>,
        image: &Image,
    ) {
        if subscription.group.is_some() {
            self.join_group(entry, subscription, image);
            return;
        }
        let target = Target::Session(entry.clone(), subscription.clone());
        self.trie
            .write()
            .insert(&subscription.filter, entry.number, target);
        for topic in image.topics_by_id.values() {
            if self.is_relevant(image, &subscription.filter, topic) {
                self.add_feeds(entry, image, topic, StartAt::Left);
            }
        }
    }

    /// Removes subscriptions; whether each was there.
    pub(crate) async fn unsubscribe(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        epoch: u32,
        filters: Vec<String>,
    ) -> Result<Vec<bool>, PublishError> {
        let _control = entry.control.lock().await;
        if entry.state.lock().epoch != epoch {
            return Err(PublishError::Fenced);
        }
        let mut removed = Vec::new();
        let mut answers = Vec::with_capacity(filters.len());
        for filter in &filters {
            let subscription = {
                let mut state = entry.state.lock();
                state.subscriptions_version += 1;
                state
                    .inbox
                    .retained_jobs
                    .retain(|job| *job.subscription.full != **filter);
                state.subscriptions.remove(filter.as_str())
            };
            answers.push(subscription.is_some());
            let Some(subscription) = subscription else {
                continue;
            };
            self.metrics.subscriptions.dec();
            match &subscription.group {
                Some(group) => self.leave_group(group, entry, false),
                None => {
                    self.trie.write().remove(&subscription.filter, entry.number);
                }
            }
            removed.push(subscription);
        }
        self.drop_unwanted_feeds(entry);
        let client = &entry.client_id;
        let build = |state: &mut State| {
            if !state.is_persistent() || removed.is_empty() {
                return Vec::new();
            }
            let forget = |subscription: &Arc<Subscription>| KeyValue {
                key: Key::Subscription {
                    client,
                    filter: &subscription.full,
                }
                .encode(),
                value: None,
            };
            removed.iter().map(forget).collect()
        };
        self.write_durable(entry, epoch, build).await?;
        Ok(answers)
    }

    /// Feeds and cursors that no subscription wants any more.
    fn drop_unwanted_feeds(&self, entry: &SessionEntry) {
        let image = self.core.image();
        let mut state = entry.state.lock();
        let own = state
            .subscriptions
            .values()
            .filter(|subscription| subscription.group.is_none());
        let filters: Vec<Arc<str>> = own
            .map(|subscription| subscription.filter.clone())
            .collect();
        let mut known = std::collections::HashMap::new();
        let mut is_wanted = |partition: PartitionId| {
            *known.entry(partition.topic).or_insert_with(|| {
                let topic = image.topic_by_id(partition.topic);
                topic.is_some_and(|topic| {
                    filters
                        .iter()
                        .any(|filter| self.is_relevant(&image, filter, topic))
                })
            })
        };
        state.inbox.retain_feeds(&mut is_wanted);
        state.cursors.retain(|partition, _| is_wanted(*partition));
    }
}
