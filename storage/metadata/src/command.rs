//! The commands of the metadata log, what each answers, and how each can be refused.
//!
//! Commands are stored, so they are versioned: the envelope carries [`COMMAND_FORMAT`], and unknown
//! versions, commands and fields are refused, never skipped, since a replica that skips what another
//! applies has another state. A field or variant may be added only with a new format number.

use std::collections::BTreeMap;

use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Offset, PartitionId, SegmentId, TimestampMs, TopicId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::image::{Endpoint, Route, RouteTarget, TopicOrigin};

/// The format that this build writes. Format 2 knows compacted segments
/// ([`ReplacementSegment::clean_end`]).
pub const COMMAND_FORMAT: u16 = 2;

/// The oldest format that this build reads; a later one only adds fields that may be absent.
const COMMAND_FORMAT_MIN: u16 = 1;

/// A change of the metadata. Every precondition is checked when it is applied, not when it is
/// proposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// Changes nothing. Once it is applied, everything before it in the log is.
    Barrier,
    /// Names the cluster, if it has no name yet. Answers [`Applied::ClusterId`].
    SetClusterId {
        /// 22 characters of base64url.
        cluster_id: String,
    },
    /// Starts a new life of a broker, by compare-and-set on the one before, so that a replayed
    /// command changes nothing (seal protocol R1). Active segments that it led go to `Sealing`
    /// (R5). Answers [`Applied::Registered`].
    RegisterBroker {
        /// Its id.
        broker: BrokerId,
        /// The identity of its data directory.
        directory_id: Uuid,
        /// The incarnation in the image; `None` if it never registered.
        expected: Option<Incarnation>,
        /// Where clients reach it.
        listeners: BTreeMap<String, Endpoint>,
    },
    /// Makes a topic whose partitions each have one active segment at offset 0, epoch 0. Answers
    /// [`Applied::TopicCreated`].
    CreateTopic {
        /// A fresh id.
        id: TopicId,
        /// Its name.
        name: String,
        /// Whether it is the broker's own.
        internal: bool,
        /// Who makes it.
        origin: TopicOrigin,
        /// Replicas per segment; 1 is all that can be placed today.
        replication_factor: i16,
        /// Topic configs by Kafka name.
        configs: BTreeMap<String, String>,
        /// One for each partition.
        partitions: Vec<NewSegment>,
        /// The leader of all partitions; must be registered.
        leader: BrokerId,
    },
    /// Deletes a topic, its partitions, and the route decisions that point to it. Answers
    /// [`Applied::TopicDeleted`].
    DeleteTopic {
        /// Which.
        id: TopicId,
    },
    /// Adds partitions, led by the leader of partition 0. Answers [`Applied::PartitionsCreated`].
    CreatePartitions {
        /// Which topic.
        topic: TopicId,
        /// How many partitions it has now.
        expected_count: i32,
        /// One for each new partition.
        add: Vec<NewSegment>,
    },
    /// Sets and removes topic configs. Answers [`Applied::ConfigsAltered`].
    AlterTopicConfigs {
        /// Which topic.
        topic: TopicId,
        /// What to set, by Kafka name.
        set: BTreeMap<String, String>,
        /// What to set back to its default; applied first.
        delete: Vec<String>,
    },
    /// Sets and removes cluster-wide broker configs. Answers [`Applied::ConfigsAltered`].
    AlterBrokerConfigs {
        /// What to set, by Kafka name.
        set: BTreeMap<String, String>,
        /// What to set back to its default; applied first.
        delete: Vec<String>,
    },
    /// Seals the last segment of partitions and opens the next. Each is decided by itself. Answers
    /// [`Applied::SealedAndOpened`].
    SealAndOpen {
        /// One for each partition.
        seals: Vec<SealAndOpen>,
    },
    /// Removes the oldest sealed segments from a chain. Answers [`Applied::SegmentsDeleted`].
    DeleteSegments {
        /// Which partition.
        partition: PartitionId,
        /// The first segments of the chain, in order; all sealed.
        segments: Vec<SegmentId>,
        /// The new start of the log; at least the end of the last removed segment is taken.
        log_start: Offset,
    },
    /// Moves the start of the log forward; a lower one changes nothing. Answers
    /// [`Applied::LogStartSet`].
    SetLogStart {
        /// Which partition.
        partition: PartitionId,
        /// At most the partition's high watermark, which the proposer knows.
        log_start: Offset,
    },
    /// Puts one sealed segment in the place of sealed neighbours that it was compacted from. Answers
    /// [`Applied::SegmentsReplaced`].
    ReplaceSegments {
        /// Which partition.
        partition: PartitionId,
        /// Neighbours in the chain, in order; all sealed.
        old: Vec<SegmentId>,
        /// Covers exactly the same offsets.
        new: ReplacementSegment,
    },
    /// Takes a block of producer ids. Answers [`Applied::ProducerIds`].
    AllocateProducerIds {
        /// How many; 1 to [`PRODUCER_IDS_MAX`](crate::apply::PRODUCER_IDS_MAX).
        count: i32,
    },
    /// Decides where a first level of MQTT topics goes. The first decision stands. Answers
    /// [`Applied::RouteDecided`] with the standing one.
    DecideRoute {
        /// The first level.
        level: String,
        /// The proposed target; an own topic must exist.
        target: RouteTarget,
    },
}

/// A segment that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSegment {
    /// A fresh id.
    pub id: SegmentId,
}

/// Seals the open segment of one partition and opens the next one, which begins where the sealed one
/// ends, with the next epoch. An empty segment (`end` is its base) is replaced instead of sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealAndOpen {
    /// Which partition.
    pub partition: PartitionId,
    /// The segment that the proposer seals.
    pub segment: SegmentId,
    /// The version of that segment that the proposer acted on.
    pub version: u32,
    /// Offset after its last record. If it lies below the start of the log (an unclean restart lost
    /// deleted records), all that was in the chain is deleted and the next begins at that start.
    pub end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file, if known.
    pub digest: Option<[u8; 16]>,
    /// A fresh id for the next segment.
    pub next: SegmentId,
    /// Who leads the next segment; a replica.
    pub leader: BrokerId,
    /// The current incarnation of that leader.
    pub leader_incarnation: Incarnation,
}

/// A compacted segment: what differs from the last of those that it replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplacementSegment {
    /// A fresh id.
    pub id: SegmentId,
    /// The base of the first replaced segment.
    pub base: Offset,
    /// The end of the last replaced segment.
    pub end: Offset,
    /// That of the last replaced segment. The others and their ends are remembered with the new one.
    pub epoch: LeaderEpoch,
    /// Records below it are the newest of their keys, compared with each other: where the next
    /// compaction begins to look for newer ones. At most `end`.
    #[serde(default = "nothing_clean")]
    pub clean_end: Offset,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its highest record timestamp.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of its file, if known.
    pub digest: Option<[u8; 16]>,
}

/// What a command of format 1 means, which says nothing of it.
fn nothing_clean() -> Offset {
    Offset::ZERO
}

/// What a command that was not refused answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Applied {
    /// [`Command::Barrier`].
    Barrier,
    /// [`Command::SetClusterId`].
    ClusterId {
        /// The standing name.
        cluster_id: String,
    },
    /// [`Command::RegisterBroker`].
    Registered {
        /// The broker's new incarnation.
        incarnation: Incarnation,
    },
    /// [`Command::CreateTopic`].
    TopicCreated,
    /// [`Command::DeleteTopic`].
    TopicDeleted,
    /// [`Command::CreatePartitions`].
    PartitionsCreated {
        /// How many partitions the topic has now.
        count: i32,
    },
    /// [`Command::AlterTopicConfigs`] and [`Command::AlterBrokerConfigs`].
    ConfigsAltered,
    /// [`Command::SealAndOpen`].
    SealedAndOpened {
        /// In the order of the command.
        results: Vec<Result<Opened, ApplyError>>,
    },
    /// [`Command::DeleteSegments`].
    SegmentsDeleted {
        /// The start of the log now.
        log_start: Offset,
    },
    /// [`Command::SetLogStart`].
    LogStartSet {
        /// The start of the log now.
        log_start: Offset,
    },
    /// [`Command::ReplaceSegments`].
    SegmentsReplaced,
    /// [`Command::AllocateProducerIds`]: the ids from `first` on, `count` of them.
    ProducerIds {
        /// The first id.
        first: i64,
        /// How many.
        count: i32,
    },
    /// [`Command::DecideRoute`].
    RouteDecided {
        /// The standing decision.
        route: Route,
    },
}

/// The segment that a [`SealAndOpen`] opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Which partition.
    pub partition: PartitionId,
    /// The new active segment.
    pub segment: SegmentId,
    /// Where it begins.
    pub base: Offset,
    /// Its leader epoch.
    pub epoch: LeaderEpoch,
    /// Its version.
    pub version: u32,
}

/// Why a command changed nothing. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ApplyError {
    /// A topic of that name is there.
    #[error("topic exists already, with id {id}")]
    TopicExists {
        /// Its id.
        id: TopicId,
    },
    /// A topic of that id is there.
    #[error("topic id {id} is taken")]
    TopicIdTaken {
        /// The id.
        id: TopicId,
    },
    /// Not a legal topic name: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
    #[error("not a legal topic name")]
    InvalidName,
    /// There is no such topic.
    #[error("unknown topic")]
    UnknownTopic,
    /// There is no such partition.
    #[error("unknown partition")]
    UnknownPartition,
    /// That broker never registered.
    #[error("broker {broker} is not registered")]
    UnknownBroker {
        /// Which.
        broker: BrokerId,
    },
    /// Replicas cannot be placed on as many brokers.
    #[error("{asked} replicas cannot be placed")]
    InvalidReplicationFactor {
        /// What was asked for.
        asked: i16,
    },
    /// No partition, too many, or another number of them than the proposer saw.
    #[error("partition count: now {current}, allowed up to {allowed}")]
    InvalidPartitionCount {
        /// How many the topic has; 0 for a topic that is to be made.
        current: i32,
        /// The most that a topic may have.
        allowed: i32,
    },
    /// A config's or listener's name or value is too long, empty, or there are too many.
    #[error("a name or value is empty or too long, or there are too many")]
    InvalidEntries,
    /// The broker has registered since.
    #[error("stale incarnation; now {current:?}")]
    StaleIncarnation {
        /// The current one.
        current: Option<Incarnation>,
    },
    /// Another broker has registered that data directory.
    #[error("the data directory belongs to broker {owner}")]
    DirectoryTaken {
        /// Which.
        owner: BrokerId,
    },
    /// The named segment is not the open end of the chain, or not where the command says.
    #[error("stale segment; the open one is {current:?}")]
    StaleSegment {
        /// The open one.
        current: Option<SegmentId>,
    },
    /// The segment has changed since.
    #[error("stale version; now {current}")]
    StaleVersion {
        /// The current one.
        current: u32,
    },
    /// The segment id is in use in that chain or twice in the command.
    #[error("segment id {id} is taken")]
    SegmentIdTaken {
        /// Which.
        id: SegmentId,
    },
    /// The leader is no replica of the segment.
    #[error("broker {broker} is no replica")]
    NotReplica {
        /// Which.
        broker: BrokerId,
    },
    /// An end, base or epoch contradicts the chain.
    #[error("offset or epoch contradicts the chain")]
    InvalidRange,
    /// A segment that is not sealed was named.
    #[error("segment {id} is not sealed")]
    NotSealed {
        /// Which.
        id: SegmentId,
    },
    /// Nothing, or too much, is asked for.
    #[error("invalid count")]
    InvalidCount,
    /// No more producer ids.
    #[error("producer ids are used up")]
    ProducerIdsExhausted,
    /// The first level is longer than an MQTT topic can be.
    #[error("not a legal first level")]
    InvalidLevel,
    /// So many decisions stand that no more are kept; the level goes to the overflow topic.
    #[error("too many route decisions")]
    TooManyRoutes,
    /// Not 22 characters of base64url.
    #[error("not a cluster id")]
    InvalidClusterId,
}

/// A command as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EnvelopeForm")]
pub(crate) struct Envelope {
    format: u16,
    pub(crate) command: Command,
}

/// What is read before the format is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeForm {
    format: u16,
    command: serde_json::Value,
}

/// Why a stored command cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("metadata command of format {0}; this build reads formats up to {COMMAND_FORMAT}")]
    Format(u16),
    #[error("metadata command: {0}")]
    Command(serde_json::Error),
}

// === impl Envelope ===

impl Envelope {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            format: COMMAND_FORMAT,
            command,
        }
    }
}

impl TryFrom<EnvelopeForm> for Envelope {
    type Error = EnvelopeError;

    fn try_from(form: EnvelopeForm) -> Result<Self, EnvelopeError> {
        if !(COMMAND_FORMAT_MIN..=COMMAND_FORMAT).contains(&form.format) {
            return Err(EnvelopeError::Format(form.format));
        }
        let command = serde_json::from_value(form.command).map_err(EnvelopeError::Command)?;
        Ok(Self::new(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_is_pinned() {
        let envelope = Envelope::new(Command::AllocateProducerIds { count: 5 });
        let text = serde_json::to_string(&envelope).expect("encode");
        assert_eq!(
            text,
            r#"{"format":2,"command":{"AllocateProducerIds":{"count":5}}}"#
        );
        let earlier = text.replace("\"format\":2", "\"format\":1");
        for text in [text, earlier] {
            assert_eq!(
                serde_json::from_str::<Envelope>(&text).expect("decode"),
                envelope
            );
        }
    }

    #[test]
    fn other_formats_commands_and_fields_are_refused() {
        for text in [
            r#"{"format":3,"command":"Barrier"}"#,
            r#"{"format":0,"command":"Barrier"}"#,
            r#"{"format":1,"command":"Unheard"}"#,
            r#"{"format":1,"command":{"AllocateProducerIds":{"count":5,"more":1}}}"#,
            r#"{"format":1,"command":"Barrier","more":1}"#,
        ] {
            assert!(serde_json::from_str::<Envelope>(text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<Envelope>(r#"{"format":3,"command":{"X":1}}"#)
            .expect_err("format 3");
        assert!(error.to_string().contains("format 3"), "{error}");
    }
}
