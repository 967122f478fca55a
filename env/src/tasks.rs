//! The spawning of tasks.

use std::io;

use crate::BoxFuture;

/// Starts asynchronous tasks and blocking work.
pub trait Tasks: Send + Sync {
    /// Starts an asynchronous task.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Runs blocking work where it stalls no asynchronous task.
    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>);
    /// Starts a long-lived task that may block: it has an OS thread of its own, which ends with it,
    /// so that it stalls nobody and nobody stalls it. `number` tells those of one name apart.
    ///
    /// Where there are no threads to have (simulation) it is a task like others.
    ///
    /// # Errors
    /// The operating system gives no thread; the task was not started.
    fn dedicated(
        &self,
        name: &'static str,
        _number: usize,
        future: BoxFuture<'static, ()>,
    ) -> io::Result<()> {
        self.spawn(name, future);
        Ok(())
    }
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

    fn dedicated(
        &self,
        name: &'static str,
        number: usize,
        future: BoxFuture<'static, ()>,
    ) -> io::Result<()> {
        // Its own timers, and its own pool for what it hands off as blocking work.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .thread_name(name)
            .build()?;
        std::thread::Builder::new()
            .name(format!("{name}-{number}"))
            .spawn(move || runtime.block_on(future))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn dedicated_task_that_blocks_stalls_no_other_and_its_thread_has_timers_and_a_pool() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let env = crate::Env::real();
            let inner = env.clone();
            let task = async move {
                held.recv().expect("released");
                inner.sleep(std::time::Duration::ZERO).await;
                let worked = inner.blocking("test", || 7).await;
                sender.send(worked).expect("awaited");
            };
            env.tasks
                .dedicated("test", 0, Box::pin(task))
                .expect("thread");
            // This task goes on although that one blocks; on the same thread it would not.
            release.send(()).expect("it waits");
            assert_eq!(receiver.await.expect("it ends"), Some(7));
        });
    }
}
