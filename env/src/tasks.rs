//! The spawning of tasks.

use crate::BoxFuture;

/// Starts asynchronous tasks and blocking work.
pub trait Tasks: Send + Sync {
    /// Starts an asynchronous task.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Runs blocking work where it stalls no asynchronous task.
    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>);
}

/// The current tokio runtime.
#[derive(Debug, Default)]
pub struct RealTasks;

// === impl RealTasks ===

impl Tasks for RealTasks {
    #[expect(clippy::disallowed_methods, reason = "this is the injected spawner")]
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the injected spawner")]
    fn blocking(&self, _name: &'static str, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}
