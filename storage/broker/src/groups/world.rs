//! What the group coordinator needs of the rest of the broker, as a seam: the tests of the service
//! run without log and metadata.

use std::{sync::Arc, time::Duration};

use mainstem_env::{BoxFuture, Env};
use mainstem_record::{LeaderEpoch, Offset, PartitionId, PartitionIndex, TopicId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::replay::{self, Replayed};
use crate::{
    BrokerEndpoint, ErrorCode,
    cluster::{endpoint_of, leader_of},
    core::{Core, leads_since},
    internal::{InternalTopic, KeyValue, NotReplayed, code_of},
};

/// How long a record of a group may wait for the other replicas (Kafka's `offsets.commit.timeout.ms`).
const STORE_LIMIT: Duration = Duration::from_secs(5);

/// Completes when what was placed is durable, with the offset of the first record.
pub(crate) type Placed = BoxFuture<'static, Result<Offset, ErrorCode>>;

/// A topic as commits need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
}

/// What the group coordinator needs of the rest of the broker.
pub(crate) trait World: Send + Sync + 'static {
    /// Clocks and randomness.
    fn env(&self) -> &Env;
    /// Starts a task that the broker waits for when it ends.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Cancelled when background work must end.
    fn stop(&self) -> &CancellationToken;
    /// The partition of the group log that holds the group's records.
    fn partition_of(&self, group: &str) -> PartitionIndex;
    /// The partitions of the group log that this node leads, with their leader epochs.
    fn led(&self) -> Vec<(PartitionIndex, LeaderEpoch)>;
    /// Whether this node leads the partition without a break since then.
    fn leads_since(&self, index: PartitionIndex, since: LeaderEpoch) -> bool;
    /// Moves when that may have changed.
    fn led_changes(&self) -> watch::Receiver<u64>;
    /// The broker that leads the partition, if one does.
    fn coordinator(&self, index: PartitionIndex) -> Option<BrokerEndpoint>;
    /// Reads a partition of the group log that this node leads, to its end.
    fn replay(&self, index: PartitionIndex) -> BoxFuture<'_, Result<Replayed, NotReplayed>>;
    /// Has these records take their place in the partition, as one batch; then waits until all are
    /// durable, for the offset of the first. [`ErrorCode::RequestTimedOut`]: they may be one day.
    fn place(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'_, Result<Placed, ErrorCode>>;
    /// The topic that has this name now.
    fn topic(&self, name: &str) -> Option<TopicView>;
    /// Moves when topics may have come or gone.
    fn topic_changes(&self) -> watch::Receiver<u64>;
    /// The end of what consumers of a partition may read, where this node knows it.
    fn readable_end(&self, partition: PartitionId) -> Option<Offset>;
}

/// The real broker.
pub(crate) struct CoreWorld {
    pub(crate) core: Arc<Core>,
    pub(crate) log: InternalTopic,
}

// === impl CoreWorld ===

impl World for CoreWorld {
    fn env(&self) -> &Env {
        &self.core.env
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.core.spawn(name, future);
    }

    fn stop(&self) -> &CancellationToken {
        &self.core.stop
    }

    fn partition_of(&self, group: &str) -> PartitionIndex {
        self.log.partition_of(group.as_bytes())
    }

    fn led(&self) -> Vec<(PartitionIndex, LeaderEpoch)> {
        self.log.led()
    }

    fn leads_since(&self, index: PartitionIndex, since: LeaderEpoch) -> bool {
        let image = self.core.image();
        let record = image.partition(self.log.partition_id(index));
        record.is_some_and(|record| leads_since(record, self.core.me(), since))
    }

    fn led_changes(&self) -> watch::Receiver<u64> {
        self.core.led_changes()
    }

    fn coordinator(&self, index: PartitionIndex) -> Option<BrokerEndpoint> {
        let image = self.core.image();
        let record = image.partition(self.log.partition_id(index))?;
        endpoint_of(&image, leader_of(&image, record)?)
    }

    fn replay(&self, index: PartitionIndex) -> BoxFuture<'_, Result<Replayed, NotReplayed>> {
        Box::pin(replay::replay(&self.log, index))
    }

    fn place(
        &self,
        index: PartitionIndex,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'_, Result<Placed, ErrorCode>> {
        Box::pin(async move {
            let id = self.log.partition_id(index);
            let (in_sync, needed) = self.core.in_sync(id);
            if in_sync < needed {
                return Err(ErrorCode::NotEnoughReplicas);
            }
            let ticket = self.log.append(index, records).await?;
            // A disk needs its time; other replicas may be away for good.
            let limit = (self.core.replica_count(id) > 1).then_some(STORE_LIMIT);
            let env = self.core.env.clone();
            let done: Placed = Box::pin(async move {
                let appended = match limit {
                    None => ticket.await,
                    Some(limit) => match env.timeout(limit, ticket).await {
                        Ok(appended) => appended,
                        Err(_) => return Err(ErrorCode::RequestTimedOut),
                    },
                };
                appended
                    .map(|appended| appended.base_offset)
                    .map_err(|error| code_of(&error))
            });
            Ok(done)
        })
    }

    fn topic(&self, name: &str) -> Option<TopicView> {
        let image = self.core.image();
        let topic = image.topic(name)?;
        Some(TopicView {
            id: topic.id,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        })
    }

    fn topic_changes(&self) -> watch::Receiver<u64> {
        self.core.metadata.changes()
    }

    fn readable_end(&self, partition: PartitionId) -> Option<Offset> {
        let partition = self.core.log.partition(partition)?;
        Some(partition.ends().committed_end)
    }
}
