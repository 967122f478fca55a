//! Where a node lives: a process on a host of its own, whose blocking work takes its time; and where
//! its clients do.

use std::sync::Arc;

use mainstem_env::{Env, Fs};
use mainstem_simulation::{HostId, Process, SimFs, SlowTasks, Stall, World};

/// The host of all clients.
pub(crate) const CLIENTS: HostId = HostId(1000);

/// Their processes are told from those of nodes by this.
const CLIENTS_FROM: u64 = 1 << 31;

/// A node has fewer lives than two to the power of this.
const LIFE_BITS: u32 = 12;

/// The thread that writes and syncs a journal.
const JOURNAL_THREAD: &str = "log-journal";

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

// === impl Place ===

impl Place {
    /// The process of one life of the node of this number, on its host and with this disk.
    pub(crate) fn new(world: &World, number: u16, life: u64, fs: Arc<dyn Fs>) -> Self {
        let life = u64::from(number - 1) << LIFE_BITS | life;
        // Their own file systems are not used: the one given wraps the node's, and clients have none.
        let process = world.process_on(HostId(number), &SimFs::new(), life);
        let clients = world.process_on(CLIENTS, &SimFs::new(), CLIENTS_FROM | life);
        let (tasks, stall) = SlowTasks::new(
            process.env.tasks.clone(),
            world.clock().clone(),
            world.dice(1000 + life),
            JOURNAL_THREAD,
        );
        let env = Env {
            fs,
            tasks: Arc::new(tasks),
            ..process.env.clone()
        };
        Self {
            number,
            process,
            env,
            clients: clients.env,
            stall: Arc::new(stall),
        }
    }

    /// The host.
    pub(crate) fn host(&self) -> HostId {
        HostId(self.number)
    }
}
