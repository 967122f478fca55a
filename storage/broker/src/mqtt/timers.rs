//! Will delays and session expiry. One task sleeps until the earliest of all timers; a session that
//! comes back takes its own out, so there are never more than two for each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mainstem_env::Env;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{hub::Hub, session::SessionEntry};

/// A running timer: when it runs out, and a number that tells it from others.
pub(crate) type TimerKey = (Duration, u64);

/// The longest sleep: a timer that is further away is looked at again.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerKind {
    /// The will's delay.
    Will,
    /// The session.
    Expiry,
}

struct Timer {
    entry: Arc<SessionEntry>,
    epoch: u32,
    kind: TimerKind,
}

/// All timers.
pub(crate) struct Timers {
    env: Env,
    running: Mutex<(u64, BTreeMap<TimerKey, Timer>)>,
    changed: Notify,
}

// === impl Timers ===

impl Timers {
    pub(crate) fn new(env: Env) -> Self {
        Self {
            env,
            running: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Starts a timer for a session and the owner epoch that it is valid for.
    pub(crate) fn start(
        &self,
        after: Duration,
        (entry, epoch): (Arc<SessionEntry>, u32),
        kind: TimerKind,
    ) -> TimerKey {
        let due = self.env.now().saturating_add(after);
        let mut running = self.running.lock();
        running.0 += 1;
        let key = (due, running.0);
        running.1.insert(key, Timer { entry, epoch, kind });
        drop(running);
        self.changed.notify_one();
        key
    }

    /// Takes timers out.
    pub(crate) fn cancel(&self, keys: &mut Vec<TimerKey>) {
        let mut running = self.running.lock();
        for key in std::mem::take(keys) {
            running.1.remove(&key);
        }
    }

    fn take_due(&self) -> Result<Timer, Duration> {
        let now = self.env.now();
        let mut running = self.running.lock();
        match running.1.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            Some(first) => Err(first.key().0.saturating_sub(now).min(SLEEP_MAX)),
            None => Err(SLEEP_MAX),
        }
    }
}

impl Hub {
    /// Runs timers until the node ends.
    pub(crate) async fn run_timers(self: Arc<Self>) {
        loop {
            match self.timers.take_due() {
                Ok(Timer { entry, epoch, kind }) => self.timer_fired(entry, epoch, kind).await,
                Err(wait) => tokio::select! {
                    biased;
                    () = self.core.stop.cancelled() => return,
                    () = self.core.env.sleep(wait) => {}
                    () = self.timers.changed.notified() => {}
                },
            }
            if self.core.stop.is_cancelled() {
                return;
            }
        }
    }
}
