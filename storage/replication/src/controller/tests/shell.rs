//! Three nodes on a simulated network, in virtual time: real metadata and connections, brokers that
//! hold what they are said to hold.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use mainstem_env::{BoxFuture, Env};
use mainstem_metadata::{
    AlterIsr, ClusterOptions, Command, MemoryDisk, Metadata, MetadataOptions, NextSegment,
    SealAndOpen, SegmentFlush, SegmentState, StoreKind, TopicOrigin, transport::PeersTransport,
};
use mainstem_peers::{PeersOptions, Secret};
use mainstem_record::{BrokerId, Member, Offset, PartitionId, SegmentId, TimestampMs};
use mainstem_simulation::{HostId, Process, World, run, seeds};
use parking_lot::Mutex;
use prometheus::Registry;
use uuid::Uuid;

use super::world::{ms, partition, topic};
use crate::{
    controller::*,
    machine::{
        FenceAnswer, Segment, Timers,
        placement::{Ask, place},
    },
    wire::{DigestOf, Fenced, RollOrder, SealAnswer, SealQuestion, Unfenced},
};

const SEEDS: u64 = 2;
const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const PORT: u16 = 9301;
const NODES: i32 = 3;
const PARTITIONS: i32 = 30;
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all brokers hold, by broker and segment, and the certificates of their lives.
#[derive(Default)]
struct Logs {
    leos: BTreeMap<(BrokerId, SegmentId), i64>,
    certificates: BTreeMap<(Member, SegmentId), i64>,
}

/// A broker that answers from [`Logs`].
struct Broker {
    env: Env,
    me: Member,
    metadata: Metadata,
    placer: Placer,
    logs: Arc<Mutex<Logs>>,
}

struct Node {
    id: i32,
    lives: u64,
    process: Process,
    metadata: Metadata,
    disk: MemoryDisk,
    me: Member,
    controller: Controller,
}

struct Cluster {
    world: World,
    env: Env,
    logs: Arc<Mutex<Logs>>,
    nodes: BTreeMap<i32, Node>,
}

// === impl Broker ===

impl Broker {
    fn answer_one(
        &self,
        partition: PartitionId,
        segment: SegmentId,
        copied: Option<i64>,
    ) -> Fenced {
        let image = self.metadata.image();
        let open = Segment::open(&image, partition);
        let Some(open) = open.filter(|it| it.id == segment && image.is_current(self.me)) else {
            let outcome = Err(Unfenced::NotYet);
            return Fenced { segment, outcome };
        };
        let mut logs = self.logs.lock();
        let is_replica = open.replicas.contains(&self.me.broker);
        let held = open.base.0 + if is_replica { 10 } else { 0 };
        let leo = *logs.leos.entry((self.me.broker, segment)).or_insert(held);
        let certificate = *logs.certificates.entry((self.me, segment)).or_insert(leo);
        let leo = leo.max(copied.unwrap_or(0));
        logs.leos.insert((self.me.broker, segment), leo);
        Fenced {
            segment,
            outcome: Ok(FenceAnswer {
                segment,
                member: self.me,
                version: open.version,
                certificate: Offset(certificate),
                leo: Offset(leo),
            }),
        }
    }
}

/// A leader as it should be: followers that live are in sync again at once.
async fn lead(env: Env, metadata: Metadata, me: Member) {
    loop {
        env.sleep(ms(200)).await;
        let image = metadata.image();
        let mut changes = Vec::new();
        for id in (0..PARTITIONS).map(|index| partition(1, index)) {
            let open = Segment::open(&image, id);
            let Some(open) = open.filter(|it| it.state == SegmentState::Active && it.leader == me)
            else {
                continue;
            };
            let lives = |broker: &&BrokerId| !image.brokers[*broker].fenced;
            let live = open.replicas.iter().filter(lives);
            let isr: Vec<Member> = live.filter_map(|broker| image.member(*broker)).collect();
            if isr.len() > open.isr.len() {
                changes.push(AlterIsr {
                    partition: id,
                    segment: open.id,
                    version: open.version,
                    isr,
                });
            }
        }
        if !changes.is_empty() {
            // Proposed again if it came to nothing.
            let _ = metadata.propose(Command::AlterIsr { changes }).await;
        }
    }
}

impl Party for Broker {
    fn answer(&self, question: SealQuestion) -> BoxFuture<'_, SealAnswer> {
        let answer = match question {
            SealQuestion::Fence { orders, .. } => {
                let answers = orders.iter();
                let answers = answers.map(|it| self.answer_one(it.partition, it.segment, None));
                SealAnswer::Fenced {
                    member: self.me,
                    answers: answers.collect(),
                }
            }
            SealQuestion::CopyTail(orders) => {
                let answers = orders.iter().map(|it| {
                    let from = (it.from.broker, it.segment);
                    let leo = self.logs.lock().leos.get(&from).copied();
                    self.answer_one(it.partition, it.segment, leo)
                });
                SealAnswer::Fenced {
                    member: self.me,
                    answers: answers.collect(),
                }
            }
            SealQuestion::DigestAt(questions) => {
                let answers = questions.iter().map(|it| DigestOf {
                    segment: it.segment,
                    end: it.end,
                    bytes: 100,
                    max_timestamp: TimestampMs(1),
                    digest: 42,
                });
                SealAnswer::Digests {
                    member: self.me,
                    answers: answers.collect(),
                }
            }
        };
        Box::pin(std::future::ready(answer))
    }

    fn roll(&self, order: RollOrder) {
        let image = self.metadata.image();
        let open = Segment::open(&image, order.partition);
        let Some(open) = open.filter(|it| it.id == order.segment && it.leader == self.me) else {
            return;
        };
        let ask = Ask {
            replicas: 3,
            min_insync: 2,
            prefer: &open.replicas,
            leader: Some(self.me.broker),
            spread: 0,
        };
        let Some(placed) = place(&self.placer.healthy(), &ask) else {
            return;
        };
        let command = Command::SealAndOpen {
            seals: vec![SealAndOpen {
                partition: order.partition,
                segment: open.id,
                version: open.version,
                end: open.base.plus(10),
                bytes: 100,
                max_timestamp: TimestampMs(1),
                digest: None,
                durable: vec![],
                next: NextSegment {
                    id: SegmentId(Uuid::from_bytes(self.env.random_uuid())),
                    replicas: placed.replicas.iter().map(|it| it.broker).collect(),
                    isr: placed.replicas,
                    leader: placed.leader,
                    flush: SegmentFlush::Os,
                },
            }],
        };
        let metadata = self.metadata.clone();
        self.env.spawn("roll", async move {
            // Asked for again if it came to nothing.
            let _ = metadata.propose(command).await;
        });
    }

    fn is_ready(&self) -> bool {
        true
    }
}

// === impl Cluster ===

fn host(id: i32) -> HostId {
    HostId(u16::try_from(id).expect("small"))
}

fn address(id: i32) -> String {
    format!("{}:{PORT}", host(id).ip())
}

impl Cluster {
    async fn start(world: World) -> Self {
        let env = world.process_on(HostId(99), &world.disk(), 999).env;
        let mut cluster = Self {
            world,
            env,
            logs: Arc::default(),
            nodes: BTreeMap::new(),
        };
        let starting: Vec<_> = (1..=NODES)
            .map(|id| cluster.begin(id, 0, MemoryDisk::default()))
            .collect();
        for node in starting {
            let node = node.await.expect("it runs");
            cluster.nodes.insert(node.id, node);
        }
        cluster.create_topic().await;
        cluster
    }

    fn begin(&self, id: i32, lives: u64, disk: MemoryDisk) -> tokio::sync::oneshot::Receiver<Node> {
        let number = u64::try_from(id).expect("positive");
        let process = self
            .world
            .process_on(host(id), &self.world.disk(), number * 100 + lives);
        let (inside, logs) = (process.clone(), Arc::clone(&self.logs));
        process.env.start("node", async move {
            let env = inside.env.clone();
            let directory_id = Uuid::from_u128(u128::from(number));
            let registry = Registry::new();
            let options = PeersOptions {
                node: BrokerId(id),
                directory_id,
                listen: Some(address(id).parse().expect("an address")),
                secret: Some(Secret::new(SECRET).expect("long enough")),
            };
            let peers = Peers::start(&env, options, &registry).await.expect("peers");
            let together = ClusterOptions {
                transport: Arc::new(PeersTransport::new(peers.clone())),
                seeds: (1..=NODES).map(address).collect(),
                address: address(id),
                directory_id,
                controller: true,
            };
            let options = MetadataOptions {
                dir: PathBuf::new(),
                node_id: number,
                store: StoreKind::Kept(disk.clone()),
            };
            let metadata = Metadata::start_in_cluster(env.clone(), options, together);
            let metadata = metadata.await.expect("metadata");
            let me = register(&env, &metadata, BrokerId(id), directory_id).await;
            env.spawn("lead", lead(env.clone(), metadata.clone(), me));
            let placer = Placer::new(env.clone(), metadata.clone());
            let controller = Controller::start(ControllerDeps {
                env: env.clone(),
                metadata: metadata.clone(),
                peers: Some(peers),
                me,
                local: Arc::new(Broker {
                    env,
                    me,
                    metadata: metadata.clone(),
                    placer,
                    logs,
                }),
                flush: Arc::new(|_| SegmentFlush::Os),
                unclean: false,
                timers: Timers::default(),
                interval: ms(500),
                registry,
            });
            Node {
                id,
                lives,
                process: inside,
                metadata,
                disk,
                me,
                controller: controller.expect("metrics"),
            }
        })
    }

    async fn create_topic(&self) {
        let node = &self.nodes[&1];
        let placer = Placer::new(self.env.clone(), node.metadata.clone());
        let asked = NewPartitions {
            count: usize::try_from(PARTITIONS).expect("positive"),
            replication_factor: 3,
            flush: SegmentFlush::Os,
        };
        let all = usize::try_from(NODES).expect("positive");
        let registered = || (node.metadata.image().brokers.len() == all).then_some(());
        self.until("all are registered", registered).await;
        let command = Command::CreateTopic {
            id: topic(1),
            name: "t".to_owned(),
            internal: false,
            origin: TopicOrigin::Admin,
            replication_factor: 3,
            configs: [("min.insync.replicas".to_owned(), "2".to_owned())].into(),
            partitions: placer.place(asked).expect("placed"),
            leader: BrokerId(1),
        };
        node.metadata.propose(command).await.expect("created");
        self.until_healthy().await;
    }

    /// Waits until `look` finds something; tells after how long.
    async fn until<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> (T, Duration) {
        let began = self.env.now();
        loop {
            let took = self.env.now() - began;
            if let Some(found) = look() {
                return (found, took);
            }
            assert!(took < PATIENCE, "seed {}: never: {what}", self.world.seed());
            self.env.sleep(ms(5)).await;
        }
    }

    async fn until_healthy(&self) -> Duration {
        let healthy = || {
            let mut all = self.nodes.values();
            all.all(|node| {
                let counts = Placer::new(self.env.clone(), node.metadata.clone()).counts();
                counts
                    == Counts {
                        partitions: u64::try_from(PARTITIONS).expect("positive"),
                        ..Counts::default()
                    }
            })
            .then_some(())
        };
        self.until("all is healthy", healthy).await.1
    }

    /// Waits until others see that nothing is led by `gone`, and tells after how long.
    async fn until_led_without(&self, gone: i32) -> Duration {
        let others = || {
            let mut others = self.nodes.values().filter(|node| node.id != gone);
            let is_led = |node: &Node| {
                let image = node.metadata.image();
                (0..PARTITIONS).all(|index| {
                    let open = Segment::open(&image, partition(1, index));
                    open.is_some_and(|open| {
                        open.state == SegmentState::Active && open.leader.broker != BrokerId(gone)
                    })
                })
            };
            others.all(is_led).then_some(())
        };
        self.until("others lead", others).await.1
    }

    async fn metadata_leader(&self) -> i32 {
        let leads = || {
            let mut nodes = self.nodes.values();
            let leader = nodes.find(|node| node.metadata.leadership().borrow().leads);
            leader.map(|node| node.id)
        };
        self.until("somebody leads", leads).await.0
    }

    async fn restart(&mut self, id: i32) {
        let old = self.nodes.remove(&id).expect("known");
        let node = self.begin(id, old.lives + 1, old.disk.copy());
        let started = self.env.timeout(PATIENCE, node).await;
        let node = started.expect("in time").expect("it runs");
        assert!(node.me.incarnation > old.me.incarnation);
        self.nodes.insert(id, node);
    }

    fn process(&self, id: i32) -> &Process {
        &self.nodes[&id].process
    }
}

async fn register(env: &Env, metadata: &Metadata, broker: BrokerId, directory_id: Uuid) -> Member {
    let expected = metadata
        .image()
        .brokers
        .get(&broker)
        .map(|it| it.incarnation);
    let command = Command::RegisterBroker {
        broker,
        directory_id,
        expected,
        listeners: BTreeMap::new(),
        peer: Some(address(broker.0)),
        roles: mainstem_metadata::Roles::default(),
        intact: expected,
        directory_life: None,
        request: Uuid::from_bytes(env.random_uuid()),
    };
    loop {
        match metadata.propose(command.clone()).await {
            Ok(mainstem_metadata::Applied::Registered { incarnation }) => {
                return Member::new(broker, incarnation);
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.is_retriable(), "{error}"),
        }
        env.sleep(ms(50)).await;
    }
}

/// Any node but the one that leads the metadata quorum, or that one.
fn other_than(leader: i32) -> i32 {
    leader % NODES + 1
}

#[test]
fn a_killed_broker_is_replaced_in_well_under_two_seconds() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let mut cluster = Cluster::start(world).await;
            let leader = cluster.metadata_leader().await;
            for victim in [other_than(leader), leader] {
                cluster.process(victim).end();
                let took = cluster.until_led_without(victim).await;
                println!("seed {seed}: killed {victim}, controller {leader}: {took:?}");
                let limit = if victim == leader { 3_000 } else { 500 };
                assert!(took < ms(limit), "seed {seed}: {took:?}");
                cluster.restart(victim).await;
                cluster.until_healthy().await;
            }
        });
    }
}

#[test]
fn a_paused_broker_is_replaced_and_comes_back() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let cluster = Cluster::start(world).await;
            let leader = cluster.metadata_leader().await;
            for victim in [other_than(leader), leader] {
                cluster.process(victim).pause();
                let took = cluster.until_led_without(victim).await;
                println!("seed {seed}: paused {victim}, controller {leader}: {took:?}");
                assert!(took < ms(6_000), "seed {seed}: {took:?}");
                cluster.process(victim).resume();
                cluster.until_healthy().await;
            }
        });
    }
}

#[test]
fn an_isolated_broker_is_replaced_and_comes_back() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let cluster = Cluster::start(world).await;
            let leader = cluster.metadata_leader().await;
            for victim in [other_than(leader), leader] {
                cluster.world.net().isolate(host(victim));
                let took = cluster.until_led_without(victim).await;
                println!("seed {seed}: isolated {victim}, controller {leader}: {took:?}");
                assert!(took < ms(6_000), "seed {seed}: {took:?}");
                cluster.world.net().rejoin(host(victim));
                cluster.until_healthy().await;
            }
        });
    }
}

#[test]
fn below_min_insync_partitions_wait_and_a_restart_of_all_heals() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let mut cluster = Cluster::start(world).await;
            for id in 1..=NODES {
                cluster.process(id).end();
            }
            let mut starting = Vec::new();
            for (_, old) in std::mem::take(&mut cluster.nodes) {
                starting.push(cluster.begin(old.id, old.lives + 1, old.disk.copy()));
            }
            for node in starting {
                let node = cluster.env.timeout(PATIENCE, node).await;
                let node = node.expect("in time").expect("it runs");
                cluster.nodes.insert(node.id, node);
            }
            cluster.until_healthy().await;
            for node in cluster.nodes.values() {
                node.controller.close().await;
            }
        });
    }
}

#[test]
fn a_broker_cut_off_from_the_controller_alone_is_fenced_and_comes_back() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let cluster = Cluster::start(world).await;
            let leader = cluster.metadata_leader().await;
            let victim = other_than(leader);
            let net = cluster.world.net();
            net.cut(host(victim), host(leader));
            net.cut(host(leader), host(victim));
            let took = cluster.until_led_without(victim).await;
            println!("seed {seed}: cut {victim} off from controller {leader}: {took:?}");
            assert!(took < ms(6_000), "seed {seed}: {took:?}");
            net.heal(host(victim), host(leader));
            net.heal(host(leader), host(victim));
            cluster.until_healthy().await;
        });
    }
}

#[test]
fn the_controller_is_killed_at_any_moment_of_a_fail_over() {
    for after in [0, 20, 40, 60, 80, 200] {
        run(after, |world| async move {
            let mut cluster = Cluster::start(world).await;
            let leader = cluster.metadata_leader().await;
            let victim = other_than(leader);
            cluster.process(victim).end();
            cluster.env.sleep(ms(after)).await;
            cluster.process(leader).end();
            // One of three has no majority: nothing is decided until another is back.
            cluster.restart(victim).await;
            cluster.until_led_without(leader).await;
            cluster.restart(leader).await;
            cluster.until_healthy().await;
        });
    }
}
