//! JoinGroup.

use super::{
    CONSUMER_PROTOCOL_TYPE, GroupState, MEMBER_PROTOCOLS_MAX, Machine, Member, Now,
    PENDING_MEMBERS_MAX, StorePurpose, Token,
};
use crate::{
    ErrorCode,
    groups::{
        requests::{JoinAnswer, JoinRequest, SyncAnswer},
        subscription,
    },
};

/// A join that failed at once: the error, and the member id that the answer shows.
struct Refused(ErrorCode, String);

// === impl Machine ===

impl Machine {
    /// A member wants to join, or to join again. `new_member_id` is taken where the coordinator has
    /// to make an id. `token` is answered now or when the rebalance is over.
    pub(crate) fn join(
        &mut self,
        now: Now,
        token: Token,
        request: &JoinRequest,
        new_member_id: String,
    ) {
        if let Err(Refused(error, member_id)) = self.try_join(now, token, request, new_member_id) {
            self.out.join(token, JoinAnswer::refused(error, member_id));
        }
    }

    /// Ok: the token was answered or waits.
    fn try_join(
        &mut self,
        now: Now,
        token: Token,
        request: &JoinRequest,
        new_member_id: String,
    ) -> Result<(), Refused> {
        let refused = |error| Refused(error, request.member_id.clone());
        let timeouts = self.settings.session_timeout_ms_min..=self.settings.session_timeout_ms_max;
        if !timeouts.contains(&request.session_timeout_ms) {
            return Err(refused(ErrorCode::InvalidSessionTimeout));
        }
        if request.protocols.len() > MEMBER_PROTOCOLS_MAX {
            return Err(refused(ErrorCode::InvalidRequest));
        }
        if self.state == GroupState::Dead {
            return Err(refused(ErrorCode::CoordinatorNotAvailable));
        }
        // Who is not a member may not change anything, not even by being one too many.
        let is_pending = self.pending.contains_key(&request.member_id);
        if !request.member_id.is_empty() && !is_pending {
            self.check_member(&request.member_id, request.instance_id.as_deref())
                .map_err(refused)?;
        }
        if is_pending && request.instance_id.is_some() {
            // Static members never get a pending id.
            return Err(refused(ErrorCode::UnknownMemberId));
        }
        if !self.has_room_for(request) {
            if !request.member_id.is_empty() {
                self.pending.remove(&request.member_id);
                self.remove_member(&request.member_id, ErrorCode::GroupMaxSizeReached);
                self.settle(now);
            }
            return Err(Refused(ErrorCode::GroupMaxSizeReached, String::new()));
        }
        if !self.is_compatible(request) {
            return Err(refused(ErrorCode::InconsistentGroupProtocol));
        }
        if request.member_id.is_empty() {
            self.join_without_id(now, token, request, new_member_id)
        } else if is_pending {
            self.add_member(now, token, request, request.member_id.clone());
            Ok(())
        } else {
            self.join_again(now, token, request);
            Ok(())
        }
    }

    /// `group.max.size`. While members gather, those count who have gathered: whoever comes too
    /// late then has to go.
    fn has_room_for(&self, request: &JoinRequest) -> bool {
        let replaces = request.member_id.is_empty()
            && request
                .instance_id
                .as_ref()
                .is_some_and(|instance| self.static_members.contains_key(instance));
        let member = self.members.get(&request.member_id);
        match self.state {
            _ if replaces => true,
            GroupState::Empty | GroupState::Dead => self.settings.size_max > 0,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.joined_count() < self.settings.size_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < self.settings.size_max
            }
        }
    }

    /// Whether the newcomer speaks what all others speak.
    fn is_compatible(&self, request: &JoinRequest) -> bool {
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request
                .protocols
                .iter()
                .any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    fn join_without_id(
        &mut self,
        now: Now,
        token: Token,
        request: &JoinRequest,
        new_member_id: String,
    ) -> Result<(), Refused> {
        let holder = request
            .instance_id
            .as_ref()
            .and_then(|instance| self.static_members.get(instance))
            .and_then(|id| self.members.remove(id));
        if let Some(holder) = holder {
            self.replace_static(now, token, request, (holder, new_member_id));
            return Ok(());
        }
        if request.instance_id.is_some() || !request.require_member_id {
            self.add_member(now, token, request, new_member_id);
            return Ok(());
        }
        // KIP-394: a client whose first answer gets lost must not leave a member behind.
        if self.pending.len() >= PENDING_MEMBERS_MAX {
            return Err(Refused(ErrorCode::GroupMaxSizeReached, String::new()));
        }
        let timeout_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
        let timeout = std::time::Duration::from_millis(timeout_ms);
        let deadline = now.mono.saturating_add(timeout);
        self.pending.insert(new_member_id.clone(), deadline);
        self.out.wake_at(deadline);
        Err(Refused(ErrorCode::MemberIdRequired, new_member_id))
    }

    fn add_member(&mut self, now: Now, token: Token, request: &JoinRequest, id: String) {
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        let mut member = Member::new(id.clone(), request, self.next_arrival);
        self.next_arrival += 1;
        member.awaiting_join = Some(token);
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        self.members.insert(id.clone(), member);
        self.leader.get_or_insert_with(|| id.clone());
        if let Some(phase) = &mut self.join_phase {
            phase.new_member_added = true;
        }
        self.touch(now, &id);
        self.rebalance(now);
    }

    /// A known member joins.
    fn join_again(&mut self, now: Now, token: Token, request: &JoinRequest) {
        let id = &request.member_id;
        let same = self
            .members
            .get(id)
            .is_some_and(|member| member.has_protocols(&request.protocols));
        let only_repeats = match self.state {
            // It may not have got the answer to its last join.
            GroupState::CompletingRebalance => same,
            // The leader joins again when what it watches has changed, topics for instance, though
            // its own metadata has not.
            GroupState::Stable => same && !self.is_leader(id),
            _ => false,
        };
        if only_repeats {
            self.touch(now, id);
            self.out.join(token, self.join_answer(id));
            return;
        }
        if let Some(member) = self.members.get_mut(id) {
            member.update(request);
            if let Some(older) = member.awaiting_join.replace(token) {
                // The client gave up on that request; it must still be answered.
                let error = ErrorCode::RebalanceInProgress;
                self.out.join(older, JoinAnswer::refused(error, id.clone()));
            }
        }
        self.touch(now, id);
        self.rebalance(now);
    }

    /// A static member joins without a member id: whoever held the instance id until now, already
    /// taken out of the members, is fenced and replaced by the second part of `replacement`.
    fn replace_static(
        &mut self,
        now: Now,
        token: Token,
        request: &JoinRequest,
        replacement: (Member, String),
    ) {
        let (mut member, new_id) = replacement;
        let fenced = ErrorCode::FencedInstanceId;
        if let Some(older) = member.awaiting_join.take() {
            self.out
                .join(older, JoinAnswer::refused(fenced, member.id.clone()));
        }
        if let Some(older) = member.awaiting_sync.take() {
            self.out.sync(older, SyncAnswer::refused(fenced));
        }
        let before = member.clone();
        let leader_before = self.leader.clone();
        if self.is_leader(&before.id) {
            self.leader = Some(new_id.clone());
        }
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), new_id.clone());
        }
        member.id.clone_from(&new_id);
        member.update(request);
        member.awaiting_join = Some(token);
        let subscribes_otherwise = self.subscribes_otherwise(&before, &member);
        self.members.insert(new_id.clone(), member);
        self.touch(now, &new_id);

        // In the other states the leader may have been sent the old id already, or members gather.
        let stays = self.state == GroupState::Stable
            && !subscribes_otherwise
            && self.select_protocol() == self.protocol;
        if !stays {
            self.rebalance(now);
            return;
        }
        let purpose = StorePurpose::StaticReplaced {
            generation: self.generation,
            token,
            before: Box::new(before),
            member_id: new_id,
            leader_before,
            supports_skip_assignment: request.supports_skip_assignment,
        };
        self.store(purpose, |member| member.assignment.clone());
    }

    /// Whether a consumer came back with other topics, so that the group's assignment is no longer
    /// right. Bytes are not compared: they also hold what the consumer owned before it went.
    fn subscribes_otherwise(&self, before: &Member, after: &Member) -> bool {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL_TYPE) {
            return false;
        }
        let topics = |member: &Member| {
            let protocol = self.protocol.as_deref()?;
            subscription::topics(&member.metadata(protocol)?)
        };
        match (topics(before), topics(after)) {
            (Some(before), Some(after)) => before != after,
            _ => false,
        }
    }
}
