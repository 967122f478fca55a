//! The whole configuration, and the keys of the node itself.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    cluster::ClusterConfig,
    kafka::{GroupConfig, KafkaConfig},
    mqtt::MqttConfig,
    storage::StorageConfig,
    table::{broker_key, section},
    topic::TopicDefaults,
    value::{Allowed, BOOLEAN, LISTEN, PATH, TEXT, int_from, ints, loopback, words},
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

words!(LogFormat { "human" => LogFormat::Human, "json" => LogFormat::Json });

section! {
    /// The configuration of one node.
    pub struct Config, at root, titled "The node" {
        /// The id of this node in its cluster; fixed for the life of a data directory.
        "node.id" => node_id: i32 = 1, Int, int_from(0);
        /// The directory that holds everything this node stores. One node per directory.
        "data.dir" => data_dir: PathBuf = PathBuf::from("./data"), String, PATH;
        /// Where Kafka clients connect.
        "kafka.listen" => kafka_listen: SocketAddr = loopback(9092), String, LISTEN;
        /// The `host:port` that Kafka clients are told to connect to; empty: the listening address.
        "kafka.advertise" => kafka_advertise: Option<String> = None, String,
            Allowed::Matching(is_advertisable, "host:port with a port from 1 to 65535, or empty");
        /// Where MQTT clients connect over TCP.
        "mqtt.listen" => mqtt_listen: SocketAddr = loopback(1883), String, LISTEN;
        /// Where MQTT clients connect over WebSocket.
        "mqtt.ws.listen" => mqtt_ws_listen: SocketAddr = loopback(8083), String, LISTEN;
        /// Where metrics, health and status are served over HTTP.
        "admin.listen" => admin_listen: SocketAddr = loopback(9404), String, LISTEN;
        /// Allows listeners that other machines can reach, although nobody is authenticated yet.
        "insecure" => insecure: bool = false, Boolean, BOOLEAN;
        /// How log lines look: for people, or one JSON object a line.
        "mainstem.log.format" => log_format: LogFormat = LogFormat::Human, String,
            Allowed::OneOf(&["human", "json"]);
        /// What is logged: a level (error, warn, info, debug, trace), also per module
        /// (`info,mainstem_log=debug`).
        "mainstem.log.level" => log_level: String = "info".to_owned(), String, TEXT;
        /// Milliseconds that connections get to finish their work when the node stops.
        "mainstem.drain.ms" => drain_ms: u64 = 10_000, Long, ints(0, 3_600_000);
    }
    also {
        /// The defaults of topic configs, for topics that do not override them.
        topic: TopicDefaults,
        /// What concerns this node as one of several.
        cluster: ClusterConfig,
        /// What concerns Kafka clients.
        kafka: KafkaConfig,
        /// What concerns consumer groups and their offsets.
        group: GroupConfig,
        /// What concerns MQTT clients.
        mqtt: MqttConfig,
        /// What concerns the segment log.
        storage: StorageConfig,
    }
}

// === impl Config ===

impl Config {
    /// The value of a broker key as text, for DescribeConfigs; `None` if there is no such key.
    pub fn value_of(&self, name: &str) -> Option<String> {
        broker_key(name).map(|key| (key.get)(self))
    }

    /// Copies the keys that are both a setting of the log and the default of a topic config.
    pub(crate) fn settle(&mut self) {
        self.topic.index_interval_bytes = self.storage.index_interval_bytes;
        self.topic.file_delete_delay_ms = self.storage.file_delete_delay_ms;
    }
}

/// Empty, or `host:port` with a port that one can connect to. IPv6 addresses are in brackets.
pub(crate) fn is_advertisable(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host_is_fine = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.chars().all(legal)
        }
    };
    host_is_fine && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The longest host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
