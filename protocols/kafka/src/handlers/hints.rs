//! Whom to ask instead (KIP-951): a client that asked the wrong broker is told the leader and its
//! address in the same answer.

use std::collections::BTreeMap;

use mainstem_broker::{Broker, BrokerEndpoint, ErrorCode, TopicRef};
use mainstem_record::PartitionIndex;

/// The leaders that a response names, and their addresses.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    nodes: BTreeMap<i32, BrokerEndpoint>,
}

/// A leader, as partitions of a response name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CurrentLeader {
    /// The broker.
    pub(crate) id: i32,
    /// Its leader epoch.
    pub(crate) epoch: i32,
}

/// A broker that a response names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) id: i32,
    /// Host to connect to.
    pub(crate) host: String,
    /// Port to connect to.
    pub(crate) port: i32,
}

// === impl Hints ===

impl Hints {
    /// The leader of a partition for which a request got `code`, if that sends the client elsewhere
    /// and there is one.
    pub(crate) fn leader(
        &mut self,
        broker: &Broker,
        (topic, index): (&TopicRef<'_>, i32),
        code: i16,
    ) -> Option<CurrentLeader> {
        let elsewhere = [ErrorCode::NotLeaderOrFollower, ErrorCode::FencedLeaderEpoch];
        if !elsewhere.iter().any(|one| one.code() == code) {
            return None;
        }
        let hint = broker.leader_hint(topic, PartitionIndex(index))?;
        let leader = hint.leader?;
        let id = leader.id.0;
        self.nodes.insert(id, leader);
        Some(CurrentLeader {
            id,
            epoch: hint.epoch.0,
        })
    }

    /// The brokers that were named, by id.
    pub(crate) fn into_nodes(self) -> Vec<Node> {
        let nodes = self.nodes.into_values().map(|node| Node {
            id: node.id.0,
            host: node.host,
            port: i32::from(node.port),
        });
        nodes.collect()
    }
}
