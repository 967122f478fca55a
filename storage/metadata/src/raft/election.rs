//! When this node seeks votes, and for whom it would vote: pure decisions.
//!
//! openraft 0.9 has no pre-vote: a node that was cut off would come back with a higher term and
//! depose a leader that serves everybody else. So openraft's own elections are off, and a node first
//! asks the others whether they would vote for it, which changes nothing on either side. They would
//! not while they hear a leader, or if its log is behind theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{LogId, NodeId};

/// A leader that was heard within this time is not deposed.
pub(super) const LEASE_MS: u64 = 500;
/// openraft's own lease, counted from when it has stored what a leader sent. Shorter, so that a vote
/// that was promised here is given there.
pub(super) const RAFT_LEASE_MS: u64 = 400;
/// How long somebody's word counts, from when it was asked for: also how long it may take to come.
pub(super) const WORD: Duration = Duration::from_millis(1000);
/// The random part of the time until votes are sought.
const SPREAD_MS: u64 = 300;

const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// The timer of one node, and who would vote for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Election {
    /// When a leader was last heard; the start of the node at first.
    heard: Duration,
    /// When votes are sought unless a leader is heard before.
    due: Duration,
    /// A leader was heard then, or a vote given or sought: what was asked for until then counts no more.
    void: Duration,
    /// Who would vote for this node, and when it was asked. Over a long way their words come after
    /// the round in which they were asked for, and count all the same.
    granted: BTreeMap<NodeId, Duration>,
}

// === impl Election ===

impl Election {
    pub(super) fn new(now: Duration, random: u64) -> Self {
        Self {
            heard: now,
            due: now + LEASE + spread(random),
            void: now,
            granted: BTreeMap::new(),
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

    /// This node has voted for another, which needs time to be heard.
    pub(super) fn voted(&mut self, now: Duration, random: u64) {
        let due = self.due;
        self.elects(now, random);
        self.due = self.due.max(due);
    }

    /// Raft has begun an election: the words that allowed it are used up, also those still to come.
    pub(super) fn elects(&mut self, now: Duration, random: u64) {
        self.sought(now, random);
        self.void = now;
        self.granted.clear();
    }

    /// A node that was asked at `asked` would vote for this one.
    pub(super) fn granted(&mut self, node: NodeId, asked: Duration) {
        if asked > self.void {
            self.granted.insert(node, asked);
        }
    }

    /// Whether `node` and those who would vote for it are a majority.
    pub(super) fn would_win(
        &self,
        node: NodeId,
        voters: &[BTreeSet<NodeId>],
        now: Duration,
    ) -> bool {
        let lately = self
            .granted
            .iter()
            .filter(|(_, asked)| now < **asked + WORD);
        let with: BTreeSet<NodeId> = lately.map(|(id, _)| *id).chain([node]).collect();
        is_majority(voters, &with)
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
    fn words_count_for_a_while_however_late_they_come_and_once() {
        let voters = [BTreeSet::from([1, 2, 3, 4, 5])];
        let mut election = Election::new(ms(0), 0);
        let wins = |election: &Election, now| election.would_win(1, &voters, ms(now));
        // Of two rounds.
        election.granted(2, ms(600));
        assert!(!wins(&election, 700));
        election.granted(3, ms(900));
        assert!(wins(&election, 1599));
        assert!(!wins(&election, 1600), "that of node 2 is too old");
        election.granted(2, ms(1300));
        assert!(wins(&election, 1400));
        election.elects(ms(1400), 0);
        election.granted(4, ms(1300));
        election.granted(5, ms(1300));
        assert!(
            !wins(&election, 1400),
            "they were for the election that was"
        );
        election.granted(4, ms(1401));
        election.granted(5, ms(1401));
        assert!(wins(&election, 1500));
    }

    #[test]
    fn words_that_were_asked_for_before_a_leader_was_heard_or_a_vote_given_are_void() {
        let voters = [BTreeSet::from([1, 2, 3])];
        for heard in [false, true] {
            let mut election = Election::new(ms(0), 0);
            election.granted(2, ms(600));
            let due = election.due;
            if heard {
                election.hear(ms(700), 0);
            } else {
                election.voted(ms(700), 0);
            }
            assert!(election.due > due);
            election.granted(3, ms(650));
            assert!(!election.would_win(1, &voters, ms(701)));
            election.granted(3, ms(701));
            assert!(election.would_win(1, &voters, ms(702)));
        }
        let mut election = Election::new(ms(0), 299);
        election.voted(ms(1), 0);
        assert!(!election.is_due(ms(798)), "a vote does not hasten anything");
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
