//! What goes into a machine and what comes out of it.

use std::time::Duration;

use bytes::Bytes;

use super::{StoreId, Token};
use crate::groups::requests::{JoinAnswer, SyncAnswer};

/// The two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// For deadlines.
    pub(crate) mono: Duration,
    /// For what people see and for the expiry of offsets. Milliseconds since the Unix epoch.
    pub(crate) wall_ms: i64,
}

/// What the configuration says of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `group.initial.rebalance.delay.ms`.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub(crate) session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`.
    pub(crate) session_timeout_ms_max: i32,
    /// `group.max.size`.
    pub(crate) size_max: usize,
}

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Waits for its members to join.
    PreparingRebalance,
    /// Waits for the leader's assignment to arrive and to be durable.
    CompletingRebalance,
    /// Every member may have its assignment.
    Stable,
    /// Deleted; about to be forgotten.
    Dead,
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Answer a join.
    Join(Token, JoinAnswer),
    /// Answer a sync.
    Sync(Token, SyncAnswer),
    /// Make the snapshot durable and call [`Machine::stored`], in the order of the effects.
    Store(StoreId, Snapshot),
}

/// What is durable of a group, apart from its offsets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    /// The protocol type; empty for a group that only ever held offsets.
    pub(crate) protocol_type: String,
    /// The generation.
    pub(crate) generation: i32,
    /// The selected protocol.
    pub(crate) protocol: Option<String>,
    /// The leader's member id.
    pub(crate) leader: Option<String>,
    /// Since when the group is in its state; -1 = unknown. Milliseconds since the Unix epoch.
    pub(crate) state_since_ms: i64,
    /// The members; none = the group is empty.
    pub(crate) members: Vec<SnapshotMember>,
}

/// One member of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SnapshotMember {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    /// Its metadata for the selected protocol.
    pub(crate) subscription: Bytes,
    pub(crate) assignment: Bytes,
}

/// What the machine gives out: taken by the shell after each call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outbox {
    pub(crate) effects: Vec<Effect>,
    /// The earliest deadline set since the last look, if any.
    pub(crate) wake: Option<Duration>,
    /// Rebalances begun since the last look.
    pub(crate) rebalances: u64,
    /// Members that were found dead since the last look.
    pub(crate) expired: u64,
}

// === impl GroupState ===

impl GroupState {
    /// Kafka's word for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn join(&mut self, token: Token, answer: JoinAnswer) {
        self.effects.push(Effect::Join(token, answer));
    }

    pub(super) fn sync(&mut self, token: Token, answer: SyncAnswer) {
        self.effects.push(Effect::Sync(token, answer));
    }

    pub(super) fn wake_at(&mut self, deadline: Duration) {
        self.wake = Some(self.wake.map_or(deadline, |wake| wake.min(deadline)));
    }
}
