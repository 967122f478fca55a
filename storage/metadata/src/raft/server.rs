//! What other nodes ask of this one's Raft.

use bytes::Bytes;
use openraft::{
    error::{InstallSnapshotError, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest,
    },
};

use super::{
    NodeId, RaftLog, Types, Vote,
    driver::PreVote,
    network::SnapshotHead,
    node::{PROPOSE_MAX, Proposed},
    wire::{self, Kind, Request, WireError},
};
use crate::command::Envelope;

/// Bytes of the largest snapshot that is taken from another node.
const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("node of cluster {ours}, asked by a node of cluster {theirs:?}")]
    OtherCluster { ours: String, theirs: String },
    #[error("snapshot of more than {SNAPSHOT_BYTES_MAX} bytes")]
    SnapshotTooLarge,
    #[error("raft: {0}")]
    Raft(String),
    #[error("not a request for raft")]
    NotRaft,
}

// === impl RaftLog ===

impl RaftLog {
    /// Answers a request of another node of the same cluster.
    pub(crate) async fn serve(&self, request: Request) -> Result<Bytes, ServeError> {
        let ours = self.links.cluster_id();
        if ours.is_empty() || request.cluster_id != ours {
            let theirs = request.cluster_id;
            return Err(ServeError::OtherCluster { ours, theirs });
        }
        let answer = match request.kind {
            Kind::Vote => {
                let asked: VoteRequest<NodeId> = request.value()?;
                let answer = self.raft().call(|raft| raft.vote(asked)).await;
                let answer = answer.map_err(raft)?;
                if answer.vote_granted {
                    self.voted();
                }
                wire::answer(&answer)
            }
            Kind::Append => wire::answer(&self.append(request.value()?).await?),
            Kind::Snapshot => wire::answer(&self.install(&request).await?),
            Kind::Heartbeat => {
                self.hear_from(request.value()?);
                wire::answer(&())
            }
            Kind::PreVote => {
                let PreVote { last } = request.value()?;
                wire::answer(&self.grants(last).await)
            }
            Kind::Propose => wire::answer(&self.propose_for(request.value()?).await),
            Kind::ReadIndex => wire::answer(&self.read_index().await),
            Kind::Hello | Kind::Found | Kind::Join => return Err(ServeError::NotRaft),
        };
        Ok(answer?)
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<NodeId>, ServeError> {
        self.hear_from(request.vote);
        let answer = self.raft().call(|raft| raft.append_entries(request)).await;
        let answer = answer.map_err(raft)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.hear();
        }
        Ok(answer)
    }

    /// A leader is heard when its heartbeat or request arrives, not only when what it sent is on the
    /// disk.
    fn hear_from(&self, vote: Vote) {
        if vote.committed && vote >= self.raft().metrics().borrow().vote {
            self.hear();
        }
    }

    async fn install(
        &self,
        request: &Request,
    ) -> Result<Result<InstallSnapshotResponse<NodeId>, InstallSnapshotError>, ServeError> {
        let head: SnapshotHead = request.value()?;
        let len = u64::try_from(request.raw.len()).unwrap_or(u64::MAX);
        if head.offset.saturating_add(len) > SNAPSHOT_BYTES_MAX {
            return Err(ServeError::SnapshotTooLarge);
        }
        self.hear_from(head.vote);
        let chunk = InstallSnapshotRequest {
            vote: head.vote,
            meta: head.meta,
            offset: head.offset,
            data: request.raw.to_vec(),
            done: head.done,
        };
        match self.raft().call(|raft| raft.install_snapshot(chunk)).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(RaftError::APIError(mismatch)) => Ok(Err(mismatch)),
            Err(RaftError::Fatal(error)) => Err(ServeError::Raft(error.to_string())),
        }
    }

    /// Proposes what another node has sent; forwards it no further.
    async fn propose_for(&self, envelope: Envelope) -> Proposed {
        let heard = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow();
            if self.is_heard(&metrics) {
                Ok(())
            } else {
                Err(metrics.current_leader.filter(|id| *id != self.node))
            }
        };
        match heard {
            Ok(()) if !self.is_closing() => self.write_here(envelope, PROPOSE_MAX).await,
            Ok(()) => Proposed::NotLeader(None),
            Err(leader) => Proposed::NotLeader(leader),
        }
    }
}

fn raft<E: std::fmt::Display>(error: E) -> ServeError {
    ServeError::Raft(error.to_string())
}
