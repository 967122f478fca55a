//! Staging: offsets, stamps and sequences, before the write.

use bytes::BytesMut;
use mainstem_record::{
    Attributes, BatchBuilder, BatchHeader, BatchOptions, EncodedRecord, Offset, Sequence,
    TimestampMs, TimestampType, stamp, stamp_log_append_time,
};

use super::{MQTT_BATCH_BYTES_MAX, OpenBatch, StagedTicket, Writer};
use crate::{
    append::{Ack, Appended, Qos2Id, TicketSender},
    dedupe::{Mark, Verdict},
    error::{AppendError, PartitionError},
    event::RollReason,
    inbox::{AppendMessage, Work, finish},
    index::{SEGMENT_BYTES_MAX, SEGMENT_OFFSETS_MAX},
    shard::Core,
    spec::Role,
};
use tokio::sync::OwnedSemaphorePermit;

/// Whom to tell.
pub(super) struct Caller {
    pub(super) ticket: TicketSender,
    ack: Ack,
    permit: OwnedSemaphorePermit,
}

/// A record of an MQTT client.
struct MqttRecord {
    record: EncodedRecord,
    attributes: u8,
    timestamp: TimestampMs,
    qos2: Option<Qos2Id>,
}

// === impl Writer ===

impl Writer {
    /// Gives an append its offsets, queues it, or refuses it.
    pub(crate) fn stage(&mut self, core: &mut Core, message: AppendMessage) {
        if let Some(error) = self.refusal(core) {
            message.fail(error.into());
            return;
        }
        if let Some(error) = self.role_refusal(&message.work) {
            message.fail(error);
            return;
        }
        if self.gate.is_shut() {
            self.gate.push(core, message);
            return;
        }
        let internal = matches!(&message.work, Work::Batch { internal, .. } if *internal);
        if !core.space.admits(internal) {
            core.metrics.refused_no_space.inc();
            message.fail(AppendError::NoSpace);
            return;
        }
        if let Err(error) = self.has_room(&message) {
            message.fail(error);
            return;
        }
        if self.is_full_for(core, &message) {
            self.gate.full = true;
            self.gate.push(core, message);
            return;
        }
        let caller = Caller {
            ticket: message.ticket,
            ack: message.ack,
            permit: message.permit,
        };
        match message.work {
            Work::Replica(replica) => self.stage_replica(core, *replica, caller),
            Work::Batch { batch, header, .. } => self.stage_batch(core, batch, header, caller),
            Work::Record {
                record,
                attributes,
                timestamp,
                qos2,
            } => {
                let record = MqttRecord {
                    record,
                    attributes,
                    timestamp,
                    qos2,
                };
                self.stage_record(core, record, caller);
            }
        }
    }

    /// Bytes that are staged, about.
    fn staged_bytes(&self) -> usize {
        let open = self.staged.open.as_ref();
        self.staged.bytes + open.map_or(0, |open| open.builder.size_bytes())
    }

    /// Whether an append has to wait for the next segment, so that this one does not grow above its
    /// size while the roll is under way. It waits only for an owner that has been told: nobody else
    /// makes the next segment. One append fits every segment that is empty.
    fn is_full_for(&mut self, core: &mut Core, message: &AppendMessage) -> bool {
        // A follower's segments end where its leader says.
        let leads = matches!(self.role, Role::Leader(_));
        let Some(active) = self.active.as_ref().filter(|_| leads) else {
            return false;
        };
        let filled = active.position + self.staged_bytes() as u64;
        let is_full = filled > 0 && filled + message.bytes() as u64 > self.settings.segment_bytes;
        is_full && !self.gate.is_lenient && self.want_roll(core, RollReason::Size)
    }

    /// Whether positions and offsets still fit the index.
    fn has_room(&self, message: &AppendMessage) -> Result<(), AppendError> {
        let active = self
            .active
            .as_ref()
            .ok_or(PartitionError::NoActiveSegment)?;
        let staged = (self.staged_bytes() + message.bytes()) as u64;
        let offsets = self.staged_end().0 - active.segment.base.0 + message.records();
        if active.position + staged > SEGMENT_BYTES_MAX || offsets > SEGMENT_OFFSETS_MAX {
            return Err(AppendError::SegmentFull);
        }
        Ok(())
    }

    fn stage_batch(
        &mut self,
        core: &Core,
        mut batch: BytesMut,
        mut header: BatchHeader,
        caller: Caller,
    ) {
        if header.has_producer() {
            let verdict = self
                .shared
                .dedupe
                .lock()
                .producers
                .check(&header, core.wall_ms);
            match verdict {
                Ok(Verdict::New) => {}
                Ok(Verdict::Duplicate(mark)) => return self.stage_duplicate(mark, caller),
                Err(error) => return finish(caller.ticket, Err(error)),
            }
        }
        self.close_batch(core);
        let Some(active) = &self.active else {
            return finish(caller.ticket, Err(AppendError::PartitionFailed));
        };
        header.leader_epoch = active.segment.epoch;
        header.base_offset = self.staged_end();
        stamp(&mut batch, header.base_offset, header.leader_epoch);
        let log_append_time = self.stamp_time(core, &mut batch, &mut header);
        if header.has_producer() {
            let mut dedupe = self.shared.dedupe.lock();
            let previous = dedupe.producers.record(&header, core.wall_ms);
            self.staged
                .undo_producers
                .push((header.producer_id, previous));
        }
        let appended = Appended {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            log_append_time,
            log_start: Offset::ZERO,
            duplicate: false,
        };
        self.push_batch(batch, header);
        self.push_ticket(caller, appended, header.next_offset());
    }

    /// The original may be staged, written or synced: the ticket waits for it like its own would.
    fn stage_duplicate(&mut self, mark: Mark, caller: Caller) {
        let stamps = self.settings.timestamp_type == TimestampType::LogAppendTime;
        let appended = Appended {
            base_offset: mark.base,
            last_offset: mark.last_offset,
            log_append_time: stamps.then_some(mark.timestamp),
            log_start: Offset::ZERO,
            duplicate: true,
        };
        self.push_ticket(caller, appended, mark.last_offset.next());
    }

    fn stage_record(&mut self, core: &Core, record: MqttRecord, caller: Caller) {
        if let Some(id) = &record.qos2 {
            let mut dedupe = self.shared.dedupe.lock();
            match dedupe.qos2.check(id, core.wall_ms) {
                Ok(false) => {
                    let undo = dedupe.qos2.record(id, core.wall_ms);
                    self.staged.undo_qos2.push(undo);
                }
                Ok(true) => {
                    drop(dedupe);
                    let appended = Appended {
                        base_offset: Offset(-1),
                        last_offset: Offset(-1),
                        log_append_time: None,
                        log_start: Offset::ZERO,
                        duplicate: true,
                    };
                    // Where the original lies is not known, only that it lies before here.
                    let end = self.staged_end();
                    return self.push_ticket(caller, appended, end);
                }
                Err(error) => {
                    drop(dedupe);
                    return finish(caller.ticket, Err(error));
                }
            }
        }
        let full = self.staged.open.as_ref().is_some_and(|open| {
            open.builder.size_bytes() + record.record.size_bytes() > MQTT_BATCH_BYTES_MAX
        });
        if full {
            self.close_batch(core);
        }
        let offset = self.staged_end();
        let open = self.staged.open.get_or_insert_with(|| OpenBatch {
            builder: BatchBuilder::new(BatchOptions {
                attributes: Attributes(0).with_mqtt(true),
                ..BatchOptions::default()
            }),
            base: offset,
        });
        open.builder
            .push(record.attributes, record.timestamp, &record.record);
        let stamps = self.settings.timestamp_type == TimestampType::LogAppendTime;
        let appended = Appended {
            base_offset: offset,
            last_offset: offset,
            log_append_time: stamps.then_some(TimestampMs(core.wall_ms)),
            log_start: Offset::ZERO,
            duplicate: false,
        };
        self.push_ticket(caller, appended, offset.next());
    }

    /// Turns the records of MQTT clients that wait into a batch.
    pub(super) fn close_batch(&mut self, core: &Core) {
        let Some(open) = self.staged.open.take() else {
            return;
        };
        let active = self
            .active
            .as_ref()
            .expect("staged only while there is one");
        let epoch = active.segment.epoch;
        let mut batch = open
            .builder
            .finish()
            .expect("not empty, and its size was checked record by record");
        stamp(&mut batch, open.base, epoch);
        let mut header = BatchHeader::parse(&batch).expect("this is a batch that was just built");
        self.stamp_time(core, &mut batch, &mut header);
        self.push_batch(batch, header);
    }

    fn stamp_time(
        &self,
        core: &Core,
        batch: &mut BytesMut,
        header: &mut BatchHeader,
    ) -> Option<TimestampMs> {
        if self.settings.timestamp_type == TimestampType::CreateTime {
            return None;
        }
        let now = TimestampMs(core.wall_ms);
        stamp_log_append_time(batch, now);
        header.max_timestamp = now;
        header.attributes = header
            .attributes
            .with_timestamp_type(TimestampType::LogAppendTime);
        Some(now)
    }

    fn push_batch(&mut self, batch: BytesMut, header: BatchHeader) {
        debug_assert_eq!(header.size_bytes(), batch.len());
        self.staged.bytes += batch.len();
        self.staged.batches.push((header, batch.freeze()));
    }

    pub(super) fn push_ticket(&mut self, caller: Caller, appended: Appended, end: Offset) {
        self.staged.tickets.push(StagedTicket {
            ticket: caller.ticket,
            ack: caller.ack,
            appended,
            end,
            permit: caller.permit,
        });
    }
}

/// A sequence of -1 is legal in batches that carry a producer: control batches.
const _: () = assert!(Sequence::NONE.0 == -1);
