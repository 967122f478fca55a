//! The file of a ring: made, taken over, emptied.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Env, File, Fs, OpenMode};

use super::{
    header::{self, Header, HeaderDamage, SLOTS},
    record::BLOCK_BYTES,
};
use crate::{
    error::{JournalDamage, LogError},
    options::LogOptions,
    paths,
};

/// How much is written at a time when a ring is made.
const ZEROS_BYTES: usize = 1 << 20;

/// An empty ring.
pub(crate) struct RingFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: Header,
}

/// Takes over the empty ring of a shard, or makes one. Blocks; its name is durable when it returns
/// `Ok`.
///
/// # Errors
/// `StorageFull`, with nothing written, if the ring would take room that appends or the metadata
/// may need.
pub(crate) fn open(env: &Env, options: &LogOptions, shard: usize) -> io::Result<RingFile> {
    let (fs, dir) = (&*env.fs, &*options.dir);
    let (journal, path) = (paths::journal(dir), paths::ring(dir, shard));
    let id = u128::from_le_bytes(env.random_uuid());
    let bytes = options.journal_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let ring = match take_over(fs, &path, id, bytes)? {
        Some(ring) => ring,
        None => {
            check_room(fs, options)?;
            fs.create_dir_all(&journal)?;
            let temporary = path.with_added_extension(paths::TEMPORARY);
            make(fs, &temporary, path, (id, bytes)).inspect_err(|_| {
                // What it took, others need; a start would remove it, too.
                let _ = fs.remove_file(&temporary);
            })?
        }
    };
    // Also of one that was there: it may be of a process that ended, or failed, after it had given
    // the file or the directory its name and before that was durable.
    fs.sync_dir(&journal)?;
    fs.sync_dir(dir)?;
    Ok(ring)
}

/// The ring that is there, if it is empty and of that size.
fn take_over(fs: &dyn Fs, path: &Path, ring: u128, bytes: u64) -> io::Result<Option<RingFile>> {
    if !fs.exists(path)? {
        return Ok(None);
    }
    let file = fs.open(path, OpenMode::ReadWrite)?;
    let found = read_header(&*file, path).map_err(io::Error::other)?;
    // Replay has emptied it.
    if found.open || found.bytes != bytes {
        return Ok(None);
    }
    let header = Header {
        generation: found.generation + 1,
        ring,
        open: true,
        ..found
    };
    write_header(&*file, &header)?;
    let path = path.to_owned();
    Ok(Some(RingFile { path, file, header }))
}

/// Whether the rings of all shards, which may be made at the same time, leave as much free again
/// as must be free for appends to be taken.
fn check_room(fs: &dyn Fs, options: &LogOptions) -> io::Result<()> {
    let rings = options.journal_bytes.saturating_mul(options.shards as u64);
    let needed = rings.saturating_add(options.low_space_bytes.saturating_mul(2));
    if fs.space(&options.dir)?.available < needed {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Writes all blocks once: overwriting written ones makes the syncs cheap.
fn make(
    fs: &dyn Fs,
    temporary: &Path,
    path: PathBuf,
    (ring, bytes): (u128, u64),
) -> io::Result<RingFile> {
    let file = fs.open(temporary, OpenMode::Truncate)?;
    let closed = Header {
        generation: 0,
        ring,
        bytes,
        open: false,
    };
    let header = Header {
        generation: 1,
        open: true,
        ..closed
    };
    let mut slots = closed.encode().to_vec();
    slots.extend_from_slice(&header.encode());
    file.write_all_vectored_at(&[IoSlice::new(&slots)], 0)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut position = SLOTS * BLOCK_BYTES as u64;
    while position < bytes {
        let length = (bytes - position).min(ZEROS_BYTES as u64) as usize;
        let zeros = zeros.get(..length).unwrap_or_default();
        file.write_all_vectored_at(&[IoSlice::new(zeros)], position)?;
        position += length as u64;
    }
    file.sync_all()?;
    fs.rename(temporary, &path)?;
    Ok(RingFile { path, file, header })
}

/// What the file says of itself.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<Header, LogError> {
    let damaged = |damage| LogError::Journal {
        path: path.to_owned(),
        damage,
    };
    let length = file.len().map_err(LogError::io(path))?;
    let mut slots = vec![0; SLOTS as usize * BLOCK_BYTES];
    if length < slots.len() as u64 {
        return Err(damaged(JournalDamage::Slot { position: length }));
    }
    file.read_exact_at(&mut slots, 0)
        .map_err(LogError::io(path))?;
    let header = header::newest(&slots).map_err(|damage| {
        damaged(match damage {
            HeaderDamage::Slot(slot) => JournalDamage::Slot {
                position: slot * BLOCK_BYTES as u64,
            },
            HeaderDamage::Version(found) => JournalDamage::Version { found },
        })
    })?;
    if header.bytes != length {
        return Err(damaged(JournalDamage::Length {
            expected: header.bytes,
            found: length,
        }));
    }
    Ok(header)
}

/// Says that there are no records that count. Blocks; durable when it returns `Ok`.
pub(crate) fn close(file: &dyn File, header: &Header) -> io::Result<()> {
    let closed = Header {
        generation: header.generation + 1,
        open: false,
        ..*header
    };
    write_header(file, &closed)
}

fn write_header(file: &dyn File, header: &Header) -> io::Result<()> {
    let position = header.slot() * BLOCK_BYTES as u64;
    let mut before = [0; BLOCK_BYTES];
    file.read_exact_at(&mut before, position)?;
    if let Err(error) = file.write_all_vectored_at(&[IoSlice::new(&header.encode())], position) {
        // A part of it may be there, and half a slot is damage. The other slot counts, as before.
        if let Err(error) = file.write_all_vectored_at(&[IoSlice::new(&before)], position) {
            tracing::error!(%error, position, "a slot of the journal may be half written");
        }
        return Err(error);
    }
    file.sync_data()
}
