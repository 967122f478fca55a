//! How MQTT and Kafka see each other's records. Pure.
//!
//! Without configuration one sentence says it: *MQTT topic = Kafka topic + `/` + key*. What has no
//! Kafka topic of its own is in the overflow topic with the whole MQTT topic as key. Both maps are
//! here, as are exposure (`mqtt.access`) and the record's headers and attributes; what a first
//! level's route is, is a decision of the metadata and is passed in.

mod properties;
mod record;

use mainstem_config::{MqttAccess, OVERFLOW_TOPIC, TopicConfig};
use mainstem_metadata::{Image, RouteTarget, Topic};
use mainstem_record::Headers;

pub(crate) use record::{Encode, Source, View, encode, is_retained};

use super::topic;
use crate::core::is_legal_topic_name;

/// Header: the MQTT topic, where the key is something else.
pub(crate) const HEADER_TOPIC: &str = "mqtt.topic";
/// What our own headers begin with.
const RESERVED_PREFIX: &str = "mqtt.";

/// Where the records of an MQTT topic go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// To the Kafka topic called `level`, under this key.
    Own {
        /// The first level.
        level: &'a str,
        /// The rest; `None` for a topic without a slash.
        key: Option<&'a str>,
    },
    /// To the overflow topic, under the whole MQTT topic.
    Overflow,
}

/// Where `mqtt_topic` goes by its name alone. A first level that could have a Kafka topic may
/// still be sent to the overflow topic by its route.
pub(crate) fn place(mqtt_topic: &str) -> Place<'_> {
    let (level, key) = topic::split_first_level(mqtt_topic);
    if may_have_own_topic(level) {
        Place::Own { level, key }
    } else {
        Place::Overflow
    }
}

/// Whether a first level can be the name of a Kafka topic that MQTT reaches without configuration.
pub(crate) fn may_have_own_topic(level: &str) -> bool {
    is_legal_topic_name(level) && level != OVERFLOW_TOPIC && !level.starts_with('_')
}

/// Whether the standing routes send `mqtt_topic` to the overflow topic.
pub(crate) fn goes_to_overflow(image: &Image, mqtt_topic: &str) -> bool {
    match place(mqtt_topic) {
        Place::Overflow => true,
        Place::Own { level, .. } => image
            .routes
            .get(level)
            .is_some_and(|route| route.target == RouteTarget::Overflow),
    }
}

/// What MQTT clients may do with a Kafka topic. Without `mqtt.access`: everything, except with
/// internal topics, names that begin with `_`, and compacted topics, which hold other people's
/// configuration and changelogs.
pub(crate) fn access(topic: &Topic, config: &TopicConfig) -> MqttAccess {
    if topic.internal {
        return MqttAccess::None;
    }
    let closed = topic.name.starts_with('_') || config.cleanup.compact;
    config.mqtt_access.unwrap_or(if closed {
        MqttAccess::None
    } else {
        MqttAccess::Both
    })
}

/// Whether subscribers may see a Kafka topic's records.
pub(crate) fn is_readable(access: MqttAccess) -> bool {
    matches!(access, MqttAccess::Read | MqttAccess::Both)
}

/// What the MQTT topic of a record depends on.
pub(crate) struct TopicOf<'a> {
    /// The Kafka topic.
    pub(crate) kafka_topic: &'a str,
    /// The standing routes.
    pub(crate) image: &'a Image,
    /// Whether the batch has the MQTT mark, which nobody else can set.
    pub(crate) is_mqtt: bool,
}

impl TopicOf<'_> {
    /// Writes the MQTT topic of a record to `out`: total, so every record of an exposed topic has
    /// one.
    pub(crate) fn write(&self, key: Option<&[u8]>, headers: &Headers<'_>, out: &mut String) {
        out.clear();
        if let Some(named) = self.named_topic(headers) {
            out.push_str(named);
            return;
        }
        let key = key.and_then(|key| std::str::from_utf8(key).ok());
        if self.kafka_topic == OVERFLOW_TOPIC
            && let Some(whole) = key
            && topic::is_legal_name(whole)
            && (self.is_mqtt || goes_to_overflow(self.image, whole))
        {
            out.push_str(whole);
            return;
        }
        out.push_str(self.kafka_topic);
        if let Some(key) = key
            && self.kafka_topic.len() + 1 + key.len() <= topic::TOPIC_BYTES_MAX
            && (key.is_empty() || topic::is_legal_name(key))
        {
            out.push('/');
            out.push_str(key);
        }
    }

    /// Whether the MQTT topic of a record may become another one when routes are decided: only what
    /// Kafka clients have written may, and only where it says so itself or is in the overflow topic.
    pub(crate) fn depends_on_routes(&self, headers: &Headers<'_>) -> bool {
        let is_named = !headers.is_empty() && headers.last(HEADER_TOPIC.as_bytes()).is_some();
        is_named || (self.kafka_topic == OVERFLOW_TOPIC && !self.is_mqtt)
    }

    /// The header `mqtt.topic`, if it routes back to this very Kafka topic: else a producer could
    /// publish as any topic.
    fn named_topic<'h>(&self, headers: &Headers<'h>) -> Option<&'h str> {
        if headers.is_empty() {
            return None;
        }
        let value = headers.last(HEADER_TOPIC.as_bytes())?;
        let named = std::str::from_utf8(value).ok()?;
        routes_back(named, self.kafka_topic, self.image).then_some(named)
    }
}

fn routes_back(named: &str, kafka_topic: &str, image: &Image) -> bool {
    if !topic::is_legal_name(named) || named.starts_with('$') {
        return false;
    }
    if goes_to_overflow(image, named) {
        return kafka_topic == OVERFLOW_TOPIC;
    }
    matches!(place(named), Place::Own { level, .. } if level == kafka_topic)
}

/// The name of the first header of a record that claims what only the broker may say, and that MQTT
/// delivery therefore ignores: an `mqtt.topic` that does not route to `kafka_topic`.
pub fn forged_header(
    image: &Image,
    kafka_topic: &str,
    headers: &Headers<'_>,
) -> Option<&'static str> {
    let claimed = headers
        .iter()
        .filter(|(name, _)| *name == HEADER_TOPIC.as_bytes());
    let mut forged = claimed.filter(|(_, value)| {
        let named = value.and_then(|value| std::str::from_utf8(value).ok());
        !named.is_some_and(|named| routes_back(named, kafka_topic, image))
    });
    forged.next().map(|_| HEADER_TOPIC)
}

#[cfg(test)]
mod tests;
