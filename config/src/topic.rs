//! The table of topic configs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use mainstem_record::TimestampType;

use crate::{
    node::Config,
    table::BrokerKey,
    value::{Allowed, BOOLEAN, ConfigKind, int_from, ints, long_from},
};

mod types;

pub use types::{CleanupPolicy, CompressionType, FlushPolicy, Isolation, MqttAccess};

/// The largest batch that may be accepted: replicas take it in one message between nodes, of 16 MiB
/// with what is around it.
pub const BATCH_BYTES_MAX: usize = (16 << 20) - 4096;

/// The broker's defaults of topic configs.
pub type TopicDefaults = TopicConfig;

/// One config of a topic.
#[derive(Debug, Clone)]
pub struct TopicKey {
    /// The name, Kafka's where Kafka has the thing.
    pub name: &'static str,
    /// The broker key that holds the default of all topics.
    pub broker_synonym: Option<&'static str>,
    /// The type that DescribeConfigs reports.
    pub kind: ConfigKind,
    /// One sentence or two, for people.
    pub doc: &'static str,
    /// The default of the product, as text.
    pub default: String,
    /// What is accepted.
    pub allowed: Allowed,
    pub(crate) set: fn(&mut TopicConfig, &str) -> Result<(), String>,
    pub(crate) get: fn(&TopicConfig) -> String,
    broker_set: fn(&mut Config, &str) -> Result<(), String>,
    broker_get: fn(&Config) -> String,
}

/// A topic config that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {value:?} for {key}: {reason}")]
pub struct InvalidValue {
    /// The key as given.
    pub key: String,
    /// The value as given.
    pub value: String,
    /// What is wrong and what is allowed.
    pub reason: String,
}

/// Declares the topic configs: the struct, its defaults and its keys.
macro_rules! topic_table {
    ($(
        $(#[doc = $doc:literal])*
        $key:literal / $synonym:expr => $field:ident: $type:ty = $default:expr, $kind:ident, $allowed:expr;
    )*) => {
        /// The configs of a topic, typed. Milliseconds and bytes as the names say.
        #[derive(Debug, Clone, PartialEq)]
        pub struct TopicConfig {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nTopic config `", $key, "`.")]
                pub $field: $type,
            )*
        }

        impl Default for TopicConfig {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        static KEYS: LazyLock<Vec<TopicKey>> = LazyLock::new(|| {
            let defaults = TopicConfig::default();
            vec![$(TopicKey {
                name: $key,
                broker_synonym: $synonym,
                kind: ConfigKind::$kind,
                doc: concat!($($doc),*).trim_ascii(),
                default: crate::value::Setting::show(&defaults.$field),
                allowed: $allowed,
                set: |config, text| crate::value::assign(&mut config.$field, text, &$allowed),
                get: |config| crate::value::Setting::show(&config.$field),
                broker_set: |config, text| {
                    crate::value::assign(&mut config.topic.$field, text, &$allowed)
                },
                broker_get: |config| crate::value::Setting::show(&config.topic.$field),
            }),*]
        });
    };
}

const NO_REMOTE: &str = "segments in object storage are not built yet";

topic_table! {
    /// What becomes of old records: `delete` removes them by age and size, `compact` keeps the last one
    /// of each key; or both.
    "cleanup.policy" / Some("log.cleanup.policy") => cleanup: CleanupPolicy = CleanupPolicy::DELETE,
        List, Allowed::Any("delete, compact or compact,delete");
    /// Milliseconds that a record is kept; -1: no limit.
    "retention.ms" / Some("log.retention.ms") => retention_ms: i64 = 604_800_000, Long, long_from(-1);
    /// Bytes that a partition keeps; -1: no limit.
    "retention.bytes" / Some("log.retention.bytes") => retention_bytes: i64 = -1, Long, long_from(-1);
    /// Bytes after which a segment is sealed and the next one begun. Kafka's default is 1 GiB; ours
    /// is 256 MiB, because a sealed segment is the unit of repair and of retention.
    "segment.bytes" / Some("log.segment.bytes") => segment_bytes: u64 = 268_435_456, Int,
        int_from(16_384);
    /// Milliseconds after which a segment is sealed although it is not full.
    "segment.ms" / Some("log.roll.ms") => segment_ms: i64 = 604_800_000, Long, long_from(1);
    /// Milliseconds, random up to this for each segment, by which that is shortened.
    "segment.jitter.ms" / Some("log.roll.jitter.ms") => segment_jitter_ms: i64 = 0, Long, long_from(0);
    /// Bytes of the largest record batch that is accepted, after compression. Replicas take a batch in
    /// one message, which bounds it.
    "max.message.bytes" / Some("message.max.bytes") => max_message_bytes: i32 = 1_048_588, Int,
        ints(0, BATCH_BYTES_MAX as i128);
    /// The compression of stored batches: `producer` keeps what the producer chose.
    "compression.type" / Some("compression.type") => compression_type: CompressionType =
        CompressionType::Producer, String,
        Allowed::Only("producer", "recompression by the broker is not built yet");
    /// Kept for tools: has no effect yet because the broker does not compress. The level of gzip;
    /// -1: gzip's default.
    "compression.gzip.level" / Some("compression.gzip.level") => compression_gzip_level: i32 = -1, Int,
        Allowed::Matching(is_gzip_level, "an integer from 1 to 9, or -1");
    /// Kept for tools: has no effect yet because the broker does not compress. The level of lz4.
    "compression.lz4.level" / Some("compression.lz4.level") => compression_lz4_level: i32 = 9, Int,
        ints(1, 17);
    /// Kept for tools: has no effect yet because the broker does not compress. The level of zstd.
    "compression.zstd.level" / Some("compression.zstd.level") => compression_zstd_level: i32 = 3, Int,
        ints(-131_072, 22);
    /// Whose clock a record's timestamp tells: the producer's (`CreateTime`) or the broker's
    /// (`LogAppendTime`).
    "message.timestamp.type" / Some("log.message.timestamp.type") => message_timestamp_type:
        TimestampType = TimestampType::CreateTime, String,
        Allowed::OneOf(&["CreateTime", "LogAppendTime"]);
    /// Milliseconds that a producer's timestamp may lie before the broker's clock.
    "message.timestamp.before.max.ms" / Some("log.message.timestamp.before.max.ms") =>
        timestamp_before_max_ms: i64 = i64::MAX, Long, long_from(0);
    /// Milliseconds that a producer's timestamp may lie after the broker's clock.
    "message.timestamp.after.max.ms" / Some("log.message.timestamp.after.max.ms") =>
        timestamp_after_max_ms: i64 = 3_600_000, Long, long_from(0);
    /// Replicas that must have a record before acks=all is answered.
    "min.insync.replicas" / Some("min.insync.replicas") => min_insync_replicas: i32 = 1, Int,
        int_from(1);
    /// Milliseconds that compaction keeps a tombstone after it has first met it.
    "delete.retention.ms" / Some("log.cleaner.delete.retention.ms") => delete_retention_ms: i64 =
        86_400_000, Long, long_from(0);
    /// The share of not yet compacted bytes above which a partition is compacted.
    "min.cleanable.dirty.ratio" / Some("log.cleaner.min.cleanable.ratio") => min_cleanable_dirty_ratio:
        f64 = 0.5, Double, Allowed::Ratio;
    /// Milliseconds that compaction leaves a record alone.
    "min.compaction.lag.ms" / Some("log.cleaner.min.compaction.lag.ms") => min_compaction_lag_ms: i64 =
        0, Long, long_from(0);
    /// Milliseconds after which a record can be compacted at the latest, however few there are; the
    /// segment that holds it is sealed by then.
    "max.compaction.lag.ms" / Some("log.cleaner.max.compaction.lag.ms") => max_compaction_lag_ms: i64 =
        i64::MAX, Long, long_from(1);
    /// Milliseconds that the files of a segment stay after it was deleted or compacted, for those who
    /// still read them.
    "file.delete.delay.ms" / Some("log.segment.delete.delay.ms") => file_delete_delay_ms: u64 = 60_000,
        Long, long_from(0);
    /// When acknowledged records are on the disk: `always` before the acknowledgement, `interval`
    /// soon after it, `os` when the operating system likes; `auto`: `always` with one replica, else
    /// `interval`.
    "mainstem.flush" / Some("mainstem.flush") => flush: Option<FlushPolicy> = None, String,
        Allowed::OneOf(&["auto", "os", "interval", "always"]);
    /// With `mainstem.flush = interval`: bytes of a partition not yet synced that start a sync.
    "mainstem.flush.interval.bytes" / Some("mainstem.flush.interval.bytes") => flush_interval_bytes:
        u64 = 1_048_576, Long, long_from(1);
    /// With `mainstem.flush = interval`: milliseconds after a write by which a sync begins.
    "mainstem.flush.interval.ms" / Some("mainstem.flush.interval.ms") => flush_interval_ms: u64 = 50,
        Long, long_from(1);
    /// Records after which a sync is forced: 1 means `mainstem.flush = always`, any other value but
    /// the default means `interval`. Records are not counted beyond that: bytes and time are.
    "flush.messages" / Some("log.flush.interval.messages") => flush_messages: i64 = i64::MAX, Long,
        long_from(1);
    /// Milliseconds after which a sync is forced: any value but the default means
    /// `mainstem.flush = interval` and, where `mainstem.flush.interval.ms` is not set beside it, that
    /// time (at least 1).
    "flush.ms" / Some("log.flush.interval.ms") => flush_ms: i64 = i64::MAX, Long, long_from(0);
    /// Kept for tools: has no effect yet because the broker's `log.index.interval.bytes` holds for
    /// all topics. Bytes of log between two entries of a segment's index.
    "index.interval.bytes" / Some("log.index.interval.bytes") => index_interval_bytes: u32 = 4096, Int,
        int_from(1024);
    /// Kept for tools; our index needs no size.
    "segment.index.bytes" / Some("log.index.size.max.bytes") => segment_index_bytes: i32 = 10_485_760,
        Int, int_from(4);
    /// Kept for tools; segments are never preallocated.
    "preallocate" / Some("log.preallocate") => preallocate: bool = false, Boolean, BOOLEAN;
    /// Kept for tools: has no effect yet because nodes cannot form a cluster. Whether a replica
    /// that may lack acknowledged records is to lead when no other is left.
    "unclean.leader.election.enable" / Some("unclean.leader.election.enable") =>
        unclean_leader_election: bool = false, Boolean, BOOLEAN;
    /// Kept for tools; replication is not throttled.
    "leader.replication.throttled.replicas" / None => leader_throttled_replicas: String =
        String::new(), List, THROTTLED;
    /// Kept for tools; replication is not throttled.
    "follower.replication.throttled.replicas" / None => follower_throttled_replicas: String =
        String::new(), List, THROTTLED;
    /// Whether sealed segments go to object storage.
    "remote.storage.enable" / None => remote_storage_enable: bool = false, Boolean,
        Allowed::Only("false", NO_REMOTE);
    /// Whether no more segments go to object storage.
    "remote.log.copy.disable" / None => remote_log_copy_disable: bool = false, Boolean,
        Allowed::Only("false", NO_REMOTE);
    /// Whether segments leave object storage when tiering is turned off.
    "remote.log.delete.on.disable" / None => remote_log_delete_on_disable: bool = false, Boolean,
        Allowed::Only("false", NO_REMOTE);
    /// Kept for tools: has no effect yet because segments in object storage are not built.
    /// Milliseconds that a tiered record is to be kept locally too; -2: as `retention.ms`.
    "local.retention.ms" / Some("log.local.retention.ms") => local_retention_ms: i64 = -2, Long,
        long_from(-2);
    /// Kept for tools: has no effect yet because segments in object storage are not built. Bytes
    /// of tiered segments that are to be kept locally too; -2: as `retention.bytes`.
    "local.retention.bytes" / Some("log.local.retention.bytes") => local_retention_bytes: i64 = -2,
        Long, long_from(-2);
    /// What MQTT clients may do with the topic; `auto`: both, but nothing with internal topics,
    /// names that begin with `_` and compacted topics.
    "mqtt.access" / Some("mqtt.access") => mqtt_access: Option<MqttAccess> = None, String,
        Allowed::OneOf(&["auto", "none", "read", "write", "both"]);
    /// Kept for tools: has no effect yet because transactions are not built. Whether MQTT
    /// subscribers are to wait for transactions to end (`read_committed`) or see their records at once
    /// (`read_uncommitted`).
    "mqtt.isolation" / Some("mqtt.isolation") => mqtt_isolation: Isolation = Isolation::ReadCommitted,
        String, Allowed::OneOf(&["read_committed", "read_uncommitted"]);
}

const THROTTLED: Allowed = Allowed::Matching(
    is_throttled_list,
    "*, or partition:broker pairs separated by commas, or nothing",
);

static BY_NAME: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    let entries = KEYS.iter().enumerate();
    entries.map(|(index, key)| (key.name, index)).collect()
});

/// Every topic config: all of Kafka 4.x and ours.
pub fn topic_keys() -> &'static [TopicKey] {
    &KEYS
}

/// The topic config of that name.
pub fn topic_key(name: &str) -> Option<&'static TopicKey> {
    BY_NAME.get(name).and_then(|index| KEYS.get(*index))
}

/// Checks the overrides of a topic, as CreateTopics and IncrementalAlterConfigs need it: every
/// unknown key and every invalid value, in the order of the keys.
pub fn validate_topic(overrides: &BTreeMap<String, String>) -> Result<(), Vec<InvalidValue>> {
    let mut scratch = TopicConfig::default();
    let mut invalid = Vec::new();
    for (key, value) in overrides {
        let result = match topic_key(key) {
            Some(known) => (known.set)(&mut scratch, value),
            None => Err("there is no such topic config".to_owned()),
        };
        if let Err(reason) = result {
            invalid.push(InvalidValue {
                key: key.clone(),
                value: value.clone(),
                reason,
            });
        }
    }
    if invalid.is_empty() && scratch.min_compaction_lag_ms > scratch.max_compaction_lag_ms {
        invalid.push(InvalidValue {
            key: "max.compaction.lag.ms".to_owned(),
            value: scratch.max_compaction_lag_ms.to_string(),
            reason: format!(
                "expected at least min.compaction.lag.ms, which is {}",
                scratch.min_compaction_lag_ms
            ),
        });
    }
    if invalid.is_empty() {
        Ok(())
    } else {
        Err(invalid)
    }
}

// === impl TopicConfig ===

impl TopicConfig {
    /// The configs of a topic: `defaults`, and what the topic overrides. Unknown keys and invalid
    /// values, which an older or newer version may have stored, leave the default.
    ///
    /// A topic that sets `flush.messages` or `flush.ms` and not `mainstem.flush` gets the policy that
    /// those mean, whatever the broker's `mainstem.flush` says; one that sets `flush.ms` and not
    /// `mainstem.flush.interval.ms` gets the interval that it means.
    pub fn resolve<'a>(
        defaults: &TopicDefaults,
        overrides: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut config = defaults.clone();
        let (mut has_policy, mut has_kafka_flush) = (false, false);
        let (mut has_interval, mut has_kafka_interval) = (false, false);
        for (name, value) in overrides {
            let set = topic_key(name).is_some_and(|key| (key.set)(&mut config, value).is_ok());
            has_policy |= set && name == "mainstem.flush";
            has_kafka_flush |= set && matches!(name, "flush.messages" | "flush.ms");
            has_interval |= set && name == "mainstem.flush.interval.ms";
            has_kafka_interval |= set && name == "flush.ms";
        }
        if has_kafka_interval && !has_interval {
            config.take_kafka_interval();
        }
        if has_kafka_flush && !has_policy {
            config.flush = config.kafka_flush();
        }
        config
    }

    /// The value of a topic config as text, for DescribeConfigs; `None` if there is no such key.
    pub fn value_of(&self, key: &str) -> Option<String> {
        topic_key(key).map(|key| (key.get)(self))
    }

    /// The flush policy of a segment with so many replicas: what is set; else what Kafka's own keys
    /// mean; else `always` for one replica, which has nothing else to lean on, and `interval` for
    /// more.
    pub fn flush_policy(&self, replicas: usize) -> FlushPolicy {
        let by_count = if replicas <= 1 {
            FlushPolicy::Always
        } else {
            FlushPolicy::Interval
        };
        self.flush
            .or_else(|| self.kafka_flush())
            .unwrap_or(by_count)
    }

    /// Takes the time of `flush.ms` as the interval, if it is not left at its default.
    pub(crate) fn take_kafka_interval(&mut self) {
        if self.flush_ms != i64::MAX {
            self.flush_interval_ms = self.flush_ms.max(1).unsigned_abs();
        }
    }

    /// What `flush.messages` and `flush.ms` mean; `None` if they are left at their defaults.
    fn kafka_flush(&self) -> Option<FlushPolicy> {
        if self.flush_messages == 1 {
            Some(FlushPolicy::Always)
        } else if self.flush_messages != i64::MAX || self.flush_ms != i64::MAX {
            Some(FlushPolicy::Interval)
        } else {
            None
        }
    }
}

/// The broker keys that hold the defaults of topic configs.
pub(crate) fn synonym_keys(defaults: &Config) -> Vec<BrokerKey> {
    let keys = KEYS.iter().filter_map(|key| {
        Some(BrokerKey {
            name: key.broker_synonym?,
            kind: key.kind,
            doc: key.doc,
            default: (key.broker_get)(defaults),
            allowed: key.allowed,
            read_only: true,
            section: "Defaults of topic configs",
            set: key.broker_set,
            get: key.broker_get,
        })
    });
    keys.collect()
}

/// -1, or from 1 to 9.
fn is_gzip_level(text: &str) -> bool {
    text.parse::<i32>()
        .is_ok_and(|level| level == -1 || (1..=9).contains(&level))
}

/// Kafka's throttled-replica list: empty, `*`, or `partition:broker` pairs.
fn is_throttled_list(text: &str) -> bool {
    let is_id = |text: &str| text.parse::<i32>().is_ok_and(|id| id >= 0);
    let is_pair = |pair: &str| {
        pair.trim()
            .split_once(':')
            .is_some_and(|(partition, broker)| is_id(partition) && is_id(broker))
    };
    text.is_empty() || text == "*" || text.split(',').all(is_pair)
}

#[cfg(test)]
mod tests;
