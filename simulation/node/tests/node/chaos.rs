//! Nodes on hosts of their own, and their clients on another, while everything goes wrong: what was
//! acknowledged is there afterwards, and all goes on.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mainstem_env::Clock as _;
use mainstem_simulation::{
    ChaosOptions, Fault, FaultClass, HostId, LinkOptions, Step, World, schedule,
};

use crate::{
    actors::{Idempotent, Publisher},
    kafka::Kafka,
    node::{self, Door},
    nodes::Nodes,
    seeds,
    world::CLIENTS,
};

/// Seeds of `make test`.
const SEEDS: u64 = 3;

/// How long faults happen, and how long clients go on afterwards.
const FAULTS: Duration = Duration::from_secs(30);
const AFTERWARDS: Duration = Duration::from_secs(10);

/// As long as it takes that nodes have later lives.
const SHORTLY: Duration = Duration::from_secs(10);

/// A client that has heard nothing for so long connects anew.
const PATIENCE: Duration = Duration::from_secs(3);

const CLASSES: [FaultClass; 11] = [
    FaultClass::Cut,
    FaultClass::Partition,
    FaultClass::Isolate,
    FaultClass::Hold,
    FaultClass::Slow,
    FaultClass::Drift,
    FaultClass::Stall,
    FaultClass::Pause,
    FaultClass::Restart,
    FaultClass::Kill,
    FaultClass::PowerCut,
];

/// The clients of one node.
struct Clients {
    producer: Idempotent,
    publisher: Publisher,
}

// === impl Clients ===

impl Clients {
    fn new(host: HostId, world: &World) -> Self {
        let seed = |purpose| world.dice(purpose + u64::from(host.0)).next_u64();
        Self {
            producer: Idempotent::new("producer", "written", &[], seed(3000)),
            publisher: Publisher::new("device", "published", 2, seed(4000)),
        }
    }

    /// They write until they are told to stop.
    async fn live(&mut self, door: &Door, stops: &Cell<bool>) {
        let env = &door.clients;
        let Self {
            producer,
            publisher,
        } = self;
        // Neither knows whether its node still lives: it gives up, and tries again.
        let produce = async {
            while !stops.get() {
                let _ = env.timeout(PATIENCE, producer.live(door, 10)).await;
                env.sleep(Duration::from_millis(100)).await;
            }
        };
        let publish = async {
            while !stops.get() {
                let _ = env.timeout(PATIENCE, publisher.live(door, 5)).await;
                env.sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::join!(produce, publish);
    }

    fn promised(&self) -> usize {
        self.producer.acknowledged() + self.publisher.promised()
    }

    async fn check(&self, door: &Door) {
        let mut kafka = Kafka::connect(door).await.expect("a connection");
        let records = kafka.read_all(&self.producer.topic).await;
        self.producer.check(&records.expect("records"));
        let records = kafka.read_all(&self.publisher.topic).await;
        self.publisher.check(&records.expect("records"));
    }
}

/// Three nodes under a schedule of so long; how much was promised, and the digest of the history.
fn run(seed: u64, faults: Duration) -> (usize, (u64, u64)) {
    mainstem_simulation::run(seed, |world| async move {
        world.net().set_links(LinkOptions {
            delay: Duration::from_micros(200),
            jitter: Duration::from_millis(2),
            loss_per_10_000: 10,
        });
        let mut nodes = Nodes::new(&world, 3, &node::config(&[]));
        for host in nodes.hosts() {
            nodes.start(host);
            nodes.started(host).await;
        }
        let hosts = nodes.hosts();
        let doors: Vec<Door> = hosts.iter().map(|host| nodes.door(*host)).collect();
        let mut clients: Vec<Clients> = hosts.iter().map(|h| Clients::new(*h, &world)).collect();
        let stops = Cell::new(false);
        let mut steps = steps(&world, hosts, faults);
        let happen = async {
            let mut passed = Duration::ZERO;
            for step in steps.drain(..) {
                world.clock().sleep(step.at.saturating_sub(passed)).await;
                passed = step.at;
                nodes.apply(step).await;
            }
            world.net().heal_all();
            world.clock().sleep(AFTERWARDS).await;
            stops.set(true);
        };
        let [a, b, c] = clients.as_mut_slice() else {
            unreachable!("three nodes")
        };
        let work = async {
            tokio::join!(
                a.live(&doors[0], &stops),
                b.live(&doors[1], &stops),
                c.live(&doors[2], &stops),
            );
        };
        tokio::join!(happen, work);
        let mut promised = 0;
        for (one, door) in clients.iter().zip(&doors) {
            assert!(one.promised() > 100, "{}", one.promised());
            promised += one.promised();
            one.check(door).await;
        }
        (promised, world.trace().digest())
    })
}

/// Faults of the nodes, and of the network also between them and their clients.
fn steps(world: &World, hosts: Vec<HostId>, ends: Duration) -> Vec<Step> {
    let options = ChaosOptions {
        hosts: [hosts.as_slice(), &[CLIENTS]].concat(),
        // The clients themselves live on.
        processes: hosts,
        classes: CLASSES.to_vec(),
        ends,
        pause_max: Duration::from_secs(2),
        lasts_max: Duration::from_secs(4),
    };
    schedule(&mut world.dice(5000), &options)
}

#[test]
fn nodes_keep_what_they_acknowledged_and_go_on() {
    let promised = AtomicU64::new(0);
    seeds::all("chaos", SEEDS, |seed| {
        let (count, _) = run(seed, FAULTS);
        promised.fetch_add(count as u64, Ordering::Relaxed);
    });
    println!("{promised:?} acknowledged");
}

/// Each kind of fault is in the schedules that the test above runs.
#[test]
fn schedules_have_all_kinds_of_faults() {
    let mut faults: Vec<Fault> = Vec::new();
    for seed in 0..SEEDS {
        mainstem_simulation::run(seed, |world| {
            let hosts = vec![HostId(1), HostId(2), HostId(3)];
            faults.extend(steps(&world, hosts, FAULTS).iter().map(|step| step.fault));
            std::future::ready(())
        });
    }
    let kinds = faults.iter().map(std::mem::discriminant);
    let kinds: std::collections::HashSet<_> = kinds.collect();
    assert_eq!(kinds.len(), CLASSES.len());
}

/// What happens on the network while one node starts and serves its clients, all of it.
fn history(seed: u64) -> String {
    mainstem_simulation::run(seed, |world| async move {
        world.trace().keep();
        let mut nodes = Nodes::new(&world, 1, &node::config(&[]));
        let host = HostId(1);
        nodes.start(host);
        nodes.started(host).await;
        let (door, mut clients) = (nodes.door(host), Clients::new(host, &world));
        for _ in 0..10 {
            let Clients {
                producer,
                publisher,
            } = &mut clients;
            tokio::join!(producer.live(&door, 5), publisher.live(&door, 5));
        }
        clients.check(&door).await;
        world.trace().text()
    })
}

#[test]
fn first_life_of_a_node_repeats_its_history() {
    for seed in mainstem_simulation::seeds(3) {
        let (one, other) = (history(seed), history(seed));
        let differs = one.lines().zip(other.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.len(), other.len());
        assert!(one.lines().count() > 100, "{one}");
    }
}

/// Also in their later lives, and with clients that connect anew.
#[test]
fn nodes_under_faults_repeat_their_history() {
    for seed in mainstem_simulation::seeds(1) {
        assert_eq!(run(seed, SHORTLY), run(seed, SHORTLY), "seed {seed}");
    }
}
