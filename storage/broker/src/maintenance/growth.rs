//! Internal topics get more replicas when the cluster gets more brokers: the first node of a cluster
//! makes them when it is alone.

use std::{sync::Arc, time::Duration};

use mainstem_metadata::{Command, Image};
use mainstem_record::TopicId;

use super::wait;
use crate::{cluster::live_count, core::Core, topics::REPLICAS_USUAL};

/// How often it is looked: brokers come seldom, and metadata changes with every segment.
const INTERVAL: Duration = Duration::from_secs(5);

/// Topics that are to have more replicas: which, how many they have, how many they should.
fn outgrown(image: &Image) -> Vec<(TopicId, i16, i16)> {
    let wanted = live_count(image).min(REPLICAS_USUAL);
    let wanted = i16::try_from(wanted).unwrap_or(1);
    let ids = image.topics.values();
    let topics = ids.filter_map(|id| image.topic_by_id(*id));
    let small = topics.filter(|topic| topic.internal && topic.replication_factor < wanted);
    small
        .map(|topic| (topic.id, topic.replication_factor, wanted))
        .collect()
}

/// Runs until the broker stops. The leader of the metadata decides; the controller then has segments
/// with too few replicas succeeded by others.
pub(super) async fn keep_growing(core: Arc<Core>) {
    while wait(&core, INTERVAL).await {
        if core.metadata.leader() != Some(core.node_id()) {
            continue;
        }
        for (topic, expected, replication_factor) in outgrown(&core.image()) {
            let command = Command::SetReplicationFactor {
                topic,
                expected,
                replication_factor,
            };
            match core.metadata.propose(command).await {
                Ok(_) => tracing::info!(?topic, replication_factor, "internal topic grows"),
                Err(error) => tracing::warn!(?topic, %error, "internal topic does not grow yet"),
            }
        }
    }
}
