//! What the group coordinator needs of the rest of the broker, as a seam: the tests of the service
//! run without log and metadata.

use std::sync::Arc;

use mainstem_env::{BoxFuture, Env};
use mainstem_record::{Offset, PartitionId, TopicId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ErrorCode,
    core::Core,
    internal::{InternalTopic, KeyValue},
};

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
    /// Appends records of `group` as one batch; the offset of the first, once all are durable.
    fn append<'a>(
        &'a self,
        group: &'a str,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'a, Result<Offset, ErrorCode>>;
    /// Whether what was kept of `group` is known.
    fn serves(&self, group: &str) -> bool;
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

    fn append<'a>(
        &'a self,
        group: &'a str,
        records: Vec<KeyValue>,
    ) -> BoxFuture<'a, Result<Offset, ErrorCode>> {
        let partition = self.log.partition_of(group.as_bytes());
        Box::pin(self.log.append_durable(partition, records))
    }

    fn serves(&self, group: &str) -> bool {
        self.log.serves(group.as_bytes())
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
        let partition = self.core.partition(partition).ok()?;
        Some(partition.ends().committed_end)
    }
}
