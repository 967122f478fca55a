//! Listeners, byte budgets, the registry of connections and their drain.
//!
//! Concepts:
//! - A [`Listening`] accepts connections of one protocol on one address and hands each to the
//!   protocol's [`Handler`]. It knows how many are live, refuses those above the limit, and ends
//!   them all in order when the node stops:
//!
//! ```text
//! stop_accepting   the address is closed to newcomers
//! begin_drain      each connection's `drain` token is cancelled; handlers finish their work
//! drained          waits for them; those that are still there at the limit are dropped
//! ```
//! - A [`ByteBudget`] bounds the bytes of what is being worked on, over all connections; whoever
//!   finds none left waits in line, and so does not read from its socket.
//! - [`NetMetrics`] counts what goes in and out, by listener.
//!
//! Nothing of MQTT, Kafka or HTTP may live here, and no storage. A panic in a handler is a broken
//! invariant: the process ends by its panic hook, so nothing here catches one.

mod budget;
mod counted;
mod listening;
mod metrics;

pub use budget::{ByteBudget, ByteLease};
pub use listening::{Bound, Connection, Handler, ListenerOptions, Listening};
pub use metrics::NetMetrics;

use std::{io, net::SocketAddr};

/// What can go wrong before a listener serves.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address cannot be bound: taken, not of this machine, or not permitted.
    #[error("the {name} listener cannot listen on {address}: {source}")]
    Listen {
        /// The name of the listener.
        name: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The metrics are registered already.
    #[error("the network metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}
