//! One simulated world, and the processes in it.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    sync::Arc,
    task::{Poll, Waker},
};

use mainstem_env::{Clock as _, Env};
use parking_lot::Mutex;

use crate::{
    Dice, Fault, HostClock, HostId, SimClock, SimFs, SimNet, SimTasks, Trace, dice::DiceRandom,
    net::ProcessNet,
};

/// What the network draws from.
const NET_DICE: u64 = 1 << 33;

/// The host of processes that say nothing else.
const FIRST_HOST: HostId = HostId(1);

/// The world of one seed. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    clock: SimClock,
    net: SimNet,
    trace: Trace,
    clocks: Arc<Mutex<BTreeMap<HostId, HostClock>>>,
}

/// A process in the world: its tasks end together, its disk may go on without it.
#[derive(Debug, Clone)]
pub struct Process {
    /// What it reaches the world through.
    pub env: Env,
    tasks: SimTasks,
    net: ProcessNet,
}

/// Runs `body` in the world of `seed`, on this thread and in virtual time.
///
/// # Panics
/// If everything waits and no timer is left: nothing could ever happen again.
pub fn run<T, F: Future<Output = T>>(seed: u64, body: impl FnOnce(World) -> F) -> T {
    let world = World::new(seed);
    let timers = world.clock.clone();
    // Time that passes may wake nobody, and then the runtime must come back.
    let passed: Arc<Mutex<Option<Waker>>> = Arc::default();
    let passing = passed.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        // Without tokio's timers: whoever takes one fails, instead of waiting in real time.
        .on_thread_park(move || {
            assert!(
                timers.advance_to_next_timer(),
                "everything waits, and there is no timer"
            );
            let waker = passing.lock().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        })
        .build()
        .expect("a runtime without drivers needs nothing of the system");
    let looks_again = poll_fn::<(), _>(move |context| {
        *passed.lock() = Some(context.waker().clone());
        Poll::Pending
    });
    runtime.spawn(looks_again);
    runtime.block_on(body(world))
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let (clock, trace) = (SimClock::new(), Trace::default());
        let dice = dice_of(seed, NET_DICE);
        Self {
            seed,
            net: SimNet::new(clock.clone(), dice, trace.clone()),
            clock,
            trace,
            clocks: Arc::default(),
        }
    }

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
        dice_of(self.seed, purpose)
    }

    /// The network.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// What has happened; others may add to it.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The clock of a host.
    pub fn host_clock(&self, host: HostId) -> HostClock {
        let mut clocks = self.clocks.lock();
        let clock = clocks
            .entry(host)
            .or_insert_with(|| HostClock::new(self.clock.clone()));
        clock.clone()
    }

    /// Begins or ends a fault of the network or of a clock; false if it is one of a process, which
    /// whoever runs that has to see to.
    pub fn apply(&self, fault: Fault, begins: bool) -> bool {
        let (host, ppm, jump) = match fault {
            Fault::Drift(host, ppm) => (host, Some(if begins { ppm } else { 0 }), 0),
            Fault::Jump(host, ms) => (host, None, if begins { ms } else { -ms }),
            fault => return self.net.apply(fault, begins),
        };
        let what = if begins { "begins" } else { "ends" };
        let now = self.clock.now();
        self.trace.add(now, format_args!("{fault:?} {what}"));
        let clock = self.host_clock(host);
        if let Some(ppm) = ppm {
            clock.set_rate(ppm);
        }
        clock.jump(jump);
        true
    }

    /// An empty disk whose stalls pass this world's time.
    pub fn disk(&self) -> SimFs {
        SimFs::new().with_stalls(self.clock.clone())
    }

    /// A process with this disk, on the first host. `incarnation` tells it from others of this world:
    /// its randomness and the order of its tasks come from it.
    pub fn process(&self, fs: &SimFs, incarnation: u64) -> Process {
        self.process_on(FIRST_HOST, fs, incarnation)
    }

    /// The same on some host, which is powered on if it was not.
    pub fn process_on(&self, host: HostId, fs: &SimFs, incarnation: u64) -> Process {
        let mut dice = self.dice(incarnation.wrapping_add(1 << 32));
        let tasks = SimTasks::new(dice.fork());
        let net = self.net.process(host);
        let env = Env {
            clock: Arc::new(self.host_clock(host)),
            random: Arc::new(DiceRandom::new(dice.fork())),
            fs: Arc::new(fs.clone()),
            net: Arc::new(net.clone()),
            tasks: Arc::new(tasks.clone()),
        };
        Process { env, tasks, net }
    }
}

// === impl Process ===

impl Process {
    /// Ends it as `kill -9` does: no task goes on, and its host closes its connections. What it has
    /// open keeps its disk alive, so go on with [`SimFs::process_death`] or [`SimFs::power_cut`]; for
    /// the latter [`SimNet::power_off`] comes before this.
    pub fn end(&self) {
        self.tasks.end();
        self.net.end();
    }

    /// Stops it as SIGSTOP does: no task goes on until it is resumed, and all stays open.
    pub fn pause(&self) {
        self.tasks.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.tasks.resume();
    }
}

fn dice_of(seed: u64, purpose: u64) -> Dice {
    Dice::new(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93)).fork()
}
