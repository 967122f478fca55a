//! A clock that goes on when it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstem_env::{BoxFuture, Clock};
use tokio::sync::Notify;

#[derive(Default)]
struct Inner {
    now_ms: AtomicU64,
    moved: Notify,
}

/// A clock that goes on when it is told to. Shared, since a sleeper outlives the call.
#[derive(Clone, Default)]
pub(crate) struct SharedClock(Arc<Inner>);

impl SharedClock {
    pub(crate) fn advance(&self, ms: u64) {
        self.0.now_ms.fetch_add(ms, Ordering::SeqCst);
        self.0.moved.notify_waiters();
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now_ms.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        1
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let until = self.now() + duration;
        Box::pin(async move {
            loop {
                let moved = clock.0.moved.notified();
                if clock.now() >= until {
                    return;
                }
                moved.await;
            }
        })
    }
}
