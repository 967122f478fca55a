//! A disk that stalls under one shard stalls nobody who does not need that shard.

use std::{
    collections::HashSet,
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use mainstem_env::{DirEntry, DirLock, Env, File, Fs, MemFs, OpenMode, Space};
use mainstem_log::{Flush, Log, LogError, LogOptions, Partition};
use mainstem_record::{PartitionId, TopicId};
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use crate::clock::SharedClock;
use crate::support::{append, batch, options, partition_id, segment_spec, spec, values};

const SHARDS: usize = 2;

/// Which calls wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stalled {
    Writes,
    Syncs,
    Removals,
}

/// Holds calls back while it is closed.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// The threads that synced a journal, one for each sync.
    journal_syncs: Mutex<Vec<String>>,
}

#[derive(Default)]
struct GateState {
    /// What is held back, of files whose path has one of these in it.
    closed: Option<(Stalled, Vec<String>)>,
    waiting: usize,
}

/// A file system in memory with a gate.
#[derive(Clone)]
struct GateFs {
    inner: MemFs,
    gate: Arc<Gate>,
}

struct GateFile {
    inner: Arc<dyn File>,
    path: String,
    gate: Arc<Gate>,
}

impl Gate {
    fn pass(&self, what: Stalled, path: &str) {
        let mut state = self.state.lock();
        let is_held = |state: &GateState| {
            let closed = state.closed.as_ref();
            closed.is_some_and(|(held, paths)| {
                *held == what && paths.iter().any(|part| path.contains(part))
            })
        };
        if !is_held(&state) {
            return;
        }
        state.waiting += 1;
        self.changed.notify_all();
        while is_held(&state) {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
    }

    fn close(&self, what: Stalled, paths: Vec<String>) {
        self.state.lock().closed = Some((what, paths));
    }

    /// Blocks until a call is held back.
    fn wait_for_somebody(&self) {
        let mut state = self.state.lock();
        while state.waiting == 0 {
            self.changed.wait(&mut state);
        }
    }

    fn open(&self) {
        self.state.lock().closed = None;
        self.changed.notify_all();
    }
}

impl Fs for GateFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(GateFile {
            inner: self.inner.open(path, mode)?,
            path: path.display().to_string(),
            gate: self.gate.clone(),
        }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.gate
            .pass(Stalled::Removals, &path.display().to_string());
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.inner.lock(path)
    }
}

impl File for GateFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.gate.pass(Stalled::Writes, &self.path);
        self.inner.write_all_vectored_at(slices, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(Stalled::Syncs, &self.path);
        if self.path.contains(".ring") {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            self.gate.journal_syncs.lock().push(thread);
        }
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.gate.pass(Stalled::Syncs, &self.path);
        self.inner.sync_all()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
}

/// As the log spreads partitions over shards.
fn shard_of(id: PartitionId) -> usize {
    let mut hasher = Xxh3Default::new();
    hasher.update(id.topic.0.as_bytes());
    hasher.update(&id.index.0.to_le_bytes());
    (hasher.digest() % SHARDS as u64) as usize
}

async fn put(partition: &Partition, value: &str) {
    let ticket = partition.append(append(batch(&[value]))).await.unwrap();
    ticket.await.unwrap();
}

async fn check(what: Stalled, tail_cache_bytes: usize) {
    let fs = GateFs {
        inner: MemFs::new(),
        gate: Arc::default(),
    };
    let gate = fs.gate.clone();
    let options = LogOptions {
        shards: SHARDS,
        tail_cache_bytes,
        ..options()
    };
    let env = Env::real().with_fs(Arc::new(fs));
    let registry = prometheus::Registry::new();
    let (log, _events) = Log::start(env, options, &registry).await.unwrap();
    let mut partitions = Vec::new();
    for shard in 0..SHARDS {
        let index = (0..).find(|index| shard_of(partition_id(*index)) == shard);
        let index = index.unwrap();
        let mut spec = spec(Flush::Always);
        spec.id = partition_id(index);
        spec.segments[0].id = segment_spec(100 * index, 0).id;
        let partition = log.open_partition(spec).await.unwrap();
        for value in ["a", "b", "c"] {
            put(&partition, value).await;
        }
        partitions.push(partition);
    }
    let [stalled, other] = &partitions[..] else {
        panic!("two shards");
    };
    let directory = format!("/{}/", stalled.id().index.0);
    gate.close(what, vec![directory, "/0.ring".to_owned()]);
    let waiting = stalled.append(append(batch(&["d"]))).await.unwrap();
    gate.wait_for_somebody();
    // While the disk stands still under the first shard: what the other one does is not held up,
    // nor is who reads what the first one has written before.
    for value in ["d", "e"] {
        put(other, value).await;
    }
    assert_eq!(values(other).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(values(stalled).await, ["a", "b", "c"]);
    other.flush().await.unwrap();
    let info = other.seal_begin().await.unwrap();
    other.seal_abort().await;
    assert_eq!(info.end.0, 5);
    gate.open();
    assert_eq!(waiting.await.unwrap().base_offset.0, 3);
    assert_eq!(values(stalled).await, ["a", "b", "c", "d"]);
}

fn two_workers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn stall_of_one_shard_holds_up_neither_others_nor_readers_of_its_earlier_records() {
    let runtime = two_workers();
    for what in [Stalled::Writes, Stalled::Syncs] {
        for tail_cache_bytes in [0, 1 << 20] {
            runtime.block_on(check(what, tail_cache_bytes));
        }
    }
}

/// Who made the last sync of a journal, if any was made.
fn last_journal_sync(gate: &Gate) -> Option<String> {
    gate.journal_syncs.lock().last().cloned()
}

#[test]
fn shard_syncs_its_journal_itself_for_one_waiter_after_the_other_and_for_nobody_else() {
    two_workers().block_on(async {
        let fs = GateFs {
            inner: MemFs::new(),
            gate: Arc::default(),
        };
        let gate = fs.gate.clone();
        let clock = SharedClock::default();
        let env = Env {
            clock: Arc::new(clock.clone()),
            ..Env::real().with_fs(Arc::new(fs))
        };
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(env, options(), &registry).await.unwrap();
        let durable = log.open_partition(spec(Flush::Always)).await.unwrap();
        let mut written = spec(Flush::Os);
        written.id = partition_id(9);
        written.segments[0].id = segment_spec(900, 0).id;
        let written = log.open_partition(written).await.unwrap();
        // Until there is a journal, and a round of it has been seen.
        while last_journal_sync(&gate).is_none() {
            put(&durable, "a").await;
        }
        put(&durable, "b").await;
        put(&durable, "c").await;
        assert_eq!(last_journal_sync(&gate).unwrap(), "log-shard-0");
        // Who does not wait for syncs must not have to.
        put(&written, "a").await;
        put(&durable, "d").await;
        assert_eq!(last_journal_sync(&gate).unwrap(), "log-journal-0");
        clock.advance(1000);
        put(&durable, "e").await;
        assert_eq!(last_journal_sync(&gate).unwrap(), "log-shard-0");
        // Several in one record: more of them are on their way meanwhile.
        gate.close(Stalled::Syncs, vec!["/0.ring".to_owned()]);
        let first = durable.append(append(batch(&["f"]))).await.unwrap();
        gate.wait_for_somebody();
        let mut behind = Vec::new();
        for value in ["g", "h"] {
            behind.push(durable.append(append(batch(&[value]))).await.unwrap());
        }
        gate.open();
        first.await.unwrap();
        for ticket in behind {
            ticket.await.unwrap();
        }
        assert_eq!(last_journal_sync(&gate).unwrap(), "log-journal-0");
    });
}

#[test]
fn slow_removal_of_a_topic_holds_up_nobody_who_looks_partitions_up() {
    two_workers().block_on(async {
        let fs = GateFs {
            inner: MemFs::new(),
            gate: Arc::default(),
        };
        let gate = fs.gate.clone();
        let env = Env::real().with_fs(Arc::new(fs));
        let registry = prometheus::Registry::new();
        let started = Log::start(env.clone(), options(), &registry).await;
        let (log, _events) = started.unwrap();
        let mut kept = spec(Flush::Os);
        kept.id.topic = TopicId(Uuid::from_u128(0xdef));
        let partition = log.open_partition(kept.clone()).await.unwrap();
        let gone = log.open_partition(spec(Flush::Os)).await.unwrap();
        log.remove_partition(gone.id()).await.unwrap();
        gate.close(Stalled::Removals, vec![gone.id().topic.0.to_string()]);
        let remover = log.clone();
        let known = HashSet::from([kept.id]);
        let (sender, removal) = tokio::sync::oneshot::channel();
        let work = async move {
            let _ = sender.send(remover.remove_unknown(&known).await);
        };
        env.spawn("remove", work);
        gate.wait_for_somebody();
        // This changes the partitions, which waits for all who only look.
        assert!(matches!(
            log.open_partition(kept).await,
            Err(LogError::AlreadyOpen(_))
        ));
        assert!(log.partition(partition.id()).is_some());
        put(&partition, "a").await;
        gate.open();
        assert_eq!(removal.await.unwrap().unwrap(), 0);
        // The directory is made again.
        let again = log.open_partition(spec(Flush::Os)).await.unwrap();
        put(&again, "b").await;
        assert_eq!(values(&again).await, ["b"]);
    });
}
