//! Wiring: the start of a node, and its drain.
//!
//! Start: data directory, connections to other nodes, metadata, log, broker, listeners. Drain, in this order: listeners stop
//! accepting, protocols finish what they have, broker, log, metadata, connections to other nodes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mainstem_broker::{Broker, BrokerDeps, BrokerError};
use mainstem_config::Config;
use mainstem_env::{Env, Listener};
use mainstem_kafka::{KafkaDeps, KafkaError, KafkaProtocol};
use mainstem_log::{Log, LogError, LogEvent, LogOptions};
use mainstem_metadata::{Metadata, MetadataError};
use mainstem_mqtt::{MqttDeps, MqttProtocol, Transport};
use mainstem_net::{Bound, ListenerOptions, Listening, NetError, NetMetrics};
use mainstem_record::BrokerId;
use prometheus::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, AdminListener},
    banner::{self, Addresses},
    cluster::{Cluster, ClusterError, start_metadata},
    identity::{self, DataDirError},
    process::ProcessMetrics,
};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("admin listener {address}: {source}; choose another with --admin-listen")]
    Admin {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("kafka.advertise '{0}' is not host:port")]
    Advertise(String),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// A node that serves.
struct Node {
    env: Env,
    drain_limit: Duration,
    listening: Vec<Listening>,
    admin_stop: CancellationToken,
    broker: Broker,
    log: Log,
    metadata: Metadata,
    cluster: Option<Cluster>,
}

/// Runs a node until SIGTERM or SIGINT, then drains it.
pub(crate) async fn serve(config: Config) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let env = Env::real();
    let data_dir = identity::open(&env, &config).await?;
    let node = tokio::select! {
        node = start(env, Arc::new(config), &data_dir.identity) => node?,
        // Nothing is served yet, and every file can be recovered: ending at once is safe.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    node.drain().await;
    drop(data_dir);
    Ok(())
}

async fn start(
    env: Env,
    config: Arc<Config>,
    identity: &mainstem_metadata::Identity,
) -> Result<Node, ServeError> {
    let began = env.now();
    let registry = Registry::new();
    // Addresses first: a port that is taken ends the start before anything is recovered.
    let bound = Listeners::bind(&env, &config).await?;
    let advertise = advertised(&config, bound.kafka.local_addr)?;
    let cluster = Cluster::start(&env, &config, identity, &registry).await?;
    let metadata = start_metadata(&env, &config, identity, cluster.as_ref()).await?;
    let (log, log_events) = start_log(&env, &config, &metadata, &registry).await?;
    let broker = Broker::start(BrokerDeps {
        env: env.clone(),
        config: config.clone(),
        metadata: metadata.clone(),
        log: log.clone(),
        log_events,
        peers: cluster.as_ref().map(|cluster| cluster.peers.clone()),
        peer_address: cluster.as_ref().map(|cluster| cluster.advertise.clone()),
        registry: registry.clone(),
        advertise: advertise.clone(),
        directory_id: identity.directory_id,
    })
    .await?;
    let addresses = bound.addresses(cluster.as_ref())?;
    let advertise = format!("{}:{}", advertise.0, advertise.1);
    let admin = Arc::new(Admin {
        config: config.clone(),
        advertise: advertise.clone(),
        addresses,
        broker: broker.clone(),
        log: log.clone(),
        metadata: metadata.clone(),
        process: ProcessMetrics::register(&env, &registry)?,
        registry: registry.clone(),
    });
    let (listening, admin_stop) = bound.serve(&env, &config, admin)?;
    println!("{}", banner::text(&config, &advertise, &addresses));
    let took_ms = (env.now() - began).as_millis();
    tracing::info!(took_ms, "ready");
    if config.insecure {
        tracing::warn!("insecure: whoever reaches the listeners may read and write everything");
    }
    let drain_limit = Duration::from_millis(config.drain_ms);
    Ok(Node {
        env,
        drain_limit,
        listening,
        admin_stop,
        broker,
        log,
        metadata,
        cluster,
    })
}

/// Every address of the node, bound, nothing accepted yet.
struct Listeners {
    kafka: Bound,
    mqtt: Bound,
    mqtt_ws: Bound,
    admin: Box<dyn Listener>,
    admin_address: SocketAddr,
}

// === impl Listeners ===

impl Listeners {
    async fn bind(env: &Env, config: &Config) -> Result<Self, ServeError> {
        let bind = |name, address, connections_max| {
            Bound::bind(
                env,
                ListenerOptions {
                    name,
                    address,
                    connections_max,
                },
            )
        };
        let mqtt_max = config.mqtt.connections_max;
        let kafka = bind("kafka", config.kafka_listen, config.kafka.connections_max).await?;
        let mqtt = bind("mqtt", config.mqtt_listen, mqtt_max).await?;
        let mqtt_ws = bind("mqtt-ws", config.mqtt_ws_listen, mqtt_max).await?;
        let address = config.admin_listen;
        let failed = |source| ServeError::Admin { address, source };
        let admin = env.net.listen(address).await.map_err(failed)?;
        let admin_address = admin.local_addr().map_err(failed)?;
        Ok(Self {
            kafka,
            mqtt,
            mqtt_ws,
            admin,
            admin_address,
        })
    }

    fn addresses(&self, cluster: Option<&Cluster>) -> Result<Addresses, ServeError> {
        Ok(Addresses {
            cluster: cluster.map(|cluster| cluster.listening),
            kafka: self.kafka.local_addr,
            mqtt: self.mqtt.local_addr,
            mqtt_ws: self.mqtt_ws.local_addr,
            admin: self.admin_address,
        })
    }

    fn serve(
        self,
        env: &Env,
        config: &Arc<Config>,
        admin: Arc<Admin>,
    ) -> Result<(Vec<Listening>, CancellationToken), ServeError> {
        let (broker, registry) = (admin.broker.clone(), admin.registry.clone());
        let net = NetMetrics::register(&registry)?;
        let kafka = KafkaProtocol::new(KafkaDeps {
            env: env.clone(),
            config: config.clone(),
            broker: broker.clone(),
            registry: registry.clone(),
        })?;
        let mqtt = MqttProtocol::new(MqttDeps {
            env: env.clone(),
            config: config.clone(),
            broker,
            registry,
        })?;
        let listening = vec![
            self.kafka.serve(env, &net, kafka.handler()),
            self.mqtt.serve(env, &net, mqtt.handler(Transport::Tcp)),
            self.mqtt_ws
                .serve(env, &net, mqtt.handler(Transport::WebSocket)),
        ];
        let stop = CancellationToken::new();
        let listener = AdminListener(self.admin, env.clone());
        env.spawn("admin", admin::serve(listener, admin, stop.clone()));
        Ok((listening, stop))
    }
}

/// Host and port that Kafka clients are told: as configured, else where we listen.
fn advertised(config: &Config, listening: SocketAddr) -> Result<(String, u16), ServeError> {
    let Some(configured) = &config.kafka_advertise else {
        return Ok((listening.ip().to_string(), listening.port()));
    };
    let invalid = || ServeError::Advertise(configured.clone());
    let (host, port) = configured.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

/// A node that is registered has had a log: without it, it must not pose as one that is new.
async fn start_log(
    env: &Env,
    config: &Config,
    metadata: &Metadata,
    registry: &Registry,
) -> Result<(Log, mpsc::Receiver<LogEvent>), LogError> {
    let broker = BrokerId(config.node_id);
    let is_known = metadata.image().brokers.contains_key(&broker);
    let options = log_options(config);
    if is_known {
        Log::start_existing(env.clone(), options, registry).await
    } else {
        Log::start(env.clone(), options, registry).await
    }
}

fn log_options(config: &Config) -> LogOptions {
    let storage = &config.storage;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    LogOptions {
        shards: if storage.shards == 0 {
            cores
        } else {
            storage.shards
        },
        tail_cache_bytes: storage.tail_cache_bytes,
        shard_inflight_bytes_max: storage.shard_inflight_bytes_max,
        journal_bytes: storage.journal_bytes,
        index_interval_bytes: storage.index_interval_bytes,
        low_space_bytes: storage.low_space_bytes,
        producer_expiry: Duration::from_millis(
            config.kafka.producer_id_expiration_ms.unsigned_abs(),
        ),
        decompressed_bytes_max: storage.decompressed_batch_bytes_max,
        open_files_max: crate::process::open_files_max(storage.open_files_max),
        scrub_bytes_per_second: storage.scrub_bytes_per_second,
        scrub_interval: Duration::from_secs(storage.scrub_interval_hours.saturating_mul(3600)),
        ..LogOptions::new(config.data_dir.join("log"))
    }
}

// === impl Node ===

impl Node {
    /// The written order: listeners, protocols, broker, log, metadata, connections to other nodes.
    /// Nothing is acknowledged that
    /// the next start would not find.
    async fn drain(self) {
        for listening in &self.listening {
            listening.stop_accepting();
        }
        for listening in &self.listening {
            listening.begin_drain();
        }
        let mut aborted = 0;
        let deadline = self.env.now() + self.drain_limit;
        for listening in &self.listening {
            let left = deadline.saturating_sub(self.env.now());
            aborted += listening.drained(&self.env, left).await;
        }
        if aborted > 0 {
            tracing::warn!(aborted, "connections did not end in mainstem.drain.ms");
        }
        self.broker.close().await;
        match self.log.close().await {
            Ok(()) => self.broker.note_clean_stop().await,
            Err(error) => {
                tracing::error!(%error, "the log did not close cleanly; the next start recovers it");
            }
        }
        if let Err(error) = self.metadata.close().await {
            tracing::error!(%error, "the metadata did not close cleanly");
        }
        if let Some(cluster) = self.cluster {
            cluster.peers.close().await;
        }
        self.admin_stop.cancel();
        tracing::info!("drained");
    }
}

#[cfg(test)]
mod tests {
    use mainstem_env::{Fs, MemFs};
    use mainstem_metadata::{Command, Identity, MetadataOptions, StoreKind};

    use super::*;

    #[tokio::test]
    async fn registered_node_without_its_log_does_not_start() {
        let fs = Arc::new(MemFs::new());
        let env = Env::real().with_fs(fs.clone());
        let config = Config {
            data_dir: "/data".into(),
            ..Config::default()
        };
        let (dir, log_dir) = (config.data_dir.clone(), config.data_dir.join("log"));
        fs.create_dir_all(&dir).expect("directory");
        let node_id = 1;
        let identity = Identity::load_or_create(&env, &dir, node_id)
            .await
            .expect("identity");
        let store = StoreKind::Memory;
        let options = MetadataOptions {
            dir,
            node_id,
            store,
        };
        let metadata = Metadata::start(env.clone(), options)
            .await
            .expect("metadata");
        let start = async || start_log(&env, &config, &metadata, &Registry::new()).await;

        let (log, _events) = start().await.expect("the first start makes it");
        log.close().await.expect("closed");
        let register = Command::RegisterBroker {
            broker: BrokerId(config.node_id),
            directory_id: identity.directory_id,
            expected: None,
            listeners: Default::default(),
            peer: None,
            roles: Default::default(),
            intact: None,
            directory_life: None,
            request: Default::default(),
        };
        metadata.propose(register).await.expect("registered");
        let (log, _events) = start().await.expect("it is there");
        log.close().await.expect("closed");

        fs.remove_dir_all(&log_dir).expect("removed");
        let error = ServeError::from(start().await.expect_err("it is lost")).to_string();
        assert!(error.contains("/data/log"), "{error}");
        assert!(!fs.exists(&log_dir).expect("looked"));
    }
}
