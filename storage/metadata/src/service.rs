//! STUB for interface; replaced shortly.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use mainstem_env::Env;
use tokio::sync::watch;

use crate::{
    command::{Applied, Command},
    error::{MetadataError, ProposeError},
    image::Image,
};

/// How the metadata service is started.
#[derive(Clone, Debug)]
pub struct MetadataOptions {
    /// The node's data directory, made if it is not there.
    pub dir: PathBuf,
    /// This node.
    pub node_id: u64,
    /// Where the Raft log is kept.
    pub store: StoreKind,
}

/// Where the Raft log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// RocksDB in the data directory.
    RocksDb,
    /// Memory, gone when closed; touches no file.
    Memory,
}

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataHealth {
    /// Whether this node leads.
    pub leader: bool,
    /// Raft log index of the last applied entry.
    pub applied: u64,
    /// Raft log index of the last committed entry.
    pub committed: u64,
    /// The Raft term.
    pub term: u64,
    /// Whether the log has failed for good.
    pub failed: bool,
}

/// The metadata service of one node.
#[derive(Clone)]
pub struct Metadata {
    image: Arc<ArcSwap<Image>>,
    changes: watch::Receiver<u64>,
}

impl Metadata {
    /// Starts it.
    pub async fn start(_env: Env, _options: MetadataOptions) -> Result<Self, MetadataError> {
        Err(MetadataError::StoreNotBuilt)
    }
    /// The image.
    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }
    /// The version after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
    /// Proposes.
    pub async fn propose(&self, _command: Command) -> Result<Applied, ProposeError> {
        Err(ProposeError::Fatal)
    }
    /// Health.
    pub fn health(&self) -> MetadataHealth {
        MetadataHealth { leader: false, applied: 0, committed: 0, term: 0, failed: false }
    }
    /// Closes.
    pub async fn close(&self) -> Result<(), MetadataError> {
        Ok(())
    }
}
