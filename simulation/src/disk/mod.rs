//! A disk with a page cache, in memory.
//!
//! Every file has what the page cache shows and what is on the medium; every directory what is seen
//! and what is durable. A power cut takes the page cache: of what was not synced nothing, all, the
//! first writes, or any sectors or pages survive; the length of a file, and each creation, rename
//! and removal in a directory, survive by themselves. Bytes are durable after a sync of their file,
//! names after a sync of their directory, and never before.

mod faults;
mod file;
mod inode;
mod tree;

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use mainstem_env::{DirEntry, DirLock, File, Fs, OpenMode, Space};
use parking_lot::Mutex;

pub use faults::{Chances, Counts, FaultKind, Faults};

use crate::{Dice, SimClock};
use file::SimFile;
use inode::Inode;
use tree::{Node, Tree};

/// What the disk says it can hold.
const TOTAL_BYTES: u64 = 1 << 40;

/// The longest stall, in milliseconds.
const STALL_MS_MAX: u64 = 2000;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

/// Where Linux tells which boot this is.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// No file of a tree has this number.
const BOOT_ID_INODE: usize = usize::MAX;

#[derive(Clone)]
struct State {
    tree: Tree,
    inodes: BTreeMap<usize, Inode>,
    locks: BTreeMap<PathBuf, Weak<()>>,
    faults: Faults,
    chances: Chances,
    dice: Dice,
    clock: Option<SimClock>,
    /// Shared by all images of a disk.
    counts: Arc<Mutex<Counts>>,
    /// After so many more changes an image of the disk is kept, as a power cut would leave it.
    crash_in: Option<(u64, u64)>,
    image: Option<Box<State>>,
    /// How often the machine has lost power.
    boots: u64,
    changes: u64,
    syncs: u64,
    writes: u64,
    history: DefaultHasher,
}

struct SimLock(#[expect(dead_code, reason = "the lock lives as long as this")] Arc<()>);

// === impl State ===

impl State {
    fn new() -> Self {
        Self {
            tree: Tree::default(),
            inodes: BTreeMap::new(),
            locks: BTreeMap::new(),
            faults: Faults::default(),
            chances: Chances::default(),
            dice: Dice::new(0),
            clock: None,
            counts: Arc::default(),
            crash_in: None,
            image: None,
            boots: 0,
            changes: 0,
            syncs: 0,
            writes: 0,
            history: DefaultHasher::new(),
        }
    }

    /// Notes a call.
    fn call(&mut self, what: &str, about: impl Hash) {
        (what, about).hash(&mut self.history);
        if self.dice.chance(self.chances.stall)
            && let Some(clock) = &self.clock
        {
            let stall = Duration::from_millis(1 + self.dice.below(STALL_MS_MAX));
            clock.advance(stall);
            self.counts.lock().count(FaultKind::Stall);
        }
    }

    /// Counts a change; at the chosen one the image is taken, before the change.
    fn change(&mut self) {
        self.changes += 1;
        let Some((left, seed)) = &mut self.crash_in else {
            return;
        };
        if *left == 0 {
            let seed = *seed;
            self.crash_in = None;
            self.image = Some(Box::new(self.after_power_cut(seed)));
        } else {
            *left -= 1;
        }
    }

    /// This disk without what was asked of it.
    fn successor(&self, tree: Tree, inodes: BTreeMap<usize, Inode>) -> Self {
        Self {
            tree,
            inodes,
            clock: self.clock.clone(),
            counts: self.counts.clone(),
            boots: self.boots,
            changes: self.changes,
            history: self.history.clone(),
            ..Self::new()
        }
    }

    fn after_power_cut(&self, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut counts = self.counts.lock();
        counts.count(FaultKind::PowerCut);
        let tree = self.tree.after_power_cut(&mut dice, &mut counts);
        let files = tree.files().into_iter();
        let inodes = files
            .filter_map(|id| {
                let inode = self.inodes.get(&id)?;
                Some((id, inode.after_power_cut(&mut dice, &mut counts)))
            })
            .collect();
        drop(counts);
        Self {
            boots: self.boots + 1,
            ..self.successor(tree, inodes)
        }
    }

    /// The file in which Linux tells which boot this is. It is on no disk.
    fn boot_id(&mut self) -> usize {
        let text = format!("00000000-0000-4000-8000-{:012x}\n", self.boots);
        let inode = self.inodes.entry(BOOT_ID_INODE).or_default();
        inode.edit(|bytes| *bytes = text.into_bytes());
        BOOT_ID_INODE
    }

    fn after_process_death(&self) -> Self {
        self.counts.lock().count(FaultKind::ProcessDeath);
        self.copy()
    }

    fn copy(&self) -> Self {
        let tree = self.tree.clone();
        let files = tree.files().into_iter();
        let inodes = files
            .filter_map(|id| Some((id, self.inodes.get(&id)?.clone())))
            .collect();
        self.successor(tree, inodes)
    }

    fn inode_at(&mut self, path: &Path) -> Option<&mut Inode> {
        match self.tree.find(path)? {
            Node::File(id) => self.inodes.get_mut(&id),
            Node::Dir(_) => None,
        }
    }
}

// === impl SimFs ===

impl SimFs {
    /// An empty disk.
    #[expect(clippy::new_without_default, reason = "a disk is bought, not assumed")]
    pub fn new() -> Self {
        Self::of(State::new())
    }

    fn of(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The same disk, whose stalls pass the time of this clock.
    #[must_use]
    pub fn with_stalls(self, clock: SimClock) -> Self {
        self.state.lock().clock = Some(clock);
        self
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Sets what goes wrong by chance from now on, as these dice decide. A disk that is left by a
    /// crash begins without any.
    pub fn set_chances(&self, chances: Chances, dice: Dice) {
        let mut state = self.state.lock();
        state.chances = chances;
        state.dice = dice;
    }

    /// How often each kind of fault has had an effect, on this disk and those it came from.
    pub fn counts(&self) -> Counts {
        *self.state.lock().counts.lock()
    }

    /// Calls that sync a file.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Calls that write.
    pub fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// Calls that change something or sync it.
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// Takes an image of the disk after `changes` more changes, as a power cut would leave it.
    pub fn crash_in(&self, changes: u64, seed: u64) {
        self.state.lock().crash_in = Some((changes, seed));
    }

    /// The image that was taken, if the moment has come; else none will be.
    pub fn take_image(&self) -> Option<Self> {
        let mut state = self.state.lock();
        state.crash_in = None;
        state.image.take().map(|image| Self::of(*image))
    }

    /// Whether the moment has come, and the image not been taken yet: what happens on this disk
    /// from then on never happened.
    pub fn is_cut(&self) -> bool {
        self.state.lock().image.is_some()
    }

    /// A disk with the same content, for trials.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::of(self.state.lock().copy())
    }

    /// What a power cut now leaves.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        Self::of(self.state.lock().after_power_cut(seed))
    }

    /// What the death of the process leaves: everything, but the old process can no longer write.
    #[must_use]
    pub fn process_death(&self) -> Self {
        Self::of(self.state.lock().after_process_death())
    }

    /// All files whose path ends so, sorted.
    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        let all = self.state.lock().tree.walk().into_iter();
        all.filter(|(path, _)| path.ends_with(ending))
            .map(|(path, _)| PathBuf::from(path))
            .collect()
    }

    /// The content of a file as a read sees it.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let mut state = self.state.lock();
        let inode = state.inode_at(path).expect("the file is there");
        inode.content().to_vec()
    }

    /// Changes the content of a file, on the medium too.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        state.inode_at(path).expect("the file is there").edit(edit);
    }

    /// Flips one bit of a file, on the medium too: bit rot.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn rot(&self, path: &Path, at: u64, bit: u8) {
        let mut state = self.state.lock();
        let inode = state.inode_at(path).expect("the file is there");
        inode.flip(at as usize, bit);
        state.counts.lock().count(FaultKind::BitRot);
    }

    /// A digest of every call so far with what it wrote.
    pub fn history(&self) -> u64 {
        self.state.lock().history.finish()
    }

    /// A digest of every file: its path, what a read sees, what is on the medium.
    pub fn image_digest(&self) -> u64 {
        let state = self.state.lock();
        let mut hasher = DefaultHasher::new();
        for (path, id) in state.tree.walk() {
            path.hash(&mut hasher);
            if let Some(inode) = state.inodes.get(&id) {
                inode.content().hash(&mut hasher);
                inode.on_disk().hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.call("open", path);
        let inode = match (state.tree.find(path), mode) {
            (None, OpenMode::Read) if path == Path::new(BOOT_ID_PATH) => state.boot_id(),
            (Some(Node::Dir(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(id)), OpenMode::Truncate) => {
                state.change();
                let number = state.changes;
                if let Some(inode) = state.inodes.get_mut(&id) {
                    inode.set_len(0, number);
                }
                id
            }
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, _) => {
                state.change();
                let id = state.tree.create_file(path)?;
                state.inodes.insert(id, Inode::default());
                id
            }
        };
        drop(state);
        Ok(Arc::new(SimFile::new(self.clone(), inode)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call("create_dir_all", path);
        let above: Vec<&Path> = path.ancestors().collect();
        for dir in above.into_iter().rev() {
            match state.tree.find(dir) {
                Some(Node::Dir(_)) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    state.change();
                    state.tree.create_dir(dir)?;
                }
            }
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        let dir = state.tree.find_dir(path)?;
        let entries = state.tree.entries(dir);
        let entries = entries.map(|(name, node)| match node {
            Node::Dir(_) => (name, true, 0),
            Node::File(id) => {
                let inode = state.inodes.get(id);
                (name, false, inode.map_or(0, |inode| inode.content().len()))
            }
        });
        let entries = entries.map(|(name, is_dir, len)| DirEntry {
            name: name.clone(),
            is_dir,
            len: len as u64,
        });
        Ok(entries.collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call("rename", (from, to));
        state.change();
        state.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call("remove_file", path);
        match state.tree.find(path) {
            Some(Node::File(_)) => {
                state.change();
                state.tree.remove(path)
            }
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let dir = {
            let mut state = self.state.lock();
            state.call("remove_dir_all", path);
            state.tree.find_dir(path)?
        };
        let inside: Vec<(String, Node)> = {
            let state = self.state.lock();
            let entries = state.tree.entries(dir);
            entries.map(|(name, node)| (name.clone(), *node)).collect()
        };
        for (name, node) in inside {
            match node {
                Node::File(_) => self.remove_file(&path.join(name))?,
                Node::Dir(_) => self.remove_dir_all(&path.join(name))?,
            }
        }
        let mut state = self.state.lock();
        state.change();
        state.tree.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.call("sync_dir", path);
        state.change();
        let dir = state.tree.find_dir(path)?;
        state.tree.sync(dir);
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state.lock().tree.find(path).is_some())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let available = self.state.lock().faults.available;
        Ok(Space {
            available: available.unwrap_or(TOTAL_BYTES),
            total: TOTAL_BYTES,
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.open(path, OpenMode::Create)?;
        let mut state = self.state.lock();
        let held = state.locks.get(path).and_then(Weak::upgrade);
        if held.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = Arc::new(());
        state.locks.insert(path.to_owned(), Arc::downgrade(&lock));
        Ok(Box::new(SimLock(lock)))
    }
}

impl DirLock for SimLock {}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimFs")
    }
}
