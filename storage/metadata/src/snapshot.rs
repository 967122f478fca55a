//! The stored form of an [`Image`].
//!
//! JSON with a format number. Topics are a list in the order of their names, and the map by name is
//! made from it, so equal images have equal bytes and the two maps cannot contradict each other.

use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;
use mainstem_record::{Member, TopicId};
use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    image::{Broker, Complete, Image, Route, Topic},
};

/// The format that this build writes. Format 2 knows compacted segments
/// ([`crate::SegmentRecord::compaction`]), format 3 replicas.
pub(crate) const SNAPSHOT_FORMAT: u16 = 3;

/// The first format whose sealed segments say who is complete.
const COMPLETE_COPIES: u16 = 3;

/// The oldest format that this build reads; a later one only adds fields that may be absent.
const SNAPSHOT_FORMAT_MIN: u16 = 1;

/// Read first, since another format may have other fields.
#[derive(Deserialize)]
struct Format {
    format: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u16,
    version: u64,
    cluster_id: String,
    brokers: Vec<Broker>,
    topics: Vec<Arc<Topic>>,
    next_producer_id: i64,
    broker_configs: OrdMap<String, String>,
    routes: BTreeMap<String, Route>,
}

/// The bytes of an image.
pub(crate) fn encode(image: &Image) -> Result<Vec<u8>, StoreError> {
    let topic = |id: &TopicId| image.topics_by_id.get(id).cloned();
    let form = Form {
        format: SNAPSHOT_FORMAT,
        version: image.version,
        cluster_id: image.cluster_id.clone(),
        brokers: image.brokers.values().cloned().collect(),
        topics: image.topics.values().filter_map(topic).collect(),
        next_producer_id: image.next_producer_id,
        broker_configs: image.broker_configs.clone(),
        routes: image
            .routes
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    serde_json::to_vec(&form).map_err(damaged)
}

/// The image in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Image, StoreError> {
    let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if !(SNAPSHOT_FORMAT_MIN..=SNAPSHOT_FORMAT).contains(&format) {
        return Err(StoreError::SnapshotFormat {
            found: format,
            known: SNAPSHOT_FORMAT,
        });
    }
    let mut form: Form = serde_json::from_slice(bytes).map_err(damaged)?;
    if format < COMPLETE_COPIES {
        let brokers = &form.brokers;
        for topic in &mut form.topics {
            add_copies(Arc::make_mut(topic), brokers);
        }
    }
    Ok(Image {
        version: form.version,
        cluster_id: form.cluster_id,
        brokers: form
            .brokers
            .into_iter()
            .map(|broker| (broker.id, broker))
            .collect(),
        topics: form
            .topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.id))
            .collect(),
        topics_by_id: form
            .topics
            .into_iter()
            .map(|topic| (topic.id, topic))
            .collect(),
        next_producer_id: form.next_producer_id,
        broker_configs: form.broker_configs,
        routes: form.routes.into_iter().collect(),
    })
}

/// What formats 1 and 2 meant: the replicas of a sealed segment hold all of it, synced, whatever
/// became of the broker since; and one replica is always in sync with itself.
fn add_copies(topic: &mut Topic, brokers: &[Broker]) {
    let life = |id| brokers.iter().find(|broker| broker.id == id);
    let replication_factor = topic.replication_factor.max(1);
    for partition in topic.partitions.iter_mut() {
        for segment in Arc::make_mut(partition).segments.iter_mut() {
            segment.min_insync = segment.min_insync.clamp(1, replication_factor);
            let replicas = segment.replicas.iter().filter_map(|id| life(*id));
            if segment.state.is_open() {
                let isr = replicas.map(|broker| Member::new(broker.id, broker.incarnation));
                segment.isr = isr.collect();
            } else {
                let complete = replicas.map(|broker| Complete {
                    broker: broker.id,
                    incarnation: broker.incarnation,
                    durable: true,
                });
                segment.complete = complete.collect();
                segment.isr.clear();
            }
        }
    }
}

fn damaged(error: serde_json::Error) -> StoreError {
    StoreError::Decode {
        what: "snapshot",
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topic with a sealed and an active segment as format 2 has it.
    const FORMAT_2: &str = r#"{"format":2,"version":9,"cluster_id":"","brokers":[{"id":1,
        "incarnation":3,"directory_id":"00000000-0000-0000-0000-000000000007","listeners":{}}],
        "topics":[{"id":"00000000-0000-0000-0000-000000000001","name":"t","internal":false,
        "origin":"Admin","replication_factor":1,"configs":{},"partitions":[{"log_start":0,
        "segments":[{"id":"00000000-0000-0000-0000-000000000002","base":0,"end":5,"epoch":0,
        "version":1,"state":"Sealed","leader":1,"leader_incarnation":1,"replicas":[1],
        "isr":[[1,1]],"min_insync":1,"bytes":9,"max_timestamp":1,"digest":null},
        {"id":"00000000-0000-0000-0000-000000000003","base":5,"end":null,"epoch":1,"version":0,
        "state":"Active","leader":1,"leader_incarnation":3,"replicas":[1],"isr":[[1,3]],
        "min_insync":2,"bytes":0,"max_timestamp":-1,"digest":null}]}]}],
        "next_producer_id":0,"broker_configs":{},"routes":{}}"#;

    #[test]
    fn format_2_says_that_replicas_of_sealed_segments_are_complete_and_durable() {
        let image = decode(FORMAT_2.as_bytes()).expect("decode");
        let topic = image.topic("t").expect("topic");
        let segments = &topic.partitions[0].segments;
        let now = Member::new(
            mainstem_record::BrokerId(1),
            mainstem_record::Incarnation(3),
        );
        let copy = segments[0].complete[0];
        assert_eq!((copy.member(), copy.durable), (now, true));
        assert!(segments[0].isr.is_empty() && segments[1].complete.is_empty());
        assert_eq!(
            (segments[1].isr.clone(), segments[1].min_insync),
            (vec![now], 1)
        );
        // In its present form it stays what it is.
        let bytes = encode(&image).expect("encode");
        assert_eq!(decode(&bytes).expect("decode"), image);
        let text = String::from_utf8(bytes).expect("JSON");
        for part in [
            r#"{"format":3,"version":9,"cluster_id":"","brokers":[{"id":1,"incarnation":3,"#,
            r#""roles":{"controller":true,"broker":true},"fenced":false,"draining":false,"#,
            r#""isr":[],"flush":"Os","complete":[{"broker":1,"incarnation":3,"durable":true}],"#,
            r#""isr":[{"broker":1,"incarnation":3}],"flush":"Os","min_insync":1,"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn other_formats_and_cut_bytes_are_refused() {
        let bytes = encode(&Image::default()).expect("encode");
        assert_eq!(decode(&bytes).expect("decode"), Image::default());
        let text = String::from_utf8(bytes.clone()).expect("JSON");
        let earlier = text.replace("\"format\":3", "\"format\":1");
        assert_ne!(earlier, text);
        let read = decode(earlier.as_bytes()).expect("format 1");
        assert_eq!(read, Image::default());
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        let error = decode(br#"{"format":9,"what":"ever"}"#).expect_err("format 9");
        assert!(matches!(error, StoreError::SnapshotFormat { found: 9, .. }));
    }
}
