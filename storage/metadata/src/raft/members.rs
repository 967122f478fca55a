//! Who is in the quorum: nodes that join, move, and become voters. The leader decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, ServerState,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Metrics, NodeId, QuorumNode, RaftLog, network::broker, wire::Kind};
use crate::quorum::{QuorumMember, QuorumStatus};

/// Nodes of a cluster.
const NODES_MAX: usize = 1000;
/// Bytes of an address.
const ADDRESS_BYTES_MAX: usize = 300;
/// Entries that a learner may lack when it becomes a voter.
const LAG_MAX: u64 = 100;
/// How long a change of the membership may take.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// A node that wants to be in the quorum, or to be known by another address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) node: NodeId,
    pub(crate) me: QuorumNode,
    /// Whether a node that does not lead has passed it on.
    pub(crate) passed_on: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    /// It is in the quorum of this cluster, whose nodes are these.
    Joined {
        cluster_id: String,
        nodes: BTreeMap<NodeId, QuorumNode>,
    },
    /// Not now.
    Later(String),
    /// Never, as it stands.
    Refused(String),
}

/// What the membership makes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Known,
    Change,
    Refused(String),
}

fn admit(nodes: &BTreeMap<NodeId, QuorumNode>, request: &JoinRequest) -> Admission {
    let JoinRequest { node, me, .. } = request;
    if i32::try_from(*node).is_err() {
        return Admission::Refused(format!("{node} is not a node id"));
    }
    if me.addr.is_empty() || me.addr.len() > ADDRESS_BYTES_MAX || me.directory_id.is_nil() {
        return Admission::Refused("no address, or no identity of a data directory".to_owned());
    }
    let twin = nodes
        .iter()
        .find(|(id, known)| **id != *node && known.directory_id == me.directory_id);
    if let Some((id, _)) = twin {
        return Admission::Refused(format!("the data directory is that of node {id}"));
    }
    match nodes.get(node) {
        Some(known) if known == me => Admission::Known,
        Some(known) if known.directory_id.is_nil() || known.directory_id == me.directory_id => {
            Admission::Change
        }
        Some(known) => Admission::Refused(format!(
            "node id {node} is taken by the node at {:?} with data directory {}; give this node \
             another node.id, or its own data directory back",
            known.addr, known.directory_id
        )),
        None if nodes.len() >= NODES_MAX => {
            Admission::Refused(format!("the cluster has {NODES_MAX} nodes already"))
        }
        None => Admission::Change,
    }
}

/// The voters to add. They grow in steps that keep their number odd: a second voter would make the
/// quorum lose its majority with either of two nodes, and so a third is waited for.
fn promotions(
    voters: &BTreeSet<NodeId>,
    ready: &BTreeSet<NodeId>,
    wanted: usize,
) -> BTreeSet<NodeId> {
    let room = wanted.saturating_sub(voters.len());
    let mut count = ready.len().min(room);
    if (voters.len() + count).is_multiple_of(2) && voters.len() % 2 == 1 {
        count = count.saturating_sub(1);
    }
    ready.iter().take(count).copied().collect()
}

// === impl RaftLog ===

impl RaftLog {
    /// Takes a node in, or its new address. Any node may be asked; the leader decides.
    pub(crate) async fn join(&self, request: JoinRequest) -> JoinAnswer {
        let metrics = self.raft().metrics().borrow().clone();
        if !self.is_heard(&metrics) {
            return match metrics.current_leader {
                Some(leader) if leader != self.node && !request.passed_on => {
                    self.pass_on(leader, request).await
                }
                _ => JoinAnswer::Later("no metadata leader is known".to_owned()),
            };
        }
        let mut nodes = nodes_of(&metrics);
        match admit(&nodes, &request) {
            Admission::Refused(why) => return JoinAnswer::Refused(why),
            Admission::Known => {}
            Admission::Change => {
                let changed = BTreeMap::from([(request.node, request.me)]);
                nodes.extend(changed.clone());
                if let Err(why) = self.change(ChangeMembers::SetNodes(changed)).await {
                    return JoinAnswer::Later(why);
                }
            }
        }
        JoinAnswer::Joined {
            cluster_id: self.links.cluster_id(),
            nodes,
        }
    }

    async fn pass_on(&self, leader: NodeId, request: JoinRequest) -> JoinAnswer {
        let request = JoinRequest {
            passed_on: true,
            ..request
        };
        let asked = self.links.call(leader, Kind::Join, &request, CHANGE_MAX);
        asked
            .await
            .unwrap_or_else(|error| JoinAnswer::Later(error.to_string()))
    }

    async fn change(&self, change: ChangeMembers<NodeId, QuorumNode>) -> Result<(), String> {
        let changed = self
            .raft()
            .call(|raft| raft.change_membership(change, true));
        match self.env.timeout(CHANGE_MAX, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )))) => Err("another change of the membership is under way".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(elapsed) => Err(elapsed.to_string()),
        }
    }

    /// As the leader, makes voters of learners that have caught up.
    pub(crate) async fn promote(&self) {
        let metrics = self.raft().metrics().borrow().clone();
        if metrics.state != ServerState::Leader {
            return;
        }
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        if voters.len() >= self.voters_wanted {
            return;
        }
        let chosen = promotions(&voters, &ready(&metrics, &voters), self.voters_wanted);
        if chosen.is_empty() {
            return;
        }
        tracing::info!(?chosen, "nodes become voters of the metadata quorum");
        if let Err(why) = self.change(ChangeMembers::AddVoterIds(chosen)).await {
            tracing::warn!(%why, "voters not added; tried again");
        }
    }

    /// The quorum as this node sees it.
    pub(super) fn quorum_status(&self) -> QuorumStatus {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow();
        let membership = &metrics.membership_config;
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| {
            let progress = metrics.replication.as_ref().and_then(|all| all.get(id));
            QuorumMember {
                node: broker(*id),
                address: node.addr.clone(),
                voter: voters.contains(id),
                controller: node.controller,
                matched: progress.map(|matched| matched.map_or(0, |id| id.index)),
            }
        });
        QuorumStatus {
            leader: metrics.current_leader.map(broker),
            term: metrics.current_term,
            applied: metrics.last_applied.map_or(0, |id| id.index),
            members: members.collect(),
        }
    }

    /// Whether Raft has stopped, or is about to.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_closing() || self.raft().metrics().borrow().running_state.is_err()
    }

    /// Whether a leader is known and, if it is this node, heard.
    pub(crate) fn knows_leader(&self) -> bool {
        self.leadership.borrow().leader.is_some() && !self.is_overdue()
    }

    /// A member was found at another address than the membership says.
    pub(crate) fn found_at(&self, node: NodeId, directory_id: Uuid, address: String) {
        let metrics = self.raft().metrics().borrow().clone();
        let mut nodes = metrics.membership_config.nodes();
        let known = nodes.find(|(id, _)| **id == node).map(|(_, known)| known);
        if known.is_some_and(|known| known.directory_id == directory_id) {
            let before = self.found_at.lock().insert(node, address.clone());
            if before.as_ref() != Some(&address) {
                self.set_addresses(&metrics);
            }
        }
    }

    /// What the membership says of this node; `None` if it is not in it.
    pub(crate) fn known_as(&self) -> Option<QuorumNode> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow();
        let mut nodes = metrics.membership_config.nodes();
        nodes
            .find(|(id, _)| **id == self.node)
            .map(|(_, node)| node.clone())
    }
}

/// Learners that may become voters and lack little.
fn ready(metrics: &Metrics, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let last = metrics.last_log_index.unwrap_or(0);
    let caught_up = |id: &NodeId| {
        let progress = metrics.replication.as_ref().and_then(|all| all.get(id));
        let matched = progress.and_then(|matched| matched.map(|id| id.index));
        matched.is_some_and(|matched| matched.saturating_add(LAG_MAX) >= last)
    };
    metrics
        .membership_config
        .nodes()
        .filter(|(id, node)| node.controller && !voters.contains(id) && caught_up(id))
        .map(|(id, _)| *id)
        .collect()
}

fn nodes_of(metrics: &Metrics) -> BTreeMap<NodeId, QuorumNode> {
    let nodes = metrics.membership_config.nodes();
    nodes.map(|(id, node)| (*id, node.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(addr: &str, directory: u128) -> QuorumNode {
        QuorumNode {
            addr: addr.to_owned(),
            directory_id: Uuid::from_u128(directory),
            controller: true,
        }
    }

    fn request(id: NodeId, me: QuorumNode) -> JoinRequest {
        JoinRequest {
            node: id,
            me,
            passed_on: false,
        }
    }

    #[test]
    fn a_node_may_move_but_not_take_the_place_of_another() {
        let nodes = BTreeMap::from([
            (1, node("a:1", 1)),
            (2, node("b:1", 2)),
            (3, QuorumNode::default()),
        ]);
        let asks = |id, me| admit(&nodes, &request(id, me));
        assert_eq!(asks(1, node("a:1", 1)), Admission::Known);
        assert_eq!(asks(1, node("c:1", 1)), Admission::Change);
        assert_eq!(asks(4, node("d:1", 4)), Admission::Change);
        assert_eq!(asks(3, node("e:1", 3)), Admission::Change);
        let refused = |answer| matches!(answer, Admission::Refused(_));
        assert!(refused(asks(1, node("a:1", 9))), "another directory");
        assert!(refused(asks(4, node("d:1", 2))), "the directory of node 2");
        assert!(refused(asks(4, node("", 4))), "no address");
        assert!(refused(asks(4, node("d:1", 0))), "no directory");
        assert!(refused(asks(u64::MAX, node("d:1", 4))), "no node id");
    }

    #[test]
    fn voters_stay_odd() {
        let set = |ids: std::ops::Range<u64>| ids.collect::<BTreeSet<_>>();
        let add =
            |voters, ready: u64, wanted| promotions(&set(0..voters), &set(10..10 + ready), wanted);
        assert_eq!(add(1, 1, 3).len(), 0);
        assert_eq!(add(1, 2, 3).len(), 2);
        assert_eq!(add(1, 9, 3).len(), 2);
        assert_eq!(add(3, 1, 5).len(), 0);
        assert_eq!(add(3, 2, 5).len(), 2);
        assert_eq!(add(2, 1, 3).len(), 1);
        assert_eq!(add(3, 5, 3).len(), 0);
    }

    #[test]
    fn what_old_stores_say_of_a_node_is_read() {
        let old: QuorumNode = serde_json::from_str(r#"{"addr":""}"#).expect("old form");
        assert_eq!(old, QuorumNode::default());
        assert_eq!(
            serde_json::to_string(&old).expect("encode"),
            r#"{"addr":""}"#
        );
    }
}
