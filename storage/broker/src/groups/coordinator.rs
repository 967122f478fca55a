//! The coordinator: all groups, and the carrying out of what their machines ask for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dashmap::{DashMap, Entry};
use mainstem_config::GroupConfig;
use mainstem_record::{Offset, PartitionIndex};
use tokio::sync::Semaphore;

use super::{
    group::{Group, Inside},
    leading::LOADS_AT_ONCE,
    machine::{Effect, Machine, Now, Settings, Snapshot},
    metrics::Metrics,
    offsets::OffsetTable,
    store,
    terms::{Term, Terms},
    timers::Timers,
    wire::FormatError,
    world::{Placed, World},
};
use crate::{ErrorCode, internal::KeyValue};

/// The longest group id that the records can hold: strings have 16-bit lengths.
const GROUP_ID_BYTES_MAX: usize = i16::MAX as usize;

/// Groups on one node, so that made-up names cannot fill the memory.
const GROUPS_MAX: usize = 1_000_000;

/// The most records in one batch of the group log: some 500 KiB of commits.
pub(super) const BATCH_RECORDS_MAX: usize = 4096;

/// All groups of this node.
pub(crate) struct Coordinator {
    pub(super) world: Arc<dyn World>,
    pub(super) config: GroupConfig,
    pub(super) metrics: Metrics,
    pub(super) timers: Timers,
    pub(super) terms: Terms,
    pub(super) loads: Semaphore,
    settings: Settings,
    groups: DashMap<Arc<str>, Arc<Group>>,
    closed: AtomicBool,
}

/// A group id that the records cannot hold is refused before anything is made for it.
pub(super) fn check_group_id_length(group: &str) -> Result<(), ErrorCode> {
    if group.len() > GROUP_ID_BYTES_MAX {
        return Err(ErrorCode::InvalidGroupId);
    }
    Ok(())
}

// === impl Coordinator ===

impl Coordinator {
    pub(crate) fn new(world: Arc<dyn World>, config: GroupConfig, metrics: Metrics) -> Self {
        let settings = Settings {
            initial_rebalance_delay: Duration::from_millis(config.initial_rebalance_delay_ms),
            session_timeout_ms_min: config.session_timeout_ms_min,
            session_timeout_ms_max: config.session_timeout_ms_max,
            size_max: config.size_max,
        };
        Self {
            world,
            config,
            metrics,
            timers: Timers::default(),
            terms: Terms::default(),
            loads: Semaphore::new(LOADS_AT_ONCE),
            settings,
            groups: DashMap::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Brings back a group as the log has it.
    pub(super) fn restore(
        self: &Arc<Self>,
        term: &Arc<Term>,
        name: &str,
        (snapshot, mut offsets): (Option<Snapshot>, OffsetTable),
    ) {
        offsets.bind(|topic| self.world.topic(topic).map(|view| view.id));
        let machine = match snapshot {
            Some(snapshot) => Machine::restore(self.settings, self.now(), snapshot),
            None if offsets.is_empty() => return,
            None => Machine::new(self.settings, -1),
        };
        let group = Arc::new(Group::new(name, term.clone(), machine, offsets));
        self.groups.insert(group.name.clone(), group.clone());
        // Starts the sessions of the members.
        self.act(&group, |_, _| ());
    }

    pub(crate) fn count(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.world.env().now(),
            wall_ms: self.world.env().wall_ms(),
        }
    }

    /// Fails once [`Coordinator::close`] was called.
    pub(crate) fn check_open(&self) -> Result<(), ErrorCode> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(())
    }

    /// As [`Coordinator::check_open`], and fails if this node does not coordinate the group, or does
    /// not know what was kept of it: it must not look like a group without members and offsets.
    pub(super) fn check_served(&self, group: &str) -> Result<(), ErrorCode> {
        self.serving(group).map(drop)
    }

    /// The term in which the group is served.
    fn serving(&self, group: &str) -> Result<Arc<Term>, ErrorCode> {
        self.check_open()?;
        self.terms.serving(self.world.partition_of(group))
    }

    /// Checks that requests for this group can be served: everything but commits needs a name.
    pub(super) fn check_request(&self, group: &str) -> Result<(), ErrorCode> {
        self.check_served(group)?;
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        check_group_id_length(group)
    }

    /// A group; `None` if there is none of that name. Fails where this node cannot know that.
    pub(super) fn group(&self, name: &str) -> Result<Option<Arc<Group>>, ErrorCode> {
        let term = self.serving(name)?;
        let found = self.groups.get(name).map(|group| group.clone());
        let found = found.filter(|group| Arc::ptr_eq(&group.term, &term));
        match found {
            // It may have gone with the term.
            None if term.is_over() => Err(ErrorCode::NotCoordinator),
            found => Ok(found),
        }
    }

    pub(super) fn group_or_new(&self, name: &str) -> Result<Arc<Group>, ErrorCode> {
        if let Some(group) = self.group(name)? {
            return Ok(group);
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let term = self.serving(name)?;
        let machine = Machine::new(self.settings, self.now().wall_ms);
        let new = Group::new(name, term.clone(), machine, OffsetTable::default());
        let new = Arc::new(new);
        let group = match self.groups.entry(new.name.clone()) {
            Entry::Occupied(entry) if Arc::ptr_eq(&entry.get().term, &term) => entry.get().clone(),
            Entry::Occupied(mut entry) => {
                entry.insert(new.clone());
                new
            }
            Entry::Vacant(entry) => {
                entry.insert(new.clone());
                new
            }
        };
        if term.is_over() {
            // Whoever ended it may have looked before the group was there.
            self.forget(&group);
            return Err(ErrorCode::NotCoordinator);
        }
        Ok(group)
    }

    /// All groups by name, without holding any lock afterwards.
    pub(super) fn all(&self) -> Vec<Arc<Group>> {
        let groups = self.groups.iter();
        let mut all: Vec<_> = groups.map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Forgets a dead group, unless the name means another one already.
    pub(super) fn forget(&self, group: &Arc<Group>) {
        self.groups
            .remove_if(&group.name, |_, known| Arc::ptr_eq(known, group));
    }

    /// Does something with a group and carries out what its machine then asks for.
    pub(super) fn act<T>(
        self: &Arc<Self>,
        group: &Arc<Group>,
        action: impl FnOnce(&mut Inside, Now) -> T,
    ) -> T {
        let mut inside = group.inside.lock();
        // Read under the lock: time never goes back for one group.
        let now = self.now();
        let result = action(&mut inside, now);
        self.carry_out(group, &mut inside);
        result
    }

    /// Lets a group's deadlines pass; called by the timers.
    pub(super) fn tick(self: &Arc<Self>, group: &Arc<Group>, due: Duration) {
        if group.term.is_over() {
            return;
        }
        let next = self.act(group, |inside, now| {
            if inside.scheduled != Some(due) {
                // An earlier entry took over and has been here already.
                return None;
            }
            inside.scheduled = None;
            inside.machine.tick(now);
            inside.machine.next_deadline()
        });
        if let Some(next) = next {
            self.schedule(group, &mut group.inside.lock(), next);
        }
        self.drop_if_vacant(group);
    }

    fn schedule(&self, group: &Arc<Group>, inside: &mut Inside, at: Duration) {
        if inside.scheduled.is_none_or(|scheduled| at < scheduled) {
            inside.scheduled = Some(at);
            self.timers.add(at, group.clone());
        }
    }

    fn carry_out(self: &Arc<Self>, group: &Arc<Group>, inside: &mut Inside) {
        let out = inside.machine.take_output();
        if out.rebalances > 0 {
            self.metrics.rebalances.inc_by(out.rebalances);
            let generation = inside.machine.generation();
            tracing::debug!(group = %group.name, generation, "rebalance begun");
        }
        if out.expired > 0 {
            self.metrics.members_expired.inc_by(out.expired);
            tracing::info!(group = %group.name, members = out.expired, "silent members removed");
        }
        for effect in out.effects {
            match effect {
                Effect::Join(token, answer) => inside.answer_join(token, answer),
                Effect::Sync(token, answer) => inside.answer_sync(token, answer),
                Effect::Store(id, snapshot) => {
                    if inside.enqueue_store(id, snapshot) {
                        let writer = self.clone().write_stores(group.clone());
                        self.world.spawn("group store", Box::pin(writer));
                    }
                }
            }
        }
        if let Some(wake) = out.wake {
            self.schedule(group, inside, wake);
        }
    }

    /// Writes what a group has to store until nothing is left.
    async fn write_stores(self: Arc<Self>, group: Arc<Group>) {
        loop {
            let _shared = group.order.read().await;
            let (taken, dead) = {
                let mut inside = group.inside.lock();
                (inside.take_stores(), inside.is_dead())
            };
            let Some((ids, snapshot)) = taken else { break };
            let result = if dead {
                Err(ErrorCode::CoordinatorNotAvailable)
            } else {
                self.append_group(&group, &snapshot).await
            };
            self.act(&group, |inside, now| {
                for id in ids {
                    inside.machine.stored(now, id, result);
                }
            });
        }
    }

    async fn append_group(&self, group: &Group, snapshot: &Snapshot) -> Result<(), ErrorCode> {
        let record = group_record(&group.name, snapshot).map_err(|error| {
            tracing::error!(group = %group.name, %error, "group cannot be encoded");
            ErrorCode::UnknownServerError
        })?;
        match self.append(group, vec![record]).await {
            Ok(_) => Ok(()),
            Err(ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge) => {
                Err(ErrorCode::UnknownServerError)
            }
            Err(error) => Err(coordinator_error(error)),
        }
    }

    /// Appends in the group's term, with the log's own error. Where nobody knows whether the records
    /// are in the log, the term is over: the next one reads what is there.
    pub(super) async fn append(
        &self,
        group: &Group,
        records: Vec<KeyValue>,
    ) -> Result<Offset, ErrorCode> {
        let placed = self.place(group, records).await;
        let result = match placed {
            Ok(done) => done.await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.metrics.store_failures.inc();
            let (group, error) = (&group.name, error.name());
            tracing::warn!(%group, error, "group record not stored");
        }
        if let Err(ErrorCode::NotLeaderOrFollower | ErrorCode::RequestTimedOut) = result {
            self.terms.doubt(&group.term);
        }
        result
    }

    async fn place(&self, group: &Group, records: Vec<KeyValue>) -> Result<Placed, ErrorCode> {
        let term = &group.term;
        let _placing = term.placing.read().await;
        // What an earlier term knew may be outdated, also if this node leads again.
        if term.is_over() || !self.world.leads_since(term.index, term.since) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        self.world.place(term.index, records).await
    }

    /// Makes the end of these commits durable and forgets them, and with `and_group` the group's own
    /// record too. The caller holds the group's order alone.
    pub(super) async fn bury(
        &self,
        group: &Arc<Group>,
        places: Vec<(String, PartitionIndex)>,
        and_group: bool,
    ) -> Result<(), ErrorCode> {
        let unreadable = |error: FormatError| {
            tracing::error!(group = %group.name, %error, "tombstone cannot be encoded");
            ErrorCode::UnknownServerError
        };
        for chunk in places.chunks(BATCH_RECORDS_MAX) {
            let mut records = Vec::with_capacity(chunk.len());
            for (topic, partition) in chunk {
                let key = store::offset_key(&group.name, topic, *partition).map_err(unreadable)?;
                records.push(KeyValue { key, value: None });
            }
            self.append(group, records)
                .await
                .map_err(coordinator_error)?;
            let mut inside = group.inside.lock();
            for (topic, partition) in chunk {
                inside.offsets.remove(topic, *partition);
            }
        }
        if and_group {
            let key = store::group_key(&group.name).map_err(unreadable)?;
            let tombstone = KeyValue { key, value: None };
            self.append(group, vec![tombstone])
                .await
                .map_err(coordinator_error)?;
        }
        Ok(())
    }

    /// Forgets a group that a failed or half-made join has left behind.
    pub(super) fn drop_if_vacant(&self, group: &Arc<Group>) {
        // Whoever holds the order is about to put something in.
        let Ok(_alone) = group.order.try_write() else {
            return;
        };
        let mut inside = group.inside.lock();
        if inside.is_vacant() && inside.machine.kill() {
            self.forget(group);
        }
    }

    pub(crate) fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        for group in self.all() {
            self.act(&group, |inside, _| {
                inside.machine.abandon(ErrorCode::NotCoordinator);
            });
        }
    }
}

fn group_record(group: &str, snapshot: &Snapshot) -> Result<KeyValue, FormatError> {
    Ok(KeyValue {
        key: store::group_key(group)?,
        value: Some(store::group_value(snapshot)?),
    })
}

/// What the client of a group is told when the log refuses: always something that makes it look for
/// the coordinator and try again.
pub(super) fn coordinator_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            ErrorCode::InvalidCommitOffsetSize
        }
        _ => ErrorCode::CoordinatorNotAvailable,
    }
}
