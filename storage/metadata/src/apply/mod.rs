//! The state machine: what each command does to an image.
//!
//! Pure and total: the same image, index and command give the same image and answer on every
//! replica, so there is no clock, no randomness, no I/O and no configuration here. All checks of a
//! command come before its first change, so that a refused command changes nothing but the version.
//! Limits are constants of the command format: another limit on another replica would be another
//! state.

mod segments;
mod topics;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use mainstem_record::{BrokerId, Incarnation, PartitionId, TopicId};
use uuid::Uuid;

use crate::{
    command::{Applied, ApplyError, Command},
    image::{
        Broker, Endpoint, Image, PartitionRecord, Roles, Route, RouteTarget, SegmentState, Topic,
    },
};

/// Bytes of a topic name, as in Kafka.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;
/// Configs of one topic, and of all brokers together.
pub const CONFIGS_MAX: usize = 256;
/// Bytes of a config's name.
pub const CONFIG_NAME_BYTES_MAX: usize = 256;
/// Bytes of a config's value.
pub const CONFIG_VALUE_BYTES_MAX: usize = 32 * 1024;
/// Listeners of one broker.
pub const LISTENERS_MAX: usize = 16;
/// Bytes of a listener's name or host (a DNS name has at most 255).
pub const HOST_BYTES_MAX: usize = 255;
/// Producer ids of one block.
pub const PRODUCER_IDS_MAX: i32 = 1_000_000;
/// Route decisions. Clients choose first levels, so without a limit they could fill the metadata.
pub const ROUTES_MAX: usize = 10_000;
/// Bytes of a first level that can be decided: a longer one cannot be a topic's name, so it goes to
/// the overflow topic without a decision.
pub const LEVEL_BYTES_MAX: usize = TOPIC_NAME_BYTES_MAX;
/// Characters of a cluster id: 16 bytes in base64url without padding.
pub const CLUSTER_ID_CHARS: usize = 22;

/// Applies the command at `index` of the Raft log. Sets the image's version also when it refuses.
///
/// # Errors
/// A precondition does not hold; nothing but the version has changed.
pub fn apply(image: &mut Image, index: u64, command: &Command) -> Result<Applied, ApplyError> {
    image.version = index;
    match command {
        Command::Barrier => Ok(Applied::Barrier),
        Command::SetClusterId { cluster_id } => set_cluster_id(image, cluster_id),
        Command::RegisterBroker {
            broker,
            directory_id,
            expected,
            listeners,
            ..
        } => register_broker(image, *broker, *directory_id, *expected, listeners),
        Command::CreateTopic { .. } => topics::create(image, command),
        Command::DeleteTopic { id } => topics::delete(image, *id),
        Command::CreatePartitions {
            topic,
            expected_count,
            add,
        } => topics::create_partitions(image, *topic, *expected_count, add),
        Command::AlterTopicConfigs { topic, set, delete } => {
            topics::alter_configs(image, *topic, set, delete)
        }
        Command::AlterBrokerConfigs { set, delete } => {
            image.broker_configs = topics::altered(&image.broker_configs, set, delete)?;
            Ok(Applied::ConfigsAltered)
        }
        Command::SealAndOpenSingle { seals } => Ok(Applied::SealedAndOpened {
            results: seals
                .iter()
                .map(|seal| segments::seal_and_open(image, seal))
                .collect(),
        }),
        Command::FenceBroker { .. }
        | Command::UnfenceBroker { .. }
        | Command::DrainBroker { .. }
        | Command::DeclareLost { .. }
        | Command::UnregisterBroker { .. }
        | Command::AlterIsr { .. }
        | Command::EvictReplicas { .. }
        | Command::BeginSeal { .. }
        | Command::CommitSeal { .. }
        | Command::SealAndOpen { .. }
        | Command::UncleanRecover { .. }
        | Command::AddComplete { .. }
        | Command::MarkDurable { .. }
        | Command::RemoveComplete { .. } => Err(ApplyError::Unsupported),
        Command::DeleteSegments {
            partition,
            segments,
            log_start,
        } => segments::delete(image, *partition, segments, *log_start),
        Command::SetLogStart {
            partition,
            log_start,
        } => segments::set_log_start(image, *partition, *log_start),
        Command::ReplaceSegments {
            partition,
            old,
            new,
        } => segments::replace(image, *partition, old, new),
        Command::AllocateProducerIds { count } => allocate_producer_ids(image, *count),
        Command::DecideRoute { level, target } => decide_route(image, level, *target),
    }
}

/// Whether `text` is 22 characters of base64url.
pub fn is_cluster_id(text: &str) -> bool {
    text.len() == CLUSTER_ID_CHARS
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn set_cluster_id(image: &mut Image, cluster_id: &str) -> Result<Applied, ApplyError> {
    if !is_cluster_id(cluster_id) {
        return Err(ApplyError::InvalidClusterId);
    }
    if image.cluster_id.is_empty() {
        image.cluster_id = cluster_id.to_owned();
    }
    Ok(Applied::ClusterId {
        cluster_id: image.cluster_id.clone(),
    })
}

fn register_broker(
    image: &mut Image,
    id: BrokerId,
    directory_id: Uuid,
    expected: Option<Incarnation>,
    listeners: &BTreeMap<String, Endpoint>,
) -> Result<Applied, ApplyError> {
    let current = image.brokers.get(&id).map(|broker| broker.incarnation);
    if current != expected {
        return Err(ApplyError::StaleIncarnation { current });
    }
    let is_legal = |text: &str| !text.is_empty() && text.len() <= HOST_BYTES_MAX;
    if id.0 < 0
        || listeners.len() > LISTENERS_MAX
        || !listeners
            .iter()
            .all(|(name, at)| is_legal(name) && is_legal(&at.host))
    {
        return Err(ApplyError::InvalidEntries);
    }
    // Two nodes on copies of one directory would both claim what is in it.
    let owner = image
        .brokers
        .values()
        .find(|broker| broker.directory_id == directory_id);
    if let Some(owner) = owner.filter(|owner| owner.id != id) {
        return Err(ApplyError::DirectoryTaken { owner: owner.id });
    }
    let incarnation = Incarnation(current.map_or(1, |current| current.0.saturating_add(1)));
    let broker = Broker {
        id,
        incarnation,
        directory_id,
        listeners: listeners.clone(),
        peer: None,
        roles: Roles::default(),
        fenced: false,
        draining: false,
        lost: false,
        request: Uuid::nil(),
    };
    image.brokers.insert(id, broker);
    stop_segments_led_by(image, id);
    Ok(Applied::Registered { incarnation })
}

/// Seal protocol R5: high watermark and pending proposals lived in the memory of the leader's last
/// life, so what it wrote is decided anew before anybody appends.
fn stop_segments_led_by(image: &mut Image, leader: BrokerId) {
    let ids: Vec<TopicId> = image.topics.values().copied().collect();
    for id in ids {
        let Some(topic) = image.topics_by_id.get(&id) else {
            continue;
        };
        let led: Vec<usize> = (0..)
            .zip(&topic.partitions)
            .filter(|(_, partition)| {
                partition
                    .segments
                    .last()
                    .is_some_and(|last| last.state == SegmentState::Active && last.leader == leader)
            })
            .map(|(index, _)| index)
            .collect();
        if led.is_empty() {
            continue;
        }
        let Some(topic) = image.topics_by_id.get_mut(&id).map(Arc::make_mut) else {
            continue;
        };
        for index in led {
            let partition = topic.partitions.get_mut(index).map(Arc::make_mut);
            if let Some(last) = partition.and_then(|partition| partition.segments.back_mut()) {
                last.state = SegmentState::Sealing;
                last.version = last.version.saturating_add(1);
            }
        }
    }
}

fn allocate_producer_ids(image: &mut Image, count: i32) -> Result<Applied, ApplyError> {
    if !(1..=PRODUCER_IDS_MAX).contains(&count) {
        return Err(ApplyError::InvalidCount);
    }
    let first = image.next_producer_id;
    image.next_producer_id = first
        .checked_add(i64::from(count))
        .ok_or(ApplyError::ProducerIdsExhausted)?;
    Ok(Applied::ProducerIds { first, count })
}

fn decide_route(
    image: &mut Image,
    level: &str,
    target: RouteTarget,
) -> Result<Applied, ApplyError> {
    if let Some(standing) = image.routes.get(level) {
        return Ok(Applied::RouteDecided {
            route: standing.clone(),
        });
    }
    if level.is_empty() || level.len() > LEVEL_BYTES_MAX {
        return Err(ApplyError::InvalidLevel);
    }
    if let RouteTarget::OwnTopic(id) = target {
        image.topic_by_id(id).ok_or(ApplyError::UnknownTopic)?;
    }
    if image.routes.len() >= ROUTES_MAX {
        return Err(ApplyError::TooManyRoutes);
    }
    let route = Route {
        target,
        since_version: image.version,
    };
    image.routes.insert(level.to_owned(), route.clone());
    Ok(Applied::RouteDecided { route })
}

/// The partition, or which part of its name is unknown.
fn find_partition(image: &Image, id: PartitionId) -> Result<&PartitionRecord, ApplyError> {
    image
        .topic_by_id(id.topic)
        .ok_or(ApplyError::UnknownTopic)?;
    image
        .partition(id)
        .map(Arc::as_ref)
        .ok_or(ApplyError::UnknownPartition)
}

/// The same partition, to change it; copies only what other images still hold.
fn partition_mut(image: &mut Image, id: PartitionId) -> Result<&mut PartitionRecord, ApplyError> {
    let index = usize::try_from(id.index.0).map_err(|_| ApplyError::UnknownPartition)?;
    let partition = topic_mut(image, id.topic)?.partitions.get_mut(index);
    partition
        .map(Arc::make_mut)
        .ok_or(ApplyError::UnknownPartition)
}

fn topic_mut(image: &mut Image, id: TopicId) -> Result<&mut Topic, ApplyError> {
    let topic = image.topics_by_id.get_mut(&id);
    topic.map(Arc::make_mut).ok_or(ApplyError::UnknownTopic)
}
