//! Metadata: brokers, topics and who leads what. The first request of every client, and the one
//! that makes topics on the way (`auto.create.topics.enable`).

use kafka_protocol::messages::{
    BrokerId, MetadataRequest, MetadataResponse, TopicName,
    metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
};
use mainstem_broker::{ErrorCode, TopicRef, leader_of};
use mainstem_record::{self as record, LeaderEpoch, TopicId};

use super::{owned, text};
use crate::{context::Call, handlers::cluster};

/// The first version in which null, not an empty list, asks for all topics.
const NULL_IS_ALL_FROM: i16 = 1;
/// The first version that says whether topics may be made; before, they may.
const MAY_CREATE_FROM: i16 = 4;
/// The first version that looks topics up by id (KIP-516).
const BY_ID_FROM: i16 = 12;
/// The versions that may ask for the operations that are allowed on the cluster.
const CLUSTER_OPERATIONS: std::ops::RangeInclusive<i16> = 8..=10;
/// The most characters of a topic name.
const TOPIC_NAME_CHARS_MAX: usize = 249;
/// READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS, as bits:
/// everyone may do everything until there is authorisation.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;

/// A topic as the request names it.
enum Asked {
    Name(String),
    Id(TopicId),
    /// Neither, or an id in a version that has none.
    Nothing,
}

/// What is told of a topic.
struct TopicFacts {
    id: TopicId,
    name: String,
    internal: bool,
    partitions: Vec<PartitionFacts>,
}

/// What is told of a partition: of its open segment, which is where it is written.
struct PartitionFacts {
    /// Nobody while the segment is being sealed.
    leader: Option<record::BrokerId>,
    epoch: LeaderEpoch,
    replicas: Vec<record::BrokerId>,
    in_sync: Vec<record::BrokerId>,
    offline: Vec<record::BrokerId>,
}

/// Answers with the brokers, and with the topics that are asked for.
pub(crate) async fn handle(call: &Call<'_>, request: MetadataRequest) -> MetadataResponse {
    let may_create = call.version < MAY_CREATE_FROM || request.allow_auto_topic_creation;
    let topic_operations = request.include_topic_authorized_operations;
    let cluster_operations =
        request.include_cluster_authorized_operations && CLUSTER_OPERATIONS.contains(&call.version);
    let named = asked(call, request);
    let all = named.is_none();
    let named = named.unwrap_or_else(|| {
        let image = call.broker().image();
        image.topics.values().map(|id| Asked::Id(*id)).collect()
    });

    let mut topics = Vec::with_capacity(named.len());
    for asked in named {
        let mut code = ErrorCode::None;
        let mut found = find(call, &asked);
        if found.is_none() && !all {
            code = make(call, &asked, may_create).await;
            found = find(call, &asked);
        }
        match found {
            Some(topic) => {
                let mut described = described(call, topic);
                if topic_operations {
                    described.topic_authorized_operations = TOPIC_OPERATIONS;
                }
                topics.push(described);
            }
            // Deleted between the list and the look: not one of all topics.
            None if all => {}
            None if code.is_ok() => topics.push(absent(call, asked, ErrorCode::LeaderNotAvailable)),
            None => topics.push(absent(call, asked, code)),
        }
    }

    let cluster = call.broker().cluster();
    let alive = cluster.brokers.iter().filter(|broker| !broker.fenced);
    let brokers = alive.map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(broker.host.as_str()))
            .with_port(i32::from(broker.port))
    });
    let mut response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(text(cluster.cluster_id)))
        .with_controller_id(BrokerId(cluster.controller.0))
        .with_topics(topics);
    if cluster_operations {
        response.cluster_authorized_operations = cluster::CLUSTER_OPERATIONS;
    }
    response
}

/// A topic as the metadata has it now.
fn find(call: &Call<'_>, asked: &Asked) -> Option<TopicFacts> {
    let image = call.broker().image();
    let topic = match asked {
        Asked::Name(name) => image.topic(name),
        Asked::Id(id) => image.topic_by_id(*id),
        Asked::Nothing => None,
    }?;
    let partitions = topic.partitions.iter().map(|partition| {
        let active = partition.active();
        let replicas = active
            .map(|segment| segment.replicas.clone())
            .unwrap_or_default();
        let is_alive = |id: &record::BrokerId| {
            let broker = image.brokers.get(id);
            broker.is_some_and(|broker| !broker.fenced)
        };
        let mut offline = replicas.clone();
        offline.retain(|id| !is_alive(id));
        PartitionFacts {
            leader: leader_of(&image, partition),
            epoch: partition.epoch(),
            replicas,
            offline,
            in_sync: active
                .map(|segment| {
                    image
                        .current(&segment.isr)
                        .map(|member| member.broker)
                        .collect()
                })
                .unwrap_or_default(),
        }
    });
    Some(TopicFacts {
        id: topic.id,
        name: topic.name.clone(),
        internal: topic.internal,
        partitions: partitions.collect(),
    })
}

fn described(call: &Call<'_>, topic: TopicFacts) -> MetadataResponseTopic {
    let ids = |brokers: &[record::BrokerId]| brokers.iter().map(|id| BrokerId(id.0)).collect();
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| {
        let code = match partition.leader {
            Some(_) => ErrorCode::None,
            None => ErrorCode::LeaderNotAvailable,
        };
        MetadataResponsePartition::default()
            .with_error_code(call.code(code))
            .with_partition_index(index)
            .with_leader_id(BrokerId(partition.leader.map_or(-1, |leader| leader.0)))
            .with_leader_epoch(partition.epoch.0)
            .with_replica_nodes(ids(&partition.replicas))
            .with_isr_nodes(ids(&partition.in_sync))
            .with_offline_replicas(ids(&partition.offline))
    });
    let partitions = partitions.collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions)
}

/// What is asked for; `None` is everything.
fn asked(call: &Call<'_>, request: MetadataRequest) -> Option<Vec<Asked>> {
    let topics = request.topics?;
    if topics.is_empty() && call.version < NULL_IS_ALL_FROM {
        return None;
    }
    let asked = topics.into_iter().map(|topic| match topic.name {
        Some(name) => Asked::Name(owned(&name)),
        None if call.version >= BY_ID_FROM && !topic.topic_id.is_nil() => {
            Asked::Id(TopicId(topic.topic_id))
        }
        None => Asked::Nothing,
    });
    Some(asked.collect())
}

/// Makes a topic that was asked for by a name that is not there, if that is allowed.
async fn make(call: &Call<'_>, asked: &Asked, may_create: bool) -> ErrorCode {
    let name = match asked {
        Asked::Name(name) => name,
        Asked::Id(_) => return ErrorCode::UnknownTopicId,
        Asked::Nothing => return ErrorCode::InvalidRequest,
    };
    if !is_legal_topic_name(name) {
        return ErrorCode::InvalidTopicException;
    }
    if !may_create || !call.context.config.kafka.auto_create_topics {
        return ErrorCode::UnknownTopicOrPartition;
    }
    match call.broker().auto_create_topic(call.caller, name).await {
        Ok(_) => ErrorCode::None,
        Err(error) => {
            tracing::debug!(topic = %name, %error, "topic not created for a metadata request");
            error.code
        }
    }
}

fn absent(call: &Call<'_>, asked: Asked, code: ErrorCode) -> MetadataResponseTopic {
    let topic = MetadataResponseTopic::default().with_error_code(call.code(code));
    match asked {
        Asked::Name(name) => topic.with_name(Some(TopicName(text(name)))),
        // The name is nullable from version 12 on.
        Asked::Id(id) => topic.with_name(None).with_topic_id(id.0),
        Asked::Nothing if call.version >= BY_ID_FROM => topic.with_name(None),
        Asked::Nothing => topic,
    }
}

/// Kafka's rule for topic names.
fn is_legal_topic_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_NAME_CHARS_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(legal)
}

/// A topic by name or, if it has none, by id.
pub(super) fn topic_ref(name: &str, id: uuid::Uuid) -> TopicRef<'_> {
    match name.is_empty() && !id.is_nil() {
        true => TopicRef::Id(TopicId(id)),
        false => TopicRef::Name(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_the_bits_of_kafkas_acl_operations() {
        // READ 3, WRITE 4, CREATE 5, DELETE 6, ALTER 7, DESCRIBE 8, DESCRIBE_CONFIGS 10,
        // ALTER_CONFIGS 11.
        let bits = [3, 4, 5, 6, 7, 8, 10, 11]
            .iter()
            .fold(0, |all, bit| all | (1 << bit));
        assert_eq!(TOPIC_OPERATIONS, bits);
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for legal in ["a", "a.b_c-D9", "...", &"x".repeat(249)] {
            assert!(is_legal_topic_name(legal), "{legal}");
        }
        for illegal in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(250)] {
            assert!(!is_legal_topic_name(illegal), "{illegal}");
        }
    }
}
