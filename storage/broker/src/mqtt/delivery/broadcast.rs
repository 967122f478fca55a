//! Messages that are not in the log: what the node says of itself under `$SYS`.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_record::{Offset, PartitionId, PartitionIndex, TopicId};
use uuid::Uuid;

use super::{Origin, Target, Token};
use crate::mqtt::{Delivery, Message, MessageProperties, QoS, hub::Hub, trie::Scratch};

impl Hub {
    /// Gives a message to the present subscribers, with QoS 0.
    pub(crate) fn broadcast(&self, topic: &str, payload: Bytes) {
        let flags = (QoS::AtMostOnce, false);
        let properties = MessageProperties::default();
        let message = Arc::new(Message::new(
            topic.to_owned(),
            payload,
            flags,
            properties,
            0,
        ));
        let nowhere = PartitionId {
            topic: TopicId(Uuid::nil()),
            index: PartitionIndex(0),
        };
        let mut found = Vec::new();
        {
            let trie = self.trie.read();
            trie.for_each_match(topic, &mut Scratch::default(), |target| {
                if let Target::Session(entry, subscription) = target {
                    found.push((entry.clone(), subscription.clone()));
                }
            });
        }
        for (entry, subscription) in found {
            let token = Token {
                origin: Origin::Retained,
                partition: nowhere,
                offset: Offset::ZERO,
            };
            let delivery = Delivery::new(message.clone(), &subscription.options, token);
            match entry.state.lock().inbox.push(delivery) {
                Ok(()) => entry.notify.notify_one(),
                Err(_) => self.metrics.dropped_queue_full.inc(),
            }
        }
    }
}
