//! Several nodes in one world, each on its own host with its own disk and metadata store: started,
//! stopped, killed, cut off and stopped by a schedule of faults.

use std::{sync::Arc, time::Duration};

use mainstem_config::Config;
use mainstem_env::Clock as _;
use mainstem_metadata::MemoryDisk;
use mainstem_simulation::{Dice, Fault, HostId, SimFs, Step, World};
use parking_lot::Mutex;

use crate::{
    disk::{Crash, Disk},
    node::{Door, Node},
    world::Place,
};

/// How often one looks whether a node has started.
const LOOK: Duration = Duration::from_millis(1);

/// A node that has not stopped by then is killed, as supervisors do: its disk may stall meanwhile, and
/// a log is not closed before its bytes are durable.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A node, or why it does not start.
type Started = Result<Arc<Node>, String>;

/// The nodes of a world, numbered from 1 on.
pub(crate) struct Nodes {
    world: World,
    config: Arc<Config>,
    nodes: Vec<Member>,
    dice: Dice,
}

struct Member {
    number: u16,
    lives: u64,
    /// What the last life has left.
    fs: SimFs,
    metadata: MemoryDisk,
    door: Option<Door>,
    running: Option<Running>,
}

/// A life. The node is there once it has started; it starts as a task of its process, so that faults
/// can hit it on the way.
struct Running {
    place: Place,
    disk: Disk,
    started: Arc<Mutex<Option<Started>>>,
}

// === impl Nodes ===

impl Nodes {
    /// So many, all of this configuration; none is started.
    pub(crate) fn new(world: &World, count: u16, config: &Arc<Config>) -> Self {
        let member = |number| Member {
            number,
            lives: 0,
            fs: world.disk(),
            metadata: MemoryDisk::default(),
            door: None,
            running: None,
        };
        Self {
            world: world.clone(),
            config: config.clone(),
            nodes: (1..=count).map(member).collect(),
            dice: world.dice(2000),
        }
    }

    /// Their hosts.
    pub(crate) fn hosts(&self) -> Vec<HostId> {
        self.nodes.iter().map(|node| HostId(node.number)).collect()
    }

    /// Begins a life of a node; nothing happens if it has one.
    pub(crate) fn start(&mut self, host: HostId) {
        let (world, config) = (self.world.clone(), self.config.clone());
        let node = self.member(host);
        if node.running.is_some() {
            return;
        }
        let disk = Disk::new(node.fs.clone());
        let place = Place::new(&world, node.number, node.lives, Arc::new(disk.clone()));
        node.lives += 1;
        node.door = Some(Door::new(&place, &config));
        let started = Arc::new(Mutex::new(None));
        let (inner, there) = (place.clone(), started.clone());
        let metadata = node.metadata.clone();
        place.env.spawn("start", async move {
            let node = Node::start(&inner, &config, &metadata).await;
            *there.lock() = Some(node.map(Arc::new));
        });
        node.running = Some(Running {
            place,
            disk,
            started,
        });
    }

    /// Waits until a node that lives has started.
    ///
    /// # Panics
    /// If it does not start.
    pub(crate) async fn started(&self, host: HostId) -> Arc<Node> {
        let running = self.nodes[usize::from(host.0 - 1)].running.as_ref();
        let running = running.expect("the node lives");
        loop {
            if let Some(node) = running.started.lock().clone() {
                return node.expect("the node starts");
            }
            self.world.clock().sleep(LOOK).await;
        }
    }

    /// Where clients find a node that was started once.
    pub(crate) fn door(&self, host: HostId) -> Door {
        let door = self.nodes[usize::from(host.0 - 1)].door.clone();
        door.expect("the node was started")
    }

    /// Stops a node cleanly, if it has started; it is killed if it has not, or if that takes too long.
    pub(crate) async fn stop(&mut self, host: HostId) {
        if let Some(running) = &self.member(host).running {
            let started = running.started.lock().clone();
            if let Some(Ok(node)) = started {
                let env = &running.place.clients;
                let _ = env.timeout(STOP_LIMIT, node.drain()).await;
            }
        }
        self.kill(host);
    }

    /// Kills a node's process; its host goes on.
    pub(crate) fn kill(&mut self, host: HostId) {
        self.end(host, Crash::ProcessKill);
    }

    /// Takes the power of a node's host, until the node is started again.
    pub(crate) fn power_cut(&mut self, host: HostId) {
        self.world.net().power_off(host);
        self.end(host, Crash::PowerCut);
    }

    /// Stops a node as SIGSTOP does.
    pub(crate) fn pause(&mut self, host: HostId) {
        if let Some(running) = &self.member(host).running {
            running.place.process.pause();
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self, host: HostId) {
        if let Some(running) = &self.member(host).running {
            running.place.process.resume();
        }
    }

    /// Begins or ends a fault of the schedule.
    pub(crate) async fn apply(&mut self, step: Step) {
        if self.world.apply(step.fault, step.begins) {
            return;
        }
        match (step.fault, step.begins) {
            (Fault::Stall(host), stalls) => {
                if let Some(running) = &self.member(host).running {
                    running.place.stall.set(stalls);
                }
            }
            (Fault::Pause(host), true) => self.pause(host),
            (Fault::Pause(host), false) => self.resume(host),
            (Fault::Restart(host), true) => self.stop(host).await,
            (Fault::Kill(host), true) => self.kill(host),
            (Fault::PowerCut(host), true) => self.power_cut(host),
            (fault, _) => self.start(fault.process().expect("a fault of a process")),
        }
    }

    fn end(&mut self, host: HostId, crash: Crash) {
        let seed = self.dice.next_u64();
        let node = self.member(host);
        if let Some(running) = node.running.take() {
            running.disk.end_now(crash, seed);
            running.place.process.end();
            node.fs = running.disk.left();
            // What the last life still holds of it changes nothing any more.
            node.metadata = node.metadata.copy();
        }
    }

    fn member(&mut self, host: HostId) -> &mut Member {
        &mut self.nodes[usize::from(host.0 - 1)]
    }
}
