//! The node's own loop: tells who leads, where members are, and seeks votes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{ServerState, storage::RaftLogStorage};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    LogId, Metrics, NodeId, RaftLog,
    election::{WORD, would_vote},
    heartbeat::Pacemaker,
    network::broker,
    wire::Kind,
};
use crate::quorum::Leadership;

/// How often the loop looks at the clock where there are other members.
const TICK: Duration = Duration::from_millis(25);
/// How long one round waits for the others to say whether they would vote; those further away are
/// heard after it ([`WORD`]).
const ROUND_MAX: Duration = Duration::from_millis(250);

/// Asks whether a vote would be given.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PreVote {
    pub(super) last: Option<LogId>,
}

// === impl RaftLog ===

impl RaftLog {
    /// Runs until Raft stops.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        let mut membership = None;
        let mut pacemaker = Pacemaker::default();
        loop {
            let now = metrics.borrow_and_update().clone();
            if now.running_state.is_err() || self.is_closing() {
                self.tell(Leadership {
                    term: now.current_term,
                    ..Leadership::default()
                });
                return;
            }
            if membership != *now.membership_config.log_id() {
                membership = *now.membership_config.log_id();
                self.found_at.lock().clear();
                self.set_addresses(&now);
            }
            self.tell(self.leadership_of(&now));
            self.beat(&now, &mut pacemaker).await;
            if may_seek_votes(&now, self.node) {
                self.seek_votes(&now).await;
            }
            let quiet = is_alone(&now, self.node) && now.state == ServerState::Leader;
            let changed = metrics.changed();
            if quiet {
                if changed.await.is_err() {
                    return;
                }
            } else {
                // Both ends are fine: the loop looks again.
                let _ = self.env.timeout(TICK, changed).await;
            }
        }
    }

    fn tell(&self, leadership: Leadership) {
        self.leadership.send_if_modified(|told| {
            let changed = *told != leadership;
            *told = leadership;
            changed
        });
    }

    fn leadership_of(&self, metrics: &Metrics) -> Leadership {
        // The first entry of its term is applied after all that earlier leaders committed.
        let applied_term = metrics.last_applied.map(|id| id.leader_id.term);
        let own_term = applied_term == Some(metrics.current_term);
        let leads = own_term && self.is_heard(metrics);
        let is_self = metrics.current_leader == Some(self.node);
        Leadership {
            term: metrics.current_term,
            leader: metrics
                .current_leader
                .filter(|_| !is_self || leads)
                .map(broker),
            leads,
        }
    }

    /// Tells the transport where the members are.
    pub(super) fn set_addresses(&self, metrics: &Metrics) {
        let Some(transport) = self.links.transport() else {
            return;
        };
        let found_at = self.found_at.lock();
        let others = metrics
            .membership_config
            .nodes()
            .filter(|(id, _)| **id != self.node);
        let addresses = others.filter_map(|(id, node)| {
            let address = found_at.get(id).unwrap_or(&node.addr);
            (!address.is_empty()).then(|| (broker(*id), address.clone()))
        });
        transport.set_addresses(addresses.collect());
    }

    /// Asks the others if it is time to, and has Raft elect once a majority would vote for this node.
    async fn seek_votes(&self, metrics: &Metrics) {
        let voters = metrics.membership_config.membership().get_joint_config();
        if self.election.lock().is_due(self.env.now()) {
            self.ask_voters(voters).await;
            let random = self.env.random_u64();
            self.election.lock().sought(self.env.now(), random);
        }
        if !self.would_win(voters) {
            return;
        }
        tracing::info!(
            term = metrics.current_term,
            "no metadata leader: seeking votes"
        );
        let random = self.env.random_u64();
        self.election.lock().elects(self.env.now(), random);
        if let Err(error) = self.raft.elect().await {
            tracing::debug!(%error, "raft has stopped");
        }
    }

    fn would_win(&self, voters: &[BTreeSet<NodeId>]) -> bool {
        let election = self.election.lock();
        election.would_win(self.node, voters, self.env.now())
    }

    /// Asks all voters whether they would vote for this node, and waits for a majority, or a while.
    async fn ask_voters(&self, voters: &[BTreeSet<NodeId>]) {
        let Some(last) = self.last_log_id().await else {
            return;
        };
        let asked = self.env.now();
        let mut others: BTreeSet<NodeId> = voters.iter().flatten().copied().collect();
        others.remove(&self.node);
        let (answered, mut answers) = mpsc::channel(others.len().max(1));
        for id in others {
            let (links, election) = (self.links.clone(), Arc::clone(&self.election));
            let answered = answered.clone();
            self.env.spawn("metadata-pre-vote", async move {
                let question = PreVote { last };
                let word = links.call(id, Kind::PreVote, &question, WORD);
                if word.await.unwrap_or(false) {
                    election.lock().granted(id, asked);
                }
                // Nobody waits any more once there is a majority, or after a while.
                let _ = answered.send(()).await;
            });
        }
        drop(answered);
        let majority = async { while !self.would_win(voters) && answers.recv().await.is_some() {} };
        // Both ends are fine: what comes later counts as well.
        let _ = self.env.timeout(ROUND_MAX, majority).await;
    }

    /// The end of the log; the outer `None` if the store has failed.
    async fn last_log_id(&self) -> Option<Option<LogId>> {
        let state = self.log.clone().get_log_state().await.ok()?;
        Some(state.last_log_id)
    }

    /// Whether this node will vote for a log that ends at `last`; it does not seek votes itself for
    /// a while then.
    pub(super) async fn grants(&self, last: Option<LogId>) -> bool {
        let leads = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.state == ServerState::Leader && self.is_heard(&metrics)
        };
        if leads || self.election.lock().hears(self.env.now()) {
            return false;
        }
        let ours = self.last_log_id().await;
        let grants = ours.is_some_and(|ours| would_vote(last, ours));
        if grants {
            // Two that seek votes at once split them.
            let random = self.env.random_u64();
            self.election.lock().sought(self.env.now(), random);
        }
        grants
    }

    /// This node has voted for another.
    pub(super) fn voted(&self) {
        let random = self.env.random_u64();
        self.election.lock().voted(self.env.now(), random);
    }

    /// Whether this node follows a leader that it has not heard for long.
    pub(super) fn is_overdue(&self) -> bool {
        self.raft.metrics().borrow().state != ServerState::Leader
            && self.election.lock().is_due(self.env.now())
    }

    /// A leader of the newest known term was heard.
    pub(super) fn hear(&self) {
        let random = self.env.random_u64();
        self.election.lock().hear(self.env.now(), random);
    }
}

fn may_seek_votes(metrics: &Metrics, node: NodeId) -> bool {
    let mut voters = metrics.membership_config.voter_ids();
    metrics.state != ServerState::Leader && voters.any(|id| id == node)
}

/// Whether there is nobody else, not even one that only follows.
fn is_alone(metrics: &Metrics, node: NodeId) -> bool {
    metrics
        .membership_config
        .nodes()
        .map(|(id, _)| *id)
        .eq([node])
}
