//! The connections between the nodes of a cluster: calls and streams with opaque bodies.
//!
//! ```text
//! Peers ── call, open ──> Link (node, lane) ── dials ──> Connection ══ frames ══> other node
//! Peers <── Handler <──── Server <──────────────────── Connection <══ frames ══ listener
//! ```
//!
//! # Concepts
//! - A **service** is a number that a [`Handler`] stands behind; what its bodies mean, and their
//!   version, is its own matter. Each belongs to a **lane**: a pair of nodes has one connection
//!   for control and one for data in each direction that is needed, so that a heartbeat never waits
//!   behind a segment.
//! - A connection begins with a **handshake** ([`handshake`]): both sides prove that they know the
//!   cluster's secret before anything else of them is read, then agree that they are two different
//!   nodes of one cluster. After it there are **frames** ([`frame`]) and nothing else.
//! - A **call** has one answer, at most one execution, and a time limit. Its error says whether it
//!   may have been executed ([`CallError::is_outcome_unknown`]).
//! - A **stream** carries messages both ways, in order, with credit in bytes.
//! - A **link** is the way to one node on one lane. It is dialled when it is first needed, and from
//!   then on again whenever it is lost, with bounded back-off; meanwhile calls fail at once. So a
//!   process that is gone is known by its refused connections ([`Peers::refused`]), and one that
//!   stands still by its silence ([`SILENCE_MAX`]).
//!
//! # Invariants
//! - What a frame announces makes room for 1 MiB at most, what has arrived for the rest; before the
//!   handshake is through it is 1 KiB. Every kind of frame has a bound. All queues are bounded in bytes; who is asked more than it may do says so
//!   ([`CallError::Busy`]), and does not read from who does not read.
//! - Time, network, tasks and randomness come from the injected environment, maps have an order,
//!   and nothing races for the sake of speed: the same world gives the same bytes.
//!
//! The protocol is written down byte by byte in `docs/peers.md`; why it is our own, in
//! `docs/decisions/0024-own-framing-between-nodes.md`. Nothing of metadata, Raft, segments or
//! placement may live here.

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
mod shared;
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
