//! Errors of the service.

use std::{io, path::PathBuf};

use mainstem_record::BrokerId;

use crate::command::ApplyError;

/// Why the metadata service could not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A file or directory could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The identity file is damaged.
    #[error("{}: identity file is damaged: {damage}", path.display())]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: IdentityDamage,
    },
    /// The identity file has a format that this build does not know.
    #[error("{}: identity file of format {found}; this build reads formats up to {known}", path.display())]
    IdentityFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Our format.
        known: u64,
    },
    /// The data directory belongs to another node.
    #[error(
        "{}: data directory of node {found}, but this node is configured as {configured}",
        path.display()
    )]
    IdentityOfOther {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who we are.
        configured: u64,
    },
    /// There is a metadata store, but no identity file: the file was lost, or the directory is put
    /// together from parts.
    #[error("{}: identity file is missing, but {} is there", path.display(), store.display())]
    IdentityMissing {
        /// Where the file should be.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// The identity file says that a metadata store was made, but it is not there or empty.
    #[error(
        "{}: metadata store is missing or empty, though this data directory was in use",
        path.display()
    )]
    StoreLost {
        /// The store's directory.
        path: PathBuf,
    },
    /// The metadata store cannot be opened, is damaged or has missing files. Nothing was changed.
    #[error("{}: metadata store cannot be used: {damage}", path.display())]
    StoreDamaged {
        /// The store's directory.
        path: PathBuf,
        /// What the store says.
        damage: StoreError,
    },
    /// The metadata store belongs to another cluster than the identity file.
    #[error(
        "{}: metadata store of cluster {found}, but the data directory is of cluster {expected}",
        path.display()
    )]
    StoreOfOtherCluster {
        /// The store's directory.
        path: PathBuf,
        /// The store's cluster.
        found: String,
        /// The identity's cluster.
        expected: String,
    },
    /// This build has no RocksDB (cargo feature `rocksdb`).
    #[error("built without RocksDB; only the in-memory metadata store is there")]
    StoreNotBuilt,
    /// The Raft library refused its options or stopped.
    #[error("raft: {0}")]
    Raft(String),
    /// The stored metadata is that of a cluster of several nodes, and this one is to have no
    /// connections to others.
    #[error(
        "this node belongs to a cluster of {nodes} nodes: start it with --cluster-listen ADDRESS"
    )]
    NoConnections {
        /// How many there are.
        nodes: usize,
    },
    /// The cluster, or the seeds that are to make one, cannot take this node: waiting does not help.
    #[error("cluster: {0}")]
    Refused(String),
    /// No leader within the time limit.
    #[error("no metadata leader after {0:?}")]
    NoLeader(std::time::Duration),
    /// The first command failed.
    #[error("first metadata command: {0}")]
    Propose(#[from] ProposeError),
    /// The runtime is shutting down.
    #[error("runtime is shutting down")]
    ShuttingDown,
}

/// What is wrong with an identity file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityDamage {
    /// Not the JSON that we write.
    #[error("not our JSON: {0}")]
    Json(serde_json::Error),
    /// The checksum does not match.
    #[error("checksum {stored:08x} stored, {computed:08x} computed")]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its content has.
        computed: u32,
    },
    /// The cluster id is not 22 characters of base64url.
    #[error("not a cluster id")]
    ClusterId,
}

/// Why the metadata store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What RocksDB says.
    #[error("{0}")]
    Engine(String),
    /// A stored value cannot be read.
    #[error("{what}: {error}")]
    Decode {
        /// Which value.
        what: &'static str,
        /// Why.
        error: serde_json::Error,
    },
    /// A value that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// Which value.
        what: &'static str,
    },
    /// The log has a hole or does not reach as far as it must.
    #[error("log entry {index} is missing")]
    Hole {
        /// The Raft log index.
        index: u64,
    },
    /// A snapshot of a format that this build does not know.
    #[error("snapshot of format {found}; this build reads format {known}")]
    SnapshotFormat {
        /// Its format.
        found: u16,
        /// Our format.
        known: u16,
    },
    /// The store was closed.
    #[error("store is closed")]
    Closed,
    /// The runtime dropped the work since it is shutting down.
    #[error("runtime is shutting down")]
    ShuttingDown,
}

/// Why a proposed command has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was applied, and refused. Proposing it again makes sense only from a newer image.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Not now. Retriable; whether the command may have been applied, or may yet be, tells
    /// [`Self::is_outcome_unknown`].
    #[error("metadata is unavailable: {0}")]
    Unavailable(Unavailability),
    /// The metadata log has failed for good: only a restart helps. Whether the command was applied
    /// is not known.
    #[error("metadata log has failed")]
    Fatal,
}

/// Why a command cannot be committed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailability {
    /// Another node leads, or nobody does, or no majority answers. The command was not and will not
    /// be applied.
    #[error("no leader took the command; leader is {leader:?}")]
    NotLeader {
        /// The node that leads, if known.
        leader: Option<BrokerId>,
    },
    /// A leader took the command and nothing was heard of it in time: it was applied, or may yet be,
    /// or never will.
    #[error("the outcome is not known")]
    OutcomeUnknown,
    /// The service is closing or closed.
    #[error("closing")]
    Closing,
}

// === impl ProposeError ===

impl ProposeError {
    /// Whether trying again later may succeed without anything else changing.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the command may have been applied, or may yet be.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Apply(_) | Self::Unavailable(Unavailability::NotLeader { .. }) => false,
            Self::Unavailable(_) | Self::Fatal => true,
        }
    }
}
