//! The types of topic configs that are no numbers.

use mainstem_record::TimestampType;
use serde::{Deserialize, Serialize};

use crate::value::{Setting, words};

/// What retention does with old records. At least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CleanupPolicy {
    /// Segments go by age and size.
    pub delete: bool,
    /// Only the last record of each key stays.
    pub compact: bool,
}

/// The compression of stored batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CompressionType {
    /// What the producer chose.
    Producer,
}

/// When acknowledged records are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FlushPolicy {
    /// When the operating system likes: durable by replication only.
    Os,
    /// Some bytes or milliseconds later, whichever comes first (`mainstem.flush.interval.bytes`,
    /// `mainstem.flush.interval.ms`).
    Interval,
    /// Before the acknowledgement; one sync serves all that wait for it.
    Always,
}

/// What MQTT clients may do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MqttAccess {
    /// Nothing, as if the topic did not exist.
    None,
    /// Subscribe only.
    Read,
    /// Publish only.
    Write,
    /// Subscribe and publish.
    Both,
}

/// Which records MQTT subscribers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// Those below the last stable offset, without aborted ones.
    ReadCommitted,
    /// All below the high watermark.
    ReadUncommitted,
}

words!(CompressionType { "producer" => CompressionType::Producer });
words!(Option<FlushPolicy> {
    "auto" => None,
    "os" => Some(FlushPolicy::Os),
    "interval" => Some(FlushPolicy::Interval),
    "always" => Some(FlushPolicy::Always),
});
words!(Option<MqttAccess> {
    "auto" => None,
    "none" => Some(MqttAccess::None),
    "read" => Some(MqttAccess::Read),
    "write" => Some(MqttAccess::Write),
    "both" => Some(MqttAccess::Both),
});
words!(Isolation {
    "read_committed" => Isolation::ReadCommitted,
    "read_uncommitted" => Isolation::ReadUncommitted,
});
words!(TimestampType {
    "CreateTime" => TimestampType::CreateTime,
    "LogAppendTime" => TimestampType::LogAppendTime,
});

// === impl CleanupPolicy ===

impl CleanupPolicy {
    /// By age and size.
    pub const DELETE: Self = Self {
        delete: true,
        compact: false,
    };
    /// To the last record of each key.
    pub const COMPACT: Self = Self {
        delete: false,
        compact: true,
    };
}

impl Setting for CleanupPolicy {
    fn parse(text: &str) -> Option<Self> {
        let mut policy = Self {
            delete: false,
            compact: false,
        };
        for word in text.split(',') {
            match word.trim() {
                "delete" => policy.delete = true,
                "compact" => policy.compact = true,
                _ => return None,
            }
        }
        Some(policy)
    }

    fn show(&self) -> String {
        match (self.compact, self.delete) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, _) => "delete",
        }
        .to_owned()
    }
}

// === impl FlushPolicy ===

impl FlushPolicy {
    /// The word for it in configuration and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Interval => "interval",
            Self::Always => "always",
        }
    }
}

// === impl MqttAccess ===

impl MqttAccess {
    /// Whether MQTT clients get records of the topic.
    pub fn allows_read(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether MQTT clients may publish into the topic.
    pub fn allows_write(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}
