//! Three nodes in one process, over real connections: each leads some partitions.

use std::collections::BTreeMap;

use mainstem_metadata::{ClusterOptions, TopicOrigin, transport::PeersTransport};
use mainstem_peers::{Peers, PeersOptions};
use mainstem_record::{BrokerId, PartitionId, PartitionIndex};

use super::*;
use crate::topics::{NewTopic, Replicas};

/// Three nodes, numbered from 1.
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<i32, Life>,
    _dir: tempfile::TempDir,
}

/// Starts one of the nodes whose peers listen at `seeds`.
async fn start_node(
    dir: &Path,
    (node, peers): (i32, &Peers),
    seeds: &[String],
    copy_rate: u64,
) -> Life {
    let directory_id = Uuid::from_u128(node.unsigned_abs().into());
    let together = ClusterOptions {
        transport: Arc::new(PeersTransport::new(peers.clone())),
        seeds: seeds.to_vec(),
        address: peers.local_addr().expect("it listens").to_string(),
        directory_id,
        controller: true,
    };
    let dir = dir.join(node.to_string());
    std::fs::create_dir(&dir).expect("a directory");
    let options = MetadataOptions {
        dir: dir.join("metadata"),
        node_id: node.unsigned_abs().into(),
        store: StoreKind::Memory,
    };
    let metadata = Metadata::start_in_cluster(Env::real(), options, together);
    let metadata = metadata.await.expect("metadata");
    let mut config = Config {
        node_id: node,
        ..Config::default()
    };
    config.cluster.copy_bytes_per_second = copy_rate;
    config.mqtt.sessions_partitions = 2;
    config.mqtt.retained_partitions = 1;
    let config = Arc::new(config);
    Life::start_with_peers(&dir, &metadata, &config, Some(peers.clone())).await
}

impl Cluster {
    async fn start() -> Self {
        let copy_rate = Config::default().cluster.copy_bytes_per_second;
        Box::pin(Self::start_with(copy_rate)).await
    }

    /// Nodes that copy sealed segments at `copy_rate` bytes per second.
    pub(super) async fn start_with(copy_rate: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut all = Vec::new();
        for node in 1..=3_i32 {
            let options = PeersOptions {
                node: BrokerId(node),
                directory_id: Uuid::from_u128(node.unsigned_abs().into()),
                listen: Some("127.0.0.1:0".parse().expect("an address")),
                secret: None,
            };
            let registry = prometheus::Registry::new();
            let started = Peers::start(&Env::real(), options, &registry).await;
            all.push(started.expect("peers"));
        }
        let address = |peers: &Peers| peers.local_addr().expect("it listens").to_string();
        let seeds: Vec<String> = all.iter().map(address).collect();
        let start = |node: usize| {
            let number = i32::try_from(node + 1).expect("one of three");
            start_node(dir.path(), (number, &all[node]), &seeds, copy_rate)
        };
        let (one, two, three) = tokio::join!(start(0), start(1), start(2));
        Self {
            nodes: BTreeMap::from([(1, one), (2, two), (3, three)]),
            _dir: dir,
        }
    }

    pub(super) fn core(&self, node: i32) -> &Arc<Core> {
        &self.nodes[&node].core
    }

    /// A topic with one partition that `node` leads.
    async fn topic(&self, name: &str, node: i32) {
        self.topic_of(name, node, TopicOrigin::Admin).await;
    }

    pub(super) async fn topic_of(&self, name: &str, node: i32, origin: TopicOrigin) -> PartitionId {
        let new = NewTopic {
            name: name.to_owned(),
            partitions: 1,
            replicas: Replicas::Assigned(vec![vec![BrokerId(node)]]),
            origin,
            configs: BTreeMap::new(),
        };
        let topic = self.core(node).create_topic(new).await.expect("a topic");
        let index = PartitionIndex(0);
        let id = PartitionId {
            topic: topic.id,
            index,
        };
        assert!(self.core(node).leads(id));
        id
    }

    pub(super) async fn connect(&self, node: i32, client: &str, expiry_s: u32) -> Connected {
        self.connect_with(node, client, expiry_s, |_| ()).await
    }

    async fn connect_with(
        &self,
        node: i32,
        client: &str,
        expiry_s: u32,
        change: impl FnOnce(&mut ConnectRequest),
    ) -> Connected {
        let mut request = ConnectRequest {
            client_id: client.into(),
            clean_start: expiry_s == 0,
            session_expiry_s: expiry_s,
            v5: true,
            will: None,
            receive_maximum: 100,
        };
        change(&mut request);
        let caller = Caller::anonymous(SocketAddr::from(([127, 0, 0, 1], 1)), client);
        let mqtt = &self.nodes[&node].mqtt;
        mqtt.connect(&caller, request).await.expect("connected")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_reaches_subscribers_wherever_all_three_are() {
    let cluster = Box::pin(Cluster::start()).await;
    for (topic, leader) in [("one", 1), ("two", 2), ("three", 3)] {
        cluster.topic(topic, leader).await;
        for publisher in 1..=3 {
            let subscriber = cluster.connect(3, "s", 0).await.session;
            subscribe(&subscriber, &format!("{topic}/#"), QoS::ExactlyOnce).await;
            let session = cluster.connect(publisher, "p", 60).await.session;
            for (payload, qos) in [
                ("0", QoS::AtMostOnce),
                ("1", QoS::AtLeastOnce),
                ("2", QoS::ExactlyOnce),
            ] {
                put(&session, &format!("{topic}/x"), payload, qos).await;
            }
            let taken = take(&subscriber, 3).await;
            assert_eq!(texts(&taken), ["0", "1", "2"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_goes_with_its_client_from_node_to_node() {
    let cluster = Box::pin(Cluster::start()).await;
    cluster.topic("t", 2).await;
    let publisher = cluster.connect(2, "p", 0).await.session;
    let first = cluster.connect(1, "s", 600).await;
    assert!(!first.session_present);
    subscribe(&first.session, "t/#", QoS::ExactlyOnce).await;
    put(&publisher, "t/x", "1", QoS::ExactlyOnce).await;
    let deliveries = next(&first.session).await;
    assert_eq!(texts(&deliveries), ["1"]);
    first
        .session
        .sent(vec![(9, deliveries[0].clone())])
        .await
        .expect("sent");
    // The client comes to another node while the old one still thinks that it has it.
    let second = cluster.connect(3, "s", 600).await;
    assert!(second.session_present);
    assert!(matches!(
        first.session.next(10).await,
        SessionEvent::TakenOver
    ));
    let flight: Vec<u16> = second
        .outbound
        .iter()
        .map(|resume| resume.packet_id)
        .collect();
    assert_eq!(flight, [9]);
    let refused = first.session.received(vec![9]).await;
    assert!(matches!(refused, Err(PublishError::Fenced)));
    second.session.received(vec![9]).await.expect("received");
    second.session.completed(vec![9]).await.expect("completed");
    put(&publisher, "t/x", "2", QoS::ExactlyOnce).await;
    assert_eq!(texts(&take(&second.session, 1).await), ["2"]);
    // Back to the first node, which had given everything up.
    drop(first);
    let third = cluster.connect(1, "s", 600).await;
    assert!(third.session_present);
    assert!(matches!(
        second.session.next(10).await,
        SessionEvent::TakenOver
    ));
    put(&publisher, "t/x", "3", QoS::AtLeastOnce).await;
    let taken = take(&third.session, 1).await;
    assert_eq!(texts(&taken), ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_publish_is_stored_once_though_its_client_changes_nodes() {
    let cluster = Box::pin(Cluster::start()).await;
    cluster.topic("t", 3).await;
    let subscriber = cluster.connect(3, "s", 600).await.session;
    subscribe(&subscriber, "t/#", QoS::ExactlyOnce).await;
    for round in 0..6 {
        let node = round % 3 + 1;
        let connected = cluster.connect(node, "p", 600).await;
        let text = format!("{round}");
        if round > 0 {
            // Resent: the former node has stored it, and no PUBREL has come.
            assert_eq!(connected.inbound_qos2, [5]);
            let before = format!("{}", round - 1);
            let again = publish("t/x", &before, QoS::ExactlyOnce, 5);
            connected
                .session
                .publish(again)
                .await
                .expect("taken")
                .await
                .expect("stored");
            connected.session.release(5).await.expect("released");
        }
        let fresh = publish("t/x", &text, QoS::ExactlyOnce, 5);
        connected
            .session
            .publish(fresh)
            .await
            .expect("taken")
            .await
            .expect("stored");
    }
    let taken = take(&subscriber, 6).await;
    assert_eq!(texts(&taken), ["0", "1", "2", "3", "4", "5"]);
    assert_drained(
        &cluster.connect(1, "q", 0).await.session,
        &subscriber,
        "t/x",
    )
    .await;
}
