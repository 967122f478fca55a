//! What goes wrong, on demand or by chance, and how often it did.

use std::{fmt, io};

/// What goes wrong until this is set anew.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Syncs of data fail.
    pub sync: bool,
    /// The next write stores so many bytes and then fails with this.
    pub write: Option<(usize, io::ErrorKind)>,
    /// Cutting fails.
    pub set_len: bool,
    /// What is left of the disk, as it says, in bytes.
    pub available: Option<u64>,
}

/// How often a call goes wrong by chance, in ten thousand calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    /// A read gives fewer bytes than there are.
    pub short_read: u16,
    /// A read fails (EIO).
    pub read_error: u16,
    /// A write stores a part and fails (EIO).
    pub write_error: u16,
    /// A write stores a part and fails (ENOSPC).
    pub no_space: u16,
    /// A sync of a file fails (EIO): some of its dirty pages are lost, and all count as clean.
    pub sync_error: u16,
    /// A call takes up to two seconds of virtual time.
    pub stall: u16,
}

/// A kind of fault, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The power was cut.
    PowerCut,
    /// The process died; the page cache lived on.
    ProcessDeath,
    /// Of one write some 512-byte sectors survived and others did not.
    TornSector,
    /// Of one write some 4-KiB pages survived and others did not.
    TornPage,
    /// Unsynced data was lost.
    LostData,
    /// An earlier unsynced write was lost and a later one survived.
    Reordered,
    /// The file did not have the length that it was last given.
    LostLength,
    /// An unsynced creation was lost.
    LostEntry,
    /// An unsynced rename was lost.
    LostRename,
    /// An unsynced removal was lost.
    LostRemoval,
    /// A write failed for lack of space.
    NoSpace,
    /// A write failed.
    WriteError,
    /// A sync failed.
    SyncError,
    /// A read failed.
    ReadError,
    /// A read gave fewer bytes than asked for.
    ShortRead,
    /// A bit of what was synced changed.
    BitRot,
    /// A call took long.
    Stall,
}

/// How often each kind of fault has had an effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; FaultKind::ALL.len()]);

// === impl FaultKind ===

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::PowerCut,
        Self::ProcessDeath,
        Self::TornSector,
        Self::TornPage,
        Self::LostData,
        Self::Reordered,
        Self::LostLength,
        Self::LostEntry,
        Self::LostRename,
        Self::LostRemoval,
        Self::NoSpace,
        Self::WriteError,
        Self::SyncError,
        Self::ReadError,
        Self::ShortRead,
        Self::BitRot,
        Self::Stall,
    ];
}

const _: () = {
    let mut at = 0;
    while at < FaultKind::ALL.len() {
        assert!(
            FaultKind::ALL[at] as usize == at,
            "in the order of the enum"
        );
        at += 1;
    }
};

// === impl Counts ===

impl Counts {
    /// How often this one.
    pub fn get(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    pub(crate) fn count(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds those of another disk.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// The kinds that never happened.
    pub fn missing(&self) -> Vec<FaultKind> {
        let all = FaultKind::ALL.into_iter();
        all.filter(|kind| self.get(*kind) == 0).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in FaultKind::ALL {
            writeln!(f, "{:>14} {}", format!("{kind:?}"), self.get(kind))?;
        }
        Ok(())
    }
}
