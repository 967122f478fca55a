//! How nodes of the metadata quorum reach each other: request and answer, bodies opaque.
//!
//! [`PeersTransport`] are the binary's connections between nodes; tests have a network in memory.
//! Authentication, framing and the bound of a frame are the transport's; what a body says and whether
//! its sender may say it is decided in [`crate::raft`] and [`crate::cluster`].

mod peers;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_record::BrokerId;
use uuid::Uuid;

pub use self::peers::PeersTransport;

/// Bytes of the largest body, request or answer. A transport must carry it.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request is for, as far as a transport cares: which of them wait behind which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Votes, what precedes them, and heartbeats.
    Vote,
    /// Entries of the log.
    Append,
    /// Chunks of snapshots: large and not urgent.
    Snapshot,
    /// Commands and reads that are forwarded to the leader.
    Propose,
    /// Who belongs to the cluster.
    Join,
}

/// Connections to the other nodes. Ordering between calls is not needed.
pub trait Transport: Send + Sync {
    /// Asks a node whose address was set by [`Self::set_addresses`].
    fn call(
        &self,
        to: BrokerId,
        purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>>;
    /// Asks whoever listens at `address` (`host:port`).
    fn ask<'a>(
        &'a self,
        address: &'a str,
        purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, CallError>>;
    /// Hands every request to `handler` from now on.
    fn serve(&self, handler: Arc<dyn Handler>);
    /// The cluster that this node belongs to, once that is known: nodes of others are refused.
    fn set_cluster_id(&self, cluster_id: &str);
    /// Where the other nodes are; replaces what was set before.
    fn set_addresses(&self, addresses: BTreeMap<BrokerId, String>);
}

/// Answers requests.
pub trait Handler: Send + Sync {
    /// The answer to `body`, or why there is none, for people.
    fn call(&self, from: PeerName, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// Who asks, as the transport has authenticated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// Its node id.
    pub node: BrokerId,
    /// The identity of its data directory.
    pub directory_id: Uuid,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The request may have been served, or may yet be.
    #[error("no answer in time, or the connection broke")]
    OutcomeUnknown,
    /// The other side said no; nothing was done.
    #[error("refused: {0}")]
    Refused(String),
    /// The two nodes do not go together: another cluster, secret or version, or the same node id
    /// twice. Nothing was done, and waiting does not help.
    #[error("{0}")]
    Never(String),
    /// The address is this very node's.
    #[error("the address is this node's own")]
    Myself,
}
