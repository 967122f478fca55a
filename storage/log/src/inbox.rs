//! The way into a shard: one queue, bounded by count and by bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstem_record::{
    BatchBuilder, BatchHeader, BatchOptions, EncodedRecord, Offset, SegmentId, TimestampMs,
    check_stored,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};

use crate::{
    active::{Active, Frozen},
    append::{Ack, Append, AppendTicket, Appended, Qos2Id, ReplicaAppend, TicketSender},
    dedupe::{Dedupe, qos2_of},
    error::{AppendError, LogError, PartitionError},
    event::{PartitionFailure, ShardFailure, ShardHealth},
    options::LogOptions,
    planted::{Bug, planted},
    recovery::Rebuilt,
    segment::Segment,
    shared::{Shared, Status},
    spec::{Ends, PartitionSettings, Role},
    syncer::CutSender,
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
    decompressed_bytes_max: usize,
    told: Arc<Told>,
}

/// Partitions with a high watermark that their shard has not looked at, each at most once. They are
/// not in the queue, which may be full: what completes appends must not wait behind them.
#[derive(Default)]
pub(crate) struct Told {
    partitions: Mutex<Vec<Arc<Shared>>>,
    notify: Notify,
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
    Replica(Box<ReplicaWork>),
}

/// Batches of the leader that were checked, except against the log.
pub(crate) struct ReplicaWork {
    pub(crate) segment: SegmentId,
    /// At least one; each begins where the one before it ends.
    pub(crate) batches: Vec<(BatchHeader, Bytes)>,
    pub(crate) bytes: usize,
    /// The QoS 2 publishes in them.
    pub(crate) qos2: Vec<Qos2Id>,
    /// They come from another replica of a segment that is being sealed, not from its leader.
    pub(crate) copied: bool,
}

/// What a shard is asked about one partition, in order with its appends.
pub(crate) enum Control {
    /// Take the partition on; with no active segment it begins frozen.
    Open(Option<Active>, PartitionSettings, Role, oneshot::Sender<()>),
    /// Take no more appends, sync, and say what there is.
    Freeze(oneshot::Sender<Result<Frozen, PartitionError>>),
    /// Seal the last segment, if it is active, and go on in the next one.
    Install(Box<Install>, oneshot::Sender<Result<(), PartitionError>>),
    /// Say what is remembered where the active segment begins.
    Memory(oneshot::Sender<Option<Arc<Dedupe>>>),
    /// Say how far the active segment is, and its digest.
    Look(oneshot::Sender<Option<Frozen>>),
    /// Take that over.
    InstallMemory(Box<Dedupe>, oneshot::Sender<Result<(), PartitionError>>),
    /// Forget what lies above the cut, and say so in the journal. Nothing is written until
    /// [`Control::Recut`].
    Cut(Cut, CutSender),
    /// The file is cut: go on.
    Recut(
        Result<Box<Rebuilt>, PartitionFailure>,
        oneshot::Sender<Result<(), PartitionError>>,
    ),
    /// Do this from here on.
    Role(Role, oneshot::Sender<Result<Ends, PartitionError>>),
    /// Go on in the same segment.
    Thaw(oneshot::Sender<()>),
    /// Answer when everything appended before is synced.
    Flush(FlushSender),
    Settings(PartitionSettings, oneshot::Sender<()>),
    /// Forget the partition.
    Remove(oneshot::Sender<()>),
}

/// Where the active segment is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) segment: SegmentId,
    /// As offset and as position in its file.
    pub(crate) end: Offset,
    pub(crate) position: u64,
}

/// The change from one segment to the next.
pub(crate) struct Install {
    /// Where the last segment ends, and whether all of it is here.
    pub(crate) end: Offset,
    pub(crate) held: bool,
    pub(crate) next: Arc<Segment>,
    /// The same, to be written; `None` if it is not held here.
    pub(crate) active: Option<Active>,
    /// What is remembered at its base, as far as that is known here.
    pub(crate) memory: Arc<Dedupe>,
}

pub(crate) type FlushSender = oneshot::Sender<Result<Offset, PartitionError>>;

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
            Work::Replica(replica) => replica.bytes,
        }
    }

    pub(crate) fn records(&self) -> i64 {
        match &self.work {
            Work::Batch { header, .. } => i64::from(header.record_count),
            Work::Record { .. } => 1,
            Work::Replica(replica) => replica.offsets(),
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

// === impl ReplicaWork ===

impl ReplicaWork {
    /// Offsets from the first to after the last.
    fn offsets(&self) -> i64 {
        let first = self.batches.first().map_or(0, |(h, _)| h.base_offset.0);
        let end = self.batches.last().map_or(0, |(h, _)| h.next_offset().0);
        end - first
    }
}

// === impl Told ===

impl Told {
    /// Lets the shard look at the partition. Never waits.
    pub(crate) fn push(&self, shared: &Arc<Shared>) {
        self.partitions.lock().push(shared.clone());
        self.notify.notify_one();
    }

    /// Waits until there is one.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Arc<Shared>> {
        std::mem::take(&mut *self.partitions.lock())
    }
}

// === impl Inbox ===

impl Inbox {
    /// The inbox of a shard.
    pub(crate) fn new(
        options: &LogOptions,
        health: Arc<Health>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let bytes_max = options.shard_inflight_bytes_max;
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
        let (sender, receiver) = mpsc::channel(options.shard_inflight_count_max.max(1));
        let inbox = Self {
            sender,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            health,
            decompressed_bytes_max: options.decompressed_bytes_max,
            told: Arc::default(),
        };
        (inbox, receiver)
    }

    /// What the shard looks at besides the queue.
    pub(crate) fn told(&self) -> &Arc<Told> {
        &self.told
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
        self.send(shared, work, ack).await
    }

    /// Waits for room. `copied`: from another replica of a segment that is being sealed.
    pub(crate) async fn append_replica(
        &self,
        shared: &Arc<Shared>,
        append: ReplicaAppend,
        copied: bool,
    ) -> Result<AppendTicket, AppendError> {
        self.usable(shared)?;
        let limit = self.decompressed_bytes_max;
        let replica = ReplicaWork {
            copied,
            ..prepare_replica(&append, limit)?
        };
        self.send(shared, Work::Replica(Box::new(replica)), append.ack)
            .await
    }

    async fn send(
        &self,
        shared: &Arc<Shared>,
        work: Work,
        ack: Ack,
    ) -> Result<AppendTicket, AppendError> {
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
            Work::Replica(replica) => replica.bytes,
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

/// Takes the batches of a leader apart and checks each, as recovery does.
fn prepare_replica(
    append: &ReplicaAppend,
    decompressed_bytes_max: usize,
) -> Result<ReplicaWork, AppendError> {
    let mut rest = append.batches.clone();
    let mut work = ReplicaWork {
        segment: append.segment,
        batches: Vec::new(),
        bytes: rest.len(),
        qos2: Vec::new(),
        copied: false,
    };
    let mut next = append.at;
    while !rest.is_empty() {
        let header = BatchHeader::parse(&rest).map_err(|_| AppendError::InvalidBatch)?;
        if header.size_bytes() > rest.len() || header.base_offset != next {
            return Err(AppendError::InvalidBatch);
        }
        let batch = rest.split_to(header.size_bytes());
        if check_stored(&batch).is_err() && !planted(Bug::UncheckedReplica) {
            return Err(AppendError::InvalidBatch);
        }
        qos2_of(&header, &batch, decompressed_bytes_max, |id| {
            work.qos2.push(id)
        });
        next = header.next_offset();
        work.batches.push((header, batch));
    }
    if work.batches.is_empty() {
        return Err(AppendError::InvalidBatch);
    }
    Ok(work)
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
