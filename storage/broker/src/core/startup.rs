//! The start of a node: register, open what the metadata names, seal what an earlier incarnation
//! led.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mainstem_log::LogEvent;
use mainstem_metadata::{Applied, Command, Endpoint, Life, Roles, Topic};
use mainstem_record::{BrokerId, Incarnation, PartitionId, PartitionIndex};
use parking_lot::RwLock;
use tokio::sync::{Mutex, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{BrokerDeps, BrokerError, Core, PARTITIONS_AT_ONCE, roll::Rolling};
use crate::metrics;

/// How often a long start says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// The partitions that are still to be opened.
struct Opening {
    left: parking_lot::Mutex<std::vec::IntoIter<(Arc<Topic>, PartitionIndex)>>,
    opened: AtomicUsize,
}

impl Core {
    pub(crate) async fn start(
        deps: BrokerDeps,
    ) -> Result<(Arc<Self>, mpsc::Receiver<LogEvent>), BrokerError> {
        let (incarnation, life) = register(&deps).await?;
        let unclean_recoveries = metrics::unclean_recoveries(&deps.registry)?;
        let core = Arc::new(Self {
            env: deps.env,
            config: deps.config,
            metadata: deps.metadata,
            log: deps.log,
            registry: deps.registry,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            incarnation,
            life,
            unclean_recoveries,
            failed: RwLock::default(),
            topic_configs: dashmap::DashMap::new(),
            producer_ids: Mutex::default(),
            topics_change: Mutex::new(()),
            rolling: Rolling::default(),
        });
        core.open_all().await?;
        core.seal_earlier_incarnations().await?;
        Ok((core, deps.log_events))
    }

    /// The disk has failed, so what is in the page cache may be less than was acknowledged: that the
    /// process dies proves nothing any more.
    pub(crate) async fn doubt_disk(&self) {
        if let Err(error) = self.life.doubt().await {
            tracing::error!(%error, "the doubt about the disk is not noted");
        }
    }

    /// Notes that this life ends with everything synced.
    pub(crate) async fn note_clean_stop(&self) {
        if let Err(error) = self.life.end().await {
            tracing::warn!(%error, "the clean stop is not noted");
        }
    }

    async fn open_all(self: &Arc<Self>) -> Result<(), BrokerError> {
        let image = self.image();
        let mut known = HashSet::new();
        let mut work = Vec::new();
        for topic in image.topics_by_id.values() {
            for index in (0..).map(PartitionIndex).take(topic.partitions.len()) {
                known.insert(PartitionId {
                    topic: topic.id,
                    index,
                });
                work.push((topic.clone(), index));
            }
        }
        let moved = self.log.remove_unknown(&known).await?;
        if moved > 0 {
            tracing::warn!(moved, "moved aside partitions that metadata does not name");
        }
        let total = work.len();
        let work = Arc::new(Opening {
            left: parking_lot::Mutex::new(work.into_iter()),
            opened: AtomicUsize::new(0),
        });
        let openers: Vec<_> = (0..PARTITIONS_AT_ONCE.min(total))
            .map(|_| {
                let (core, work) = (self.clone(), work.clone());
                self.env.start(
                    "open partitions",
                    async move { core.open_some(&work).await },
                )
            })
            .collect();
        let all = async {
            for opener in openers {
                // Dropped only when the runtime ends, and then nobody asks.
                let _ = opener.await;
            }
        };
        let mut all = std::pin::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => return Ok(()),
                () = self.env.sleep(PROGRESS_INTERVAL) => {}
            }
            let opened = work.opened.load(Ordering::Relaxed);
            let scanned_bytes = self.log.scanned_bytes();
            tracing::info!(opened, total, scanned_bytes, "opening partitions");
        }
    }

    /// Opens partitions until none is left.
    async fn open_some(&self, work: &Opening) {
        loop {
            let next = work.left.lock().next();
            let Some((topic, index)) = next else {
                return;
            };
            self.open_partition(&topic, index).await;
            work.opened.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Registers this start of the node; its incarnation is one more than the last one's. What the data
/// directory proves of the last life goes with it, and the new one is noted before anything is
/// acknowledged in it (`seal-protocol` R1, R2).
async fn register(deps: &BrokerDeps) -> Result<(Incarnation, Life), BrokerError> {
    let broker = BrokerId(deps.config.node_id);
    let life = Life::load(&deps.env, &deps.config.data_dir).await?;
    let image = deps.metadata.image();
    let known = image.brokers.get(&broker);
    let claim = life.claim(known);
    let request = Uuid::from_bytes(deps.env.random_uuid());
    life.prepare(request).await?;
    let endpoint = Endpoint {
        host: deps.advertise.0.clone(),
        port: deps.advertise.1,
    };
    let command = Command::RegisterBroker {
        broker,
        directory_id: deps.directory_id,
        expected: known.map(|known| known.incarnation),
        listeners: BTreeMap::from([("kafka".to_owned(), endpoint)]),
        peer: None,
        roles: Roles::default(),
        intact: claim.intact,
        directory_life: claim.directory_life,
        request,
    };
    let incarnation = match deps.metadata.propose(command).await? {
        Applied::Registered { incarnation } => incarnation,
        other => panic!("metadata answered a registration with {other:?}"),
    };
    life.begin(incarnation).await?;
    if known.is_some() {
        let is_intact = claim.intact.is_some();
        tracing::info!(incarnation = incarnation.0, is_intact, "registered again");
    }
    Ok((incarnation, life))
}
