//! What the simulated world lacks for a whole node: blocking work that takes its time, and a network
//! without wires.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mainstem_env::{BoxFuture, Env, Fs, Listener, Net, Stream, Tasks};
use mainstem_simulation::{Dice, Process, SimFs, World};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

/// Bytes that fit into a connection without either side reading.
pub(crate) const PIPE_BYTES: usize = 64 << 10;

/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// The longest that blocking work takes.
const WORK_US_MAX: u64 = 2000;

/// Blocking work takes a random time, so that what is appended meanwhile forms the next group.
struct SlowTasks {
    tasks: Arc<dyn Tasks>,
    world: World,
    dice: Mutex<Dice>,
    stalls: watch::Receiver<bool>,
}

/// Holds all blocking work back, syncs among it, as a disk does that stalls.
pub(crate) struct Stall(watch::Sender<bool>);

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
}

type Accepted = (Box<dyn Stream>, SocketAddr);

/// A network of one machine. Clones share it.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<HashMap<SocketAddr, mpsc::Sender<Accepted>>>>);

struct Ear {
    address: SocketAddr,
    receiver: AsyncMutex<mpsc::Receiver<Accepted>>,
}

// === impl Wires ===

impl Net for Wires {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(BACKLOG);
            self.0.lock().insert(address, sender);
            let receiver = AsyncMutex::new(receiver);
            Ok(Box::new(Ear { address, receiver }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let sender = self.0.lock().get(&address).cloned();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
            let sent = sender.ok_or_else(refused)?;
            let sent = sent.send((Box::new(far), peer)).await;
            sent.map_err(|_| refused())?;
            Ok(Box::new(near) as Box<dyn Stream>)
        })
    }
}

impl Listener for Ear {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            match self.receiver.lock().await.recv().await {
                Some(accepted) => Ok(accepted),
                // The network is gone with its world.
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// The process of one life of a node, with a network, on this disk.
pub(crate) fn process(world: &World, life: u64, fs: Arc<dyn Fs>) -> (Process, Env) {
    let (process, env, _) = process_that_stalls(world, life, fs);
    (process, env)
}

/// The same, on a disk that stalls when it is told to.
pub(crate) fn process_that_stalls(
    world: &World,
    life: u64,
    fs: Arc<dyn Fs>,
) -> (Process, Env, Stall) {
    let (sender, stalls) = watch::channel(false);
    // Its own file system is not used: the one given wraps it.
    let process = world.process(&SimFs::new(), life);
    let env = Env {
        fs,
        net: Arc::new(Wires::default()),
        tasks: Arc::new(SlowTasks {
            tasks: process.env.tasks.clone(),
            world: world.clone(),
            dice: Mutex::new(world.dice(1000 + life)),
            stalls,
        }),
        ..process.env.clone()
    };
    (process, env, Stall(sender))
}
