//! The connections between the nodes of a cluster: calls and streams with opaque bodies.

mod error;
mod identity;
mod peers;
mod service;
mod stream;

use std::time::Duration;

pub use error::{CallError, HandshakeError, PeersError, Unreachable};
pub use identity::{
    ADDRESS_BYTES_MAX, CLUSTER_ID_BYTES_MAX, PeerAddress, PeerIdentity, SECRET_BYTES_MAX,
    SECRET_BYTES_MIN, Secret,
};
pub use peers::{Peers, PeersOptions, Refused};
pub use service::{Handler, Lane, Refusal, Service};
pub use stream::{PeerStream, StreamEnd, StreamReceiver, StreamSender};

/// The longest body of a call, an answer or a message of a stream.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// The longest text of a refusal.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1024;
/// How long opening a stream may take.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
