//! One simulated world, and the processes in it.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use mainstem_env::{BoxFuture, Env, Listener, Net, Stream};

use crate::{Dice, SimClock, SimFs, SimTasks, dice::DiceRandom};

/// The world of one seed. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    clock: SimClock,
}

/// A process in the world: its tasks end together, its disk may go on without it.
#[derive(Debug, Clone)]
pub struct Process {
    /// What it reaches the world through.
    pub env: Env,
    tasks: SimTasks,
}

/// There is no network.
struct NoNet;

/// Runs `body` in the world of `seed`, on this thread and in virtual time.
///
/// # Panics
/// If everything waits and no timer is left: nothing could ever happen again.
pub fn run<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(World) -> F) -> T {
    let clock = SimClock::new();
    let timers = clock.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        // Without tokio's timers: whoever takes one fails, instead of waiting in real time.
        .on_thread_park(move || {
            assert!(
                timers.advance_to_next_timer(),
                "everything waits, and there is no timer"
            );
        })
        .build()
        .expect("a runtime without drivers needs nothing of the system");
    runtime.block_on(body(World { seed, clock }))
}

/// The seeds that a test runs: `count` of them from 0 on, or the one of `BROKER_SEED`, which a
/// failure names.
///
/// # Panics
/// If `BROKER_SEED` is no number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("BROKER_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("BROKER_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

// === impl World ===

impl World {
    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The clock.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Dice for this purpose: other purposes do not change what they give.
    pub fn dice(&self, purpose: u64) -> Dice {
        Dice::new(self.seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93)).fork()
    }

    /// An empty disk whose stalls pass this world's time.
    pub fn disk(&self) -> SimFs {
        SimFs::new().with_stalls(self.clock.clone())
    }

    /// A process with this disk. `incarnation` tells it from others of this world: its randomness
    /// and the order of its tasks come from it.
    pub fn process(&self, fs: &SimFs, incarnation: u64) -> Process {
        let mut dice = self.dice(incarnation.wrapping_add(1 << 32));
        let tasks = SimTasks::new(dice.fork());
        let env = Env {
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(DiceRandom::new(dice.fork())),
            fs: Arc::new(fs.clone()),
            net: Arc::new(NoNet),
            tasks: Arc::new(tasks.clone()),
        };
        Process { env, tasks }
    }
}

// === impl Process ===

impl Process {
    /// Ends it as `kill -9` does: no task goes on. What it has open keeps its disk alive, so go on
    /// with [`SimFs::process_death`] or [`SimFs::power_cut`].
    pub fn end(&self) {
        self.tasks.end();
    }
}

// === impl NoNet ===

impl Net for NoNet {
    fn listen(&self, _address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect(&self, _address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
