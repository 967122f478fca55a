//! What the service tells of the metadata quorum.

use mainstem_record::BrokerId;

/// Who leads the quorum, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The node that leads; `None` if nobody is known to.
    pub leader: Option<BrokerId>,
    /// Whether it is this node, a majority has answered it lately, and its image holds everything
    /// that earlier leaders committed: the controller's loops run exactly then. It can be outlived
    /// by a fraction of a second on a node that is cut off, so what they decide is conditioned on
    /// versions when it is applied.
    pub leads: bool,
}

/// The quorum as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// The node that leads, if known.
    pub leader: Option<BrokerId>,
    /// The Raft term.
    pub term: u64,
    /// Index of the last entry that this node has applied.
    pub applied: u64,
    /// All members, by node id.
    pub members: Vec<QuorumMember>,
}

/// One member of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    /// Its node id.
    pub node: BrokerId,
    /// Where other nodes reach it; empty if none can.
    pub address: String,
    /// Whether it votes; others only follow.
    pub voter: bool,
    /// Whether it may become a voter (`process.roles`).
    pub controller: bool,
    /// Index of the last entry that it holds; known by the leader only.
    pub matched: Option<u64>,
}
