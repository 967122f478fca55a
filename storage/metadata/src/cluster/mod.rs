//! How nodes become one cluster: founding one from seeds, joining one, moving within one.
//!
//! ```text
//!  blank, no seeds ────────────────────────────> a cluster of one
//!  blank, seeds: a seed is a member ──> Join ──> follows the log (a learner, perhaps a voter later)
//!               all seeds are blank ──> the lowest id makes a promise of a cluster id and its founders,
//!                                       every founder stores it, and then the quorum is made
//! ```
//! A node stores at most one promise, before anything of Raft, and never another: so no two clusters
//! can be made that share a founder, whatever crashes or races. [`founding`] decides, [`Hub`] answers.

mod care;
mod founding;
mod hub;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::{
    care::care,
    hub::{Hub, HubOptions},
};
use crate::{
    apply::is_cluster_id,
    error::StoreError,
    raft::{NodeId, QuorumNode},
    store::{Durability, Key, Store},
    transport::Transport,
};

/// Voters that a cluster grows to by itself.
const VOTERS_WANTED: usize = 3;
/// Seeds, and so first voters, of a cluster.
const FOUNDERS_MAX: usize = 15;

/// How a node takes part in a cluster.
#[derive(Clone)]
pub struct ClusterOptions {
    /// Its connections to the others.
    pub transport: Arc<dyn Transport>,
    /// Where the first nodes of the cluster listen (`host:port`), this one perhaps among them; every
    /// node is given the same. None: this node begins as a cluster of one.
    pub seeds: Vec<String>,
    /// Where the others reach this node.
    pub address: String,
    /// The identity of its data directory.
    pub directory_id: Uuid,
    /// Whether it may vote on metadata (`process.roles`).
    pub controller: bool,
}

/// A cluster that is being made, or that a node has joined: stored before anything of Raft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    /// Grows with the form of what follows.
    format: u16,
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// Its first voters; none for a node that has joined.
    pub(crate) founders: BTreeMap<NodeId, QuorumNode>,
}

/// The form of a promise that this build writes; it reads no other.
const PROMISE_FORMAT: u16 = 1;

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    node: NodeId,
    me: QuorumNode,
    /// Sorted, without repetition.
    seeds: Vec<String>,
    standing: Standing,
}

/// What a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// Nothing: it may be a founder.
    Blank,
    /// It starts, or its cluster is being made: ask again.
    Starting,
    /// A cluster that has committed its id.
    Member { cluster_id: String },
}

/// What a founder says to a promise.
#[derive(Debug, Serialize, Deserialize)]
enum FoundAnswer {
    /// It is stored.
    Promised,
    /// Not now.
    Later(String),
    /// Never.
    Refused(String),
}

// === impl Promise ===

impl Promise {
    fn new(cluster_id: String, founders: BTreeMap<NodeId, QuorumNode>) -> Self {
        Self {
            format: PROMISE_FORMAT,
            cluster_id,
            founders,
        }
    }

    /// The stored one.
    pub(crate) fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let what = "promise to a cluster";
        let Some(bytes) = store.get(Key::Promise)? else {
            return Ok(None);
        };
        let promise: Self =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Decode { what, error })?;
        match promise.check() {
            Ok(()) => Ok(Some(promise)),
            Err(why) => Err(StoreError::Engine(format!("{what}: {why}"))),
        }
    }

    fn store(&self, store: &dyn Store) -> Result<(), StoreError> {
        let what = "promise to a cluster";
        let bytes = serde_json::to_vec(self).map_err(|error| StoreError::Decode { what, error })?;
        store.put(Key::Promise, &bytes, Durability::Synced)
    }

    /// Why it cannot be kept by this build.
    fn check(&self) -> Result<(), String> {
        if self.format != PROMISE_FORMAT {
            let found = self.format;
            return Err(format!("format {found}; this build knows {PROMISE_FORMAT}"));
        }
        if !is_cluster_id(&self.cluster_id) || self.founders.len() > FOUNDERS_MAX {
            return Err("no cluster id, or too many founders".to_owned());
        }
        Ok(())
    }

    /// The node that makes the quorum.
    pub(crate) fn founder(&self) -> Option<NodeId> {
        self.founders.first_key_value().map(|(id, _)| *id)
    }
}

// === impl ClusterOptions ===

impl ClusterOptions {
    pub(crate) fn voters_wanted(&self) -> usize {
        VOTERS_WANTED.max(self.seeds.len())
    }

    pub(crate) fn me(&self) -> QuorumNode {
        QuorumNode {
            addr: self.address.clone(),
            directory_id: self.directory_id,
            controller: self.controller,
        }
    }
}

impl std::fmt::Debug for ClusterOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterOptions")
            .field("seeds", &self.seeds)
            .field("address", &self.address)
            .field("directory_id", &self.directory_id)
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}
