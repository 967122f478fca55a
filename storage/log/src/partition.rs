//! The handle of a partition.

mod chain;
mod copies;
mod copy;
mod cut;
mod digest_at;
mod estimate;
mod matching;
mod memory;
mod reads;
mod replace;
mod replica;
mod time;

use std::{sync::Arc, time::Duration};

use mainstem_env::Env;
use mainstem_record::{LeaderEpoch, Offset, PartitionId, SegmentId, Sequence, TimestampMs};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::{
    active::Frozen,
    append::{Append, AppendTicket},
    checkpoint::Checkpoint,
    compact::{CompactError, CompactOptions, Compaction},
    damage::Damages,
    error::{AppendError, PartitionError, ReadError},
    files::Files,
    inbox::{Control, Inbox},
    metrics::Metrics,
    options::LogOptions,
    pool::Pool,
    read::{Chunk, Read},
    shared::{Shared, Subscription, Wake},
    space::SpaceAlarm,
    spec::{Ends, PartitionSettings, ProducerSnapshot, SealInfo, SegmentInfo, SegmentSpec},
};

pub use copy::SegmentCopy;
pub use matching::{Hits, Lookup};
pub use time::{Highest, Sought, TimeFound};

/// A partition of the log. Cheap to clone.
#[derive(Clone)]
pub struct Partition {
    inner: Arc<Inner>,
}

/// What all partitions of a log use.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) env: Env,
    pub(crate) options: Arc<LogOptions>,
    pub(crate) files: Arc<Files>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: Metrics,
    pub(crate) alarm: Arc<SpaceAlarm>,
    pub(crate) damages: Arc<Damages>,
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// Bounds the threads that read files: syncs need some of the same pool.
    pub(crate) readers: Arc<Semaphore>,
}

struct Inner {
    shared: Arc<Shared>,
    inbox: Inbox,
    tools: Tools,
    /// One administrative call at a time; holds the segment that is being sealed.
    admin: tokio::sync::Mutex<Option<Frozen>>,
}

/// Runs `work` even if the caller stops waiting for it; `None` only if the runtime dropped it.
pub(crate) async fn to_its_end<T: Send + 'static>(
    env: &Env,
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    env.spawn(name, async move {
        // The caller may be gone.
        let _ = sender.send(work.await);
    });
    receiver.await.ok()
}

// === impl Partition ===

impl Partition {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Inbox, tools: Tools) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                inbox,
                tools,
                admin: tokio::sync::Mutex::new(None),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inner.inbox
    }

    /// Held during an administrative call.
    pub(crate) fn admin(&self) -> &tokio::sync::Mutex<Option<Frozen>> {
        &self.inner.admin
    }

    /// Which partition this is.
    pub fn id(&self) -> PartitionId {
        self.inner.shared.id
    }

    /// The number of the I/O shard that writes it, from 0 on.
    pub fn shard(&self) -> usize {
        self.inner.inbox.health().shard
    }

    /// The leader epoch of the newest segment, which is the active one if there is one;
    /// [`LeaderEpoch::NONE`] without segments.
    pub fn epoch(&self) -> LeaderEpoch {
        let chain = self.inner.shared.chain.read();
        chain.last().map_or(LeaderEpoch::NONE, |last| last.epoch)
    }

    /// Whether it can only be read any more: it is damaged, or its file cannot be cut back.
    pub fn has_failed(&self) -> bool {
        self.inner.shared.status() == crate::shared::Status::Failed
    }

    /// Its offsets, all of the same moment.
    pub fn ends(&self) -> Ends {
        self.inner.shared.ends()
    }

    /// Appends. Waits only for room; when it returns, the append has its place in the order, and
    /// the ticket tells what becomes of it.
    ///
    /// # Errors
    /// What can be told at once; nothing was appended then.
    pub async fn append(&self, append: Append) -> Result<AppendTicket, AppendError> {
        self.inner.inbox.append(&self.inner.shared, append).await
    }

    /// Appends if there is room now.
    ///
    /// # Errors
    /// As [`Partition::append`], and [`AppendError::WouldBlock`].
    pub fn try_append(&self, append: Append) -> Result<AppendTicket, AppendError> {
        self.inner.inbox.try_append(&self.inner.shared, append)
    }

    /// Reads whole batches of one segment, from memory without leaving the task if they are there,
    /// else from the file. Nothing at or above the committed end is returned; at that end the
    /// chunk is empty.
    ///
    /// # Errors
    /// [`ReadError`]; a range that is damaged does not keep others from being read.
    pub async fn read(&self, read: Read) -> Result<Chunk, ReadError> {
        reads::read(&self.inner.shared, &self.inner.tools, read).await
    }

    /// The batches of the sealed segment that holds `from` whose records may have a label that
    /// `matches` (see [`crate::Log::set_labels`]), if they are few.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`], [`ReadError::Removed`].
    pub async fn matching(
        &self,
        from: Offset,
        matches: impl FnMut(&[u8]) -> bool + Send + 'static,
    ) -> Result<Lookup, ReadError> {
        matching::matching(&self.inner.shared, &self.inner.tools, from, matches).await
    }

    /// As [`Partition::read`], but only those of `hits` that have records from `from` on: at least
    /// one, and up to `bytes_max` bytes. Each batch is a run of its own. What lies between them,
    /// and up to [`Chunk::next`], has no record with a label that was looked for.
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub async fn read_hits(
        &self,
        hits: &Hits,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        let (shared, tools) = (&self.inner.shared, &self.inner.tools);
        matching::read_hits(shared, tools, (hits, from), bytes_max).await
    }

    /// Wakes `notify` (`notify_one`) whenever the committed end or the log start has moved, or the
    /// partition fails or is removed. To miss nothing, subscribe first and then look at
    /// [`Partition::ends`].
    pub fn subscribe(&self, notify: &Arc<Notify>) -> Subscription {
        self.inner
            .shared
            .subscribe(Wake::One(notify.clone()), false)
    }

    /// Offset and timestamp of the first readable record from `from` on with a timestamp of at least
    /// `at_least`, exact inside compressed batches.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if it may be in a segment that is not here, and not before it;
    /// [`ReadError::Damaged`] if it cannot be told because of damage; [`ReadError`].
    pub async fn find_timestamp(
        &self,
        at_least: TimestampMs,
        from: Offset,
    ) -> Result<TimeFound, ReadError> {
        time::find(&self.inner.shared, &self.inner.tools, (at_least, from)).await
    }

    /// The readable record with the highest timestamp, the first of several.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it cannot be told because of damage; [`ReadError`].
    pub async fn max_timestamp(&self) -> Result<Highest, ReadError> {
        time::max(&self.inner.shared, &self.inner.tools).await
    }

    /// The same of the records from `from` on of one sealed segment, wherever the log begins: for
    /// others, who do not hold it.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`], [`ReadError::Damaged`], [`ReadError::Io`].
    pub async fn find_in_segment(
        &self,
        id: SegmentId,
        from: Offset,
        sought: Sought,
    ) -> Result<TimeFound, ReadError> {
        let segment = copies::held(&self.inner.shared, id)?;
        time::find_in_sealed(&self.inner.tools, (segment, from), sought).await
    }

    /// Its segments, oldest first. Empty sealed ones are not among them.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let chain = self.inner.shared.chain.read();
        chain.iter().map(|segment| segment.info()).collect()
    }

    /// Bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        let chain = self.inner.shared.chain.read();
        chain.iter().map(|segment| segment.state.read().bytes).sum()
    }

    /// Begins to seal the active segment: appends wait from here on, what came before is written
    /// and synced. May be called again; ends with [`Partition::seal_commit`] or
    /// [`Partition::seal_abort`], also if this call was dropped before it returned.
    ///
    /// # Errors
    /// [`PartitionError`]; after an I/O error the partition stays frozen.
    pub async fn seal_begin(&self) -> Result<SealInfo, PartitionError> {
        chain::seal_begin(&self.inner).await
    }

    /// Seals the frozen segment, or removes it if it is empty, opens the next one and lets the
    /// appends go on in it. Opens the first segment of a partition without an active one, too.
    ///
    /// # Errors
    /// [`PartitionError::NotFrozen`], [`PartitionError::NotNext`]; after an I/O error the
    /// partition stays frozen, and the call may be repeated.
    pub async fn seal_commit(&self, next: SegmentSpec) -> Result<(), PartitionError> {
        let step = chain::Step { sealed: None, next };
        self.step(step).await
    }

    async fn step(&self, step: chain::Step) -> Result<(), PartitionError> {
        let inner = self.inner.clone();
        let work = async move { chain::seal_commit(&inner, step).await };
        to_its_end(&self.inner.tools.env, "log-seal", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Gives the seal up; appends go on in the same segment.
    pub async fn seal_abort(&self) {
        let mut frozen = self.inner.admin.lock().await;
        *frozen = None;
        // A partition that is gone or closed has nothing to thaw.
        let _ = self.ask(Control::Thaw).await;
    }

    /// Forgets sealed segments that end at or below the new log start, and removes their files.
    /// Those that are not known (any more) count as dropped.
    ///
    /// # Errors
    /// [`PartitionError::CannotDrop`], [`PartitionError::AboveCommitted`]: nothing was dropped.
    /// After an I/O error the segments are gone, and files that stayed are removed at the next
    /// start.
    pub async fn drop_segments(
        &self,
        segments: &[SegmentId],
        log_start: Offset,
    ) -> Result<(), PartitionError> {
        let (inner, segments) = (self.inner.clone(), segments.to_vec());
        let work = async move { chain::drop_segments(&inner, &segments, log_start).await };
        to_its_end(&self.inner.tools.env, "log-drop", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Begins a compaction of the sealed segments: reads what is not compacted yet and remembers the
    /// newest offset of each key. One at a time.
    ///
    /// # Errors
    /// [`CompactError`].
    pub async fn compact(&self, options: CompactOptions) -> Result<Compaction, CompactError> {
        let (shared, tools) = (self.inner.shared.clone(), self.inner.tools.clone());
        Compaction::begin(shared, tools, options).await
    }

    /// Puts a compacted segment, which is on disk, in the place of the neighbours that it was made
    /// from, and removes their files after the delay of [`Partition::delete_files_after`]. If it is
    /// in its place already, nothing happens.
    ///
    /// # Errors
    /// [`PartitionError::CannotReplace`]; after [`PartitionError::Io`] the chain is as before.
    pub async fn replace_segments(
        &self,
        old: &[SegmentId],
        new: SegmentSpec,
    ) -> Result<(), PartitionError> {
        let (inner, old) = (self.inner.clone(), old.to_vec());
        let work = async move { replace::replace_segments(&inner, &old, new).await };
        to_its_end(&self.inner.tools.env, "log-replace", work)
            .await
            .unwrap_or(Err(PartitionError::Closed))
    }

    /// Removes the files of a compacted segment that was not committed. What cannot be removed goes
    /// when the partition is opened.
    pub async fn discard_replacement(&self, new: SegmentSpec) {
        replace::discard(&self.inner, new).await;
    }

    /// How long the files of segments that are dropped or replaced stay, so that whoever reads them
    /// can go on; at first not at all. Files that are left at a stop go when the partition is opened.
    pub fn delete_files_after(&self, delay: Duration) {
        self.inner.shared.set_delete_delay(delay);
    }

    /// Moves the log start up; a lower one than now changes nothing.
    ///
    /// # Errors
    /// [`PartitionError::AboveCommitted`].
    pub async fn set_log_start(&self, log_start: Offset) -> Result<(), PartitionError> {
        let _admin = self.inner.admin.lock().await;
        chain::raise_log_start(&self.inner.shared, log_start)
    }

    /// Takes over settings, in order with appends. A new flush policy does not take back what was
    /// acknowledged under the old one.
    pub async fn update_settings(&self, settings: PartitionSettings) {
        // A partition that is gone or closed needs none.
        let _ = self.ask(|reply| Control::Settings(settings, reply)).await;
    }

    /// Waits until everything appended before is on stable storage, and returns the synced end.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn flush(&self) -> Result<Offset, PartitionError> {
        self.ask(Control::Flush).await?
    }

    /// What it remembers of idempotent producers, by producer id.
    pub fn producers(&self) -> Vec<ProducerSnapshot> {
        let dedupe = self.inner.shared.dedupe.lock();
        let mut all: Vec<ProducerSnapshot> = dedupe
            .producers
            .iter()
            .map(|(id, producer)| {
                let last = producer.marks().last();
                ProducerSnapshot {
                    id: *id,
                    epoch: producer.epoch,
                    last_sequence: last.map_or(Sequence::NONE, |mark| mark.last),
                    last_offset: last.map_or(Offset(-1), |mark| mark.last_offset),
                    last_seen_ms: producer.last_seen_ms,
                }
            })
            .collect();
        all.sort_unstable_by_key(|producer| producer.id);
        all
    }

    async fn ask<T>(
        &self,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, PartitionError> {
        self.inner.inbox.ask(&self.inner.shared, control).await
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id())
            .field("ends", &self.ends())
            .finish_non_exhaustive()
    }
}
