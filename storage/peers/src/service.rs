//! What peers ask of each other: services, and what serves them.

use bytes::Bytes;
use mainstem_env::BoxFuture;

use crate::{PeerIdentity, PeerStream};

/// The first number of the services of the data lane.
const DATA_FIRST: u16 = 0x8000;

/// What a call or a stream is for. Its bodies are opaque here and carry their own version. A number
/// is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service(pub u16);

/// Which of the two connections to a node: what must never wait behind data has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Consensus, heartbeats, fences, forwarded administration: small and urgent.
    Control,
    /// Replication, copies, forwarded fetches and produces: many bytes.
    Data,
}

/// A handler's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it means is a matter of the service.
    pub code: u16,
    /// For people; cut at [`crate::REFUSAL_TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

/// Serves one service. Calls and streams run as tasks of their own, also those of one peer, so
/// their order is not that in which they were sent.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call. Runs to its end also when the caller has given up or is gone.
    fn call<'a>(
        &'a self,
        from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>>;

    /// Serves a stream until it ends; dropping `stream` closes it, [`PeerStream::refuse`] also tells
    /// why. It should return when the stream ends from the other side.
    ///
    /// A service without streams keeps this default, which refuses.
    fn stream<'a>(
        &'a self,
        from: &'a PeerIdentity,
        hello: Bytes,
        stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        let _ = (from, hello);
        stream.refuse(Refusal {
            code: Refusal::NO_STREAMS,
            text: "this service has no streams".to_owned(),
        });
        Box::pin(std::future::ready(()))
    }
}

// === impl Service ===

impl Service {
    /// Raft: votes and pre-votes.
    pub const RAFT_VOTE: Self = Self(1);
    /// Raft: log entries and heartbeats.
    pub const RAFT_APPEND: Self = Self(2);
    /// Who is in the cluster; asked of a seed.
    pub const JOIN: Self = Self(3);
    /// Proposals that are forwarded to the leader of the metadata quorum.
    pub const PROPOSE: Self = Self(4);
    /// A broker's registration and heartbeats.
    pub const LIVENESS: Self = Self(5);
    /// Fences and the questions of a seal.
    pub const SEAL: Self = Self(6);
    /// Administration and whatever else is small and forwarded.
    pub const ADMIN: Self = Self(7);
    /// Raft: parts of snapshots.
    pub const RAFT_SNAPSHOT: Self = Self(DATA_FIRST + 1);
    /// Streams of batches from leaders to followers.
    pub const REPLICATION: Self = Self(DATA_FIRST + 2);
    /// Copies of sealed segments and of tails.
    pub const COPY: Self = Self(DATA_FIRST + 3);
    /// Forwarded reads.
    pub const FETCH: Self = Self(DATA_FIRST + 4);
    /// Forwarded appends.
    pub const PRODUCE: Self = Self(DATA_FIRST + 5);

    /// The lane that carries it.
    pub const fn lane(self) -> Lane {
        if self.0 < DATA_FIRST {
            Lane::Control
        } else {
            Lane::Data
        }
    }
}

// === impl Lane ===

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Data];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// The code of a service that has no streams.
    pub const NO_STREAMS: u16 = u16::MAX;
    /// The code of an answer that is longer than [`crate::BODY_BYTES_MAX`].
    pub const ANSWER_TOO_LARGE: u16 = u16::MAX - 1;
}
