//! Who owns which session, in a cluster.
//!
//! Every session has one owner: the node that its client is connected to, or was last. An owner
//! keeps the [`super::SessionEntry`], runs its timers and is the only one to write its records. It
//! becomes the owner by a *claim*, a record with a term that is higher than any before; the leader
//! of the session's partition in `__mqtt_sessions` admits records by the present claim only
//! ([`Coordinator`]), in the order of its log, so that a former owner writes nothing behind the claim
//! of its successor, and what the log says last of a key is what the owner said last.
//!
//! Every node applies the committed records of all partitions as they come ([`Owners`]), so that a
//! claim is followed by a look at the state that it found. A cluster of one has no claims, applies
//! nothing and asks nobody.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mainstem_log::Partition;
use mainstem_record::{LeaderEpoch, Offset, PartitionIndex};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::replay::{Replayed, ReplayedSession};
use crate::{
    access::wire::{Claim, Guard, GuardKind},
    error_code::ErrorCode,
    mqtt::{hub::Hub, limits::APPLY_WAIT},
};

/// Locks over which clients are spread while they are acquired.
const ACQUIRING_STRIPES: usize = 64;
/// Claims that a coordinator remembers beside what is applied.
const RECENT_MAX: usize = 10_000;

/// What the log says of all sessions.
pub(crate) struct Owners {
    partitions: Vec<Part>,
    acquiring: [tokio::sync::Mutex<()>; ACQUIRING_STRIPES],
}

/// One partition of `__mqtt_sessions`.
struct Part {
    applied: Mutex<Replayed>,
    /// All committed records below it are applied.
    reached: watch::Sender<Offset>,
    coordinator: Arc<tokio::sync::Mutex<Coordinator>>,
}

/// Admits records to a partition that this node leads. Held while they take their places, so that
/// the log's order is that of the decisions.
#[derive(Default)]
pub(crate) struct Coordinator {
    /// The epoch of which everything before is applied.
    epoch: Option<LeaderEpoch>,
    /// The latest claims since then; `None`: the session has ended.
    recent: HashMap<String, Option<Claim>>,
}

/// The turn to admit records, and what is applied.
pub(crate) struct Admission<'a> {
    coordinator: tokio::sync::OwnedMutexGuard<Coordinator>,
    part: &'a Part,
}

// === impl Owners ===

impl Owners {
    pub(crate) fn new(partitions: i32) -> Self {
        let part = |_| Part {
            applied: Mutex::default(),
            reached: watch::channel(Offset::ZERO).0,
            coordinator: Arc::default(),
        };
        Self {
            partitions: (0..partitions.max(0)).map(part).collect(),
            acquiring: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        }
    }

    /// Held while a client's session is acquired.
    pub(super) fn acquiring(&self, client: &str) -> &tokio::sync::Mutex<()> {
        let hash = mainstem_record::murmur2(client.as_bytes()).unsigned_abs() as usize;
        &self.acquiring[hash % ACQUIRING_STRIPES]
    }

    fn part(&self, index: PartitionIndex) -> Option<&Part> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = PartitionIndex> + use<> {
        let count = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX);
        (0..count).map(PartitionIndex)
    }

    /// The present claim on a session, as far as it is applied.
    pub(super) fn claim(&self, index: PartitionIndex, client: &str) -> Option<Claim> {
        let part = self.part(index)?;
        let applied = part.applied.lock();
        applied
            .sessions
            .get(client)
            .and_then(|session| session.claim)
    }

    /// What is applied of a session.
    pub(super) fn session(&self, index: PartitionIndex, client: &str) -> Option<ReplayedSession> {
        let part = self.part(index)?;
        let applied = part.applied.lock();
        applied.sessions.get(client).cloned()
    }

    /// What is applied of share groups that are in this partition.
    pub(super) fn groups(
        &self,
        index: PartitionIndex,
    ) -> BTreeMap<String, Vec<(mainstem_record::PartitionId, Offset)>> {
        let part = self.part(index);
        part.map(|part| part.applied.lock().groups.clone())
            .unwrap_or_default()
    }

    /// The clients whose session `wanted` wants by its claim, in order.
    pub(super) fn clients(
        &self,
        index: PartitionIndex,
        wanted: impl Fn(&str, Option<Claim>) -> bool,
    ) -> Vec<String> {
        let Some(part) = self.part(index) else {
            return Vec::new();
        };
        let applied = part.applied.lock();
        let sessions = applied.sessions.iter();
        let mut clients: Vec<String> = sessions
            .filter(|(client, session)| wanted(client, session.claim))
            .map(|(client, _)| client.clone())
            .collect();
        clients.sort_unstable();
        clients
    }

    /// Waits until everything below `end` is applied; not for ever.
    pub(super) async fn applied_to(
        &self,
        hub: &Hub,
        index: PartitionIndex,
        end: Offset,
    ) -> Result<(), ErrorCode> {
        let part = self.part(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let mut reached = part.reached.subscribe();
        let waiting = async { reached.wait_for(|at| *at >= end).await.is_ok() };
        match hub.core.env.timeout(APPLY_WAIT, waiting).await {
            Ok(true) => Ok(()),
            _ => Err(ErrorCode::CoordinatorLoadInProgress),
        }
    }
}

// === impl Hub ===

impl Hub {
    /// Applies one partition until the node ends.
    pub(crate) async fn apply_sessions(self: Arc<Self>, index: PartitionIndex) {
        let Some(part) = self.owners.part(index) else {
            return;
        };
        let mut each = |record: crate::internal::ReplayRecord<'_>| {
            let learned = part.applied.lock().apply(&record);
            if let Some((client, claim)) = learned {
                self.learned_claim(&client, claim);
            }
        };
        let reached = |at: Offset| {
            part.reached.send_replace(at);
        };
        self.store.follow(index, &mut each, &reached).await;
    }

    /// The turn to admit records to a partition that this node leads, once what other leaders have
    /// admitted is applied.
    pub(crate) async fn admission(
        &self,
        index: PartitionIndex,
        partition: &Partition,
    ) -> Result<Admission<'_>, ErrorCode> {
        let part = self
            .owners
            .part(index)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let mut coordinator = part.coordinator.clone().lock_owned().await;
        let epoch = partition.epoch();
        if coordinator.epoch != Some(epoch) || coordinator.recent.len() >= RECENT_MAX {
            // What is written and not committed yet will be, and counts.
            let end = partition.ends().log_end;
            self.owners.applied_to(self, index, end).await?;
            coordinator.epoch = Some(epoch);
            coordinator.recent.clear();
        }
        Ok(Admission { coordinator, part })
    }
}

// === impl Admission ===

impl Admission<'_> {
    /// Whether records under `guard` may be appended; if so they are, next.
    pub(crate) fn admit(&mut self, guard: &Guard) -> bool {
        let recent = self.coordinator.recent.get(&guard.client).copied();
        let present = recent.unwrap_or_else(|| {
            let applied = self.part.applied.lock();
            let session = applied.sessions.get(&guard.client);
            session.and_then(|session| session.claim)
        });
        let is_admitted = match (guard.kind, guard.claim, present) {
            (GuardKind::New, Some(new), Some(old)) => new.term > old.term || new == old,
            (GuardKind::New, claim, None) => claim.is_some(),
            (GuardKind::New, None, Some(_)) => false,
            (GuardKind::Present | GuardKind::Last, claim, present) => claim == present,
        };
        if is_admitted {
            let claim = match guard.kind {
                GuardKind::New => guard.claim,
                GuardKind::Last => None,
                GuardKind::Present => return true,
            };
            self.coordinator.recent.insert(guard.client.clone(), claim);
        }
        is_admitted
    }
}
