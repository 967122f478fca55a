//! The state machine: what each command does to an image.
//!
//! Pure and total: the same image, index and command give the same image and answer on every
//! replica, so there is no clock, no randomness, no I/O and no configuration here. All checks of a
//! command come before its first change, so that a refused command changes nothing but the version.
//! Limits are constants of the command format: another limit on another replica would be another
//! state.

mod brokers;
mod copies;
mod isr;
mod seals;
mod segments;
mod topics;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use mainstem_record::{PartitionId, TopicId};

pub use self::seals::UNCLEAN_GAP;
use crate::{
    command::{Applied, ApplyError, Command},
    image::{Image, PartitionRecord, Route, RouteTarget, Topic},
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
/// Bytes of the address that other nodes reach a broker at: a host and a port.
pub const PEER_BYTES_MAX: usize = HOST_BYTES_MAX + 6;
/// Replicas of one segment.
pub const REPLICAS_MAX: usize = 64;
/// Brokers that answer in one seal.
pub const ANSWERS_MAX: usize = 128;
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
        Command::RegisterBroker { .. } => brokers::register(image, command),
        Command::FenceBroker { member } => brokers::fence(image, *member),
        Command::UnfenceBroker { member } => brokers::unfence(image, *member),
        Command::DrainBroker { member } => brokers::drain(image, *member),
        Command::DeclareLost { member } => brokers::declare_lost(image, *member, false),
        Command::UnregisterBroker { member } => brokers::declare_lost(image, *member, true),
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
            topics::alter_broker_configs(image, set, delete)
        }
        Command::SetReplicationFactor {
            topic,
            expected,
            replication_factor,
        } => topics::set_replication_factor(image, *topic, *expected, *replication_factor),
        Command::AlterIsr { .. }
        | Command::EvictReplicas { .. }
        | Command::BeginSeal { .. }
        | Command::CommitSeal { .. }
        | Command::SealAndOpen { .. }
        | Command::SealAndOpenSingle { .. }
        | Command::UncleanRecover { .. }
        | Command::AddComplete { .. }
        | Command::MarkDurable { .. }
        | Command::RemoveComplete { .. } => Ok(apply_one_by_one(image, command)),
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

/// The commands whose parts are each decided by itself, in order.
fn apply_one_by_one(image: &mut Image, command: &Command) -> Applied {
    match command {
        Command::AlterIsr { changes } => Applied::IsrAltered {
            results: each(image, changes, isr::alter),
        },
        Command::EvictReplicas { evictions } => Applied::IsrAltered {
            results: each(image, evictions, isr::evict),
        },
        Command::BeginSeal { seals, .. } => Applied::SealsBegun {
            results: each(image, seals, isr::begin_seal),
        },
        Command::CommitSeal { commits } => Applied::SealedAndOpened {
            results: each(image, commits, seals::commit),
        },
        Command::SealAndOpen { seals } => Applied::SealedAndOpened {
            results: each(image, seals, seals::seal_and_open),
        },
        Command::SealAndOpenSingle { seals } => Applied::SealedAndOpened {
            results: each(image, seals, seals::single),
        },
        Command::UncleanRecover { recoveries } => Applied::SealedAndOpened {
            results: each(image, recoveries, seals::recover),
        },
        Command::AddComplete { copies } => Applied::CopiesChanged {
            results: each(image, copies, copies::add),
        },
        Command::MarkDurable { copies } => Applied::CopiesChanged {
            results: each(image, copies, copies::mark_durable),
        },
        Command::RemoveComplete { copies } => Applied::CopiesChanged {
            results: each(image, copies, copies::remove),
        },
        // The caller names the others.
        _ => Applied::Barrier,
    }
}

fn each<C, T>(
    image: &mut Image,
    parts: &[C],
    apply: fn(&mut Image, &C) -> Result<T, ApplyError>,
) -> Vec<Result<T, ApplyError>> {
    parts.iter().map(|part| apply(image, part)).collect()
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
