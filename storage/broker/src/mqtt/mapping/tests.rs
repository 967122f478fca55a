//! The map is a bijection, and every row of the record table survives the way there and back.

use std::collections::HashMap;

use bytes::Bytes;
use mainstem_log::Qos2Id;
use mainstem_record::{
    Attributes, BatchBuilder, BatchOptions, EncodedRecord, TimestampMs, records,
};
use proptest::prelude::*;

use super::*;
use crate::mqtt::{Message, MessageProperties, QoS};

fn read_back<T>(
    record: &EncodedRecord,
    attributes: u8,
    is_mqtt: bool,
    read: impl Fn(&mainstem_record::RecordView<'_>, &Bytes) -> T,
) -> T {
    let mut builder = BatchBuilder::new(BatchOptions {
        attributes: Attributes::default().with_mqtt(is_mqtt),
        ..BatchOptions::default()
    });
    builder.push(attributes, TimestampMs(1_000), record);
    let batch = builder.finish().expect("a batch").freeze();
    let opened = records(&batch, 1 << 20).expect("records");
    let record = opened
        .iter()
        .next()
        .expect("one record")
        .expect("a good record");
    read(&record, &batch)
}

fn topic_of(kafka_topic: &str, key: Option<&str>) -> String {
    let record = EncodedRecord::new(key.map(str::as_bytes), None, []);
    let image = Image::default();
    read_back(&record, 0, false, |view, _| {
        let mut out = String::new();
        TopicOf {
            kafka_topic,
            image: &image,
            is_mqtt: false,
        }
        .write(view.key, &view.headers, &mut out);
        out
    })
}

fn decode(record: &EncodedRecord, attributes: u8, is_mqtt: bool) -> (Message, usize) {
    read_back(record, attributes, is_mqtt, |view, batch| {
        View::new(view, is_mqtt).message("t", &Source { batch })
    })
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(OVERFLOW_TOPIC.to_owned()),
        Just("..".to_owned()),
        "[a-c]{1,2}",
        "[a-zA-Z0-9._-]{1,6}",
        "[^+#/\0]{1,3}",
    ]
}

fn mqtt_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic name is not empty", |name| !name.is_empty())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[^\0]{1,8}",
        "mqtt\\.[a-z.]{0,8}",
        Just("content-type".into())
    ]
}

prop_compose! {
    fn properties()(
        payload_format in prop::option::of(Just(0u8)),
        expiry_s in prop::option::of(1u32..),
        content_type in prop::option::of(text()),
        response_topic in prop::option::of(mqtt_topic()),
        correlation_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        user in prop::collection::vec((text(), text()), 0..6),
    ) -> MessageProperties {
        let correlation_data = correlation_data.map(Bytes::from);
        MessageProperties { payload_format, expiry_s, content_type, response_topic, correlation_data, user }
    }
}

proptest! {
    /// No two MQTT topics share (Kafka topic, key), and each comes back as it was.
    #[test]
    fn default_map_is_a_bijection(topics in prop::collection::hash_set(mqtt_topic(), 1..60)) {
        let mut seen = HashMap::new();
        for name in topics {
            let (kafka, key) = match place(&name) {
                Place::Own { level, key } => (level.to_owned(), key.map(str::to_owned)),
                Place::Overflow => (OVERFLOW_TOPIC.to_owned(), Some(name.clone())),
            };
            prop_assert!(is_legal_topic_name(&kafka));
            prop_assert_eq!(&topic_of(&kafka, key.as_deref()), &name);
            prop_assert_eq!(seen.insert((kafka, key), name.clone()), None);
        }
    }

    /// The other way: a Kafka record with a readable key has an MQTT topic that leads back to it.
    #[test]
    fn kafka_records_have_a_topic_that_leads_back(kafka in "[a-z]{1,4}", key in prop::option::of(mqtt_topic())) {
        let name = topic_of(&kafka, key.as_deref());
        prop_assert_eq!(place(&name), Place::Own { level: kafka.as_str(), key: key.as_deref() });
    }

    #[test]
    fn every_row_of_the_record_table_survives(
        properties in properties(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        key in prop::option::of(mqtt_topic()),
        qos in 0u8..3,
        retain in any::<bool>(),
        client_id in text(),
        sequence in any::<u64>(),
    ) {
        let qos = QoS::from_bits(qos).expect("three of them");
        let qos2 = (qos == QoS::ExactlyOnce).then_some(Qos2Id { session: [7; 16], epoch: 3, sequence });
        let message = Encode {
            key: key.as_deref(), payload: &payload, qos, retain, properties: &properties,
            client_id: &client_id, qos2,
        };
        let (record, attributes) = encode(&message);
        prop_assert_eq!(attributes & 0b1000_1111, 0, "bits that other readers trip over");
        let (decoded, dropped) = decode(&record, attributes, true);
        prop_assert_eq!(dropped, 0);
        prop_assert_eq!(&decoded.payload[..], &payload[..]);
        prop_assert_eq!((decoded.qos, decoded.retain), (qos, retain));
        prop_assert_eq!(decoded.properties, properties.clone());
        let expected = properties.expiry_s.map(|seconds| 1_000 + i64::from(seconds) * 1000);
        prop_assert_eq!(decoded.deadline_ms, expected);
        let publisher = read_back(&record, attributes, true, |view, _| {
            View::new(view, true).publisher().map(<[u8]>::to_vec)
        });
        prop_assert_eq!(publisher.as_deref(), Some(client_id.as_bytes()));
        // Without the mark the attributes mean nothing: QoS 1, not retained, no publisher.
        let (unmarked, _) = decode(&record, attributes, false);
        prop_assert_eq!((unmarked.qos, unmarked.retain), (QoS::AtLeastOnce, false));
    }
}

#[test]
fn slashless_empty_and_overflow_topics_are_told_apart() {
    assert_eq!(
        place("sensors"),
        Place::Own {
            level: "sensors",
            key: None
        }
    );
    assert_eq!(
        place("sensors/"),
        Place::Own {
            level: "sensors",
            key: Some("")
        }
    );
    assert_eq!(
        place("sensors/a/b"),
        Place::Own {
            level: "sensors",
            key: Some("a/b")
        }
    );
    for name in ["/x", "é/1", "..", "mqtt.messages/x", "_x/y", "a b/c"] {
        assert_eq!(place(name), Place::Overflow, "{name}");
    }
}

#[test]
fn unreadable_keys_give_the_kafka_topic_alone() {
    let image = Image::default();
    for key in [&b"\xff\xfe"[..], b"a/+", b"#", b"a\0b", &[b'x'; 65_535]] {
        let record = EncodedRecord::new(Some(key), None, []);
        let name = read_back(&record, 0, false, |view, _| {
            let mut out = String::new();
            TopicOf {
                kafka_topic: "t",
                image: &image,
                is_mqtt: false,
            }
            .write(view.key, &view.headers, &mut out);
            out
        });
        assert_eq!(name, "t");
    }
    assert_eq!(topic_of("t", None), "t");
}

#[test]
fn forged_topic_header_is_ignored_and_named() {
    let image = Image::default();
    for (value, forged) in [
        ("t/other", false),
        ("u/other", true),
        ("t/+", true),
        ("/t", true),
    ] {
        let headers = [(HEADER_TOPIC.as_bytes(), Some(value.as_bytes()))];
        let record = EncodedRecord::new(Some(b"k"), None, headers);
        let (name, claim) = read_back(&record, 0, false, |view, _| {
            let mut out = String::new();
            TopicOf {
                kafka_topic: "t",
                image: &image,
                is_mqtt: false,
            }
            .write(view.key, &view.headers, &mut out);
            (out, forged_header(&image, "t", &view.headers))
        });
        assert_eq!(name, if forged { "t/k" } else { value });
        assert_eq!(claim, forged.then_some(HEADER_TOPIC));
    }
}

#[test]
fn kafka_headers_become_properties_and_bad_ones_are_counted() {
    let headers: [(&[u8], Option<&[u8]>); 6] = [
        (b"content-type", Some(b"text/plain")),
        (b"a", Some(b"1")),
        (b"a", Some(b"2")),
        (b"binary", Some(b"\xff")),
        (b"null", None),
        (b"mqtt.expiry", Some(b"xx")),
    ];
    let (message, dropped) = decode(&EncodedRecord::new(None, None, headers), 0xff, false);
    assert_eq!(dropped, 2);
    assert_eq!(
        message.properties.content_type.as_deref(),
        Some("text/plain")
    );
    let user: Vec<(&str, &str)> = message
        .properties
        .user
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(user, [("a", "1"), ("a", "2"), ("null", "")]);
    assert!(message.payload.is_empty());
    assert_eq!(message.expiry_remaining_s(0), None);
}
