//! The network of a quorum of one: there is nobody to reach.

use openraft::{
    BasicNode, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};

use super::{NodeId, Types};

/// Makes [`Nobody`] of every node.
pub(crate) struct Alone;

/// A node that cannot be reached.
pub(crate) struct Nobody;

#[derive(Debug, thiserror::Error)]
#[error("this build has a metadata quorum of one node")]
struct NoNetwork;

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, BasicNode, RaftError<NodeId, E>>;

// === impl Alone ===

impl RaftNetworkFactory<Types> for Alone {
    type Network = Nobody;

    async fn new_client(&mut self, _target: NodeId, _node: &BasicNode) -> Nobody {
        Nobody
    }
}

// === impl Nobody ===

impl RaftNetwork<Types> for Nobody {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        Err(Unreachable::new(&NoNetwork).into())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        Err(Unreachable::new(&NoNetwork).into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        Err(Unreachable::new(&NoNetwork).into())
    }
}
