//! Tasks on one thread, in an order that the seed decides.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
};

use mainstem_env::{BoxFuture, Tasks};
use parking_lot::Mutex;

use crate::Dice;

/// A task that may run is passed over once in so many times.
const PASSED_OVER_ONE_IN: u64 = 4;

/// The tasks of one simulated process, on the current runtime.
///
/// Before a task goes on, others may be let go first, as the seed decides; blocking work is such a
/// task, too. Clones are the same process.
#[derive(Debug, Clone)]
pub struct SimTasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dice: Mutex<Dice>,
    ended: AtomicBool,
    /// While it is stopped: the tasks that would go on.
    stopped: Mutex<Option<Vec<Waker>>>,
}

/// Lets others go first now and then; stops when its process has ended.
struct Shuffled {
    task: Option<BoxFuture<'static, ()>>,
    shared: Arc<Shared>,
}

// === impl SimTasks ===

impl SimTasks {
    /// Tasks of a new process, in the order of these dice.
    pub fn new(dice: Dice) -> Self {
        let shared = Shared {
            dice: Mutex::new(dice),
            ended: AtomicBool::new(false),
            stopped: Mutex::new(None),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Ends the process: none of its tasks goes on.
    pub fn end(&self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.resume();
    }

    /// Stops the process as SIGSTOP does: none of its tasks goes on until it is resumed.
    pub fn pause(&self) {
        self.shared.stopped.lock().get_or_insert_default();
    }

    /// Lets it go on; nothing happens if it was not stopped.
    pub fn resume(&self) {
        let waiting = self.shared.stopped.lock().take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Tasks for SimTasks {
    #[expect(clippy::disallowed_methods, reason = "this is an injected spawner")]
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        tokio::spawn(Shuffled {
            task: Some(future),
            shared: self.shared.clone(),
        });
    }

    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        self.spawn(name, Box::pin(async move { work() }));
    }
}

// === impl Shuffled ===

impl Future for Shuffled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.ended.load(Ordering::Relaxed) {
            self.task = None;
        }
        if let Some(waiting) = &mut *self.shared.stopped.lock() {
            waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        let passed_over = self.shared.dice.lock().one_in(PASSED_OVER_ONE_IN);
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        if passed_over {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        task.as_mut().poll(context)
    }
}
