//! From the wish to rebalance to the next generation, and all that time brings about.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{GroupState, JoinPhase, Machine, Member, Now, REARM_MIN, StorePurpose};
use crate::{
    ErrorCode,
    groups::requests::{JoinAnswer, SyncAnswer},
};

// === impl Machine ===

impl Machine {
    /// Acts on every deadline that has passed.
    pub(crate) fn tick(&mut self, now: Now) {
        self.pending.retain(|_, deadline| *deadline > now.mono);
        let dead: Vec<String> = self
            .members
            .values()
            .filter(|member| member.session_deadline().is_some_and(|at| at <= now.mono))
            .map(|member| member.id.clone())
            .collect();
        for id in &dead {
            // A client whose first join timed out is told to join anew, if it is still there.
            self.remove_member(id, ErrorCode::UnknownMemberId);
        }
        self.out.expired += dead.len() as u64;
        if dead.is_empty() {
            // Perhaps the rebalance waited only for a pending member.
            self.try_complete(now);
        } else {
            self.settle(now);
        }
        if let Some(phase) = self.join_phase
            && phase.deadline <= now.mono
        {
            self.join_phase_over(now, phase);
        }
        if self.sync_deadline.is_some_and(|at| at <= now.mono) {
            self.sync_phase_over(now);
        }
    }

    /// Begins a rebalance, or looks whether the one that goes on can end.
    pub(super) fn rebalance(&mut self, now: Now) {
        match self.state {
            GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare(now);
            }
            GroupState::PreparingRebalance => self.try_complete(now),
            GroupState::Dead => {}
        }
    }

    /// After the removal of members: those who stay must share out anew.
    pub(super) fn settle(&mut self, now: Now) {
        match self.state {
            GroupState::CompletingRebalance | GroupState::Stable => self.prepare(now),
            GroupState::PreparingRebalance => self.try_complete(now),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    fn prepare(&mut self, now: Now) {
        let was_empty = self.state == GroupState::Empty;
        self.sync_deadline = None;
        self.enter(GroupState::PreparingRebalance, now);
        self.out.rebalances += 1;
        self.refuse_syncs(now, ErrorCode::RebalanceInProgress);

        let timeout = self.rebalance_timeout();
        let delay = self.settings.initial_rebalance_delay;
        let (wait, extension) = if was_empty {
            (delay, Some(timeout.saturating_sub(delay)))
        } else {
            (timeout, None)
        };
        let phase = JoinPhase {
            deadline: now.mono.saturating_add(wait),
            extension,
            new_member_added: false,
        };
        self.join_phase = Some(phase);
        self.out.wake_at(phase.deadline);
        if was_empty && delay.is_zero() {
            self.complete(now);
        } else {
            self.try_complete(now);
        }
    }

    /// Those who wait for an assignment of the old generation must join again.
    pub(super) fn refuse_syncs(&mut self, now: Now, error: ErrorCode) {
        let mut waiting = Vec::new();
        for member in self.members.values_mut() {
            member.owes_sync = false;
            if let Some(token) = member.awaiting_sync.take() {
                self.out.sync(token, SyncAnswer::refused(error));
                waiting.push(member.id.clone());
            }
        }
        for id in waiting {
            self.touch(now, &id);
        }
    }

    /// Ends the wait for members when nobody is missing. An initial phase is only ended by time:
    /// the others of a starting fleet are not known yet.
    pub(super) fn try_complete(&mut self, now: Now) {
        let initial = self
            .join_phase
            .is_some_and(|phase| phase.extension.is_some());
        if self.state == GroupState::PreparingRebalance
            && !initial
            && self.pending.is_empty()
            && self.joined_count() == self.members.len()
        {
            self.complete(now);
        }
    }

    fn join_phase_over(&mut self, now: Now, phase: JoinPhase) {
        let extension = phase.extension.unwrap_or(Duration::ZERO);
        if phase.new_member_added && !extension.is_zero() {
            let wait = self.settings.initial_rebalance_delay.min(extension);
            let next = JoinPhase {
                deadline: now.mono.saturating_add(wait),
                extension: Some(extension.saturating_sub(wait)),
                new_member_added: false,
            };
            self.join_phase = Some(next);
            self.out.wake_at(next.deadline);
        } else {
            self.complete(now);
        }
    }

    /// The next generation, with those who have joined. Static members keep their place for as long
    /// as their session lasts.
    fn complete(&mut self, now: Now) {
        let absent: Vec<String> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in absent {
            self.remove_member(&id, ErrorCode::UnknownMemberId);
        }
        if self.members.is_empty() {
            self.become_empty(now);
            return;
        }
        if !self.elect_leader_among_joined() {
            // Only absent static members: wait until their sessions end or somebody joins.
            let phase = JoinPhase {
                deadline: now
                    .mono
                    .saturating_add(self.rebalance_timeout().max(REARM_MIN)),
                extension: None,
                new_member_added: false,
            };
            self.join_phase = Some(phase);
            self.out.wake_at(phase.deadline);
            return;
        }
        self.join_phase = None;
        self.generation = self.generation.saturating_add(1);
        self.protocol = self.select_protocol();
        self.enter(GroupState::CompletingRebalance, now);
        let deadline = now.mono.saturating_add(self.rebalance_timeout());
        self.sync_deadline = Some(deadline);
        self.out.wake_at(deadline);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            self.enter_generation(now, &id);
        }
    }

    fn enter_generation(&mut self, now: Now, id: &str) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        // Who keeps its place while it is away, being static, cannot ask for its assignment either.
        member.owes_sync = member.awaiting_join.is_some();
        if let Some(token) = member.awaiting_join.take() {
            member.is_new = false;
            let answer = self.join_answer(id);
            self.out.join(token, answer);
            self.touch(now, id);
        }
    }

    fn become_empty(&mut self, now: Now) {
        self.join_phase = None;
        self.sync_deadline = None;
        self.generation = self.generation.saturating_add(1);
        self.protocol = None;
        self.leader = None;
        self.enter(GroupState::Empty, now);
        self.store(StorePurpose::Emptied, |_| Bytes::new());
    }

    /// False when nobody has joined.
    fn elect_leader_among_joined(&mut self) -> bool {
        let standing = self
            .leader
            .as_ref()
            .and_then(|leader| self.members.get(leader));
        if standing.is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        let elected = self.eldest(|member| member.awaiting_join.is_some());
        let found = elected.is_some();
        if found {
            self.leader = elected;
        }
        found
    }

    /// Each member votes for the first of its protocols that all support; the most votes win, then
    /// the leader's preference.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let supported = |name: &str| self.members.values().all(|member| member.supports(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|(name, _)| supported(name));
            if let Some((name, _)) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let leader = self
            .leader
            .as_ref()
            .and_then(|leader| self.members.get(leader));
        let rank = |name: &str| {
            leader.and_then(|member| member.protocols.iter().position(|(known, _)| known == name))
        };
        votes
            .into_iter()
            .max_by_key(|(name, count)| (*count, std::cmp::Reverse(rank(name))))
            .map(|(name, _)| name.to_owned())
    }

    fn sync_phase_over(&mut self, now: Now) {
        self.sync_deadline = None;
        if !matches!(
            self.state,
            GroupState::CompletingRebalance | GroupState::Stable
        ) {
            return;
        }
        let late: Vec<String> = self
            .members
            .values()
            .filter(|member| member.owes_sync)
            .map(|member| member.id.clone())
            .collect();
        for id in &late {
            self.remove_member(id, ErrorCode::UnknownMemberId);
        }
        self.out.expired += late.len() as u64;
        if !late.is_empty() {
            self.settle(now);
        }
    }

    /// Takes a member out and answers what it waits for. The caller then [settles](Self::settle).
    pub(super) fn remove_member(&mut self, id: &str, error: ErrorCode) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if let Some(token) = member.awaiting_join {
            self.out.join(token, JoinAnswer::refused(error, ""));
        }
        if let Some(token) = member.awaiting_sync {
            self.out.sync(token, SyncAnswer::refused(error));
        }
        if let Some(instance) = &member.instance_id {
            self.static_members.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.eldest(|_| true);
        }
    }

    pub(super) fn joined_count(&self) -> usize {
        let joined = |member: &&Member| member.awaiting_join.is_some();
        self.members.values().filter(joined).count()
    }

    /// The longest that any member asked to be waited for.
    fn rebalance_timeout(&self) -> Duration {
        self.members
            .values()
            .map(|member| member.rebalance_timeout)
            .max()
            .unwrap_or(Duration::ZERO)
    }
}
