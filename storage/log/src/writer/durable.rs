//! From written to durable: what a partition asks of the sync rounds, and what it does when they
//! are over.

use std::collections::VecDeque;

use bytes::Bytes;
use mainstem_record::Offset;

use super::{Waiter, Waiting, Writer};
use crate::{
    active::Active,
    journal::{ENTRY_PAYLOAD_BYTES_MAX, Entry, JournalJob},
    shard::Core,
    spec::Flush,
    syncer::{Mark, SyncJob, SyncKind},
};

/// Bytes of batches that a shard keeps for its journal; beyond, partitions are synced in place. Who
/// does not wait for durability is not slowed by the disk, and must not fill the memory.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Where a partition is with its syncs: one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncing {
    No,
    /// It is in the queue of the next round.
    Wanted(SyncKind),
    /// It is among those that the next record of the journal is made of.
    Picked,
    Running,
}

/// The batches that were written since the last sync began, all of them.
pub(super) struct Kept {
    /// Where they begin in the segment, in bytes.
    from: u64,
    bytes: usize,
    batches: Vec<Bytes>,
}

impl Kept {
    fn new(from: u64) -> Self {
        Self {
            from,
            bytes: 0,
            batches: Vec::new(),
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(crate) fn is_dirty(&self) -> bool {
        self.active.as_ref().is_some_and(Active::is_dirty)
    }

    pub(crate) fn is_in_place(&self) -> bool {
        self.active.as_ref().is_none_or(Active::is_in_place)
    }

    /// Before the batches that were just written are counted in: keeps them for the journal, if
    /// they are for it.
    pub(super) fn keep(&mut self, core: &mut Core) {
        let bytes = self.staged.bytes;
        if self.settings.flush != Flush::Always {
            return self.let_go(core);
        }
        if core.journal.is_none() {
            core.journal_wanted = true;
            return self.let_go(core);
        }
        if let Some(active) = self.active.as_ref().filter(|active| !active.is_dirty()) {
            // Also after a time in which none were kept.
            let position = active.position;
            self.kept.get_or_insert_with(|| Kept::new(position));
        }
        let room = core.kept_bytes + bytes <= KEPT_BYTES_MAX;
        match &mut self.kept {
            Some(kept) if room && kept.bytes + bytes < ENTRY_PAYLOAD_BYTES_MAX => {
                let batches = self.staged.batches.iter();
                kept.batches.extend(batches.map(|(_, batch)| batch.clone()));
                kept.bytes += bytes;
                core.kept_bytes += bytes;
            }
            _ => self.let_go(core),
        }
    }

    /// Keeps nothing until the next sync begins, which will be in place.
    pub(super) fn let_go(&mut self, core: &mut Core) {
        if let Some(kept) = self.kept.take() {
            core.kept_bytes -= kept.bytes;
        }
    }

    fn sync_kind(&self, core: &Core) -> SyncKind {
        let in_journal = self.settings.flush == Flush::Always
            && core.journal.is_some()
            && self.kept.is_some()
            && self.freezing.is_empty();
        if in_journal {
            SyncKind::Journal
        } else {
            SyncKind::InPlace
        }
    }

    pub(super) fn want_sync(&mut self, core: &mut Core) {
        match self.sync_kind(core) {
            SyncKind::InPlace => self.want_in_place(core),
            SyncKind::Journal if self.syncing == Syncing::No => {
                self.syncing = Syncing::Wanted(SyncKind::Journal);
                core.syncs.want(SyncKind::Journal, self.slot);
            }
            SyncKind::Journal => {}
        }
    }

    pub(crate) fn want_in_place(&mut self, core: &mut Core) {
        match self.syncing {
            Syncing::Running | Syncing::Wanted(SyncKind::InPlace) => {}
            Syncing::No | Syncing::Picked | Syncing::Wanted(SyncKind::Journal) => {
                self.syncing = Syncing::Wanted(SyncKind::InPlace);
                core.syncs.want(SyncKind::InPlace, self.slot);
            }
        }
    }

    /// Asks for a sync of what was just written, as the flush policy says.
    pub(super) fn schedule_sync(&mut self, core: &mut Core) {
        let Some(active) = self.active.as_ref().filter(|active| active.is_dirty()) else {
            return;
        };
        let dirty_bytes = active.position - active.synced_position;
        match self.settings.flush {
            Flush::Always => self.want_sync(core),
            Flush::Interval { bytes, .. } if dirty_bytes >= bytes => self.want_sync(core),
            Flush::Interval { time, .. } if !self.interval_armed => {
                self.interval_armed = true;
                core.syncs.arm(core.now.saturating_add(time), self.slot);
            }
            Flush::Interval { .. } => {}
            Flush::Os if self.waiters.is_empty() => {}
            Flush::Os => self.want_sync(core),
        }
    }

    /// The timer of [`Flush::Interval`] has run out.
    pub(crate) fn interval_over(&mut self, core: &mut Core) {
        self.interval_armed = false;
        if self.is_dirty() {
            self.want_sync(core);
        }
    }

    // === jobs ===

    fn mark(slot: usize, active: &Active) -> Mark {
        Mark {
            slot,
            segment: active.segment.id,
            upto: active.next,
            position: active.position,
        }
    }

    /// What the next round of syncs in place does for this partition.
    pub(crate) fn sync_job(&mut self, core: &mut Core) -> Option<SyncJob> {
        if self.syncing != Syncing::Wanted(SyncKind::InPlace) {
            return None;
        }
        self.syncing = Syncing::No;
        self.let_go(core);
        let active = self
            .active
            .as_ref()
            .filter(|active| !active.is_in_place())?;
        self.syncing = Syncing::Running;
        self.kept = Some(Kept::new(active.position));
        Some(SyncJob {
            mark: Self::mark(self.slot, active),
            segment: active.segment.clone(),
            file: active.file.clone(),
        })
    }

    /// Picks the partition for the next record of the journal, and returns its bytes; `None` if it
    /// is not for the journal (any more), or picked already.
    pub(crate) fn pick(&mut self, core: &mut Core) -> Option<usize> {
        if self.syncing != Syncing::Wanted(SyncKind::Journal) {
            return None;
        }
        if self.is_dirty() && self.sync_kind(core) == SyncKind::Journal {
            self.syncing = Syncing::Picked;
            return self.kept.as_ref().map(|kept| kept.bytes);
        }
        self.syncing = Syncing::No;
        self.schedule_sync(core);
        None
    }

    /// Takes [`Writer::pick`] back: it stays in the queue.
    pub(crate) fn unpick(&mut self) {
        debug_assert_eq!(self.syncing, Syncing::Picked);
        self.syncing = Syncing::Wanted(SyncKind::Journal);
    }

    /// What the journal's record `sequence` does for this partition, which was picked for it.
    pub(crate) fn journal_job(&mut self, core: &mut Core, sequence: u64) -> Option<JournalJob> {
        debug_assert_eq!(self.syncing, Syncing::Picked);
        let active = self.active.as_mut()?;
        let kept = self.kept.take()?;
        self.kept = Some(Kept::new(active.position));
        self.syncing = Syncing::Running;
        core.kept_bytes -= kept.bytes;
        // What is acknowledged must be found again by replay.
        assert_eq!(
            (kept.from, kept.from + kept.bytes as u64),
            (active.synced_position, active.position),
            "the journal goes on where the last sync ended"
        );
        if active.journaled.is_none() {
            active.journaled = Some(sequence);
            if let Some(journal) = &mut core.journal {
                journal.hold(sequence, self.slot);
            }
        }
        let length = u32::try_from(kept.bytes).expect("below the longest payload");
        Some(JournalJob {
            mark: Self::mark(self.slot, active),
            entry: Entry {
                partition: self.shared.id,
                segment: active.segment.id,
                base: active.segment.base,
                position: kept.from,
                end: active.next,
                length,
                crc: 0,
            },
            payload: kept.batches,
        })
    }

    /// Says up to where the partition is durable.
    pub(crate) fn note(&mut self) -> Option<Entry> {
        self.note_wanted = false;
        let active = self.active.as_ref()?;
        Some(Entry {
            partition: self.shared.id,
            segment: active.segment.id,
            base: active.segment.base,
            position: active.synced_position,
            end: active.synced,
            length: 0,
            crc: 0,
        })
    }

    /// Syncs the segment so that it does not need the journal's record `sequence` any more.
    pub(crate) fn trim_job(&mut self, sequence: u64) -> Option<SyncJob> {
        let active = self.active.as_mut()?;
        if active.journaled != Some(sequence) {
            return None;
        }
        active.journaled_before = active.journaled.take();
        Some(SyncJob {
            mark: Self::mark(self.slot, active),
            segment: active.segment.clone(),
            file: active.file.clone(),
        })
    }

    pub(crate) fn trimmed(&mut self, core: &mut Core, mark: &Mark) {
        let active = self.active.as_mut();
        let active = active.filter(|active| active.segment.id == mark.segment);
        if let Some(before) = active.and_then(|active| active.journaled_before.take())
            && let Some(journal) = &mut core.journal
        {
            journal.release(before, self.slot);
        }
    }

    /// It does not need the journal any more.
    pub(crate) fn leave_journal(&mut self, core: &mut Core) {
        let (Some(active), Some(journal)) = (&mut self.active, &mut core.journal) else {
            return;
        };
        let held = [active.journaled.take(), active.journaled_before.take()];
        for sequence in held.into_iter().flatten() {
            journal.release(sequence, self.slot);
        }
    }

    // === after a sync ===

    /// A sync has succeeded for this partition.
    pub(crate) fn synced(&mut self, core: &mut Core, mark: &Mark, kind: SyncKind) {
        // Its place may be another partition's by now.
        let active = self.active.as_mut();
        let Some(active) = active.filter(|active| active.segment.id == mark.segment) else {
            return;
        };
        self.syncing = Syncing::No;
        if kind == SyncKind::InPlace {
            active.in_place = mark.position;
        }
        let more = mark.position > active.synced_position;
        if more {
            active.synced = mark.upto;
            active.synced_position = mark.position;
            core.note_synced(self.shared.id, active);
            self.tell_points(core);
        }
        if kind == SyncKind::InPlace {
            self.leave_journal(core);
            self.want_note(core);
        }
        if more {
            self.publish_synced(core, mark.upto);
        }
        self.release_frozen();
        if self.waiters.is_empty() && self.freezing.is_empty() {
            self.schedule_sync(core);
        } else {
            self.want_sync(core);
        }
    }

    fn want_note(&mut self, core: &mut Core) {
        let wanted = self.settings.flush == Flush::Always && core.journal.is_some();
        if wanted && !self.note_wanted {
            self.note_wanted = true;
            core.syncs.notes.push(self.slot);
        }
    }

    fn publish_synced(&mut self, core: &mut Core, upto: Offset) {
        let more_to_read = {
            let mut state = self.shared.state.write();
            state.ends.synced_end = upto;
            self.move_committed(&mut state.ends)
        };
        self.release_waiters(core);
        if more_to_read {
            self.release_committed(core);
            self.shared.wake();
        } else {
            self.shared.wake_tail();
        }
    }

    /// Completes those whose wait for a sync is over, in order.
    pub(super) fn release_waiters(&mut self, core: &mut Core) {
        if let Some(active) = &self.active {
            release(&mut self.waiters, active.synced, core);
        }
    }

    /// Completes the appends that the committed end has passed, in order.
    pub(super) fn release_committed(&mut self, core: &mut Core) {
        if !self.committing.is_empty() {
            let committed = self.shared.ends().committed_end;
            release(&mut self.committing, committed, core);
        }
    }

    /// Answers who waits for the frozen segment to be synced in its file.
    fn release_frozen(&mut self) {
        let Some(active) = self.active.as_ref().filter(|active| active.is_in_place()) else {
            return;
        };
        for reply in self.freezing.drain(..) {
            let _ = reply.send(Ok(active.freeze()));
        }
    }
}

/// Completes those who wait for no more than `upto`.
fn release(waiters: &mut VecDeque<Waiter>, upto: Offset, core: &mut Core) {
    let mut observed = None;
    while waiters.front().is_some_and(|waiter| waiter.end <= upto) {
        let Some(waiter) = waiters.pop_front() else {
            break;
        };
        // Those that were taken out of the inbox together count once.
        if observed != Some(waiter.since) {
            observed = Some(waiter.since);
            let seconds = core.now.saturating_sub(waiter.since).as_secs_f64();
            core.metrics.durable_seconds.observe(seconds);
        }
        match waiter.what {
            Waiting::Append(ticket, appended, permit) => {
                core.acks.push(ticket, appended, permit);
            }
            Waiting::Flush(reply) => {
                let _ = reply.send(Ok(upto));
            }
        }
    }
}
