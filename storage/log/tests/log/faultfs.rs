//! A file system in memory that knows what is synced and what is not, fails on demand, and can
//! show what a power cut would have left.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{DirEntry, DirLock, File, Fs, OpenMode, Space};
use parking_lot::Mutex;

/// What of an unsynced write a power cut keeps or loses is decided per block.
const BLOCK_BYTES: usize = 512;

type InodeId = usize;

#[derive(Clone, Default)]
struct Inode {
    visible: Vec<u8>,
    synced: Vec<u8>,
    /// Bytes of a failed sync: they count as clean, so later syncs pass them over until they are
    /// written again.
    lost: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, InodeId>,
    dirs: BTreeSet<PathBuf>,
}

/// What goes wrong.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Syncs of data fail.
    pub(crate) sync: bool,
    /// The next write stores so many bytes and then fails with this.
    pub(crate) write: Option<(usize, io::ErrorKind)>,
    /// Cutting fails.
    pub(crate) set_len: bool,
    /// What is left of the disk.
    pub(crate) available: Option<u64>,
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    visible: Names,
    durable: Names,
    faults: Faults,
    /// After so many more changes an image of the disk is kept, as a power cut would leave it.
    crash_in: Option<(u64, u64)>,
    image: Option<Box<State>>,
    syncs: u64,
    writes: u64,
}

/// A file system in memory. Clones share the content.
#[derive(Clone, Default)]
pub(crate) struct FaultFs {
    state: Arc<Mutex<State>>,
}

struct FaultFile {
    fs: FaultFs,
    inode: InodeId,
}

struct NoLock;

/// A small generator: its seed comes from the test's own.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

impl State {
    /// Counts a change; at the chosen one the image is taken, before the change.
    fn change(&mut self) {
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

    fn after_power_cut(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut names = Names::default();
        let mut parents: BTreeSet<&Path> = BTreeSet::new();
        for path in self.visible.files.keys().chain(self.durable.files.keys()) {
            parents.extend(path.parent());
        }
        for path in self.visible.dirs.iter().chain(&self.durable.dirs) {
            parents.extend(path.parent());
        }
        names.dirs.insert(PathBuf::from("/"));
        // A directory is on disk as it was synced, or as it is: the kernel may have written it.
        for parent in parents {
            let from = if dice.below(2) == 0 {
                &self.durable
            } else {
                &self.visible
            };
            let files = from.files.iter();
            let files = files.filter(|(path, _)| path.parent() == Some(parent));
            names
                .files
                .extend(files.map(|(path, id)| (path.clone(), *id)));
            let dirs = from.dirs.iter();
            let dirs = dirs.filter(|path| path.parent() == Some(parent));
            names.dirs.extend(dirs.cloned());
        }
        let reachable = |path: &Path, dirs: &BTreeSet<PathBuf>| {
            path.ancestors().skip(1).all(|dir| dirs.contains(dir))
        };
        let dirs = names.dirs.clone();
        names.dirs.retain(|path| reachable(path, &dirs));
        names.files.retain(|path, _| reachable(path, &names.dirs));
        let inodes = self.inodes.iter().map(|inode| {
            let content = torn(inode, &mut dice);
            Inode {
                visible: content.clone(),
                synced: content,
                lost: BTreeSet::new(),
            }
        });
        Self {
            inodes: inodes.collect(),
            durable: names.clone(),
            visible: names,
            ..Self::default()
        }
    }
}

fn torn(inode: &Inode, dice: &mut Dice) -> Vec<u8> {
    let (old, new) = (&inode.synced, &inode.visible);
    match dice.below(4) {
        0 => old.clone(),
        1 => new.clone(),
        2 => {
            let (short, long) = (old.len().min(new.len()), old.len().max(new.len()));
            let len = short + dice.below((long - short) as u64 + 1) as usize;
            let mut content = new.clone();
            content.resize(len.max(short), 0);
            for (at, byte) in content.iter_mut().enumerate().skip(new.len()) {
                *byte = old.get(at).copied().unwrap_or(0);
            }
            content
        }
        _ => {
            // The length is there, some blocks are not.
            let mut content = new.clone();
            for at in (0..content.len()).step_by(BLOCK_BYTES) {
                if dice.below(2) == 0 {
                    for i in at..content.len().min(at + BLOCK_BYTES) {
                        content[i] = old.get(i).copied().unwrap_or(0);
                    }
                }
            }
            content
        }
    }
}

impl FaultFs {
    pub(crate) fn new() -> Self {
        let fs = Self::default();
        let mut state = fs.state.lock();
        state.visible.dirs.insert(PathBuf::from("/"));
        state.durable.dirs.insert(PathBuf::from("/"));
        drop(state);
        fs
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    pub(crate) fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// Takes an image of the disk after `changes` more changes.
    pub(crate) fn crash_in(&self, changes: u64, seed: u64) {
        self.state.lock().crash_in = Some((changes, seed));
    }

    /// The image that was taken, if the moment has come.
    pub(crate) fn take_image(&self) -> Option<Self> {
        let mut state = self.state.lock();
        state.crash_in = None;
        let image = state.image.take()?;
        Some(Self {
            state: Arc::new(Mutex::new(*image)),
        })
    }

    /// What a power cut now leaves.
    pub(crate) fn power_cut(&self, seed: u64) -> Self {
        let state = self.state.lock().after_power_cut(seed);
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What the death of the process leaves: everything, but the old process can no longer write.
    pub(crate) fn process_death(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.faults = Faults::default();
        state.crash_in = None;
        state.image = None;
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// All files whose name ends so.
    pub(crate) fn files(&self, ending: &str) -> Vec<PathBuf> {
        let state = self.state.lock();
        let paths = state.visible.files.keys();
        paths
            .filter(|path| path.to_string_lossy().ends_with(ending))
            .cloned()
            .collect()
    }

    /// Changes the content of a file, on disk too.
    pub(crate) fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let id = state.visible.files[path];
        let inode = &mut state.inodes[id];
        edit(&mut inode.visible);
        inode.lost.clear();
        inode.synced = inode.visible.clone();
    }
}

impl Fs for FaultFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let found = state.visible.files.get(path).copied();
        let inode = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), OpenMode::Truncate) => {
                state.change();
                state.inodes[id].visible.clear();
                id
            }
            (Some(id), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, _) => {
                state.change();
                state.inodes.push(Inode::default());
                let id = state.inodes.len() - 1;
                state.visible.files.insert(path.to_owned(), id);
                id
            }
        };
        drop(state);
        let fs = self.clone();
        Ok(Arc::new(FaultFile { fs, inode }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change();
        let ancestors = path.ancestors().map(Path::to_owned);
        state.visible.dirs.extend(ancestors);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        if !state.visible.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |p: &Path, is_dir, len| DirEntry {
            name: p.file_name().unwrap().to_string_lossy().into_owned(),
            is_dir,
            len,
        };
        let inside = |p: &Path| p.parent() == Some(path);
        let dirs = state.visible.dirs.iter().filter(|p| inside(p));
        let mut entries: Vec<DirEntry> = dirs.map(|p| entry(p, true, 0)).collect();
        let files = state.visible.files.iter().filter(|(p, _)| inside(p));
        entries.extend(files.map(|(p, id)| {
            let len = state.inodes[*id].visible.len() as u64;
            entry(p, false, len)
        }));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change();
        if let Some(id) = state.visible.files.remove(from) {
            state.visible.files.insert(to.to_owned(), id);
            return Ok(());
        }
        if !state.visible.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let moved = |p: &PathBuf| match p.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => p.clone(),
        };
        state.visible.dirs = state.visible.dirs.iter().map(moved).collect();
        let files = std::mem::take(&mut state.visible.files);
        state.visible.files = files.iter().map(|(p, id)| (moved(p), *id)).collect();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change();
        let removed = state.visible.files.remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change();
        state.visible.dirs.retain(|p| !p.starts_with(path));
        state.visible.files.retain(|p, _| !p.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change();
        let State {
            visible, durable, ..
        } = &mut *state;
        let inside = |p: &Path| p.parent() == Some(path);
        durable.files.retain(|p, _| !inside(p));
        let files = visible.files.iter().filter(|(p, _)| inside(p));
        durable.files.extend(files.map(|(p, id)| (p.clone(), *id)));
        durable.dirs.retain(|p| !inside(p));
        let dirs = visible.dirs.iter().filter(|p| inside(p));
        durable.dirs.extend(dirs.cloned());
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        Ok(state.visible.files.contains_key(path) || state.visible.dirs.contains(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let available = self.state.lock().faults.available.unwrap_or(1 << 40);
        let total = 1 << 40;
        Ok(Space { available, total })
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn DirLock>> {
        Ok(Box::new(NoLock))
    }
}

impl DirLock for NoLock {}

impl File for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.fs.state.lock();
        let content = &state.inodes[self.inode].visible;
        let start = (offset as usize).min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.change();
        state.writes += 1;
        let mut bytes = slices.iter().fold(Vec::new(), |mut all, slice| {
            all.extend_from_slice(slice);
            all
        });
        let fault = state.faults.write.take();
        if let Some((kept, _)) = fault {
            bytes.truncate(kept);
        }
        let inode = &mut state.inodes[self.inode];
        let end = offset as usize + bytes.len();
        inode.lost.retain(|at| !(offset as usize..end).contains(at));
        let content = &mut inode.visible;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(&bytes);
        match fault {
            Some((_, kind)) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.change();
        state.syncs += 1;
        let failed = state.faults.sync;
        let inode = &mut state.inodes[self.inode];
        let on_disk = |at: usize| inode.synced.get(at).copied();
        if failed {
            let all = inode.visible.iter().enumerate();
            let dirty = all.filter(|(at, byte)| on_disk(*at) != Some(**byte));
            let dirty: Vec<usize> = dirty.map(|(at, _)| at).collect();
            inode.lost.extend(dirty);
            return Err(io::Error::other("injected"));
        }
        let mut synced = inode.visible.clone();
        for at in inode.lost.range(..synced.len()) {
            synced[*at] = on_disk(*at).unwrap_or(0);
        }
        inode.synced = synced;
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.state.lock().inodes[self.inode].visible.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.change();
        if state.faults.set_len {
            return Err(io::Error::other("injected"));
        }
        state.inodes[self.inode].visible.resize(len as usize, 0);
        Ok(())
    }
}
