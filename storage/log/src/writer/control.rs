//! What a partition is told besides appends. Everything staged has been written before.

use tokio::sync::oneshot;

use super::{Queued, Waiter, Waiting, Writer};
use crate::{
    active::Frozen,
    error::PartitionError,
    inbox::{FlushSender, Install},
    planted::{Bug, planted},
    shard::Core,
    spec::{Flush, PartitionSettings},
};

// === impl Writer ===

impl Writer {
    /// Answers when everything appended before is synced.
    pub(crate) fn flush(&mut self, core: &mut Core, reply: FlushSender) {
        if let Some(error) = self.refusal(core) {
            let _ = reply.send(Err(error));
            return;
        }
        if self.gate.is_shut() && !self.gate.queue.is_empty() {
            self.gate.queue.push_back(Queued::Flush(reply));
            return;
        }
        match &self.active {
            Some(active) if active.is_dirty() => {
                let end = active.next;
                self.wait_for_sync(core, end, Waiting::Flush(reply));
            }
            Some(active) => {
                let _ = reply.send(Ok(active.synced));
            }
            None => {
                let _ = reply.send(Ok(self.shared.ends().synced_end));
            }
        }
    }

    /// Closes the gate; answers when the active segment is synced in its file. May be asked again.
    pub(crate) fn freeze(
        &mut self,
        core: &mut Core,
        reply: oneshot::Sender<Result<Frozen, PartitionError>>,
    ) {
        if let Some(error) = self.refusal(core) {
            let _ = reply.send(Err(error));
            return;
        }
        let Some(active) = &mut self.active else {
            let _ = reply.send(Err(PartitionError::NoActiveSegment));
            return;
        };
        self.gate.closed = true;
        if planted(Bug::NoSyncBeforeSeal) {
            active.synced = active.next;
            active.synced_position = active.position;
            active.in_place = active.position;
        }
        if active.is_in_place() {
            let _ = reply.send(Ok(active.freeze()));
        } else {
            self.freezing.push(reply);
            self.want_in_place(core);
        }
    }

    /// Goes on with the next segment, and opens the gate if it is here.
    pub(crate) fn install(
        &mut self,
        core: &mut Core,
        install: Install,
    ) -> Result<(), PartitionError> {
        if let Some(error) = self.refusal(core) {
            return Err(error);
        }
        // A segment is left only when all of it is synced.
        if !self.gate.closed || !self.is_in_place() {
            return Err(PartitionError::NotFrozen);
        }
        let Install {
            end,
            held,
            next,
            active,
            memory,
        } = install;
        // Whoever waits for what is synced already must not wait for the next segment.
        self.release_waiters(core);
        let base = next.base;
        let last_is_here = self.shared.chain.read().last().is_none_or(|last| last.held);
        assert!(
            base >= self.shared.ends().log_end && base >= end,
            "no offset is given out twice"
        );
        self.shared.replace_last(&core.files, (end, held), next);
        {
            // All below the segment is sealed, and so counts as committed (R14).
            let mut state = self.shared.state.write();
            let ends = &mut state.ends;
            (ends.log_end, ends.synced_end, ends.committed_end) = (base, base, base);
        }
        self.release_committed(core);
        self.let_go(core);
        if let Some(active) = &active {
            core.note_synced(self.shared.id, active);
        }
        self.active = active;
        core.points.track(self.slot, 0);
        self.roll_told = false;
        self.begin_memory(held && last_is_here, memory);
        self.open_gate(core);
        self.shared.wake();
        Ok(())
    }

    /// Opens the gate on the same segment. What has waited is let in even if it is too much for it:
    /// else a roll that is refused for long would stop the partition.
    pub(crate) fn thaw(&mut self, core: &mut Core) {
        self.gate.is_lenient = true;
        self.open_gate(core);
        self.gate.is_lenient = false;
    }

    /// Opens the gate, if there is a segment to write to, and lets in what has waited.
    fn open_gate(&mut self, core: &mut Core) {
        if self.active.is_none() {
            return;
        }
        self.gate.closed = false;
        self.roll_told = false;
        // Whoever asked has given up.
        self.freezing.clear();
        for queued in self.gate.take(core) {
            match queued {
                Queued::Append(message) => self.stage(core, message),
                Queued::Flush(reply) => {
                    self.commit(core);
                    self.flush(core, reply);
                }
            }
        }
        self.commit(core);
        self.shared.wake();
    }

    /// Takes over settings. What has been acknowledged or read stays so.
    pub(crate) fn set_settings(&mut self, core: &mut Core, settings: PartitionSettings) {
        if self.settings.flush != settings.flush {
            // A timer of the old interval may be too late for the new one.
            self.interval_armed = false;
        }
        self.settings = settings;
        // There may be room now.
        if self.gate.full && !self.gate.closed {
            self.open_gate(core);
        }
        if settings.flush == Flush::Always {
            self.schedule_sync(core);
            return;
        }
        self.move_committed(&mut self.shared.state.write().ends);
        self.release_committed(core);
        self.release_written(core);
        self.shared.wake();
        self.schedule_sync(core);
    }

    /// Completes the appends that wait for a sync: being written is enough now.
    pub(super) fn release_written(&mut self, core: &mut Core) {
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter.what {
                Waiting::Append(ticket, appended, permit) => {
                    core.acks.push(ticket, appended, permit);
                }
                Waiting::Flush(_) => self.waiters.push_back(waiter),
            }
        }
    }

    fn wait_for_sync(&mut self, core: &mut Core, end: mainstem_record::Offset, what: Waiting) {
        let since = core.now;
        self.waiters.push_back(Waiter { end, since, what });
        self.want_sync(core);
    }
}
