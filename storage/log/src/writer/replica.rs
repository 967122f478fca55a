//! What a partition does as one of several replicas: its role, the high watermark, the batches of a
//! leader, and what is remembered where the active segment begins.

use std::sync::{Arc, atomic::Ordering};

use mainstem_record::Offset;

use super::{Queued, Waiting, Writer, stage::Caller};
use crate::{
    active::{Active, Frozen},
    append::Appended,
    dedupe::Dedupe,
    error::{AppendError, PartitionError},
    inbox::{ReplicaWork, Work, finish},
    planted::{Bug, planted},
    shard::Core,
    spec::{Commit, Ends, Flush, Role},
};

// === impl Writer ===

impl Writer {
    // === role ===

    /// Why such an append cannot be made in this role, if so.
    pub(super) fn role_refusal(&self, work: &Work) -> Option<AppendError> {
        let Work::Replica(replica) = work else {
            let leads = matches!(self.role, Role::Leader(_));
            return (!leads).then_some(AppendError::NotLeader);
        };
        match (self.role, replica.copied) {
            (Role::Follower, false) | (Role::Fenced, true) => {
                self.needs_memory().then_some(AppendError::NoMemory)
            }
            _ if planted(Bug::UnfencedReplica) => None,
            _ => Some(AppendError::NotFollower),
        }
    }

    /// Takes on a role. Who waits for an append of the old one learns that its outcome is unknown.
    pub(crate) fn set_role(&mut self, core: &mut Core, role: Role) -> Result<Ends, PartitionError> {
        if let Some(error) = self.refusal(core) {
            return Err(error);
        }
        if matches!(role, Role::Leader(_)) {
            self.forget_what_was_dropped();
            if self.needs_memory() {
                return Err(PartitionError::NoMemory);
            }
        }
        let before = std::mem::replace(&mut self.role, role);
        if before == role {
            return Ok(self.shared.ends());
        }
        match (before, role) {
            (Role::Leader(_), Role::Leader(_)) => self.wait_anew(core),
            (Role::Leader(_), _) => self.fail_appends(core, AppendError::NotLeader),
            (Role::Follower | Role::Fenced, _) => self.fail_appends(core, AppendError::NotFollower),
        }
        let moved = self.move_committed(&mut self.shared.state.write().ends);
        self.release_committed(core);
        if moved {
            self.shared.wake();
        }
        self.keep_base_memory();
        Ok(self.shared.ends())
    }

    /// Who decides what is committed has changed: those who wait for it wait for something else.
    fn wait_anew(&mut self, core: &mut Core) {
        let external = self.role == Role::Leader(Commit::External);
        let (from, to) = match external {
            true => (&mut self.waiters, &mut self.committing),
            false => (&mut self.committing, &mut self.waiters),
        };
        let (appends, others) = std::mem::take(from)
            .into_iter()
            .partition(|waiter| matches!(waiter.what, Waiting::Append(..)));
        *from = others;
        to.append(&mut { appends });
        // Flushes may be among them: each waits for what was there when it came.
        to.make_contiguous().sort_by_key(|waiter| waiter.end);
        match self.settings.flush {
            Flush::Os | Flush::Interval { .. } if !external => self.release_written(core),
            _ => self.release_waiters(core),
        }
    }

    /// Fails all appends that wait.
    fn fail_appends(&mut self, core: &mut Core, error: AppendError) {
        let waiters = std::mem::take(&mut self.waiters);
        let committing = std::mem::take(&mut self.committing);
        for waiter in waiters.into_iter().chain(committing) {
            match waiter.what {
                Waiting::Append(ticket, ..) => finish(ticket, Err(error)),
                Waiting::Flush(_) => self.waiters.push_back(waiter),
            }
        }
        for queued in self.gate.take(core) {
            match queued {
                Queued::Append(message) => message.fail(error),
                Queued::Flush(reply) => self.flush(core, reply),
            }
        }
    }

    // === the high watermark ===

    /// Moves the committed end as far as it may be moved now; says whether that was any further.
    pub(super) fn move_committed(&self, ends: &mut Ends) -> bool {
        let durable = match self.settings.flush {
            Flush::Always if !planted(Bug::EarlyRead) => ends.synced_end,
            Flush::Always | Flush::Os | Flush::Interval { .. } => ends.log_end,
        };
        let committed = match self.role {
            Role::Leader(Commit::Own) => durable,
            _ if planted(Bug::ReadAboveHighWatermark) => durable,
            Role::Leader(Commit::External) | Role::Follower => {
                durable.min(self.shared.high_watermark())
            }
            // Its leader is not to be believed any more.
            Role::Fenced => return false,
        };
        let moved = committed > ends.committed_end;
        if moved {
            ends.committed_end = committed;
        }
        moved
    }

    /// The log was told of a high watermark.
    pub(crate) fn look_at_high_watermark(&mut self, core: &mut Core) {
        if self.shared.status() == crate::shared::Status::Removed || core.health.has_failed() {
            return;
        }
        let moved = self.move_committed(&mut self.shared.state.write().ends);
        if moved {
            self.release_committed(core);
            self.tell_points(core);
            self.shared.wake();
        }
    }

    // === the batches of a leader ===

    /// Takes batches over if they go on where the log ends, in the segment and the epoch that are
    /// being written.
    pub(super) fn stage_replica(&mut self, core: &Core, work: ReplicaWork, caller: Caller) {
        let Some(active) = &self.active else {
            return finish(caller.ticket, Err(AppendError::WrongSegment));
        };
        let ReplicaWork {
            segment,
            mut batches,
            bytes,
            qos2,
            copied: _,
        } = work;
        let unfenced = planted(Bug::UnfencedReplica);
        let rule = active.segment.rule;
        let is_of = |(header, _): &(_, _)| rule.has_epoch(header);
        if segment != active.segment.id || !(batches.iter().all(is_of) || unfenced) {
            return finish(caller.ticket, Err(AppendError::WrongSegment));
        }
        let end = self.staged_end();
        let first = batches.first().map(|(header, _)| header.base_offset);
        let last = batches.last().map(|(header, _)| header.next_offset());
        let (Some(first), Some(next)) = (first, last) else {
            return finish(caller.ticket, Err(AppendError::InvalidBatch));
        };
        if first != end {
            return finish(caller.ticket, Err(AppendError::NotAtEnd { end }));
        }
        self.remember(core, &batches, &qos2);
        self.staged.bytes += bytes;
        self.staged.batches.append(&mut batches);
        let appended = Appended {
            base_offset: first,
            last_offset: Offset(next.0 - 1),
            log_append_time: None,
            log_start: Offset::ZERO,
            duplicate: false,
        };
        self.push_ticket(caller, appended, next);
    }

    fn remember(
        &mut self,
        core: &Core,
        batches: &[(mainstem_record::BatchHeader, bytes::Bytes)],
        qos2: &[crate::append::Qos2Id],
    ) {
        let mut with_producer = batches.iter().filter(|(header, _)| header.has_producer());
        let first = with_producer.next();
        if first.is_none() && qos2.is_empty() {
            return;
        }
        let mut dedupe = self.shared.dedupe.lock();
        for (header, _) in first.into_iter().chain(with_producer) {
            if planted(Bug::ReplicaForgetsProducers) {
                continue;
            }
            let previous = dedupe.producers.record(header, core.wall_ms);
            let undo = (header.producer_id, previous);
            self.staged.undo_producers.push(undo);
        }
        for id in qos2 {
            let undo = dedupe.qos2.record(id, core.wall_ms);
            self.staged.undo_qos2.push(undo);
        }
    }

    // === what is remembered at the base ===

    fn needs_memory(&self) -> bool {
        self.shared.needs_memory.load(Ordering::Acquire)
    }

    /// Where all that came before was dropped, nobody can tell any more what was remembered, but
    /// replicas that went on all the time: the leader begins with nothing then, as with producers
    /// that have expired.
    fn forget_what_was_dropped(&self) {
        if self.needs_memory() && self.shared.has_dropped_all_sealed() {
            tracing::info!(
                partition = %self.shared.id,
                "all records were dropped before this node started: no producer is remembered"
            );
            self.shared.needs_memory.store(false, Ordering::Release);
        }
    }

    fn is_at_base(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.next == active.segment.base)
    }

    /// For the followers that begin with the segment which is led here from its base on.
    pub(super) fn keep_base_memory(&mut self) {
        let leads = self.role == Role::Leader(Commit::External);
        if leads && self.is_at_base() && !self.needs_memory() {
            self.base_memory = Some(Arc::new(self.shared.dedupe.lock().clone()));
        }
    }

    /// A segment begins. What is remembered there is known if the one before it was here, `whole`,
    /// and what it began with was known.
    pub(super) fn begin_memory(&mut self, whole: bool, memory: Arc<Dedupe>) {
        if !whole {
            self.shared.needs_memory.store(true, Ordering::Release);
        }
        let leads = self.role == Role::Leader(Commit::External);
        self.base_memory = Some(memory).filter(|_| leads && !self.needs_memory());
    }

    /// The active segment as it is now, synced or not.
    pub(crate) fn look(&self) -> Option<Frozen> {
        self.active.as_ref().map(Active::freeze)
    }

    /// What is remembered where the active segment begins, if it is led here.
    pub(crate) fn base_memory(&self) -> Option<Arc<Dedupe>> {
        self.base_memory.clone().filter(|_| self.active.is_some())
    }

    /// Takes over what is remembered where the active segment begins. Nothing was appended to it.
    pub(crate) fn install_memory(&mut self, memory: Dedupe) -> Result<(), PartitionError> {
        if !self.is_at_base() {
            return Err(PartitionError::NoActiveSegment);
        }
        *self.shared.dedupe.lock() = memory;
        self.shared.needs_memory.store(false, Ordering::Release);
        self.keep_base_memory();
        Ok(())
    }
}
