//! Keys that concern Kafka clients and consumer groups.

use crate::{
    table::section,
    value::{Allowed, BOOLEAN, int_from, ints, long_from},
};

pub use group::GroupConfig;

fn is_factor(text: &str) -> bool {
    text.parse::<i16>()
        .is_ok_and(|factor| factor == -1 || factor >= 1)
}

section! {
    /// What concerns Kafka clients.
    pub struct KafkaConfig, at kafka, titled "Kafka clients" {
        /// Partitions of a topic that is made without saying how many.
        "num.partitions" => num_partitions: i32 = 1, Int, ints(1, 10_000);
        /// Whether a topic that a client asks for and that is not there is made.
        "auto.create.topics.enable" => auto_create_topics: bool = true, Boolean, BOOLEAN;
        /// Replicas of a topic that is made without saying how many; -1: as many as there are
        /// brokers, up to 3.
        "default.replication.factor" => default_replication_factor: i16 = -1, Int,
            Allowed::Matching(is_factor, "-1, or from 1 to 32767");
        /// Bytes of the largest request; a larger one closes its connection before anything is
        /// allocated.
        "socket.request.max.bytes" => request_bytes_max: usize = 104_857_600, Int, int_from(1024);
        /// Connections of Kafka clients at a time; more are closed at once.
        "max.connections" => connections_max: usize = 10_000, Int, int_from(0);
        /// Milliseconds without a request after which a connection is closed.
        "connections.max.idle.ms" => connections_idle_ms: u64 = 600_000, Long, long_from(1);
        /// Bytes of records in one fetch response at most, whatever the client asks for.
        "fetch.max.bytes" => fetch_bytes_max: i32 = 57_671_680, Int, int_from(1024);
        /// Incremental fetch sessions kept at a time; clients without one send whole requests.
        "max.incremental.fetch.session.cache.slots" => fetch_sessions_max: usize = 1000, Int,
            int_from(0);
        /// Whether DeleteTopics is allowed.
        "delete.topic.enable" => delete_topic_enable: bool = true, Boolean, BOOLEAN;
        /// Bytes of all requests being worked on; when they are used up, connections are not read.
        "queued.max.request.bytes" => inflight_bytes_max: usize = 268_435_456, Long,
            long_from(1_048_576);
        /// Milliseconds after which the sequence state of an idle producer is forgotten.
        "producer.id.expiration.ms" => producer_id_expiration_ms: i64 = 86_400_000, Int, int_from(1);
    }
    also {}
}

/// Keys of consumer groups.
pub(crate) mod group {
    use super::{int_from, ints, long_from, section};

    section! {
        /// What concerns consumer groups and their offsets.
        pub struct GroupConfig, at group, titled "Consumer groups" {
            /// Milliseconds that the first rebalance of an empty group waits for more members.
            "group.initial.rebalance.delay.ms" => initial_rebalance_delay_ms: u64 = 3000, Int,
                int_from(0);
            /// The shortest session timeout, in milliseconds, that a member may ask for.
            "group.min.session.timeout.ms" => session_timeout_ms_min: i32 = 6000, Int, int_from(1);
            /// The longest session timeout, in milliseconds, that a member may ask for.
            "group.max.session.timeout.ms" => session_timeout_ms_max: i32 = 1_800_000, Int,
                int_from(1);
            /// Members of one group at most.
            "group.max.size" => size_max: usize = i32::MAX as usize, Int, int_from(1);
            /// Partitions of `__consumer_offsets`; fixed when it is made. Kafka's default is 50.
            "offsets.topic.num.partitions" => offsets_partitions: i32 = 16, Int, ints(1, 10_000);
            /// Minutes that the offsets of a group without members are kept.
            "offsets.retention.minutes" => offsets_retention_minutes: i64 = 10_080, Int, int_from(1);
            /// Bytes of the metadata that a client may attach to a committed offset.
            "offset.metadata.max.bytes" => offset_metadata_bytes_max: usize = 4096, Int, int_from(0);
            /// Milliseconds between two looks for expired offsets.
            "offsets.retention.check.interval.ms" => offsets_retention_check_ms: u64 = 600_000, Long,
                long_from(1);
        }
        also {}
    }
}
