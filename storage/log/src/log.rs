//! The log of a node: shards, partitions, start and stop.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, OnceLock, Weak},
};

use mainstem_env::{Env, Fs};
use mainstem_record::{PartitionId, TopicId};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, mpsc};
use xxhash_rust::xxh3::Xxh3Default;

use crate::{
    checkpoint::Checkpoint,
    damage::{Damage, Damages},
    dir::{leave_mark, prepare},
    error::{LogError, PartitionError},
    event::{EVENTS_MAX, LogEvent, ShardHealth},
    files::Files,
    inbox::{Control, Health, Inbox},
    journal::{RING_BYTES_MAX, RING_BYTES_MIN, replay},
    labels::Labels,
    metrics::Metrics,
    options::LogOptions,
    partition::{Partition, Tools, to_its_end},
    paths,
    pool::Pool,
    progress::Progress,
    recovery::{RecoverOptions, Recovered, recover},
    shard::{Core, Shard},
    shared::{Shared, State, Status},
    space::SpaceAlarm,
    spec::PartitionSpec,
    trash,
    upkeep::{self, ScrubState},
};

/// How many threads read files at the same time.
const READERS_MAX: usize = 64;

/// The log of a node. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

/// A log that may be gone.
pub(crate) struct WeakLog(Weak<Inner>);

struct Inner {
    tools: Tools,
    shards: Vec<Inbox>,
    partitions: RwLock<HashMap<PartitionId, Entry>>,
    /// As in [`RecoverOptions`].
    dirs: Arc<RwLock<()>>,
    checkpoint: Arc<Checkpoint>,
    events: mpsc::Sender<LogEvent>,
    /// The last run ended with a clean stop.
    clean: bool,
    progress: Arc<Progress>,
    run_id: u128,
    closed: AtomicBool,
    scrub: Arc<ScrubState>,
    trash: Arc<trash::Seen>,
    labels: OnceLock<Arc<dyn Labels>>,
}

enum Entry {
    /// Somebody is opening or removing it.
    Busy,
    Open(Partition),
}

/// Frees a place among the partitions unless it was filled.
struct Reservation<'a> {
    inner: &'a Inner,
    id: PartitionId,
    filled: bool,
}

// === impl Log ===

impl Log {
    /// Starts the log in its directory, which is made if it is not there, without any partition.
    /// The receiver gets what the owner should act on.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn start(
        env: Env,
        options: LogOptions,
        metrics_registry: &prometheus::Registry,
    ) -> Result<(Self, mpsc::Receiver<LogEvent>), LogError> {
        Self::start_in(env, options, metrics_registry, false).await
    }

    /// Starts the log as [`Log::start`] does, in a directory that an earlier start has made: one
    /// that is gone is not made anew.
    ///
    /// # Errors
    /// [`LogError::Lost`], with everything left as it was; [`LogError`].
    pub async fn start_existing(
        env: Env,
        options: LogOptions,
        metrics_registry: &prometheus::Registry,
    ) -> Result<(Self, mpsc::Receiver<LogEvent>), LogError> {
        Self::start_in(env, options, metrics_registry, true).await
    }

    async fn start_in(
        env: Env,
        options: LogOptions,
        metrics_registry: &prometheus::Registry,
        must_exist: bool,
    ) -> Result<(Self, mpsc::Receiver<LogEvent>), LogError> {
        if options.shards == 0 {
            return Err(LogError::Options("the log needs at least one shard"));
        }
        let journal = options.journal_bytes;
        if journal != 0 && !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&journal) {
            return Err(LogError::Options("the journal is too small or too large"));
        }
        let metrics = Metrics::register(metrics_registry)?;
        let options = Arc::new(options);
        let (clean_run, checkpoint) = prepare(&env, options.dir.clone(), must_exist).await?;
        let checkpoint = Arc::new(checkpoint);
        replay(&env, &options.dir, options.shards, &checkpoint).await?;
        let files = Arc::new(Files::new(
            env.fs.clone(),
            // The other half is for active segments.
            options.open_files_max / 2,
            options.index_interval_bytes,
            expiry_ms(&options),
        ));
        let pool = Pool::new(env.clone(), options.open_files_max.div_ceil(2));
        let alarm = SpaceAlarm::new(&options, metrics.out_of_space.clone());
        let tools = Tools {
            alarm: Arc::new(alarm),
            damages: Arc::new(Damages::new(metrics.damaged_segments.clone())),
            checkpoint: checkpoint.clone(),
            env,
            options,
            files,
            pool,
            metrics,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        };
        let (env, options) = (&tools.env, &tools.options);
        let run_id = u128::from_be_bytes(env.random_uuid());
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let scrub = ScrubState::load(&*env.fs, paths::scrub(&options.dir));
        let scrub = Arc::new(scrub);
        let mut shards = Vec::with_capacity(options.shards);
        for shard in 0..options.shards {
            let (health, reports) = Health::new(shard);
            let (inbox, messages) = Inbox::new(options, health.clone());
            let core = Core::new(&tools, health, (events.clone(), checkpoint.clone()));
            let run = Shard::new(core, (messages, reports), inbox.told().clone()).run();
            env.tasks
                .dedicated("log-shard", shard, Box::pin(run))
                .map_err(LogError::io(&options.dir))?;
            shards.push(inbox);
        }
        let inner = Inner {
            tools,
            shards,
            partitions: RwLock::default(),
            dirs: Arc::default(),
            checkpoint,
            events,
            clean: clean_run.is_some(),
            progress: Arc::default(),
            run_id,
            closed: AtomicBool::new(false),
            scrub,
            trash: Arc::default(),
            labels: OnceLock::new(),
        };
        let inner = Arc::new(inner);
        let log = Self { inner };
        if log.inner.tools.options.scrub_bytes_per_second > 0 {
            log.start_upkeep();
        }
        Ok((log, receiver))
    }

    /// From now on dictionaries of these labels are made of sealed segments, so that
    /// [`Partition::matching`] can look records up. Only the first call counts.
    pub fn set_labels(&self, labels: Arc<dyn Labels>) {
        let is_first = self.inner.labels.set(labels).is_ok();
        if is_first && self.inner.tools.options.scrub_bytes_per_second == 0 {
            self.start_upkeep();
        }
    }

    pub(crate) fn labels(&self) -> Option<&Arc<dyn Labels>> {
        self.inner.labels.get()
    }

    fn start_upkeep(&self) {
        let log = WeakLog(Arc::downgrade(&self.inner));
        let env = &self.inner.tools.env;
        env.spawn("log-upkeep", upkeep::run(env.clone(), log));
    }

    pub(crate) fn tools(&self) -> &Tools {
        &self.inner.tools
    }

    pub(crate) fn scrub_state(&self) -> &Arc<ScrubState> {
        &self.inner.scrub
    }

    /// Whether it was not closed.
    pub(crate) fn is_open(&self) -> bool {
        !self.inner.closed.load(Ordering::Acquire)
    }

    /// Tells the owner, if it has room to listen.
    pub(crate) fn tell(&self, event: LogEvent) {
        let _ = self.inner.events.try_send(event);
    }

    /// Opens a partition: a new one is made, one that is there is recovered. Many may be opened at
    /// the same time. One that is damaged below its synced point is opened for reading only, and
    /// [`LogEvent::PartitionFailed`] says why.
    ///
    /// # Errors
    /// [`LogError::AlreadyOpen`], [`LogError::Chain`], [`LogError::Io`], [`LogError::Closed`].
    pub async fn open_partition(&self, spec: PartitionSpec) -> Result<Partition, LogError> {
        let log = self.clone();
        self.to_its_end("log-open", async move { log.open(spec).await })
            .await
    }

    /// Runs `work` even if the caller stops waiting: half done, two of a kind could get at the same
    /// files.
    async fn to_its_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, LogError>> + Send + 'static,
    ) -> Result<T, LogError> {
        let env = &self.inner.tools.env;
        to_its_end(env, name, work)
            .await
            .unwrap_or(Err(LogError::Closed))
    }

    async fn open(&self, spec: PartitionSpec) -> Result<Partition, LogError> {
        let inner = &*self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return Err(LogError::Closed);
        }
        let id = spec.id;
        let mut reservation = inner.reserve(id)?;
        let (settings, role) = (spec.settings, spec.role);
        let dir = paths::partition(&inner.tools.options.dir, id);
        let inbox = inner.shard_of(id).ok_or(LogError::Closed)?;
        let recover_options = inner.recover_options(id, inbox);
        let recover_dir = dir.clone();
        let recovered = inner
            .tools
            .env
            .blocking("log-recover", move || {
                recover(&recover_options, &recover_dir, &spec)
            })
            .await
            .ok_or(LogError::Closed)??;
        let Recovered {
            chain,
            active,
            ends,
            dedupe,
            damaged,
            failure,
            needs_memory,
        } = recovered;
        let status = match failure {
            Some(_) => Status::Failed,
            None => Status::Open,
        };
        let state = State { ends, status };
        let shared = Arc::new(Shared::new(id, dir, state, chain, dedupe));
        shared.needs_memory.store(needs_memory, Ordering::Release);
        inbox
            .ask(&shared, |reply| {
                Control::Open(active, settings, role, reply)
            })
            .await
            .map_err(|_| LogError::Closed)?;
        let partition = Partition::new(shared, inbox.clone(), inner.tools.clone());
        reservation.fill(partition.clone());
        for (segment, kind) in damaged {
            inner.tools.damages.note(id, &segment, kind);
        }
        if let Some(failure) = failure {
            let event = LogEvent::PartitionFailed {
                partition: id,
                failure,
            };
            // The status of the partition tells it too.
            let _ = inner.events.try_send(event);
        }
        Ok(partition)
    }

    /// Bytes of batches that the opening of partitions has checked so far, since the start.
    pub fn scanned_bytes(&self) -> u64 {
        self.inner.progress.scanned_bytes()
    }

    /// The partition, if it is open.
    pub fn partition(&self, id: PartitionId) -> Option<Partition> {
        match self.inner.partitions.read().get(&id) {
            Some(Entry::Open(partition)) => Some(partition.clone()),
            Some(Entry::Busy) | None => None,
        }
    }

    /// All open partitions, in no order.
    pub fn partitions(&self) -> Vec<Partition> {
        let partitions = self.inner.partitions.read();
        partitions
            .values()
            .filter_map(|entry| match entry {
                Entry::Open(partition) => Some(partition.clone()),
                Entry::Busy => None,
            })
            .collect()
    }

    /// Closes a partition and deletes its directory. What waits in it fails.
    ///
    /// # Errors
    /// [`LogError::NotOpen`]; after [`LogError::Io`] it is closed, and
    /// [`Log::remove_unknown`] will remove what is left.
    pub async fn remove_partition(&self, id: PartitionId) -> Result<(), LogError> {
        let log = self.clone();
        self.to_its_end("log-remove", async move { log.remove(id).await })
            .await
    }

    async fn remove(&self, id: PartitionId) -> Result<(), LogError> {
        let inner = &*self.inner;
        let partition = {
            let mut partitions = inner.partitions.write();
            match partitions.get_mut(&id) {
                Some(entry @ Entry::Open(_)) => match std::mem::replace(entry, Entry::Busy) {
                    Entry::Open(partition) => partition,
                    Entry::Busy => return Err(LogError::NotOpen(id)),
                },
                Some(Entry::Busy) | None => return Err(LogError::NotOpen(id)),
            }
        };
        let _reservation = Reservation {
            inner,
            id,
            filled: false,
        };
        let shared = partition.shared().clone();
        // A seal that is under way makes files: they must not come after those that are removed,
        // where the next partition of that name would find them.
        let _admin = partition.admin().lock().await;
        match partition.inbox().ask(&shared, Control::Remove).await {
            Ok(()) | Err(PartitionError::Removed) => {}
            // The log was closed meanwhile: its files are synced and stay, so that metadata and
            // disk agree at the next start.
            Err(_) => return Err(LogError::Closed),
        }
        for segment in shared.chain.read().iter() {
            inner.tools.files.evict(segment);
        }
        let dir = shared.dir.clone();
        let fs = inner.tools.env.fs.clone();
        let error_path = dir.clone();
        inner
            .tools
            .env
            .blocking("log-remove", move || remove_dir(&*fs, &dir))
            .await
            .ok_or(LogError::Closed)?
            .map_err(LogError::io(error_path))
    }

    /// Moves the directories of partitions that are neither known nor open aside; they are removed
    /// for good by [`Log::empty_trash`], a day later. Returns how many.
    ///
    /// # Errors
    /// [`LogError::Io`]: some may be left.
    pub async fn remove_unknown(&self, known: &HashSet<PartitionId>) -> Result<usize, LogError> {
        let error_path = paths::partitions(&self.inner.tools.options.dir);
        let (inner, known) = (self.inner.clone(), known.clone());
        self.inner
            .tools
            .env
            .blocking("log-remove", move || inner.remove_unknown(&known))
            .await
            .ok_or(LogError::Closed)?
            .map_err(LogError::io(error_path))
    }

    /// Removes what was moved aside and the node has seen there for a day. Returns how much that
    /// was.
    ///
    /// # Errors
    /// [`LogError::Io`]: some may be left.
    pub async fn empty_trash(&self) -> Result<usize, LogError> {
        let Tools { env, options, .. } = &self.inner.tools;
        let (fs, dir, now) = (env.fs.clone(), options.dir.clone(), env.now());
        let seen = self.inner.trash.clone();
        env.blocking("log-remove", move || trash::empty(&*fs, &dir, &seen, now))
            .await
            .ok_or(LogError::Closed)?
            .map_err(LogError::io(paths::trash(&options.dir)))
    }

    /// Segments that are known to be lost or damaged, by partition and offset.
    pub fn damages(&self) -> Vec<Damage> {
        self.inner.tools.damages.all()
    }

    /// The state of all shards.
    pub fn health(&self) -> Vec<ShardHealth> {
        let shards = self.inner.shards.iter();
        shards.map(|inbox| inbox.health().report()).collect()
    }

    /// Takes no more appends, writes and syncs what was taken, and leaves a mark that lets the
    /// next start trust the files. Reads go on.
    ///
    /// # Errors
    /// [`LogError::NotClean`] if a shard or partition has failed, [`LogError::Io`]: the next start
    /// will scan. [`LogError::Closed`] if it is closed already.
    pub async fn close(&self) -> Result<(), LogError> {
        let inner = &*self.inner;
        if inner.closed.swap(true, Ordering::AcqRel) {
            return Err(LogError::Closed);
        }
        let mut result = Ok(());
        for shard in &inner.shards {
            let closed = shard.close().await;
            result = result.and(closed);
        }
        result?;
        let (fs, dir) = (inner.tools.env.fs.clone(), inner.tools.options.dir.clone());
        let (checkpoint, run_id) = (inner.checkpoint.clone(), inner.run_id);
        let error_path = dir.clone();
        inner
            .tools
            .env
            .blocking("log-close", move || {
                checkpoint.write(&*fs)?;
                leave_mark(&*fs, &dir, run_id)
            })
            .await
            .ok_or(LogError::Closed)?
            .map_err(LogError::io(error_path))
    }
}

// === impl WeakLog ===

impl WeakLog {
    pub(crate) fn upgrade(&self) -> Option<Log> {
        self.0.upgrade().map(|inner| Log { inner })
    }
}

// === impl Inner ===

impl Inner {
    fn reserve(&self, id: PartitionId) -> Result<Reservation<'_>, LogError> {
        let mut partitions = self.partitions.write();
        if partitions.contains_key(&id) {
            return Err(LogError::AlreadyOpen(id));
        }
        partitions.insert(id, Entry::Busy);
        Ok(Reservation {
            inner: self,
            id,
            filled: false,
        })
    }

    fn shard_of(&self, id: PartitionId) -> Option<&Inbox> {
        let mut hasher = Xxh3Default::new();
        hasher.update(id.topic.0.as_bytes());
        hasher.update(&id.index.0.to_le_bytes());
        let shard = hasher.digest() % self.shards.len() as u64;
        self.shards.get(shard as usize)
    }

    fn recover_options(&self, id: PartitionId, inbox: &Inbox) -> RecoverOptions {
        let options = &self.tools.options;
        RecoverOptions {
            fs: self.tools.env.fs.clone(),
            pool: self.tools.pool.for_shard(inbox.health().clone()),
            wall_ms: self.tools.env.wall_ms(),
            index_interval: options.index_interval_bytes,
            expiry_ms: expiry_ms(options),
            decompressed_bytes_max: options.decompressed_bytes_max,
            clean: self.clean,
            log_dir: options.dir.clone(),
            progress: self.progress.clone(),
            synced: self.checkpoint.get(id),
            dirs: self.dirs.clone(),
        }
    }
}

// === removal of what nobody knows ===

impl Inner {
    fn remove_unknown(&self, known: &HashSet<PartitionId>) -> io::Result<usize> {
        let fs = &*self.tools.env.fs;
        let dir = paths::partitions(&self.tools.options.dir);
        let mut moved = 0;
        for topic_entry in fs.read_dir(&dir)? {
            let topic_dir = dir.join(&topic_entry.name);
            let Some(topic) = paths::parse_topic(&topic_entry.name) else {
                tracing::warn!(path = %topic_dir.display(), "not a directory of the log");
                continue;
            };
            for entry in fs.read_dir(&topic_dir)? {
                let partition_dir = topic_dir.join(&entry.name);
                let Some(index) = paths::parse_index(&entry.name) else {
                    if entry.name.ends_with(paths::DELETED) {
                        fs.remove_dir_all(&partition_dir)?;
                    }
                    continue;
                };
                let id = PartitionId { topic, index };
                if known.contains(&id) {
                    continue;
                }
                // Nobody can open it meanwhile, and nobody else waits.
                let Ok(_reservation) = self.reserve(id) else {
                    continue;
                };
                let what = (
                    &*format!("{}-{}", topic.0, index.0),
                    self.tools.env.wall_ms(),
                );
                let place = trash::put(fs, &self.tools.options.dir, &partition_dir, what)?;
                tracing::warn!(
                    path = %partition_dir.display(), moved_to = %place.display(),
                    "metadata does not name this partition; it is removed in a day"
                );
                moved += 1;
            }
            self.remove_topic_dir(topic, &topic_dir)?;
        }
        Ok(moved)
    }

    /// Removes the directory of a topic if nothing is in it, and nobody is about to use it.
    fn remove_topic_dir(&self, topic: TopicId, dir: &Path) -> io::Result<()> {
        let fs = &*self.tools.env.fs;
        // Who opens a partition from now on makes the directory once it is gone. The partitions
        // themselves must not be locked during I/O: everybody looks them up.
        let _dirs = self.dirs.write();
        let is_used = {
            let partitions = self.partitions.read();
            partitions.keys().any(|id| id.topic == topic)
        };
        if !is_used && fs.read_dir(dir)?.is_empty() {
            fs.remove_dir_all(dir)?;
        }
        Ok(())
    }
}

// === impl Reservation ===

impl Reservation<'_> {
    fn fill(&mut self, partition: Partition) {
        let mut partitions = self.inner.partitions.write();
        partitions.insert(self.id, Entry::Open(partition));
        self.filled = true;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.inner.partitions.write().remove(&self.id);
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.inner.tools.options.dir)
            .field("shards", &self.inner.shards.len())
            .finish_non_exhaustive()
    }
}

// === start and stop ===

pub(crate) fn expiry_ms(options: &LogOptions) -> i64 {
    i64::try_from(options.producer_expiry.as_millis()).unwrap_or(i64::MAX)
}

// === removal ===

/// Renames first, so that a crash leaves nothing that looks like a partition.
fn remove_dir(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    let deleted = dir.with_added_extension(paths::DELETED);
    if fs.exists(&deleted)? {
        fs.remove_dir_all(&deleted)?;
    }
    fs.rename(dir, &deleted)?;
    if let Some(parent) = dir.parent() {
        fs.sync_dir(parent)?;
    }
    fs.remove_dir_all(&deleted)
}
