//! Topics: making, growing and deleting them.

mod making;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mainstem_metadata::{ApplyError, Image, ProposeError, Topic, TopicOrigin};
use mainstem_record::{BrokerId, PartitionIndex, TopicId};
use uuid::Uuid;

use crate::{
    Broker, Caller,
    configs::ConfigEntry,
    core::{Core, is_legal_topic_name},
    error_code::ErrorCode,
};

pub(crate) use self::making::{NewTopic, REPLICAS_USUAL, Replicas};

/// The most partitions that one topic may have.
const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;

/// A topic as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By id (KIP-516).
    Id(TopicId),
}

/// A topic to make (`CreateTopics`).
#[derive(Debug, Clone)]
pub struct NewTopicRequest {
    /// The name.
    pub name: String,
    /// Partitions; -1 for the default (`num.partitions`), or as `assignments` say.
    pub partitions: i32,
    /// Replicas; -1 for the default (`default.replication.factor`), or as `assignments` say.
    pub replication_factor: i16,
    /// Explicit replicas per partition; empty for automatic placement.
    pub assignments: Vec<(PartitionIndex, Vec<BrokerId>)>,
    /// Configs that differ from the defaults.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic that was made, or would be.
#[derive(Debug, Clone)]
pub struct CreatedTopic {
    /// The new id; nil if only validated.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: i32,
    /// Its replicas.
    pub replication_factor: i16,
    /// All its configs.
    pub configs: Vec<ConfigEntry>,
}

/// Why an administrative request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct TopicError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// For people: what is wrong and what is allowed.
    pub message: String,
}

// === impl TopicError ===

impl TopicError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<ProposeError> for TopicError {
    fn from(error: ProposeError) -> Self {
        let code = match &error {
            ProposeError::Apply(ApplyError::TopicExists { .. }) => ErrorCode::TopicAlreadyExists,
            ProposeError::Apply(ApplyError::UnknownTopic) => ErrorCode::UnknownTopicOrPartition,
            ProposeError::Apply(_) => ErrorCode::InvalidRequest,
            ProposeError::Unavailable(_) => ErrorCode::NotController,
            ProposeError::Fatal => ErrorCode::UnknownServerError,
        };
        Self {
            code,
            message: error.to_string(),
        }
    }
}

// === impl Core ===

impl Core {
    pub(crate) fn find_topic(
        &self,
        image: &Image,
        topic: &TopicRef<'_>,
    ) -> Result<Arc<Topic>, ErrorCode> {
        match topic {
            TopicRef::Name(name) => image
                .topic(name)
                .cloned()
                .ok_or(ErrorCode::UnknownTopicOrPartition),
            TopicRef::Id(id) => image
                .topic_by_id(*id)
                .cloned()
                .ok_or(ErrorCode::UnknownTopicId),
        }
    }
}

// === impl Broker ===

impl Broker {
    /// Makes topics, each on its own: one refusal does not touch the others.
    pub async fn create_topics(
        &self,
        _caller: &Caller,
        requests: Vec<NewTopicRequest>,
        validate_only: bool,
    ) -> Vec<Result<CreatedTopic, TopicError>> {
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(self.create_one(request, validate_only).await);
        }
        results
    }

    async fn create_one(
        &self,
        request: NewTopicRequest,
        validate_only: bool,
    ) -> Result<CreatedTopic, TopicError> {
        let image = self.core.image();
        check_new_name(&image, &request.name)?;
        if image.topic(&request.name).is_some() {
            let message = format!("topic '{}' already exists", request.name);
            return Err(TopicError::new(ErrorCode::TopicAlreadyExists, message));
        }
        let (partitions, replicas) = self.check_shape(&image, &request)?;
        let configs = checked_configs(request.configs)?;
        let new = NewTopic {
            name: request.name,
            partitions,
            replicas,
            origin: TopicOrigin::Admin,
            configs,
        };
        if validate_only {
            let factor = self
                .core
                .replication_factor(&image, &new.replicas, new.origin);
            return Ok(CreatedTopic {
                id: TopicId(Uuid::nil()),
                partitions,
                replication_factor: factor,
                configs: self.core.topic_config_entries(&new.configs),
            });
        }
        let topic = self.core.create_topic(new).await?;
        let overrides = topic
            .configs
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Ok(CreatedTopic {
            id: topic.id,
            partitions,
            replication_factor: topic.replication_factor,
            configs: self.core.topic_config_entries(&overrides),
        })
    }

    /// Partitions and replicas of a request against what this cluster has.
    fn check_shape(
        &self,
        image: &Image,
        request: &NewTopicRequest,
    ) -> Result<(i32, Replicas), TopicError> {
        if !request.assignments.is_empty() {
            if request.partitions != -1 || request.replication_factor != -1 {
                let message = "give either assignments or a number of partitions and replicas";
                return Err(TopicError::new(ErrorCode::InvalidRequest, message));
            }
            return check_numbered(image, &request.assignments);
        }
        let partitions = match request.partitions {
            -1 => self.core.config.kafka.num_partitions,
            count => count,
        };
        check_partition_count(partitions)?;
        let replicas = match request.replication_factor {
            -1 => Replicas::Default,
            factor => Replicas::Count(factor),
        };
        let factor = self
            .core
            .replication_factor(image, &replicas, TopicOrigin::Admin);
        self.core.check_replication_factor(image, factor)?;
        Ok((partitions, replicas))
    }

    /// Makes a topic because a client asked for its metadata (`auto.create.topics.enable`).
    pub async fn auto_create_topic(
        &self,
        _caller: &Caller,
        name: &str,
    ) -> Result<Arc<Topic>, TopicError> {
        check_new_name(&self.core.image(), name)?;
        if !self.core.config.kafka.auto_create_topics {
            let message =
                format!("topic '{name}' does not exist and auto.create.topics.enable is off");
            return Err(TopicError::new(ErrorCode::UnknownTopicOrPartition, message));
        }
        let new = NewTopic {
            name: name.to_owned(),
            partitions: self.core.config.kafka.num_partitions,
            replicas: Replicas::Default,
            origin: TopicOrigin::AutoCreated,
            configs: BTreeMap::new(),
        };
        self.core.ensure_topic(new).await
    }

    /// Deletes a topic with all its records.
    pub async fn delete_topic(
        &self,
        _caller: &Caller,
        topic: &TopicRef<'_>,
    ) -> Result<Arc<Topic>, TopicError> {
        if !self.core.config.kafka.delete_topic_enable {
            let message = "delete.topic.enable is false";
            return Err(TopicError::new(ErrorCode::TopicDeletionDisabled, message));
        }
        let topic = self
            .core
            .find_topic(&self.core.image(), topic)
            .map_err(|code| TopicError::new(code, code.text()))?;
        if topic.internal {
            let message = format!("'{}' is internal and can't be deleted", topic.name);
            return Err(TopicError::new(ErrorCode::InvalidTopicException, message));
        }
        let (core, id) = (self.core.clone(), topic.id);
        let delete = async move { core.delete_topic_here(id).await };
        self.core.to_the_end("delete topic", delete).await
    }

    /// Grows a topic to `total` partitions. It never shrinks.
    pub async fn create_partitions(
        &self,
        _caller: &Caller,
        name: &str,
        total: i32,
        assignments: Option<Vec<Vec<BrokerId>>>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let image = self.core.image();
        let topic = self
            .core
            .find_topic(&image, &TopicRef::Name(name))
            .map_err(|code| TopicError::new(code, code.text()))?;
        let present = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if topic.internal {
            let message = "the partitions of internal topics are fixed at creation";
            return Err(TopicError::new(ErrorCode::InvalidPartitions, message));
        }
        if total <= present {
            let message = format!("topic has {present} partitions; {total} is not more");
            return Err(TopicError::new(ErrorCode::InvalidPartitions, message));
        }
        check_partition_count(total)?;
        let factor = topic.replication_factor;
        let replicas = match assignments {
            Some(assigned) => {
                check_assigned(&image, &assigned, Some(factor))?;
                if assigned.len() as i64 != i64::from(total - present) {
                    let message = format!(
                        "{} assignments for {} new partitions",
                        assigned.len(),
                        total - present
                    );
                    return Err(TopicError::new(
                        ErrorCode::InvalidReplicaAssignment,
                        message,
                    ));
                }
                Replicas::Assigned(assigned)
            }
            None => {
                self.core.check_replication_factor(&image, factor)?;
                Replicas::Count(factor)
            }
        };
        if validate_only {
            return Ok(());
        }
        let (core, id) = (self.core.clone(), topic.id);
        let grow = async move { core.grow_topic_here(id, (present, total), replicas).await };
        self.core.to_the_end("create partitions", grow).await
    }
}

fn check_new_name(image: &Image, name: &str) -> Result<(), TopicError> {
    if !is_legal_topic_name(name) {
        let message = "a topic name has 1 to 249 of the characters a-z A-Z 0-9 . _ - \
                       and is not '.' or '..'";
        return Err(TopicError::new(ErrorCode::InvalidTopicException, message));
    }
    // As in Kafka: such names would be one in the metrics of most tools.
    let folded = name.replace('.', "_");
    let other = image
        .topics
        .keys()
        .find(|other| *other != name && other.replace('.', "_") == folded);
    if let Some(other) = other.filter(|_| name.contains(['.', '_'])) {
        let message =
            format!("topic '{name}' collides with topic '{other}': '.' and '_' count as one");
        return Err(TopicError::new(ErrorCode::InvalidTopicException, message));
    }
    Ok(())
}

/// Assignments of a new topic, in any order: of the partitions 0, 1, 2, …
fn check_numbered(
    image: &Image,
    assignments: &[(PartitionIndex, Vec<BrokerId>)],
) -> Result<(i32, Replicas), TopicError> {
    let mut sorted = assignments.to_vec();
    sorted.sort_by_key(|(index, _)| *index);
    let contiguous = sorted
        .iter()
        .zip(0..)
        .all(|((have, _), want)| have.0 == want);
    if !contiguous {
        let message = "partitions must be 0, 1, 2, …";
        return Err(TopicError::new(
            ErrorCode::InvalidReplicaAssignment,
            message,
        ));
    }
    let assigned: Vec<Vec<BrokerId>> = sorted.into_iter().map(|(_, replicas)| replicas).collect();
    check_assigned(image, &assigned, None)?;
    let count = i32::try_from(assigned.len()).unwrap_or(i32::MAX);
    check_partition_count(count)?;
    Ok((count, Replicas::Assigned(assigned)))
}

/// Whether these brokers can hold partitions: registered, each named once, equally many everywhere
/// (`factor`, if it is given), and one of each partition alive to lead it.
fn check_assigned(
    image: &Image,
    assigned: &[Vec<BrokerId>],
    factor: Option<i16>,
) -> Result<(), TopicError> {
    let wanted = factor
        .and_then(|factor| usize::try_from(factor).ok())
        .or_else(|| assigned.first().map(Vec::len))
        .unwrap_or(0);
    let is_legal = |replicas: &Vec<BrokerId>| {
        let distinct: BTreeSet<BrokerId> = replicas.iter().copied().collect();
        let alive = |id: &BrokerId| image.brokers.get(id).is_some_and(|broker| !broker.fenced);
        !replicas.is_empty()
            && replicas.len() == wanted
            && distinct.len() == replicas.len()
            && distinct.iter().all(|id| image.brokers.contains_key(id))
            && distinct.iter().any(alive)
    };
    if assigned.iter().all(is_legal) {
        return Ok(());
    }
    let message =
        format!("each partition needs {wanted} different registered broker(s), one of them alive");
    Err(TopicError::new(
        ErrorCode::InvalidReplicaAssignment,
        message,
    ))
}

fn check_partition_count(count: i32) -> Result<(), TopicError> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) {
        return Ok(());
    }
    let message = format!("{count} partitions; allowed are 1 to {PARTITIONS_PER_TOPIC_MAX}");
    Err(TopicError::new(ErrorCode::InvalidPartitions, message))
}

/// Configs of a new topic: no null values, all known and legal.
fn checked_configs(
    configs: Vec<(String, Option<String>)>,
) -> Result<BTreeMap<String, String>, TopicError> {
    let mut checked = BTreeMap::new();
    for (name, value) in configs {
        let Some(value) = value else {
            let message = format!("config {name} has no value");
            return Err(TopicError::new(ErrorCode::InvalidConfig, message));
        };
        checked.insert(name, value);
    }
    crate::configs::check_topic_configs(&checked)?;
    Ok(checked)
}
