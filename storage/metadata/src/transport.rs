//! How nodes of the metadata quorum reach each other: request and answer, bodies opaque.
//!
//! The binary implements [`Transport`] by its inter-node connections, tests by a network in memory.
//! Authentication, framing and the bound of a frame are the transport's; what a body says and whether
//! its sender may say it is decided in [`crate::raft`] and [`crate::cluster`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_record::BrokerId;
use uuid::Uuid;

/// Bytes of the largest body, request or answer. A transport must carry it.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Connections to the other nodes. Ordering between calls is not needed.
pub trait Transport: Send + Sync {
    /// Asks a node whose address was set by [`Self::set_addresses`].
    fn call(
        &self,
        to: BrokerId,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>>;
    /// Asks whoever listens at `address` (`host:port`).
    fn ask<'a>(
        &'a self,
        address: &'a str,
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
    /// The other side belongs to another cluster; nothing was done.
    #[error("refused: {0}")]
    OtherCluster(String),
    /// The address is this very node's.
    #[error("the address is this node's own")]
    Myself,
}
