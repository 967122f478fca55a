//! The broker: the one API that the protocols call.
//!
//! [`Broker`] is a cheap handle on one node: topics and their configs, produce, fetch, offsets,
//! consumer groups ([`Groups`]) and the MQTT side ([`Mqtt`]). Kafka and MQTT never know each other;
//! they meet here as records of a partition. Every call carries a [`Caller`], so that authorisation
//! has its place from the first day.
//!
//! What lives here: the decisions that both protocols share, and the state machines of the
//! coordinators, which are logs themselves ([`internal`]). What may not: wire formats, sockets,
//! files. Which partitions are led here, and how segments are sealed, is decided in
//! `mainstem_replication`; what is deleted or compacted is a metadata command first and a call into
//! the log second (`maintenance`).

mod access;
mod caller;
mod cluster;
mod configs;
mod core;
mod error_code;
mod fetch;
mod groups;
mod internal;
mod maintenance;
mod metrics;
mod mqtt;
mod offsets;
mod produce;
mod topics;

use std::sync::Arc;

pub use crate::{
    caller::{Caller, Principal},
    cluster::{BrokerEndpoint, ClusterInfo, LeaderHint, leader_of},
    configs::{AlterOp, ConfigEntry, ConfigResource, ConfigSource},
    core::{BrokerDeps, BrokerError, Core},
    error_code::ErrorCode,
    fetch::{FetchError, FetchPartition, Isolation},
    groups::*,
    mqtt::*,
    offsets::{FoundOffset, OffsetQuery},
    produce::{Acks, ProduceError, ProduceTicket, Produced},
    topics::{CreatedTopic, NewTopicRequest, TopicError, TopicRef},
};

/// How long the broker's own tasks may take to end.
const CLOSE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// One node's broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    core: Arc<Core>,
    groups: Groups,
    mqtt: Mqtt,
}

// === impl Broker ===

impl Broker {
    /// Opens every partition that the metadata names, rebuilds the coordinators by replay and
    /// starts the background work.
    pub async fn start(deps: BrokerDeps) -> Result<Self, BrokerError> {
        let core = Core::start(deps).await?;
        let groups = Groups::start(&core).await?;
        let mqtt = Mqtt::start(&core).await?;
        maintenance::start(&core)?;
        metrics::start(&core, &groups)?;
        Ok(Self { core, groups, mqtt })
    }

    /// Why the node is not ready to serve; empty when it is.
    pub fn readiness(&self) -> Vec<String> {
        self.core.readiness()
    }

    /// What does not work while the rest serves, for people: partitions that have failed, segments
    /// that are lost or damaged.
    pub fn degraded(&self) -> Vec<String> {
        self.core.degraded()
    }

    /// Ends the coordinators and the background work. The log and the metadata are closed by
    /// whoever started them, after this.
    pub async fn close(&self) {
        self.mqtt.close().await;
        self.groups.close().await;
        self.core.close(CLOSE_LIMIT).await;
    }

    /// Notes that everything is synced, so that the next start need not doubt it: after
    /// [`Broker::close`] and after the log has closed without an error.
    pub async fn note_clean_stop(&self) {
        self.core.replication.note_clean_stop().await;
    }

    /// What groups and MQTT stand on.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The consumer groups that this node coordinates.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The MQTT side.
    pub fn mqtt(&self) -> &Mqtt {
        &self.mqtt
    }
}
