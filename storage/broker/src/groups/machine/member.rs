//! One member of a group.

use std::time::Duration;

use bytes::Bytes;

use super::{SnapshotMember, Token};
use crate::groups::requests::JoinRequest;

/// One member of a group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    /// In order of preference; no name occurs twice.
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    /// The order in which members came; the eldest is preferred as leader.
    pub(crate) arrival: u64,
    /// It has not been part of a generation yet, and so cannot send heartbeats.
    pub(crate) is_new: bool,
    /// It has not asked for its assignment in the current generation.
    pub(crate) owes_sync: bool,
    pub(crate) awaiting_join: Option<Token>,
    pub(crate) awaiting_sync: Option<Token>,
    /// When its session ends.
    pub(crate) deadline: Duration,
}

// === impl Member ===

impl Member {
    /// A member that joins for the first time.
    pub(super) fn new(id: String, request: &JoinRequest, arrival: u64) -> Self {
        let mut member = Self {
            id,
            instance_id: request.instance_id.clone(),
            client_id: String::new(),
            client_host: String::new(),
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            arrival,
            is_new: true,
            owes_sync: false,
            awaiting_join: None,
            awaiting_sync: None,
            deadline: Duration::ZERO,
        };
        member.update(request);
        member
    }

    /// A member as it was stored. Only its metadata for the selected protocol was.
    pub(super) fn restored(stored: SnapshotMember, protocol: &str, arrival: u64) -> Self {
        Self {
            id: stored.member_id,
            instance_id: stored.instance_id,
            client_id: stored.client_id,
            client_host: stored.client_host,
            session_timeout: millis(stored.session_timeout_ms),
            rebalance_timeout: millis(stored.rebalance_timeout_ms),
            protocols: vec![(protocol.to_owned(), stored.subscription)],
            assignment: stored.assignment,
            arrival,
            is_new: false,
            owes_sync: false,
            awaiting_join: None,
            awaiting_sync: None,
            deadline: Duration::ZERO,
        }
    }

    /// Takes over what a later join says.
    pub(super) fn update(&mut self, request: &JoinRequest) {
        self.client_id.clone_from(&request.client_id);
        self.client_host.clone_from(&request.client_host);
        self.session_timeout = millis(request.session_timeout_ms);
        self.rebalance_timeout = if request.rebalance_timeout_ms < 0 {
            self.session_timeout
        } else {
            millis(request.rebalance_timeout_ms)
        };
        self.protocols = distinct(&request.protocols);
    }

    /// Whether it joined with just these protocols and metadata before.
    pub(super) fn has_protocols(&self, protocols: &[(String, Bytes)]) -> bool {
        self.protocols == distinct(protocols)
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn metadata(&self, protocol: &str) -> Option<Bytes> {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map(|(_, metadata)| metadata.clone())
    }

    /// When the session ends. Never while it waits for an answer of ours, unless it is new: then
    /// the deadline is that of the first join.
    pub(super) fn session_deadline(&self) -> Option<Duration> {
        let waits = self.awaiting_join.is_some() || self.awaiting_sync.is_some();
        (self.is_new || !waits).then_some(self.deadline)
    }

    pub(super) fn snapshot(&self, protocol: &str, assignment: Bytes) -> SnapshotMember {
        SnapshotMember {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: to_millis(self.rebalance_timeout),
            session_timeout_ms: to_millis(self.session_timeout),
            subscription: self.metadata(protocol).unwrap_or_default(),
            assignment,
        }
    }
}

/// The protocols without those whose name came before.
fn distinct(protocols: &[(String, Bytes)]) -> Vec<(String, Bytes)> {
    let mut kept: Vec<(String, Bytes)> = Vec::with_capacity(protocols.len());
    for (name, metadata) in protocols {
        if !kept.iter().any(|(known, _)| known == name) {
            kept.push((name.clone(), metadata.clone()));
        }
    }
    kept
}

fn millis(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

fn to_millis(value: Duration) -> i32 {
    i32::try_from(value.as_millis()).unwrap_or(i32::MAX)
}
