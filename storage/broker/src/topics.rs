//! Topics: the cluster as clients see it, and making, growing and deleting topics.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_config::TopicConfig;
use mainstem_metadata::{
    ApplyError, Command, Image, NewSegment, ProposeError, SegmentFlush, Topic, TopicOrigin,
};
use mainstem_record::{BrokerId, PartitionId, PartitionIndex, TopicId};
use uuid::Uuid;

use crate::{
    Broker, Caller,
    configs::ConfigEntry,
    core::{Core, flush_of, is_legal_topic_name},
    error_code::ErrorCode,
};

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

/// What a client is told of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerEndpoint {
    /// The broker's id.
    pub id: BrokerId,
    /// Host to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
}

/// What a client is told of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Kafka's cluster id: 22 characters of base64url.
    pub cluster_id: String,
    /// Where administrative requests go.
    pub controller: BrokerId,
    /// All registered brokers, by id.
    pub brokers: Vec<BrokerEndpoint>,
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

/// A topic that the broker makes, already checked.
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) origin: TopicOrigin,
    pub(crate) configs: BTreeMap<String, String>,
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

    /// Makes a topic and opens its partitions before it returns. If a topic of that name exists,
    /// [`ErrorCode::TopicAlreadyExists`].
    pub(crate) async fn create_topic(
        self: &Arc<Self>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        let core = self.clone();
        self.to_the_end(
            "create topic",
            async move { core.create_topic_here(new).await },
        )
        .await
    }

    /// Runs a change to its end also if whoever asked for it goes away: what is in the metadata must
    /// be done to the log too.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        change: impl Future<Output = Result<T, TopicError>> + Send + 'static,
    ) -> Result<T, TopicError> {
        self.env.start(name, change).await.unwrap_or_else(|_| {
            let message = "the node is stopping";
            Err(TopicError::new(ErrorCode::UnknownServerError, message))
        })
    }

    /// The first segment of a partition whose only replica is here.
    fn new_segment(&self, flush: SegmentFlush) -> NewSegment {
        NewSegment {
            id: self.new_segment_id(),
            replicas: vec![],
            leader: None,
            flush,
        }
    }

    async fn create_topic_here(&self, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        let _guard = self.topics_change.lock().await;
        let id = TopicId(Uuid::from_bytes(self.env.random_uuid()));
        let overrides = new.configs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let config = TopicConfig::resolve(&self.topic_defaults(), overrides);
        let flush = flush_of(config.flush_policy(1));
        let segments = (0..new.partitions).map(|_| self.new_segment(flush));
        let command = Command::CreateTopic {
            id,
            name: new.name.clone(),
            internal: new.origin == TopicOrigin::Internal,
            origin: new.origin,
            replication_factor: 1,
            configs: new.configs,
            partitions: segments.collect(),
            leader: self.node_id(),
        };
        self.metadata.propose(command).await?;
        let image = self.image();
        let topic = image.topic_by_id(id).cloned().ok_or_else(|| {
            TopicError::new(
                ErrorCode::LeaderNotAvailable,
                "the topic was deleted at once",
            )
        })?;
        for index in (0..new.partitions).map(PartitionIndex) {
            self.open_partition(&topic, index).await;
        }
        tracing::info!(topic = %new.name, partitions = new.partitions, "topic created");
        Ok(topic)
    }

    async fn delete_topic_here(&self, id: TopicId) -> Result<Arc<Topic>, TopicError> {
        let _guard = self.topics_change.lock().await;
        let unknown = |code: ErrorCode| TopicError::new(code, code.text());
        let topic = self
            .find_topic(&self.image(), &TopicRef::Id(id))
            .map_err(unknown)?;
        self.metadata.propose(Command::DeleteTopic { id }).await?;
        for index in (0..).map(PartitionIndex).take(topic.partitions.len()) {
            let id = PartitionId {
                topic: topic.id,
                index,
            };
            self.forget_failed(id);
            if let Err(error) = self.log.remove_partition(id).await {
                // The metadata has forgotten it; what is left is removed at the next start.
                tracing::warn!(topic = %topic.name, partition = index.0, %error, "files left");
            }
        }
        tracing::info!(topic = %topic.name, "topic deleted");
        Ok(topic)
    }

    async fn grow_topic_here(
        &self,
        topic: TopicId,
        present: i32,
        total: i32,
    ) -> Result<(), TopicError> {
        let _guard = self.topics_change.lock().await;
        let flush = self
            .image()
            .topic_by_id(topic)
            .map_or(SegmentFlush::Os, |topic| self.configured_flush(topic));
        let add = (present..total).map(|_| self.new_segment(flush));
        let command = Command::CreatePartitions {
            topic,
            // Refused if somebody else was first.
            expected_count: present,
            add: add.collect(),
        };
        self.metadata.propose(command).await?;
        if let Some(topic) = self.image().topic_by_id(topic) {
            for index in (present..total).map(PartitionIndex) {
                self.open_partition(topic, index).await;
            }
        }
        Ok(())
    }

    /// A topic by name, made as `new` says if it is not there.
    pub(crate) async fn ensure_topic(
        self: &Arc<Self>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        if let Some(topic) = self.image().topic(&new.name) {
            let last = PartitionIndex(i32::try_from(topic.partitions.len()).unwrap_or(1) - 1);
            let id = PartitionId {
                topic: topic.id,
                index: last,
            };
            if self.partition(id).is_err() {
                // Somebody else is making it right now; its partitions are open when the lock is
                // free.
                drop(self.topics_change.lock().await);
            }
            return Ok(topic.clone());
        }
        let name = new.name.clone();
        match self.create_topic(new).await {
            Err(error) if error.code == ErrorCode::TopicAlreadyExists => {
                self.image().topic(&name).cloned().ok_or(error)
            }
            other => other,
        }
    }
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
        let endpoint = |broker: &mainstem_metadata::Broker| {
            let kafka = broker.listeners.get("kafka")?;
            Some(BrokerEndpoint {
                id: broker.id,
                host: kafka.host.clone(),
                port: kafka.port,
            })
        };
        ClusterInfo {
            cluster_id: image.cluster_id.clone(),
            controller: self.core.node_id(),
            brokers: image.brokers.values().filter_map(endpoint).collect(),
        }
    }

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
        let partitions = self.check_shape(&request)?;
        let configs = checked_configs(request.configs)?;
        let new = NewTopic {
            name: request.name,
            partitions,
            origin: TopicOrigin::Admin,
            configs,
        };
        if validate_only {
            let configs = self.core.topic_config_entries(&new.configs);
            let id = TopicId(Uuid::nil());
            return Ok(CreatedTopic {
                id,
                partitions,
                replication_factor: 1,
                configs,
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

    /// Partitions and replicas of a request against what this cluster has. Returns the number of
    /// partitions.
    fn check_shape(&self, request: &NewTopicRequest) -> Result<i32, TopicError> {
        let brokers = self.core.image().brokers.len();
        if !request.assignments.is_empty() {
            if request.partitions != -1 || request.replication_factor != -1 {
                let message = "give either assignments or a number of partitions and replicas";
                return Err(TopicError::new(ErrorCode::InvalidRequest, message));
            }
            return self.check_assignments(&request.assignments);
        }
        let partitions = match request.partitions {
            -1 => self.core.config.kafka.num_partitions,
            count => count,
        };
        check_partition_count(partitions)?;
        let replicas = match request.replication_factor {
            -1 => 1,
            factor => factor,
        };
        if replicas < 1 || replicas as usize > brokers.max(1) {
            let message = format!(
                "replication factor {replicas} is not between 1 and the {brokers} broker(s)"
            );
            return Err(TopicError::new(
                ErrorCode::InvalidReplicationFactor,
                message,
            ));
        }
        Ok(partitions)
    }

    fn check_assignments(
        &self,
        assignments: &[(PartitionIndex, Vec<BrokerId>)],
    ) -> Result<i32, TopicError> {
        let image = self.core.image();
        let mut indexes: Vec<i32> = assignments.iter().map(|(index, _)| index.0).collect();
        indexes.sort_unstable();
        let contiguous = indexes.iter().zip(0..).all(|(have, want)| *have == want);
        let known = assignments.iter().all(|(_, replicas)| {
            replicas.len() == 1 && replicas.iter().all(|id| image.brokers.contains_key(id))
        });
        if !contiguous || !known {
            let message = "partitions must be 0, 1, 2, … and each have one registered broker";
            return Err(TopicError::new(
                ErrorCode::InvalidReplicaAssignment,
                message,
            ));
        }
        let count = i32::try_from(assignments.len()).unwrap_or(i32::MAX);
        check_partition_count(count)?;
        Ok(count)
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
        if let Some(assignments) = &assignments {
            let known = assignments.iter().all(|replicas| {
                replicas.len() == 1 && replicas.iter().all(|id| image.brokers.contains_key(id))
            });
            if !known || assignments.len() as i64 != i64::from(total - present) {
                let message = "one registered broker for each new partition is needed";
                return Err(TopicError::new(
                    ErrorCode::InvalidReplicaAssignment,
                    message,
                ));
            }
        }
        if validate_only {
            return Ok(());
        }
        let (core, id) = (self.core.clone(), topic.id);
        let grow = async move { core.grow_topic_here(id, present, total).await };
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
