//! From the codec's words to the broker's, and back.

use std::str;

use bytes::Bytes;
use mainstem_broker as broker;

use crate::codec::{
    self, Properties, PropertyId, PropertyWriter, SubscribeOptions, properties::Value,
};

pub(crate) fn qos_up(qos: codec::QoS) -> broker::QoS {
    match qos {
        codec::QoS::AtMostOnce => broker::QoS::AtMostOnce,
        codec::QoS::AtLeastOnce => broker::QoS::AtLeastOnce,
        codec::QoS::ExactlyOnce => broker::QoS::ExactlyOnce,
    }
}

pub(crate) fn qos_down(qos: broker::QoS) -> codec::QoS {
    match qos {
        broker::QoS::AtMostOnce => codec::QoS::AtMostOnce,
        broker::QoS::AtLeastOnce => codec::QoS::AtLeastOnce,
        broker::QoS::ExactlyOnce => codec::QoS::ExactlyOnce,
    }
}

/// The properties of a message that travel with it. Correlation data stays a slice of its frame.
pub(crate) fn properties_up(properties: &Properties) -> broker::MessageProperties {
    let mut up = broker::MessageProperties::default();
    for property in properties.iter() {
        match (property.id, property.value) {
            (PropertyId::PayloadFormatIndicator, Value::Byte(value)) => {
                up.payload_format = Some(value);
            }
            (PropertyId::MessageExpiryInterval, Value::U32(value)) => up.expiry_s = Some(value),
            (PropertyId::ContentType, Value::Text(value)) => up.content_type = Some(text(value)),
            (PropertyId::ResponseTopic, Value::Text(value)) => {
                up.response_topic = Some(text(value));
            }
            (PropertyId::CorrelationData, Value::Binary(_)) => {
                up.correlation_data = properties.binary(PropertyId::CorrelationData);
            }
            (PropertyId::UserProperty, Value::Pair(name, value)) => {
                up.user.push((text(name), text(value)));
            }
            _ => {}
        }
    }
    up
}

/// The codec has checked that it is UTF-8.
fn text(bytes: &[u8]) -> String {
    str::from_utf8(bytes).unwrap_or_default().to_owned()
}

/// The block of a PUBLISH, without what differs between receivers. What is no legal value (a
/// Kafka record may bring anything) is left out.
pub(crate) fn properties_down(message: &broker::MessageProperties) -> Properties {
    let mut block = PropertyWriter::new();
    if let Some(format) = message.payload_format {
        block.byte(PropertyId::PayloadFormatIndicator, format);
    }
    if let Some(kind) = &message.content_type {
        // An error has written nothing.
        let _ = block.text_bytes(PropertyId::ContentType, kind.as_bytes());
    }
    if let Some(topic) = &message.response_topic {
        let _ = block.text_bytes(PropertyId::ResponseTopic, topic.as_bytes());
    }
    if let Some(data) = &message.correlation_data {
        let _ = block.binary(PropertyId::CorrelationData, data);
    }
    for (name, value) in &message.user {
        let _ = block.user(name.as_bytes(), value.as_bytes());
    }
    block.finish()
}

pub(crate) fn filter_up(
    subscription: &codec::Subscription,
    subscription_id: Option<u32>,
) -> broker::SubscribeFilter {
    let SubscribeOptions {
        qos,
        no_local,
        retain_as_published,
        retain_handling,
    } = subscription.options;
    broker::SubscribeFilter {
        filter: subscription.filter.as_str().to_owned(),
        qos: qos_up(qos),
        no_local,
        retain_as_published,
        retain_handling: match retain_handling {
            codec::RetainHandling::Send => 0,
            codec::RetainHandling::SendIfNew => 1,
            codec::RetainHandling::DoNotSend => 2,
        },
        subscription_id,
    }
}

/// A will, in memory of its own: it stays for as long as the connection, its CONNECT does not.
pub(crate) fn will_up(will: &codec::Will) -> broker::Will {
    let mut properties = properties_up(&will.properties);
    properties.correlation_data = properties
        .correlation_data
        .map(|data| Bytes::copy_from_slice(&data));
    broker::Will {
        topic: will.topic.as_str().to_owned(),
        payload: Bytes::copy_from_slice(&will.payload),
        qos: qos_up(will.qos),
        retain: will.retain,
        delay_s: will.delay_secs(),
        properties,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_were() {
        let message = broker::MessageProperties {
            payload_format: Some(1),
            expiry_s: None,
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("answers/1".to_owned()),
            correlation_data: Some(Bytes::from_static(&[0, 1, 255])),
            user: vec![
                ("a".to_owned(), "1".to_owned()),
                ("a".to_owned(), String::new()),
            ],
        };
        assert_eq!(properties_up(&properties_down(&message)), message);
        assert_eq!(
            properties_up(&Properties::EMPTY),
            broker::MessageProperties::default()
        );
    }

    #[test]
    fn illegal_text_is_left_out_and_the_rest_kept() {
        let message = broker::MessageProperties {
            content_type: Some("nul\0".to_owned()),
            user: vec![
                ("nul\0".to_owned(), "1".to_owned()),
                ("kept".to_owned(), "2".to_owned()),
            ],
            ..broker::MessageProperties::default()
        };
        let up = properties_up(&properties_down(&message));
        assert_eq!(up.content_type, None);
        assert_eq!(up.user, [("kept".to_owned(), "2".to_owned())]);
    }
}
