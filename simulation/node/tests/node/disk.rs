//! The disk of a node, and the moments at which its power goes or its process dies.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use mainstem_env::{DirEntry, DirLock, File, Fs, OpenMode, Space};
use mainstem_simulation::{Faults, SimFs};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What is not synced may be lost, in any part.
    PowerCut,
    /// The page cache stays.
    ProcessKill,
}

/// What syncs of data do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Syncs {
    #[default]
    Work,
    /// The next one of records (in a segment, in a journal) fails, and loses what it was to write; those
    /// after it work.
    FailOnce,
    /// They do nothing and say that they have worked.
    Lie,
}

#[derive(Default)]
struct State {
    /// Changes until the end, and how it comes.
    end: Option<(u64, Crash, u64)>,
    /// What the end has left; from then on nothing can be done with the disk.
    left: Option<SimFs>,
    syncs: Syncs,
    /// What is free and how large the disk is, if a test has set it.
    space: Option<Space>,
}

/// A disk that a node writes on until its end. Clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    fs: SimFs,
    state: Arc<Mutex<State>>,
    ended: Arc<Notify>,
}

struct DiskFile {
    disk: Disk,
    file: Arc<dyn File>,
    /// Acknowledgements depend on it.
    has_records: bool,
}

// === impl Disk ===

impl Disk {
    /// What `fs` holds, in a node that lives on.
    pub(crate) fn new(fs: SimFs) -> Self {
        Self {
            fs,
            state: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Ends this life before the `changes`-th next change of the disk.
    pub(crate) fn end_in(&self, changes: u64, crash: Crash, seed: u64) {
        self.state.lock().end = Some((changes, crash, seed));
    }

    /// Ends this life now.
    pub(crate) fn end_now(&self, crash: Crash, seed: u64) {
        let mut state = self.state.lock();
        if state.left.is_none() {
            state.left = Some(self.after(crash, seed));
            self.ended.notify_one();
        }
    }

    /// How syncs of data go from now on.
    pub(crate) fn set_syncs(&self, syncs: Syncs) {
        self.state.lock().syncs = syncs;
    }

    /// What the disk says of its space.
    pub(crate) fn set_space(&self, available: u64, total: u64) {
        self.state.lock().space = Some(Space { available, total });
    }

    /// How the next sync of data will go.
    pub(crate) fn syncs(&self) -> Syncs {
        self.state.lock().syncs
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        while !self.has_ended() {
            self.ended.notified().await;
        }
    }

    /// Whether the end has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().left.is_some()
    }

    /// What the end has left, or, after a clean stop, what is there.
    pub(crate) fn left(&self) -> SimFs {
        let left = self.state.lock().left.clone();
        left.unwrap_or_else(|| self.fs.process_death())
    }

    fn after(&self, crash: Crash, seed: u64) -> SimFs {
        match crash {
            Crash::PowerCut => self.fs.power_cut(seed),
            Crash::ProcessKill => self.fs.process_death(),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.state.lock().left.is_some() {
            return Err(io::Error::other("the node is no more"));
        }
        Ok(())
    }

    /// Takes note of a change that is about to be made.
    fn change(&self) -> io::Result<()> {
        let due = {
            let mut state = self.state.lock();
            match &mut state.end {
                Some((0, crash, seed)) => Some((*crash, *seed)),
                Some((left, ..)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((crash, seed)) = due {
            self.end_now(crash, seed);
        }
        self.alive()
    }

    fn sync(&self, has_records: bool, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        self.change()?;
        let syncs = {
            let mut state = self.state.lock();
            match state.syncs {
                Syncs::FailOnce if has_records => {
                    state.syncs = Syncs::Work;
                    Syncs::FailOnce
                }
                Syncs::FailOnce => Syncs::Work,
                syncs => syncs,
            }
        };
        match syncs {
            Syncs::Work => sync(),
            Syncs::Lie => Ok(()),
            Syncs::FailOnce => {
                let faults = |sync| Faults {
                    sync,
                    ..Faults::default()
                };
                self.fs.set_faults(faults(true));
                let failed = sync();
                self.fs.set_faults(faults(false));
                failed
            }
        }
    }
}

impl Fs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.alive()?,
            OpenMode::Create | OpenMode::CreateNew | OpenMode::Truncate => self.change()?,
        }
        let file = self.fs.open(path, mode)?;
        let disk = self.clone();
        let name = path.to_string_lossy();
        // A journal is made under another name.
        let of_records = [".log", ".ring", ".ring.tmp"];
        let has_records = of_records.iter().any(|end| name.ends_with(end));
        Ok(Arc::new(DiskFile {
            disk,
            file,
            has_records,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.fs.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.alive()?;
        self.fs.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.fs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.fs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.fs.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.fs.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.alive()?;
        self.fs.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let set = self.state.lock().space;
        match set {
            Some(space) => Ok(space),
            None => self.fs.space(path),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.change()?;
        self.fs.lock(path)
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.alive()?;
        self.file.read_at(buffer, offset)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.change()?;
        self.file.write_all_vectored_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync(self.has_records, || self.file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        // Files are made with it, acknowledgements wait for the other one.
        self.disk.sync(false, || self.file.sync_all())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.alive()?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.file.set_len(len)
    }
}
