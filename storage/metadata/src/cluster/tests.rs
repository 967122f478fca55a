//! Clusters of several nodes in one process, on a network in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use uuid::Uuid;

use super::ClusterOptions;
use crate::{
    Applied, Command, Metadata, MetadataError, MetadataOptions, ProposeError, StoreKind,
    Unavailability,
    store::MemoryDisk,
    transport::{CallError, Handler, PeerName, Purpose, Transport},
};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network: who listens where, and who cannot reach whom.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    listeners: BTreeMap<String, (PeerName, Option<Arc<dyn Handler>>)>,
    /// Addresses that reach nobody and are reached by nobody.
    cut: BTreeSet<String>,
}

/// One node's connections.
struct Wire {
    net: Net,
    env: Env,
    address: String,
    name: PeerName,
    addresses: Mutex<BTreeMap<BrokerId, String>>,
}

/// What a test knows of a node: enough to start it again.
#[derive(Clone)]
struct Node {
    id: u64,
    directory: u128,
    address: String,
    seeds: Vec<String>,
    controller: bool,
    disk: MemoryDisk,
}

// === impl Net ===

impl Net {
    fn cut(&self, node: &Node) {
        self.0.lock().cut.insert(node.address.clone());
    }

    fn heal(&self) {
        self.0.lock().cut.clear();
    }

    /// As if its process was killed: nobody listens, and what it says reaches nobody.
    async fn kill(&self, node: &Node, metadata: Metadata) -> Node {
        self.cut(node);
        let disk = node.disk.copy();
        self.0.lock().listeners.remove(&node.address);
        metadata.close().await.expect("close");
        self.0.lock().cut.remove(&node.address);
        Node {
            disk,
            ..node.clone()
        }
    }

    async fn start(&self, node: &Node) -> Result<Metadata, MetadataError> {
        let env = Env::real();
        let name = PeerName {
            node: BrokerId(i32::try_from(node.id).expect("small")),
            directory_id: Uuid::from_u128(node.directory),
        };
        self.0
            .lock()
            .listeners
            .insert(node.address.clone(), (name, None));
        let transport = Arc::new(Wire {
            net: self.clone(),
            env: env.clone(),
            address: node.address.clone(),
            name,
            addresses: Mutex::default(),
        });
        let options = MetadataOptions {
            dir: PathBuf::new(),
            node_id: node.id,
            store: StoreKind::Kept(node.disk.clone()),
        };
        let cluster = ClusterOptions {
            transport,
            seeds: node.seeds.clone(),
            address: node.address.clone(),
            directory_id: name.directory_id,
            controller: node.controller,
        };
        let started = Metadata::start_in_cluster(env.clone(), options, cluster);
        env.timeout(PATIENCE, started).await.expect("in time")
    }

    async fn start_all(&self, nodes: &[Node]) -> Vec<Metadata> {
        let starting: Vec<_> = nodes
            .iter()
            .map(|node| {
                let (net, node) = (self.clone(), node.clone());
                Env::real().start("node", async move { net.start(&node).await })
            })
            .collect();
        let mut started = Vec::new();
        for node in starting {
            started.push(node.await.expect("runs").expect("start"));
        }
        started
    }
}

// === impl Wire ===

impl Wire {
    async fn send(&self, address: &str, body: Bytes) -> Result<Bytes, CallError> {
        let handler = {
            let wires = self.net.0.lock();
            if wires.cut.contains(address) || wires.cut.contains(&self.address) {
                return Err(CallError::Unreachable("cut".to_owned()));
            }
            match wires.listeners.get(address) {
                Some((name, _)) if *name == self.name => return Err(CallError::Myself),
                Some((_, Some(handler))) => Arc::clone(handler),
                _ => return Err(CallError::Unreachable("nobody listens".to_owned())),
            }
        };
        let answer = handler.call(self.name, body).await;
        let wires = self.net.0.lock();
        if wires.cut.contains(address) || wires.cut.contains(&self.address) {
            return Err(CallError::OutcomeUnknown);
        }
        answer.map_err(CallError::Refused)
    }
}

impl Transport for Wire {
    fn call(
        &self,
        to: BrokerId,
        _purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let address = self.addresses.lock().get(&to).cloned();
        Box::pin(async move {
            let Some(address) = address else {
                return Err(CallError::Unreachable("no address".to_owned()));
            };
            let sent = self.send(&address, body);
            let answer = self.env.timeout(limit, sent).await;
            answer.unwrap_or(Err(CallError::OutcomeUnknown))
        })
    }

    fn ask<'a>(
        &'a self,
        address: &'a str,
        _purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            let answer = self.env.timeout(limit, self.send(address, body)).await;
            answer.unwrap_or(Err(CallError::OutcomeUnknown))
        })
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        if let Some(listener) = self.net.0.lock().listeners.get_mut(&self.address) {
            listener.1 = Some(handler);
        }
    }

    fn set_cluster_id(&self, _cluster_id: &str) {}

    fn set_addresses(&self, addresses: BTreeMap<BrokerId, String>) {
        *self.addresses.lock() = addresses;
    }
}

fn node(id: u64, seeds: &[&str]) -> Node {
    Node {
        id,
        directory: id.into(),
        address: format!("n{id}:1"),
        seeds: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
        controller: true,
        disk: MemoryDisk::default(),
    }
}

const THREE: [&str; 3] = ["n1:1", "n2:1", "n3:1"];

fn three() -> [Node; 3] {
    [1, 2, 3].map(|id| node(id, &THREE))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let env = Env::real();
    let wait = async {
        while !holds() {
            env.sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(env.timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

fn leader_of(nodes: &[Metadata]) -> Option<usize> {
    nodes
        .iter()
        .position(|node| node.leadership().borrow().leads)
}

async fn leader(nodes: &[Metadata]) -> usize {
    until("a leader", || leader_of(nodes).is_some()).await;
    leader_of(nodes).expect("there is one")
}

fn voters(metadata: &Metadata) -> Vec<i32> {
    let members = metadata.status().members.into_iter();
    members
        .filter(|member| member.voter)
        .map(|member| member.node.0)
        .collect()
}

const TAKE: Command = Command::AllocateProducerIds { count: 1 };

/// Proposes until it is applied; returns the id that was taken.
async fn take(metadata: &Metadata) -> i64 {
    let env = Env::real();
    let began = env.now();
    loop {
        match metadata.propose(TAKE).await {
            Ok(Applied::ProducerIds { first, .. }) => {
                assert!(metadata.image().next_producer_id > first, "image is behind");
                return first;
            }
            Err(error) if error.is_retriable() && env.now() - began < PATIENCE => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_seeds_become_one_cluster_and_every_node_can_propose() {
    let net = Net::default();
    let nodes = net.start_all(&three()).await;
    let id = nodes[0].image().cluster_id.clone();
    assert!(!id.is_empty());
    for node in &nodes {
        assert_eq!(node.image().cluster_id, id);
        assert_eq!(voters(node), [1, 2, 3]);
    }
    let mut taken = Vec::new();
    for node in nodes.iter().cycle().take(9) {
        taken.push(take(node).await);
    }
    assert_eq!(taken, (0..9).collect::<Vec<i64>>());
    for node in &nodes {
        node.barrier().await.expect("barrier");
        assert_eq!(node.image().next_producer_id, 9, "a barrier shows all");
    }
    leader(&nodes).await;
    assert_eq!(
        nodes
            .iter()
            .filter(|node| node.leadership().borrow().leads)
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_nothing_is_lost() {
    let net = Net::default();
    let specs = three();
    let mut nodes = net.start_all(&specs).await;
    let mut specs = specs.to_vec();
    let mut taken = Vec::new();
    for _ in 0..3 {
        let dead = leader(&nodes).await;
        taken.push(take(&nodes[dead]).await);
        let metadata = nodes.remove(dead);
        let spec = specs.remove(dead);
        let spec = net.kill(&spec, metadata).await;
        taken.push(take(&nodes[0]).await);
        taken.push(take(&nodes[1]).await);
        nodes.push(net.start(&spec).await.expect("start again"));
        specs.push(spec);
    }
    let mut sorted = taken.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, taken, "each id once, in order");
    for node in &nodes {
        node.barrier().await.expect("barrier");
        assert!(node.image().next_producer_id >= 9);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_returns_does_not_raise_the_term() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    let leads = leader(&nodes).await;
    let follower = (leads + 1) % 3;
    let term = nodes[leads].health().term;
    net.cut(&specs[follower]);
    // Longer than many elections would take.
    until("it misses its leader", || {
        nodes[follower].status().term == term && nodes[follower].leadership().borrow().term == term
    })
    .await;
    Env::real().sleep(Duration::from_secs(3)).await;
    assert_eq!(
        nodes[follower].health().term,
        term,
        "it asked, and was not answered"
    );
    take(&nodes[leads]).await;
    net.heal();
    take(&nodes[follower]).await;
    assert_eq!(nodes[leads].health().term, term);
    assert!(nodes[leads].leadership().borrow().leads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_commits_nothing_and_says_so() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    let leads = leader(&nodes).await;
    take(&nodes[leads]).await;
    net.cut(&specs[leads]);
    let others: Vec<Metadata> = (0..3)
        .filter(|i| *i != leads)
        .map(|i| nodes[i].clone())
        .collect();
    until("it knows that it is alone", || {
        !nodes[leads].leadership().borrow().leads
    })
    .await;
    let refused = nodes[leads].propose(TAKE).await.expect_err("no majority");
    assert!(
        refused.is_retriable() && !refused.is_outcome_unknown(),
        "{refused:?}"
    );
    assert!(nodes[leads].barrier().await.is_err());
    assert_eq!(nodes[leads].image().next_producer_id, 1, "readable");
    leader(&others).await;
    assert_eq!(take(&others[0]).await, 1);
    net.heal();
    assert_eq!(take(&nodes[leads]).await, 2);
    // Now the majority goes.
    for spec in &specs[..2] {
        net.cut(spec);
    }
    let refused = nodes[2].propose(TAKE).await.expect_err("no majority");
    assert!(refused.is_retriable(), "{refused:?}");
    assert_eq!(nodes[2].image().next_producer_id, 3);
    net.heal();
    take(&nodes[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_can_restart_at_once() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    let id = nodes[0].image().cluster_id.clone();
    for _ in 0..5 {
        take(&nodes[0]).await;
    }
    let mut again = Vec::new();
    for (spec, node) in specs.iter().zip(nodes) {
        again.push(net.kill(spec, node).await);
    }
    let nodes = net.start_all(&again).await;
    for node in &nodes {
        assert_eq!(node.image().cluster_id, id);
    }
    assert_eq!(take(&nodes[1]).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_can_move_at_once_if_the_seeds_say_where() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    take(&nodes[0]).await;
    let mut moved = Vec::new();
    for (spec, node) in specs.iter().zip(nodes) {
        let mut spec = net.kill(spec, node).await;
        spec.address = format!("m{}:1", spec.id);
        spec.seeds = vec!["m1:1".to_owned(), "m2:1".to_owned(), "m3:1".to_owned()];
        moved.push(spec);
    }
    let nodes = net.start_all(&moved).await;
    assert_eq!(take(&nodes[2]).await, 1);
    until("the quorum knows", || {
        let members = nodes[0].status().members;
        members.iter().all(|member| member.address.starts_with('m'))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_becomes_the_first_of_many() {
    let net = Net::default();
    let one = node(1, &[]);
    let first = net.start(&one).await.expect("start");
    take(&first).await;
    let second = net.start(&node(2, &["n1:1"])).await.expect("join");
    assert_eq!(second.image().cluster_id, first.image().cluster_id);
    assert_eq!(voters(&second), [1], "two voters would be worse than one");
    assert_eq!(take(&second).await, 1);
    let third = net.start(&node(3, &["n1:1", "n2:1"])).await.expect("join");
    let nodes = [first, second, third];
    until("three voters", || {
        nodes.iter().all(|node| voters(node) == [1, 2, 3])
    })
    .await;
    let fourth = net
        .start(&node(4, &["n3:1"]))
        .await
        .expect("join by a follower");
    assert_eq!(take(&fourth).await, 2);
    assert_eq!(voters(&fourth), [1, 2, 3]);
    net.kill(&one, nodes[0].clone()).await;
    assert_eq!(take(&fourth).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_the_role_never_votes() {
    let net = Net::default();
    let first = net.start(&node(1, &[])).await.expect("start");
    let broker = |id| Node {
        controller: false,
        ..node(id, &["n1:1"])
    };
    let second = net.start(&broker(2)).await.expect("join");
    let third = net.start(&broker(3)).await.expect("join");
    take(&second).await;
    take(&third).await;
    Env::real().sleep(Duration::from_secs(1)).await;
    assert_eq!(voters(&first), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_gets_a_snapshot() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    let leads = leader(&nodes).await;
    let behind = (leads + 1) % 3;
    net.cut(&specs[behind]);
    for _ in 0..6_500 {
        take(&nodes[leads]).await;
    }
    net.heal();
    until("it has caught up", || {
        nodes[behind].image().next_producer_id == 6_500
    })
    .await;
    assert_eq!(take(&nodes[behind]).await, 6_500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_the_place_of_another_is_refused() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    // Node 2 again, on a machine of its own with an empty disk.
    let twin = Node {
        directory: 99,
        address: "x:1".to_owned(),
        ..node(2, &THREE)
    };
    let error = net.start(&twin).await.expect_err("taken").to_string();
    assert!(error.contains("node id 2 is taken"), "{error}");
    // A node of another cluster that is given our seeds.
    let alone = Net::default();
    let mut stranger = node(7, &[]);
    let other = alone.start(&stranger).await.expect("a cluster of one");
    stranger = alone.kill(&stranger, other).await;
    stranger.seeds = THREE.map(str::to_owned).to_vec();
    let error = net
        .start(&stranger)
        .await
        .expect_err("other cluster")
        .to_string();
    assert!(error.contains("cluster"), "{error}");
    for node in &nodes {
        assert_eq!(node.status().members.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_foundings_never_merge() {
    let net = Net::default();
    let other = ["n4:1", "n5:1", "n6:1"];
    let specs: Vec<Node> = [1, 2, 3]
        .map(|id| node(id, &THREE))
        .into_iter()
        .chain([4, 5, 6].map(|id| node(id, &other)))
        .collect();
    let nodes = net.start_all(&specs).await;
    let ids: Vec<String> = nodes
        .iter()
        .map(|node| node.image().cluster_id.clone())
        .collect();
    assert!(ids[..3].iter().all(|id| *id == ids[0]));
    assert!(ids[3..].iter().all(|id| *id == ids[3]));
    assert_ne!(ids[0], ids[3]);
    // Seeds of both.
    let between = node(7, &["n1:1", "n4:1"]);
    let error = net.start(&between).await.expect_err("both").to_string();
    assert!(error.contains("different clusters"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founding_that_died_at_any_point_is_finished() {
    for kept in 0..3 {
        let net = Net::default();
        let specs = three();
        let nodes = net.start_all(&specs).await;
        let id = nodes[0].image().cluster_id.clone();
        // What is left of a node that died right after it stored its promise.
        let mut again = Vec::new();
        for (index, (spec, node)) in specs.iter().zip(nodes).enumerate() {
            let mut spec = net.kill(spec, node).await;
            if index >= kept {
                spec.disk = spec.disk.only_promise();
            }
            again.push(spec);
        }
        // A quorum that lost more than a minority is no founding that died.
        if kept == 0 || kept == 2 {
            let nodes = net.start_all(&again).await;
            assert_eq!(nodes[2].image().cluster_id, id, "kept {kept}");
            take(&nodes[2]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_was_replaced_is_told_why_nothing_happens() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    let mut again = Vec::new();
    for (spec, node) in specs.iter().zip(nodes) {
        let mut spec = net.kill(spec, node).await;
        spec.disk = spec.disk.only_promise();
        again.push(spec);
    }
    // Node 1 lost its promise with its disk; the others keep theirs.
    let fresh = Node {
        directory: 77,
        ..node(1, &THREE)
    };
    let others: Vec<_> = again[1..]
        .iter()
        .map(|spec| {
            let (net, spec) = (net.clone(), spec.clone());
            Env::real().start("node", async move { net.start(&spec).await })
        })
        .collect();
    let waits = Env::real()
        .timeout(Duration::from_secs(3), net.start(&fresh))
        .await;
    assert!(waits.is_err(), "it waits, and makes no second cluster");
    drop(others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_survive_two() {
    let net = Net::default();
    let seeds = ["n1:1", "n2:1", "n3:1", "n4:1", "n5:1"];
    let specs = [1, 2, 3, 4, 5].map(|id| node(id, &seeds));
    let nodes = net.start_all(&specs).await;
    assert_eq!(voters(&nodes[0]), [1, 2, 3, 4, 5]);
    take(&nodes[0]).await;
    let leads = leader(&nodes).await;
    net.cut(&specs[leads]);
    net.cut(&specs[(leads + 1) % 5]);
    let witness = &nodes[(leads + 2) % 5];
    assert_eq!(take(witness).await, 1);
    net.cut(&specs[(leads + 3) % 5]);
    let error = loop {
        // The first may still have been committed by the three.
        match witness.propose(TAKE).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_retriable(), "{error:?}");
    net.heal();
    take(witness).await;
}

#[tokio::test]
async fn a_member_without_connections_is_refused() {
    let net = Net::default();
    let specs = three();
    let nodes = net.start_all(&specs).await;
    take(&nodes[0]).await;
    let spec = net.kill(&specs[0], nodes[0].clone()).await;
    let options = MetadataOptions {
        dir: PathBuf::new(),
        node_id: 1,
        store: StoreKind::Kept(spec.disk),
    };
    let error = Metadata::start(Env::real(), options)
        .await
        .expect_err("alone");
    assert!(error.to_string().contains("cluster of 3 nodes"), "{error}");
}

#[tokio::test]
async fn closing_is_told_from_no_leader() {
    let net = Net::default();
    let one = net.start(&node(1, &[])).await.expect("start");
    one.close().await.expect("close");
    let closed = ProposeError::Unavailable(Unavailability::Closing);
    assert_eq!(one.propose(TAKE).await, Err(closed.clone()));
    assert_eq!(one.barrier().await, Err(closed));
}
