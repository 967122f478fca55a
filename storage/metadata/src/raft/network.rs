//! openraft's network over our transport.

use std::{sync::Arc, time::Duration};

use mainstem_record::BrokerId;
use openraft::{
    AsyncRuntime, RaftNetwork, RaftNetworkFactory,
    error::{
        InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, RemoteError,
    },
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    NodeId, QuorumNode, SnapshotMeta, Types, Vote,
    runtime::EnvRuntime,
    wire::{self, Kind, WireError},
};
use crate::transport::{CallError, Transport};

/// How long a snapshot's chunk may take: it is written to disk on the other side.
pub(super) const SNAPSHOT_CHUNK_MS: u64 = 10_000;
/// The pause before a node that cannot be reached is tried again: shorter than openraft's limits for
/// a call.
const BACKOFF: Duration = Duration::from_millis(50);

/// The connections to the other nodes, and the name of our cluster. A quorum of one has none.
#[derive(Clone)]
pub(crate) struct Links {
    transport: Option<Arc<dyn Transport>>,
    cluster_id: Arc<Mutex<String>>,
}

/// The network of one other node.
pub(crate) struct Link {
    links: Links,
    target: NodeId,
}

/// Everything of a snapshot's chunk but its data.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) offset: u64,
    pub(super) done: bool,
}

/// Why another node has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("this node has no connections to others")]
    Alone,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, QuorumNode, RaftError<NodeId, E>>;

// === impl Links ===

impl Links {
    pub(crate) fn new(transport: Option<Arc<dyn Transport>>) -> Self {
        Self {
            transport,
            cluster_id: Arc::default(),
        }
    }

    pub(crate) fn transport(&self) -> Option<&Arc<dyn Transport>> {
        self.transport.as_ref()
    }

    pub(crate) fn cluster_id(&self) -> String {
        self.cluster_id.lock().clone()
    }

    pub(crate) fn set_cluster_id(&self, cluster_id: &str) {
        cluster_id.clone_into(&mut self.cluster_id.lock());
        if let Some(transport) = &self.transport {
            transport.set_cluster_id(cluster_id);
        }
    }

    /// Asks one node.
    pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: NodeId,
        kind: Kind,
        question: &Q,
        limit: Duration,
    ) -> Result<A, LinkError> {
        self.call_with(to, kind, question, &[], limit).await
    }

    async fn call_with<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: NodeId,
        kind: Kind,
        question: &Q,
        raw: &[u8],
        limit: Duration,
    ) -> Result<A, LinkError> {
        let transport = self.transport.as_ref().ok_or(LinkError::Alone)?;
        let body = wire::request(kind, &self.cluster_id(), question, raw)?;
        let answer = transport
            .call(broker(to), kind.purpose(), body, limit)
            .await?;
        Ok(wire::read_answer(&answer)?)
    }

    /// Asks whoever listens at an address.
    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        address: &str,
        kind: Kind,
        question: &Q,
        limit: Duration,
    ) -> Result<A, LinkError> {
        let transport = self.transport.as_ref().ok_or(LinkError::Alone)?;
        let body = wire::request(kind, &self.cluster_id(), question, &[])?;
        let answer = transport.ask(address, kind.purpose(), body, limit).await?;
        Ok(wire::read_answer(&answer)?)
    }
}

/// A node as the transport knows it. Node ids are checked to be legal where they come in.
pub(crate) fn broker(node: NodeId) -> BrokerId {
    BrokerId(i32::try_from(node).unwrap_or(i32::MAX))
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _node: &QuorumNode) -> Link {
        Link {
            links: self.clone(),
            target,
        }
    }
}

// === impl Link ===

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let entries = request.entries.len();
        let limit = option.hard_ttl();
        let sent = self.links.call(self.target, Kind::Append, &request, limit);
        match sent.await {
            Ok(answer) => Ok(answer),
            Err(LinkError::Wire(WireError::Large(_))) if entries > 1 => {
                let half = u64::try_from(entries / 2).unwrap_or(1);
                let hint = PayloadTooLarge::new_entries_hint(half);
                Err(RPCError::PayloadTooLarge(hint))
            }
            Err(error) => Err(failed(&error).await),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        let head = SnapshotHead {
            vote: request.vote,
            meta: request.meta,
            offset: request.offset,
            done: request.done,
        };
        let (target, limit) = (self.target, option.hard_ttl());
        let sent = self
            .links
            .call_with(target, Kind::Snapshot, &head, &request.data, limit);
        let answer: Result<InstallSnapshotResponse<NodeId>, InstallSnapshotError> = match sent.await
        {
            Ok(answer) => answer,
            Err(error) => return Err(failed(&error).await),
        };
        answer.map_err(|error| {
            let remote = RemoteError::new(target, RaftError::APIError(error));
            RPCError::RemoteError(remote)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        let limit = option.hard_ttl();
        let sent = self.links.call(self.target, Kind::Vote, &request, limit);
        match sent.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(failed(&error).await),
        }
    }
}

/// What openraft does next: it tries again. Without a pause if a connection broke, else after one,
/// which is taken here: openraft's own, for what is `Unreachable`, chooses between events and its
/// timer by dice that the environment does not give, so that a simulation would not repeat itself.
async fn failed<E: std::error::Error>(error: &LinkError) -> RPCError<NodeId, QuorumNode, E> {
    if !matches!(error, LinkError::Call(CallError::OutcomeUnknown)) {
        EnvRuntime::sleep(BACKOFF).await;
    }
    NetworkError::new(error).into()
}
