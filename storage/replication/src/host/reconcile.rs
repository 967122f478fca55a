//! Bringing partitions in line with the image: a few workers take those that have changed.
//!
//! Level-triggered: a partition is looked at again whenever anything about it may have changed, and
//! what could not be done is tried again a while later.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mainstem_log::{PartitionError, PartitionSettings, Role};
use mainstem_metadata::{Image, PartitionRecord, SegmentFlush, Topic};
use mainstem_record::PartitionId;

use super::{Host, Hosted, spec};
use crate::machine::{Segment, is_current, replica::Replica};

/// How many partitions are brought in line at the same time: most of it is waiting for syncs.
const WORKERS: usize = 64;
/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be looked at, and what is being looked at.
#[derive(Default)]
pub(super) struct Work {
    waiting: BTreeSet<PartitionId>,
    busy: BTreeSet<PartitionId>,
    workers: usize,
}

/// Why a partition is not in line yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotInLine {
    #[error(transparent)]
    Log(PartitionError),
    #[error("what came before its segment is not known here yet")]
    NoMemory,
}

impl From<PartitionError> for NotInLine {
    fn from(error: PartitionError) -> Self {
        match error {
            PartitionError::NoMemory => Self::NoMemory,
            error => Self::Log(error),
        }
    }
}

// === impl Host ===

impl Host {
    /// Has a partition brought in line with the image, and its log with its machine.
    pub(super) fn look_at(&self, id: PartitionId) {
        self.look_at_all([id]);
    }

    pub(super) fn look_at_all(&self, ids: impl IntoIterator<Item = PartitionId>) {
        let begun = {
            let mut work = self.inner.work.lock();
            work.waiting.extend(ids);
            let idle = WORKERS.saturating_sub(work.workers);
            let begun = work.waiting.len().min(idle);
            work.workers += begun;
            begun
        };
        for _ in 0..begun {
            let host = self.clone();
            self.spawn("bring in line", async move { host.work().await });
        }
    }

    /// Until nothing is left to do.
    async fn work(&self) {
        while let Some(id) = self.next_work() {
            let done = self.bring_in_line(id).await;
            self.inner.work.lock().busy.remove(&id);
            if let Err(error) = done {
                tracing::debug!(partition = %id, %error, "not in line yet");
                self.look_later(id);
            }
        }
    }

    fn next_work(&self) -> Option<PartitionId> {
        let mut work = self.inner.work.lock();
        let next = work.waiting.difference(&work.busy).next().copied();
        match next {
            Some(id) => {
                work.waiting.remove(&id);
                work.busy.insert(id);
            }
            None => work.workers -= 1,
        }
        next
    }

    pub(super) fn look_later(&self, id: PartitionId) {
        let host = self.clone();
        self.spawn("look again", async move {
            host.inner.env.sleep(RETRY).await;
            host.look_at(id);
        });
    }

    /// Looks at what differs between two images.
    pub(super) fn look_at_changes(&self, before: &Image, now: &Image) {
        let mut changed = BTreeSet::new();
        let defaults_changed = before.broker_configs != now.broker_configs;
        for (id, topic) in &now.topics_by_id {
            let known = before.topics_by_id.get(id);
            if !defaults_changed && known.is_some_and(|known| Arc::ptr_eq(known, topic)) {
                continue;
            }
            let same_configs = known.is_some_and(|known| known.configs == topic.configs);
            for (index, record) in topic.partitions.iter().enumerate() {
                let was = known.and_then(|known| known.partitions.get(index));
                let is_same = was.is_some_and(|was| Arc::ptr_eq(was, record));
                if !is_same || !same_configs || defaults_changed {
                    changed.extend(partition_id(topic, index));
                }
            }
        }
        for (id, topic) in &before.topics_by_id {
            if !now.topics_by_id.contains_key(id) {
                let indexes = 0..topic.partitions.len();
                changed.extend(indexes.filter_map(|index| partition_id(topic, index)));
            }
        }
        // What a registration or a lost life changes is not in the records of partitions.
        if before.member(self.me().broker) != now.member(self.me().broker) {
            changed.extend(self.all().iter().map(|hosted| hosted.id()));
        }
        self.look_at_all(changed);
    }

    /// Follows the images of metadata, from `seen` on.
    pub(super) async fn follow_images(&self, mut seen: Arc<Image>) {
        let mut versions = self.inner.metadata.changes();
        loop {
            versions.borrow_and_update();
            let now = self.image();
            self.look_at_changes(&seen, &now);
            seen = now;
            if versions.changed().await.is_err() {
                return;
            }
        }
    }

    /// Does what the present image asks for in one partition.
    pub(super) async fn bring_in_line(&self, id: PartitionId) -> Result<(), NotInLine> {
        let image = self.image();
        if !is_current(&image, self.me()) {
            // R6. A later life of this broker was made up for it: whatever it led is lost to it.
            if let Some(hosted) = self.hosted(id) {
                let _turn = hosted.turn.lock().await;
                hosted.set_led(None);
                self.set_role(&hosted, Role::Fenced).await?;
            }
            return Ok(());
        }
        let record = image.partition(id);
        let Some(record) = record.filter(|record| self.is_wanted(id, record)) else {
            self.remove(id).await;
            return Ok(());
        };
        let hosted = match self.hosted(id) {
            Some(hosted) => Some(hosted),
            None => self.open(&image, id, record).await,
        };
        let Some(hosted) = hosted else {
            // Its failure is remembered.
            return Ok(());
        };
        let _turn = hosted.turn.lock().await;
        let done = self.take_record(&hosted, &image, record).await;
        match &done {
            Ok(()) => self.forget_if_in_line(&hosted),
            Err(NotInLine::Log(error)) => {
                let reason = error.to_string();
                if self.failure(id).as_ref() != Some(&reason) {
                    tracing::warn!(partition = %id, %error, "partition not in line; tried again");
                }
                self.mark_failed(id, reason);
            }
            Err(NotInLine::NoMemory) => {}
        }
        done
    }

    /// A failure of the chain is over once the log has gone on; one of the files is not.
    fn forget_if_in_line(&self, hosted: &Hosted) {
        if !hosted.log().has_failed() {
            self.forget_failed(hosted.id());
        }
    }

    async fn take_record(
        &self,
        hosted: &Arc<Hosted>,
        image: &Image,
        record: &Arc<PartitionRecord>,
    ) -> Result<(), NotInLine> {
        if hosted.log().has_failed() {
            hosted.set_led(None);
            return Ok(());
        }
        self.follow_chain(hosted, image, record).await?;
        self.hold_if_recruited(hosted, record).await?;
        self.take_settings(hosted, image, record).await;
        self.take_open_segment(hosted, image);
        self.thaw_if_given_up(hosted).await;
        let role = self.take_role(hosted, record).await;
        self.drop_what_is_gone(hosted, record).await;
        self.say_of_copies(hosted, record);
        hosted.state.lock().record = Some(record.clone());
        self.tell(hosted.id());
        role
    }

    /// R23: a partition that was open here before the controller asked has the segment in its chain,
    /// but does not hold it.
    async fn hold_if_recruited(
        &self,
        hosted: &Hosted,
        record: &PartitionRecord,
    ) -> Result<(), NotInLine> {
        if self.is_recruited(hosted.id(), record)
            && let Some(open) = record.active()
        {
            hosted.log().hold(open.id).await?;
        }
        Ok(())
    }

    /// Takes up the open segment with a machine, and gives the machine the image.
    fn take_open_segment(&self, hosted: &Hosted, image: &Image) {
        let id = hosted.id();
        let now = self.inner.env.now();
        let effects = {
            let mut state = hosted.state.lock();
            let open = Segment::open(image, id);
            let last = hosted.log().segments().pop();
            let active = last.filter(|last| last.end.is_none());
            let Some(open) = open.filter(|open| active.is_some_and(|active| active.id == open.id))
            else {
                return;
            };
            let is_known = state.replica.as_ref().map(|replica| replica.segment().id);
            if is_known != Some(open.id) {
                state.frozen = None;
                let held = active.is_some_and(|active| active.held);
                let ends = hosted.ends();
                state.replica = held
                    .then(|| Replica::new(self.me(), image, open, ends, self.inner.timers))
                    .flatten();
                state.attached = state.replica.is_some();
            }
            let replica = state.replica.as_mut();
            replica.map(|replica| replica.image(image, id, now))
        };
        hosted.carry_out(self, effects.unwrap_or_default());
    }

    /// Gives the log the role that the image and the machine ask for.
    async fn take_role(
        &self,
        hosted: &Arc<Hosted>,
        record: &PartitionRecord,
    ) -> Result<(), NotInLine> {
        let Some(open) = record.active() else {
            return Ok(());
        };
        let (role, leads) = {
            let state = hosted.state.lock();
            let machine = state.replica.as_ref();
            let leader = machine.and_then(|machine| machine.leader());
            let leads = leader.is_some_and(|leader| !leader.is_stopped());
            let fenced = machine.is_none_or(Replica::is_fenced) || state.gave_up == Some(open.id);
            let role = spec::role_in(open, self.me(), fenced);
            (role, leads && matches!(role, Role::Leader(_)))
        };
        if !leads {
            hosted.set_led(None);
        }
        match self.set_role(hosted, role).await {
            Err(PartitionError::NoMemory) => {
                // A copy of the segment before it may have been verified since the log was opened.
                let memory = hosted.log().memory(open.id).await?;
                hosted.log().install_memory(memory).await?;
                self.set_role(hosted, role).await?;
            }
            set => set?,
        }
        hosted.watch_ends(
            leads && role == Role::Leader(mainstem_log::Commit::External),
            self,
        );
        if leads {
            hosted.set_led(Some(open.epoch));
        }
        Ok(())
    }

    pub(super) async fn set_role(&self, hosted: &Hosted, role: Role) -> Result<(), PartitionError> {
        if hosted.state.lock().role == role {
            return Ok(());
        }
        hosted.log().set_role(role).await?;
        hosted.state.lock().role = role;
        Ok(())
    }

    /// A planned seal that the machine has given up: appends go on in the same segment.
    async fn thaw_if_given_up(&self, hosted: &Hosted) {
        let thaws = {
            let mut state = hosted.state.lock();
            let leader = state.replica.as_ref().and_then(|replica| replica.leader());
            let thaws = state.frozen.is_some() && leader.is_some_and(|leader| leader.may_append());
            if thaws {
                state.frozen = None;
            }
            thaws
        };
        if thaws {
            hosted.log().seal_abort().await;
            hosted.state.lock().gave_up = None;
        }
    }

    // === settings ===

    /// What is said of a segment holds for its whole life; a stricter config holds at once.
    pub(super) fn settings_of(&self, topic: &Topic, record: &PartitionRecord) -> PartitionSettings {
        let open = record.active();
        let flush = open.map_or(SegmentFlush::Os, |open| open.flush);
        self.inner.policies.settings(topic, flush)
    }

    async fn take_settings(&self, hosted: &Hosted, image: &Image, record: &PartitionRecord) {
        let Some(topic) = image.topic_by_id(hosted.id().topic) else {
            return;
        };
        let log = hosted.log();
        log.delete_files_after(self.inner.policies.delete_delay(topic));
        let settings = self.settings_of(topic, record);
        if hosted.state.lock().settings == settings {
            return;
        }
        log.update_settings(settings).await;
        hosted.state.lock().settings = settings;
    }

    // === the start of the log ===

    /// Segments that metadata has deleted. A follower that does not know yet that all of it is
    /// committed does so later.
    async fn drop_what_is_gone(&self, hosted: &Hosted, record: &PartitionRecord) {
        let log = hosted.log();
        let first = record.segments.front().map(|first| first.base);
        let mut gone = log.segments();
        gone.retain(|segment| {
            segment.end.is_some() && first.is_some_and(|first| segment.base < first)
        });
        let is_in = |id| record.segments.iter().any(|segment| segment.id == id);
        gone.retain(|segment| !is_in(segment.id));
        if gone.is_empty() && record.log_start <= log.ends().log_start {
            return;
        }
        let ids: Vec<_> = gone.iter().map(|segment| segment.id).collect();
        if let Err(error) = log.drop_segments(&ids, record.log_start).await {
            tracing::debug!(partition = %hosted.id(), %error, "deleted segments stay for now");
            self.look_later(hosted.id());
        }
    }
}

fn partition_id(topic: &Topic, index: usize) -> Option<PartitionId> {
    let index = i32::try_from(index).ok()?;
    Some(PartitionId {
        topic: topic.id,
        index: mainstem_record::PartitionIndex(index),
    })
}
