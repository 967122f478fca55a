//! The content of a file: what the page cache shows, and what is on the medium.

use std::collections::BTreeMap;

use super::faults::{Counts, FaultKind};
use crate::Dice;

/// A disk writes a sector whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The page cache writes pages.
const SECTORS_PER_PAGE: usize = 4096 / SECTOR_BYTES;

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    /// Sectors that differ from the disk, as far as the page cache knows, each with the number of
    /// the write that made it so.
    dirty: BTreeMap<usize, u64>,
}

/// What of the unsynced sectors a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survivors {
    None,
    All,
    /// Those of the first writes.
    Until(u64),
    Sectors,
    Pages,
}

// === impl Inode ===

impl Inode {
    /// What a read sees.
    pub(super) fn content(&self) -> &[u8] {
        &self.cache
    }

    /// What is on the medium.
    pub(super) fn on_disk(&self) -> &[u8] {
        &self.disk
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: usize, number: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        let from = at.min(self.cache.len());
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[at..end].copy_from_slice(bytes);
        self.touch(from, end, number);
    }

    pub(super) fn set_len(&mut self, len: usize, number: u64) {
        let before = self.cache.len();
        self.cache.resize(len, 0);
        if len > before {
            self.touch(before, len, number);
        } else {
            self.dirty.split_off(&len.div_ceil(SECTOR_BYTES));
            if !len.is_multiple_of(SECTOR_BYTES) {
                self.touch(len - 1, len, number);
            }
        }
    }

    fn touch(&mut self, from: usize, to: usize, number: u64) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            self.dirty.insert(sector, number);
        }
    }

    /// Everything the page cache knows to be dirty goes to the medium.
    pub(super) fn sync(&mut self) {
        self.disk.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            self.write_back(sector);
        }
    }

    /// A failed sync: some pages went to the medium, and all count as clean, so that later syncs
    /// pass them over until they are written again.
    pub(super) fn sync_fails(&mut self, dice: &mut Dice) {
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let there = sector * SECTOR_BYTES < self.disk.len();
            if there && dice.one_in(4) {
                self.write_back(sector);
            }
        }
    }

    fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES)
            .min(self.cache.len())
            .min(self.disk.len());
        if from < to {
            self.disk[from..to].copy_from_slice(&self.cache[from..to]);
        }
    }

    /// Changes the content, on the medium too.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut Vec<u8>)) {
        edit(&mut self.cache);
        self.disk.clone_from(&self.cache);
        self.dirty.clear();
    }

    /// Flips a bit of what is on the medium, and in the page cache, which will read it anew.
    pub(super) fn flip(&mut self, at: usize, bit: u8) {
        for content in [&mut self.cache, &mut self.disk] {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// What the medium holds after the power was cut.
    pub(super) fn after_power_cut(&self, dice: &mut Dice, counts: &mut Counts) -> Self {
        if self.dirty.is_empty() && self.cache.len() == self.disk.len() {
            return Self::clean(self.disk.clone());
        }
        let survivors = self.survivors(dice);
        let mut content = self.disk.clone();
        content.resize(self.len_after(survivors, dice), 0);
        let mut kept = BTreeMap::new();
        let mut lost = BTreeMap::new();
        let mut page_lives = (usize::MAX, false);
        for (&sector, &number) in &self.dirty {
            let page = sector / SECTORS_PER_PAGE;
            if page_lives.0 != page {
                page_lives = (page, dice.one_in(2));
            }
            let lives = match survivors {
                Survivors::None => false,
                Survivors::All => true,
                Survivors::Until(last) => number <= last,
                Survivors::Sectors => dice.one_in(2),
                Survivors::Pages => page_lives.1,
            };
            let fate = if lives { &mut kept } else { &mut lost };
            fate.insert(sector, number);
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES)
                .min(self.cache.len())
                .min(content.len());
            if lives && from < to {
                content[from..to].copy_from_slice(&self.cache[from..to]);
            }
        }
        tell(survivors, &kept, &lost, counts);
        if content.len() != self.cache.len() {
            counts.count(FaultKind::LostLength);
        }
        Self::clean(content)
    }

    fn survivors(&self, dice: &mut Dice) -> Survivors {
        match dice.below(5) {
            0 => Survivors::None,
            1 => Survivors::All,
            2 => {
                let numbers: Vec<u64> = self.dirty.values().copied().collect();
                let last = numbers.get(dice.index(numbers.len()));
                Survivors::Until(last.copied().unwrap_or(0))
            }
            3 => Survivors::Sectors,
            _ => Survivors::Pages,
        }
    }

    /// The length survives or not by itself: blocks without it, or it without blocks.
    fn len_after(&self, survivors: Survivors, dice: &mut Dice) -> usize {
        let (old, new) = (self.disk.len(), self.cache.len());
        match (survivors, dice.below(3)) {
            (Survivors::None, _) | (_, 0) if survivors != Survivors::All => old,
            (_, 1) if survivors != Survivors::All => {
                let between = old.abs_diff(new) as u64;
                old.min(new) + dice.below(between + 1) as usize
            }
            _ => new,
        }
    }

    fn clean(content: Vec<u8>) -> Self {
        Self {
            cache: content.clone(),
            disk: content,
            dirty: BTreeMap::new(),
        }
    }
}

/// Counts what became of unsynced sectors.
fn tell(
    survivors: Survivors,
    kept: &BTreeMap<usize, u64>,
    lost: &BTreeMap<usize, u64>,
    counts: &mut Counts,
) {
    if lost.is_empty() {
        return;
    }
    counts.count(FaultKind::LostData);
    let first_lost = lost.values().min();
    if kept.values().max() > first_lost && !kept.is_empty() {
        counts.count(FaultKind::Reordered);
    }
    let of_one_write = |number: &u64| lost.values().any(|other| other == number);
    if kept.values().any(of_one_write) {
        counts.count(match survivors {
            Survivors::Sectors => FaultKind::TornSector,
            _ => FaultKind::TornPage,
        });
    }
}
