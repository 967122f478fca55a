//! The configs of topics, resolved, and what the log has to know of them.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use mainstem_config::{CleanupPolicy, Config, FlushPolicy, TopicConfig};
use mainstem_log::{Flush, PartitionSettings};
use mainstem_metadata::{Metadata, SegmentFlush, Topic};
use mainstem_record::TopicId;
use mainstem_replication::Policies;

/// Resolves the configs of topics.
pub(crate) struct TopicConfigs {
    config: Arc<Config>,
    metadata: Metadata,
    /// Resolved configs by topic, with the version of the metadata that they come from.
    resolved: DashMap<TopicId, (u64, Arc<TopicConfig>)>,
}

/// A policy as metadata records it.
pub(crate) fn flush_of(policy: FlushPolicy) -> SegmentFlush {
    match policy {
        FlushPolicy::Os => SegmentFlush::Os,
        FlushPolicy::Interval => SegmentFlush::Interval,
        FlushPolicy::Always => SegmentFlush::Always,
    }
}

// === impl TopicConfigs ===

impl TopicConfigs {
    pub(super) fn new(config: Arc<Config>, metadata: Metadata) -> Self {
        Self {
            config,
            metadata,
            resolved: DashMap::new(),
        }
    }

    /// A topic's configs over the broker's defaults. Resolved once per version of the metadata,
    /// since every produce asks.
    pub(super) fn of(&self, topic: &Topic) -> Arc<TopicConfig> {
        let image = self.metadata.image();
        let version = image.version;
        if let Some(cached) = self.resolved.get(&topic.id) {
            let (at, config) = cached.value();
            if *at == version {
                return config.clone();
            }
        }
        let config = Arc::new(self.resolve(topic));
        // A caller with an older image must not leave an older config under a newer version.
        let newest = image.topic_by_id(topic.id);
        if newest.is_some_and(|newest| std::ptr::eq(&**newest, topic)) {
            self.resolved.insert(topic.id, (version, config.clone()));
        }
        config
    }

    fn resolve(&self, topic: &Topic) -> TopicConfig {
        let overrides = topic
            .configs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let mut config = TopicConfig::resolve(&self.defaults(), overrides);
        if topic.internal && !topic.configs.contains_key("cleanup.policy") {
            config.cleanup = CleanupPolicy {
                delete: false,
                compact: true,
            };
        }
        config
    }

    /// The defaults of topic configs: the file's, with what was changed at run time over it.
    pub(super) fn defaults(&self) -> TopicConfig {
        let image = self.metadata.image();
        let overrides = image.broker_configs.iter().filter_map(|(name, value)| {
            let key = mainstem_config::topic_keys()
                .iter()
                .find(|key| key.broker_synonym == Some(name.as_str()))?;
            Some((key.name, value.as_str()))
        });
        let changed: Vec<(&str, &str)> = overrides.collect();
        TopicConfig::resolve(&self.config.topic, changed.into_iter())
    }

    /// Forgets a topic that is gone.
    pub(super) fn forget(&self, topic: TopicId) {
        self.resolved.remove(&topic);
    }
}

impl Policies for TopicConfigs {
    fn settings(&self, topic: &Topic, flush: SegmentFlush) -> PartitionSettings {
        let config = self.of(topic);
        let flush = match flush.max(self.flush(topic)) {
            SegmentFlush::Os => Flush::Os,
            SegmentFlush::Interval => Flush::Interval {
                bytes: config.flush_interval_bytes,
                time: Duration::from_millis(config.flush_interval_ms),
            },
            SegmentFlush::Always => Flush::Always,
        };
        PartitionSettings {
            flush,
            segment_bytes: config.segment_bytes,
            segment_ms: config.segment_ms,
            timestamp_type: config.message_timestamp_type,
        }
    }

    fn flush(&self, topic: &Topic) -> SegmentFlush {
        let replicas = usize::try_from(topic.replication_factor).unwrap_or(1);
        // One replica has nothing to lean on, so acknowledged means synced unless told otherwise.
        flush_of(self.of(topic).flush_policy(replicas))
    }

    fn delete_delay(&self, topic: &Topic) -> Duration {
        Duration::from_millis(self.of(topic).file_delete_delay_ms)
    }
}
