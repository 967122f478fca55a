//! A bound on the bytes per second of what nobody waits for.

use std::time::Duration;

use mainstem_env::Env;
use parking_lot::Mutex;

/// How far ahead of its rate the throttle lets a burst go.
const BURST: Duration = Duration::from_millis(100);

/// Bounds the bytes per second of one kind of work: reads for followers that are not in sync, copies.
pub(crate) struct Throttle {
    env: Env,
    /// Bytes per second.
    rate: u64,
    /// When what was taken so far will have been due.
    due: Mutex<Duration>,
}

// === impl Throttle ===

impl Throttle {
    pub(crate) fn new(env: &Env, rate: u64) -> Self {
        Self {
            env: env.clone(),
            rate: rate.max(1),
            due: Mutex::new(env.now()),
        }
    }

    /// Takes `bytes`, which were read or are about to be; waits until that many more may be.
    pub(crate) async fn take(&self, bytes: usize) {
        let wait = {
            let now = self.env.now();
            let mut due = self.due.lock();
            let cost = bytes as f64 / self.rate as f64;
            *due = (*due).max(now) + Duration::from_secs_f64(cost);
            due.saturating_sub(now + BURST)
        };
        if wait > Duration::ZERO {
            self.env.sleep(wait).await;
        }
    }
}
