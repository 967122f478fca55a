//! What every part of the broker stands on: the environment, the configuration, metadata, the log
//! and the partitions that are open here.
//!
//! Nothing about a protocol, a group or a session lives here.

mod leading;
mod roll;
mod seal;
mod startup;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use dashmap::DashMap;
use mainstem_config::{CleanupPolicy, Config, FlushPolicy, TopicConfig};
use mainstem_env::Env;
use mainstem_log::{
    Commit, Flush, Log, LogEvent, PartitionSettings, PartitionSpec, Role, SegmentSpec,
};
use mainstem_metadata::{
    Image, Life, Metadata, MetadataError, PartitionRecord, SegmentFlush, SegmentRecord, Topic,
};
use mainstem_record::{BrokerId, Incarnation, PartitionId, PartitionIndex, SegmentId, TopicId};
use parking_lot::RwLock;
use tokio::sync::{Mutex, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use self::leading::leads_since;
use self::roll::Rolling;
use crate::{error_code::ErrorCode, offsets::ProducerIds};

/// How many partitions are opened or sealed at once at start.
pub(crate) const PARTITIONS_AT_ONCE: usize = 16;

/// How many failed partitions and damaged segments are named where people look.
const DEGRADED_MAX: usize = 100;

/// What a broker is started with.
pub struct BrokerDeps {
    /// The outside world.
    pub env: Env,
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The metadata service, started.
    pub metadata: Metadata,
    /// The segment log, started, no partition open.
    pub log: Log,
    /// What the log tells its owner.
    pub log_events: mpsc::Receiver<LogEvent>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// Host and port that Kafka clients are told to connect to.
    pub advertise: (String, u16),
    /// The identity of the data directory.
    pub directory_id: Uuid,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The metadata service refused or is not available.
    #[error("metadata: {0}")]
    Metadata(#[from] mainstem_metadata::ProposeError),
    /// What the data directory says of the last life cannot be read or written.
    #[error("life: {0}")]
    Life(#[from] MetadataError),
    /// The log could not be opened.
    #[error("log: {0}")]
    Log(#[from] mainstem_log::LogError),
    /// An internal topic could not be read back.
    #[error("internal topic {topic}, partition {partition}: {reason}")]
    Replay {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// What went wrong, for people.
        reason: String,
    },
    /// Segments of an internal topic are on other nodes and not here yet.
    #[error("internal topic {topic}, partition {partition}: not all here yet")]
    NotHeld {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
    },
    /// A partition that the coordinators need refuses to work.
    #[error("internal topic {topic}: {code}")]
    Internal {
        /// The topic's name.
        topic: String,
        /// Why.
        code: ErrorCode,
    },
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl BrokerError {
    /// Whether it may go by itself.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::NotHeld { .. })
    }
}

/// What the parts of the broker share.
pub struct Core {
    pub(crate) env: Env,
    pub(crate) config: Arc<Config>,
    pub(crate) metadata: Metadata,
    pub(crate) log: Log,
    pub(crate) registry: prometheus::Registry,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) incarnation: Incarnation,
    /// What the data directory says of this and the last life.
    pub(crate) life: Life,
    /// Seals that may have lost records.
    unclean_recoveries: prometheus::IntCounter,
    /// Partitions that are damaged or could not be opened, with the reason.
    failed: RwLock<HashMap<PartitionId, String>>,
    /// Resolved configs by topic, with the version of the metadata that they come from.
    topic_configs: DashMap<TopicId, (u64, Arc<TopicConfig>)>,
    /// Producer ids that this node may give out.
    pub(crate) producer_ids: Mutex<ProducerIds>,
    /// Held while the set of topics and partitions changes, so that metadata and open partitions
    /// change together.
    pub(crate) topics_change: Mutex<()>,
    /// Who seals what.
    pub(super) rolling: Rolling,
}

/// A policy as metadata records it.
pub(crate) fn flush_of(policy: FlushPolicy) -> SegmentFlush {
    match policy {
        FlushPolicy::Os => SegmentFlush::Os,
        FlushPolicy::Interval => SegmentFlush::Interval,
        FlushPolicy::Always => SegmentFlush::Always,
    }
}

/// What the log is told of a segment.
pub(crate) fn segment_spec(segment: &SegmentRecord) -> SegmentSpec {
    let is_compacted = segment.compaction.is_some();
    SegmentSpec {
        id: segment.id,
        base: segment.base,
        epoch: segment.epoch,
        end: segment.end,
        compacted_from: is_compacted.then(|| segment.first_epoch()),
        held: true,
    }
}

// === impl Core ===

impl Core {
    /// The present metadata.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.metadata.image()
    }

    /// This node.
    pub(crate) fn node_id(&self) -> BrokerId {
        BrokerId(self.config.node_id)
    }

    /// A topic's configs over the broker's defaults. Resolved once per version of the metadata,
    /// since every produce asks.
    pub(crate) fn topic_config(&self, topic: &Topic) -> Arc<TopicConfig> {
        let image = self.image();
        let version = image.version;
        if let Some(cached) = self.topic_configs.get(&topic.id) {
            let (at, config) = cached.value();
            if *at == version {
                return config.clone();
            }
        }
        let config = Arc::new(self.resolve_topic_config(topic));
        // A caller with an older image must not leave an older config under a newer version.
        let newest = image.topic_by_id(topic.id);
        if newest.is_some_and(|newest| std::ptr::eq(&**newest, topic)) {
            self.topic_configs
                .insert(topic.id, (version, config.clone()));
        }
        config
    }

    fn resolve_topic_config(&self, topic: &Topic) -> TopicConfig {
        let overrides = topic
            .configs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let mut config = TopicConfig::resolve(&self.topic_defaults(), overrides);
        if topic.internal && !topic.configs.contains_key("cleanup.policy") {
            config.cleanup = CleanupPolicy {
                delete: false,
                compact: true,
            };
        }
        config
    }

    /// The defaults of topic configs: the file's, with what was changed at run time over it.
    pub(crate) fn topic_defaults(&self) -> TopicConfig {
        let image = self.image();
        let overrides = image.broker_configs.iter().filter_map(|(name, value)| {
            let key = mainstem_config::topic_keys()
                .iter()
                .find(|key| key.broker_synonym == Some(name.as_str()))?;
            Some((key.name, value.as_str()))
        });
        let changed: Vec<(&str, &str)> = overrides.collect();
        TopicConfig::resolve(&self.config.topic, changed.into_iter())
    }

    /// The flush policy of the segments of a topic that are opened from now on.
    pub(crate) fn configured_flush(&self, topic: &Topic) -> SegmentFlush {
        let replicas = usize::try_from(topic.replication_factor).unwrap_or(1);
        // One replica has nothing to lean on, so acknowledged means synced unless told otherwise.
        flush_of(self.topic_config(topic).flush_policy(replicas))
    }

    /// As [`Core::configured_flush`], of a topic that may be gone.
    fn segment_flush(&self, image: &Image, topic: TopicId) -> SegmentFlush {
        let topic = image.topic_by_id(topic);
        topic.map_or(SegmentFlush::Os, |topic| self.configured_flush(topic))
    }

    /// What the log needs to know of a topic's configs.
    pub(crate) fn partition_settings(
        &self,
        topic: &Topic,
        index: PartitionIndex,
    ) -> PartitionSettings {
        let config = self.topic_config(topic);
        let record = usize::try_from(index.0)
            .ok()
            .and_then(|index| topic.partitions.get(index));
        let active = record.and_then(|record| record.active());
        // What metadata says of a segment holds for its whole life; a stricter config holds at once.
        let flush = active.map_or(SegmentFlush::Os, |active| active.flush);
        let flush = match flush.max(self.configured_flush(topic)) {
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

    /// Starts a task that [`Core::close`] waits for.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.env.spawn(name, self.tasks.track_future(future));
    }

    /// A new segment's id.
    pub(crate) fn new_segment_id(&self) -> SegmentId {
        SegmentId(Uuid::from_bytes(self.env.random_uuid()))
    }

    /// Opens one partition of a topic, or marks it failed: damage in one partition never stops the
    /// rest.
    pub(crate) async fn open_partition(&self, topic: &Topic, index: PartitionIndex) {
        let id = PartitionId {
            topic: topic.id,
            index,
        };
        let Some(record) = usize::try_from(index.0)
            .ok()
            .and_then(|i| topic.partitions.get(i))
        else {
            return;
        };
        let spec = self.partition_spec(topic, id, record);
        match self.log.open_partition(spec).await {
            Ok(partition) => partition.delete_files_after(self.delete_delay(topic)),
            Err(error) => {
                let topic = &topic.name;
                tracing::error!(%topic, partition = index.0, %error, "partition failed");
                self.mark_failed(id, error.to_string());
            }
        }
    }

    /// How long the files of a topic's segments stay that are gone.
    pub(crate) fn delete_delay(&self, topic: &Topic) -> Duration {
        Duration::from_millis(self.topic_config(topic).file_delete_delay_ms)
    }

    fn partition_spec(
        &self,
        topic: &Topic,
        id: PartitionId,
        record: &PartitionRecord,
    ) -> PartitionSpec {
        let segments = record.segments.iter().map(segment_spec);
        PartitionSpec {
            id,
            log_start: record.log_start,
            segments: segments.collect(),
            settings: self.partition_settings(topic, id.index),
            role: Role::Leader(Commit::Own),
        }
    }

    /// Remembers that a partition does not work and why.
    pub(crate) fn mark_failed(&self, id: PartitionId, reason: String) {
        self.failed.write().insert(id, reason);
    }

    /// Forgets a partition that is gone.
    pub(crate) fn forget_failed(&self, id: PartitionId) {
        self.topic_configs.remove(&id.topic);
        self.failed.write().remove(&id);
    }

    pub(crate) fn has_failed(&self, id: PartitionId) -> bool {
        self.failed.read().contains_key(&id)
    }

    /// Those that have failed, in the order of their ids.
    pub(super) fn failed_ids(&self) -> Vec<PartitionId> {
        let mut failed: Vec<PartitionId> = self.failed.read().keys().copied().collect();
        failed.sort_unstable();
        failed
    }

    /// How many partitions have failed.
    pub(crate) fn failed_count(&self) -> usize {
        self.failed.read().len()
    }

    /// Why the node is not ready.
    pub(crate) fn readiness(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.metadata.leader().is_none() {
            reasons.push("metadata: no leader".to_owned());
        }
        for shard in self.log.health() {
            if let Some(failure) = shard.failure {
                reasons.push(format!("log shard {}: {failure}", shard.shard));
            }
        }
        if self.stop.is_cancelled() {
            reasons.push("stopping".to_owned());
        }
        reasons
    }

    /// What does not work while the rest serves: partitions that have failed, with the reason, and
    /// segments known to be lost or damaged; the first [`DEGRADED_MAX`] of them.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let image = self.image();
        let failed = self.failed.read();
        let mut all: Vec<String> = failed
            .iter()
            .map(|(id, reason)| match image.topic_by_id(id.topic) {
                Some(topic) => format!("partition {}-{}: {reason}", topic.name, id.index.0),
                None => format!("partition {id}: {reason}"),
            })
            .collect();
        all.sort();
        let damages = self.log.damages().into_iter();
        all.extend(
            damages.map(|damage| match image.topic_by_id(damage.partition.topic) {
                Some(topic) => format!(
                    "partition {}-{}: {damage}",
                    topic.name, damage.partition.index.0
                ),
                None => format!("partition {}: {damage}", damage.partition),
            }),
        );
        all.truncate(DEGRADED_MAX);
        all
    }

    /// Stops the background tasks and waits for them, at most `limit`.
    pub(crate) async fn close(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if self.env.timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "background tasks did not end in time"
            );
        }
    }
}

/// Whether a topic of this name can be: Kafka's rule (`[A-Za-z0-9._-]{1,249}`, not `.` or `..`).
pub(crate) fn is_legal_topic_name(name: &str) -> bool {
    /// Kafka's limit: the name and a partition number must fit into a file name.
    const NAME_BYTES_MAX: usize = 249;
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
