//! An open file.

use std::io::{self, IoSlice};

use mainstem_env::File;

use super::{FaultKind, SimFs, State};

/// An open file; it lives on while it is open, also without a name.
pub(super) struct SimFile {
    fs: SimFs,
    inode: usize,
}

/// What a write will do.
struct Write {
    bytes: Vec<u8>,
    failure: Option<io::ErrorKind>,
}

// === impl SimFile ===

impl SimFile {
    pub(super) fn new(fs: SimFs, inode: usize) -> Self {
        Self { fs, inode }
    }

    fn sync(&self, what: &str) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.call(what, self.inode);
        state.change();
        state.syncs += 1;
        let by_chance = {
            let chance = state.chances.sync_error;
            state.dice.chance(chance)
        };
        let failed = state.faults.sync || by_chance;
        let State {
            inodes,
            dice,
            counts,
            ..
        } = &mut *state;
        let inode = inodes.get_mut(&self.inode).ok_or_else(gone)?;
        if failed {
            counts.lock().count(FaultKind::SyncError);
            inode.sync_fails(dice);
            return Err(io::Error::other("injected"));
        }
        inode.sync();
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.fs.state.lock();
        state.call("read", (self.inode, offset, buffer.len()));
        let chances = state.chances;
        if state.dice.chance(chances.read_error) {
            state.counts.lock().count(FaultKind::ReadError);
            return Err(io::Error::other("injected"));
        }
        let inode = state.inodes.get(&self.inode).ok_or_else(gone)?;
        let content = inode.content();
        let start = content.len().min(offset as usize);
        let mut count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        if count > 1 && state.dice.chance(chances.short_read) {
            count = 1 + state.dice.index(count - 1);
            state.counts.lock().count(FaultKind::ShortRead);
        }
        Ok(count)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let mut state = self.fs.state.lock();
        state.call("write", (self.inode, offset, &bytes));
        state.change();
        state.writes += 1;
        let number = state.changes;
        let write = state.fault_of(bytes);
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(gone)?;
        inode.write(&write.bytes, offset as usize, number);
        match write.failure {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("sync_data")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("sync_all")
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.fs.state.lock();
        let inode = state.inodes.get(&self.inode).ok_or_else(gone)?;
        Ok(inode.content().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.call("set_len", (self.inode, len));
        state.change();
        if state.faults.set_len {
            return Err(io::Error::other("injected"));
        }
        let number = state.changes;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(gone)?;
        inode.set_len(len as usize, number);
        Ok(())
    }
}

// === impl State ===

impl State {
    /// What becomes of a write of these bytes.
    fn fault_of(&mut self, mut bytes: Vec<u8>) -> Write {
        let chances = self.chances;
        let failure = if let Some((kept, kind)) = self.faults.write.take() {
            bytes.truncate(kept);
            Some(kind)
        } else if self.dice.chance(chances.no_space) {
            bytes.truncate(self.dice.index(bytes.len() + 1));
            Some(io::ErrorKind::StorageFull)
        } else if self.dice.chance(chances.write_error) {
            bytes.truncate(self.dice.index(bytes.len() + 1));
            Some(io::ErrorKind::Other)
        } else {
            None
        };
        match failure {
            Some(io::ErrorKind::StorageFull) => self.counts.lock().count(FaultKind::NoSpace),
            Some(_) => self.counts.lock().count(FaultKind::WriteError),
            None => {}
        }
        Write { bytes, failure }
    }
}

/// A bug of the simulation: what is open stays.
fn gone() -> io::Error {
    io::Error::other("no such file")
}
