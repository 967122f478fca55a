//! Where the Raft log is kept: keys and bytes, no Raft.
//!
//! Calls block, so they are made through [`on_store`], never on an asynchronous worker. What Raft
//! needs to survive a crash (entries, votes, snapshots, truncations) is on stable storage when a call
//! returns. What a value means is decided in [`crate::raft`].

mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;

use std::sync::Arc;

use mainstem_env::Env;

pub use self::memory::MemoryDisk;
pub(crate) use self::memory::MemoryStore;
#[cfg(feature = "rocksdb")]
pub(crate) use self::rocks::RocksStore;
use crate::error::StoreError;

/// The values besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The last vote.
    Vote,
    /// The last log id that this node knows to be committed.
    Committed,
    /// The last log id that was trimmed from the log.
    Purged,
    /// What the snapshot covers.
    SnapshotMeta,
    /// The snapshot.
    SnapshotData,
    /// Which cluster this node has promised to belong to.
    Promise,
}

/// Whether a value must survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// On stable storage when the call returns.
    Synced,
    /// With the next synced write, or when the operating system likes.
    Lazy,
}

/// A log of entries by index, and a few values. One writer; all calls block.
pub(crate) trait Store: Send + Sync + 'static {
    /// Adds or replaces entries. Synced, all or nothing.
    fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), StoreError>;
    /// The entries from `start` to before `end`, in order, with their indexes; stops once
    /// `bytes_max` is passed, but not before the first.
    fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    /// The last entry.
    fn last(&self) -> Result<Option<Vec<u8>>, StoreError>;
    /// Removes all entries from `from` on. Synced.
    fn truncate(&self, from: u64) -> Result<(), StoreError>;
    /// Removes all entries up to `to`, inclusive, and sets [`Key::Purged`], both or neither.
    fn purge(&self, to: u64, purged: &[u8]) -> Result<(), StoreError>;
    /// A value.
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, StoreError>;
    /// Sets a value.
    fn put(&self, key: Key, value: &[u8], durability: Durability) -> Result<(), StoreError>;
    /// Sets both snapshot values, both or neither. Synced.
    fn put_snapshot(&self, meta: &[u8], data: &[u8]) -> Result<(), StoreError>;
    /// Writes out everything and releases the files; every later call fails.
    fn close(&self) -> Result<(), StoreError>;
}

// === impl Key ===

impl Key {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] = [
        Self::Vote,
        Self::Committed,
        Self::Purged,
        Self::SnapshotMeta,
        Self::SnapshotData,
        Self::Promise,
    ];
}

/// Does blocking work on a store off the asynchronous workers.
pub(crate) async fn on_store<T: Send + 'static>(
    env: &Env,
    store: &Arc<dyn Store>,
    work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = Arc::clone(store);
    env.blocking("metadata-store", move || work(&*store))
        .await
        .unwrap_or(Err(StoreError::ShuttingDown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
        range
            .map(|index| (index, index.to_string().into_bytes()))
            .collect()
    }

    /// What every store must do.
    fn behaves(store: &dyn Store) {
        assert!(store.last().expect("last").is_none());
        assert!(
            Key::ALL
                .iter()
                .all(|key| store.get(*key).expect("get").is_none())
        );

        // Across the borders of one and two bytes, so that keys must sort as numbers.
        store.append(&entries(250..260)).expect("append");
        store.append(&entries(260..300)).expect("append");
        assert_eq!(
            store.read(255, 258, usize::MAX).expect("read"),
            entries(255..258)
        );
        assert_eq!(
            store.read(0, u64::MAX, usize::MAX).expect("read"),
            entries(250..300)
        );
        assert_eq!(store.read(255, 300, 4).expect("read"), entries(255..257));
        assert_eq!(store.read(255, 300, 0).expect("read"), entries(255..256));
        assert_eq!(store.last().expect("last"), Some(b"299".to_vec()));

        store.truncate(290).expect("truncate");
        assert_eq!(store.last().expect("last"), Some(b"289".to_vec()));
        store.purge(255, b"255").expect("purge");
        assert_eq!(
            store.read(0, u64::MAX, usize::MAX).expect("read"),
            entries(256..290)
        );
        assert_eq!(store.get(Key::Purged).expect("get"), Some(b"255".to_vec()));
        store.append(&entries(290..291)).expect("append");
        assert_eq!(store.last().expect("last"), Some(b"290".to_vec()));
        store.purge(290, b"290").expect("purge");
        assert!(store.last().expect("last").is_none());

        store.put(Key::Vote, b"v", Durability::Synced).expect("put");
        store
            .put(Key::Committed, b"c", Durability::Lazy)
            .expect("put");
        store.put_snapshot(b"meta", b"data").expect("snapshot");
        let values: Vec<Vec<u8>> = Key::ALL
            .iter()
            .filter_map(|key| store.get(*key).expect("get"))
            .collect();
        assert_eq!(values, [&b"v"[..], b"c", b"290", b"meta", b"data"]);

        store.close().expect("close");
        assert!(matches!(store.get(Key::Vote), Err(StoreError::Closed)));
        assert!(matches!(
            store.append(&entries(1..2)),
            Err(StoreError::Closed)
        ));
    }

    #[test]
    fn memory_behaves() {
        behaves(&MemoryStore::default());
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn rocksdb_behaves() {
        let dir = tempfile::tempdir().expect("dir");
        behaves(&RocksStore::open(&dir.path().join("db"), true).expect("open"));
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn rocksdb_keeps_what_was_written() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("db");
        let store = RocksStore::open(&path, true).expect("make");
        store.append(&entries(1..9)).expect("append");
        store.put(Key::Vote, b"v", Durability::Synced).expect("put");
        assert!(
            RocksStore::open(&path, false).is_err(),
            "one process at a time"
        );
        store.close().expect("close");
        let store = RocksStore::open(&path, false).expect("open");
        assert_eq!(
            store.read(0, u64::MAX, usize::MAX).expect("read"),
            entries(1..9)
        );
        assert_eq!(store.get(Key::Vote).expect("get"), Some(b"v".to_vec()));
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn rocksdb_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(RocksStore::open(&dir.path().join("db"), false).is_err());
        // RocksDB leaves its own text log behind, but nothing that could pass for a database.
        assert!(!dir.path().join("db/CURRENT").exists());
    }
}
