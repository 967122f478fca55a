//! Watches the free space, so that appends are refused before the disk is full to the last byte:
//! the metadata store and internal topics need some to get out of it again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mainstem_env::Env;
use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::options::LogOptions;

/// How long an answer of the file system is believed.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// How many written bytes an answer of the file system is believed for.
const CHECK_BYTES: u64 = 16 << 20;

/// Internal topics may go on to this part of the limit.
const INTERNAL_PART: u64 = 4;

/// While appends are refused, how long until the next look, should nobody append: the end of it is
/// noticed even if all producers have given up.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two warnings: around the limit it may begin and end often.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Tells the operator of a nearly full disk: once for all shards, which see it at about the same
/// time.
#[derive(Debug)]
pub(crate) struct SpaceAlarm {
    dir: PathBuf,
    low_bytes: u64,
    gauge: IntGauge,
    state: Mutex<AlarmState>,
}

#[derive(Debug, Default)]
struct AlarmState {
    /// How many shards refuse appends.
    low_shards: usize,
    /// A warning was logged, and its end not yet.
    warned: bool,
    warned_at: Option<Duration>,
}

/// One shard's view of the free space.
#[derive(Debug)]
pub(crate) struct SpaceGuard {
    dir: PathBuf,
    low_bytes: u64,
    alarm: Arc<SpaceAlarm>,
    /// Whether the last look found too little.
    low: bool,
    available: u64,
    checked_at: Option<Duration>,
    bytes_since: u64,
}

// === impl SpaceGuard ===

impl SpaceGuard {
    pub(crate) fn new(dir: PathBuf, alarm: Arc<SpaceAlarm>) -> Self {
        Self {
            dir,
            low_bytes: alarm.low_bytes,
            alarm,
            low: false,
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
        let available = match env.fs.space(&self.dir) {
            Ok(space) => Some(space.available),
            Err(error) => {
                // A full disk is still told by the write itself.
                tracing::warn!(%error, dir = %self.dir.display(), "cannot tell the free space");
                None
            }
        };
        self.available = available.unwrap_or(u64::MAX);
        let was_low = std::mem::replace(&mut self.low, self.available < self.low_bytes);
        self.alarm.saw(was_low, self.low, available, now);
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

    /// When to look again although nothing is appended.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let last = self.checked_at.filter(|_| self.low)?;
        Some(last + RECHECK_INTERVAL)
    }

    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.bytes_since = self.bytes_since.saturating_add(bytes);
    }
}

// === impl SpaceAlarm ===

impl SpaceAlarm {
    pub(crate) fn new(options: &LogOptions, gauge: IntGauge) -> Self {
        Self {
            dir: options.dir.clone(),
            low_bytes: options.low_space_bytes,
            gauge,
            state: Mutex::default(),
        }
    }

    /// A shard has looked at the free space: whether it was and is too little for it.
    fn saw(&self, was_low: bool, is_low: bool, free_bytes: Option<u64>, now: Duration) {
        let mut state = self.state.lock();
        match (was_low, is_low) {
            (false, true) => state.low_shards += 1,
            (true, false) => state.low_shards -= 1,
            _ => {}
        }
        let low = state.low_shards > 0;
        self.gauge.set(i64::from(low));
        let (limit_bytes, dir) = (self.low_bytes, self.dir.display());
        let long_ago = |at| now.saturating_sub(at) >= WARNING_INTERVAL;
        if low && !state.warned && state.warned_at.is_none_or(long_ago) {
            state.warned = true;
            state.warned_at = Some(now);
            tracing::warn!(
                free_bytes, limit_bytes, %dir,
                "the disk is nearly full: appends are refused until as much as the limit is free"
            );
        } else if !low && state.warned {
            state.warned = false;
            tracing::info!(
                free_bytes, limit_bytes, %dir,
                "there is space on the disk again: appends are no longer refused"
            );
        }
    }
}
