//! The connection shell: sockets, clocks and the broker around the codec and the machine.
//!
//! ```text
//!  bytes ─► Input ─► codec ─► Machine ─► effects ─┬─► publish, subscribe, release ─► broker
//!                                ▲                └─► sent, received, completed  ─► broker
//!            answers, deliveries └──────────────────────────────────────────────── broker
//!  bytes ◄─ Output ◄─ codec ◄─ effects
//! ```
//!
//! - `connect`: from the accepted stream to CONNACK; `websocket` puts a WebSocket under it.
//! - `connection`: the loop of one connection; `inbound` and `outbound` are its two halves,
//!   `deadlines` its clock.
//! - `input`, `output`: bytes in, bytes out; both hold nothing while a connection is idle.
//! - `deliver`: one PUBLISH to a client, encoded once per message and shared.
//! - `end`: how connections end, and what is said then; `sys`: what the node tells of itself.
//!
//! Invariants:
//! - a connection is one task; nothing of it waits in a queue without a bound: it reads no further
//!   while the broker has not taken what was read, and asks the broker for no more messages while
//!   the client has not taken what was written;
//! - a PUBLISH is answered only when the broker has answered, and what may pass is never refused:
//!   the acknowledgement is held back and the connection closed in the end;
//! - a connection that is alive is never closed for being silent while it is we who do not read.
//!
//! What may not live here: rules of the protocol (`codec`, `machine`), what a topic or a session is
//! (the broker).

mod connect;
mod connection;
mod convert;
mod deadlines;
mod deliver;
mod end;
mod inbound;
mod input;
mod metrics;
mod outbound;
mod output;
mod sys;
mod websocket;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use mainstem_broker::Broker;
use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_net::{Connection, Handler};

use crate::codec::{Limits, PROPERTY_BYTES_MAX, USER_PROPERTIES_MAX};
use connect::Opened;
use connection::Shell;
use metrics::Metrics;

/// Bytes of a CONNECT beside its will.
const CONNECT_BYTES_WITHOUT_WILL: usize = 64 << 10;

/// What the protocol is started with.
pub struct MqttDeps {
    /// The outside world.
    pub env: Env,
    /// The node's configuration.
    pub config: Arc<Config>,
    /// What stores and delivers.
    pub broker: Broker,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
}

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The byte stream itself.
    Tcp,
    /// Binary frames of a WebSocket (MQTT 5.0, chapter 6).
    WebSocket,
}

/// The MQTT protocol of one node. Cheap to clone.
#[derive(Clone)]
pub struct MqttProtocol {
    context: Arc<Context>,
}

/// What all connections share.
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) config: Arc<Config>,
    pub(crate) broker: Broker,
    pub(crate) metrics: Metrics,
    /// What the codec lets through.
    pub(crate) limits: Limits,
    /// Bytes of the largest CONNECT.
    pub(crate) connect_bytes_max: u32,
    /// Bytes of the largest other packet.
    pub(crate) packet_bytes_max: u32,
}

// === impl MqttProtocol ===

impl MqttProtocol {
    /// Prepares the protocol, and starts to say the `$SYS` topics. Must be called within a runtime.
    ///
    /// # Errors
    /// The metrics are registered already.
    pub fn new(deps: MqttDeps) -> Result<Self, prometheus::Error> {
        let mqtt = &deps.config.mqtt;
        let connect_bytes_max = CONNECT_BYTES_WITHOUT_WILL + mqtt.will_bytes_max;
        let wire = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let context = Context {
            metrics: Metrics::register(&deps.registry)?,
            limits: Limits {
                topic_levels_max: mqtt.topic_levels_max,
                filters_per_packet_max: mqtt.subscriptions_per_packet_max,
                user_properties_max: USER_PROPERTIES_MAX,
                property_bytes_max: PROPERTY_BYTES_MAX,
            },
            connect_bytes_max: wire(connect_bytes_max.min(mqtt.packet_bytes_max)),
            packet_bytes_max: wire(mqtt.packet_bytes_max),
            env: deps.env,
            config: deps.config,
            broker: deps.broker,
        };
        let context = Arc::new(context);
        sys::start(&context);
        Ok(Self { context })
    }

    /// What a listener hands its connections to.
    pub fn handler(&self, transport: Transport) -> Handler {
        let context = self.context.clone();
        Arc::new(move |connection| Box::pin(serve(context.clone(), connection, transport)))
    }
}

impl std::fmt::Debug for MqttProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MqttProtocol")
    }
}

/// Serves one connection from its first byte to its last.
async fn serve(context: Arc<Context>, connection: Connection, transport: Transport) {
    let (id, address, drain) = (connection.id, connection.peer, connection.drain.clone());
    // Boxed, as is the end: what an idle connection keeps is only what lies between.
    let opening = Box::pin(connect::open(&context, connection, transport));
    let Some(Opened {
        peer,
        session,
        start,
    }) = opening.await
    else {
        return;
    };
    tracing::debug!(connection = id, peer = %address, "mqtt client connected");
    let live = context.metrics.live(peer.version);
    let remains = {
        let mut shell = Shell::new(&context, &session, start);
        shell.run(&drain).await;
        Box::new(shell.into_remains())
    };
    tracing::debug!(connection = id, peer = %address, end = %remains.end, "mqtt client disconnected");
    Box::pin(end::finish(&context, session, remains)).await;
    drop(live);
}
