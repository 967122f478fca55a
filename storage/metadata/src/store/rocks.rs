//! The store on RocksDB.
//!
//! Column families: `log` (big-endian index to entry), `meta` (vote, committed, purged), `snapshot`
//! (what it covers, and the image). All share one write-ahead log, so a batch over several of them is
//! atomic, and a synced write makes every earlier one durable.

use std::path::Path;

use parking_lot::RwLock;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    FlushOptions, IteratorMode, Options, WriteBatch, WriteOptions,
};

use super::{Durability, Key, Store};
use crate::error::StoreError;

const LOG: &str = "log";
const META: &str = "meta";
const SNAPSHOT: &str = "snapshot";

/// Bytes of changes kept in memory, per column family. The log is trimmed after snapshots, so it
/// mostly dies here and never becomes a table file.
const WRITE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of write-ahead log before RocksDB writes out what holds it back.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// RocksDB's own log files that are kept, and the bytes of each.
const INFO_LOGS_MAX: usize = 3;
const INFO_LOG_BYTES_MAX: usize = 1024 * 1024;

/// A key that sorts after every index.
const AFTER_ALL: [u8; 9] = [0xff; 9];

/// A RocksDB database, until it is closed.
pub(crate) struct RocksStore(RwLock<Option<DB>>);

// === impl RocksStore ===

impl RocksStore {
    /// Opens the database in `path`; makes it, and what is missing in it, only if `create`.
    ///
    /// # Errors
    /// It is not there, damaged, incomplete or open in another process.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        let mut options = options();
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        let db = DB::open_cf_descriptors(&options, path, families()).map_err(engine)?;
        Ok(Self(RwLock::new(Some(db))))
    }

    /// Opens the database in `path` for reading: no file with data is written, moved or deleted,
    /// while [`Self::open`] turns the write-ahead log into a table before anything can be checked.
    ///
    /// # Errors
    /// It is not there, damaged or incomplete.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        /// What the last process wrote is still in the write-ahead log.
        const LOG_FILE_IS_ERROR: bool = false;
        let db = DB::open_cf_descriptors_read_only(&options(), path, families(), LOG_FILE_IS_ERROR);
        Ok(Self(RwLock::new(Some(db.map_err(engine)?))))
    }

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Shared with other calls; only closing takes it alone, and waits for them.
        work(self.0.read().as_ref().ok_or(StoreError::Closed)?)
    }

    fn write(
        &self,
        durability: Durability,
        fill: impl FnOnce(&DB, &mut WriteBatch) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            let mut batch = WriteBatch::default();
            fill(db, &mut batch)?;
            let mut options = WriteOptions::default();
            options.set_sync(durability == Durability::Synced);
            db.write_opt(batch, &options).map_err(engine)
        })
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_track_and_verify_wals_in_manifest(true);
    // A torn last record was never acknowledged, but damage before the end must not pass for the
    // end: RocksDB's default would silently drop every commit after it.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options
}

fn families() -> [ColumnFamilyDescriptor; 3] {
    [LOG, META, SNAPSHOT].map(|name| {
        let mut options = Options::default();
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_compression_type(DBCompressionType::None);
        ColumnFamilyDescriptor::new(name, options)
    })
}

impl Store for RocksStore {
    fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(Durability::Synced, |db, batch| {
            let log = family(db, LOG)?;
            for (index, entry) in entries {
                batch.put_cf(log, index.to_be_bytes(), entry);
            }
            Ok(())
        })
    }

    fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.with(|db| {
            let from = start.to_be_bytes();
            let mode = IteratorMode::From(&from, Direction::Forward);
            let mut found = Vec::new();
            let mut bytes: usize = 0;
            for item in db.iterator_cf(family(db, LOG)?, mode) {
                let (key, entry) = item.map_err(engine)?;
                let index = index_of(&key)?;
                if index >= end {
                    break;
                }
                bytes = bytes.saturating_add(entry.len());
                found.push((index, entry.into_vec()));
                if bytes > bytes_max {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn last(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| {
            let mut entries = db.iterator_cf(family(db, LOG)?, IteratorMode::End);
            let last = entries.next().transpose().map_err(engine)?;
            Ok(last.map(|(_, entry)| entry.into_vec()))
        })
    }

    fn truncate(&self, from: u64) -> Result<(), StoreError> {
        self.write(Durability::Synced, |db, batch| {
            batch.delete_range_cf(family(db, LOG)?, &from.to_be_bytes()[..], &AFTER_ALL[..]);
            Ok(())
        })
    }

    fn purge(&self, to: u64, purged: &[u8]) -> Result<(), StoreError> {
        // Not synced: after a crash the entries are there again, and are trimmed again.
        self.write(Durability::Lazy, |db, batch| {
            let after = to.saturating_add(1).to_be_bytes();
            batch.delete_range_cf(family(db, LOG)?, &0u64.to_be_bytes()[..], &after[..]);
            let (name, key) = place(Key::Purged);
            batch.put_cf(family(db, name)?, key, purged);
            Ok(())
        })
    }

    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, StoreError> {
        let (name, key) = place(key);
        self.with(|db| db.get_cf(family(db, name)?, key).map_err(engine))
    }

    fn put(&self, key: Key, value: &[u8], durability: Durability) -> Result<(), StoreError> {
        let (name, key) = place(key);
        self.write(durability, |db, batch| {
            batch.put_cf(family(db, name)?, key, value);
            Ok(())
        })
    }

    fn put_snapshot(&self, meta: &[u8], data: &[u8]) -> Result<(), StoreError> {
        self.write(Durability::Synced, |db, batch| {
            for (key, value) in [(Key::SnapshotMeta, meta), (Key::SnapshotData, data)] {
                let (name, key) = place(key);
                batch.put_cf(family(db, name)?, key, value);
            }
            Ok(())
        })
    }

    fn close(&self) -> Result<(), StoreError> {
        let Some(db) = self.0.write().take() else {
            return Ok(());
        };
        // Table files are checksummed and named in the manifest; so after a clean stop nothing hangs
        // on the write-ahead log.
        let families = [LOG, META, SNAPSHOT].map(|name| family(&db, name));
        let families = families.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        db.flush_cfs_opt(&families, &options).map_err(engine)
    }
}

fn family<'a>(db: &'a DB, name: &'static str) -> Result<&'a ColumnFamily, StoreError> {
    db.cf_handle(name).ok_or(StoreError::Missing { what: name })
}

/// Column family and key of a value.
fn place(key: Key) -> (&'static str, &'static [u8]) {
    match key {
        Key::Vote => (META, b"vote"),
        Key::Committed => (META, b"committed"),
        Key::Purged => (META, b"purged"),
        Key::Promise => (META, b"promise"),
        Key::SnapshotMeta => (SNAPSHOT, b"meta"),
        Key::SnapshotData => (SNAPSHOT, b"data"),
    }
}

fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = <[u8; 8]>::try_from(key);
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::Missing {
            what: "index of a log entry",
        })
}

fn engine(error: rocksdb::Error) -> StoreError {
    StoreError::Engine(error.into_string())
}
