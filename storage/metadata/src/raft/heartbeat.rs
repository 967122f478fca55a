//! The leader's heartbeats, which keep the others from seeking votes.
//!
//! openraft's own are appends, and a node gets one only when it has answered the one before. Over a
//! long way, or while the other waits for its disk, they are further apart than elections wait. So a
//! leader beats by itself, whatever has become of the beat before. Two things end it, so that a leader
//! that is no use is replaced as soon as one that is gone:
//!
//! - A beat goes through Raft's own loop: none goes out while that stands still, as it does while a
//!   disk does not answer.
//! - A majority must answer Raft, or who leads must have begun only just now: a leader whose appends
//!   get nowhere is silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::ServerState;

use super::{
    Metrics, NodeId, RaftLog, Vote, election::LEASE_MS, network::Links,
    node::QUORUM_SILENCE_MS_MAX, wire::Kind,
};

/// How far two beats are apart at least; the loop looks at the clock each 25 ms. More of them would
/// only have a leader missed later, since it dies sooner after the last.
const INTERVAL: Duration = Duration::from_millis(125);
/// A leader that leads for no longer needs no majority that has answered.
const BEGINS_MAX: Duration = Duration::from_millis(QUORUM_SILENCE_MS_MAX);
/// After so long nobody needs the answer to a beat: this bounds those under way.
const ANSWER_MAX: Duration = Duration::from_millis(LEASE_MS);

/// When the next beat is due; of one node's loop.
#[derive(Debug, Default)]
pub(super) struct Pacemaker {
    /// The term that this node leads, and since when.
    leads: Option<(u64, Duration)>,
    next: Duration,
    /// Whether a beat is in Raft's queue.
    queued: Arc<AtomicBool>,
}

// === impl Pacemaker ===

impl Pacemaker {
    /// Notes whether this node leads `term`, and tells whether it has begun to only just now.
    fn leads(&mut self, term: Option<u64>, now: Duration) -> bool {
        self.leads = term.map(|term| match self.leads {
            Some((known, since)) if known == term => (term, since),
            _ => (term, now),
        });
        self.leads
            .is_some_and(|(_, since)| now < since + BEGINS_MAX)
    }

    fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + INTERVAL;
        }
        due
    }
}

// === impl RaftLog ===

impl RaftLog {
    /// Beats, if this node leads others and it is time.
    pub(super) async fn beat(&self, metrics: &Metrics, pacemaker: &mut Pacemaker) {
        let now = self.env.now();
        let leads = metrics.state == ServerState::Leader;
        let begins = pacemaker.leads(leads.then_some(metrics.current_term), now);
        if !leads || !pacemaker.is_due(now) || pacemaker.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        // Tells whether a majority answers, and carries what is committed.
        if let Err(error) = self.raft.heartbeat().await {
            tracing::debug!(%error, "raft has stopped");
        }
        let useful = begins || self.is_heard(metrics);
        let beats = useful.then(|| self.beats(metrics));
        let queued = Arc::clone(&pacemaker.queued);
        self.raft.in_loop(move || {
            queued.store(false, Ordering::Release);
            if let Some(send) = beats {
                send();
            }
        });
    }

    /// What sends one beat to every other member.
    fn beats(&self, metrics: &Metrics) -> impl FnOnce() + Send + 'static {
        let nodes = metrics.membership_config.nodes();
        let others = nodes.map(|(id, _)| *id).filter(|id| *id != self.node);
        let others: Vec<NodeId> = others.collect();
        let (env, links, vote) = (self.env.clone(), self.links.clone(), metrics.vote);
        move || {
            for other in others {
                env.spawn("metadata-heartbeat", send(links.clone(), other, vote));
            }
        }
    }
}

async fn send(links: Links, to: NodeId, vote: Vote) {
    let sent = links.call::<_, ()>(to, Kind::Heartbeat, &vote, ANSWER_MAX);
    if let Err(error) = sent.await {
        tracing::trace!(to, %error, "heartbeat not answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_leader_has_begun_only_just_now_until_a_majority_should_have_answered_in_its_term() {
        let mut pacemaker = Pacemaker::default();
        assert!(!pacemaker.leads(None, ms(0)));
        assert!(pacemaker.leads(Some(3), ms(100)));
        assert!(pacemaker.leads(Some(3), ms(99) + BEGINS_MAX));
        assert!(!pacemaker.leads(Some(3), ms(100) + BEGINS_MAX));
        assert!(pacemaker.leads(Some(5), ms(200) + BEGINS_MAX));
        assert!(!pacemaker.leads(None, ms(210) + BEGINS_MAX));
        assert!(pacemaker.leads(Some(5), ms(220) + BEGINS_MAX));
    }

    #[test]
    fn beats_are_an_interval_apart_and_those_that_were_missed_are_not_made_up_for() {
        let mut pacemaker = Pacemaker::default();
        assert!(pacemaker.is_due(ms(1000)));
        assert!(!pacemaker.is_due(ms(999) + INTERVAL));
        assert!(pacemaker.is_due(ms(1000) + 5 * INTERVAL));
        assert!(!pacemaker.is_due(ms(1001) + 5 * INTERVAL));
    }
}
