//! Typed configuration of a node, and the table of topic configs.
//!
//! Concepts:
//! - A **broker key** ([`BrokerKey`]) is one setting of the process: a dotted name, a type, a
//!   default, what is allowed and one sentence of documentation. Kafka's name where Kafka has the
//!   thing, ours begin with `mqtt.`, `kafka.` or `mainstem.`.
//! - A **topic key** ([`TopicKey`]) is one config of a topic. Most have a broker synonym, the broker
//!   key that holds the default of all topics.
//! - Each key is written once, in the tables of `node.rs`, `cluster.rs`, `kafka.rs`, `mqtt.rs`, `storage.rs` and
//!   `topic.rs`. The structs, their defaults, the parsing, the answers to DescribeConfigs and the
//!   reference file `config/mainstem.toml` all come from there and cannot disagree.
//! - **Layers**: defaults, then the file (TOML; a table is a dot), then the environment
//!   (`MAINSTEM_` + upper case, `_` for dots and dashes), then the command line. [`load`] reports
//!   every unknown key and every invalid value at once, each with its place.
//!
//! No behaviour may live here: nothing that listens, stores or decides at run time, and no I/O
//! except the reading of the file ([`load_file`]) and of the environment ([`process_env`]).

mod check;
mod cluster;
mod error;
mod file;
mod kafka;
mod load;
mod mqtt;
mod node;
mod reference;
mod storage;
mod table;
mod topic;
mod value;

pub use cluster::{ClusterConfig, ClusterSecret, ProcessRoles};
pub use error::{ConfigError, ConfigErrors, Place, Problem};
pub use kafka::{GroupConfig, KafkaConfig};
pub use load::{ENV_PREFIX, FILE_BYTES_MAX, FileSource, Sources, load, load_file, process_env};
pub use mainstem_record::TimestampType;
pub use mqtt::{MqttConfig, OVERFLOW_TOPIC, V3Refusal};
pub use node::{Config, LogFormat};
pub use reference::reference_toml;
pub use storage::StorageConfig;
pub use table::{BrokerKey, broker_key, broker_keys};
pub use topic::{
    BATCH_BYTES_MAX, CleanupPolicy, CompressionType, FlushPolicy, InvalidValue, Isolation,
    MqttAccess, TopicConfig, TopicDefaults, TopicKey, topic_key, topic_keys, validate_topic,
};
pub use value::{Allowed, ConfigKind};
