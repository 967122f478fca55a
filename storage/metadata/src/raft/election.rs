//! When this node seeks votes, and for whom it would vote: pure decisions.
//!
//! openraft 0.9 has no pre-vote: a node that was cut off would come back with a higher term and
//! depose a leader that serves everybody else. So openraft's own elections are off, and a node first
//! asks the others whether they would vote for it, which changes nothing on either side. They would
//! not while they hear a leader, or if its log is behind theirs.

use std::{collections::BTreeSet, time::Duration};

use super::{LogId, NodeId};

/// Raft's heartbeat.
pub(super) const HEARTBEAT_MS: u64 = 100;
/// A leader that was heard within this time is not deposed.
pub(super) const LEASE_MS: u64 = 500;
/// openraft's own lease, counted from when it has stored what a leader sent. Shorter, so that a vote
/// that was promised here is given there.
pub(super) const RAFT_LEASE_MS: u64 = 400;
/// The random part of the time until votes are sought.
const SPREAD_MS: u64 = 300;

const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// The timer of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Election {
    /// When a leader was last heard; the start of the node at first.
    heard: Duration,
    /// When votes are sought unless a leader is heard before.
    due: Duration,
}

// === impl Election ===

impl Election {
    pub(super) fn new(now: Duration, random: u64) -> Self {
        Self {
            heard: now,
            due: now + LEASE + spread(random),
        }
    }

    /// A leader of the newest known term was heard.
    pub(super) fn hear(&mut self, now: Duration, random: u64) {
        if now >= self.heard {
            *self = Self::new(now, random);
        }
    }

    /// Votes were sought, or one was promised to another node; next time after a pause.
    pub(super) fn sought(&mut self, now: Duration, random: u64) {
        self.due = now + LEASE / 2 + spread(random);
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// Whether a leader was heard within the lease.
    pub(super) fn hears(&self, now: Duration) -> bool {
        now < self.heard + LEASE
    }
}

fn spread(random: u64) -> Duration {
    Duration::from_millis(random % SPREAD_MS)
}

/// Whether this node, which hears no leader, would vote for a log that ends at `theirs`.
pub(super) fn would_vote(theirs: Option<LogId>, ours: Option<LogId>) -> bool {
    theirs >= ours
}

/// Whether `granted` is a majority of every set of voters: two of them while they change.
pub(super) fn is_majority(voters: &[BTreeSet<NodeId>], granted: &BTreeSet<NodeId>) -> bool {
    !voters.is_empty()
        && voters
            .iter()
            .all(|set| set.intersection(granted).count() > set.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn votes_are_sought_only_after_the_lease_whatever_is_drawn() {
        for random in 0..SPREAD_MS {
            let mut election = Election::new(ms(0), random);
            assert!(election.hears(ms(LEASE_MS - 1)) && !election.is_due(ms(LEASE_MS - 1)));
            assert!(!election.hears(ms(LEASE_MS)));
            assert!(election.is_due(ms(LEASE_MS + SPREAD_MS)));
            election.hear(ms(LEASE_MS), random);
            assert!(election.hears(ms(2 * LEASE_MS - 1)));
            assert!(!election.is_due(ms(2 * LEASE_MS - 1)));
            election.sought(ms(3 * LEASE_MS), random);
            assert!(!election.is_due(ms(3 * LEASE_MS + LEASE_MS / 2 - 1)));
        }
    }

    #[test]
    fn a_majority_is_one_of_every_set() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        let (old, new) = (set(&[1]), set(&[1, 2, 3]));
        assert!(is_majority(std::slice::from_ref(&old), &set(&[1])));
        assert!(!is_majority(&[old.clone(), new.clone()], &set(&[1])));
        assert!(!is_majority(&[old.clone(), new.clone()], &set(&[2, 3])));
        assert!(is_majority(&[old, new], &set(&[1, 3])));
        assert!(!is_majority(&[set(&[1, 2, 3, 4])], &set(&[1, 2])));
        assert!(!is_majority(&[], &set(&[1])));
    }
}
