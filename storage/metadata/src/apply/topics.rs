//! Commands on topics and configs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use imbl::{OrdMap, Vector};
use mainstem_record::{LeaderEpoch, Member, Offset, SegmentId, TimestampMs, TopicId};

use super::{
    CONFIG_NAME_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, CONFIGS_MAX, PARTITIONS_PER_TOPIC_MAX,
    TOPIC_NAME_BYTES_MAX, topic_mut,
};
use crate::{
    command::{Applied, ApplyError, Command, NewSegment},
    image::{
        Broker, Image, PartitionRecord, RouteTarget, SegmentFlush, SegmentRecord, SegmentState,
        Topic,
    },
};

/// Kafka's name of the topic and broker config that [`min_insync`] reads.
const MIN_INSYNC_CONFIG: &str = "min.insync.replicas";

/// Whether Kafka would take it as a topic's name.
pub(super) fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// [`Command::CreateTopic`].
pub(super) fn create(image: &mut Image, command: &Command) -> Result<Applied, ApplyError> {
    let Command::CreateTopic {
        id,
        name,
        internal,
        origin,
        replication_factor,
        configs,
        partitions,
        leader,
    } = command
    else {
        // The caller matched it; taken whole since it has so many fields.
        return Err(ApplyError::InvalidCount);
    };
    if !is_topic_name(name) {
        return Err(ApplyError::InvalidName);
    }
    if let Some(id) = image.topics.get(name) {
        return Err(ApplyError::TopicExists { id: *id });
    }
    if image.topics_by_id.contains_key(id) {
        return Err(ApplyError::TopicIdTaken { id: *id });
    }
    // One replica, on the leader, is all that this format of the command can place.
    if *replication_factor != 1 {
        return Err(ApplyError::InvalidReplicationFactor {
            asked: *replication_factor,
        });
    }
    let broker = image
        .brokers
        .get(leader)
        .ok_or(ApplyError::UnknownBroker { broker: *leader })?;
    let configs = altered(&OrdMap::new(), configs, &[])?;
    check_count(0, partitions)?;
    check_ids(&Vector::new(), partitions)?;

    let min_insync = min_insync(&configs, &image.broker_configs);
    let topic = Topic {
        id: *id,
        name: name.clone(),
        internal: *internal,
        origin: *origin,
        replication_factor: *replication_factor,
        configs,
        partitions: partitions
            .iter()
            .map(|new| Arc::new(first_chain(new.id, broker, min_insync)))
            .collect(),
    };
    image.topics.insert(name.clone(), *id);
    image.topics_by_id.insert(*id, Arc::new(topic));
    Ok(Applied::TopicCreated)
}

/// [`Command::DeleteTopic`].
pub(super) fn delete(image: &mut Image, id: TopicId) -> Result<Applied, ApplyError> {
    let topic = image
        .topics_by_id
        .remove(&id)
        .ok_or(ApplyError::UnknownTopic)?;
    image.topics.remove(&topic.name);
    // With the records gone, nothing is left that a decision could keep together.
    let dangling: Vec<String> = image
        .routes
        .iter()
        .filter(|(_, route)| route.target == RouteTarget::OwnTopic(id))
        .map(|(level, _)| level.clone())
        .collect();
    for level in dangling {
        image.routes.remove(&level);
    }
    Ok(Applied::TopicDeleted)
}

/// [`Command::CreatePartitions`].
pub(super) fn create_partitions(
    image: &mut Image,
    id: TopicId,
    expected_count: i32,
    add: &[NewSegment],
) -> Result<Applied, ApplyError> {
    let topic = image.topic_by_id(id).ok_or(ApplyError::UnknownTopic)?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if count != expected_count {
        return Err(ApplyError::InvalidPartitionCount {
            current: count,
            allowed: PARTITIONS_PER_TOPIC_MAX,
        });
    }
    let total = check_count(count, add)?;
    check_ids(&topic.partitions, add)?;
    let first = topic
        .partitions
        .front()
        .and_then(|partition| partition.segments.last());
    let leader = first
        .map(|segment| segment.leader)
        .ok_or(ApplyError::UnknownPartition)?;
    let broker = image
        .brokers
        .get(&leader)
        .ok_or(ApplyError::UnknownBroker { broker: leader })?
        .clone();
    let min_insync = min_insync(&topic.configs, &image.broker_configs);
    let topic = topic_mut(image, id)?;
    for new in add {
        topic
            .partitions
            .push_back(Arc::new(first_chain(new.id, &broker, min_insync)));
    }
    Ok(Applied::PartitionsCreated { count: total })
}

/// [`Command::AlterTopicConfigs`].
pub(super) fn alter_configs(
    image: &mut Image,
    id: TopicId,
    set: &BTreeMap<String, String>,
    delete: &[String],
) -> Result<Applied, ApplyError> {
    let topic = image.topic_by_id(id).ok_or(ApplyError::UnknownTopic)?;
    let configs = altered(&topic.configs, set, delete)?;
    topic_mut(image, id)?.configs = configs;
    Ok(Applied::ConfigsAltered)
}

/// `configs` without `delete`, with `set`. The names' meaning is the proposer's business.
pub(super) fn altered(
    configs: &OrdMap<String, String>,
    set: &BTreeMap<String, String>,
    delete: &[String],
) -> Result<OrdMap<String, String>, ApplyError> {
    let mut configs = configs.clone();
    for name in delete {
        configs.remove(name);
    }
    for (name, value) in set {
        let is_legal = (1..=CONFIG_NAME_BYTES_MAX).contains(&name.len())
            && value.len() <= CONFIG_VALUE_BYTES_MAX;
        if !is_legal {
            return Err(ApplyError::InvalidEntries);
        }
        configs.insert(name.clone(), value.clone());
    }
    if configs.len() > CONFIGS_MAX {
        return Err(ApplyError::InvalidEntries);
    }
    Ok(configs)
}

/// How many in-sync replicas segments need that are opened from now on.
pub(super) fn min_insync(topic: &OrdMap<String, String>, brokers: &OrdMap<String, String>) -> i16 {
    let text = topic
        .get(MIN_INSYNC_CONFIG)
        .or_else(|| brokers.get(MIN_INSYNC_CONFIG));
    text.and_then(|text| text.parse().ok())
        .filter(|count| *count >= 1)
        .unwrap_or(1)
}

/// A new partition.
fn first_chain(id: SegmentId, leader: &Broker, min_insync: i16) -> PartitionRecord {
    let segment = SegmentRecord {
        id,
        base: Offset::ZERO,
        end: None,
        epoch: LeaderEpoch(0),
        version: 0,
        state: SegmentState::Active,
        leader: leader.id,
        leader_incarnation: leader.incarnation,
        replicas: vec![leader.id],
        isr: vec![Member::new(leader.id, leader.incarnation)],
        elr: vec![],
        lost: vec![],
        flush: SegmentFlush::Os,
        complete: vec![],
        lossy: false,
        min_insync,
        bytes: 0,
        max_timestamp: TimestampMs::NONE,
        digest: None,
        compaction: None,
    };
    PartitionRecord {
        log_start: Offset::ZERO,
        segments: Vector::unit(segment),
    }
}

/// The count after `add`, if it is allowed.
fn check_count(current: i32, add: &[NewSegment]) -> Result<i32, ApplyError> {
    let total = i32::try_from(add.len())
        .ok()
        .and_then(|add| current.checked_add(add));
    match total {
        Some(total) if total > current && total <= PARTITIONS_PER_TOPIC_MAX => Ok(total),
        _ => Err(ApplyError::InvalidPartitionCount {
            current,
            allowed: PARTITIONS_PER_TOPIC_MAX,
        }),
    }
}

/// No two partitions may begin with the same segment: its id is a file's name.
fn check_ids(
    partitions: &Vector<Arc<PartitionRecord>>,
    add: &[NewSegment],
) -> Result<(), ApplyError> {
    let chains = partitions.iter().flat_map(|partition| &partition.segments);
    let mut taken: HashSet<SegmentId> = chains.map(|segment| segment.id).collect();
    match add.iter().find(|new| !taken.insert(new.id)) {
        Some(new) => Err(ApplyError::SegmentIdTaken { id: new.id }),
        None => Ok(()),
    }
}
