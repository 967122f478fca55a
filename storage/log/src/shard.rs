//! An I/O shard: one thread that owns the active segments of its partitions, so that a write that
//! stalls stalls neither other shards nor connections.
//!
//! It takes everything that waits, stages it by partition, makes one vectored write per segment,
//! publishes, and completes who waits. Syncs run beside it, except that for a waiter who is
//! alone. There is no linger timer: batches come from load.

mod rounds;

use std::{future::pending, sync::Arc, sync::atomic::Ordering, time::Duration};

use mainstem_env::Env;
use mainstem_record::PartitionId;
use tokio::sync::{mpsc, oneshot};

use crate::{
    acks::Acks,
    active::Active,
    cache::ShardCache,
    checkpoint::{CHECKPOINT_INTERVAL, Checkpoint, SyncedPoint},
    error::{LogError, PartitionError},
    event::{LogEvent, ShardFailure},
    files::Files,
    inbox::{Control, FailureReports, Health, Message, Told},
    journal::Journal,
    metrics::Metrics,
    options::LogOptions,
    partition::Tools,
    paths,
    planted::{Bug, planted},
    points::{Draft, Points},
    shared::{Shared, Status},
    space::SpaceGuard,
    spec::{PartitionSettings, Role},
    syncer::SyncQueue,
    writer::Writer,
};

use rounds::{Over, Rounds};

/// How many messages are taken out of the inbox at once.
const DRAIN_MESSAGES_MAX: usize = 4096;

/// After so many bytes of inline writes other tasks get their turn.
const YIELD_BYTES: usize = 4 << 20;

/// At a clean stop, about so many bytes of recovery points are in memory.
const POINT_BYTES_MAX: usize = 32 << 20;

/// What the writers of a shard share.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) options: Arc<LogOptions>,
    pub(crate) files: Arc<Files>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
    pub(crate) events: mpsc::Sender<LogEvent>,
    pub(crate) space: SpaceGuard,
    pub(crate) cache: ShardCache,
    pub(crate) syncs: SyncQueue,
    pub(crate) points: Points,
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// Once it is made.
    pub(crate) journal: Option<Journal>,
    /// A partition would use it.
    pub(crate) journal_wanted: bool,
    /// Bytes of batches that partitions keep for it.
    pub(crate) kept_bytes: usize,
    /// Room of the inbox that appends to frozen partitions hold.
    pub(crate) frozen_room: usize,
    /// Delivered at the end of the turn.
    pub(crate) acks: Acks,
    /// When an append was last acknowledged that waited for no sync.
    pub(crate) hasty_at: Option<Duration>,
    /// When the checkpoint must be written.
    checkpoint_due: Option<Duration>,
    /// The time of this turn: monotonic, and for people.
    pub(crate) now: Duration,
    pub(crate) wall_ms: i64,
}

/// An I/O shard.
pub(crate) struct Shard {
    core: Core,
    writers: Vec<Option<Box<Writer>>>,
    free: Vec<usize>,
    receiver: mpsc::Receiver<Message>,
    told: Arc<Told>,
    /// Those with something staged.
    touched: Vec<usize>,
    rounds: Rounds,
    closing: Option<oneshot::Sender<Result<(), LogError>>>,
}

/// What a turn of the loop begins with.
enum Turn {
    Over(Over),
    Messages(usize),
    /// High watermarks have moved.
    Told,
    Timer,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(
        tools: &Tools,
        health: Arc<Health>,
        (events, checkpoint): (mpsc::Sender<LogEvent>, Arc<Checkpoint>),
    ) -> Self {
        let Tools {
            env,
            options,
            files,
            metrics,
            alarm,
            ..
        } = tools.clone();
        let space = SpaceGuard::new(options.dir.clone(), alarm);
        let cache = ShardCache::new(options.tail_cache_bytes / options.shards);
        let points = Points::new(&options);
        let (now, wall_ms) = (env.now(), env.wall_ms());
        Self {
            env,
            options,
            files,
            metrics,
            health,
            events,
            space,
            cache,
            syncs: SyncQueue::default(),
            points,
            checkpoint,
            journal: None,
            journal_wanted: false,
            kept_bytes: 0,
            frozen_room: 0,
            acks: Acks::default(),
            hasty_at: None,
            checkpoint_due: None,
            now,
            wall_ms,
        }
    }

    /// Tells the owner something, if there is room for it; says whether there was.
    pub(crate) fn tell(&self, event: LogEvent) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// Takes note of how far a segment is synced; it is written down soon.
    pub(crate) fn note_synced(&mut self, id: PartitionId, active: &Active) {
        let mut point = SyncedPoint {
            segment: active.segment.id,
            offset: active.synced,
            position: active.synced_position,
        };
        if planted(Bug::SyncedPointAhead) {
            point.offset = active.next;
            point.position = active.position;
        }
        self.checkpoint.set(id, point);
        let due = self.now + CHECKPOINT_INTERVAL;
        self.checkpoint_due.get_or_insert(due);
    }

    async fn save_points(&self, drafts: Vec<Draft>) {
        let (fs, interval) = (self.env.fs.clone(), self.options.index_interval_bytes);
        let work = move || {
            for draft in drafts {
                draft.save(&*fs, interval, false);
            }
        };
        self.env.blocking("log-points", work).await;
    }

    fn look_at_clock(&mut self) {
        self.now = self.env.now();
        self.wall_ms = self.env.wall_ms();
    }

    fn next_deadline(&self) -> Option<Duration> {
        let deadlines = [
            self.syncs.next_deadline(),
            self.checkpoint_due,
            self.space.next_look(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

// === impl Shard ===

impl Shard {
    pub(crate) fn new(
        core: Core,
        (receiver, reports): (mpsc::Receiver<Message>, FailureReports),
        told: Arc<Told>,
    ) -> Self {
        Self {
            core,
            writers: Vec::new(),
            free: Vec::new(),
            receiver,
            told,
            touched: Vec::new(),
            rounds: Rounds::new(reports),
            closing: None,
        }
    }

    /// Runs until the log is closed or all its handles are gone.
    pub(crate) async fn run(mut self) {
        let mut messages = Vec::new();
        let mut timer: Option<(Duration, mainstem_env::BoxFuture<'static, ()>)> = None;
        loop {
            let deadline = self.core.next_deadline();
            if timer.as_ref().map(|(at, _)| *at) != deadline {
                timer = deadline.map(|at| {
                    let sleep = self.core.env.sleep(at.saturating_sub(self.core.env.now()));
                    (at, sleep)
                });
            }
            let turn = tokio::select! {
                biased;
                over = self.rounds.next(&mut self.core.journal) => Turn::Over(over),
                count = self.receiver.recv_many(&mut messages, DRAIN_MESSAGES_MAX) => {
                    Turn::Messages(count)
                }
                () = self.told.wait() => Turn::Told,
                () = poll_timer(&mut timer) => Turn::Timer,
            };
            self.core.look_at_clock();
            match turn {
                Turn::Over(over) => self.over(over),
                Turn::Messages(0) => break,
                Turn::Messages(_) => self.drain(&mut messages).await,
                Turn::Told => {}
                Turn::Timer => timer = None,
            }
            self.high_watermarks();
            self.timers();
            self.next_point();
            self.start_rounds();
            self.core.acks.deliver();
        }
        if let Some(reply) = self.closing.take() {
            let result = self.shut_down().await;
            let _ = reply.send(result);
        }
    }

    async fn drain(&mut self, messages: &mut Vec<Message>) {
        self.core.space.refresh(&self.core.env, self.core.now);
        for message in messages.drain(..) {
            match message {
                Message::Append(message) => {
                    let slot = message.shared.slot();
                    match find(&mut self.writers, slot, &message.shared) {
                        Some(writer) => {
                            writer.stage(&mut self.core, message);
                            if !writer.touched {
                                writer.touched = true;
                                self.touched.push(slot);
                            }
                        }
                        None => message.fail(crate::error::AppendError::Removed),
                    }
                }
                Message::Control(shared, control) => self.control(shared, control),
                Message::Close(reply) => {
                    // What is in the inbox already is still taken.
                    self.receiver.close();
                    self.closing = Some(reply);
                }
            }
        }
        let mut written = 0;
        for slot in std::mem::take(&mut self.touched) {
            if let Some(Some(writer)) = self.writers.get_mut(slot) {
                written += writer.commit(&mut self.core);
            }
            if written > YIELD_BYTES {
                written = 0;
                // Syncs need not wait until all is written.
                self.start_rounds();
                self.core.acks.deliver();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks at the high watermarks that have moved.
    fn high_watermarks(&mut self) {
        for shared in self.told.take() {
            // First: what is told from here on is looked at once more.
            shared.is_told.store(false, Ordering::Release);
            if let Some(writer) = find(&mut self.writers, shared.slot(), &shared) {
                writer.look_at_high_watermark(&mut self.core);
            }
        }
    }

    fn control(&mut self, shared: Arc<Shared>, control: Control) {
        if let Control::Open(active, settings, role, reply) = control {
            self.open(shared, active, (settings, role));
            let _ = reply.send(());
            return;
        }
        let slot = shared.slot();
        let core = &mut self.core;
        // Dropping the question answers it: the partition is gone.
        let Some(writer) = find(&mut self.writers, slot, &shared) else {
            return;
        };
        // What was appended before is done before.
        writer.commit(core);
        match control {
            Control::Freeze(reply) => writer.freeze(core, reply),
            Control::Install(install, reply) => {
                let _ = reply.send(writer.install(core, *install));
            }
            Control::Look(reply) => {
                // Nobody may be waiting.
                let _ = reply.send(writer.look());
            }
            Control::Memory(reply) => {
                let _ = reply.send(writer.base_memory());
            }
            Control::InstallMemory(memory, reply) => {
                let _ = reply.send(writer.install_memory(*memory));
            }
            Control::Cut(cut, reply) => writer.cut(core, cut, reply),
            Control::Recut(rebuilt, reply) => {
                let _ = reply.send(writer.recut(core, rebuilt));
            }
            Control::Role(role, reply) => {
                let _ = reply.send(writer.set_role(core, role));
            }
            Control::Thaw(reply) => {
                writer.thaw(core);
                let _ = reply.send(());
            }
            Control::Flush(reply) => writer.flush(core, reply),
            Control::Settings(settings, reply) => {
                writer.set_settings(core, settings);
                let _ = reply.send(());
            }
            Control::Remove(reply) => {
                shared.set_status(Status::Removed);
                writer.fail_all(core, PartitionError::Removed);
                writer.leave_journal(core);
                shared.cache.lock().clear();
                core.checkpoint.remove(shared.id);
                core.checkpoint_due.get_or_insert(core.now);
                core.points.track(slot, 0);
                if let Some(place) = self.writers.get_mut(slot) {
                    *place = None;
                    self.free.push(slot);
                }
                let _ = reply.send(());
            }
            Control::Open(..) => {}
        }
    }

    fn open(
        &mut self,
        shared: Arc<Shared>,
        active: Option<Active>,
        settings: (PartitionSettings, Role),
    ) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.writers.push(None);
            self.writers.len() - 1
        });
        shared.slot.store(slot, Ordering::Release);
        let unsaved = active.as_ref().map_or(0, |active| {
            self.core.note_synced(shared.id, active);
            active.position - active.saved_position
        });
        self.core.points.track(slot, unsaved);
        let writer = Writer::new(shared, slot, settings, active);
        if let Some(place) = self.writers.get_mut(slot) {
            *place = Some(Box::new(writer));
        }
    }

    fn timers(&mut self) {
        let now = self.core.now;
        while let Some(slot) = self.core.syncs.pop_due(now) {
            if let Some(Some(writer)) = self.writers.get_mut(slot) {
                writer.interval_over(&mut self.core);
            }
        }
        if self.core.space.next_look().is_some_and(|due| due <= now) {
            self.core.space.refresh(&self.core.env, now);
        }
        if self.core.checkpoint_due.is_some_and(|due| due <= now) {
            let started = self.core.checkpoint.write_soon();
            self.core.checkpoint_due = (!started).then_some(now + CHECKPOINT_INTERVAL);
        }
    }

    /// Begins the recovery point whose turn it is.
    fn next_point(&mut self) {
        if self.core.health.has_failed() {
            return;
        }
        let Some(slot) = self.core.points.next() else {
            return;
        };
        match self.writers.get_mut(slot) {
            Some(Some(writer)) => writer.begin_point(&mut self.core),
            Some(None) | None => self.core.points.track(slot, 0),
        }
    }

    /// After a failed sync nothing is known of what was written since the last one, and the next
    /// sync may succeed without having written it: stop acknowledging, for good.
    fn fail(&mut self, failure: ShardFailure) {
        if !self.core.health.fail(&failure) {
            return;
        }
        let shard = self.core.health.shard;
        tracing::error!(shard, %failure, "the shard has failed");
        self.core.metrics.shard_failed.inc();
        for writer in self.writers.iter_mut().flatten() {
            writer.fail_all(&mut self.core, PartitionError::ShardFailed);
            writer.shared.wake();
        }
        let cuts = self.core.syncs.cuts.drain(..).map(|(_, reply)| reply);
        for reply in cuts.chain(self.rounds.cutting.drain(..)) {
            let _ = reply.send(Err(PartitionError::ShardFailed));
        }
        self.core.tell(LogEvent::ShardFailed { shard, failure });
    }

    /// Syncs everything and leaves what lets the next start trust the files.
    async fn shut_down(&mut self) -> Result<(), LogError> {
        if !self.sync_all().await {
            return Err(LogError::NotClean);
        }
        let path = paths::ring(&self.core.options.dir, self.core.health.shard);
        self.close_journal().await.map_err(LogError::io(path))?;
        self.core.points.settle().await;
        let mut drafts = Vec::new();
        let mut bytes = 0;
        let mut clean = true;
        for writer in self.writers.iter_mut().flatten() {
            writer.fail_all(&mut self.core, PartitionError::Closed);
            clean &= writer.shared.status() == Status::Open;
            let draft = writer.unsaved_draft(&self.core);
            bytes += draft.as_ref().map_or(0, Draft::size_bytes);
            drafts.extend(draft);
            if bytes >= POINT_BYTES_MAX {
                bytes = 0;
                self.core.save_points(std::mem::take(&mut drafts)).await;
            }
        }
        self.core.save_points(drafts).await;
        if clean {
            Ok(())
        } else {
            Err(LogError::NotClean)
        }
    }
}

/// The writer of `shared`, if it is (still) at `slot`.
fn find<'a>(
    writers: &'a mut [Option<Box<Writer>>],
    slot: usize,
    shared: &Arc<Shared>,
) -> Option<&'a mut Writer> {
    let writer = writers.get_mut(slot)?.as_deref_mut()?;
    Arc::ptr_eq(&writer.shared, shared).then_some(writer)
}

async fn poll_timer(timer: &mut Option<(Duration, mainstem_env::BoxFuture<'static, ()>)>) {
    match timer {
        Some((_, sleep)) => sleep.await,
        None => pending().await,
    }
}
