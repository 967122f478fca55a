//! Watches the free space, so that appends are refused before the disk is full to the last byte:
//! the metadata store and internal topics need some to get out of it again.

use std::{path::PathBuf, time::Duration};

use mainstem_env::Env;

/// How long an answer of the file system is believed.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How many written bytes an answer of the file system is believed for.
const CHECK_BYTES: u64 = 16 << 20;

/// Internal topics may go on to this part of the limit.
const INTERNAL_PART: u64 = 4;

/// One shard's view of the free space.
#[derive(Debug)]
pub(crate) struct SpaceGuard {
    dir: PathBuf,
    low_bytes: u64,
    available: u64,
    checked_at: Option<Duration>,
    bytes_since: u64,
}

// === impl SpaceGuard ===

impl SpaceGuard {
    pub(crate) fn new(dir: PathBuf, low_bytes: u64) -> Self {
        Self {
            dir,
            low_bytes,
            available: u64::MAX,
            checked_at: None,
            bytes_since: 0,
        }
    }

    /// Looks at the file system if the last look is too old.
    pub(crate) fn refresh(&mut self, env: &Env, now: Duration) {
        let fresh = self.bytes_since < CHECK_BYTES
            && self
                .checked_at
                .is_some_and(|at| now.saturating_sub(at) < CHECK_INTERVAL);
        if fresh || self.low_bytes == 0 {
            return;
        }
        match env.fs.space(&self.dir) {
            Ok(space) => self.available = space.available,
            Err(error) => {
                // A full disk is still told by the write itself.
                tracing::warn!(%error, dir = %self.dir.display(), "cannot tell the free space");
                self.available = u64::MAX;
            }
        }
        self.checked_at = Some(now);
        self.bytes_since = 0;
    }

    /// Whether an append may be made.
    pub(crate) fn admits(&self, internal: bool) -> bool {
        let limit = if internal {
            self.low_bytes / INTERNAL_PART
        } else {
            self.low_bytes
        };
        self.available >= limit
    }

    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.bytes_since = self.bytes_since.saturating_add(bytes);
    }
}
