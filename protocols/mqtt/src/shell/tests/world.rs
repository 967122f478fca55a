//! A broker in memory, and connections to it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mainstem_broker::{Broker, BrokerDeps};
use mainstem_config::Config;
use mainstem_env::{BoxFuture, Clock, Env, Fs, MemFs};
use mainstem_log::{Log, LogOptions};
use mainstem_metadata::{Metadata, MetadataOptions, StoreKind};
use mainstem_net::Connection;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use super::{
    super::{MqttDeps, MqttProtocol, Transport},
    Client,
};

/// Bytes that lie between the two ends of a connection.
const PIPE_BYTES: usize = 64 << 10;

/// How much faster than the real one the clock of [`World::hasty`] runs.
pub(super) const HASTE: u32 = 40;

pub(super) struct World {
    pub(super) env: Env,
    pub(super) protocol: MqttProtocol,
    pub(super) drain: CancellationToken,
    pub(super) registry: Registry,
}

/// The real clock, only faster, so that keep alives run out within a test.
struct Hasty {
    real: Arc<dyn Clock>,
    faster: u32,
}

impl Clock for Hasty {
    fn now(&self) -> Duration {
        self.real.now() * self.faster
    }

    fn wall_ms(&self) -> i64 {
        self.real.wall_ms()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.real.sleep(duration / self.faster)
    }
}

// === impl World ===

impl World {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration of its own.
    pub(super) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start(1, change).await
    }

    /// With a clock that runs ahead.
    pub(super) async fn hasty(change: impl FnOnce(&mut Config)) -> Self {
        Self::start(HASTE, change).await
    }

    async fn start(faster: u32, change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Arc::new(MemFs::new()), faster, change).await
    }

    /// On a disk of its own, with a clock that runs so much faster.
    pub(super) async fn on(
        disk: Arc<dyn Fs>,
        faster: u32,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let config = Arc::new(config);
        let env = Env::real().with_fs(disk);
        let registry = Registry::new();
        let options = MetadataOptions {
            dir: PathBuf::from("/data/metadata"),
            node_id: 1,
            store: StoreKind::Memory,
        };
        let metadata = Metadata::start(env.clone(), options)
            .await
            .expect("metadata");
        let options = LogOptions {
            journal_bytes: 1 << 20,
            ..LogOptions::new(PathBuf::from("/data/log"))
        };
        let (log, log_events) = Log::start(env.clone(), options, &registry)
            .await
            .expect("log");
        let deps = BrokerDeps {
            env: env.clone(),
            config: config.clone(),
            metadata,
            log,
            log_events,
            peers: None,
            peer_address: None,
            registry: registry.clone(),
            advertise: ("127.0.0.1".to_owned(), 9092),
            directory_id: uuid::Uuid::from_u128(1),
        };
        let broker = Broker::start(deps).await.expect("broker");
        let real = env.clock.clone();
        let env = Env {
            clock: Arc::new(Hasty { real, faster }),
            ..env
        };
        let deps = MqttDeps {
            env: env.clone(),
            config,
            broker,
            registry: registry.clone(),
        };
        Self {
            env,
            protocol: MqttProtocol::new(deps).expect("metrics"),
            drain: CancellationToken::new(),
            registry,
        }
    }

    /// A new connection, on which nothing was sent yet.
    pub(super) fn dial(&self) -> Client {
        self.dial_over(Transport::Tcp, PIPE_BYTES)
    }

    /// The same, over a transport and with a pipe that holds so many bytes.
    pub(super) fn dial_over(&self, transport: Transport, pipe_bytes: usize) -> Client {
        let (ours, theirs) = tokio::io::duplex(pipe_bytes);
        let connection = Connection {
            stream: Box::new(theirs),
            peer: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            id: 1,
            drain: self.drain.child_token(),
        };
        let handler = self.protocol.handler(transport);
        self.env.spawn("connection under test", handler(connection));
        Client::new(ours)
    }

    /// The value of a counter with one label.
    pub(super) fn counted(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics
            .iter()
            .filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label))
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}
