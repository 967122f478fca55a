//! Denominators: loops of nothing but the system calls that a log cannot do without.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use mainstem_env::Env;

use crate::{
    Outcome,
    usage::{Mark, Used},
};

/// What a file is made of before it is overwritten, at a time.
const ZEROS_BYTES: usize = 1 << 20;

/// How many distinct batches are copied in turn, as the load of the log does.
const FRESH_DISTINCT: usize = 64;

/// How many copies are under way, as appends of the log are.
const FRESH_WINDOW: usize = 16;

/// A page: what an overwriting journal writes.
const PAGE_BYTES: usize = 4096;

/// A new, empty file.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

/// Takes `bytes` of memory for the page cache and gives them back. In a virtual machine the host may
/// have taken what was free for long: whoever writes first would pay for getting it back.
pub(crate) fn touch_page_cache(path: &Path, bytes: usize) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let file = create(path)?;
    for number in 0..bytes.div_ceil(ZEROS_BYTES) {
        file.write_all_at(&zeros, (number * ZEROS_BYTES) as u64)?;
    }
    drop(file);
    std::fs::remove_file(path)
}

/// Writes `count` times `size` bytes one after the other into a new file.
pub(crate) fn write(env: &Env, path: &Path, size: usize, count: usize) -> Outcome<Used> {
    let data = noise(env, size);
    let file = create(path)?;
    let mark = Mark::now(env);
    for number in 0..count {
        file.write_all_at(&data, (number * size) as u64)?;
    }
    let used = mark.elapsed(env);
    drop(file);
    std::fs::remove_file(path)?;
    Ok(used)
}

/// As [`write`], but each write has bytes of its own that another thread has just copied, as a
/// connection's thread does before a log gets them: the loop above writes one buffer again and again,
/// which never leaves its core's cache.
pub(crate) fn write_fresh(env: &Env, path: &Path, size: usize, count: usize) -> Outcome<Used> {
    let data = noise(env, size * FRESH_DISTINCT);
    let file = create(path)?;
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(FRESH_WINDOW);
    let mark = Mark::now(env);
    std::thread::scope(|scope| -> io::Result<()> {
        let data = &data;
        scope.spawn(move || {
            for part in data.chunks_exact(size).cycle().take(count) {
                // Nobody receives any more only after a failed write.
                if sender.send(part.to_vec()).is_err() {
                    break;
                }
            }
        });
        for (number, bytes) in receiver.iter().enumerate() {
            file.write_all_at(&bytes, (number * size) as u64)?;
        }
        Ok(())
    })?;
    let used = mark.elapsed(env);
    drop(file);
    std::fs::remove_file(path)?;
    Ok(used)
}

/// Writes `size` bytes to the end of each of `files` new files in turn, for about `length`.
/// Returns the number of writes.
pub(crate) fn write_in_turn(
    env: &Env,
    dir: &Path,
    (files, size): (usize, usize),
    length: Duration,
) -> Outcome<(u64, Used)> {
    let data = noise(env, size);
    let paths: Vec<PathBuf> = (0..files).map(|n| dir.join(format!("bare-{n}"))).collect();
    let opened: Vec<File> = paths
        .iter()
        .map(|path| create(path))
        .collect::<Result<_, _>>()?;
    let mark = Mark::now(env);
    let end = env.now() + length;
    let mut turn = 0;
    while env.now() < end {
        for file in &opened {
            file.write_all_at(&data, turn * size as u64)?;
        }
        turn += 1;
    }
    let used = mark.elapsed(env);
    for path in paths {
        std::fs::remove_file(path)?;
    }
    Ok((turn * files as u64, used))
}

/// A file that is appended to, or written over, and synced after each write.
pub(crate) struct SyncedFile {
    file: File,
    data: Vec<u8>,
    position: u64,
    /// Where an overwritten file begins anew.
    wrap: Option<u64>,
}

impl SyncedFile {
    /// Grows with each write.
    pub(crate) fn extending(env: &Env, path: &Path, size: usize) -> Outcome<Self> {
        Ok(Self {
            file: create(path)?,
            data: noise(env, size),
            position: 0,
            wrap: None,
        })
    }

    /// Has `len` bytes that were written before; whole pages are written over.
    pub(crate) fn overwriting(env: &Env, path: &Path, len: u64) -> Outcome<Self> {
        let file = create(path)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut position = 0;
        while position < len {
            file.write_all_at(&zeros, position)?;
            position += ZEROS_BYTES as u64;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            data: noise(env, PAGE_BYTES),
            position: 0,
            wrap: Some(position),
        })
    }

    /// Writes and syncs `count` times: how long each took.
    pub(crate) fn writes(&mut self, env: &Env, count: usize) -> io::Result<Vec<Duration>> {
        (0..count).map(|_| self.write(env)).collect()
    }

    fn write(&mut self, env: &Env) -> io::Result<Duration> {
        let began = env.now();
        self.file.write_all_at(&self.data, self.position)?;
        self.file.sync_data()?;
        self.position += self.data.len() as u64;
        if self.wrap.is_some_and(|wrap| self.position >= wrap) {
            self.position = 0;
        }
        Ok(env.now() - began)
    }
}

/// Random bytes.
fn noise(env: &Env, size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    env.random.fill(&mut data);
    data
}
