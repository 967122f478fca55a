//! SyncGroup, what comes back from the log, Heartbeat, LeaveGroup and the check of commits.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{GroupState, Machine, Now, StoreId, StorePurpose, Token};
use crate::{
    ErrorCode,
    groups::requests::{JoinAnswer, LeaveMember, SyncAnswer, SyncRequest},
};

// === impl Machine ===

impl Machine {
    /// A member wants its assignment; the leader brings everybody's. `token` is answered now or
    /// when the leader's assignment is durable.
    pub(crate) fn sync(&mut self, now: Now, token: Token, request: &SyncRequest) {
        let answer = match self.try_sync(now, token, request) {
            Ok(None) => return,
            Ok(Some(assignment)) => self.sync_answer(assignment),
            Err(error) => SyncAnswer::refused(error),
        };
        self.out.sync(token, answer);
    }

    /// The assignment, or none when it waits.
    fn try_sync(
        &mut self,
        now: Now,
        token: Token,
        request: &SyncRequest,
    ) -> Result<Option<Bytes>, ErrorCode> {
        let id = &request.member_id;
        self.check_generation(id, request.instance_id.as_deref(), request.generation)?;
        let differs = |given: &Option<String>, ours: &Option<String>| {
            given
                .as_ref()
                .is_some_and(|given| Some(given) != ours.as_ref())
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::CompletingRebalance => {
                self.await_assignment(token, id);
                if self.is_leader(id) && !self.assignment_is_on_its_way() {
                    self.store_assignment(request);
                }
                Ok(None)
            }
            GroupState::Stable => {
                self.touch(now, id);
                let member = self.members.get_mut(id).ok_or(ErrorCode::UnknownMemberId)?;
                member.owes_sync = false;
                Ok(Some(member.assignment.clone()))
            }
        }
    }

    fn await_assignment(&mut self, token: Token, id: &str) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.owes_sync = false;
        if let Some(older) = member.awaiting_sync.replace(token) {
            // The client gave up on that request; it must still be answered.
            let error = ErrorCode::RebalanceInProgress;
            self.out.sync(older, SyncAnswer::refused(error));
        }
    }

    /// The first assignment of a generation is the one: the leader may only repeat itself.
    fn assignment_is_on_its_way(&self) -> bool {
        self.stores.values().any(|purpose| {
            matches!(purpose, StorePurpose::Assignment { generation, .. }
                if *generation == self.generation)
        })
    }

    fn store_assignment(&mut self, request: &SyncRequest) {
        let mut assignments: BTreeMap<String, Bytes> = BTreeMap::new();
        for (id, assignment) in &request.assignments {
            if self.members.contains_key(id) {
                assignments.insert(id.clone(), assignment.clone());
            }
        }
        let given = assignments.clone();
        let purpose = StorePurpose::Assignment {
            generation: self.generation,
            assignments,
        };
        self.store(purpose, |member| {
            given.get(&member.id).cloned().unwrap_or_default()
        });
    }

    /// What became of a store.
    pub(crate) fn stored(&mut self, now: Now, id: StoreId, result: Result<(), ErrorCode>) {
        match self.stores.remove(&id) {
            None | Some(StorePurpose::Emptied) => {}
            Some(StorePurpose::Assignment {
                generation,
                assignments,
            }) => {
                // Somebody may have joined or left in the meantime: then it is worth nothing.
                if self.state == GroupState::CompletingRebalance && generation == self.generation {
                    match result {
                        Ok(()) => self.become_stable(now, &assignments),
                        Err(error) => {
                            self.refuse_syncs(now, error);
                            self.rebalance(now);
                        }
                    }
                }
            }
            Some(purpose @ StorePurpose::StaticReplaced { .. }) => {
                self.static_stored(now, purpose, result);
            }
        }
    }

    fn become_stable(&mut self, now: Now, assignments: &BTreeMap<String, Bytes>) {
        self.enter(GroupState::Stable, now);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let assignment = assignments.get(&id).cloned().unwrap_or_default();
            let answer = self.sync_answer(assignment.clone());
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.assignment = assignment;
            if let Some(token) = member.awaiting_sync.take() {
                self.out.sync(token, answer);
                self.touch(now, &id);
            }
        }
    }

    fn static_stored(&mut self, now: Now, purpose: StorePurpose, result: Result<(), ErrorCode>) {
        let StorePurpose::StaticReplaced {
            generation,
            token,
            before,
            member_id,
            leader_before,
            supports_skip_assignment,
        } = purpose
        else {
            return;
        };
        // When a rebalance has begun, the join waits for its end, like everybody's.
        if self.state != GroupState::Stable || generation != self.generation {
            return;
        }
        let waits = self.members.get_mut(&member_id).is_some_and(|member| {
            let waits = member.awaiting_join == Some(token);
            if waits {
                member.awaiting_join = None;
            }
            waits
        });
        if !waits {
            return;
        }
        if let Err(error) = result {
            self.members.remove(&member_id);
            let before = *before;
            let before_id = before.id.clone();
            if self.is_leader(&member_id) {
                self.leader = Some(before_id.clone());
            }
            if let Some(instance) = &before.instance_id {
                self.static_members
                    .insert(instance.clone(), before_id.clone());
            }
            self.members.insert(before_id.clone(), before);
            self.touch(now, &before_id);
            self.out.join(token, JoinAnswer::refused(error, ""));
            return;
        }
        let mut answer = self.join_answer(&member_id);
        if supports_skip_assignment {
            answer.skip_assignment = self.is_leader(&member_id);
        } else {
            // A client below version 9 that takes itself for the leader would assign, and nobody
            // would get to know: it is told of the leader that was.
            answer.leader = leader_before.unwrap_or_default();
            answer.members = Vec::new();
        }
        self.touch(now, &member_id);
        self.out.join(token, answer);
    }

    /// A sign of life. The answer tells of a rebalance.
    pub(crate) fn heartbeat(
        &mut self,
        now: Now,
        generation: i32,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> ErrorCode {
        if let Err(error) = self.check_generation(member_id, instance_id, generation) {
            return error;
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => ErrorCode::UnknownMemberId,
            GroupState::PreparingRebalance => {
                self.touch(now, member_id);
                ErrorCode::RebalanceInProgress
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.touch(now, member_id);
                ErrorCode::None
            }
        }
    }

    /// Members leave, or are made to. One result for each, in order.
    pub(crate) fn leave(
        &mut self,
        now: Now,
        leaving: &[LeaveMember],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        if self.state == GroupState::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let results: Vec<ErrorCode> = leaving
            .iter()
            .map(|member| match self.leave_one(member) {
                Ok(()) => ErrorCode::None,
                Err(error) => error,
            })
            .collect();
        if results.contains(&ErrorCode::None) {
            self.settle(now);
        }
        Ok(results)
    }

    fn leave_one(&mut self, leaving: &LeaveMember) -> Result<(), ErrorCode> {
        let instance = leaving.instance_id.as_deref();
        let id = if leaving.member_id.is_empty() {
            // Administrators know instance ids only.
            instance
                .and_then(|instance| self.static_members.get(instance))
                .cloned()
                .ok_or(ErrorCode::UnknownMemberId)?
        } else {
            leaving.member_id.clone()
        };
        if instance.is_none() && self.pending.remove(&id).is_some() {
            return Ok(());
        }
        self.check_member(&id, instance)?;
        self.remove_member(&id, ErrorCode::UnknownMemberId);
        Ok(())
    }

    /// Whether these may commit offsets now; a member's commit is a sign of life. A commit without
    /// generation is for groups that share out partitions by themselves, or for administrators, and
    /// only while nobody is a member.
    pub(crate) fn check_commit(
        &mut self,
        now: Now,
        generation: i32,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if self.state == GroupState::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_generation(member_id, instance_id, generation)?;
        if self.state == GroupState::CompletingRebalance {
            // It knows of the generation, but nobody's assignment counts yet.
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.touch(now, member_id);
        Ok(())
    }

    fn check_generation(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if self.state == GroupState::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.check_member(member_id, instance_id)?;
        if generation == self.generation {
            Ok(())
        } else {
            Err(ErrorCode::IllegalGeneration)
        }
    }
}
