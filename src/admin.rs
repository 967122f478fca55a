//! Admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, `/cluster/status`, `/cluster/nodes`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use mainstem_broker::Broker;
use mainstem_config::Config;
use mainstem_env::{Env, Listener, Stream};
use mainstem_log::Log;
use mainstem_metadata::Metadata;
use mainstem_record::BrokerId;
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{banner, banner::Addresses, cluster_status, openmetrics, process::ProcessMetrics};

/// What the endpoints look at.
pub(crate) struct Admin {
    pub(crate) config: Arc<Config>,
    pub(crate) advertise: String,
    pub(crate) addresses: Addresses,
    pub(crate) broker: Broker,
    pub(crate) log: Log,
    pub(crate) metadata: Metadata,
    pub(crate) registry: Registry,
    pub(crate) process: ProcessMetrics,
}

/// The injected listener, as axum wants it.
pub(crate) struct AdminListener(pub(crate) Box<dyn Listener>, pub(crate) Env);

/// How long accepting pauses after an error, so that a lack of files does not burn the CPU.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

// === impl AdminListener ===

impl axum::serve::Listener for AdminListener {
    type Io = Box<dyn Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "admin: connection not accepted");
                    self.1.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: AdminListener, admin: Arc<Admin>, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/cluster/status", get(cluster_of))
        .route("/cluster/nodes", get(nodes_of))
        .with_state(admin);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "admin HTTP ended");
    }
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    admin.process.refresh();
    let families = admin.registry.gather();
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        let headers = [(header::CONTENT_TYPE, openmetrics::CONTENT_TYPE)];
        return (headers, openmetrics::encode(&families)).into_response();
    }
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.broker.readiness();
    if reasons.is_empty() {
        // A node that serves all but some partitions must not be taken out of service for them.
        let mut text = "ready\n".to_owned();
        for degraded in admin.broker.degraded() {
            text.push_str("degraded: ");
            text.push_str(&degraded);
            text.push('\n');
        }
        return text.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let image = admin.broker.image();
    let metadata = admin.metadata.health();
    let shards: Vec<_> = admin
        .log
        .health()
        .into_iter()
        .filter_map(|shard| Some((shard.shard, shard.failure?.to_string())))
        .map(|(shard, reason)| json!({ "shard": shard, "reason": reason }))
        .collect();
    let mut reasons = admin.broker.readiness();
    reasons.sort();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "node_id": admin.config.node_id,
        "cluster_id": image.cluster_id,
        "ready": reasons.is_empty(),
        "not_ready_because": reasons,
        "data_dir": admin.config.data_dir.display().to_string(),
        "flush": banner::flush_policy(&admin.config),
        "listeners": {
            "kafka": admin.addresses.kafka.to_string(),
            "kafka_advertised": admin.advertise,
            "mqtt": admin.addresses.mqtt.to_string(),
            "mqtt_ws": admin.addresses.mqtt_ws.to_string(),
            "admin": admin.addresses.admin.to_string(),
            "cluster": admin.addresses.cluster.map(|address| address.to_string()),
        },
        "topics": image.topics.len(),
        "partitions": admin.log.partitions().len(),
        "failed_shards": shards,
        "metadata": {
            "leader": metadata.leader,
            "term": metadata.term,
            "applied": metadata.applied,
            "committed": metadata.committed,
        },
    });
    as_json(&body)
}

async fn cluster_of(State(admin): State<Arc<Admin>>) -> Response {
    let node = BrokerId(admin.config.node_id);
    let (image, quorum) = (admin.metadata.image(), admin.metadata.status());
    as_json(&cluster_status::status(node, &image, &quorum))
}

async fn nodes_of(State(admin): State<Arc<Admin>>) -> Response {
    let (image, quorum) = (admin.metadata.image(), admin.metadata.status());
    as_json(&cluster_status::nodes(&image, &quorum))
}

fn as_json(body: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, format!("{body:#}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use mainstem_broker::BrokerDeps;
    use mainstem_log::{Ack, Append, LogOptions};
    use mainstem_metadata::{MetadataOptions, StoreKind};
    use mainstem_record::{EncodedRecord, TimestampMs};
    use mainstem_simulation::{Faults, SimFs};

    use super::*;

    async fn node(fs: &SimFs) -> Admin {
        let env = Env::real().with_fs(Arc::new(fs.clone()));
        let (config, registry) = (Arc::new(Config::default()), Registry::new());
        let options = MetadataOptions {
            dir: "/data".into(),
            node_id: 1,
            store: StoreKind::Memory,
        };
        let metadata = Metadata::start(env.clone(), options).await;
        let metadata = metadata.expect("metadata");
        let options = LogOptions::new("/data/log".into());
        let (log, log_events) = Log::start(env.clone(), options, &registry)
            .await
            .expect("log");
        let broker = Broker::start(BrokerDeps {
            env: env.clone(),
            config: config.clone(),
            metadata: metadata.clone(),
            log: log.clone(),
            log_events,
            peers: None,
            peer_address: None,
            registry: registry.clone(),
            advertise: ("localhost".to_owned(), 9092),
            directory_id: uuid::Uuid::nil(),
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Admin {
            config,
            advertise: String::new(),
            addresses: Addresses {
                cluster: None,
                kafka: nowhere,
                mqtt: nowhere,
                mqtt_ws: nowhere,
                admin: nowhere,
            },
            broker: broker.await.expect("broker"),
            log,
            metadata,
            process: ProcessMetrics::register(&env, &registry).expect("metrics"),
            registry,
        }
    }

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        String::from_utf8(bytes.expect("a body").to_vec()).expect("text")
    }

    #[tokio::test]
    async fn failed_shard_is_told_by_readyz_status_and_metrics() {
        let fs = SimFs::new();
        let admin = Arc::new(node(&fs).await);
        let ready = readyz(State(admin.clone())).await;
        assert_eq!(
            (ready.status(), body(ready).await),
            (StatusCode::OK, "ready\n".to_owned())
        );

        fs.set_faults(Faults {
            sync: true,
            ..Faults::default()
        });
        let partition = admin.log.partitions().into_iter().next();
        let partition = partition.expect("an internal topic");
        let nothing: [(&[u8], Option<&[u8]>); 0] = [];
        let append = Append::Record {
            record: EncodedRecord::new(None, Some(b"v"), nothing),
            attributes: 0,
            timestamp: TimestampMs(1),
            qos2: None,
            ack: Ack::Durable,
        };
        let ticket = partition.append(append).await.expect("a place");
        ticket.await.expect_err("the sync fails");

        let shard = format!("log shard {}: ", partition.shard());
        let ready = readyz(State(admin.clone())).await;
        assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
        let reason = body(ready).await;
        assert!(reason.starts_with(&shard), "{reason}");
        let text = body(status(State(admin.clone())).await).await;
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["ready"], false);
        assert_eq!(answer["failed_shards"][0]["shard"], partition.shard());
        let text = body(metrics(State(admin), HeaderMap::new()).await).await;
        assert!(text.contains("\nmainstem_log_shard_failed 1\n"), "{text}");
    }
}
