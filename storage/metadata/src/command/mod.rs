//! The commands of the metadata log, what each answers, and how each can be refused.
//!
//! Commands are stored, so they are versioned: the envelope carries [`COMMAND_FORMAT`], and unknown
//! versions, commands and fields are refused, never skipped, since a replica that skips what another
//! applies has another state. A field or variant may be added only with a new format number.

mod answer;
mod segments;
mod stored;

use std::collections::BTreeMap;

use mainstem_record::{BrokerId, Incarnation, Member, Offset, PartitionId, SegmentId, TopicId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::stored::Envelope;
pub use self::{
    answer::{Applied, ApplyError, Opened},
    segments::{
        AlterIsr, Answer, BeginSeal, CommitSeal, EvictReplica, NewSegment, NextSegment, RemoveCopy,
        ReplacementSegment, SealAndOpen, SealAndOpenSingle, SealReason, SegmentCopy,
    },
};
use crate::image::{Endpoint, Roles, RouteTarget, TopicOrigin};

/// The format that this build writes. Format 2 knows compacted segments
/// ([`ReplacementSegment::clean_end`]), format 3 replicas.
pub const COMMAND_FORMAT: u16 = 3;

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
    /// command changes nothing (seal protocol R1); the same request again is answered again. What
    /// the broker is in sync, eligible or complete with moves to the new life as far as the data is
    /// proven to be there (R3, R4). Active segments that it led go to `Sealing` (R5). Answers
    /// [`Applied::Registered`].
    RegisterBroker {
        /// Its id.
        broker: BrokerId,
        /// The identity of its data directory.
        directory_id: Uuid,
        /// The incarnation in the image; `None` if it never registered.
        expected: Option<Incarnation>,
        /// Where clients reach it.
        listeners: BTreeMap<String, Endpoint>,
        /// Where other nodes reach it, as `host:port`.
        #[serde(default)]
        peer: Option<String>,
        /// What it takes part in.
        #[serde(default)]
        roles: Roles,
        /// The life whose every acknowledged record is proven to be there (R2): the expected one, or
        /// the proof counts for nothing.
        #[serde(default)]
        intact: Option<Incarnation>,
        /// The life that the data directory last registered under, synced before that life
        /// acknowledged anything. If it is the expected one, what was synced is there (R2, `always`).
        #[serde(default)]
        directory_life: Option<Incarnation>,
        /// The id of this request; nil only in commands of formats 1 and 2.
        #[serde(default)]
        request: Uuid,
    },
    /// A broker's session is over: it is fenced, evicted from the in-sync sets of active segments
    /// (R19, R20), and active segments that it leads go to `Sealing` (R21). Again: does the same
    /// to what has come up since. Answers [`Applied::BrokerChanged`].
    FenceBroker {
        /// Which life of it.
        member: Member,
    },
    /// A fenced broker lives again, with the same incarnation. Answers [`Applied::BrokerChanged`].
    UnfenceBroker {
        /// Which life of it.
        member: Member,
    },
    /// A broker is about to stop: nothing new is placed on it. Ends with its next registration.
    /// Answers [`Applied::BrokerChanged`].
    DrainBroker {
        /// Which life of it.
        member: Member,
    },
    /// Gives up the data of a broker that is away (R38): all its entries go and it is not waited
    /// for. Refused while it is not fenced. Answers [`Applied::DeclaredLost`].
    DeclareLost {
        /// Which life of it.
        member: Member,
    },
    /// As [`Command::DeclareLost`]; clients and nodes are no longer told of it either. Answers
    /// [`Applied::DeclaredLost`].
    UnregisterBroker {
        /// Which life of it.
        member: Member,
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
        /// Replicas per segment.
        replication_factor: i16,
        /// Topic configs by Kafka name.
        configs: BTreeMap<String, String>,
        /// One for each partition.
        partitions: Vec<NewSegment>,
        /// The leader, and only replica, of partitions that name no replicas; must be registered.
        leader: BrokerId,
    },
    /// Deletes a topic, its partitions, and the route decisions that point to it. Answers
    /// [`Applied::TopicDeleted`].
    DeleteTopic {
        /// Which.
        id: TopicId,
    },
    /// Adds partitions; those that name no replicas are on the leader of partition 0. Answers [`Applied::PartitionsCreated`].
    CreatePartitions {
        /// Which topic.
        topic: TopicId,
        /// How many partitions it has now.
        expected_count: i32,
        /// One for each new partition.
        add: Vec<NewSegment>,
    },
    /// Sets and removes topic configs. A new `min.insync.replicas` holds for open segments at once
    /// (R13). Answers [`Applied::ConfigsAltered`].
    AlterTopicConfigs {
        /// Which topic.
        topic: TopicId,
        /// What to set, by Kafka name.
        set: BTreeMap<String, String>,
        /// What to set back to its default; applied first.
        delete: Vec<String>,
    },
    /// Sets and removes cluster-wide broker configs; as [`Command::AlterTopicConfigs`]. Answers [`Applied::ConfigsAltered`].
    AlterBrokerConfigs {
        /// What to set, by Kafka name.
        set: BTreeMap<String, String>,
        /// What to set back to its default; applied first.
        delete: Vec<String>,
    },
    /// Changes how many replicas the segments of a topic are meant to have: those that are opened from
    /// now on. Answers [`Applied::ReplicationFactorSet`].
    SetReplicationFactor {
        /// Which topic.
        topic: TopicId,
        /// How many it has now.
        expected: i16,
        /// How many it is to have.
        replication_factor: i16,
    },
    /// Leaders change in-sync sets (R15, R19). Each is decided by itself. Answers
    /// [`Applied::IsrAltered`].
    AlterIsr {
        /// One for each partition.
        changes: Vec<AlterIsr>,
    },
    /// The controller drops followers from in-sync sets (R20). Each is decided by itself. Answers
    /// [`Applied::IsrAltered`].
    EvictReplicas {
        /// One for each partition.
        evictions: Vec<EvictReplica>,
    },
    /// `Active` → `Sealing` (R21). There is no way back. Each is decided by itself. Answers
    /// [`Applied::SealsBegun`].
    BeginSeal {
        /// One for each partition.
        seals: Vec<BeginSeal>,
        /// Why.
        reason: SealReason,
    },
    /// Ends `Sealing` and opens the next segment (R26, R27). Each is decided by itself. Answers
    /// [`Applied::SealedAndOpened`].
    CommitSeal {
        /// One for each partition.
        commits: Vec<CommitSeal>,
    },
    /// The leader seals its active segment, which has everything, and opens the next (R28, R29).
    /// Each is decided by itself. Answers [`Applied::SealedAndOpened`].
    SealAndOpen {
        /// One for each partition.
        seals: Vec<SealAndOpen>,
    },
    /// Ends `Sealing` when nobody is left who may say where (R36, R37): what is left is kept, and the
    /// next segment begins above every offset that this one can have used. Each is decided by
    /// itself. Answers [`Applied::SealedAndOpened`].
    UncleanRecover {
        /// One for each partition.
        recoveries: Vec<CommitSeal>,
    },
    /// What [`Command::SealAndOpen`] was in formats 1 and 2: one replica, which decides by itself,
    /// also for a segment that is `Sealing`. Read, never proposed. Answers
    /// [`Applied::SealedAndOpened`].
    SealAndOpenSingle {
        /// One for each partition.
        seals: Vec<SealAndOpenSingle>,
    },
    /// Brokers have verified whole copies of sealed segments (R34). Each is decided by itself.
    /// Answers [`Applied::CopiesChanged`].
    AddComplete {
        /// One for each copy.
        copies: Vec<SegmentCopy>,
    },
    /// Complete copies are synced (R32). Each is decided by itself. Answers
    /// [`Applied::CopiesChanged`].
    MarkDurable {
        /// One for each copy.
        copies: Vec<SegmentCopy>,
    },
    /// Copies are no longer there, or not to be read (R35). Each is decided by itself. Answers
    /// [`Applied::CopiesChanged`].
    RemoveComplete {
        /// One for each copy.
        copies: Vec<RemoveCopy>,
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
