//! Metadata: brokers, topics and who leads what. The first request of every client, and the one
//! that makes topics on the way (`auto.create.topics.enable`).

use kafka_protocol::messages::{
    BrokerId, MetadataRequest, MetadataResponse, TopicName,
    metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    },
};
use mainstem_broker::{ErrorCode, TopicRef};
use mainstem_record::TopicId;

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

/// A topic that is not there.
struct Missing {
    asked: Asked,
    code: ErrorCode,
}

/// Answers with the brokers, and with the topics that are asked for.
pub(crate) async fn handle(call: &Call<'_>, request: MetadataRequest) -> MetadataResponse {
    let may_create =
        call.version < MAY_CREATE_FROM || request.allow_auto_topic_creation;
    let topic_operations = request.include_topic_authorized_operations;
    let cluster_operations = request.include_cluster_authorized_operations
        && CLUSTER_OPERATIONS.contains(&call.version);
    let asked = asked(call, request);

    let mut found = Vec::new();
    match asked {
        None => {
            let image = call.broker().image();
            found.extend(image.topics.values().filter_map(|id| image.topic_by_id(*id)).cloned().map(Ok));
        }
        Some(asked) => {
            for asked in asked {
                let image = call.broker().image();
                let topic = match &asked {
                    Asked::Name(name) => image.topic(name).cloned(),
                    Asked::Id(id) => image.topic_by_id(*id).cloned(),
                    Asked::Nothing => None,
                };
                found.push(match topic {
                    Some(topic) => Ok(topic),
                    None => match make(call, &asked, may_create).await {
                        Ok(name) => call
                            .broker()
                            .image()
                            .topic(&name)
                            .cloned()
                            .ok_or(Missing { asked, code: ErrorCode::LeaderNotAvailable }),
                        Err(code) => Err(Missing { asked, code }),
                    },
                });
            }
        }
    }

    let cluster = call.broker().cluster();
    let alive = |id: mainstem_record::BrokerId| cluster.brokers.iter().any(|at| at.id == id);
    let mut topics = Vec::with_capacity(found.len());
    for topic in found {
        let topic = match topic {
            Ok(topic) => topic,
            Err(missing) => {
                topics.push(absent(call, missing));
                continue;
            }
        };
        let partitions = (0..).zip(topic.partitions.iter()).map(|(index, partition)| {
            let active = partition.active();
            let leader = active.map(|segment| segment.leader).filter(|leader| alive(*leader));
            let code = match leader {
                Some(_) => ErrorCode::None,
                None => ErrorCode::LeaderNotAvailable,
            };
            let replicas = active.map(|segment| segment.replicas.clone()).unwrap_or_default();
            let in_sync = active.map(|segment| segment.isr.clone()).unwrap_or_default();
            MetadataResponsePartition::default()
                .with_error_code(call.code(code))
                .with_partition_index(index)
                .with_leader_id(BrokerId(leader.map_or(-1, |leader| leader.0)))
                .with_leader_epoch(partition.epoch().0)
                .with_replica_nodes(replicas.iter().map(|id| BrokerId(id.0)).collect())
                .with_isr_nodes(in_sync.iter().map(|(id, _)| BrokerId(id.0)).collect())
                .with_offline_replicas(
                    replicas.iter().filter(|id| !alive(**id)).map(|id| BrokerId(id.0)).collect(),
                )
        });
        let mut described = MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(topic.name.as_str()))))
            .with_topic_id(topic.id.0)
            .with_is_internal(topic.internal)
            .with_partitions(partitions.collect());
        if topic_operations {
            described.topic_authorized_operations = TOPIC_OPERATIONS;
        }
        topics.push(described);
    }

    let brokers = cluster.brokers.iter().map(|broker| {
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

/// Makes a topic that was asked for by a name that is not there. Returns the name.
async fn make(call: &Call<'_>, asked: &Asked, may_create: bool) -> Result<String, ErrorCode> {
    let name = match asked {
        Asked::Name(name) => name,
        Asked::Id(_) => return Err(ErrorCode::UnknownTopicId),
        Asked::Nothing => return Err(ErrorCode::InvalidRequest),
    };
    if !is_legal_topic_name(name) {
        return Err(ErrorCode::InvalidTopicException);
    }
    if !may_create || !call.context.config.kafka.auto_create_topics {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    match call.broker().auto_create_topic(call.caller, name).await {
        Ok(topic) => Ok(topic.name.clone()),
        Err(error) => {
            tracing::debug!(topic = %name, %error, "topic not created for a metadata request");
            Err(error.code)
        }
    }
}

fn absent(call: &Call<'_>, missing: Missing) -> MetadataResponseTopic {
    let topic = MetadataResponseTopic::default().with_error_code(call.code(missing.code));
    match missing.asked {
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
        let bits = [3, 4, 5, 6, 7, 8, 10, 11].iter().fold(0, |all, bit| all | (1 << bit));
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
