//! Who is connected: one data directory per node id, one cluster, and not too many connections.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_record::BrokerId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{HandshakeError, connection::Side, handshake::Identity};

/// Connections that one node may have made here. A node needs two and one for questions; what is
/// beyond is left over from before it was last cut off, so the oldest goes.
pub const ACCEPTED_PER_NODE_MAX: usize = 8;
/// Connections of all nodes together.
pub const CONNECTIONS_MAX: usize = 1024;

/// All connections that passed their handshake, and this node's cluster.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cluster_id: String,
    nodes: BTreeMap<BrokerId, Node>,
    count: usize,
}

#[derive(Debug)]
struct Node {
    directory_id: Uuid,
    /// By the ids of connections, which grow.
    connections: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    cluster_id: String,
    side: Side,
    closing: CancellationToken,
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    admissions: Arc<Admissions>,
    node: BrokerId,
    id: u64,
    /// Cancelled when the connection should close.
    pub(crate) closing: CancellationToken,
}

// === impl Admissions ===

impl Admissions {
    pub(crate) fn cluster_id(&self) -> String {
        self.inner.lock().cluster_id.clone()
    }

    /// Sets the cluster and closes connections with nodes of others.
    pub(crate) fn set_cluster_id(&self, cluster_id: &str) {
        let mut inner = self.inner.lock();
        cluster_id.clone_into(&mut inner.cluster_id);
        for entry in inner
            .nodes
            .values()
            .flat_map(|node| node.connections.values())
        {
            if is_other(&entry.cluster_id, cluster_id) {
                entry.closing.cancel();
            }
        }
    }

    /// Lets a connection in.
    pub(crate) fn admit(
        self: &Arc<Self>,
        identity: &Identity,
        side: Side,
        id: u64,
    ) -> Result<Admission, HandshakeError> {
        let mut inner = self.inner.lock();
        // It may have become known since the handshake began.
        if is_other(&identity.cluster_id, &inner.cluster_id) {
            return Err(HandshakeError::Cluster {
                ours: inner.cluster_id.clone(),
                theirs: identity.cluster_id.clone(),
            });
        }
        if inner.count >= CONNECTIONS_MAX {
            return Err(HandshakeError::TooMany);
        }
        let node = inner.nodes.entry(identity.node).or_insert_with(|| Node {
            directory_id: identity.directory_id,
            connections: BTreeMap::new(),
        });
        if node.directory_id != identity.directory_id {
            return Err(HandshakeError::Duplicate {
                node: identity.node,
            });
        }
        let accepted = || {
            let entries = node.connections.values();
            entries.filter(|entry| entry.side == Side::Accepted && !entry.closing.is_cancelled())
        };
        if side == Side::Accepted
            && accepted().count() >= ACCEPTED_PER_NODE_MAX
            && let Some(oldest) = accepted().next()
        {
            oldest.closing.cancel();
        }
        let closing = CancellationToken::new();
        let entry = Entry {
            cluster_id: identity.cluster_id.clone(),
            side,
            closing: closing.clone(),
        };
        node.connections.insert(id, entry);
        inner.count += 1;
        Ok(Admission {
            admissions: Arc::clone(self),
            node: identity.node,
            id,
            closing,
        })
    }

    /// Closes all.
    pub(crate) fn close(&self) {
        let inner = self.inner.lock();
        for entry in inner
            .nodes
            .values()
            .flat_map(|node| node.connections.values())
        {
            entry.closing.cancel();
        }
    }
}

/// Whether both know their cluster, and it is not the same.
fn is_other(one: &str, other: &str) -> bool {
    !one.is_empty() && !other.is_empty() && one != other
}

// === impl Admission ===

impl Admission {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inner = self.admissions.inner.lock();
        let Some(node) = inner.nodes.get_mut(&self.node) else {
            return;
        };
        let is_gone = node.connections.remove(&self.id).is_some();
        if node.connections.is_empty() {
            inner.nodes.remove(&self.node);
        }
        inner.count -= usize::from(is_gone);
    }
}
