//! The start of a node: register, open what the metadata names, seal what an earlier incarnation
//! led.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use mainstem_log::LogEvent;
use mainstem_metadata::{Applied, Command, Endpoint};
use mainstem_record::{PartitionId, PartitionIndex};
use parking_lot::RwLock;
use tokio::sync::{Mutex, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{BrokerDeps, BrokerError, Core, PARTITIONS_AT_ONCE};

/// From how many partitions on the start says how far it is.
const PROGRESS_PARTITIONS_MIN: usize = 200;

impl Core {
    pub(crate) async fn start(
        deps: BrokerDeps,
    ) -> Result<(Arc<Self>, mpsc::Receiver<LogEvent>), BrokerError> {
        let incarnation = register(&deps).await?;
        let core = Arc::new(Self {
            env: deps.env,
            config: deps.config,
            metadata: deps.metadata,
            log: deps.log,
            registry: deps.registry,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            incarnation,
            failed: RwLock::default(),
            topic_configs: dashmap::DashMap::new(),
            producer_ids: Mutex::default(),
            topics_change: Mutex::new(()),
            rolling: Mutex::new(()),
        });
        core.open_all().await?;
        core.seal_earlier_incarnations().await?;
        Ok((core, deps.log_events))
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
        let removed = self.log.remove_unknown(&known).await?;
        if removed > 0 {
            tracing::info!(
                removed,
                "removed directories of partitions that no longer exist"
            );
        }
        let total = work.len();
        let mut opened = 0;
        let mut work = work.into_iter();
        loop {
            let group: Vec<_> = work.by_ref().take(PARTITIONS_AT_ONCE).collect();
            if group.is_empty() {
                return Ok(());
            }
            opened += group.len();
            let mut opening = Vec::with_capacity(group.len());
            for (topic, index) in group {
                let core = self.clone();
                let open = async move { core.open_partition(&topic, index).await };
                opening.push(self.env.start("open partition", open));
            }
            for open in opening {
                // Dropped only when the runtime ends, and then nobody asks.
                let _ = open.await;
            }
            if total >= PROGRESS_PARTITIONS_MIN && opened % 100 < PARTITIONS_AT_ONCE {
                tracing::info!(opened, total, "opening partitions");
            }
        }
    }
}

/// Registers this start of the node; its incarnation is one more than the last one's.
async fn register(deps: &BrokerDeps) -> Result<mainstem_record::Incarnation, BrokerError> {
    let broker = mainstem_record::BrokerId(deps.config.node_id);
    let expected = deps
        .metadata
        .image()
        .brokers
        .get(&broker)
        .map(|known| known.incarnation);
    let endpoint = Endpoint {
        host: deps.advertise.0.clone(),
        port: deps.advertise.1,
    };
    let command = Command::RegisterBroker {
        broker,
        directory_id: deps.directory_id,
        expected,
        listeners: BTreeMap::from([("kafka".to_owned(), endpoint)]),
    };
    match deps.metadata.propose(command).await? {
        Applied::Registered { incarnation } => Ok(incarnation),
        other => panic!("metadata answered a registration with {other:?}"),
    }
}
