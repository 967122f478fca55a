//! The connections between the nodes of a cluster: calls and streams with opaque bodies.

mod admission;
mod connection;
mod error;
pub mod frame;
mod greet;
pub mod handshake;
mod identity;
mod link;
mod listener;
mod metrics;
mod outbox;
mod peers;
mod service;
mod stream;

use std::time::Duration;

pub use admission::{ACCEPTED_PER_NODE_MAX, CONNECTIONS_MAX};
pub use connection::{
    CALL_BYTES_PER_NODE_MAX, CALLS_PER_CONNECTION_MAX, CALLS_PER_NODE_MAX, PING_INTERVAL,
    SILENCE_MAX, STREAMS_PER_CONNECTION_MAX,
};
pub use error::{CallError, HandshakeError, PeersError, Unreachable};
pub use identity::{
    ADDRESS_BYTES_MAX, CLUSTER_ID_BYTES_MAX, PeerAddress, PeerIdentity, SECRET_BYTES_MAX,
    SECRET_BYTES_MIN, Secret,
};
pub use link::{BACKOFF_MAX, CONNECT_TIMEOUT};
pub use listener::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
pub use peers::{CLOSE_TIMEOUT, Peers, PeersOptions, Refused};
pub use service::{Handler, Lane, Refusal, Service};
pub use stream::{PeerStream, StreamEnd, StreamReceiver, StreamSender, WINDOW_BYTES};

/// The longest body of a call, an answer or a message of a stream.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// The longest first words of a stream.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// The longest text of a refusal.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1024;
/// How long opening a stream may take.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
