//! Consumer groups: membership, generations and committed offsets.
//!
//! ```text
//!   Groups (this file) ─── membership.rs  join, sync, heartbeat, leave
//!      │                   commits.rs     commit, fetch, delete offsets
//!      │                   admin.rs       list, describe, delete, lag
//!      ▼
//!   Coordinator (coordinator.rs) ─ one Group (group.rs) per group: a lock around
//!      │                                machine/   the state machine, without I/O
//!      │                                offsets.rs the committed offsets
//!      ├─ timers.rs       one task, a heap of deadlines
//!      ├─ upkeep.rs       retention of offsets, topics that are gone
//!      ├─ terms.rs        the partitions of the log that are coordinated here, and since when
//!      ├─ leading.rs      groups are loaded and let go with the leadership of their partition
//!      ├─ replay.rs       how the groups come back
//!      └─ world.rs        the seam to log, metadata and clock
//!   store.rs, wire.rs     the records of `__consumer_offsets`, in Kafka's own format
//! ```
//!
//! Rules that hold everywhere here:
//! - An answer that promises something is given after the record is durable: commits, a leader's
//!   assignment, a replaced static member, a deletion.
//! - A group's lock is never held while anything is awaited, so that groups do not block each other.
//! - A client that goes away cancels its wait, never the work: what is appended is also applied.
//!
//! No wire format of requests lives here, and nothing about connections.

mod admin;
mod commits;
mod coordinator;
mod group;
mod leading;
mod machine;
mod membership;
mod metrics;
mod offsets;
mod replay;
mod requests;
mod store;
mod subscription;
mod terms;
mod timers;
mod upkeep;
mod wire;
mod world;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::requests::{
    CommitPartition, CommitRequest, CommitTopic, CommitTopicAnswer, DeleteOffsetsTopic,
    DescribedGroup, DescribedMember, JoinAnswer, JoinMember, JoinRequest, LeaveMember, ListedGroup,
    OffsetPartition, OffsetTopic, SyncAnswer, SyncRequest,
};
use self::{
    coordinator::Coordinator,
    metrics::Metrics,
    world::{CoreWorld, World},
};
use crate::{
    BrokerEndpoint, ErrorCode,
    core::{BrokerError, Core},
    internal::InternalTopic,
};

/// The topic that is the coordinator's log.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The consumer groups that this node coordinates. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    coordinator: Arc<Coordinator>,
}

// === impl Groups ===

impl Groups {
    /// Opens `__consumer_offsets`, brings back the groups that are coordinated here, and starts timers,
    /// upkeep and whatever follows the leadership.
    pub(crate) async fn start(core: &Arc<Core>) -> Result<Self, BrokerError> {
        let config = &core.config.group;
        let log = InternalTopic::open(core, OFFSETS_TOPIC, config.offsets_partitions).await?;
        let metrics = Metrics::new();
        metrics.register(&core.registry)?;
        let world = CoreWorld {
            core: core.clone(),
            log,
        };
        let groups = Self::with_world(Arc::new(world), config.clone(), metrics);
        groups.coordinator.load_all().await;
        groups.follow();
        Ok(groups)
    }

    fn with_world(
        world: Arc<dyn World>,
        config: mainstem_config::GroupConfig,
        metrics: Metrics,
    ) -> Self {
        let coordinator = Arc::new(Coordinator::new(world, config, metrics));
        Self { coordinator }
    }

    fn follow(&self) {
        timers::start(&self.coordinator);
        upkeep::start(&self.coordinator);
        leading::start(&self.coordinator);
    }

    /// Takes no more requests and answers those that wait: their clients look for the coordinator
    /// again.
    pub(crate) async fn close(&self) {
        self.coordinator.close();
    }

    /// The broker that coordinates `group`: the leader of its partition of the group log. What
    /// FindCoordinator asks, on any node.
    pub fn coordinator_of(&self, group: &str) -> Result<BrokerEndpoint, ErrorCode> {
        self.coordinator.check_open()?;
        coordinator::check_group_id_length(group)?;
        let world = &self.coordinator.world;
        let index = world.partition_of(group);
        let leader = world.coordinator(index);
        let leader = leader.filter(|_| !self.coordinator.terms.is_broken(index));
        leader.ok_or(ErrorCode::CoordinatorNotAvailable)
    }

    /// How many groups there are.
    pub fn count(&self) -> usize {
        self.coordinator.count()
    }
}
