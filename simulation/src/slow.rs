//! Blocking work that takes its time, as that of a disk does, and disks that stall.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use mainstem_env::{BoxFuture, Clock as _, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Dice, SimClock};

/// The longest that blocking work takes.
const WORK_US_MAX: u64 = 2000;

/// Tasks whose blocking work takes a random time, so that what is wanted meanwhile forms the next
/// group; likewise each turn of the threads of one name, which write and sync.
pub struct SlowTasks {
    tasks: Arc<dyn Tasks>,
    clock: SimClock,
    thread: &'static str,
    dice: Mutex<Dice>,
    stalls: watch::Receiver<bool>,
}

/// Holds all blocking work back, syncs among it, as a disk does that stalls.
#[derive(Debug)]
pub struct Stall(watch::Sender<bool>);

/// A thread whose every turn takes its time.
struct SlowThread {
    task: BoxFuture<'static, ()>,
    clock: SimClock,
    dice: Dice,
    turn: Option<BoxFuture<'static, ()>>,
}

// === impl SlowTasks ===

impl SlowTasks {
    /// Such tasks over others. `thread` names the dedicated threads that are slow, too.
    pub fn new(
        tasks: Arc<dyn Tasks>,
        clock: SimClock,
        dice: Dice,
        thread: &'static str,
    ) -> (Self, Stall) {
        let (sender, stalls) = watch::channel(false);
        let slow = Self {
            tasks,
            clock,
            thread,
            dice: Mutex::new(dice),
            stalls,
        };
        (slow, Stall(sender))
    }
}

impl Tasks for SlowTasks {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.tasks.spawn(name, future);
    }

    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        let took = Duration::from_micros(self.dice.lock().below(WORK_US_MAX));
        let done = self.clock.sleep(took);
        let mut stalls = self.stalls.clone();
        let work = async move {
            done.await;
            // With the test gone nothing stalls.
            let _ = stalls.wait_for(|stalls| !stalls).await;
            work();
        };
        self.tasks.spawn(name, Box::pin(work));
    }

    fn dedicated(
        &self,
        name: &'static str,
        number: usize,
        task: BoxFuture<'static, ()>,
    ) -> io::Result<()> {
        if name != self.thread {
            return self.tasks.dedicated(name, number, task);
        }
        let thread = SlowThread {
            task,
            clock: self.clock.clone(),
            dice: self.dice.lock().fork(),
            turn: None,
        };
        self.tasks.dedicated(name, number, Box::pin(thread))
    }
}

// === impl Stall ===

impl Stall {
    /// From now on, or no longer.
    pub fn set(&self, stalls: bool) {
        // The process may be gone.
        let _ = self.0.send(stalls);
    }
}

// === impl SlowThread ===

impl Future for SlowThread {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let turn = this.turn.get_or_insert_with(|| {
            let took = Duration::from_micros(this.dice.below(WORK_US_MAX));
            this.clock.sleep(took)
        });
        ready!(turn.as_mut().poll(context));
        this.turn = None;
        this.task.as_mut().poll(context)
    }
}
