//! A file system in memory, for tests that need no disk. Faults are added by the tests that want
//! them, by wrapping.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use crate::fs::{DirEntry, DirLock, File, Fs, OpenMode, Space};

/// What [`Fs::space`] of a [`MemFs`] says in total.
const TOTAL_BYTES: u64 = 1 << 40;

type Content = Arc<RwLock<Vec<u8>>>;

/// A file system in memory. Everything counts as synced at once. Clones share the content.
#[derive(Debug, Clone, Default)]
pub struct MemFs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Content>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
}

struct MemFile(Content);

struct MemLock {
    fs: MemFs,
    path: PathBuf,
}

// === impl MemFs ===

impl MemFs {
    /// An empty file system.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Fs for MemFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let found = state.files.get(path).cloned();
        let content = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), OpenMode::Truncate) => {
                content.write().clear();
                content
            }
            (Some(content), _) => content,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, _) => {
                let content = Content::default();
                state.files.insert(path.to_owned(), content.clone());
                content
            }
        };
        Ok(Arc::new(MemFile(content)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        for ancestor in path.ancestors() {
            state.dirs.insert(ancestor.to_owned());
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
        let inside = |p: &&PathBuf| p.parent() == Some(path);
        let dirs = state.dirs.iter().filter(inside).filter_map(|p| {
            Some(DirEntry {
                name: name(p)?,
                is_dir: true,
                len: 0,
            })
        });
        let files = state
            .files
            .iter()
            .filter(|(p, _)| inside(p))
            .filter_map(|(p, content)| {
                Some(DirEntry {
                    name: name(p)?,
                    is_dir: false,
                    len: content.read().len() as u64,
                })
            });
        let mut entries: Vec<DirEntry> = dirs.chain(files).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(content) = state.files.remove(from) {
            state.files.insert(to.to_owned(), content);
            return Ok(());
        }
        if !state.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let moved = |p: &PathBuf| p.strip_prefix(from).ok().map(|rest| to.join(rest));
        state.dirs = state
            .dirs
            .iter()
            .map(|p| moved(p).unwrap_or_else(|| p.clone()))
            .collect();
        let files = std::mem::take(&mut state.files);
        state.files = files
            .into_iter()
            .map(|(p, c)| (moved(&p).unwrap_or(p), c))
            .collect();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let removed = self.state.lock().files.remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.dirs.retain(|p| !p.starts_with(path));
        state.files.retain(|p, _| !p.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.state.lock().dirs.contains(path) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        Ok(state.files.contains_key(path) || state.dirs.contains(path))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let used: u64 = self
            .state
            .lock()
            .files
            .values()
            .map(|c| c.read().len() as u64)
            .sum();
        Ok(Space {
            available: TOTAL_BYTES.saturating_sub(used),
            total: TOTAL_BYTES,
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        if !self.state.lock().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock {
            fs: self.clone(),
            path: path.to_owned(),
        }))
    }
}

// === impl MemLock ===

impl DirLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.fs.state.lock().locks.remove(&self.path);
    }
}

// === impl MemFile ===

impl File for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.read();
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut content = self.0.write();
        let mut position = offset as usize;
        for slice in slices {
            let end = position + slice.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[position..end].copy_from_slice(slice);
            position = end;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(len as usize, 0);
        Ok(())
    }
}
