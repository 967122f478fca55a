//! The metadata log on openraft: its types, its storage over [`crate::store`], its state machine over
//! [`crate::apply`].
//!
//! Nothing outside this folder names openraft: the service uses [`MetadataLog`](crate::log::MetadataLog).
//! openraft's tasks, timers and randomness ([`runtime`]) and its storage go through the injected
//! environment.

mod check;
mod driver;
mod election;
mod heartbeat;
mod log_store;
mod members;
mod network;
mod node;
mod runtime;
mod server;
mod state_machine;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::io::Cursor;

use openraft::{AnyError, StorageError, StorageIOError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::{
    check::check,
    members::{JoinAnswer, JoinRequest},
    network::{LinkError, Links, broker},
    node::{Begin, RaftLog, RaftOptions},
    state_machine::Published,
};
use crate::{
    command::{Applied, ApplyError, Envelope},
    error::StoreError,
};

/// A node of the metadata quorum.
pub(crate) type NodeId = u64;

/// What the quorum's membership says of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QuorumNode {
    /// Where the others reach it (`host:port`); empty: not at all.
    pub(crate) addr: String,
    /// The identity of its data directory; nil where it was never said.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    pub(crate) directory_id: Uuid,
    /// Whether it may become a voter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) controller: bool,
}

type Metrics = openraft::RaftMetrics<NodeId, QuorumNode>;
type Entry = openraft::Entry<Types>;
type LogId = openraft::LogId<NodeId>;
type Vote = openraft::Vote<NodeId>;
type SnapshotMeta = openraft::SnapshotMeta<NodeId, QuorumNode>;
type StoredMembership = openraft::StoredMembership<NodeId, QuorumNode>;
type StorageResult<T> = Result<T, StorageError<NodeId>>;

openraft::declare_raft_types!(
    /// openraft's view of us.
    pub(crate) Types:
        D = Envelope,
        R = Outcome,
        NodeId = NodeId,
        Node = QuorumNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = runtime::EnvRuntime,
);

/// What applying an entry gave; `None` for entries that are Raft's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome(pub(crate) Option<Result<Applied, ApplyError>>);

/// What the store was used for when it failed.
#[derive(Clone, Copy, Debug)]
enum Use {
    ReadLog,
    WriteLog,
    ReadVote,
    WriteVote,
    ReadSnapshot,
    WriteSnapshot,
}

impl Use {
    /// Hands a failure to openraft, which stops for good: after a failed write nobody knows what is
    /// on the disk.
    fn failed(self, error: StoreError) -> StorageError<NodeId> {
        tracing::error!(doing = ?self, %error, "metadata store failed");
        let error = AnyError::new(&error);
        let error = match self {
            Self::ReadLog => StorageIOError::read_logs(error),
            Self::WriteLog => StorageIOError::write_logs(error),
            Self::ReadVote => StorageIOError::read_vote(error),
            Self::WriteVote => StorageIOError::write_vote(error),
            Self::ReadSnapshot => StorageIOError::read_snapshot(None, error),
            Self::WriteSnapshot => StorageIOError::write_snapshot(None, error),
        };
        error.into()
    }
}

/// The stored form of openraft's values.
fn to_bytes<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Decode { what, error })
}

fn from_bytes<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Decode { what, error })
}
