//! Fetches of partitions whose older segments are on other brokers than the leader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::messages::{
    BrokerId as WireBroker, CreateTopicsRequest, FetchRequest,
    create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
    fetch_request::{FetchPartition, FetchTopic},
};
use mainstem_env::{Env, MemFs};
use mainstem_metadata::{
    BeginSeal, ClusterOptions, Command, Metadata, MetadataOptions, SealReason, StoreKind,
    transport::PeersTransport,
};
use mainstem_peers::{Peers, PeersOptions};
use mainstem_record::{BrokerId, PartitionId, PartitionIndex};
use uuid::Uuid;

use crate::harness::{Client, Node, batch, topic_name};

const NODES: i32 = 3;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const PATIENCE: Duration = Duration::from_secs(30);

/// Three nodes whose peers listen on loopback addresses. They copy one byte per second.
struct Cluster {
    nodes: BTreeMap<i32, Node>,
    peers: BTreeMap<i32, Peers>,
}

async fn start_node(id: i32, peers: Peers, seeds: &[String]) -> Node {
    let env = Env::real().with_fs(Arc::new(MemFs::new()));
    let together = ClusterOptions {
        transport: Arc::new(PeersTransport::new(peers.clone())),
        seeds: seeds.to_vec(),
        address: peers.local_addr().expect("it listens").to_string(),
        directory_id: Uuid::from_u128(id.unsigned_abs().into()),
        controller: true,
    };
    let options = MetadataOptions {
        dir: "/data".into(),
        node_id: id.unsigned_abs().into(),
        store: StoreKind::Memory,
    };
    let metadata = Metadata::start_in_cluster(env.clone(), options, together);
    let metadata = metadata.await.expect("metadata");
    let id = id.to_string();
    let flags = [
        ("node.id", id.as_str()),
        ("follower.replication.throttled.rate", "1"),
        ("offsets.topic.num.partitions", "1"),
        ("mqtt.sessions.partitions", "1"),
        ("mqtt.retained.partitions", "1"),
    ];
    Node::over((env, metadata), Some(peers), &flags).await
}

/// Partition 0 of these topics from these offsets on, in this order.
fn fetch(wanted: &[(&str, i64)], wait_ms: i32) -> FetchRequest {
    let topics = wanted.iter().map(|(topic, offset)| {
        let partition = FetchPartition::default()
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20);
        FetchTopic::default()
            .with_topic(topic_name(topic))
            .with_partitions(vec![partition])
    });
    FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(10 << 20)
        .with_topics(topics.collect())
}

/// Error and records of each partition.
async fn fetched(client: &mut Client, request: &FetchRequest) -> Vec<(i16, Bytes)> {
    let response = client.call(12, request).await;
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.into_iter().map(|mut topic| {
        let partition = topic.partitions.pop().expect("one");
        let records = partition.records.expect("never null");
        (partition.error_code, records)
    });
    partitions.collect()
}

// === impl Cluster ===

impl Cluster {
    async fn start() -> Self {
        let mut peers = BTreeMap::new();
        for id in 1..=NODES {
            let options = PeersOptions {
                node: BrokerId(id),
                directory_id: Uuid::from_u128(id.unsigned_abs().into()),
                listen: Some("127.0.0.1:0".parse().expect("an address")),
                secret: None,
            };
            let registry = prometheus::Registry::new();
            let started = Peers::start(&Env::real(), options, &registry).await;
            peers.insert(id, started.expect("peers"));
        }
        let address = |peers: &Peers| peers.local_addr().expect("it listens").to_string();
        let seeds: Vec<String> = peers.values().map(address).collect();
        let start = |id: i32| start_node(id, peers[&id].clone(), &seeds);
        let (one, two, three) =
            Box::pin(async { tokio::join!(start(1), start(2), start(3)) }).await;
        Self {
            nodes: BTreeMap::from([(1, one), (2, two), (3, three)]),
            peers,
        }
    }

    fn client(&self, node: i32) -> Client {
        self.nodes[&node].connect()
    }

    /// Makes a topic of one partition that `node` holds alone, with a few batches.
    async fn fill(&self, name: &str, node: i32) {
        let assignment = CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids(vec![WireBroker(node)]);
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![assignment]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let mut client = self.client(node);
        let response = client.call(7, &request).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
        self.put(&mut client, name).await;
    }

    async fn put(&self, client: &mut Client, name: &str) {
        for _ in 0..5 {
            let value = "x".repeat(200);
            let (error, _) = client.produce(9, name, batch(&[name, &value])).await;
            assert_eq!(error, 0);
        }
    }

    /// Has partition 0 of a topic led by another node than `from`; returns by whom.
    async fn move_away(&self, name: &str, from: i32) -> i32 {
        let metadata = &self.nodes[&from].metadata;
        let image = metadata.image();
        let topic = image.topic(name).expect("known");
        let open = topic.partitions[0].active().expect("open").clone();
        let member = open.leader_member();
        let drain = Command::DrainBroker { member };
        metadata.propose(drain).await.expect("draining");
        let partition = PartitionId {
            topic: topic.id,
            index: PartitionIndex(0),
        };
        let seal = BeginSeal {
            partition,
            segment: open.id,
            version: open.version,
        };
        let seal = Command::BeginSeal {
            seals: vec![seal],
            reason: SealReason::Requested,
        };
        metadata.propose(seal).await.expect("sealing");
        let clock = Env::real();
        let began = clock.now();
        loop {
            for (id, node) in &self.nodes {
                let image = node.metadata.image();
                let open = image.partition(partition).and_then(|r| r.active());
                let leads =
                    open.is_some_and(|open| open.leader == BrokerId(*id) && open.base.0 > 0);
                let request = fetch(&[(name, 0)], 0);
                if leads && fetched(&mut node.connect(), &request).await[0].0 == 0 {
                    return *id;
                }
            }
            assert!(clock.now() - began < PATIENCE, "nobody leads it");
            clock.sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_gets_what_the_leader_lacks_and_keeps_nothing_else_waiting_for_it() {
    let cluster = Box::pin(Cluster::start()).await;
    cluster.fill("old", 1).await;
    let there = fetched(&mut cluster.client(1), &fetch(&[("old", 0)], 0)).await;
    let (_, expected) = there[0].clone();
    assert!(expected.len() > 5 * 200);
    let leader = cluster.move_away("old", 1).await;
    let mut client = cluster.client(leader);
    cluster.fill("new", leader).await;
    cluster.put(&mut client, "old").await;

    // Together with what is here, in either order.
    for wanted in [[("old", 0), ("new", 0)], [("new", 0), ("old", 0)]] {
        let all = fetched(&mut client, &fetch(&wanted, 60_000)).await;
        for ((topic, _), (error, records)) in wanted.into_iter().zip(all) {
            assert_eq!((error, records.len() > 5 * 200), (0, true), "{topic}");
            assert!(topic == "new" || records == expected, "other bytes");
        }
    }
    // The first batch comes whatever its size, and only of the first that has one.
    let small = |wanted: &[(&str, i64)]| fetch(wanted, 60_000).with_max_bytes(1);
    let alone = fetched(&mut client, &small(&[("old", 0)])).await;
    let (error, one) = alone[0].clone();
    assert_eq!((error, &one[..]), (0, &expected[..one.len()]));
    assert!(!one.is_empty() && one.len() < expected.len());
    let both_of = [("old", 0), ("new", 0)];
    let both = fetched(&mut client, &small(&both_of)).await;
    assert_eq!(
        (&both[0].1, both[1].1.len()),
        (&one, 0),
        "the first is served first"
    );

    // Nobody who has it is there.
    cluster.peers[&1].close().await;
    for request in [fetch(&both_of, 60_000), small(&both_of)] {
        let all = fetched(&mut client, &request).await;
        assert_eq!((all[0].0, all[0].1.len()), (NOT_LEADER_OR_FOLLOWER, 0));
        assert!(!all[1].1.is_empty(), "the other one is served");
    }
    let clock = Env::real();
    let began = clock.now();
    let alone = fetched(&mut client, &fetch(&[("old", 0)], 300)).await;
    assert_eq!(alone[0].0, NOT_LEADER_OR_FOLLOWER);
    // Who is told at once asks again at once.
    assert!(clock.now() - began >= Duration::from_millis(300));
    let later = fetched(&mut client, &fetch(&[("old", 10)], 60_000)).await;
    assert_eq!((later[0].0, later[0].1.is_empty()), (0, false));
}
