//! A node: metadata, log, broker and both protocols on one disk, reached over the network.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use mainstem_broker::{Broker, BrokerDeps};
use mainstem_config::{Config, Sources, load};
use mainstem_env::{Env, Stream};
use mainstem_kafka::{KafkaDeps, KafkaProtocol};
use mainstem_log::{Log, LogOptions};
use mainstem_metadata::{Identity, MemoryDisk, Metadata, MetadataOptions, StoreKind};
use mainstem_mqtt::{MqttDeps, MqttProtocol, Transport};
use mainstem_net::{ListenerOptions, Listening, NetMetrics};
use mainstem_record::BrokerId;
use prometheus::Registry;

use crate::world::Place;

/// How long connections get to finish when a node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Keys that make segments, checkpoints and coordinators small enough for a short life.
const SMALL: &[(&str, &str)] = &[
    ("data.dir", "/data"),
    ("num.partitions", "1"),
    ("offsets.topic.num.partitions", "2"),
    ("mqtt.sessions.partitions", "2"),
    ("mqtt.retained.partitions", "1"),
    ("mqtt.cursor.checkpoint.ms", "20"),
    ("mqtt.sys.interval", "0"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("log.segment.bytes", "16384"),
    ("mainstem.io.shards", "2"),
    ("mainstem.low.space.bytes", "0"),
    ("mainstem.tail.cache.bytes", "65536"),
    // The shortest, so that its end is met often.
    ("mainstem.journal.bytes", "131072"),
];

/// A node at work.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) broker: Broker,
    pub(crate) log: Log,
    registry: Registry,
    metadata: Metadata,
    listening: Vec<Listening>,
    door: Door,
}

/// Where clients find a node: the same for all its lives.
#[derive(Clone)]
pub(crate) struct Door {
    /// The clients' own world.
    pub(crate) clients: Env,
    kafka: SocketAddr,
    mqtt: SocketAddr,
}

/// The configuration of the nodes of a test: small, with some keys set.
pub(crate) fn config(flags: &[(&str, &str)]) -> Arc<Config> {
    let all = SMALL.iter().chain(flags);
    let flags = all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let sources = Sources {
        file: None,
        env: Vec::new(),
        flags: flags.collect(),
    };
    Arc::new(load(sources).expect("config"))
}

// === impl Door ===

impl Door {
    /// That of the node that lives there.
    pub(crate) fn new(place: &Place, config: &Config) -> Self {
        let at = |address: SocketAddr| SocketAddr::new(place.host().ip(), address.port());
        Self {
            clients: place.clients.clone(),
            kafka: at(config.kafka_listen),
            mqtt: at(config.mqtt_listen),
        }
    }

    /// A connection to the Kafka listener.
    pub(crate) async fn dial_kafka(&self) -> Option<Box<dyn Stream>> {
        self.clients.net.connect(self.kafka).await.ok()
    }

    /// A connection to the MQTT listener.
    pub(crate) async fn dial_mqtt(&self) -> Option<Box<dyn Stream>> {
        self.clients.net.connect(self.mqtt).await.ok()
    }
}

// === impl Node ===

impl Deref for Node {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Node {
    /// Starts a node, or tells why it does not start: its disk may end meanwhile.
    pub(crate) async fn start(
        place: &Place,
        config: &Arc<Config>,
        metadata: &MemoryDisk,
    ) -> Result<Self, String> {
        let (env, registry) = (place.env.clone(), Registry::new());
        let door = Door::new(place, config);
        let id = i32::from(place.number);
        let identity =
            Identity::load_or_create(&env, &config.data_dir, u64::from(place.number)).await;
        let identity = identity.map_err(|error| error.to_string())?;
        let options = MetadataOptions {
            dir: config.data_dir.clone(),
            node_id: u64::from(place.number),
            store: StoreKind::Kept(metadata.clone()),
        };
        let metadata = Metadata::start(env.clone(), options).await;
        let metadata = metadata.map_err(|error| error.to_string())?;
        let is_known = metadata.image().brokers.contains_key(&BrokerId(id));
        let options = log_options(config);
        let log = if is_known {
            Log::start_existing(env.clone(), options, &registry).await
        } else {
            Log::start(env.clone(), options, &registry).await
        };
        let (log, log_events) = log.map_err(|error| error.to_string())?;
        let deps = BrokerDeps {
            env: env.clone(),
            config: config.clone(),
            metadata: metadata.clone(),
            log: log.clone(),
            log_events,
            peers: None,
            peer_address: None,
            registry: registry.clone(),
            advertise: (door.kafka.ip().to_string(), door.kafka.port()),
            directory_id: identity.directory_id,
        };
        let broker = Broker::start(deps)
            .await
            .map_err(|error| error.to_string())?;
        let listening = listen(&env, config, &door, (&broker, &registry)).await;
        Ok(Self {
            env,
            broker,
            log,
            registry,
            metadata,
            listening,
            door,
        })
    }

    /// The clean stop, in the order of the binary's.
    pub(crate) async fn drain(&self) {
        for listening in &self.listening {
            listening.stop_accepting();
            listening.begin_drain();
        }
        for listening in &self.listening {
            listening.drained(&self.env, DRAIN_LIMIT).await;
        }
        self.broker.close().await;
        // The disk may have ended meanwhile.
        if self.log.close().await.is_ok() {
            self.broker.note_clean_stop().await;
        }
        let _ = self.metadata.close().await;
    }

    /// A metric, over all its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        metrics.iter().map(value).sum()
    }
}

/// As the binary derives them.
fn log_options(config: &Config) -> LogOptions {
    let storage = &config.storage;
    LogOptions {
        shards: storage.shards,
        tail_cache_bytes: storage.tail_cache_bytes,
        shard_inflight_bytes_max: storage.shard_inflight_bytes_max,
        journal_bytes: storage.journal_bytes,
        index_interval_bytes: storage.index_interval_bytes,
        low_space_bytes: storage.low_space_bytes,
        decompressed_bytes_max: storage.decompressed_batch_bytes_max,
        open_files_max: storage.open_files_max,
        ..LogOptions::new(config.data_dir.join("log"))
    }
}

async fn listen(
    env: &Env,
    config: &Arc<Config>,
    door: &Door,
    (broker, registry): (&Broker, &Registry),
) -> Vec<Listening> {
    let net = NetMetrics::register(registry).expect("metrics");
    let kafka = KafkaProtocol::new(KafkaDeps {
        env: env.clone(),
        config: config.clone(),
        broker: broker.clone(),
        registry: registry.clone(),
    });
    let mqtt = MqttProtocol::new(MqttDeps {
        env: env.clone(),
        config: config.clone(),
        broker: broker.clone(),
        registry: registry.clone(),
    });
    let handlers = [
        ("kafka", door.kafka, kafka.expect("metrics").handler()),
        (
            "mqtt",
            door.mqtt,
            mqtt.expect("metrics").handler(Transport::Tcp),
        ),
    ];
    let mut listening = Vec::new();
    for (name, address, handler) in handlers {
        let options = ListenerOptions {
            name,
            address,
            connections_max: 100,
        };
        let started = Listening::start(env, options, &net, handler).await;
        listening.push(started.expect("listens"));
    }
    listening
}
