//! What a node takes from the outside world: file system, network, clock, timers, randomness and
//! the spawning of tasks.
//!
//! Everything above this crate reaches the world only through an [`Env`], so that the very crates
//! of the binary can run in a deterministic simulation that replaces it. The real implementations
//! ([`Env::real`]) live here too; simulated ones live with the tests that need them. No policy, no
//! protocol and no storage logic may live here.
//!
//! All instants are a [`Duration`] since an arbitrary origin ([`Clock::now`]); wall-clock time is
//! used only for what people see: record timestamps and expiry ([`Clock::wall_ms`]).

mod clock;
mod fs;
mod memfs;
mod net;
mod random;
mod tasks;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub use clock::{Clock, RealClock};
pub use fs::{DirEntry, DirLock, File, Fs, OpenMode, RealFs, Space};
pub use memfs::MemFs;
pub use net::{Listener, Net, RealNet, Stream};
pub use random::{Random, RealRandom, SeededRandom};
pub use tasks::{RealTasks, Tasks};

/// A boxed future, as object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The outside world of one node. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Monotonic and wall clock, and timers.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// Listening and connecting.
    pub net: Arc<dyn Net>,
    /// Asynchronous tasks and blocking work.
    pub tasks: Arc<dyn Tasks>,
}

/// Why [`Env::timeout`] gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

// === impl Env ===

impl Env {
    /// The real world: the operating system and the current tokio runtime.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(RealClock::new()),
            random: Arc::new(RealRandom),
            fs: Arc::new(RealFs),
            net: Arc::new(RealNet),
            tasks: Arc::new(RealTasks),
        }
    }

    /// The same world with another file system (tests, fault injection).
    pub fn with_fs(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// Time since an arbitrary origin; never goes back.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Milliseconds since the Unix epoch; may jump.
    pub fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }

    /// Runs `future` for at most `duration`.
    pub async fn timeout<F: Future>(
        &self,
        duration: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let sleep = self.clock.sleep(duration);
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = sleep => Err(Elapsed),
        }
    }

    /// Starts an asynchronous task. `name` is for people who look at the process.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, Box::pin(future));
    }

    /// Starts a task and gives its result to whoever awaits it; an error only if the runtime
    /// dropped the task.
    pub fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::sync::oneshot::Receiver<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.spawn(name, async move {
            // The receiver may be gone: nobody wants the value.
            let _ = sender.send(future.await);
        });
        receiver
    }

    /// Runs blocking work (fsync, directory operations, cold reads) off the async workers.
    ///
    /// Returns `None` only when the runtime is shutting down and dropped the work.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.tasks.blocking(
            name,
            Box::new(move || {
                // The receiver may be gone: the caller was cancelled and nobody wants the value.
                let _ = sender.send(work());
            }),
        );
        receiver.await.ok()
    }

    /// 64 random bits.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// 16 random bytes shaped as a version 4 UUID (RFC 9562).
    pub fn random_uuid(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        bytes
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}
