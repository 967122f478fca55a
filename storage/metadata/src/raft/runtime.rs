//! openraft's timers, tasks and randomness, taken from the injected environment.
//!
//! openraft asks its runtime by functions without a receiver, so the environment is that of the task
//! in which they are called: [`EnvRaft`] names it for every call, and every task that openraft starts
//! inherits it. In the binary that is the operating system's; in a simulation each node has its own.

use std::{
    fmt::{self, Debug, Formatter},
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use mainstem_env::{BoxFuture, Elapsed, Env};
use openraft::{AsyncRuntime, Raft, async_runtime::AsyncOneshotSendExt, error::Fatal};
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    task::futures::TaskLocalFuture,
};

use super::{Metrics, NodeId, Types};

tokio::task_local! {
    /// The environment of the task that runs.
    static ENV: Env;
}

/// What openraft runs on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvRuntime;

/// Time since the origin of the environment's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EnvInstant(Duration);

/// A sleep of the environment.
pub(crate) struct Sleep(
    // A boxed future cannot be shared between threads, which openraft asks for; it is only ever
    // polled, and so the lock is never taken.
    Mutex<BoxFuture<'static, ()>>,
);

/// A future with a limit.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    limit: Sleep,
}

/// A started task; it goes on when this is dropped.
pub(crate) struct Started<T>(oneshot::Receiver<T>);

/// A task ended without a result: it panicked, or its runtime has ended.
#[derive(Debug, thiserror::Error)]
#[error("the task ended without a result")]
pub(crate) struct Lost;

/// The environment's randomness.
pub(crate) struct EnvRng(Env);

/// The sending half of a channel for one value.
pub(crate) struct OneshotSender<T>(oneshot::Sender<T>);

/// A node of openraft whose every call runs within its environment: also its answers to failures
/// take timers.
pub(crate) struct EnvRaft {
    env: Env,
    raft: Raft<Types>,
}

/// Runs `future`, and whatever openraft starts in it, in `env`.
fn within<F: Future>(env: &Env, future: F) -> TaskLocalFuture<Env, F> {
    ENV.scope(env.clone(), future)
}

/// Runs `work`, which is not a future, in `env`.
#[cfg(test)]
pub(crate) fn within_sync<T>(env: &Env, work: impl FnOnce() -> T) -> T {
    ENV.sync_scope(env.clone(), work)
}

fn current<T>(use_env: impl FnOnce(&Env) -> T) -> T {
    // Real time by default would go unnoticed in a simulation.
    ENV.try_with(use_env)
        .expect("openraft is started within an environment")
}

// === impl EnvRaft ===

impl EnvRaft {
    /// Makes a node; `making` is a call of [`Raft::new`].
    pub(crate) async fn start(
        env: &Env,
        making: impl Future<Output = Result<Raft<Types>, Fatal<NodeId>>>,
    ) -> Result<Self, Fatal<NodeId>> {
        Ok(Self {
            env: env.clone(),
            raft: within(env, making).await?,
        })
    }

    /// Calls the node.
    pub(crate) fn call<'a, F: Future + 'a>(
        &'a self,
        call: impl FnOnce(&'a Raft<Types>) -> F,
    ) -> TaskLocalFuture<Env, F> {
        within(&self.env, call(&self.raft))
    }

    /// Has the node seek votes.
    pub(crate) async fn elect(&self) -> Result<(), Fatal<NodeId>> {
        self.call(async |raft| raft.trigger().elect().await).await
    }

    /// Has the node send an append to every other, or its next one where one is not answered yet.
    pub(crate) async fn heartbeat(&self) -> Result<(), Fatal<NodeId>> {
        self.call(async |raft| raft.trigger().heartbeat().await)
            .await
    }

    /// Has the node's loop do something, after all that it was told before.
    pub(crate) fn in_loop(&self, work: impl FnOnce() + Send + 'static) {
        self.raft.external_request(move |_| work());
    }

    /// What the node tells of itself; needs no environment.
    pub(crate) fn metrics(&self) -> watch::Receiver<Metrics> {
        self.raft.metrics()
    }
}

// === impl EnvRuntime ===

impl AsyncRuntime for EnvRuntime {
    type JoinError = Lost;
    type JoinHandle<T: Send + 'static> = Started<T>;
    type Sleep = Sleep;
    type Instant = EnvInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = EnvRng;
    type OneshotSender<T: Send> = OneshotSender<T>;
    type OneshotReceiverError = oneshot::error::RecvError;
    type OneshotReceiver<T: Send> = oneshot::Receiver<T>;

    fn spawn<T>(future: T) -> Started<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        current(|env| Started(env.start("raft", within(env, future))))
    }

    fn sleep(duration: Duration) -> Sleep {
        current(|env| Sleep(Mutex::new(env.sleep(duration))))
    }

    fn sleep_until(deadline: EnvInstant) -> Sleep {
        current(|env| {
            let left = deadline.0.saturating_sub(env.now());
            Sleep(Mutex::new(env.sleep(left)))
        })
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            limit: Self::sleep(duration),
        }
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: EnvInstant, future: F) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            limit: Self::sleep_until(deadline),
        }
    }

    fn is_panic(_lost: &Lost) -> bool {
        // No task is ever cancelled by itself; with the runtime gone nobody is left to ask.
        true
    }

    fn thread_rng() -> EnvRng {
        current(|env| EnvRng(env.clone()))
    }

    fn oneshot<T: Send>() -> (OneshotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

// === impl EnvInstant ===

impl openraft::Instant for EnvInstant {
    fn now() -> Self {
        current(|env| Self(env.now()))
    }
}

impl Add<Duration> for EnvInstant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

impl AddAssign<Duration> for EnvInstant {
    fn add_assign(&mut self, later: Duration) {
        *self = *self + later;
    }
}

impl Sub<Duration> for EnvInstant {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(earlier))
    }
}

impl SubAssign<Duration> for EnvInstant {
    fn sub_assign(&mut self, earlier: Duration) {
        *self = *self - earlier;
    }
}

impl Sub for EnvInstant {
    type Output = Duration;

    /// Zero if `other` is later, as of the standard library's instants.
    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}

// === impl Sleep ===

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(context)
    }
}

// === impl Timeout ===

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.limit)
            .poll(context)
            .map(|()| Err(Elapsed))
    }
}

// === impl Started ===

impl<T> Future for Started<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| result.map_err(|_| Lost))
    }
}

// === impl EnvRng ===

impl rand_core::RngCore for EnvRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.random.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

// === impl OneshotSender ===

impl<T: Send> AsyncOneshotSendExt<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl<T> Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotSender")
    }
}
