//! Three whole brokers, nothing of them made up, on simulated networks and disks.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use mainstem_broker::{
    Acks, Broker, BrokerDeps, Caller, CommitPartition, CommitRequest, CommitTopic, Produced,
    TopicRef,
};
use mainstem_config::{Config, Sources, load};
use mainstem_env::Env;
use mainstem_log::{Log, LogOptions};
use mainstem_metadata::{
    ClusterOptions, MemoryDisk, Metadata, MetadataOptions, StoreKind, transport::PeersTransport,
};
use mainstem_peers::{Peers, PeersOptions, Secret};
use mainstem_record::{
    BatchBuilder, BatchOptions, BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, Sequence, TimestampMs,
};
use mainstem_simulation::{HostId, Process, World};
use prometheus::Registry;
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const PORT: u16 = 9301;
const NODES: i32 = 3;
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TOPIC: TopicRef<'static> = TopicRef::Name("t");
pub(crate) const INDEX: PartitionIndex = PartitionIndex(0);

pub(crate) struct Node {
    pub(crate) broker: Broker,
    pub(crate) metadata: Metadata,
    pub(crate) process: Process,
}

pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) nodes: BTreeMap<i32, Node>,
}

fn host(id: i32) -> HostId {
    HostId(u16::try_from(id).expect("small"))
}

fn address(id: i32) -> String {
    format!("{}:{PORT}", host(id).ip())
}

pub(crate) fn caller() -> Caller {
    Caller::anonymous(([127, 0, 0, 1], 1).into(), "client")
}

fn config(id: i32, copy_rate: Option<u64>) -> Config {
    let flags = [
        ("node.id", id.to_string()),
        ("data.dir", "/data".to_owned()),
        ("offsets.topic.num.partitions", "2".to_owned()),
        ("mqtt.sessions.partitions", "2".to_owned()),
        ("mqtt.retained.partitions", "1".to_owned()),
        ("mqtt.sys.interval", "0".to_owned()),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value));
    let sources = Sources {
        file: None,
        env: Vec::new(),
        flags: flags.into(),
    };
    let mut config = load(sources).expect("a legal configuration");
    config.cluster.seeds = (1..=NODES).map(address).collect();
    if let Some(rate) = copy_rate {
        config.cluster.copy_bytes_per_second = rate;
    }
    config
}

async fn start(process: Process, id: i32, copy_rate: Option<u64>) -> Node {
    let env = process.env.clone();
    let number = u64::try_from(id).expect("positive");
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
        store: StoreKind::Kept(MemoryDisk::default()),
    };
    let metadata = Metadata::start_in_cluster(env.clone(), options, together);
    let metadata = metadata.await.expect("metadata");
    let config = config(id, copy_rate);
    env.fs
        .create_dir_all(&config.data_dir)
        .expect("a directory");
    let options = LogOptions {
        shards: 1,
        low_space_bytes: 0,
        journal_bytes: 1 << 20,
        tail_cache_bytes: 1 << 20,
        ..LogOptions::new(PathBuf::from("/data/log"))
    };
    let log = Log::start(env.clone(), options, &registry).await;
    let (log, log_events) = log.expect("the log");
    let broker = Broker::start(BrokerDeps {
        env,
        config: Arc::new(config),
        metadata: metadata.clone(),
        log,
        log_events,
        peers: Some(peers),
        peer_address: Some(address(id)),
        registry,
        advertise: (host(id).ip().to_string(), 9092),
        directory_id,
    });
    let broker = broker.await.expect("the broker");
    Node {
        broker,
        metadata,
        process,
    }
}

/// One record of an idempotent producer.
fn batch(producer: ProducerId, sequence: i32) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: producer,
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
        ..BatchOptions::default()
    });
    let value = sequence.to_string();
    builder.push_record(0, TimestampMs(1), None, Some(value.as_bytes()), []);
    builder.finish().expect("a batch").freeze()
}

// === impl Cluster ===

impl Cluster {
    pub(crate) async fn start(world: World) -> Self {
        Self::start_with(world, None).await
    }

    /// Nodes that copy sealed segments at `copy_rate` bytes per second.
    pub(crate) async fn start_with(world: World, copy_rate: Option<u64>) -> Self {
        let env = world.process_on(HostId(99), &world.disk(), 999).env;
        let starting: Vec<_> = (1..=NODES)
            .map(|id| {
                let number = u64::try_from(id).expect("positive");
                let process = world.process_on(host(id), &world.disk(), number * 100);
                let inside = process.clone();
                process.env.start("node", start(inside, id, copy_rate))
            })
            .collect();
        let mut nodes = BTreeMap::new();
        for (id, node) in (1..).zip(starting) {
            nodes.insert(id, node.await.expect("it runs"));
        }
        Self { env, nodes }
    }

    /// Asks all nodes until one answers as it should, as clients do that look for the right one.
    pub(crate) async fn ask<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        ask: impl Fn(Broker) -> F,
    ) -> (i32, T) {
        let began = self.env.now();
        loop {
            for (id, node) in &self.nodes {
                if let Some(answer) = ask(node.broker.clone()).await {
                    return (*id, answer);
                }
            }
            assert!(self.env.now() - began < PATIENCE, "never: {what}");
            self.env.sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn produce(&self, producer: ProducerId, sequence: i32) -> (i32, Produced) {
        let env = &self.env;
        self.ask("produced", |broker| async move {
            let batch = batch(producer, sequence);
            let caller = caller();
            let ticket = broker.produce(&caller, &TOPIC, INDEX, batch, Acks::All);
            match ticket.await {
                // Answered within the client's patience, or tried again.
                Ok(ticket) => env.timeout(Duration::from_secs(2), ticket).await.ok()?.ok(),
                Err(error) => {
                    assert!(error.code.is_retriable(), "{error:?}");
                    None
                }
            }
        })
        .await
    }

    pub(crate) async fn commit(&self, offset: i64) -> i32 {
        let committed = self.ask("committed", |broker| async move {
            let partition = CommitPartition {
                index: INDEX,
                offset: Offset(offset),
                leader_epoch: LeaderEpoch::NONE,
                metadata: None,
            };
            let request = CommitRequest {
                group: "g".to_owned(),
                generation: -1,
                member_id: String::new(),
                instance_id: None,
                topics: vec![CommitTopic {
                    name: "t".to_owned(),
                    partitions: vec![partition],
                }],
            };
            let answers = broker.groups().commit(&caller(), request).await;
            let code = answers[0].partitions[0].1;
            assert!(code.is_ok() || code.is_retriable(), "{code:?}");
            code.is_ok().then_some(())
        });
        committed.await.0
    }

    pub(crate) async fn committed(&self) -> Offset {
        let fetched = self.ask("fetched", |broker| async move {
            let wanted = Some(vec![("t".to_owned(), vec![INDEX])]);
            let caller = caller();
            let offsets = broker.groups();
            let fetched = offsets.fetch_offsets(&caller, "g", None, wanted, false);
            let topics = fetched.await.ok()?;
            Some(topics[0].partitions[0].offset)
        });
        fetched.await.1
    }
}
