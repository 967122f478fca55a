//! Virtual time, and the clocks of hosts, which are not exact.

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

/// Parts.
const MILLION: i32 = 1_000_000;

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

/// The clock of one host: it may run fast or slow, and people may set it. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct HostClock {
    world: SimClock,
    skew: Arc<Mutex<Skew>>,
}

/// How a host's clock differs from the world's.
#[derive(Debug, Default)]
struct Skew {
    /// Its time was `local` when the world's was `since`.
    since: Duration,
    local: Duration,
    /// Parts per million that it runs faster.
    ppm: i32,
    /// What its wall clock shows more, in milliseconds.
    wall_ms: i64,
}

/// Until the host's clock shows `deadline`.
struct HostSleep {
    clock: HostClock,
    deadline: Duration,
    sleep: BoxFuture<'static, ()>,
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
        let due = {
            let mut state = self.state.lock();
            state.now += by;
            state.take_due()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// Wakes `waker` at `deadline`, once.
    pub(crate) fn wake_at(&self, deadline: Duration, waker: Waker) {
        let mut state = self.state.lock();
        state.timers_made += 1;
        let id = state.timers_made;
        state.timers.insert((deadline, id), waker);
    }

    /// Jumps to the next timer; false if there is none.
    pub(crate) fn advance_to_next_timer(&self) -> bool {
        let due = {
            let mut state = self.state.lock();
            let Some((&(deadline, _), _)) = state.timers.first_key_value() else {
                return false;
            };
            state.now = state.now.max(deadline);
            state.take_due()
        };
        // Without the lock: what is woken may look at the clock.
        due.into_iter().for_each(Waker::wake);
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

// === impl HostClock ===

impl HostClock {
    /// A clock that agrees with the world's.
    pub(crate) fn new(world: SimClock) -> Self {
        Self {
            world,
            skew: Arc::default(),
        }
    }

    /// Lets it run faster by so many parts per million from now on; slower if that is negative.
    ///
    /// # Panics
    /// At -1,000,000 and below: it would stand still or go back.
    pub fn set_rate(&self, ppm: i32) {
        assert!(ppm > -MILLION, "a clock goes on");
        let now = self.world.now();
        let mut skew = self.skew.lock();
        skew.local = skew.at(now);
        skew.since = now;
        skew.ppm = ppm;
    }

    /// Sets the wall clock forward by so many milliseconds, or back if that is negative.
    pub fn jump(&self, by_ms: i64) {
        let mut skew = self.skew.lock();
        skew.wall_ms = skew.wall_ms.saturating_add(by_ms);
    }

    /// The world's time until this clock shows `deadline`, if it goes on as it does.
    fn until(&self, deadline: Duration) -> Duration {
        let now = self.world.now();
        let skew = self.skew.lock();
        let left = deadline.saturating_sub(skew.at(now));
        scaled(left, MILLION, MILLION + skew.ppm)
    }
}

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.skew.lock().at(self.world.now())
    }

    fn wall_ms(&self) -> i64 {
        let skew = self.skew.lock();
        let since = skew.at(self.world.now()).as_millis();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        ORIGIN_WALL_MS
            .saturating_add(since)
            .saturating_add(skew.wall_ms)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.now().saturating_add(duration);
        Box::pin(HostSleep {
            clock: self.clone(),
            deadline,
            sleep: self.world.sleep(self.until(deadline)),
        })
    }
}

// === impl Skew ===

impl Skew {
    fn at(&self, world: Duration) -> Duration {
        let passed = world.saturating_sub(self.since);
        self.local
            .saturating_add(scaled(passed, MILLION + self.ppm, MILLION))
    }
}

/// `duration` times `by` / `of`, rounded up.
fn scaled(duration: Duration, by: i32, of: i32) -> Duration {
    if by == of {
        return duration;
    }
    let (by, of) = (u128::from(by.unsigned_abs()), u128::from(of.unsigned_abs()));
    let nanos = duration.as_nanos().saturating_mul(by).div_ceil(of);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

// === impl HostSleep ===

impl Future for HostSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // The clock may have been slowed down meanwhile.
            let left = self.clock.until(self.deadline);
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.sleep = self.clock.world.sleep(left);
        }
    }
}

// === impl State ===

impl State {
    fn take_due(&mut self) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            due.push(first.remove());
        }
        due
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
