//! Cutting the active segment (R33), as its shard sees it.

use std::sync::atomic::Ordering;

use super::Writer;
use crate::{
    active::Active,
    error::PartitionError,
    event::{LogEvent, PartitionFailure},
    inbox::Cut,
    journal::Entry,
    planted::{Bug, planted},
    recovery::Rebuilt,
    shard::Core,
    shared::Status,
    spec::Role,
    syncer::CutSender,
};

// === impl Writer ===

impl Writer {
    /// Forgets what lies above the cut, and asks the journal to note it. The partition is frozen
    /// and in place, and the checkpoint says no more than what stays.
    pub(crate) fn cut(&mut self, core: &mut Core, cut: Cut, reply: CutSender) {
        if let Err(error) = self.check_cut(core, cut) {
            let _ = reply.send(Err(error));
            return;
        }
        self.let_go(core);
        self.leave_journal(core);
        let Some(active) = self.active.take() else {
            return;
        };
        {
            let mut state = self.shared.state.write();
            state.ends.log_end = cut.end;
            state.ends.synced_end = cut.end;
        }
        active.segment.state.write().bytes = cut.position;
        self.shared.cache.lock().cut(cut.end);
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        let unsaved = cut.position.saturating_sub(active.saved_position);
        core.points.track(self.slot, unsaved);
        let note = Entry {
            partition: self.shared.id,
            segment: cut.segment,
            base: active.segment.base,
            position: cut.position,
            end: cut.end,
            length: 0,
            crc: 0,
        };
        self.cutting = Some(active);
        if core.journal.is_none() || planted(Bug::UnnotedCut) {
            let _ = reply.send(Ok(()));
            return;
        }
        core.syncs.cuts.push((note, reply));
    }

    fn check_cut(&self, core: &Core, cut: Cut) -> Result<(), PartitionError> {
        if let Some(error) = self.refusal(core) {
            return Err(error);
        }
        if matches!(self.role, Role::Leader(_)) {
            return Err(PartitionError::Leading);
        }
        let active = self.active.as_ref();
        let is_there = active.is_some_and(|active| {
            active.segment.id == cut.segment && cut.position <= active.position
        });
        if !self.gate.closed || !is_there || !self.is_in_place() {
            return Err(PartitionError::NotFrozen);
        }
        if cut.end < self.shared.ends().committed_end {
            return Err(PartitionError::CannotCut { end: cut.end });
        }
        Ok(())
    }

    /// The file is cut and synced: goes on at its end.
    pub(crate) fn recut(
        &mut self,
        core: &mut Core,
        rebuilt: Result<Box<Rebuilt>, PartitionFailure>,
    ) -> Result<(), PartitionError> {
        let cut = self.cutting.take().ok_or(PartitionError::NotFrozen)?;
        let Rebuilt { scan, dedupe } = match rebuilt {
            Ok(rebuilt) => *rebuilt,
            Err(failure) => {
                tracing::error!(%failure, "the partition has failed");
                self.shared.set_status(Status::Failed);
                core.tell(LogEvent::PartitionFailed {
                    partition: self.shared.id,
                    failure,
                });
                return Err(PartitionError::Failed);
            }
        };
        {
            let mut state = cut.segment.state.write();
            state.bytes = scan.position;
            state.max_timestamp = scan.index.max_timestamp();
            if let Some((_, index)) = &mut state.open {
                *index = scan.index;
            }
        }
        if !planted(Bug::CutKeepsProducers) {
            *self.shared.dedupe.lock() = dedupe;
        }
        let at = (scan.next, scan.position);
        let mut active = Active::new(cut.segment, cut.file, at, scan.digest);
        active.saved_position = cut.saved_position.min(scan.position);
        core.note_synced(self.shared.id, &active);
        self.active = Some(active);
        self.thaw(core);
        Ok(())
    }
}
