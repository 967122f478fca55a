//! The store in memory: for simulation, fuzzing and tests.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Durability, Key, Store};
use crate::error::StoreError;

/// A disk in memory. Clones share it; it outlives the service that keeps its log there, as a disk
/// would: a simulation that restarts nodes hands it from one to the next.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

/// The store on such a disk.
#[derive(Debug)]
pub(crate) struct MemoryStore(Mutex<Option<MemoryDisk>>);

#[derive(Clone, Debug, Default)]
struct Content {
    log: BTreeMap<u64, Vec<u8>>,
    values: BTreeMap<Key, Vec<u8>>,
}

// === impl MemoryDisk ===

impl MemoryDisk {
    /// A disk of its own with what is on this one now: what a crash at this moment leaves, since
    /// every write is synced.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }
}

#[cfg(test)]
impl MemoryDisk {
    /// What was on the disk right after the node had promised to belong to a cluster.
    pub(crate) fn only_promise(&self) -> Self {
        let mut content = self.0.lock().clone();
        content.log.clear();
        content.values.retain(|key, _| *key == Key::Promise);
        Self(Arc::new(Mutex::new(content)))
    }
}

// === impl MemoryStore ===

impl MemoryStore {
    pub(crate) fn new(disk: MemoryDisk) -> Self {
        Self(Mutex::new(Some(disk)))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> Result<T, StoreError> {
        let disk = self.0.lock();
        let disk = disk.as_ref().ok_or(StoreError::Closed)?;
        Ok(work(&mut disk.0.lock()))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryDisk::default())
    }
}

impl Store for MemoryStore {
    fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.with(|content| content.log.extend(entries.iter().cloned()))
    }

    fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.with(|content| {
            let mut bytes: usize = 0;
            let mut found = Vec::new();
            for (index, entry) in content.log.range(start..end) {
                found.push((*index, entry.clone()));
                bytes = bytes.saturating_add(entry.len());
                if bytes > bytes_max {
                    break;
                }
            }
            found
        })
    }

    fn last(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|content| content.log.last_key_value().map(|(_, entry)| entry.clone()))
    }

    fn truncate(&self, from: u64) -> Result<(), StoreError> {
        self.with(|content| {
            content.log.split_off(&from);
        })
    }

    fn purge(&self, to: u64, purged: &[u8]) -> Result<(), StoreError> {
        self.with(|content| {
            content.log = content.log.split_off(&to.saturating_add(1));
            content.values.insert(Key::Purged, purged.to_vec());
        })
    }

    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|content| content.values.get(&key).cloned())
    }

    fn put(&self, key: Key, value: &[u8], _durability: Durability) -> Result<(), StoreError> {
        self.with(|content| {
            content.values.insert(key, value.to_vec());
        })
    }

    fn put_snapshot(&self, meta: &[u8], data: &[u8]) -> Result<(), StoreError> {
        self.with(|content| {
            content.values.insert(Key::SnapshotMeta, meta.to_vec());
            content.values.insert(Key::SnapshotData, data.to_vec());
        })
    }

    fn close(&self) -> Result<(), StoreError> {
        *self.0.lock() = None;
        Ok(())
    }
}
