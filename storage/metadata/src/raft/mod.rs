//! The metadata log on openraft: its types, its storage over [`crate::store`], its state machine over
//! [`crate::apply`].
//!
//! Nothing outside this folder names openraft: the service uses [`MetadataLog`](crate::log::MetadataLog).
//! openraft's tasks, timers and randomness ([`runtime`]) and its storage go through the injected
//! environment.

mod check;
mod log_store;
mod network;
mod node;
mod runtime;
mod state_machine;

#[cfg(test)]
mod tests;

use std::io::Cursor;

use openraft::{AnyError, StorageError, StorageIOError};
use serde::{Deserialize, Serialize};

pub(crate) use self::{check::check, node::RaftLog, state_machine::Published};
use crate::{
    command::{Applied, ApplyError, Envelope},
    error::StoreError,
};

/// A node of the metadata quorum.
pub(crate) type NodeId = u64;
type Entry = openraft::Entry<Types>;
type LogId = openraft::LogId<NodeId>;
type Vote = openraft::Vote<NodeId>;
type SnapshotMeta = openraft::SnapshotMeta<NodeId, openraft::BasicNode>;
type StoredMembership = openraft::StoredMembership<NodeId, openraft::BasicNode>;
type StorageResult<T> = Result<T, StorageError<NodeId>>;

openraft::declare_raft_types!(
    /// openraft's view of us.
    pub(crate) Types:
        D = Envelope,
        R = Outcome,
        NodeId = NodeId,
        Node = openraft::BasicNode,
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
