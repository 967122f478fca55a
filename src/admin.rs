//! Admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`.

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
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{banner, banner::Addresses, openmetrics, process::ProcessMetrics};

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
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, format!("{body:#}\n")).into_response()
}
