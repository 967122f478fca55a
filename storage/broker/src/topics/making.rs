//! Making, growing and deleting topics: a command first, then the partitions that are led here.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_config::TopicConfig;
use mainstem_metadata::{
    ApplyError, Command, Image, NewSegment, ProposeError, SegmentFlush, Topic, TopicOrigin,
};
use mainstem_record::{BrokerId, PartitionId, PartitionIndex, TopicId};
use mainstem_replication::NewPartitions;
use uuid::Uuid;

use super::{TopicError, TopicRef};
use crate::{
    cluster::{data_brokers, live_count},
    core::{Core, flush_of},
    error_code::ErrorCode,
};

/// Replicas of a topic if nobody says how many and there are enough brokers.
pub(crate) const REPLICAS_USUAL: usize = 3;

/// How often a placement is tried anew because a broker's session ended meanwhile.
const PLACEMENTS_MAX: usize = 3;

/// Which brokers hold the partitions of a new topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replicas {
    /// As many as `default.replication.factor` says, chosen by load.
    Default,
    /// So many, chosen by load.
    Count(i16),
    /// Those, for each partition; the first that is alive leads.
    Assigned(Vec<Vec<BrokerId>>),
}

/// A topic that the broker makes, already checked.
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replicas: Replicas,
    pub(crate) origin: TopicOrigin,
    pub(crate) configs: BTreeMap<String, String>,
}

/// The partitions of a topic with these indexes.
fn partition_ids(topic: TopicId, indexes: std::ops::Range<i32>) -> Vec<PartitionId> {
    indexes
        .map(|index| PartitionId {
            topic,
            index: PartitionIndex(index),
        })
        .collect()
}

/// Whether another placement may be taken where this one was refused.
fn is_outdated(error: &ProposeError) -> bool {
    matches!(
        error,
        ProposeError::Apply(ApplyError::Fenced { .. } | ApplyError::UnknownBroker { .. })
    )
}

// === impl Core ===

impl Core {
    /// How many replicas a topic gets if whoever makes it does not say.
    fn usual_replicas(&self, image: &Image, origin: TopicOrigin) -> usize {
        let configured = self.config.kafka.default_replication_factor;
        match usize::try_from(configured) {
            Ok(count) if origin != TopicOrigin::Internal => count,
            _ => live_count(image).clamp(1, REPLICAS_USUAL),
        }
    }

    /// Replicas per partition, as a number.
    pub(super) fn replication_factor(
        &self,
        image: &Image,
        replicas: &Replicas,
        origin: TopicOrigin,
    ) -> i16 {
        let count = match replicas {
            Replicas::Default => self.usual_replicas(image, origin),
            Replicas::Count(count) => return *count,
            Replicas::Assigned(assigned) => assigned.first().map_or(0, Vec::len),
        };
        i16::try_from(count).unwrap_or(i16::MAX)
    }

    /// Refuses more replicas than there are brokers to hold them.
    pub(super) fn check_replication_factor(
        &self,
        image: &Image,
        factor: i16,
    ) -> Result<(), TopicError> {
        let brokers = data_brokers(image).count();
        if usize::try_from(factor).is_ok_and(|factor| (1..=brokers.max(1)).contains(&factor)) {
            return Ok(());
        }
        let message =
            format!("replication factor {factor} is not between 1 and the {brokers} broker(s)");
        Err(TopicError::new(
            ErrorCode::InvalidReplicationFactor,
            message,
        ))
    }

    /// The first segments of new partitions.
    fn first_segments(
        &self,
        (count, factor): (i32, i16),
        replicas: &Replicas,
        flush: SegmentFlush,
    ) -> Result<Vec<NewSegment>, TopicError> {
        if let Replicas::Assigned(assigned) = replicas {
            let segments = assigned.iter().map(|replicas| NewSegment {
                id: self.new_segment_id(),
                replicas: replicas.clone(),
                leader: None,
                flush,
            });
            return Ok(segments.collect());
        }
        let placed = self.replication.place(NewPartitions {
            count: usize::try_from(count).unwrap_or(0),
            replication_factor: usize::try_from(factor).unwrap_or(0),
            flush,
        });
        placed.map_err(|error| {
            TopicError::new(ErrorCode::InvalidReplicationFactor, error.to_string())
        })
    }

    /// Makes a topic and opens those of its partitions that are led here before it returns. If a topic
    /// of that name exists, [`ErrorCode::TopicAlreadyExists`].
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

    async fn create_topic_here(&self, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        let _guard = self.topics_change.lock().await;
        let id = TopicId(Uuid::from_bytes(self.env.random_uuid()));
        let overrides = new.configs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let config = TopicConfig::resolve(&self.topic_defaults(), overrides);
        for attempt in 1.. {
            let image = self.image();
            let factor = self.replication_factor(&image, &new.replicas, new.origin);
            let flush = flush_of(config.flush_policy(usize::try_from(factor).unwrap_or(1)));
            let shape = (new.partitions, factor);
            let command = Command::CreateTopic {
                id,
                name: new.name.clone(),
                internal: new.origin == TopicOrigin::Internal,
                origin: new.origin,
                replication_factor: factor,
                configs: new.configs.clone(),
                partitions: self.first_segments(shape, &new.replicas, flush)?,
                leader: self.node_id(),
            };
            match self.metadata.propose(command).await {
                Ok(_) => break,
                // An earlier try of unknown outcome.
                Err(ProposeError::Apply(ApplyError::TopicExists { id: made })) if made == id => {
                    break;
                }
                Err(error) if is_outdated(&error) && attempt < PLACEMENTS_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        let image = self.image();
        let topic = image.topic_by_id(id).cloned().ok_or_else(|| {
            TopicError::new(
                ErrorCode::LeaderNotAvailable,
                "the topic was deleted at once",
            )
        })?;
        self.settled(&partition_ids(id, 0..new.partitions)).await;
        tracing::info!(
            topic = %new.name,
            partitions = new.partitions,
            replicas = topic.replication_factor,
            "topic created"
        );
        Ok(topic)
    }

    pub(super) async fn delete_topic_here(&self, id: TopicId) -> Result<Arc<Topic>, TopicError> {
        let _guard = self.topics_change.lock().await;
        let unknown = |code: ErrorCode| TopicError::new(code, code.text());
        let topic = self
            .find_topic(&self.image(), &TopicRef::Id(id))
            .map_err(unknown)?;
        self.metadata.propose(Command::DeleteTopic { id }).await?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let gone = partition_ids(topic.id, 0..count);
        for id in &gone {
            self.forget_failed(*id);
        }
        self.settled(&gone).await;
        tracing::info!(topic = %topic.name, "topic deleted");
        Ok(topic)
    }

    pub(super) async fn grow_topic_here(
        &self,
        id: TopicId,
        (present, total): (i32, i32),
        replicas: Replicas,
    ) -> Result<(), TopicError> {
        let _guard = self.topics_change.lock().await;
        for attempt in 1.. {
            let image = self.image();
            let topic = image.topic_by_id(id).ok_or_else(|| {
                let code = ErrorCode::UnknownTopicOrPartition;
                TopicError::new(code, code.text())
            })?;
            let shape = (total - present, topic.replication_factor);
            let flush = self.configured_flush(topic);
            let command = Command::CreatePartitions {
                topic: id,
                // Refused if somebody else was first.
                expected_count: present,
                add: self.first_segments(shape, &replicas, flush)?,
            };
            match self.metadata.propose(command).await {
                Ok(_) => break,
                Err(error) if is_outdated(&error) && attempt < PLACEMENTS_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.settled(&partition_ids(id, present..total)).await;
        Ok(())
    }

    /// A topic by name, made as `new` says if it is not there.
    pub(crate) async fn ensure_topic(
        self: &Arc<Self>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        let found = self.image().topic(&new.name).cloned();
        let name = new.name.clone();
        let topic = match found {
            Some(topic) => topic,
            None => match self.create_topic(new).await {
                Err(error) if error.code == ErrorCode::TopicAlreadyExists => {
                    self.image().topic(&name).cloned().ok_or(error)?
                }
                made => return made,
            },
        };
        let last = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let ids = partition_ids(topic.id, 0..last);
        if ids.iter().any(|id| self.is_opening(*id)) {
            // Whoever makes it right now opens them; after that nobody else does.
            let _guard = self.topics_change.lock().await;
            self.settled(&ids).await;
        }
        Ok(topic)
    }
}
