//! The cluster as clients see it: its brokers, and who leads and coordinates what.

use std::sync::Arc;

use mainstem_metadata::{Image, PartitionRecord, SegmentState};
use mainstem_record::{BrokerId, LeaderEpoch, PartitionId, PartitionIndex};

use crate::{Broker, TopicRef};

/// The name of the listener that Kafka clients use.
const KAFKA_LISTENER: &str = "kafka";

/// What a client is told of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerEndpoint {
    /// The broker's id.
    pub id: BrokerId,
    /// Host to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// It has no session: it leads nothing and clients are not sent to it.
    pub fenced: bool,
}

/// What a client is told of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Kafka's cluster id: 22 characters of base64url.
    pub cluster_id: String,
    /// Where administrative requests go: any broker takes them, the leader of the metadata is
    /// nearest.
    pub controller: BrokerId,
    /// All registered brokers that take clients, by id.
    pub brokers: Vec<BrokerEndpoint>,
}

/// Who leads a partition, for a client that asked another broker (KIP-951).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader and where it is; `None` if nobody leads at the moment.
    pub leader: Option<BrokerEndpoint>,
    /// The newest leader epoch.
    pub epoch: LeaderEpoch,
}

/// The broker that leads a partition by this image: its open segment is written, and the leader is in
/// the life that writes it and has a session.
pub fn leader_of(image: &Image, record: &PartitionRecord) -> Option<BrokerId> {
    let open = record
        .active()
        .filter(|open| open.state == SegmentState::Active)?;
    let broker = image.brokers.get(&open.leader)?;
    (!broker.fenced && image.is_current(open.leader_member())).then_some(open.leader)
}

/// The brokers that may hold segments: those with a session and those that are away.
pub(crate) fn data_brokers(image: &Image) -> impl Iterator<Item = &mainstem_metadata::Broker> {
    let brokers = image.brokers.values();
    brokers.filter(|broker| broker.roles.broker && !broker.lost)
}

/// How many brokers can take new segments now.
pub(crate) fn live_count(image: &Image) -> usize {
    data_brokers(image)
        .filter(|broker| !broker.fenced && !broker.draining)
        .count()
}

/// Where clients reach a broker, if it takes any.
pub(crate) fn endpoint_of(image: &Image, id: BrokerId) -> Option<BrokerEndpoint> {
    let broker = image.brokers.get(&id)?;
    let kafka = broker.listeners.get(KAFKA_LISTENER)?;
    Some(BrokerEndpoint {
        id,
        host: kafka.host.clone(),
        port: kafka.port,
        fenced: broker.fenced,
    })
}

// === impl Broker ===

impl Broker {
    /// The present metadata.
    pub fn image(&self) -> Arc<Image> {
        self.core.image()
    }

    /// The cluster as clients see it.
    pub fn cluster(&self) -> ClusterInfo {
        let image = self.core.image();
        let endpoints = image.brokers.keys();
        let brokers: Vec<BrokerEndpoint> = endpoints
            .filter_map(|id| endpoint_of(&image, *id))
            .collect();
        let is_alive = |id: &BrokerId| {
            brokers
                .iter()
                .any(|broker| broker.id == *id && !broker.fenced)
        };
        let leader = self.core.metadata.leader().filter(is_alive);
        ClusterInfo {
            cluster_id: image.cluster_id.clone(),
            controller: leader.unwrap_or_else(|| self.core.node_id()),
            brokers,
        }
    }

    /// Who leads a partition; `None` if there is no such partition.
    pub fn leader_hint(&self, topic: &TopicRef<'_>, index: PartitionIndex) -> Option<LeaderHint> {
        let image = self.core.image();
        let topic = self.core.find_topic(&image, topic).ok()?;
        let record = image.partition(PartitionId {
            topic: topic.id,
            index,
        })?;
        let leader = leader_of(&image, record);
        Some(LeaderHint {
            leader: leader.and_then(|id| endpoint_of(&image, id)),
            epoch: record.epoch(),
        })
    }
}
