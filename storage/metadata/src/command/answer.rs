//! What commands answer, and how they can be refused.

use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, SegmentId, TopicId,
};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::command::{Command, SealAndOpen};
use crate::image::{Route, SegmentState};

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
    /// [`Command::SetReplicationFactor`].
    ReplicationFactorSet,
    /// [`Command::FenceBroker`], [`Command::UnfenceBroker`] and [`Command::DrainBroker`].
    BrokerChanged,
    /// [`Command::DeclareLost`] and [`Command::UnregisterBroker`].
    DeclaredLost {
        /// The broker's new incarnation, which nobody lives.
        incarnation: Incarnation,
    },
    /// [`Command::AlterIsr`] and [`Command::EvictReplicas`].
    IsrAltered {
        /// The version of each segment now, in the order of the command.
        results: Vec<Result<u32, ApplyError>>,
    },
    /// [`Command::BeginSeal`].
    SealsBegun {
        /// The version of each segment now, in the order of the command.
        results: Vec<Result<u32, ApplyError>>,
    },
    /// [`Command::SealAndOpen`], [`Command::CommitSeal`] and [`Command::UncleanRecover`].
    SealedAndOpened {
        /// In the order of the command.
        results: Vec<Result<Opened, ApplyError>>,
    },
    /// [`Command::AddComplete`], [`Command::MarkDurable`] and [`Command::RemoveComplete`].
    CopiesChanged {
        /// In the order of the command.
        results: Vec<Result<(), ApplyError>>,
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

/// The segment that a seal opened.
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
    /// No replica, too many, one twice, or another number than the topic is said to have.
    #[error("{asked} replicas cannot be placed so")]
    InvalidReplicationFactor {
        /// What was asked for.
        asked: i16,
    },
    /// A list of members or answers names a broker twice, or has too many entries.
    #[error("a list names a broker twice or is too long")]
    InvalidMembers,
    /// The broker was declared lost and has not registered since.
    #[error("broker {broker} is declared lost")]
    DeclaredLost {
        /// Which.
        broker: BrokerId,
    },
    /// The broker's session is over, so it cannot lead.
    #[error("broker {broker} is fenced")]
    Fenced {
        /// Which.
        broker: BrokerId,
    },
    /// The broker's session lives: nobody may give up its data.
    #[error("broker {broker} is alive")]
    Alive {
        /// Which.
        broker: BrokerId,
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
    /// The command is not for a segment in that state.
    #[error("the segment is {state:?}")]
    WrongState {
        /// The state.
        state: SegmentState,
    },
    /// The leader is not in the in-sync set that the command names.
    #[error("leader {leader} is not in the in-sync set")]
    LeaderNotInSync {
        /// Which.
        leader: Member,
    },
    /// The member is not in the in-sync set.
    #[error("{member} is not in sync")]
    NotInSync {
        /// Which.
        member: Member,
    },
    /// Fewer members than `min_insync` asks for.
    #[error("{have} member(s), {need} needed")]
    TooFewMembers {
        /// How many there are.
        have: usize,
        /// How many there must be.
        need: usize,
    },
    /// A broker that is said to be complete has not answered in its current incarnation with a log
    /// that reaches the end.
    #[error("{member} has not answered with all up to the end")]
    NotAnswered {
        /// Which.
        member: Member,
    },
    /// No member of ISR or ELR has certified that end.
    #[error("no eligible member has certified that end")]
    NotCertified,
    /// A member of ISR or ELR is left, so it is waited for.
    #[error("eligible member {member} is waited for")]
    StillEligible {
        /// Which.
        member: Member,
    },
    /// A broker that lost data has not answered.
    #[error("broker {broker}, which lost data, has not answered")]
    LostNotAnswered {
        /// Which.
        broker: BrokerId,
    },
    /// The digest is not that of the sealed segment.
    #[error("another digest than that of the sealed segment")]
    DigestMismatch,
    /// The member has no complete copy that metadata knows of.
    #[error("{member} is not complete")]
    NotComplete {
        /// Which.
        member: Member,
    },
    /// The segment id is in use in that chain or twice in the command.
    #[error("segment id {id} is taken")]
    SegmentIdTaken {
        /// Which.
        id: SegmentId,
    },
    /// The broker is no replica of the segment.
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

// === impl ApplyError ===

impl ApplyError {
    /// Whether the same change, conditioned on the same version, is refused for ever (seal protocol
    /// R17, R18), so that no copy of it that is still under way can be applied. Any other refusal
    /// says nothing of copies that came before or may come after.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::StaleIncarnation { .. }
                | Self::DeclaredLost { .. }
                | Self::NotReplica { .. }
                | Self::InvalidMembers
                | Self::LeaderNotInSync { .. }
        )
    }
}
