//! The state machine of one classic consumer group, without I/O, clock, randomness or tasks.
//!
//! ```text
//!            first join                 all joined, or the wait is over
//!   Empty ───────────────▶ PreparingRebalance ───────────────▶ CompletingRebalance
//!     ▲                      │   ▲        ▲                       │          │
//!     └──────────────────────┘   │        └───────────────────────┘          │ the leader's sync
//!       nobody is left           │     join, leave, death, sync too late     │ is durable
//!                                │                                           ▼
//!                                └──────────────────────────────────────── Stable
//!                                   join, leave, death, sync too late
//!   Empty ──▶ Dead: deleted; the entry is about to go
//! ```
//!
//! A request that has to wait is known by its [`Token`]; each token is answered exactly once, by an
//! [`Effect`]. What must be durable leaves as [`Effect::Store`] and comes back as
//! [`Machine::stored`]. Time is passed in; [`Machine::tick`] must be called when a deadline passes.
//! The rules are those of Kafka's group coordinator with KIP-134 (initial delay), KIP-345 (static
//! members), KIP-394 (member id required), KIP-814 (skip assignment) and `group.max.size`.

mod join;
mod member;
mod rebalance;
mod sync;
mod types;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod model;
#[cfg(test)]
mod static_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use self::member::Member;
pub(crate) use self::types::{Effect, GroupState, Now, Outbox, Settings, Snapshot, SnapshotMember};
use super::{
    requests::{DescribedMember, JoinAnswer, JoinMember, SyncAnswer},
    subscription,
};
use crate::ErrorCode;

/// A first join waits no longer for its group: the client has no member id yet and cannot send
/// heartbeats, so that nothing else would end the wait of one that is gone.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(300);

/// A rebalance that nobody has joined is looked at again after at least so long, whatever rebalance
/// timeout its members asked for.
const REARM_MIN: Duration = Duration::from_millis(100);

/// Member ids given out by KIP-394 and not yet used, at most, in one group.
const PENDING_MEMBERS_MAX: usize = 10_000;

/// Protocols that one member may name. Clients name one to four.
const MEMBER_PROTOCOLS_MAX: usize = 100;

/// The protocol type whose metadata we look into, for the topics that a group subscribes to.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// A request that waits for its answer.
pub(crate) type Token = u64;

/// The number of a store that was asked for by [`Effect::Store`].
pub(crate) type StoreId = u64;

/// The wait for members in `PreparingRebalance`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct JoinPhase {
    deadline: Duration,
    /// Set in an initial phase, which nothing but time ends: how much longer it may become.
    extension: Option<Duration>,
    /// Somebody new joined during this part of an initial phase.
    new_member_added: bool,
}

/// What a store was for.
#[derive(Clone, Debug, PartialEq)]
enum StorePurpose {
    /// The group became empty. Nobody waits.
    Emptied,
    /// The leader's assignment for a generation, by member id.
    Assignment {
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
    },
    /// A static member came back under a new member id while the group was stable.
    StaticReplaced {
        generation: i32,
        token: Token,
        before: Box<Member>,
        member_id: String,
        leader_before: Option<String>,
        supports_skip_assignment: bool,
    },
}

/// One group. See the module's documentation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Machine {
    settings: Settings,
    state: GroupState,
    state_since_ms: i64,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Instance id to member id.
    static_members: BTreeMap<String, String>,
    /// Member ids given out by KIP-394 and not yet used, with their deadlines.
    pending: BTreeMap<String, Duration>,
    join_phase: Option<JoinPhase>,
    /// Until when every member of the generation must have asked for its assignment.
    sync_deadline: Option<Duration>,
    stores: BTreeMap<StoreId, StorePurpose>,
    next_store: StoreId,
    next_arrival: u64,
    out: Outbox,
}

// === impl Machine ===

impl Machine {
    /// A group without members.
    pub(crate) fn new(settings: Settings, wall_ms: i64) -> Self {
        Self {
            settings,
            state: GroupState::Empty,
            state_since_ms: wall_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_phase: None,
            sync_deadline: None,
            stores: BTreeMap::new(),
            next_store: 0,
            next_arrival: 0,
            out: Outbox::default(),
        }
    }

    /// A group as it was stored. Its members' sessions begin anew: they could not reach us while
    /// we were away.
    pub(crate) fn restore(settings: Settings, now: Now, snapshot: Snapshot) -> Self {
        let mut machine = Self::new(settings, snapshot.state_since_ms);
        machine.generation = snapshot.generation.max(0);
        machine.protocol_type = Some(snapshot.protocol_type).filter(|kind| !kind.is_empty());
        if snapshot.members.is_empty() {
            return machine;
        }
        machine.state = GroupState::Stable;
        machine.protocol = snapshot.protocol;
        machine.leader = snapshot.leader;
        let protocol = machine.protocol.clone().unwrap_or_default();
        for stored in snapshot.members {
            let member = Member::restored(stored, &protocol, machine.next_arrival);
            machine.next_arrival += 1;
            if let Some(instance) = &member.instance_id {
                machine
                    .static_members
                    .insert(instance.clone(), member.id.clone());
            }
            machine.members.insert(member.id.clone(), member);
        }
        // A leader that is not a member would leave the group without anyone to assign.
        if !machine
            .leader
            .as_ref()
            .is_some_and(|leader| machine.members.contains_key(leader))
        {
            machine.leader = machine.eldest(|_| true);
        }
        let ids: Vec<String> = machine.members.keys().cloned().collect();
        for id in ids {
            machine.touch(now, &id);
        }
        machine
    }

    /// What is to be done since the last look.
    pub(crate) fn take_output(&mut self) -> Outbox {
        std::mem::take(&mut self.out)
    }

    /// The state.
    pub(crate) fn state(&self) -> GroupState {
        self.state
    }

    /// The generation; it only grows.
    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    /// Since when the group is in its state, in milliseconds since the Unix epoch; -1 = unknown.
    pub(crate) fn state_since_ms(&self) -> i64 {
        self.state_since_ms
    }

    /// The protocol type; none for a group that only ever held offsets.
    pub(crate) fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// Whether nothing would be lost with this machine: no member, no pending one, no history.
    pub(crate) fn is_vacant(&self) -> bool {
        self.can_be_forgotten() && !self.was_stored()
    }

    /// Whether the group is empty and nobody is about to come in.
    pub(crate) fn can_be_forgotten(&self) -> bool {
        self.state == GroupState::Empty && self.pending.is_empty() && self.stores.is_empty()
    }

    /// Whether a record of the group may be in the log.
    pub(crate) fn was_stored(&self) -> bool {
        self.generation > 0
    }

    /// Marks an empty group as deleted. False, and no change, when it is not empty.
    pub(crate) fn kill(&mut self) -> bool {
        if self.state != GroupState::Empty {
            return false;
        }
        self.state = GroupState::Dead;
        true
    }

    /// Takes [`Machine::kill`] back: the deletion could not be stored.
    pub(crate) fn revive(&mut self) {
        if self.state == GroupState::Dead {
            self.state = GroupState::Empty;
        }
    }

    /// The topics that a stable or rebalancing group of type `consumer` subscribes to; none where
    /// that cannot be told, either for the type or because a member's metadata is not understood.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL_TYPE) {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription::topics(&member.metadata(protocol)?)?);
        }
        Some(topics)
    }

    /// The selected protocol and the members, as DescribeGroups shows them: without details unless
    /// the group is stable.
    pub(crate) fn describe(&self) -> (String, Vec<DescribedMember>) {
        let stable = self.state == GroupState::Stable;
        let protocol = if stable {
            self.protocol.clone().unwrap_or_default()
        } else {
            String::new()
        };
        let members = self
            .members
            .values()
            .map(|member| DescribedMember {
                member_id: member.id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: if stable {
                    member.metadata(&protocol).unwrap_or_default()
                } else {
                    Bytes::new()
                },
                assignment: if stable {
                    member.assignment.clone()
                } else {
                    Bytes::new()
                },
            })
            .collect();
        (protocol, members)
    }

    /// The earliest deadline, if anything waits for time to pass.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let sessions = self.members.values().filter_map(Member::session_deadline);
        let pending = self.pending.values().copied();
        let joins = self.join_phase.map(|phase| phase.deadline);
        sessions
            .chain(pending)
            .chain(joins)
            .chain(self.sync_deadline)
            .min()
    }

    /// Answers everybody who waits with `error`: the coordinator goes away.
    pub(crate) fn abandon(&mut self, error: ErrorCode) {
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_join.take() {
                self.out
                    .join(token, JoinAnswer::refused(error, member.id.clone()));
            }
            if let Some(token) = member.awaiting_sync.take() {
                self.out.sync(token, SyncAnswer::refused(error));
            }
        }
    }

    /// Checks that `member_id` is a member, and the one that holds `instance_id` if that is given.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ErrorCode::UnknownMemberId)
        }
    }

    /// A sign of life: the member's session begins anew.
    fn touch(&mut self, now: Now, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            let timeout = if member.is_new {
                NEW_MEMBER_JOIN_TIMEOUT
            } else {
                member.session_timeout
            };
            member.deadline = now.mono.saturating_add(timeout);
            self.out.wake_at(member.deadline);
        }
    }

    fn enter(&mut self, state: GroupState, now: Now) {
        self.state = state;
        self.state_since_ms = now.wall_ms;
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// The member that was in the group first among those that `wanted` picks.
    fn eldest(&self, wanted: impl Fn(&Member) -> bool) -> Option<String> {
        self.members
            .values()
            .filter(|member| wanted(member))
            .min_by_key(|member| member.arrival)
            .map(|member| member.id.clone())
    }

    /// The current generation as `member_id` is told it.
    fn join_answer(&self, member_id: &str) -> JoinAnswer {
        JoinAnswer {
            error: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if self.is_leader(member_id) {
                self.join_members()
            } else {
                Vec::new()
            },
        }
    }

    fn join_members(&self) -> Vec<JoinMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members
            .values()
            .map(|member| JoinMember {
                member_id: member.id.clone(),
                instance_id: member.instance_id.clone(),
                metadata: member.metadata(protocol).unwrap_or_default(),
            })
            .collect()
    }

    fn sync_answer(&self, assignment: Bytes) -> SyncAnswer {
        SyncAnswer {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment,
        }
    }

    /// Asks the shell to store the group with `assignment_of` each member.
    fn store(&mut self, purpose: StorePurpose, assignment_of: impl Fn(&Member) -> Bytes) {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = self.members.values();
        let snapshot = Snapshot {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: members
                .map(|member| member.snapshot(&protocol, assignment_of(member)))
                .collect(),
        };
        let id = self.next_store;
        self.next_store += 1;
        self.stores.insert(id, purpose);
        self.out.effects.push(Effect::Store(id, snapshot));
    }
}
