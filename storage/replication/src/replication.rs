//! What the broker sees of replication: which partitions this node leads or holds, and what is done
//! with their segments.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_log::{Log, LogEvent, Partition, PartitionSettings};
use mainstem_metadata::{Endpoint, Metadata, ProposeError, SegmentState, Topic};
use mainstem_peers::Peers;
use mainstem_record::{BrokerId, LeaderEpoch, Member, PartitionId};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// What replication is started with.
pub struct ReplicationDeps {
    /// The outside world.
    pub env: Env,
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The metadata service, started.
    pub metadata: Metadata,
    /// The segment log, started, no partition open.
    pub log: Log,
    /// What the log tells its owner.
    pub log_events: mpsc::Receiver<LogEvent>,
    /// The connections to other nodes; `None` in a cluster that takes no others.
    pub peers: Option<Peers>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// What the log has to know of topics.
    pub policies: Arc<dyn Policies>,
    /// The identity of the data directory.
    pub directory_id: Uuid,
    /// Where clients reach this broker, by listener name.
    pub listeners: BTreeMap<String, Endpoint>,
}

/// What the log has to know of topics: whoever resolves their configs says it.
pub trait Policies: Send + Sync + 'static {
    /// How the partitions of a topic are written.
    fn settings(&self, topic: &Topic) -> PartitionSettings;
    /// How long the files of segments stay that are gone.
    fn delete_delay(&self, topic: &Topic) -> Duration;
}

/// Why a partition does not take appends here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLed {
    /// There is no such partition.
    #[error("unknown partition")]
    Unknown,
    /// Another broker leads it.
    #[error("broker {leader} leads it")]
    Elsewhere {
        /// Which.
        leader: BrokerId,
        /// Since which epoch.
        epoch: LeaderEpoch,
    },
    /// Its segment is being sealed: nobody leads it.
    #[error("nobody leads it")]
    NoLeader,
    /// This node leads it and has not opened it yet.
    #[error("it is being opened")]
    Opening,
    /// It is damaged, or its files do not work.
    #[error("failed: {0}")]
    Failed(String),
}

/// Why replication does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The metadata service refused or is not available.
    #[error("metadata: {0}")]
    Metadata(#[from] ProposeError),
    /// The log could not be opened.
    #[error("log: {0}")]
    Log(#[from] mainstem_log::LogError),
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The replication of one node. Cheap to clone.
#[derive(Clone)]
pub struct Replication {
    inner: Arc<Inner>,
}

struct Inner {
    metadata: Metadata,
    log: Log,
    me: Member,
    changes: watch::Sender<u64>,
}

// === impl Replication ===

impl Replication {
    /// This broker, in this life.
    pub fn me(&self) -> Member {
        self.inner.me
    }

    /// A partition that this node leads: the active segment is open and takes appends (R8).
    ///
    /// # Errors
    /// Who leads it instead, or why nobody does.
    pub fn led(&self, id: PartitionId) -> Result<Partition, NotLed> {
        let image = self.inner.metadata.image();
        let record = image.partition(id).ok_or(NotLed::Unknown)?;
        let open = record.active().ok_or(NotLed::NoLeader)?;
        if open.state != SegmentState::Active {
            return Err(NotLed::NoLeader);
        }
        if open.leader_member() != self.inner.me {
            let (leader, epoch) = (open.leader, open.epoch);
            return Err(NotLed::Elsewhere { leader, epoch });
        }
        let partition = self.held(id).ok_or(NotLed::Opening)?;
        match partition.epoch() == open.epoch {
            true => Ok(partition),
            false => Err(NotLed::Opening),
        }
    }

    /// A partition of which this node holds a replica that is open. Reads go up to the high watermark
    /// that it was last told.
    pub fn held(&self, id: PartitionId) -> Option<Partition> {
        self.inner.log.partition(id)
    }

    /// Whether acks=all can be answered: the confirmed ISR has at least `min.insync.replicas` members.
    pub fn has_min_insync(&self, id: PartitionId) -> bool {
        let image = self.inner.metadata.image();
        let open = image.partition(id).and_then(|record| record.active());
        open.is_some_and(|open| image.current(&open.isr).count() >= open.min_insync_count())
    }

    /// Moves after each change of what is led or held here: look again then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}
