//! The way into a shard: one queue, bounded by count and by bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstem_record::{BatchBuilder, BatchHeader, BatchOptions, EncodedRecord, TimestampMs};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};

use crate::{
    active::{Active, Frozen},
    append::{Ack, Append, AppendTicket, Appended, Qos2Id, TicketSender},
    error::{AppendError, LogError, PartitionError},
    event::{ShardFailure, ShardHealth},
    shared::{Shared, Status},
    spec::PartitionSettings,
};

/// What a waiting append costs besides its bytes, so that empty ones are bounded too.
const MESSAGE_BYTES: usize = 256;

/// The largest record of [`Append::Record`]: with what a batch adds it still fits one.
const RECORD_BYTES_MAX: usize = (i32::MAX as usize) - (1 << 20);

/// The sending side of a shard. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Message>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    health: Arc<Health>,
}

/// Whether a shard still acknowledges.
pub(crate) struct Health {
    pub(crate) shard: usize,
    failure: RwLock<Option<ShardFailure>>,
    reports: mpsc::Sender<ShardFailure>,
}

/// Failures that others than the shard have found in its files.
pub(crate) type FailureReports = mpsc::Receiver<ShardFailure>;

/// What a shard is asked.
pub(crate) enum Message {
    Append(AppendMessage),
    Control(Arc<Shared>, Control),
    /// Drain, sync all, write what a clean start needs, end.
    Close(oneshot::Sender<Result<(), LogError>>),
}

/// An append that has its place in the order.
pub(crate) struct AppendMessage {
    pub(crate) shared: Arc<Shared>,
    pub(crate) work: Work,
    pub(crate) ack: Ack,
    pub(crate) ticket: TicketSender,
    /// Room in the inbox, held until the data is written.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// What is to be appended.
pub(crate) enum Work {
    Batch {
        batch: BytesMut,
        header: BatchHeader,
        /// It is of an internal topic, which may use the last of the disk.
        internal: bool,
    },
    Record {
        record: EncodedRecord,
        attributes: u8,
        timestamp: TimestampMs,
        qos2: Option<Qos2Id>,
    },
}

/// What a shard is asked about one partition, in order with its appends.
pub(crate) enum Control {
    /// Take the partition on; with no active segment it begins frozen.
    Open(Option<Active>, PartitionSettings, oneshot::Sender<()>),
    /// Take no more appends, sync, and say what there is.
    Freeze(oneshot::Sender<Result<Frozen, PartitionError>>),
    /// Seal the frozen segment, if there is one, and go on in this one.
    Install(Active, oneshot::Sender<Result<(), PartitionError>>),
    /// Go on in the same segment.
    Thaw(oneshot::Sender<()>),
    /// Answer when everything appended before is synced.
    Flush(FlushSender),
    Settings(PartitionSettings, oneshot::Sender<()>),
    /// Forget the partition.
    Remove(oneshot::Sender<()>),
}

pub(crate) type FlushSender = oneshot::Sender<Result<mainstem_record::Offset, PartitionError>>;

// === impl Health ===

impl Health {
    pub(crate) fn new(shard: usize) -> (Arc<Self>, FailureReports) {
        let (reports, receiver) = mpsc::channel(1);
        let failure = RwLock::new(None);
        let health = Self {
            shard,
            failure,
            reports,
        };
        (Arc::new(health), receiver)
    }

    /// Tells the shard that the sync of one of its files has failed.
    pub(crate) fn report_failure(&self, failure: ShardFailure) {
        // The first is enough; without a shard there is nobody to stop.
        let _ = self.reports.try_send(failure);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.read().is_some()
    }

    /// The first failure counts; says whether this is it.
    pub(crate) fn fail(&self, failure: &ShardFailure) -> bool {
        let mut state = self.failure.write();
        let first = state.is_none();
        if first {
            *state = Some(failure.clone());
        }
        first
    }

    pub(crate) fn report(&self) -> ShardHealth {
        ShardHealth {
            shard: self.shard,
            failure: self.failure.read().clone(),
        }
    }
}

// === impl AppendMessage ===

impl AppendMessage {
    /// Bytes that it will need in the segment, about.
    pub(crate) fn bytes(&self) -> usize {
        match &self.work {
            Work::Batch { batch, .. } => batch.len(),
            Work::Record { record, .. } => record.size_bytes() + MESSAGE_BYTES,
        }
    }

    pub(crate) fn records(&self) -> i64 {
        match &self.work {
            Work::Batch { header, .. } => i64::from(header.record_count),
            Work::Record { .. } => 1,
        }
    }

    pub(crate) fn fail(self, error: AppendError) {
        finish(self.ticket, Err(error));
    }
}

/// Completes a ticket; nobody may be waiting for it.
pub(crate) fn finish(ticket: TicketSender, result: Result<Appended, AppendError>) {
    let _ = ticket.send(result);
}

// === impl Inbox ===

impl Inbox {
    /// An inbox for `count_max` messages and `bytes_max` bytes of appends.
    pub(crate) fn new(
        count_max: usize,
        bytes_max: usize,
        health: Arc<Health>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
        let (sender, receiver) = mpsc::channel(count_max.max(1));
        let inbox = Self {
            sender,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            health,
        };
        (inbox, receiver)
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Waits for room.
    pub(crate) async fn append(
        &self,
        shared: &Arc<Shared>,
        append: Append,
    ) -> Result<AppendTicket, AppendError> {
        self.usable(shared)?;
        let (work, ack) = prepare(append)?;
        let permits = self.permits(&work);
        let permit = self.bytes.clone().acquire_many_owned(permits).await;
        let (message, ticket) = message(shared, work, ack, permit.map_err(closed)?);
        self.sender
            .send(Message::Append(message))
            .await
            .map_err(closed)?;
        Ok(ticket)
    }

    /// Does not wait for room.
    pub(crate) fn try_append(
        &self,
        shared: &Arc<Shared>,
        append: Append,
    ) -> Result<AppendTicket, AppendError> {
        self.usable(shared)?;
        let (work, ack) = prepare(append)?;
        let permits = self.permits(&work);
        let permit = self.bytes.clone().try_acquire_many_owned(permits);
        let permit = permit.map_err(|error| match error {
            TryAcquireError::Closed => AppendError::Closed,
            TryAcquireError::NoPermits => AppendError::WouldBlock,
        })?;
        let (message, ticket) = message(shared, work, ack, permit);
        self.sender
            .try_send(Message::Append(message))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Closed(_) => AppendError::Closed,
                mpsc::error::TrySendError::Full(_) => AppendError::WouldBlock,
            })?;
        Ok(ticket)
    }

    /// Asks something about a partition and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        shared: &Arc<Shared>,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, PartitionError> {
        let (sender, receiver) = oneshot::channel();
        let message = Message::Control(shared.clone(), control(sender));
        self.sender
            .send(message)
            .await
            .map_err(|_| PartitionError::Closed)?;
        // The shard drops the question of a partition that it does not know (any more).
        receiver.await.map_err(|_| match shared.status() {
            Status::Removed => PartitionError::Removed,
            Status::Open | Status::Failed => PartitionError::Closed,
        })
    }

    /// Ends the shard.
    pub(crate) async fn close(&self) -> Result<(), LogError> {
        let (sender, receiver) = oneshot::channel();
        self.sender
            .send(Message::Close(sender))
            .await
            .map_err(|_| LogError::Closed)?;
        receiver.await.unwrap_or(Err(LogError::Closed))
    }

    fn usable(&self, shared: &Shared) -> Result<(), AppendError> {
        match shared.status() {
            Status::Removed => return Err(AppendError::Removed),
            Status::Failed => return Err(AppendError::PartitionFailed),
            Status::Open => {}
        }
        if self.health.has_failed() {
            return Err(AppendError::ShardFailed);
        }
        Ok(())
    }

    /// What is larger than the whole inbox waits until it has the inbox for itself.
    fn permits(&self, work: &Work) -> u32 {
        let bytes = match work {
            Work::Batch { batch, .. } => batch.len(),
            Work::Record { record, .. } => record.size_bytes(),
        };
        u32::try_from(bytes.saturating_add(MESSAGE_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.bytes_max)
    }
}

fn closed<E>(_: E) -> AppendError {
    AppendError::Closed
}

fn message(
    shared: &Arc<Shared>,
    work: Work,
    ack: Ack,
    permit: OwnedSemaphorePermit,
) -> (AppendMessage, AppendTicket) {
    let (sender, ticket) = AppendTicket::new();
    let message = AppendMessage {
        shared: shared.clone(),
        work,
        ack,
        ticket: sender,
        permit,
    };
    (message, ticket)
}

/// Does on the caller's task what does not need the partition.
fn prepare(append: Append) -> Result<(Work, Ack), AppendError> {
    match append {
        Append::Batch { batch, ack } => {
            let header = batch_header(&batch)?;
            debug_assert!(
                mainstem_record::validate(&batch).is_ok(),
                "validated by the caller"
            );
            let batch = owned(batch);
            let internal = false;
            let work = Work::Batch {
                batch,
                header,
                internal,
            };
            Ok((work, ack))
        }
        Append::Record {
            record,
            attributes,
            timestamp,
            qos2,
            ack,
        } => {
            if record.size_bytes() > RECORD_BYTES_MAX {
                return Err(AppendError::BatchTooLarge);
            }
            let work = Work::Record {
                record,
                attributes,
                timestamp,
                qos2,
            };
            Ok((work, ack))
        }
        Append::Records { records, ack } => {
            let bytes = records.iter().map(|(record, _)| record.size_bytes() + 32);
            let mut builder = BatchBuilder::with_capacity(BatchOptions::default(), bytes.sum());
            for (record, timestamp) in &records {
                builder.push(0, *timestamp, record);
            }
            if builder.is_empty() {
                return Err(AppendError::InvalidBatch);
            }
            let batch = builder.finish().map_err(|_| AppendError::BatchTooLarge)?;
            let header = batch_header(&batch)?;
            let internal = true;
            let work = Work::Batch {
                batch,
                header,
                internal,
            };
            Ok((work, ack))
        }
    }
}

/// The header of what is one whole batch by its length and counts.
fn batch_header(batch: &[u8]) -> Result<BatchHeader, AppendError> {
    let header = BatchHeader::parse(batch).map_err(|_| AppendError::InvalidBatch)?;
    let counts = header.record_count >= 1
        && header.last_offset_delta.checked_add(1) == Some(header.record_count);
    if header.size_bytes() != batch.len() || !counts {
        return Err(AppendError::InvalidBatch);
    }
    Ok(header)
}

/// A buffer that can be stamped: the same one if nobody else holds it.
fn owned(batch: Bytes) -> BytesMut {
    batch
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
