//! Catching up by the dictionaries of sealed segments gives what reading everything gives, and
//! reads less.

use mainstem_log::{Ack, Append, Lookup};
use mainstem_record::{
    Attributes, BatchBuilder, BatchOptions, Codec, Offset, PartitionId, ProducerEpoch, ProducerId,
    Sequence, TimestampMs,
};
use proptest::{
    prelude::*,
    test_runner::{Config as ProptestConfig, TestRunner},
};

use super::*;
use crate::mqtt::trie::{Scratch, Trie};

/// A record, by whom it is written.
#[derive(Debug, Clone)]
enum Written {
    /// An MQTT publish to this topic.
    Mqtt(String),
    /// A Kafka record of the topic `t`: its key, and what it claims to be in `mqtt.topic`.
    Kafka(Option<Vec<u8>>, Option<String>),
}

fn level() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d/e", "d/f", "", "a/b/c"]).prop_map(str::to_owned)
}

fn written() -> impl Strategy<Value = Written> {
    let key = prop_oneof![
        6 => level().prop_map(|key| Some(key.into_bytes())),
        1 => Just(None),
        1 => Just(Some(vec![0xff, 0xfe])),
        1 => Just(Some(b"with/+/wildcard".to_vec())),
    ];
    let claim = prop_oneof![
        5 => Just(None),
        1 => level().prop_map(|level| Some(format!("t/{level}"))),
        1 => Just(Some("other/a".to_owned())),
    ];
    prop_oneof![
        level().prop_map(|level| Written::Mqtt(format!("t/{level}"))),
        (key, claim).prop_map(|(key, claim)| Written::Kafka(key, claim)),
    ]
}

fn batch(payload: &str, key: Option<&[u8]>, claim: Option<&str>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::Lz4,
        attributes: Attributes(0),
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
        base_sequence: Sequence::NONE,
    });
    let headers = claim.map(|claim| (b"mqtt.topic".as_slice(), Some(claim.as_bytes())));
    builder.push_record(0, TimestampMs(1), key, Some(payload.as_bytes()), headers);
    builder.finish().expect("a batch").freeze()
}

fn partition_of(life: &Life, name: &str) -> PartitionId {
    let image = life.core.image();
    let topic = image.topic(name).expect("the topic");
    PartitionId {
        topic: topic.id,
        index: mainstem_record::PartitionIndex(0),
    }
}

async fn write(life: &Life, session: &Session, number: usize, written: &Written) {
    let payload = number.to_string();
    match written {
        Written::Mqtt(topic) => put(session, topic, &payload, QoS::AtLeastOnce).await,
        Written::Kafka(key, claim) => {
            let partition = life.log.partition(partition_of(life, "t")).expect("open");
            let batch = batch(&payload, key.as_deref(), claim.as_deref());
            let append = Append::Batch {
                batch,
                ack: Ack::Durable,
            };
            let ticket = partition.append(append).await.expect("appended");
            ticket.await.expect("stored");
        }
    }
}

/// The MQTT topic by which a subscriber knows a record.
fn topic_of(written: &Written) -> String {
    match written {
        Written::Mqtt(topic) => topic.clone(),
        Written::Kafka(_, Some(claim)) if claim.starts_with("t/") => claim.clone(),
        Written::Kafka(key, _) => match key.as_deref().map(std::str::from_utf8) {
            Some(Ok(key)) if !key.contains('+') => format!("t/{key}"),
            _ => "t".to_owned(),
        },
    }
}

fn expected(filter: &str, all: &[Written]) -> Vec<String> {
    let mut trie = Trie::default();
    trie.insert(filter, 0, ());
    let mut scratch = Scratch::default();
    let matching = all.iter().enumerate().filter(|(_, written)| {
        let mut matches = false;
        trie.for_each_match(&topic_of(written), &mut scratch, |()| matches = true);
        matches
    });
    matching.map(|(number, _)| number.to_string()).collect()
}

const FILTERS: [&str; 6] = ["t/a", "t/d/+", "t/+/b/#", "t", "t/", "t/with/#"];

async fn away(node: &Node, client_id: &str, filter: &str) {
    let session = node.connect(client_id, 1000).await.session;
    subscribe(&session, filter, QoS::AtLeastOnce).await;
    session
        .disconnect(Disconnect {
            publish_will: false,
            session_expiry_s: None,
        })
        .await;
}

async fn deliveries_are_those_of_a_full_read(all: Vec<Written>, restart_at: usize) {
    let mut node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    put(&publisher, "t/first", "first", QoS::AtLeastOnce).await;
    for (number, filter) in FILTERS.iter().enumerate() {
        away(&node, &format!("s{number}"), filter).await;
    }
    for (number, written) in all.iter().enumerate() {
        let publisher = node.connect("p", 0).await.session;
        if number == restart_at {
            // A start seals.
            node.crash().await;
            continue_as(&node, number, written).await;
        } else {
            let life = node.life.as_ref().expect("a life");
            write(life, &publisher, number, written).await;
        }
    }
    node.crash().await;
    let life = node.life.as_ref().expect("a life");
    life.log.make_dictionaries().await;
    let publisher = node.connect("p", 0).await.session;
    for (number, filter) in FILTERS.iter().enumerate() {
        let session = node.connect(&format!("s{number}"), 1000).await.session;
        let expected = expected(filter, &all);
        let found = take(&session, expected.len()).await;
        assert_eq!(texts(&found), expected, "{filter}");
        let marker = filter.replace('+', "x").replace('#', "y");
        if marker != "t" {
            assert_drained(&publisher, &session, &marker).await;
        }
    }
}

async fn continue_as(node: &Node, number: usize, written: &Written) {
    let publisher = node.connect("p", 0).await.session;
    let life = node.life.as_ref().expect("a life");
    write(life, &publisher, number, written).await;
}

#[test]
fn session_gets_the_same_with_and_without_dictionaries() {
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(6)
    });
    let inputs = (prop::collection::vec(written(), 1..60), 0usize..60);
    let result = runner.run(&inputs, |(all, restart_at)| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(deliveries_are_those_of_a_full_read(all, restart_at));
        Ok(())
    });
    result.expect("it holds");
}

/// Bytes that were read of files.
fn read_bytes(life: &Life) -> u64 {
    let families = life.registry.gather();
    let reads = families
        .iter()
        .find(|family| family.name() == "mainstem_log_read_bytes_total")
        .expect("the metric");
    let from_file = reads.get_metric().iter().find(|metric| {
        let labels = metric.get_label();
        labels.iter().any(|label| label.value() == "file")
    });
    from_file.expect("the label").get_counter().get_value() as u64
}

/// Topics of one partition, with one record each.
const TOPICS: usize = 4_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrow_filter_reads_little_of_a_large_partition() {
    let mut node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    put(&publisher, "t/first", "first", QoS::AtLeastOnce).await;
    for client in ["before", "after"] {
        away(&node, client, "t/777").await;
    }
    let life = node.life.as_ref().expect("a life");
    let partition = life.log.partition(partition_of(life, "t")).expect("open");
    let payload = "x".repeat(100);
    for number in 0..TOPICS {
        let key = number.to_string();
        let append = Append::Batch {
            batch: batch(&payload, Some(key.as_bytes()), None),
            ack: Ack::Written,
        };
        let ticket = partition.append(append).await.expect("appended");
        drop(ticket);
    }
    partition.flush().await.expect("flushed");
    let mut costs = Vec::new();
    // The second one gets the marker of the first one, too.
    for (client, count) in [("before", 1), ("after", 2)] {
        node.crash().await;
        let life = node.life.as_ref().expect("a life");
        if client == "after" {
            assert!(life.log.make_dictionaries().await > 0);
            let partition = life.log.partition(partition_of(life, "t")).expect("open");
            let lookup = partition.matching(Offset(1), |label| label == b"t/777");
            assert!(matches!(lookup.await, Ok(Lookup::Hits(hits)) if hits.len() == 1));
        }
        let read = read_bytes(life);
        let session = node.connect(client, 1000).await.session;
        take(&session, count).await;
        let publisher = node.connect("p", 0).await.session;
        assert_drained(&publisher, &session, "t/777").await;
        let life = node.life.as_ref().expect("a life");
        costs.push(read_bytes(life) - read);
    }
    assert!(costs[0] > 100 * costs[1], "{costs:?}");
}
