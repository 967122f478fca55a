//! The labels of records are their MQTT topics, so that a narrow filter over a large partition need
//! not read all of it: the log keeps a dictionary of them beside each sealed segment.

use std::sync::{Arc, Weak};

use mainstem_log::{Label, Labeller, Labels};
use mainstem_metadata::Image;
use mainstem_record::{BatchHeader, PartitionId, RecordView};

use super::mapping::{self, TopicOf};
use crate::core::Core;

/// Labels the partitions whose records MQTT clients may read.
pub(crate) struct TopicLabels {
    core: Weak<Core>,
}

struct OfTopic {
    kafka_topic: String,
    image: Arc<Image>,
    topic: String,
}

// === impl TopicLabels ===

impl TopicLabels {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::downgrade(core),
        }
    }
}

impl std::fmt::Debug for TopicLabels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicLabels").finish_non_exhaustive()
    }
}

impl Labels for TopicLabels {
    fn labeller(&self, partition: PartitionId) -> Option<Box<dyn Labeller>> {
        let core = self.core.upgrade()?;
        let image = core.image();
        let topic = image.topic_by_id(partition.topic)?;
        if !mapping::is_readable(mapping::access(topic, &core.topic_config(topic))) {
            return None;
        }
        let kafka_topic = topic.name.to_string();
        Some(Box::new(OfTopic {
            kafka_topic,
            image,
            topic: String::new(),
        }))
    }
}

// === impl OfTopic ===

impl Labeller for OfTopic {
    fn label(&mut self, batch: &BatchHeader, record: &RecordView<'_>, out: &mut Vec<u8>) -> Label {
        let topic_of = TopicOf {
            kafka_topic: &self.kafka_topic,
            image: &self.image,
            is_mqtt: batch.attributes.is_mqtt(),
        };
        if topic_of.depends_on_routes(&record.headers) {
            return Label::Uncertain;
        }
        topic_of.write(record.key, &record.headers, &mut self.topic);
        out.extend_from_slice(self.topic.as_bytes());
        Label::Known
    }
}
