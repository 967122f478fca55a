//! Virtual time.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use mainstem_env::{BoxFuture, Clock};
use parking_lot::Mutex;

/// What the wall clock shows at the origin: 2026-01-01 00:00:00 UTC, in milliseconds.
const ORIGIN_WALL_MS: i64 = 1_767_225_600_000;

/// A clock that stands still while anything can run, and jumps to the next timer when nothing can.
/// Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct SimClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// By deadline, then in the order in which they were made.
    timers: BTreeMap<(Duration, u64), Waker>,
    timers_made: u64,
}

struct Sleep {
    clock: SimClock,
    deadline: Duration,
    id: u64,
}

// === impl SimClock ===

impl SimClock {
    /// A clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets time pass, as a call that blocks does: timers that come due wake.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.now += by;
        state.wake_due();
    }

    /// Jumps to the next timer; false if there is none.
    pub(crate) fn advance_to_next_timer(&self) -> bool {
        let mut state = self.state.lock();
        let Some((&(deadline, _), _)) = state.timers.first_key_value() else {
            return false;
        };
        state.now = state.now.max(deadline);
        state.wake_due();
        true
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.state.lock().now
    }

    fn wall_ms(&self) -> i64 {
        let since = i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX);
        ORIGIN_WALL_MS.saturating_add(since)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock();
        state.timers_made += 1;
        Box::pin(Sleep {
            clock: self.clone(),
            deadline: state.now.saturating_add(duration),
            id: state.timers_made,
        })
    }
}

// === impl State ===

impl State {
    fn wake_due(&mut self) {
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > self.now {
                return;
            }
            first.remove().wake();
        }
    }
}

// === impl Sleep ===

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state.lock();
        let key = (self.deadline, self.id);
        if state.now >= self.deadline {
            state.timers.remove(&key);
            return Poll::Ready(());
        }
        state.timers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut state = self.clock.state.lock();
        state.timers.remove(&(self.deadline, self.id));
    }
}
