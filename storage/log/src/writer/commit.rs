//! The write: one vectored write of everything staged, then all that must be true before an ack.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_record::{BatchHeader, Offset};

use super::{StagedTicket, WRITE_BYTES_MAX, Waiter, Waiting, Writer};
use crate::{
    append::Ack,
    error::AppendError,
    event::{LogEvent, PartitionFailure, RollReason},
    inbox::finish,
    index::{SEGMENT_BYTES_MAX, SEGMENT_OFFSETS_MAX},
    planted::{Bug, planted},
    shard::Core,
    shared::Status,
    spec::{Commit, Flush, Role},
};

// === impl Writer ===

impl Writer {
    /// Writes what is staged and completes who waits for no more than that. Returns the bytes
    /// written.
    pub(crate) fn commit(&mut self, core: &mut Core) -> usize {
        self.touched = false;
        self.close_batch(core);
        if self.staged.tickets.is_empty() && self.staged.batches.is_empty() {
            return 0;
        }
        let bytes = self.staged.bytes;
        if !self.staged.batches.is_empty() {
            if let Err(error) = self.write() {
                self.unwind(core, &error);
                return 0;
            }
            self.publish(core);
        }
        self.settle(core);
        self.schedule_sync(core);
        self.tell_roll(core);
        bytes
    }

    fn write(&mut self) -> io::Result<()> {
        let active = self
            .active
            .as_ref()
            .expect("staged only while there is one");
        let mut position = active.position;
        let mut next = active.next;
        let mut slices = Vec::with_capacity(self.staged.batches.len());
        let mut bytes = 0;
        for (header, batch) in &self.staged.batches {
            // What is acknowledged must be found again by recovery.
            assert_eq!(header.base_offset, next, "offsets follow each other");
            next = header.next_offset();
            if bytes > 0 && bytes + batch.len() > WRITE_BYTES_MAX {
                active.file.write_all_vectored_at(&slices, position)?;
                position += bytes as u64;
                slices.clear();
                bytes = 0;
            }
            slices.push(IoSlice::new(batch));
            bytes += batch.len();
        }
        active.file.write_all_vectored_at(&slices, position)
    }

    /// After a failed write: cuts the file back, takes all that was staged back and fails it.
    fn unwind(&mut self, core: &mut Core, error: &io::Error) {
        let kind = error.kind();
        tracing::error!(%error, partition = %self.shared.id, "write failed");
        {
            let mut dedupe = self.shared.dedupe.lock();
            if planted(Bug::NoUnwind) {
                self.staged.undo_producers.clear();
            }
            for (id, previous) in self.staged.undo_producers.drain(..).rev() {
                dedupe.producers.restore(id, previous);
            }
            for undo in self.staged.undo_qos2.drain(..).rev() {
                dedupe.qos2.restore(undo);
            }
        }
        self.cut_back(core);
        let error = match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::NoSpace,
            other => AppendError::Io(other),
        };
        if error == AppendError::NoSpace {
            let refused = self.staged.tickets.len() as u64;
            core.metrics.refused_no_space.inc_by(refused);
        }
        self.staged.batches.clear();
        self.staged.bytes = 0;
        for staged in self.staged.tickets.drain(..) {
            finish(staged.ticket, Err(error));
        }
    }

    fn cut_back(&mut self, core: &mut Core) {
        let active = self
            .active
            .as_ref()
            .expect("staged only while there is one");
        let Err(error) = active.file.set_len(active.position) else {
            return;
        };
        let failure = PartitionFailure::Truncate {
            path: active.segment.path.clone(),
            position: active.position,
            error: Arc::from(error.to_string()),
        };
        tracing::error!(%failure, "the partition has failed");
        self.shared.set_status(Status::Failed);
        core.tell(LogEvent::PartitionFailed {
            partition: self.shared.id,
            failure,
        });
    }

    /// Makes what was written visible: index and cache first, then the ends.
    fn publish(&mut self, core: &mut Core) {
        self.keep(core);
        let active = self
            .active
            .as_mut()
            .expect("staged only while there is one");
        let batches = &self.staged.batches;
        {
            let mut state = active.segment.state.write();
            let state = &mut *state;
            for (header, batch) in batches {
                if let Some((_, index)) = &mut state.open {
                    let behind = u64::from(planted(Bug::IndexOffByOne)) * batch.len() as u64;
                    index.push(header, active.position + behind);
                    state.max_timestamp = index.max_timestamp();
                }
                active.position += batch.len() as u64;
                active.next = header.next_offset();
            }
            state.bytes = active.position;
        }
        if planted(Bug::SyncedPointAhead) {
            core.note_synced(self.shared.id, active);
        }
        for (_, batch) in batches {
            active.digest.update(batch);
        }
        core.metrics.append_bytes.inc_by(self.staged.bytes as u64);
        core.metrics.append_batches.inc_by(batches.len() as u64);
        core.space.wrote(self.staged.bytes as u64);
        core.points.grew(self.slot, self.staged.bytes as u64);
        cache(core, &self.shared, batches);
        let log_end = active.next;
        let readable = {
            let mut state = self.shared.state.write();
            state.ends.log_end = log_end;
            self.move_committed(&mut state.ends)
        };
        // Else who makes it readable will wake: only the streams of followers read before.
        if readable {
            self.shared.wake();
        } else {
            self.shared.wake_tail();
        }
        self.staged.batches.clear();
        self.staged.bytes = 0;
        self.staged.undo_producers.clear();
        self.staged.undo_qos2.clear();
    }

    /// Completes tickets, or lets them wait for a sync or for the high watermark.
    fn settle(&mut self, core: &mut Core) {
        let ends = self.shared.ends();
        let log_start = ends.log_start;
        let synced = self.active.as_ref().map_or(Offset::ZERO, |a| a.synced);
        let external = self.role == Role::Leader(Commit::External);
        // Up to where it is durable already.
        let durable = match self.settings.flush {
            _ if external && planted(Bug::AckBeforeCommit) => Offset(i64::MAX),
            _ if external => ends.committed_end,
            Flush::Always if !planted(Bug::EarlyAck) => synced,
            Flush::Always | Flush::Os | Flush::Interval { .. } => Offset(i64::MAX),
        };
        for staged in self.staged.tickets.drain(..) {
            let StagedTicket {
                ticket,
                ack,
                mut appended,
                end,
                permit,
            } = staged;
            appended.log_start = log_start;
            if ack != Ack::Durable || end <= durable {
                core.hasty_at = Some(core.now);
                core.acks.push(ticket, appended, permit);
                continue;
            }
            let waiter = Waiter {
                end,
                since: core.now,
                what: Waiting::Append(ticket, appended, permit),
            };
            match external {
                true => self.committing.push_back(waiter),
                false => self.waiters.push_back(waiter),
            }
        }
        // One large drain must not leave its buffers to a partition that then falls silent.
        self.staged.tickets.shrink_to(IDLE_CAPACITY);
        self.staged.batches.shrink_to(IDLE_CAPACITY);
        self.staged.undo_producers.shrink_to(IDLE_CAPACITY);
        self.staged.undo_qos2.shrink_to(IDLE_CAPACITY);
    }

    /// Looks whether the segment should be rolled.
    fn tell_roll(&mut self, core: &mut Core) {
        let asks = !self.roll_told && matches!(self.role, Role::Leader(_));
        let Some(active) = self.active.as_ref().filter(|_| asks) else {
            return;
        };
        let age_ms = core.wall_ms - active.segment.created_wall_ms;
        let offsets = active.next.0 - active.segment.base.0;
        let nearly = |max: u64| max - max / 8;
        let reason = if active.position >= self.settings.segment_bytes {
            RollReason::Size
        } else if age_ms >= self.settings.segment_ms {
            RollReason::Age
        } else if active.position >= nearly(SEGMENT_BYTES_MAX)
            || offsets >= nearly(SEGMENT_OFFSETS_MAX as u64) as i64
        {
            RollReason::IndexFull
        } else {
            return;
        };
        self.want_roll(core, reason);
    }

    /// Tells the owner, once per segment, that it should be rolled; says whether it has been told.
    pub(super) fn want_roll(&mut self, core: &mut Core, reason: RollReason) -> bool {
        let Some(active) = self.active.as_ref().filter(|_| !self.roll_told) else {
            return self.roll_told;
        };
        self.roll_told = core.tell(LogEvent::RollWanted {
            partition: self.shared.id,
            segment: active.segment.id,
            reason,
        });
        self.roll_told
    }
}

/// Room that an idle partition keeps for its next drain.
const IDLE_CAPACITY: usize = 64;

/// Puts batches into the tail cache, in runs of about one write, so that it lets them go in such
/// pieces.
fn cache(core: &mut Core, shared: &Arc<crate::shared::Shared>, batches: &[(BatchHeader, Bytes)]) {
    let mut rest = batches;
    while !rest.is_empty() {
        let mut bytes = 0;
        let mut count = 0;
        for (_, batch) in rest {
            if count > 0 && bytes + batch.len() > WRITE_BYTES_MAX {
                break;
            }
            bytes += batch.len();
            count += 1;
        }
        let (run, later) = rest.split_at(count);
        let cached = run
            .iter()
            .map(|(header, batch)| (header.base_offset, header.next_offset(), batch.clone()));
        core.cache.push(shared, cached, &core.metrics);
        rest = later;
    }
}
