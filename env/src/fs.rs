//! The file system.
//!
//! All calls block. Writes of at most a few hundred KiB into the page cache may be made on an
//! asynchronous task; syncs, directory operations and cold reads go through [`crate::Env::blocking`].

use std::{
    fs,
    io::{self, IoSlice},
    num::NonZeroU64,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    buffer::spare_capacity,
    fs::{Advice, OFlags, fadvise},
};

/// The most slices that one positional vectored write takes (`IOV_MAX` on Linux).
const WRITE_SLICES_MAX: usize = 1024;

/// How [`Fs::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Read an existing file.
    Read,
    /// Read and write an existing file.
    ReadWrite,
    /// Read and write; made if it is not there, kept as it is otherwise.
    Create,
    /// Read and write; made new, an error if it is there.
    CreateNew,
    /// Read and write; made if it is not there, emptied otherwise.
    Truncate,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The last part of the path.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of a file; 0 for a directory.
    pub len: u64,
}

/// Space of the file system that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged user may still write.
    pub available: u64,
    /// The size of the file system.
    pub total: u64,
}

/// An open file. Positions are explicit, so it can be shared.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `slices`, one after the other, from `offset` on. After an error any prefix may
    /// have been written.
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Data and length are on stable storage when it returns `Ok` (fdatasync). After an error
    /// nothing is known of what was written since the last success: never retry.
    fn sync_data(&self) -> io::Result<()>;
    /// Data and all metadata are on stable storage when it returns `Ok` (fsync).
    fn sync_all(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Appends to `buffer` up to `len` bytes from `offset` on; 0 at the end of the file. What it
    /// grows by need not be zeroed before, if the file can do without.
    fn read_append_at(&self, buffer: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
        let before = buffer.len();
        buffer.resize(before + len, 0);
        let read = self.read_at(buffer.get_mut(before..).unwrap_or_default(), offset);
        buffer.truncate(before + read.as_ref().copied().unwrap_or_default());
        read
    }

    /// Asks for `len` bytes from `offset` on to be in memory soon. A hint: nobody waits for it, and
    /// nothing depends on it.
    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// A hint: what is read through this handle is read once, so it need not stay in memory.
    fn read_once(&self) {}

    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Holds a directory for one process; released when dropped or when the process ends.
pub trait DirLock: Send + Sync {}

/// The file system.
pub trait Fs: Send + Sync {
    /// Opens a regular file, at once: `InvalidInput` if it is something else, as a FIFO.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Makes a directory and its parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Renames a file or directory, replacing a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether something is there. An error is not "no".
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Free and total space.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes `path` (a lock file, made if it is not there) for this process alone;
    /// `WouldBlock` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;

    /// The whole file, if it has at most `bytes_max` bytes (`FileTooLarge` otherwise).
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > bytes_max as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces `path` by a file with `bytes`, so that after a crash it is the old or the new one:
    /// temporary file, fsync, rename, directory fsync.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_added_extension("tmp");
        let file = self.open(&temporary, OpenMode::Truncate)?;
        file.write_all_vectored_at(&[IoSlice::new(bytes)], 0)?;
        file.sync_all()?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}

/// The operating system's files.
#[derive(Debug, Default)]
pub struct RealFs;

struct RealFile(fs::File);

struct RealLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] fs::File);

// === impl RealFs ===

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        // Nothing else of it holds for regular files: opening a FIFO would wait for its other end.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        match mode {
            OpenMode::Read | OpenMode::ReadWrite => {}
            OpenMode::Create => {
                options.create(true);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
            OpenMode::Truncate => {
                options.create(true).truncate(true);
            }
        }
        let file = options.open(path).map_err(no_file)?;
        if !file.metadata()?.is_file() {
            return Err(not_regular());
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: metadata.is_dir(),
                len: if metadata.is_dir() { 0 } else { metadata.len() },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        rustix::fs::flock(
            file.as_fd(),
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        )?;
        Ok(Box::new(RealLock(file)))
    }
}

impl DirLock for RealLock {}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// A symbolic link that leads nowhere is no file either; what the standard library calls it has no
/// stable name.
fn no_file(error: io::Error) -> io::Error {
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    if is_loop { not_regular() } else { error }
}

// === impl RealFile ===

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn read_append_at(&self, buffer: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
        let before = buffer.len();
        buffer.reserve(len);
        let read = rustix::io::pread(&self.0, spare_capacity(buffer), offset)?;
        // There may be more room than was asked for.
        buffer.truncate(before + len);
        Ok(read.min(len))
    }

    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = fadvise(&self.0, offset, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = offset;
        for group in slices.chunks(WRITE_SLICES_MAX) {
            position += write_group(&self.0, group, position)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_once(&self) {
        // Pages that others use stay; ours are the first to go. Without support it changes
        // nothing.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::NoReuse);
    }
}

/// One vectored write; a short one (signal, nearly full disk) is finished slice by slice.
fn write_group(file: &fs::File, group: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let total: usize = group.iter().map(|slice| slice.len()).sum();
    let mut written = match rustix::io::pwritev(file, group, offset) {
        Ok(count) => count,
        Err(rustix::io::Errno::INTR) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut skip = written;
    for slice in group {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let rest = &slice[skip..];
        file.write_all_at(rest, offset + written as u64)?;
        written += rest.len();
        skip = 0;
    }
    debug_assert_eq!(written, total);
    Ok(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectored_writes_longer_than_one_system_call_are_whole() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = RealFs
            .open(&dir.path().join("f"), OpenMode::CreateNew)
            .expect("open");
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| i.to_le_bytes().to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_vectored_at(&slices, 7).expect("write");
        let mut back = vec![0; 12_000];
        file.read_exact_at(&mut back, 7).expect("read");
        assert_eq!(back, parts.concat());
    }

    #[test]
    fn appending_read_takes_no_more_than_was_asked_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = RealFs
            .open(&dir.path().join("f"), OpenMode::CreateNew)
            .expect("open");
        file.write_all_vectored_at(&[IoSlice::new(b"0123456789")], 0)
            .expect("write");
        let mut buffer = Vec::with_capacity(100);
        buffer.push(b'x');
        assert_eq!(file.read_append_at(&mut buffer, 4, 3).expect("read"), 4);
        assert_eq!(file.read_append_at(&mut buffer, 9, 7).expect("read"), 3);
        assert_eq!(file.read_append_at(&mut buffer, 9, 10).expect("read"), 0);
        assert_eq!(buffer, b"x3456789");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (fifo, link) = (dir.path().join("fifo"), dir.path().join("link"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("made");
        std::os::unix::fs::symlink(&link, &link).expect("made");
        for path in [&fifo, &link, &dir.path().to_owned()] {
            let opened = RealFs.open(path, OpenMode::Read);
            assert_eq!(
                opened.err().map(|error| error.kind()),
                Some(io::ErrorKind::InvalidInput),
                "{}",
                path.display()
            );
        }
        assert!(RealFs.open(&fifo, OpenMode::ReadWrite).is_err());
    }

    #[test]
    fn second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("lock");
        let first = RealFs.lock(&path).expect("first");
        assert_eq!(
            RealFs.lock(&path).err().map(|e| e.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
        drop(first);
        assert!(RealFs.lock(&path).is_ok());
    }
}
