//! The metadata quorum of several nodes: each is a process on its own host, with connections to the
//! others, and a disk that outlives it.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use mainstem_env::{Clock as _, Env};
use mainstem_metadata::{
    ClusterOptions, MemoryDisk, Metadata, MetadataOptions, StoreKind, transport::PeersTransport,
};
use mainstem_peers::{Peers, PeersOptions, Secret};
use mainstem_record::BrokerId;
use mainstem_simulation::{Fault, HostId, Process, SimFs, SlowTasks, Stall, Step, World};
use parking_lot::Mutex;
use prometheus::Registry;
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const PORT: u16 = 9301;
/// A node has fewer lives than two to the power of this.
const LIFE_BITS: u32 = 12;
/// No thread of the quorum's writes to a disk by itself.
const NO_THREAD: &str = "";
/// How often one looks whether something has come true.
const LOOK: Duration = Duration::from_millis(5);
/// A node that stops cleanly is killed after so long.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The nodes, numbered from 1 on.
pub(crate) struct Quorum {
    pub(crate) world: World,
    /// What the test itself has of the world.
    pub(crate) env: Env,
    nodes: Vec<Node>,
}

struct Node {
    host: HostId,
    lives: u64,
    disk: MemoryDisk,
    running: Option<Running>,
}

/// A life. What has started is there once it has.
struct Running {
    process: Process,
    stall: Stall,
    started: Arc<Mutex<Option<(Metadata, Peers)>>>,
}

// === impl Quorum ===

impl Quorum {
    /// So many nodes; none is started.
    pub(crate) fn new(world: &World, count: u16) -> Self {
        let node = |number| Node {
            host: HostId(number),
            lives: 0,
            disk: MemoryDisk::default(),
            running: None,
        };
        let env = world.process_on(HostId(1000), &SimFs::new(), 1 << 31).env;
        Self {
            world: world.clone(),
            env,
            nodes: (1..=count).map(node).collect(),
        }
    }

    pub(crate) fn hosts(&self) -> Vec<HostId> {
        self.nodes.iter().map(|node| node.host).collect()
    }

    /// Begins a life of a node; nothing happens if it has one.
    pub(crate) fn start(&mut self, host: HostId) {
        let seeds: Vec<String> = self.nodes.iter().map(|node| address(node.host)).collect();
        let world = self.world.clone();
        let node = self.node_mut(host);
        if node.running.is_some() {
            return;
        }
        let life = u64::from(host.0) << LIFE_BITS | node.lives;
        node.lives += 1;
        let process = world.process_on(host, &SimFs::new(), life);
        let (tasks, stall) = SlowTasks::new(
            process.env.tasks.clone(),
            world.clock().clone(),
            world.dice(1000 + life),
            NO_THREAD,
        );
        let env = Env {
            tasks: Arc::new(tasks),
            ..process.env.clone()
        };
        let started = Arc::new(Mutex::new(None));
        let (there, disk) = (started.clone(), node.disk.clone());
        env.clone().spawn("start", async move {
            *there.lock() = Some(begin(env, host, seeds, disk).await);
        });
        node.running = Some(Running {
            process,
            stall,
            started,
        });
    }

    pub(crate) fn start_all(&mut self) {
        for host in self.hosts() {
            self.start(host);
        }
    }

    /// Kills a node's process; its host goes on.
    pub(crate) fn kill(&mut self, host: HostId) {
        let node = self.node_mut(host);
        if let Some(running) = node.running.take() {
            running.process.end();
            // What the last life still holds of it changes nothing any more.
            node.disk = node.disk.copy();
        }
    }

    fn power_cut(&mut self, host: HostId) {
        self.world.net().power_off(host);
        self.kill(host);
    }

    /// The clean stop that a step begins with, for who has started; the step itself comes after it.
    pub(crate) fn stopping(&self, step: Step) -> Option<impl Future<Output = ()> + use<>> {
        let (Fault::Restart(host), true) = (step.fault, step.begins) else {
            return None;
        };
        // From now on it is not asked any more.
        let running = self.node(host).running.as_ref()?;
        let (metadata, peers) = running.started.lock().take()?;
        let env = self.env.clone();
        Some(async move {
            let stop = async {
                // The store is in memory: it does not fail.
                let _ = metadata.close().await;
                peers.close().await;
            };
            // Who does not stop in time is killed.
            let _ = env.timeout(STOP_MAX, stop).await;
        })
    }

    /// Begins or ends a fault.
    pub(crate) fn apply(&mut self, step: Step) {
        if self.world.apply(step.fault, step.begins) {
            return;
        }
        match (step.fault, step.begins) {
            (Fault::Stall(host), stalls) => {
                if let Some(running) = &self.node(host).running {
                    running.stall.set(stalls);
                }
            }
            (Fault::Pause(host), pauses) => {
                if let Some(running) = &self.node(host).running {
                    if pauses {
                        running.process.pause();
                    } else {
                        running.process.resume();
                    }
                }
            }
            (Fault::Restart(host) | Fault::Kill(host), true) => self.kill(host),
            (Fault::PowerCut(host), true) => self.power_cut(host),
            (fault, _) => self.start(fault.process().expect("a fault of a process")),
        }
    }

    /// The life and the metadata of a node, if it lives and has started.
    pub(crate) fn metadata(&self, host: HostId) -> Option<(u64, Metadata)> {
        let node = self.node(host);
        let started = node.running.as_ref()?.started.lock();
        started.as_ref().map(|(it, _)| (node.lives, it.clone()))
    }

    /// Those that have started, and in which of their lives they are.
    pub(crate) fn living(&self) -> Vec<(HostId, u64, Metadata)> {
        let living = self.hosts().into_iter();
        let living = living.filter_map(|host| Some((host, self.metadata(host)?)));
        living.map(|(host, (life, it))| (host, life, it)).collect()
    }

    /// Who says that it leads, and in which term.
    pub(crate) fn leader(&self) -> Option<(HostId, u64)> {
        self.living().iter().find_map(|(host, _, metadata)| {
            let leadership = *metadata.leadership().borrow();
            leadership.leads.then_some((*host, leadership.term))
        })
    }

    /// Whether all have started and know the same leader, which leads.
    pub(crate) fn is_healthy(&self) -> bool {
        let living = self.living();
        let leader = self.leader().map(|(host, _)| BrokerId(i32::from(host.0)));
        let know = |(_, _, it): &(HostId, u64, Metadata)| it.leader() == leader;
        living.len() == self.nodes.len() && leader.is_some() && living.iter().all(know)
    }

    /// Whether all have applied the same.
    pub(crate) fn is_level(&self) -> bool {
        let living = self.living();
        let applied: BTreeSet<_> = living.iter().map(|(_, _, it)| it.image().version).collect();
        living.len() == self.nodes.len() && applied.len() == 1
    }

    /// Waits until `look` finds something; tells after how long.
    ///
    /// # Panics
    /// If it finds nothing within `limit`.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn() -> Option<T>,
    ) -> (T, Duration) {
        let began = self.world.clock().now();
        loop {
            let took = self.world.clock().now() - began;
            if let Some(found) = look() {
                return (found, took);
            }
            assert!(
                took < limit,
                "seed {}: not in {limit:?}: {what}",
                self.world.seed()
            );
            self.world.clock().sleep(LOOK).await;
        }
    }

    fn node(&self, host: HostId) -> &Node {
        &self.nodes[usize::from(host.0 - 1)]
    }

    fn node_mut(&mut self, host: HostId) -> &mut Node {
        &mut self.nodes[usize::from(host.0 - 1)]
    }
}

fn address(host: HostId) -> String {
    format!("{}:{PORT}", host.ip())
}

/// The start of a node, as far as the quorum goes: as the binary does it.
async fn begin(env: Env, host: HostId, seeds: Vec<String>, disk: MemoryDisk) -> (Metadata, Peers) {
    let number = u64::from(host.0);
    let directory_id = Uuid::from_u128(u128::from(number));
    let options = PeersOptions {
        node: BrokerId(i32::from(host.0)),
        directory_id,
        listen: Some(address(host).parse().expect("an address")),
        secret: Some(Secret::new(SECRET).expect("long enough")),
    };
    let peers = Peers::start(&env, options, &Registry::new()).await;
    let peers = peers.expect("peers");
    let together = ClusterOptions {
        transport: Arc::new(PeersTransport::new(peers.clone())),
        seeds,
        address: address(host),
        directory_id,
        controller: true,
    };
    let options = MetadataOptions {
        dir: PathBuf::new(),
        node_id: number,
        store: StoreKind::Kept(disk),
    };
    let metadata = Metadata::start_in_cluster(env, options, together).await;
    (metadata.expect("metadata"), peers)
}
