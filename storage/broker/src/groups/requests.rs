//! What protocols ask of the group coordinator and what they are told.

use bytes::Bytes;
use mainstem_record::{LeaderEpoch, Offset, PartitionIndex};

use crate::ErrorCode;

/// JoinGroup, versions 0 to 9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The group.
    pub group: String,
    /// The id that the coordinator gave; empty at the first join.
    pub member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// Without a heartbeat for so long the member is dead. Milliseconds.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for this member. Milliseconds; below 0 = the session timeout,
    /// which is what version 0 means.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, `sr`, …: opaque to us, but fixed by the group's first member.
    pub protocol_type: String,
    /// Names of assignors in order of preference, each with opaque metadata for the leader.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether a first join must be repeated with the id that it gets (KIP-394; version 4 on).
    pub require_member_id: bool,
    /// The client's name, from the request header.
    pub client_id: String,
    /// The client's address, as people are shown it.
    pub client_host: String,
    /// Why the client joins, for the log (KIP-800).
    pub reason: Option<String>,
    /// Whether the client understands `skip_assignment` (KIP-814; version 9 on).
    pub supports_skip_assignment: bool,
}

/// The answer to [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// [`ErrorCode::None`] when the member is in the generation below.
    pub error: ErrorCode,
    /// The generation; -1 with an error.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The protocol that the members' votes selected.
    pub protocol: Option<String>,
    /// The leader's member id.
    pub leader: String,
    /// The leader must not run its assignor (KIP-814).
    pub skip_assignment: bool,
    /// The id by which the member goes on.
    pub member_id: String,
    /// All members and their metadata, for the leader only; else empty.
    pub members: Vec<JoinMember>,
}

/// One member in the leader's [`JoinAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinMember {
    /// Its member id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// Its metadata for the selected protocol.
    pub metadata: Bytes,
}

/// SyncGroup, versions 0 to 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// The group.
    pub group: String,
    /// The generation of the join answer.
    pub generation: i32,
    /// The member id of the join answer.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// The protocol type of the join answer (version 5 on), checked when there.
    pub protocol_type: Option<String>,
    /// The protocol of the join answer (version 5 on), checked when there.
    pub protocol: Option<String>,
    /// From the leader: what each member gets. Members that are not named get nothing.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to [`SyncRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncAnswer {
    /// [`ErrorCode::None`] when the assignment counts.
    pub error: ErrorCode,
    /// The group's protocol type; none with an error.
    pub protocol_type: Option<String>,
    /// The group's protocol; none with an error.
    pub protocol: Option<String>,
    /// The member's part, exactly as the leader gave it.
    pub assignment: Bytes,
}

/// One member of a LeaveGroup request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveMember {
    /// The member id; empty = whoever holds the instance id (administrators).
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Why, for the log (KIP-800).
    pub reason: Option<String>,
}

/// OffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The group. Empty is allowed, as Kafka allows it for old clients.
    pub group: String,
    /// The member's generation; -1 = a commit from outside of the group's membership.
    pub generation: i32,
    /// The member; empty with generation -1.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// What is committed.
    pub topics: Vec<CommitTopic>,
}

/// One topic of a [`CommitRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitTopic {
    /// The topic's name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<CommitPartition>,
}

/// One partition of a [`CommitTopic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition.
    pub index: PartitionIndex,
    /// The next offset to be read.
    pub offset: Offset,
    /// The epoch of the last record that was read; -1 = unknown (KIP-320).
    pub leader_epoch: LeaderEpoch,
    /// Free text of the client; none is stored as the empty text.
    pub metadata: Option<String>,
}

/// One topic of the answer to a [`CommitRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitTopicAnswer {
    /// The topic's name.
    pub name: String,
    /// What became of each partition, in the order of the request.
    pub partitions: Vec<(PartitionIndex, ErrorCode)>,
}

/// One topic of the answer to OffsetFetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetTopic {
    /// The topic's name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<OffsetPartition>,
}

/// One partition of an [`OffsetTopic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetPartition {
    /// The partition.
    pub index: PartitionIndex,
    /// The committed offset; -1 = nothing is committed, which is not an error.
    pub offset: Offset,
    /// The epoch that was committed with it; -1 = unknown.
    pub leader_epoch: LeaderEpoch,
    /// The text that was committed with it.
    pub metadata: String,
    /// Always [`ErrorCode::None`] until transactions exist.
    pub error: ErrorCode,
}

/// One topic of an OffsetDelete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOffsetsTopic {
    /// The topic's name.
    pub name: String,
    /// The partitions whose commits go.
    pub partitions: Vec<PartitionIndex>,
}

/// A group in the answer to ListGroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group: String,
    /// Its protocol type; empty for one that only holds offsets.
    pub protocol_type: String,
    /// Its state in Kafka's words: `Empty`, `PreparingRebalance`, …
    pub state: &'static str,
    /// Always `classic`.
    pub group_type: &'static str,
}

/// The answer to DescribeGroups for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Why it cannot be described; [`ErrorCode::None`] also for an unknown group.
    pub error: ErrorCode,
    /// Whether the group is known. An unknown one is shown as `Dead` below version 6 and as
    /// GROUP_ID_NOT_FOUND from there on.
    pub exists: bool,
    /// Its state in Kafka's words.
    pub state: &'static str,
    /// Its protocol type, or the empty text.
    pub protocol_type: String,
    /// The selected protocol while the group is stable, else the empty text.
    pub protocol: String,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// One member of a [`DescribedGroup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its member id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// Its client's name.
    pub client_id: String,
    /// Its client's address.
    pub client_host: String,
    /// Its metadata for the selected protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// Its assignment; empty unless the group is stable.
    pub assignment: Bytes,
}

// === impl JoinAnswer ===

impl JoinAnswer {
    /// A join that failed, or that must be repeated as `member_id`.
    pub(crate) fn refused(error: ErrorCode, member_id: impl Into<String>) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: Vec::new(),
        }
    }
}

// === impl SyncAnswer ===

impl SyncAnswer {
    /// A sync that failed.
    pub(crate) fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            protocol_type: None,
            protocol: None,
            assignment: Bytes::new(),
        }
    }
}
