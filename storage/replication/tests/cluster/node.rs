//! Whole nodes below the broker, on simulated networks and disks, in virtual time.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_log::{
    Ack, Append, AppendError, Appended, Flush, Log, LogOptions, Partition, PartitionSettings, Read,
};
use mainstem_metadata::{
    ClusterOptions, Command, MemoryDisk, Metadata, MetadataOptions, SegmentFlush, StoreKind, Topic,
    TopicOrigin, transport::PeersTransport,
};
use mainstem_peers::{Peers, PeersOptions, Secret};
use mainstem_record::{
    BrokerId, EncodedRecord, Offset, PartitionId, PartitionIndex, TimestampMs, TimestampType,
    TopicId,
};
use mainstem_replication::{NewPartitions, Policies, Replication, ReplicationDeps};
use mainstem_simulation::{HostId, Process, SimFs, World};
use prometheus::Registry;
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const PORT: u16 = 9301;
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the partitions of all topics are written.
pub(crate) struct Written(SegmentFlush);

pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) replication: Replication,
    pub(crate) metadata: Metadata,
    lives: u64,
    process: Process,
    kept: MemoryDisk,
    disk: SimFs,
}

pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) nodes: BTreeMap<i32, Node>,
    world: World,
    count: i32,
    flush: SegmentFlush,
}

// === impl Written ===

impl Policies for Written {
    fn settings(&self, _topic: &Topic, flush: SegmentFlush) -> PartitionSettings {
        PartitionSettings {
            flush: match flush.max(self.0) {
                SegmentFlush::Always => Flush::Always,
                _ => Flush::Os,
            },
            segment_bytes: 1 << 30,
            segment_ms: i64::MAX,
            timestamp_type: TimestampType::CreateTime,
        }
    }

    fn flush(&self, _topic: &Topic) -> SegmentFlush {
        self.0
    }

    fn delete_delay(&self, _topic: &Topic) -> Duration {
        Duration::ZERO
    }
}

fn host(id: i32) -> HostId {
    HostId(u16::try_from(id).expect("small"))
}

fn address(id: i32) -> String {
    format!("{}:{PORT}", host(id).ip())
}

pub(crate) fn topic() -> TopicId {
    TopicId(Uuid::from_u128(1))
}

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId {
        topic: topic(),
        index: PartitionIndex(index),
    }
}

// === impl Cluster ===

impl Cluster {
    pub(crate) async fn start(world: World, count: i32, flush: SegmentFlush) -> Self {
        let env = world.process_on(HostId(99), &world.disk(), 999).env;
        let mut cluster = Self {
            world,
            env,
            nodes: BTreeMap::new(),
            count,
            flush,
        };
        let starting: Vec<_> = (1..=count)
            .map(|id| {
                let disk = cluster.world.disk();
                cluster.begin(id, 0, MemoryDisk::default(), disk)
            })
            .collect();
        for node in starting {
            let node = node.await.expect("it runs");
            cluster.nodes.insert(node.id, node);
        }
        let all = usize::try_from(count).expect("positive");
        let registered = || {
            let mut nodes = cluster.nodes.values();
            nodes.all(|node| node.metadata.image().brokers.len() == all)
        };
        cluster.until("all are registered", registered).await;
        cluster
    }

    fn begin(
        &self,
        id: i32,
        lives: u64,
        kept: MemoryDisk,
        disk: SimFs,
    ) -> tokio::sync::oneshot::Receiver<Node> {
        let number = u64::try_from(id).expect("positive");
        let process = self.world.process_on(host(id), &disk, number * 100 + lives);
        let inside = process.clone();
        let seeds = (1..=self.count).map(address).collect();
        let flush = self.flush;
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
                seeds,
                address: address(id),
                directory_id,
                controller: true,
            };
            let options = MetadataOptions {
                dir: PathBuf::new(),
                node_id: number,
                store: StoreKind::Kept(kept.clone()),
            };
            let metadata = Metadata::start_in_cluster(env.clone(), options, together);
            let metadata = metadata.await.expect("metadata");
            let config = Config {
                node_id: id,
                data_dir: PathBuf::from("/data"),
                ..Config::default()
            };
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
            let replication = Replication::start(ReplicationDeps {
                env,
                config: Arc::new(config),
                metadata: metadata.clone(),
                log,
                log_events,
                peers: Some(peers),
                peer_address: Some(address(id)),
                registry,
                policies: Arc::new(Written(flush)),
                directory_id,
                listeners: BTreeMap::new(),
            });
            Node {
                id,
                replication: replication.await.expect("replication"),
                metadata,
                lives,
                process: inside,
                kept,
                disk,
            }
        })
    }

    /// A topic on all nodes.
    pub(crate) async fn create_topic(&self, partitions: usize, min_insync: usize) {
        let node = self.nodes.values().next().expect("a node");
        let asked = NewPartitions {
            count: partitions,
            replication_factor: self.nodes.len(),
            flush: self.flush,
        };
        let command = Command::CreateTopic {
            id: topic(),
            name: "t".to_owned(),
            internal: false,
            origin: TopicOrigin::Admin,
            replication_factor: i16::try_from(self.nodes.len()).expect("few"),
            configs: [("min.insync.replicas".to_owned(), min_insync.to_string())].into(),
            partitions: node.replication.place(asked).expect("placed"),
            leader: BrokerId(node.id),
        };
        node.metadata.propose(command).await.expect("created");
    }

    /// Waits until `look` says so; tells after how long.
    pub(crate) async fn until(&self, what: &str, look: impl Fn() -> bool) -> Duration {
        let began = self.env.now();
        loop {
            let took = self.env.now() - began;
            if look() {
                return took;
            }
            assert!(took < PATIENCE, "seed {}: never: {what}", self.world.seed());
            self.env.sleep(Duration::from_millis(5)).await;
        }
    }

    /// The node that leads a partition and takes appends.
    pub(crate) fn leader(&self, id: PartitionId) -> Option<&Node> {
        let mut nodes = self.nodes.values();
        nodes.find(|node| node.replication.led(id).is_ok())
    }

    /// Appends one record wherever it can be appended; says so only once it is exposed.
    pub(crate) async fn put(&self, id: PartitionId, value: &str) -> Appended {
        let began = self.env.now();
        loop {
            let led = self
                .leader(id)
                .and_then(|node| node.replication.led(id).ok());
            if let Some(led) = led
                && let Ok(Ok(appended)) = self
                    .env
                    .timeout(Duration::from_secs(5), put(&led, value))
                    .await
            {
                return appended;
            }
            let took = self.env.now() - began;
            assert!(
                took < PATIENCE,
                "seed {}: never appended",
                self.world.seed()
            );
            self.env.sleep(Duration::from_millis(50)).await;
        }
    }

    /// The process of a node is gone; its disk stays.
    pub(crate) fn kill(&mut self, id: i32) -> (u64, MemoryDisk, SimFs) {
        let node = self.nodes.remove(&id).expect("known");
        node.process.end();
        drop(node.replication);
        (node.lives, node.kept, node.disk.process_death())
    }

    pub(crate) async fn restart(&mut self, id: i32, (lives, kept, disk): (u64, MemoryDisk, SimFs)) {
        let node = self.begin(id, lives + 1, kept.copy(), disk);
        let started = self.env.timeout(PATIENCE, node).await;
        let node = started.expect("in time").expect("it runs");
        self.nodes.insert(id, node);
    }
}

pub(crate) async fn put(partition: &Partition, value: &str) -> Result<Appended, AppendError> {
    let record = EncodedRecord::new(None, Some(value.as_bytes()), []);
    let append = Append::Records {
        records: vec![(record, TimestampMs(1))],
        ack: Ack::Durable,
    };
    partition.append(append).await?.await
}

/// All that may be read of a partition on one node, as bytes.
pub(crate) async fn content(partition: &Partition) -> Vec<u8> {
    let ends = partition.ends();
    let mut from = ends.log_start;
    let mut all = Vec::new();
    while from < ends.committed_end {
        let read = Read {
            from,
            bytes_max: 1 << 20,
            at_least_one_batch: true,
            end: ends.committed_end,
        };
        let chunk = partition.read(read).await.expect("readable");
        for batch in &chunk.batches {
            all.extend_from_slice(batch);
        }
        assert!(chunk.next > from);
        from = chunk.next;
    }
    all
}

pub(crate) fn committed(node: &Node, id: PartitionId) -> Option<Offset> {
    Some(node.replication.held(id)?.ends().committed_end)
}
