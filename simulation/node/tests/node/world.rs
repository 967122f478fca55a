//! Where a node lives: a process on a host of its own, whose blocking work takes its time; and where
//! its clients do.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use mainstem_env::{BoxFuture, Env, Fs, Tasks};
use mainstem_simulation::{Dice, HostId, Process, SimFs, World};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The host of all clients.
pub(crate) const CLIENTS: HostId = HostId(1000);

/// Their processes are told from those of nodes by this.
const CLIENTS_FROM: u64 = 1 << 31;

/// A node has fewer lives than two to the power of this.
const LIFE_BITS: u32 = 12;

/// The longest that blocking work takes.
const WORK_US_MAX: u64 = 2000;

/// The thread that writes and syncs a journal.
const JOURNAL_THREAD: &str = "log-journal";

/// Blocking work takes a random time, so that what is appended meanwhile forms the next group.
struct SlowTasks {
    tasks: Arc<dyn Tasks>,
    world: World,
    dice: Mutex<Dice>,
    stalls: watch::Receiver<bool>,
}

/// A thread whose every turn takes its time, as one does that writes and syncs.
struct SlowThread {
    task: BoxFuture<'static, ()>,
    world: World,
    dice: Dice,
    turn: Option<BoxFuture<'static, ()>>,
}

/// Holds all blocking work back, syncs among it, as a disk does that stalls.
pub(crate) struct Stall(watch::Sender<bool>);

/// One life of a node. Clones are the same life.
#[derive(Clone)]
pub(crate) struct Place {
    /// Of the node, from 1 on; also that of its host.
    pub(crate) number: u16,
    pub(crate) process: Process,
    /// What the node has of the world.
    pub(crate) env: Env,
    /// What its clients have.
    pub(crate) clients: Env,
    pub(crate) stall: Arc<Stall>,
}

// === impl Stall ===

impl Stall {
    /// From now on, or no longer.
    pub(crate) fn set(&self, stalls: bool) {
        // The node may be gone.
        let _ = self.0.send(stalls);
    }
}

impl Tasks for SlowTasks {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.tasks.spawn(name, future);
    }

    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        use mainstem_env::Clock as _;
        let took = Duration::from_micros(self.dice.lock().below(WORK_US_MAX));
        let done = self.world.clock().sleep(took);
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
        if name != JOURNAL_THREAD {
            return self.tasks.dedicated(name, number, task);
        }
        let thread = SlowThread {
            task,
            world: self.world.clone(),
            dice: self.dice.lock().fork(),
            turn: None,
        };
        self.tasks.dedicated(name, number, Box::pin(thread))
    }
}

// === impl SlowThread ===

impl Future for SlowThread {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        use mainstem_env::Clock as _;
        let this = &mut *self;
        let turn = this.turn.get_or_insert_with(|| {
            let took = Duration::from_micros(this.dice.below(WORK_US_MAX));
            this.world.clock().sleep(took)
        });
        ready!(turn.as_mut().poll(context));
        this.turn = None;
        this.task.as_mut().poll(context)
    }
}

// === impl Place ===

impl Place {
    /// The process of one life of the node of this number, on its host and with this disk.
    pub(crate) fn new(world: &World, number: u16, life: u64, fs: Arc<dyn Fs>) -> Self {
        let (sender, stalls) = watch::channel(false);
        let life = u64::from(number - 1) << LIFE_BITS | life;
        // Their own file systems are not used: the one given wraps the node's, and clients have none.
        let process = world.process_on(HostId(number), &SimFs::new(), life);
        let clients = world.process_on(CLIENTS, &SimFs::new(), CLIENTS_FROM | life);
        let env = Env {
            fs,
            tasks: Arc::new(SlowTasks {
                tasks: process.env.tasks.clone(),
                world: world.clone(),
                dice: Mutex::new(world.dice(1000 + life)),
                stalls,
            }),
            ..process.env.clone()
        };
        Self {
            number,
            process,
            env,
            clients: clients.env,
            stall: Arc::new(Stall(sender)),
        }
    }

    /// The host.
    pub(crate) fn host(&self) -> HostId {
        HostId(self.number)
    }
}
