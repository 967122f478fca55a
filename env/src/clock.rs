//! Clocks and timers.

use std::time::Duration;

use crate::BoxFuture;

/// A monotonic clock, a wall clock and timers.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary origin; never goes back.
    fn now(&self) -> Duration;
    /// Milliseconds since the Unix epoch; may jump.
    fn wall_ms(&self) -> i64;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The operating system's clocks and tokio's timers.
#[derive(Debug)]
pub struct RealClock {
    origin: std::time::Instant,
}

// === impl RealClock ===

impl RealClock {
    /// A clock whose origin is now.
    #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
    pub fn new() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
    fn wall_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            })
    }

    #[expect(clippy::disallowed_methods, reason = "this is the injected timer")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
