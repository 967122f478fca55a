//! openraft's log storage over our store.

use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mainstem_env::Env;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{Entry, LogId, StorageResult, Types, Use, Vote, from_bytes, to_bytes};
use crate::{
    error::StoreError,
    store::{Durability, Key, Store, on_store},
};

/// Bytes of entries after which one read for replication ends.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// openraft's log storage; clones share the store and serve as its readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    env: Env,
    store: Arc<dyn Store>,
    /// Index of the last entry known to be committed, for health.
    committed: Arc<AtomicU64>,
}

// === impl LogStore ===

impl LogStore {
    pub(crate) fn new(env: Env, store: Arc<dyn Store>, committed: Arc<AtomicU64>) -> Self {
        Self {
            env,
            store,
            committed,
        }
    }

    async fn on_store<T: Send + 'static>(
        &self,
        doing: Use,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> StorageResult<T> {
        let done = on_store(&self.env, &self.store, work).await;
        done.map_err(|error| doing.failed(error))
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> StorageResult<Vec<Entry>> {
        self.on_store(Use::ReadLog, move |store| {
            let entries = store.read(start, end, bytes_max)?;
            entries
                .iter()
                .map(|(_, bytes)| from_bytes("log entry", bytes))
                .collect()
        })
        .await
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> StorageResult<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> StorageResult<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> StorageResult<LogState<Types>> {
        self.on_store(Use::ReadLog, |store| {
            let last_purged_log_id: Option<LogId> = get(store, Key::Purged, "purged log id")?;
            let last = store.last()?;
            let last = last
                .map(|bytes| from_bytes::<Entry>("log entry", &bytes))
                .transpose()?;
            let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState {
                last_purged_log_id,
                last_log_id,
            })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> StorageResult<()> {
        let vote = to_bytes("vote", vote).map_err(|error| Use::WriteVote.failed(error))?;
        self.on_store(Use::WriteVote, move |store| {
            store.put(Key::Vote, &vote, Durability::Synced)
        })
        .await
    }

    async fn read_vote(&mut self) -> StorageResult<Option<Vote>> {
        self.on_store(Use::ReadVote, |store| get(store, Key::Vote, "vote"))
            .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> StorageResult<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.committed.fetch_max(committed.index, Ordering::Relaxed);
        let bytes = to_bytes("committed log id", &committed)
            .map_err(|error| Use::WriteLog.failed(error))?;
        // Only spares a restart the wait for the first commit; the quorum's logs are the truth.
        self.on_store(Use::WriteLog, move |store| {
            store.put(Key::Committed, &bytes, Durability::Lazy)
        })
        .await
    }

    async fn read_committed(&mut self) -> StorageResult<Option<LogId>> {
        self.on_store(Use::ReadLog, |store| {
            get(store, Key::Committed, "committed log id")
        })
        .await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> StorageResult<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded: Result<Vec<(u64, Vec<u8>)>, StoreError> = entries
            .into_iter()
            .map(|entry| Ok((entry.log_id.index, to_bytes("log entry", &entry)?)))
            .collect();
        let encoded = encoded.map_err(|error| Use::WriteLog.failed(error))?;
        // openraft waits for the callback before it goes on, so there is nothing to overlap with.
        self.on_store(Use::WriteLog, move |store| store.append(&encoded))
            .await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> StorageResult<()> {
        self.on_store(Use::WriteLog, move |store| store.truncate(log_id.index))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> StorageResult<()> {
        let purged =
            to_bytes("purged log id", &log_id).map_err(|error| Use::WriteLog.failed(error))?;
        self.on_store(Use::WriteLog, move |store| {
            store.purge(log_id.index, &purged)
        })
        .await
    }
}

/// A stored value, decoded.
pub(super) fn get<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    key: Key,
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    store
        .get(key)?
        .map(|bytes| from_bytes(what, &bytes))
        .transpose()
}
