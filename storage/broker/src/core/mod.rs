//! What every part of the broker stands on: the environment, the configuration, metadata, the log
//! and the partitions that are open here.
//!
//! Nothing about a protocol, a group or a session lives here.

mod leading;
mod policies;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use mainstem_config::{Config, TopicConfig};
use mainstem_env::Env;
use mainstem_log::{Log, LogEvent};
use mainstem_metadata::{Endpoint, Image, Metadata, SegmentFlush, Topic};
use mainstem_peers::Peers;
use mainstem_record::{BrokerId, PartitionId, PartitionIndex, SegmentId};
use mainstem_replication::{Policies, Replication, ReplicationDeps, ReplicationError, RollError};
use parking_lot::RwLock;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::policies::TopicConfigs;
pub(crate) use self::{leading::leads_since, policies::flush_of};
use crate::{
    access::{Access, Appender},
    error_code::ErrorCode,
    offsets::ProducerIds,
};

/// How long others may take to lead what a stopping node has led.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

/// How many failed partitions and damaged segments are named where people look.
const DEGRADED_MAX: usize = 100;

/// What a broker is started with.
pub struct BrokerDeps {
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
    /// Where other nodes reach this one, as `host:port`; `None` without connections.
    pub peer_address: Option<String>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// Host and port that Kafka clients are told to connect to.
    pub advertise: (String, u16),
    /// The identity of the data directory.
    pub directory_id: Uuid,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The metadata service refused or is not available.
    #[error("metadata: {0}")]
    Metadata(#[from] mainstem_metadata::ProposeError),
    /// Replication does not start.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// An internal topic could not be read back.
    #[error("internal topic {topic}, partition {partition}: {reason}")]
    Replay {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// What went wrong, for people.
        reason: String,
    },
    /// Segments of an internal topic are on other nodes, and none of these answers.
    #[error(
        "internal topic {topic}, partition {partition}: those who have all of it do not answer"
    )]
    NotHeld {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
    },
    /// A partition that the coordinators need refuses to work.
    #[error("internal topic {topic}: {code}")]
    Internal {
        /// The topic's name.
        topic: String,
        /// Why.
        code: ErrorCode,
    },
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl BrokerError {
    /// Whether it may go by itself.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::NotHeld { .. })
    }
}

/// What the parts of the broker share.
pub struct Core {
    pub(crate) env: Env,
    pub(crate) config: Arc<Config>,
    pub(crate) metadata: Metadata,
    pub(crate) log: Log,
    pub(crate) registry: prometheus::Registry,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Which partitions this node leads and holds.
    pub(crate) replication: Replication,
    /// Partitions of internal topics that could not be read back, with the reason.
    failed: RwLock<HashMap<PartitionId, String>>,
    topic_configs: Arc<TopicConfigs>,
    /// Producer ids that this node may give out.
    pub(crate) producer_ids: Mutex<ProducerIds>,
    /// Held while the set of topics and partitions changes, so that metadata and open partitions
    /// change together.
    pub(crate) topics_change: Mutex<()>,
    /// The way to partitions of other nodes; empty in a cluster that takes no others.
    access: OnceLock<Access>,
    /// Who appends for other nodes.
    appender: OnceLock<Weak<dyn Appender>>,
    /// Moves when partitions have been opened that were not open before.
    opened: watch::Sender<u64>,
}

/// What replication opens can be read.
async fn follow_opened(core: Arc<Core>) {
    let mut changes = core.replication.changes();
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        core.note_opened();
    }
}

// === impl Core ===

impl Core {
    /// Begins this life of the node: registers it, opens what it holds, has sealed what its last life
    /// led.
    pub(crate) async fn start(deps: BrokerDeps) -> Result<Arc<Self>, BrokerError> {
        let topic_configs = TopicConfigs::new(deps.config.clone(), deps.metadata.clone());
        let topic_configs = Arc::new(topic_configs);
        let (host, port) = deps.advertise;
        let replication = Replication::start(ReplicationDeps {
            env: deps.env.clone(),
            config: deps.config.clone(),
            metadata: deps.metadata.clone(),
            log: deps.log.clone(),
            log_events: deps.log_events,
            peers: deps.peers.clone(),
            peer_address: deps.peer_address,
            registry: deps.registry.clone(),
            policies: topic_configs.clone(),
            directory_id: deps.directory_id,
            listeners: BTreeMap::from([("kafka".to_owned(), Endpoint { host, port })]),
        })
        .await?;
        let core = Arc::new(Self {
            env: deps.env,
            config: deps.config,
            metadata: deps.metadata,
            log: deps.log,
            registry: deps.registry,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            replication,
            failed: RwLock::default(),
            topic_configs,
            producer_ids: Mutex::default(),
            topics_change: Mutex::new(()),
            access: OnceLock::new(),
            appender: OnceLock::new(),
            opened: watch::channel(0).0,
        });
        if let Some(peers) = deps.peers {
            core.access.get_or_init(|| Access::start(&core, peers));
            core.spawn("opened partitions", follow_opened(core.clone()));
        }
        Ok(core)
    }

    /// The way to partitions of other nodes; `None` in a cluster that takes no others.
    pub(crate) fn access(&self) -> Option<&Access> {
        self.access.get()
    }

    /// Who appends for other nodes, and what waited while another node led.
    pub(crate) fn appender(&self) -> Option<Arc<dyn Appender>> {
        self.appender.get()?.upgrade()
    }

    /// Makes `appender` the one. Only the first counts.
    pub(crate) fn set_appender(&self, appender: Weak<dyn Appender>) {
        self.appender.get_or_init(|| appender);
    }

    /// Moves when a partition can be read that could not before: look again then.
    pub(crate) fn opened_partitions(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// A partition can be read that could not before.
    pub(crate) fn note_opened(&self) {
        self.opened.send_modify(|count| *count += 1);
    }

    /// The present metadata.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.metadata.image()
    }

    /// This node.
    pub(crate) fn node_id(&self) -> BrokerId {
        BrokerId(self.config.node_id)
    }

    /// A topic's configs over the broker's defaults.
    pub(crate) fn topic_config(&self, topic: &Topic) -> Arc<TopicConfig> {
        self.topic_configs.of(topic)
    }

    /// The defaults of topic configs: the file's, with what was changed at run time over it.
    pub(crate) fn topic_defaults(&self) -> TopicConfig {
        self.topic_configs.defaults()
    }

    /// The flush policy of the segments of a topic that are opened from now on.
    pub(crate) fn configured_flush(&self, topic: &Topic) -> SegmentFlush {
        self.topic_configs.flush(topic)
    }

    /// Seals the active segment of a partition and opens the next one. Does nothing if `segment` is
    /// no longer the active one.
    pub(crate) async fn roll(&self, id: PartitionId, segment: SegmentId) -> Result<(), ErrorCode> {
        self.replication.roll(id, segment).await.map_err(|error| {
            tracing::warn!(%error, partition = ?id, "segment not rolled; tried again later");
            match error {
                RollError::NotLeader => ErrorCode::NotLeaderOrFollower,
                _ => ErrorCode::UnknownServerError,
            }
        })
    }

    /// Starts a task that [`Core::close`] waits for.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.env.spawn(name, self.tasks.track_future(future));
    }

    /// A new segment's id.
    pub(crate) fn new_segment_id(&self) -> SegmentId {
        SegmentId(Uuid::from_bytes(self.env.random_uuid()))
    }

    /// Remembers that a partition of an internal topic does not work and why.
    pub(crate) fn mark_failed(&self, id: PartitionId, reason: String) {
        self.failed.write().insert(id, reason);
    }

    /// Whether it is one that could not be read back.
    pub(crate) fn is_broken(&self, id: PartitionId) -> bool {
        self.failed.read().contains_key(&id)
    }

    /// Forgets a partition that is gone.
    pub(crate) fn forget_failed(&self, id: PartitionId) {
        self.topic_configs.forget(id.topic);
        self.failed.write().remove(&id);
    }

    /// Those that have failed, by id, with the reason.
    fn failures(&self) -> BTreeMap<PartitionId, String> {
        let failed = self.failed.read();
        let mut all: BTreeMap<PartitionId, String> = failed.clone().into_iter().collect();
        all.extend(self.replication.failures());
        all
    }

    /// How many partitions have failed.
    pub(crate) fn failed_count(&self) -> usize {
        self.failures().len()
    }

    /// Why the node is not ready.
    pub(crate) fn readiness(&self) -> Vec<String> {
        let mut reasons = self.replication.readiness();
        if self.stop.is_cancelled() && !reasons.iter().any(|reason| reason == "stopping") {
            reasons.push("stopping".to_owned());
        }
        reasons
    }

    /// What does not work while the rest serves: partitions that have failed, with the reason, and
    /// segments known to be lost or damaged; the first [`DEGRADED_MAX`] of them.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let image = self.image();
        let failed = self.failures();
        let mut all: Vec<String> = failed
            .iter()
            .map(|(id, reason)| match image.topic_by_id(id.topic) {
                Some(topic) => format!("partition {}-{}: {reason}", topic.name, id.index.0),
                None => format!("partition {id}: {reason}"),
            })
            .collect();
        all.sort();
        let damages = self.log.damages().into_iter();
        all.extend(
            damages.map(|damage| match image.topic_by_id(damage.partition.topic) {
                Some(topic) => format!(
                    "partition {}-{}: {damage}",
                    topic.name, damage.partition.index.0
                ),
                None => format!("partition {}: {damage}", damage.partition),
            }),
        );
        all.truncate(DEGRADED_MAX);
        all
    }

    /// Stops the background tasks and waits for them, at most `limit`.
    pub(crate) async fn close(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if self.env.timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "background tasks did not end in time"
            );
        }
        self.replication.drain(HAND_OVER_LIMIT).await;
        self.replication.close(limit).await;
    }
}

/// Whether a topic of this name can be: Kafka's rule (`[A-Za-z0-9._-]{1,249}`, not `.` or `..`).
pub(crate) fn is_legal_topic_name(name: &str) -> bool {
    /// Kafka's limit: the name and a partition number must fit into a file name.
    const NAME_BYTES_MAX: usize = 249;
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
