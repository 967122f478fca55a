//! The Kafka protocol: what unmodified Kafka clients speak to the broker.
//!
//! A connection is framed ([`frame`]), each request is found in the table of what is served
//! ([`api`]), bounded before anything is decoded ([`bounded`]), decoded, and answered by one file
//! per API family ([`handlers`]). Responses leave in the order of the requests ([`connection`]).
//! The hot paths are our own: Produce is decoded into slices of its frame ([`produce`]), Fetch
//! responses are chains of slices of the log ([`fetch`]).
//!
//! Invariants:
//! - Nothing is allocated for a claim: lengths and counts are checked against bytes that are there.
//! - A response leaves only after those of all earlier requests of its connection.
//! - What outlives its request never keeps a frame alive.
//! - Nothing waits by polling: long polls sleep on the partitions' own wake-ups.
//! - Only what works is advertised.
//!
//! What may not live here: anything that MQTT would need too (that is the broker's), storage, and
//! decisions about topics, groups or offsets.

mod api;
mod bounded;
mod chain;
mod connection;
mod context;
mod fetch;
mod frame;
mod handlers;
mod header;
mod metrics;
mod produce;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::Broker;
use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_net::{ByteBudget, Handler};

pub use crate::wire::DecodeError;
use crate::{context::Context, fetch::session::FetchSessions, frame::MemoryPool, metrics::Metrics};

/// What the protocol is started with.
pub struct KafkaDeps {
    /// The outside world.
    pub env: Env,
    /// The node's configuration.
    pub config: Arc<Config>,
    /// What answers.
    pub broker: Broker,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
}

/// Why the protocol does not start.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The Kafka protocol of one node. Cheap to clone.
#[derive(Clone)]
pub struct KafkaProtocol {
    context: Arc<Context>,
}

// === impl KafkaProtocol ===

impl KafkaProtocol {
    /// Prepares the protocol; nothing runs until a connection comes.
    pub fn new(deps: KafkaDeps) -> Result<Self, KafkaError> {
        let metrics = Metrics::register(&deps.registry)?;
        let kafka = &deps.config.kafka;
        let context = Context {
            sessions: FetchSessions::new(
                deps.env.clone(),
                kafka.fetch_sessions_max,
                metrics.fetch_sessions.clone(),
            ),
            requests: MemoryPool::new(kafka.inflight_bytes_max),
            responses: ByteBudget::new(kafka.inflight_bytes_max),
            env: deps.env,
            broker: deps.broker,
            metrics,
            config: deps.config,
        };
        Ok(Self {
            context: Arc::new(context),
        })
    }

    /// What a listener hands its connections to.
    pub fn handler(&self) -> Handler {
        let context = self.context.clone();
        Arc::new(move |connection| {
            let context = context.clone();
            Box::pin(async move { connection::serve(context, connection).await })
        })
    }
}

/// Reads a request as a connection would, and throws it away: the entry point of fuzzing, and of
/// the test that counts allocations.
///
/// `frame` is a frame without its length.
pub fn decode_request(frame: Bytes) -> Result<(), DecodeError> {
    handlers::decode_only(frame)
}
