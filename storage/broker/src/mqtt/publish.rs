//! Where a publish goes, and its append.
//!
//! Which Kafka topic a first level has is decided once and recorded in the metadata before its
//! first record is appended; nothing moves it afterwards.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_config::{MqttAccess, OVERFLOW_TOPIC};
use mainstem_log::{Ack, Append, Qos2Id};
use mainstem_metadata::{Command, Image, RouteTarget, Topic, TopicOrigin};
use mainstem_record::{
    BATCH_HEADER_BYTES, EncodedRecord, PartitionId, TimestampMs, partition_for_key,
};
use tokio::sync::oneshot;

use super::{
    Publish, PublishError, QoS, Refusal, Session,
    hub::Hub,
    limits::ROUTES_MAX,
    mapping::{self, Place},
    retained::Candidate,
    session::append_error,
    topic,
};
use crate::{
    access::{AccessTicket, PartitionAccess},
    caller::Caller,
    error_code::ErrorCode,
    topics::{NewTopic, Replicas, TopicError},
};

/// The most bytes that a record takes besides its encoded part: length, attributes, deltas.
const RECORD_FRAME_BYTES_MAX: usize = 21;

/// The Kafka topic that an MQTT topic goes to.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    topic: Arc<Topic>,
    pub(crate) is_overflow: bool,
    record_bytes_max: usize,
}

/// The last destination of a connection.
#[derive(Debug)]
pub(crate) struct RouteMemo {
    version: u64,
    level: String,
    destination: Destination,
}

/// An append that has its place in the order.
#[derive(Debug)]
pub(crate) enum Placed {
    /// To be acknowledged when it completes.
    Append(AccessTicket),
    /// A task waits for it, and for what depends on it.
    Task(oneshot::Receiver<Result<(), PublishError>>),
}

/// What the metadata says of a first level.
enum Settled {
    To(Arc<Topic>, bool),
    Refused,
    /// It is to be decided, or its topic to be made.
    Open,
}

// === impl Destination ===

impl Destination {
    /// The record's key.
    pub(crate) fn key<'a>(&self, mqtt_topic: &'a str) -> Option<&'a str> {
        match self.is_overflow {
            true => Some(mqtt_topic),
            false => topic::split_first_level(mqtt_topic).1,
        }
    }
}

// === impl Session ===

impl Session {
    pub(crate) async fn destination(&self, mqtt_topic: &str) -> Result<Destination, PublishError> {
        let (level, _) = topic::split_first_level(mqtt_topic);
        let version = self.hub.core.image().version;
        {
            let memo = self.route.lock();
            let known = memo
                .as_ref()
                .filter(|memo| memo.version == version && memo.level == level);
            if let Some(known) = known {
                return Ok(known.destination.clone());
            }
        }
        let caller = self.entry.state.lock().caller.clone();
        let destination = self.hub.destination(&caller, mqtt_topic).await?;
        let memo = RouteMemo {
            version,
            level: level.to_owned(),
            destination: destination.clone(),
        };
        *self.route.lock() = Some(memo);
        Ok(destination)
    }
}

// === impl Hub ===

impl Hub {
    /// What is refused whatever the destination is.
    pub(crate) fn check_publish(&self, publish: &Publish) -> Result<(), PublishError> {
        let config = &self.core.config.mqtt;
        if publish.topic.starts_with('$') {
            return Err(Refusal::NotAuthorized.into());
        }
        if !topic::is_legal_name(&publish.topic)
            || topic::level_count(&publish.topic) > config.topic_levels_max
        {
            return Err(Refusal::TopicNameInvalid.into());
        }
        if publish.properties.payload_format == Some(1)
            && std::str::from_utf8(&publish.payload).is_err()
        {
            return Err(Refusal::PayloadFormat.into());
        }
        if publish.retain && publish.payload.len() > config.retained_bytes_max {
            return Err(Refusal::TooLarge.into());
        }
        Ok(())
    }

    /// Where an MQTT topic goes; decides it if it is open.
    pub(crate) async fn destination(
        &self,
        _caller: &Caller,
        mqtt_topic: &str,
    ) -> Result<Destination, PublishError> {
        if mapping::place(mqtt_topic) == Place::Overflow {
            let (level, _) = topic::split_first_level(mqtt_topic);
            self.overflow_notices.note(level, self.core.env.now());
        }
        let settled = match self.settled(&self.core.image(), mqtt_topic) {
            Settled::Open => self.decide(mqtt_topic).await?,
            settled => settled,
        };
        match settled {
            Settled::To(topic, is_overflow) => {
                let max = self.core.topic_config(&topic).max_message_bytes;
                let max = usize::try_from(max).unwrap_or(0);
                let record_bytes_max = max.saturating_sub(BATCH_HEADER_BYTES);
                Ok(Destination {
                    topic,
                    is_overflow,
                    record_bytes_max,
                })
            }
            Settled::Refused => Err(Refusal::NotAuthorized.into()),
            Settled::Open => Err(PublishError::Transient(
                "the route is not decided".to_owned(),
            )),
        }
    }

    fn access(&self, topic: &Topic) -> MqttAccess {
        mapping::access(topic, &self.core.topic_config(topic))
    }

    fn settled(&self, image: &Image, mqtt_topic: &str) -> Settled {
        let overflow = || match image.topic(OVERFLOW_TOPIC) {
            Some(topic) => Settled::To(topic.clone(), true),
            None => Settled::Open,
        };
        let Place::Own { level, .. } = mapping::place(mqtt_topic) else {
            return overflow();
        };
        let own = image.topic(level);
        match (image.routes.get(level).map(|route| route.target), own) {
            (Some(RouteTarget::Overflow), _) => overflow(),
            (Some(RouteTarget::OwnTopic(_)), Some(own)) => match self.access(own) {
                MqttAccess::Both | MqttAccess::Write => Settled::To(own.clone(), false),
                MqttAccess::Read => Settled::Refused,
                MqttAccess::None => overflow(),
            },
            (None, _) if image.routes.len() >= ROUTES_MAX => match own {
                Some(own) if self.access(own) != MqttAccess::None => match self.access(own) {
                    MqttAccess::Read => Settled::Refused,
                    _ => Settled::To(own.clone(), false),
                },
                _ => overflow(),
            },
            _ => Settled::Open,
        }
    }

    /// One decision at a time: many clients publish to a new first level at once.
    async fn decide(&self, mqtt_topic: &str) -> Result<Settled, PublishError> {
        let _turn = self.deciding.lock().await;
        let image = self.core.image();
        let settled = self.settled(&image, mqtt_topic);
        if !matches!(settled, Settled::Open) {
            return Ok(settled);
        }
        if let Place::Own { level, .. } = mapping::place(mqtt_topic) {
            self.decide_level(&image, level).await?;
        }
        let settled = self.settled(&self.core.image(), mqtt_topic);
        if matches!(settled, Settled::Open) {
            self.create(OVERFLOW_TOPIC).await?;
        }
        Ok(self.settled(&self.core.image(), mqtt_topic))
    }

    async fn decide_level(&self, image: &Image, level: &str) -> Result<(), PublishError> {
        let route = image.routes.get(level).map(|route| route.target);
        let target = match (route, image.topic(level)) {
            (Some(RouteTarget::Overflow), _) => return Ok(()),
            // Its topic was deleted; the decision stands.
            (Some(RouteTarget::OwnTopic(_)), None) if self.may_create(image) => {
                self.create(level).await?;
                return Ok(());
            }
            (Some(RouteTarget::OwnTopic(_)), None) => return Err(Refusal::Quota.into()),
            (Some(RouteTarget::OwnTopic(_)), Some(_)) => return Ok(()),
            (None, Some(topic)) => match self.access(topic) {
                MqttAccess::None => RouteTarget::Overflow,
                _ => RouteTarget::OwnTopic(topic.id),
            },
            (None, None) if self.may_create(image) => {
                RouteTarget::OwnTopic(self.create(level).await?.id)
            }
            (None, None) => RouteTarget::Overflow,
        };
        if target == RouteTarget::Overflow {
            tracing::warn!(
                level,
                "first level has no Kafka topic, it goes to mqtt.messages"
            );
        }
        let command = Command::DecideRoute {
            level: level.to_owned(),
            target,
        };
        let decided = self.core.metadata.propose(command).await;
        decided
            .map(|_| ())
            .map_err(|error| PublishError::Transient(error.to_string()))
    }

    fn may_create(&self, image: &Image) -> bool {
        let is_ours =
            |topic: &&Arc<Topic>| topic.origin == TopicOrigin::Mqtt && topic.name != OVERFLOW_TOPIC;
        let count = image.topics_by_id.values().filter(is_ours).count();
        count < self.core.config.mqtt.created_topics_max
    }

    async fn create(&self, name: &str) -> Result<Arc<Topic>, PublishError> {
        let retention_ms = self.core.config.mqtt.created_topic_retention_ms.to_string();
        let new = NewTopic {
            name: name.to_owned(),
            partitions: 1,
            replicas: Replicas::Default,
            origin: TopicOrigin::Mqtt,
            configs: BTreeMap::from([("retention.ms".to_owned(), retention_ms)]),
        };
        let transient = |error: TopicError| PublishError::Transient(error.message);
        self.core.ensure_topic(new).await.map_err(transient)
    }

    /// The partition of an MQTT topic: that of its key, as Kafka's partitioner would choose it; no
    /// key counts as the empty one.
    pub(crate) fn partition(
        &self,
        destination: &Destination,
        mqtt_topic: &str,
    ) -> Result<PartitionAccess, PublishError> {
        let key = destination.key(mqtt_topic).unwrap_or("");
        let count = i32::try_from(destination.topic.partitions.len())
            .unwrap_or(i32::MAX)
            .max(1);
        let index = partition_for_key(key.as_bytes(), count);
        let id = PartitionId {
            topic: destination.topic.id,
            index,
        };
        let transient = |code: ErrorCode| PublishError::Transient(code.to_string());
        self.core.writer(id).map_err(transient)
    }

    /// The append of a record, if the topic takes one of its size.
    pub(crate) fn append_of(
        &self,
        destination: &Destination,
        (record, attributes): (EncodedRecord, u8),
        qos: QoS,
        qos2: Option<Qos2Id>,
    ) -> Result<Append, PublishError> {
        if record.size_bytes() + RECORD_FRAME_BYTES_MAX > destination.record_bytes_max {
            return Err(Refusal::TooLarge.into());
        }
        let ack = match qos {
            QoS::AtMostOnce => Ack::None,
            _ => Ack::Durable,
        };
        let timestamp = TimestampMs(self.core.env.wall_ms());
        Ok(Append::Record {
            record,
            attributes,
            timestamp,
            qos2,
            ack,
        })
    }

    /// Appends. A publish that is to be retained is seen to by a task, so that the retained view
    /// follows the log even if the connection ends meanwhile; the leader of the partition derives
    /// the entry, so that one node at a time decides for a topic.
    pub(crate) async fn place(
        self: &Arc<Self>,
        access: &PartitionAccess,
        append: Append,
        candidate: Option<Candidate>,
    ) -> Result<Placed, PublishError> {
        let (candidate, partition) = match (candidate, access) {
            (Some(candidate), PartitionAccess::Local(partition)) => (candidate, partition),
            _ => {
                let ticket = access
                    .append(append)
                    .await
                    .map_err(|error| append_error(&error))?;
                return Ok(Placed::Append(ticket));
            }
        };
        let pending = self.begin_retained(partition).await?;
        let ticket = partition
            .append(append)
            .await
            .map_err(|error| append_error(&error))?;
        let (reply, receiver) = oneshot::channel();
        let (hub, epoch, id) = (self.clone(), partition.epoch(), partition.id());
        self.core.spawn("mqtt retained", async move {
            let result = match ticket.await {
                Ok(appended) => hub.retain(candidate, (id, epoch), &appended).await,
                Err(error) => Err(append_error(&error)),
            };
            // Otherwise it may be in the log without its entry, and the mark must stay below it.
            if !matches!(result, Err(PublishError::Transient(_))) {
                pending.finish();
            }
            // Nobody waits any more if the connection has ended.
            let _ = reply.send(result);
        });
        Ok(Placed::Task(receiver))
    }
}
