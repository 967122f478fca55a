//! Wiring: the start of a node, and its drain.
//!
//! Start: data directory, metadata, log, broker, listeners. Drain, in this order: listeners stop
//! accepting, protocols finish what they have, broker, log, metadata.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mainstem_broker::{Broker, BrokerDeps, BrokerError};
use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_kafka::{KafkaDeps, KafkaProtocol};
use mainstem_log::{Log, LogError, LogOptions};
use mainstem_metadata::{Metadata, MetadataError, MetadataOptions, StoreKind};
use mainstem_mqtt::{MqttDeps, MqttProtocol, Transport};
use mainstem_net::{Handler, ListenerOptions, Listening, NetError, NetMetrics};
use prometheus::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, AdminListener},
    banner::{self, Addresses},
    identity::{self, DataDirError},
    process::ProcessMetrics,
};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("admin listener {address}: {source}; choose another with --admin-listen")]
    Admin { address: SocketAddr, source: std::io::Error },
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
}

/// Runs a node until SIGTERM or SIGINT, then drains it.
pub(crate) async fn serve(config: Config) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let env = Env::real();
    let data_dir = identity::open(&env, &config)?;
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
    let metadata = start_metadata(&env, &config).await?;
    let (log, log_events) = Log::start(env.clone(), log_options(&config), &registry).await?;
    let kafka_listener = bind(&env, "kafka", config.kafka_listen).await?;
    let advertise = advertised(&config, kafka_listener.local_addr()?)?;
    let broker = Broker::start(BrokerDeps {
        env: env.clone(),
        config: config.clone(),
        metadata: metadata.clone(),
        log: log.clone(),
        log_events,
        registry: registry.clone(),
        advertise: advertise.clone(),
        directory_id: identity.directory_id,
    })
    .await?;
    let protocols = Protocols::new(&env, &config, &broker, &registry)?;
    let listening = vec![
        kafka_listener.serve(config.kafka.connections_max, &protocols.net, protocols.kafka),
        bind(&env, "mqtt", config.mqtt_listen).await?.serve(
            config.mqtt.connections_max,
            &protocols.net,
            protocols.mqtt,
        ),
        bind(&env, "mqtt-ws", config.mqtt_ws_listen).await?.serve(
            config.mqtt.connections_max,
            &protocols.net,
            protocols.mqtt_ws,
        ),
    ];
    let admin_failed = |source| ServeError::Admin { address: config.admin_listen, source };
    let admin_listener = env.net.listen(config.admin_listen).await.map_err(admin_failed)?;
    let addresses = Addresses {
        kafka: listening[0].local_addr,
        mqtt: listening[1].local_addr,
        mqtt_ws: listening[2].local_addr,
        admin: admin_listener.local_addr().map_err(admin_failed)?,
    };
    let advertise = format!("{}:{}", advertise.0, advertise.1);
    let admin_stop = CancellationToken::new();
    let admin = Arc::new(Admin {
        config: config.clone(),
        advertise: advertise.clone(),
        addresses,
        broker: broker.clone(),
        log: log.clone(),
        metadata: metadata.clone(),
        process: ProcessMetrics::register(&env, &registry)?,
        registry,
    });
    let listener = AdminListener(admin_listener, env.clone());
    env.spawn("admin", admin::serve(listener, admin, admin_stop.clone()));
    println!("{}", banner::text(&config, &advertise, &addresses));
    let took_ms = (env.now() - began).as_millis();
    tracing::info!(took_ms, "ready");
    if config.insecure {
        tracing::warn!("insecure: whoever reaches the listeners may read and write everything");
    }
    Ok(Node {
        drain_limit: Duration::from_millis(config.drain_ms),
        env,
        listening,
        admin_stop,
        broker,
        log,
        metadata,
    })
}
