//! Keys that concern MQTT clients.

use crate::{
    table::section,
    value::{Allowed, int_from, ints, long_from, words},
};

/// The Kafka topic that holds what has no Kafka topic of its own.
pub const OVERFLOW_TOPIC: &str = "mqtt.messages";

/// What happens to a PUBLISH that is refused and came by MQTT 3, which cannot say no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V3Refusal {
    /// The connection is closed.
    Disconnect,
    /// The message is acknowledged and dropped.
    AckAndDrop,
}

words!(V3Refusal { "disconnect" => V3Refusal::Disconnect, "drop" => V3Refusal::AckAndDrop });

section! {
    /// What concerns MQTT clients.
    pub struct MqttConfig, at mqtt, titled "MQTT clients" {
        /// Milliseconds from the connection to a whole CONNECT.
        "mqtt.connect.timeout.ms" => connect_timeout_ms: u64 = 10_000, Long, ints(1, 3_600_000);
        /// Bytes of the largest packet in either direction.
        "mqtt.max.packet.size" => packet_bytes_max: usize = 2_000_000, Int, ints(1024, 268_435_455);
        /// Levels of a topic name or filter.
        "mqtt.max.topic.levels" => topic_levels_max: usize = 128, Int, ints(1, 65_535);
        /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
        "mqtt.max.subscriptions.per.packet" => subscriptions_per_packet_max: usize = 100, Int,
            ints(1, 100_000);
        /// Subscriptions of one client.
        "mqtt.max.subscriptions.per.client" => subscriptions_per_client_max: usize = 1000, Int,
            ints(1, 1_000_000);
        /// QoS 1 and 2 messages that a client may send before the first is acknowledged
        /// (MQTT 5 Receive Maximum of the server).
        "mqtt.receive.maximum" => receive_maximum: u16 = 32, Int, ints(1, 65_535);
        /// QoS 1 and 2 messages sent to a client before the first is acknowledged, whatever its own
        /// Receive Maximum allows.
        "mqtt.max.inflight" => outgoing_inflight_max: u16 = 1024, Int, ints(1, 65_535);
        /// Topic aliases that a client may set; 0: none.
        "mqtt.topic.alias.maximum" => topic_alias_maximum: u16 = 10, Int, ints(0, 65_535);
        /// The longest keep alive in seconds; an MQTT 5 client that asks for more, or for none, is
        /// given this one.
        "mqtt.max.keepalive" => keep_alive_s_max: u16 = 3600, Int, ints(1, 65_535);
        /// The longest session expiry in seconds; more is cut to this.
        "mqtt.max.session.expiry.interval" => session_expiry_s_max: u32 = 604_800, Long,
            ints(0, u32::MAX as i128);
        /// Seconds that a session of MQTT 3 without clean session is kept after its client left.
        "mqtt.persistent.client.expiration" => v3_session_expiry_s: u32 = 7200, Long,
            ints(0, u32::MAX as i128);
        /// QoS 2 messages of one client that wait for its PUBREL.
        "mqtt.max.awaiting.rel" => awaiting_rel_max: u16 = 100, Int, ints(1, 65_535);
        /// Messages that wait in memory for one online session.
        "mqtt.max.queued.messages" => queue_messages_max: usize = 1000, Int, ints(1, 10_000_000);
        /// Bytes of the messages that wait in memory for one online session.
        "mqtt.max.queued.bytes" => queue_bytes_max: usize = 8_388_608, Long, long_from(1024);
        /// Retained messages, all topics together.
        "mqtt.retained.max.messages" => retained_messages_max: usize = 1_000_000, Int, int_from(0);
        /// Bytes of the payload of a retained message.
        "mqtt.retained.max.payload.bytes" => retained_bytes_max: usize = 1_048_576, Int,
            ints(0, 268_435_455);
        /// Bytes of a will: topic, payload and properties.
        "mqtt.will.max.bytes" => will_bytes_max: usize = 262_144, Int, ints(0, 268_435_455);
        /// Connections of MQTT clients at a time, over TCP and WebSocket each; more are closed at
        /// once.
        "mqtt.max.connections" => connections_max: usize = 100_000, Int, int_from(0);
        /// Kafka topics that MQTT publishes may create; what comes after goes to `mqtt.messages`.
        "mqtt.created.topics.max" => created_topics_max: usize = 100, Int, ints(0, 100_000);
        /// `retention.ms` of a topic that an MQTT publish created; -1: no limit.
        "mqtt.created.topic.retention.ms" => created_topic_retention_ms: i64 = 86_400_000, Long,
            long_from(-1);
        /// Per cent of the disk that all topics created by MQTT publishes may take together; the
        /// oldest segments go first.
        "mqtt.created.topics.disk.percent" => created_topics_disk_percent: u8 = 20, Int, ints(1, 100);
        /// Milliseconds that a client may take nothing of what is sent to it before it is
        /// disconnected.
        "mqtt.write.stall.ms" => write_stall_ms: u64 = 30_000, Long, ints(1, 3_600_000);
        /// Partitions of `__mqtt_sessions`; fixed when it is made.
        "mqtt.sessions.partitions" => sessions_partitions: i32 = 8, Int, ints(1, 10_000);
        /// Partitions of `__mqtt_retained`; fixed when it is made.
        "mqtt.retained.partitions" => retained_partitions: i32 = 4, Int, ints(1, 10_000);
        /// Seconds between two publications of the `$SYS` topics; 0: none.
        "mqtt.sys.interval" => sys_interval_s: u64 = 10, Long, ints(0, 86_400);
        /// What happens to a message that is refused and came by MQTT 3, which cannot say no:
        /// `disconnect` closes the connection, `drop` acknowledges the message and drops it.
        "mqtt.v3.refusal" => v3_refusal: V3Refusal = V3Refusal::Disconnect, String,
            Allowed::OneOf(&["disconnect", "drop"]);
        /// Milliseconds between two checkpoints of the cursors of persistent sessions.
        "mqtt.cursor.checkpoint.ms" => cursor_checkpoint_ms: u64 = 1000, Long, ints(1, 3_600_000);
        /// Bytes of one WebSocket frame.
        "mqtt.ws.max.frame.bytes" => ws_frame_bytes_max: usize = 2_097_152, Int,
            ints(1024, 268_435_466);
    }
    also {}
}
