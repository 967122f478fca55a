//! The clock of a connection: keep alive, write stall, drain. One timer, which is set anew only when
//! it has fired or a deadline comes before it: activity costs nothing but a time stamp.

use std::{
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use mainstem_env::{BoxFuture, Env};

/// How long an ending node waits for the broker's answers, so that what was published can still be
/// acknowledged.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Which deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    KeepAlive,
    WriteStall,
    Drain,
}

/// Times are those of the injected monotonic clock.
pub(crate) struct Deadlines {
    /// The time of this pass of the loop.
    pub(crate) now: Duration,
    /// One and a half keep alive periods, if there is a keep alive.
    keep_alive: Option<Duration>,
    last_packet: Duration,
    stall: Duration,
    /// Since when the stream has taken nothing, if something waits for it.
    stalled_since: Option<Duration>,
    drain_until: Option<Duration>,
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

// === impl Deadlines ===

impl Deadlines {
    pub(crate) fn new(now: Duration, keep_alive: Option<Duration>, stall: Duration) -> Self {
        Self {
            now,
            keep_alive,
            last_packet: now,
            stall,
            stalled_since: None,
            drain_until: None,
            timer: None,
        }
    }

    /// A packet came, or it is our fault that none did.
    pub(crate) fn heard(&mut self) {
        self.last_packet = self.now;
    }

    /// What a write did: whether the stream took something, and whether something is left.
    pub(crate) fn wrote(&mut self, took: bool, left: bool) {
        if !left {
            self.stalled_since = None;
        } else if took || self.stalled_since.is_none() {
            self.stalled_since = Some(self.now);
        }
    }

    /// The node is ending.
    pub(crate) fn drain(&mut self) {
        self.drain_until.get_or_insert(self.now + DRAIN_MAX);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    fn earliest(&self) -> Option<(Duration, Passed)> {
        let keep_alive = self.keep_alive.map(|period| self.last_packet + period);
        let stall = self.stalled_since.map(|since| since + self.stall);
        [
            keep_alive.map(|at| (at, Passed::KeepAlive)),
            stall.map(|at| (at, Passed::WriteStall)),
            self.drain_until.map(|at| (at, Passed::Drain)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// The deadline that has passed; else the task is woken when the next one does.
    pub(crate) fn poll(&mut self, env: &Env, task: &mut TaskContext<'_>) -> Option<Passed> {
        loop {
            let Some((at, passed)) = self.earliest() else {
                self.timer = None;
                return None;
            };
            if self.now >= at {
                return Some(passed);
            }
            if self.timer.as_ref().is_none_or(|(set, _)| *set > at) {
                self.timer = Some((at, env.sleep(at - self.now)));
            }
            let (_, timer) = self.timer.as_mut()?;
            match timer.as_mut().poll(task) {
                Poll::Pending => return None,
                Poll::Ready(()) => {
                    self.timer = None;
                    self.now = env.now();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use mainstem_env::Clock;
    use parking_lot::Mutex;

    use super::*;

    /// A clock that stands still, and whose timers fire when it is moved past them.
    #[derive(Default)]
    struct Manual {
        now: Arc<Mutex<Duration>>,
        timers: Mutex<usize>,
    }

    impl Clock for Manual {
        fn now(&self) -> Duration {
            *self.now.lock()
        }

        fn wall_ms(&self) -> i64 {
            0
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            *self.timers.lock() += 1;
            let (now, until) = (self.now.clone(), self.now() + duration);
            Box::pin(std::future::poll_fn(move |_| {
                if *now.lock() >= until {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }))
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn world() -> (Env, Arc<Manual>) {
        let clock = Arc::new(Manual::default());
        let env = Env {
            clock: clock.clone(),
            ..Env::real()
        };
        (env, clock)
    }

    fn poll_at(deadlines: &mut Deadlines, env: &Env, clock: &Manual, at: u64) -> Option<Passed> {
        *clock.now.lock() = seconds(at);
        deadlines.now = env.now();
        deadlines.poll(env, &mut TaskContext::from_waker(Waker::noop()))
    }

    #[test]
    fn activity_moves_the_keep_alive_without_a_new_timer() {
        let (env, clock) = world();
        let mut deadlines = Deadlines::new(seconds(0), Some(seconds(90)), seconds(30));
        for at in 0..80 {
            assert_eq!(poll_at(&mut deadlines, &env, &clock, at), None);
            deadlines.heard();
        }
        assert_eq!(*clock.timers.lock(), 1);
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 168), None);
        assert_eq!(*clock.timers.lock(), 2);
        assert_eq!(
            poll_at(&mut deadlines, &env, &clock, 169),
            Some(Passed::KeepAlive)
        );
    }

    #[test]
    fn a_stall_counts_from_the_last_byte_that_was_taken() {
        let (env, clock) = world();
        let mut deadlines = Deadlines::new(seconds(0), None, seconds(30));
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 1000), None);
        deadlines.wrote(false, true);
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 1020), None);
        deadlines.wrote(true, true);
        deadlines.wrote(false, true);
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 1049), None);
        assert_eq!(
            poll_at(&mut deadlines, &env, &clock, 1050),
            Some(Passed::WriteStall)
        );
        deadlines.wrote(true, false);
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 9000), None);
        assert!(deadlines.timer.is_none(), "an idle connection has no timer");
    }

    #[test]
    fn a_drain_has_an_end() {
        let (env, clock) = world();
        let mut deadlines = Deadlines::new(seconds(5), None, seconds(30));
        deadlines.drain();
        assert!(deadlines.is_draining());
        assert_eq!(poll_at(&mut deadlines, &env, &clock, 6), None);
        deadlines.drain();
        assert_eq!(
            poll_at(&mut deadlines, &env, &clock, 7),
            Some(Passed::Drain)
        );
    }
}
