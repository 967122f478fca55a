//! What can go wrong.

use std::{io, net::SocketAddr};

use mainstem_record::BrokerId;

use crate::identity::{ADDRESS_BYTES_MAX, SECRET_BYTES_MAX, SECRET_BYTES_MIN};

/// What can go wrong before peers are reached.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The address cannot be bound: taken, not of this machine, or not permitted.
    #[error("peers cannot be listened for on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// Without a secret anybody could join.
    #[error("{address} is no loopback address: peers there need cluster.secret")]
    SecretNeeded {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The secret is too short or too long.
    #[error(
        "a cluster secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, and this one has {bytes}"
    )]
    SecretLength {
        /// Its length.
        bytes: usize,
    },
    /// The text is no address.
    #[error("{text:?} is no host:port of at most {ADDRESS_BYTES_MAX} bytes")]
    Address {
        /// The text, or its beginning.
        text: String,
    },
    /// The metrics are registered already.
    #[error("the metrics of peers cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why a call or a stream came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was not sent: there is no connection.
    #[error("node cannot be reached: {0}")]
    Unreachable(Unreachable),
    /// No answer came in time; it may have been executed.
    #[error("no answer came in time")]
    TimedOut,
    /// The connection ended before the answer came; it may have been executed.
    #[error("the connection ended before the answer came")]
    Lost,
    /// The handler said no.
    #[error("refused with code {code}: {text}")]
    Refused {
        /// The service's code.
        code: u16,
        /// For people.
        text: String,
    },
    /// The other side has too much to do; it was not executed.
    #[error("the node has too many calls to answer")]
    Busy,
    /// The other side does not serve this.
    #[error("the node has no such service")]
    NoService,
    /// The body is longer than [`crate::BODY_BYTES_MAX`]; it was not sent.
    #[error("the body has {bytes} bytes, more than a frame may")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The peers of this node are closed; it was not sent.
    #[error("the node is stopping")]
    Closed,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No address of that node is known.
    #[error("no address of it is known")]
    NoAddress,
    /// It is this node itself.
    #[error("it is this node itself")]
    Itself,
    /// Its machine answered that nobody listens there: the process is not there, or not yet.
    #[error("the connection was refused")]
    Refused,
    /// Nothing came back in time.
    #[error("the connection was not made in time")]
    TimedOut,
    /// The name of its address has no address.
    #[error("its name cannot be resolved: {0}")]
    Unresolved(String),
    /// It has no loopback address, and this node has no secret to show there.
    #[error("it has no loopback address, which needs cluster.secret")]
    SecretNeeded,
    /// The network said no.
    #[error("the connection failed: {0}")]
    Failed(String),
    /// One side did not want the other.
    #[error("the handshake failed: {0}")]
    Handshake(HandshakeError),
}

/// Why two nodes do not talk to each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// No version is spoken by both.
    #[error(
        "no common version: this side speaks {ours_min} to {ours_max}, the other {theirs_min} to {theirs_max}"
    )]
    Version {
        /// Our lowest.
        ours_min: u16,
        /// Our highest.
        ours_max: u16,
        /// Its lowest.
        theirs_min: u16,
        /// Its highest.
        theirs_max: u16,
    },
    /// It does not know the cluster's secret.
    #[error("the cluster secrets differ")]
    Secret,
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs:?}, this node to {ours:?}")]
    Cluster {
        /// Our cluster id.
        ours: String,
        /// Its cluster id.
        theirs: String,
    },
    /// It is this very node: the same node id and data directory.
    #[error("it is this node itself")]
    Itself,
    /// It runs under this node's id with another data directory.
    #[error("it runs under this node's own id {node} with another data directory")]
    OwnNodeId {
        /// The id.
        node: BrokerId,
    },
    /// Another node is connected under that id.
    #[error("a node {node} with another data directory is connected already")]
    Duplicate {
        /// The id.
        node: BrokerId,
    },
    /// Somebody else answers at the node's address.
    #[error("node {found} answers at the address of node {expected}")]
    WrongNode {
        /// Who was looked for.
        expected: BrokerId,
        /// Who answered.
        found: BrokerId,
    },
    /// The other side takes no more connections.
    #[error("the other side has too many connections")]
    TooMany,
    /// The other side said nothing for too long.
    #[error("the other side said nothing for too long")]
    TimedOut,
    /// The connection ended before the handshake did.
    #[error("the connection ended before the handshake did")]
    Ended,
    /// The bytes are none of a handshake: another program, or a broken one.
    #[error("what was received is no handshake: {0}")]
    Malformed(&'static str),
    /// The other side refused without a reason that this version knows.
    #[error("refused by the other side with the unknown reason {0}")]
    Other(u16),
}

// === impl CallError ===

impl CallError {
    /// Whether the other side may have executed the call. If not, it certainly did not.
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Lost)
    }
}
