//! Whether a store holds together, before Raft trusts it.

use super::{Entry, LogId, Vote, from_bytes, log_store::get, state_machine::State};
use crate::{
    error::StoreError,
    store::{Key, Store},
};

/// Bytes of entries read at a time.
const CHECK_BYTES: usize = 4 * 1024 * 1024;

/// Whether nothing was ever voted in `store`, and so nothing committed.
///
/// # Errors
/// A value cannot be read, the log has a hole, or it does not reach what was committed or trimmed:
/// the store has lost something.
pub(crate) fn check(store: &dyn Store) -> Result<bool, StoreError> {
    let vote: Option<Vote> = get(store, Key::Vote, "vote")?;
    let purged: Option<LogId> = get(store, Key::Purged, "purged log id")?;
    let committed: Option<LogId> = get(store, Key::Committed, "committed log id")?;
    let snapshot = State::load(store)?;
    // Only what a snapshot covers is trimmed.
    if snapshot.applied < purged {
        return Err(StoreError::Missing {
            what: "snapshot of the trimmed log",
        });
    }
    let mut expected = purged.map_or(0, |id| id.index.saturating_add(1));
    let mut last = purged;
    loop {
        let entries = store.read(expected, u64::MAX, CHECK_BYTES)?;
        if entries.is_empty() {
            break;
        }
        for (index, bytes) in entries {
            let entry: Entry = from_bytes("log entry", &bytes)?;
            if index != expected || entry.log_id.index != index {
                return Err(StoreError::Hole { index: expected });
            }
            last = Some(entry.log_id);
            expected = expected.saturating_add(1);
        }
    }
    let reached = last.max(snapshot.applied);
    if let Some(missing) = committed.filter(|committed| reached < Some(*committed)) {
        return Err(StoreError::Hole {
            index: missing.index,
        });
    }
    // Every term begins with a vote; only the entry that makes the quorum has term 0 and none.
    let (term, voted) = (
        reached.map_or(0, |id| id.leader_id.term),
        vote.map(|v| v.leader_id.term),
    );
    if term > voted.unwrap_or(0) {
        return Err(StoreError::Missing { what: "vote" });
    }
    Ok(vote.is_none())
}
