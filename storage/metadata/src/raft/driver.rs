//! The node's own loop: tells who leads, where members are, and seeks votes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{ServerState, storage::RaftLogStorage};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    LogId, Metrics, NodeId, RaftLog,
    election::{is_majority, would_vote},
    network::broker,
    node::is_sole_voter,
    wire::Kind,
};
use crate::quorum::Leadership;

/// How often the loop looks at the clock where there are other voters.
const TICK: Duration = Duration::from_millis(25);
/// How long the others have to say whether they would vote.
const PRE_VOTE_MAX: Duration = Duration::from_millis(250);

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
            if self.is_to_seek_votes(&now) {
                self.seek_votes(&now).await;
            }
            let quiet = is_sole_voter(&now, self.node) && now.state == ServerState::Leader;
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

    fn is_to_seek_votes(&self, metrics: &Metrics) -> bool {
        let is_voter = metrics
            .membership_config
            .voter_ids()
            .any(|id| id == self.node);
        is_voter
            && metrics.state != ServerState::Leader
            && self.election.lock().is_due(self.env.now())
    }

    async fn seek_votes(&self, metrics: &Metrics) {
        let voters = metrics.membership_config.membership().get_joint_config();
        if self.would_win(voters).await {
            tracing::info!(
                term = metrics.current_term,
                "no metadata leader: seeking votes"
            );
            if let Err(error) = self.raft.elect().await {
                tracing::debug!(%error, "raft has stopped");
            }
        }
        let random = self.env.random_u64();
        self.election.lock().sought(self.env.now(), random);
    }

    async fn would_win(&self, voters: &[BTreeSet<NodeId>]) -> bool {
        let Some(last) = self.last_log_id().await else {
            return false;
        };
        let others: BTreeSet<NodeId> = voters
            .iter()
            .flatten()
            .copied()
            .filter(|id| *id != self.node)
            .collect();
        let (answered, mut answers) = mpsc::channel(others.len().max(1));
        for id in others {
            let (links, answered) = (self.links.clone(), answered.clone());
            self.env.spawn("metadata-pre-vote", async move {
                let question = PreVote { last };
                let asked = links.call(id, Kind::PreVote, &question, PRE_VOTE_MAX);
                let grants = asked.await.unwrap_or(false);
                // Nobody waits once there is a majority.
                let _ = answered.send((id, grants)).await;
            });
        }
        drop(answered);
        let mut granted = BTreeSet::from([self.node]);
        // In the order in which they come: who is gone says nothing for long.
        while !is_majority(voters, &granted)
            && let Some((id, grants)) = answers.recv().await
        {
            if grants {
                granted.insert(id);
            }
        }
        is_majority(voters, &granted)
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
