//! Commands on topics and configs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use imbl::{OrdMap, Vector};
use mainstem_record::{BrokerId, LeaderEpoch, Member, Offset, SegmentId, TopicId};

use super::{
    CONFIG_NAME_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, CONFIGS_MAX, PARTITIONS_PER_TOPIC_MAX,
    TOPIC_NAME_BYTES_MAX, isr,
    seals::{check_replicas, opened},
    topic_mut,
};
use crate::{
    command::{Applied, ApplyError, Command, NewSegment, NextSegment},
    image::{Image, PartitionRecord, RouteTarget, SegmentRecord, Topic},
};

/// Kafka's name of the topic and broker config that [`min_insync_of`] reads.
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
    let configs = altered(&OrdMap::new(), configs, &[])?;
    check_count(0, partitions)?;
    check_ids(&Vector::new(), partitions)?;
    let mut topic = Topic {
        id: *id,
        name: name.clone(),
        internal: *internal,
        origin: *origin,
        replication_factor: *replication_factor,
        configs,
        partitions: Vector::new(),
    };
    topic.partitions = first_chains(image, &topic, partitions, *leader)?;
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
    let added = first_chains(image, topic, add, leader)?;
    topic_mut(image, id)?.partitions.append(added);
    Ok(Applied::PartitionsCreated { count: total })
}

/// [`Command::SetReplicationFactor`].
pub(super) fn set_replication_factor(
    image: &mut Image,
    id: TopicId,
    expected: i16,
    replication_factor: i16,
) -> Result<Applied, ApplyError> {
    let topic = image.topic_by_id(id).ok_or(ApplyError::UnknownTopic)?;
    let is_legal = usize::try_from(replication_factor)
        .is_ok_and(|factor| (1..=image.brokers.len()).contains(&factor));
    if topic.replication_factor != expected || !is_legal {
        let asked = replication_factor;
        return Err(ApplyError::InvalidReplicationFactor { asked });
    }
    topic_mut(image, id)?.replication_factor = replication_factor;
    Ok(Applied::ReplicationFactorSet)
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
    let brokers = image.broker_configs.clone();
    let topic = topic_mut(image, id)?;
    topic.configs = configs;
    refresh_min_insync(topic, &brokers);
    Ok(Applied::ConfigsAltered)
}

/// [`Command::AlterBrokerConfigs`].
pub(super) fn alter_broker_configs(
    image: &mut Image,
    set: &BTreeMap<String, String>,
    delete: &[String],
) -> Result<Applied, ApplyError> {
    let configs = altered(&image.broker_configs, set, delete)?;
    let is_min_insync =
        configs.get(MIN_INSYNC_CONFIG) != image.broker_configs.get(MIN_INSYNC_CONFIG);
    image.broker_configs = configs;
    if is_min_insync {
        let brokers = image.broker_configs.clone();
        let ids: Vec<TopicId> = image.topics.values().copied().collect();
        for id in ids {
            refresh_min_insync(topic_mut(image, id)?, &brokers);
        }
    }
    Ok(Applied::ConfigsAltered)
}

/// `configs` without `delete`, with `set`. The names' meaning is the proposer's business.
fn altered(
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

/// How many in-sync replicas segments of a topic need: as many as its configs, or else those of all
/// brokers, say, at most its replication factor.
pub(super) fn min_insync_of(topic: &Topic, brokers: &OrdMap<String, String>) -> i16 {
    let text = topic
        .configs
        .get(MIN_INSYNC_CONFIG)
        .or_else(|| brokers.get(MIN_INSYNC_CONFIG));
    text.and_then(|text| text.parse::<i16>().ok())
        .unwrap_or(1)
        .clamp(1, topic.replication_factor.max(1))
}

/// Gives the open segments of a topic the `min_insync` that its configs now mean (R13). One that was
/// opened when the topic was meant to have fewer replicas goes on with those.
fn refresh_min_insync(topic: &mut Topic, brokers: &OrdMap<String, String>) {
    let wanted = min_insync_of(topic, brokers);
    for partition in topic.partitions.iter_mut() {
        let now = |open: &SegmentRecord| {
            let replicas = i16::try_from(open.replicas.len()).unwrap_or(i16::MAX);
            wanted.min(replicas.max(1))
        };
        let is_stale = partition
            .active()
            .is_some_and(|open| open.min_insync != now(open));
        if !is_stale {
            continue;
        }
        if let Some(open) = Arc::make_mut(partition).segments.back_mut() {
            let now = now(open);
            isr::set_min_insync(open, now);
        }
    }
}

/// New partitions of a topic; those that name no replicas are on `single`.
fn first_chains(
    image: &Image,
    topic: &Topic,
    new: &[NewSegment],
    single: BrokerId,
) -> Result<Vector<Arc<PartitionRecord>>, ApplyError> {
    let chains = new
        .iter()
        .map(|new| first_chain(image, topic, new, single).map(Arc::new));
    chains.collect()
}

fn first_chain(
    image: &Image,
    topic: &Topic,
    new: &NewSegment,
    single: BrokerId,
) -> Result<PartitionRecord, ApplyError> {
    let replicas = match &*new.replicas {
        [] => vec![single],
        placed => placed.to_vec(),
    };
    check_replicas(image, &replicas)?;
    let asked = topic.replication_factor;
    if i16::try_from(replicas.len()) != Ok(asked) {
        return Err(ApplyError::InvalidReplicationFactor { asked });
    }
    let members = replicas.iter().filter_map(|id| {
        let broker = image.brokers.get(id)?;
        Some((broker, image.member(*id)?))
    });
    // All hold everything: nothing is in it yet.
    let (fenced, live): (Vec<_>, Vec<_>) = members.partition(|(broker, _)| broker.fenced);
    let isr: Vec<Member> = live.into_iter().map(|(_, member)| member).collect();
    let wanted = new.leader.or_else(|| Some(isr.first()?.broker));
    let Some(wanted) = wanted else {
        let broker = replicas.first().copied().unwrap_or(single);
        return Err(ApplyError::Fenced { broker });
    };
    let leader = isr.iter().find(|member| member.broker == wanted);
    let leader = *leader.ok_or(if replicas.contains(&wanted) {
        ApplyError::Fenced { broker: wanted }
    } else {
        ApplyError::NotReplica { broker: wanted }
    })?;
    let next = NextSegment {
        id: new.id,
        replicas,
        isr,
        leader,
        flush: new.flush,
    };
    let mut segment = SegmentRecord {
        min_insync: min_insync_of(topic, &image.broker_configs),
        ..opened(&next, LeaderEpoch(0))
    };
    if segment.isr.len() < segment.min_insync_count() {
        segment.elr = fenced.into_iter().map(|(_, member)| member).collect();
    }
    Ok(PartitionRecord {
        log_start: Offset::ZERO,
        segments: Vector::unit(segment),
    })
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
