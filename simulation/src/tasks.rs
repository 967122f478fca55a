//! Tasks on one thread, in an order that the seed decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug, Formatter},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use mainstem_env::{BoxFuture, Tasks};
use parking_lot::Mutex;

use crate::Dice;

/// A process of which a task may run is passed over once in so many times.
const PASSED_OVER_ONE_IN: u64 = 4;

/// The tasks of one simulated process, on the current runtime.
///
/// Which of those that may run goes on, and whether tasks of other processes do first, the seed
/// decides; blocking work is such a task, too. In which order they were woken does not matter: tokio
/// wakes those that wait for one `watch` in an order that no seed decides. Clones are the same process.
#[derive(Debug, Clone)]
pub struct SimTasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

struct State {
    dice: Dice,
    ended: bool,
    stopped: bool,
    /// Tasks that may run; they are numbered as they were started.
    ready: BTreeSet<u64>,
    started: u64,
    /// Tasks that the runner has not taken yet.
    begun: Vec<(u64, BoxFuture<'static, ()>)>,
    runner: Runs,
}

/// Who lets the tasks go on.
enum Runs {
    /// Nothing was started yet.
    NotYet,
    /// Its waker, once it has run.
    Yes(Option<Waker>),
    /// The runtime is gone, and the tasks with it.
    NoMore,
}

/// Lets one task go on each time that it runs. It is one task of the runtime, and owns those of the
/// process, so that they end with the runtime whoever still holds wakers.
struct Runner {
    shared: Arc<Shared>,
    tasks: BTreeMap<u64, Task>,
}

struct Task {
    future: BoxFuture<'static, ()>,
    waker: Waker,
}

/// Wakes a task.
struct TaskWaker {
    id: u64,
    shared: Arc<Shared>,
}

// === impl SimTasks ===

impl SimTasks {
    /// Tasks of a new process, in the order of these dice.
    pub fn new(dice: Dice) -> Self {
        let state = State {
            dice,
            ended: false,
            stopped: false,
            ready: BTreeSet::new(),
            started: 0,
            begun: Vec::new(),
            runner: Runs::NotYet,
        };
        Self {
            shared: Arc::new(Shared(Mutex::new(state))),
        }
    }

    /// Ends the process: none of its tasks goes on.
    pub fn end(&self) {
        self.shared.0.lock().ended = true;
        self.resume();
    }

    /// Stops the process as SIGSTOP does: none of its tasks goes on until it is resumed.
    pub fn pause(&self) {
        self.shared.0.lock().stopped = true;
    }

    /// Lets it go on; nothing happens if it was not stopped.
    pub fn resume(&self) {
        let mut state = self.shared.0.lock();
        state.stopped = false;
        state.wake_runner();
    }
}

impl Tasks for SimTasks {
    #[expect(clippy::disallowed_methods, reason = "this is an injected spawner")]
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        let mut state = self.shared.0.lock();
        match state.runner {
            // Without the lock: dropping the task may start others.
            Runs::NoMore => {
                drop(state);
                return;
            }
            Runs::NotYet => {
                state.runner = Runs::Yes(None);
                tokio::spawn(Runner {
                    shared: self.shared.clone(),
                    tasks: BTreeMap::new(),
                });
            }
            Runs::Yes(_) => {}
        }
        let id = state.started;
        state.started += 1;
        state.begun.push((id, future));
        state.wake(id);
    }

    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        self.spawn(name, Box::pin(async move { work() }));
    }
}

// === impl State ===

impl State {
    fn wake(&mut self, id: u64) {
        self.ready.insert(id);
        self.wake_runner();
    }

    fn wake_runner(&self) {
        if let Runs::Yes(Some(waker)) = &self.runner {
            waker.wake_by_ref();
        }
    }

    /// The task that goes on now; `None` while others go first.
    fn pick(&mut self) -> Option<u64> {
        if self.dice.one_in(PASSED_OVER_ONE_IN) {
            return None;
        }
        let at = self.dice.index(self.ready.len());
        let id = self.ready.iter().nth(at).copied()?;
        self.ready.remove(&id);
        Some(id)
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("ended", &self.ended)
            .field("stopped", &self.stopped)
            .field("ready", &self.ready)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

// === impl Runner ===

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { shared, tasks } = &mut *self;
        let mut state = shared.0.lock();
        state.runner = Runs::Yes(Some(context.waker().clone()));
        for (id, future) in state.begun.drain(..) {
            let shared = shared.clone();
            let waker = Waker::from(Arc::new(TaskWaker { id, shared }));
            tasks.insert(id, Task { future, waker });
        }
        if state.stopped || state.ready.is_empty() {
            return Poll::Pending;
        }
        // After one task it is the turn of other processes.
        context.waker().wake_by_ref();
        let Some(id) = state.pick() else {
            return Poll::Pending;
        };
        let ended = state.ended;
        // What a task does, also when it is dropped, may wake others and start them.
        drop(state);
        // One that has ended may still be woken.
        if let Some(task) = tasks.get_mut(&id)
            && (ended || !task.run())
        {
            tasks.remove(&id);
        }
        Poll::Pending
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock();
        state.runner = Runs::NoMore;
        let begun = std::mem::take(&mut state.begun);
        drop(state);
        drop(begun);
    }
}

// === impl Task ===

impl Task {
    /// Goes on; false if it has ended. A panic ends the task alone, as tokio's does.
    fn run(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(&mut context)));
        polled.is_ok_and(|polled| polled.is_pending())
    }
}

// === impl TaskWaker ===

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.0.lock().wake(self.id);
    }
}
