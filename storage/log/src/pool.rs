//! Open files of active segments: a bounded number of them is really open.
//!
//! A [`Pooled`] file is opened when it is used, and closed when too many are open and it was not
//! used for a while. Closing must lose nothing that a sync would have told, so a file is closed only
//! when all that was written to it is synced; one that is not is synced first. A sync that fails
//! there is remembered: every later one fails too, and the shard is told, as if it had been its own.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use mainstem_env::{Env, File, OpenMode};
use parking_lot::Mutex;

use crate::{
    event::ShardFailure,
    inbox::Health,
    planted::{Bug, planted},
};

/// Beyond the bound so many are closed at once, as a part of it.
const CLOSED_PART: usize = 8;

/// So many at most are synced one after the other in order to be closed: the disk is shared with
/// those who wait for it.
const SYNCS_MAX: usize = 8;

/// The files of the active segments of a node.
pub(crate) struct Pool {
    env: Env,
    open_max: usize,
    open: AtomicUsize,
    /// When so many are open some are closed; more than the bound only while none can be.
    close_at: AtomicUsize,
    closing: AtomicBool,
    next_key: AtomicU64,
    /// By key, so that the order does not depend on chance; each leaves when it is dropped.
    files: Mutex<BTreeMap<u64, Weak<Pooled>>>,
}

/// The pool, for the files of one shard.
#[derive(Clone)]
pub(crate) struct ShardPool {
    pool: Arc<Pool>,
    health: Arc<Health>,
}

/// The file of one active segment.
pub(crate) struct Pooled {
    owner: ShardPool,
    key: u64,
    path: PathBuf,
    /// It was used since it was last looked at.
    used: AtomicBool,
    state: Mutex<State>,
    /// One sync at a time: of two, only one is told of an error.
    syncing: Mutex<()>,
}

struct State {
    file: Option<Arc<dyn File>>,
    /// Changes under way: until they are over it is not closed.
    changing: u32,
    /// Counts the changes, each when it is over; what is synced is as of one of them.
    changes: u64,
    synced_changes: u64,
    /// The length, if the last change of it is known to have succeeded.
    len: Option<u64>,
    /// What the failed sync said.
    failed: Option<io::ErrorKind>,
}

/// How hard it is tried to close some.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Those that are synced and were not used of late.
    Idle,
    /// Those that are synced: to open one again costs less than a sync.
    Synced,
    /// Those that were not used of late.
    IdleUnsynced,
}

// === impl Pool ===

impl Pool {
    /// At most about `open_max` files are open at the same time.
    pub(crate) fn new(env: Env, open_max: usize) -> Arc<Self> {
        let open_max = open_max.max(1);
        Arc::new(Self {
            env,
            open_max,
            open: AtomicUsize::new(0),
            close_at: AtomicUsize::new(open_max),
            closing: AtomicBool::new(false),
            next_key: AtomicU64::new(0),
            files: Mutex::default(),
        })
    }

    /// Opens files of a shard, which is told of a sync that fails here.
    pub(crate) fn for_shard(self: &Arc<Self>, health: Arc<Health>) -> ShardPool {
        let pool = self.clone();
        ShardPool { pool, health }
    }

    /// One more is open. Must not be called with the state of a file locked.
    fn opened(self: &Arc<Self>) {
        let open = self.open.fetch_add(1, Ordering::AcqRel) + 1;
        if open <= self.close_at.load(Ordering::Acquire)
            || self.closing.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let this = self.clone();
        let work = move || {
            this.close_some();
            this.closing.store(false, Ordering::Release);
        };
        self.env.tasks.blocking("log-files", Box::new(work));
    }

    fn close_some(&self) {
        let files: Vec<(Arc<Pooled>, bool)> = {
            let files = self.files.lock();
            let files = files.values().filter_map(Weak::upgrade);
            let with_use = |file: Arc<Pooled>| {
                let used = file.used.swap(false, Ordering::Relaxed);
                (file, used)
            };
            files.map(with_use).collect()
        };
        let step = self.open_max.div_ceil(CLOSED_PART);
        let with_room = self.open_max.saturating_sub(step);
        let mut syncs_left = SYNCS_MAX;
        for effort in [Effort::Idle, Effort::Synced, Effort::IdleUnsynced] {
            // Room is made where it costs next to nothing. A sync is for one that is too many.
            let enough = match effort {
                Effort::Idle | Effort::Synced => with_room,
                Effort::IdleUnsynced => self.open_max,
            };
            for (file, used) in &files {
                if self.open.load(Ordering::Acquire) <= enough || syncs_left == 0 {
                    break;
                }
                if (effort == Effort::Synced || !used) && file.try_close(effort) {
                    syncs_left -= 1;
                }
            }
        }
        let open = self.open.load(Ordering::Acquire);
        // Fewer are opened until the next time than are closed then.
        let close_at = self.open_max.max(open + step.min(SYNCS_MAX / 2));
        self.close_at.store(close_at, Ordering::Release);
    }
}

// === impl ShardPool ===

impl ShardPool {
    /// Opens a file. Blocks.
    pub(crate) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let pool = &self.pool;
        let file = pool.env.fs.open(path, mode)?;
        let len = file.len()?;
        let key = pool.next_key.fetch_add(1, Ordering::Relaxed);
        let pooled = Arc::new(Pooled {
            owner: self.clone(),
            key,
            path: path.to_owned(),
            used: AtomicBool::new(true),
            state: Mutex::new(State {
                file: Some(file),
                changing: 0,
                changes: 0,
                synced_changes: 0,
                len: Some(len),
                failed: None,
            }),
            syncing: Mutex::new(()),
        });
        pool.files.lock().insert(key, Arc::downgrade(&pooled));
        pool.opened();
        Ok(pooled)
    }
}

// === impl Pooled ===

impl Pooled {
    /// The open file.
    fn file(&self) -> io::Result<Arc<dyn File>> {
        self.with_state(|_| ())
    }

    /// The open file, after a look at the state; nothing has happened if that cannot be had.
    fn with_state(&self, look: impl FnOnce(&mut State)) -> io::Result<Arc<dyn File>> {
        self.used.store(true, Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            if let Some(file) = state.file.clone() {
                look(&mut state);
                return Ok(file);
            }
        }
        // Nobody waits for the slow open of somebody else: of two that open it, the second to be
        // done takes what the first has got.
        let pool = &self.owner.pool;
        let opened = pool.env.fs.open(&self.path, OpenMode::ReadWrite)?;
        let mut state = self.state.lock();
        let is_first = state.file.is_none();
        let file = state.file.get_or_insert_with(|| opened.clone()).clone();
        look(&mut state);
        drop(state);
        if is_first {
            pool.opened();
        }
        Ok(file)
    }

    /// Changes the file; nothing has happened if it cannot be opened. The change is told the length
    /// before, and tells the one after.
    fn change(
        &self,
        change: impl FnOnce(&dyn File, Option<u64>) -> io::Result<Option<u64>>,
    ) -> io::Result<()> {
        let mut len_before = None;
        let file = self.with_state(|state| {
            state.changing += 1;
            len_before = state.len.take();
        })?;
        let result = change(&*file, len_before);
        let mut state = self.state.lock();
        state.changing -= 1;
        // Whatever it has come to: part of it may be there. A sync that began before it was over
        // does not count for it.
        state.changes += 1;
        state.len = result?;
        Ok(())
    }

    fn sync(&self, sync: impl FnOnce(&dyn File) -> io::Result<()>) -> io::Result<()> {
        let _one = self.syncing.lock();
        let (file, changes) = {
            let state = self.state.lock();
            if let Some(kind) = state.failed.filter(|_| !planted(Bug::RetriedSync)) {
                return Err(kind.into());
            }
            match &state.file {
                // It was synced before it was closed.
                None => return Ok(()),
                Some(file) => (file.clone(), state.changes),
            }
        };
        let result = sync(&*file);
        let mut state = self.state.lock();
        match &result {
            Ok(()) => state.synced_changes = state.synced_changes.max(changes),
            Err(error) => state.failed = Some(error.kind()),
        }
        result
    }

    /// Closes it if that is possible with so much effort; says whether that took a sync.
    fn try_close(&self, effort: Effort) -> bool {
        let is_synced = {
            let state = self.state.lock();
            if state.file.is_none() || state.failed.is_some() || state.changing > 0 {
                return false;
            }
            state.is_synced()
        };
        if !is_synced {
            if effort != Effort::IdleUnsynced {
                return false;
            }
            if let Err(error) = self.sync(|file| file.sync_data()) {
                self.owner.health.report_failure(ShardFailure {
                    path: self.path.clone(),
                    error: Arc::from(error.to_string()),
                });
                return true;
            }
        }
        let closed = {
            let mut state = self.state.lock();
            let can_close = state.is_synced() && state.failed.is_none() && state.changing == 0;
            can_close.then(|| state.file.take()).flatten()
        };
        if closed.is_some() {
            self.owner.pool.open.fetch_sub(1, Ordering::AcqRel);
        }
        !is_synced
    }
}

// === impl State ===

impl State {
    fn is_synced(&self) -> bool {
        self.changes == self.synced_changes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.owner.pool.files.lock().remove(&self.key);
        if self.state.get_mut().file.is_some() {
            self.owner.pool.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl File for Pooled {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file()?.read_at(buffer, offset)
    }

    fn read_append_at(&self, buffer: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
        self.file()?.read_append_at(buffer, len, offset)
    }

    fn read_ahead(&self, offset: u64, len: u64) {
        // A hint; whoever reads will be told what is wrong.
        if let Ok(file) = self.file() {
            file.read_ahead(offset, len);
        }
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.change(|file, len_before| {
            file.write_all_vectored_at(slices, offset)?;
            let end = offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
            Ok(len_before.map(|len| len.max(end)))
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(|file| file.sync_all())
    }

    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A write that failed because there was no descriptor for it is taken back without one.
        if self.state.lock().len == Some(len) {
            return Ok(());
        }
        self.change(|file, _| {
            file.set_len(len)?;
            Ok(Some(len))
        })
    }
}

#[cfg(test)]
mod tests;
