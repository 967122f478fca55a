//! The writing side of one partition, owned by its shard: what waits, what is staged for the next
//! write, what is written and not yet synced.
//!
//! An append passes these stages; each stage keeps the order.
//!
//! ```text
//! inbox -> [frozen queue] -> staged -> written (visible under Os, Interval) -> synced
//! ```
//! Staging stamps offsets and takes note of sequences; if the write then fails, both are taken
//! back and everything staged with it fails, so nothing later can have been built on it.

mod commit;
mod control;
mod cut;
mod durable;
mod point;
mod replica;
mod stage;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_record::{BatchBuilder, BatchHeader, Offset, ProducerId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use durable::{Kept, Syncing};

use crate::{
    active::{Active, Frozen},
    append::{Ack, Appended, TicketSender},
    dedupe::{Dedupe, Producer, Qos2Undo},
    error::{AppendError, PartitionError},
    inbox::{AppendMessage, FlushSender, finish},
    shard::Core,
    shared::{Shared, Status},
    spec::{PartitionSettings, Role},
};

/// One batch of MQTT records is closed at this size, in bytes.
const MQTT_BATCH_BYTES_MAX: usize = 1 << 20;

/// One write call takes about so much: longer ones stall the shard's other partitions.
const WRITE_BYTES_MAX: usize = 512 << 10;

/// Of the room of a shard's inbox, its frozen partitions may hold this part.
const FROZEN_PART: usize = 2;

/// The writing side of one partition.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    slot: usize,
    settings: PartitionSettings,
    role: Role,
    /// The active segment; without one, the gate is closed.
    active: Option<Active>,
    /// The active segment while its file is being cut.
    cutting: Option<Active>,
    gate: Gate,
    staged: Staged,
    /// Who waits for a sync, in order.
    waiters: VecDeque<Waiter>,
    /// Appends that wait for the high watermark, in order.
    committing: VecDeque<Waiter>,
    /// What is remembered where the active segment begins, while it is led here for others.
    base_memory: Option<Arc<Dedupe>>,
    /// Who waits for the frozen segment to be synced in its own file.
    freezing: Vec<oneshot::Sender<Result<Frozen, PartitionError>>>,
    syncing: Syncing,
    /// For the journal; `None` if the next sync must be in place.
    kept: Option<Kept>,
    /// It is in the list of those that the journal should note.
    note_wanted: bool,
    /// A timer will ask for a sync.
    interval_armed: bool,
    /// The owner has been told that the active segment should be rolled.
    roll_told: bool,
    /// It is in the list of those that have something staged.
    pub(crate) touched: bool,
}

/// Holds appends back while a segment is being sealed, or is full and waits for that.
struct Gate {
    /// The segment is being sealed, or there is none.
    closed: bool,
    /// What comes next is for the next segment, which the owner has been asked for.
    full: bool,
    /// What waited is let in, whether it fits or not.
    is_lenient: bool,
    queue: VecDeque<Queued>,
    /// Room of the inbox that the queue holds.
    room: usize,
    /// Something was refused: until the gate opens everything is, so that order is kept.
    overflowed: bool,
}

enum Queued {
    Append(AppendMessage),
    Flush(FlushSender),
}

/// What goes into the next write.
#[derive(Default)]
struct Staged {
    batches: Vec<(BatchHeader, Bytes)>,
    bytes: usize,
    tickets: Vec<StagedTicket>,
    open: Option<OpenBatch>,
    undo_producers: Vec<(ProducerId, Option<Producer>)>,
    undo_qos2: Vec<Qos2Undo>,
}

struct StagedTicket {
    ticket: TicketSender,
    ack: Ack,
    appended: Appended,
    /// What must be durable before the ticket may complete.
    end: Offset,
    /// Released when the ticket completes.
    permit: OwnedSemaphorePermit,
}

/// A batch of MQTT records that still grows.
struct OpenBatch {
    builder: BatchBuilder,
    base: Offset,
}

struct Waiter {
    /// What must be synced.
    end: Offset,
    since: Duration,
    what: Waiting,
}

enum Waiting {
    /// With its room in the inbox: a slow disk slows producers, and never grows memory.
    Append(TicketSender, Appended, OwnedSemaphorePermit),
    Flush(FlushSender),
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        slot: usize,
        (settings, role): (PartitionSettings, Role),
        active: Option<Active>,
    ) -> Self {
        let gate = Gate {
            closed: active.is_none(),
            full: false,
            is_lenient: false,
            queue: VecDeque::new(),
            room: 0,
            overflowed: false,
        };
        let mut writer = Self {
            shared,
            slot,
            settings,
            role,
            active,
            cutting: None,
            gate,
            staged: Staged::default(),
            waiters: VecDeque::new(),
            committing: VecDeque::new(),
            base_memory: None,
            freezing: Vec::new(),
            syncing: Syncing::No,
            kept: None,
            note_wanted: false,
            interval_armed: false,
            roll_told: false,
            touched: false,
        };
        writer.keep_base_memory();
        writer
    }

    /// Why nothing can be appended, if so.
    fn refusal(&self, core: &Core) -> Option<PartitionError> {
        if core.health.has_failed() {
            return Some(PartitionError::ShardFailed);
        }
        match self.shared.status() {
            Status::Open => None,
            Status::Failed => Some(PartitionError::Failed),
            Status::Removed => Some(PartitionError::Removed),
        }
    }

    /// After the last record that is written or staged.
    fn staged_end(&self) -> Offset {
        let written = self.active.as_ref().map(|active| active.next);
        let batches = self.staged.batches.last().map(|(h, _)| h.next_offset());
        let open = &self.staged.open;
        let open = open
            .as_ref()
            .map(|open| open.base.plus(open.builder.len() as i64));
        open.or(batches)
            .or(written)
            .unwrap_or_else(|| self.shared.ends().log_end)
    }

    /// Fails everything that waits.
    pub(crate) fn fail_all(&mut self, core: &mut Core, error: PartitionError) {
        let waiters = std::mem::take(&mut self.waiters);
        let committing = std::mem::take(&mut self.committing);
        for waiter in waiters.into_iter().chain(committing) {
            match waiter.what {
                Waiting::Append(ticket, ..) => finish(ticket, Err(error.into())),
                Waiting::Flush(reply) => {
                    let _ = reply.send(Err(error));
                }
            }
        }
        for reply in self.freezing.drain(..) {
            let _ = reply.send(Err(error));
        }
        self.let_go(core);
        for queued in self.gate.take(core) {
            match queued {
                Queued::Append(message) => message.fail(error.into()),
                Queued::Flush(reply) => {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }
}

// === impl Gate ===

impl Gate {
    fn is_shut(&self) -> bool {
        self.closed || self.full
    }

    /// Queues an append, or refuses it: it waits in the inbox's room, which others need too, so
    /// all frozen partitions of the shard together get a part of it.
    fn push(&mut self, core: &mut Core, message: AppendMessage) {
        let room = message.permit.num_permits();
        let room_max = core.options.shard_inflight_bytes_max / FROZEN_PART;
        let full = core.frozen_room > 0 && core.frozen_room + room > room_max;
        if self.overflowed || full {
            self.overflowed = true;
            message.fail(AppendError::WouldBlock);
            return;
        }
        self.room += room;
        core.frozen_room += room;
        self.queue.push_back(Queued::Append(message));
    }

    fn take(&mut self, core: &mut Core) -> VecDeque<Queued> {
        core.frozen_room -= std::mem::take(&mut self.room);
        self.overflowed = false;
        // What comes next is looked at anew.
        self.full = false;
        std::mem::take(&mut self.queue)
    }
}
