//! Produce and Fetch.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, MetadataRequest,
    fetch_request::{FetchPartition, FetchTopic},
    metadata_request::MetadataRequestTopic,
};
use mainstem_env::Env;
use uuid::Uuid;

use crate::harness::{Node, batch, first_partition, produce_request, topic_name, values};

/// Longer than any test takes: whoever waits for it has hung.
const LONG_MS: i32 = 120_000;

fn fetch(topic: &str, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(LONG_MS)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

fn by_id(mut request: FetchRequest, id: Uuid) -> FetchRequest {
    for topic in &mut request.topics {
        topic.topic = topic_name("");
        topic.topic_id = id;
    }
    request
}

fn records(response: &FetchResponse) -> Vec<String> {
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    values(partition.records.as_ref().expect("never null"))
}

#[tokio::test]
async fn what_is_produced_in_any_version_is_fetched_in_any_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let id = client.topic_id("t").await;
    let mut expected = Vec::new();
    for version in 3..=12 {
        let value = format!("in {version}");
        let produced = client.produce(version, "t", batch(&[&value, "x"])).await;
        assert_eq!(produced, (0, expected.len() as i64));
        expected.extend([value, "x".to_owned()]);
    }
    for version in 4..=17 {
        let request = fetch("t", 0);
        let request = if version >= 13 {
            by_id(request, id)
        } else {
            request
        };
        let response = client.call(version, &request).await;
        assert_eq!(records(&response), expected, "version {version}");
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.high_watermark, expected.len() as i64);
    }
    let bytes = node.counter("mainstem_produced_records_total");
    assert_eq!(bytes as usize, expected.len());
    assert_eq!(
        node.counter("mainstem_fetched_records_total") as usize,
        14 * expected.len()
    );
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_record_comes() {
    let node = Node::start().await;
    let mut reader = node.with_topic("t").await;
    let mut writer = node.connect();
    let id = reader.send(12, &fetch("t", 0)).await;
    // Twice around the node: the reader's request is there before the record is.
    writer.call(12, &MetadataRequest::default()).await;
    writer.produce(9, "t", batch(&["news"])).await;
    let response = reader.receive::<FetchRequest>(12, id).await;
    assert_eq!(records(&response), ["news"]);
}

#[tokio::test]
async fn a_long_poll_waits_for_its_bytes_and_ends_with_its_time() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    client.produce(9, "t", batch(&["a"])).await;
    let clock = Env::real();
    let began = clock.now();
    let request = fetch("t", 0).with_min_bytes(1 << 20).with_max_wait_ms(200);
    let response = client.call(12, &request).await;
    assert!(clock.now() - began >= Duration::from_millis(200));
    assert_eq!(records(&response), ["a"]);
    let response = client.call(12, &fetch("t", 1).with_max_wait_ms(0)).await;
    assert!(records(&response).is_empty());
}

#[tokio::test]
async fn a_drain_ends_long_polls_with_an_answer() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let id = client.send(12, &fetch("t", 0)).await;
    node.connect().call(12, &MetadataRequest::default()).await;
    node.drain.cancel();
    let response = client.receive::<FetchRequest>(12, id).await;
    assert!(records(&response).is_empty());
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn pipelined_produces_are_answered_in_order_and_before_what_follows() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let mut sent = Vec::new();
    for index in 0..50 {
        let value = format!("{index}");
        // What is answered with acks=1 may be read a sync later; the last one is waited for.
        let acks = if index % 2 == 0 { 1 } else { -1 };
        sent.push(
            client
                .send(9, &produce_request("t", batch(&[&value]), acks))
                .await,
        );
    }
    let after = client.send(12, &fetch("t", 0)).await;
    for (offset, id) in sent.into_iter().enumerate() {
        let response = client
            .receive::<kafka_protocol::messages::ProduceRequest>(9, id)
            .await;
        assert_eq!(first_partition(&response), (0, offset as i64));
    }
    let response = client.receive::<FetchRequest>(12, after).await;
    let expected: Vec<String> = (0..50).map(|index| index.to_string()).collect();
    assert_eq!(records(&response), expected);
}

#[tokio::test]
async fn acks_0_has_no_response_and_closes_on_an_error() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    client
        .send(9, &produce_request("t", batch(&["a"]), 0))
        .await;
    let response = client.call(12, &fetch("t", 0)).await;
    assert_eq!(records(&response), ["a"]);
    client
        .send(9, &produce_request("not-there", batch(&["b"]), 0))
        .await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn refused_batches_tell_why() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let good = batch(&["a"]);
    let mut bad_crc = good.to_vec();
    *bad_crc.last_mut().expect("bytes") ^= 1;
    let two: Bytes = [&good[..], &good[..]].concat().into();
    let mut zstd = BytesMut::from(&good[..]);
    zstd[22] = 4;
    for (batch, version, codes) in [
        (Bytes::from(bad_crc), 9, vec![2]),
        (two, 9, vec![2, 87]),
        (Bytes::new(), 9, vec![87]),
        (Bytes::from_static(b"rubbish"), 9, vec![2, 87]),
        (zstd.freeze(), 6, vec![76]),
    ] {
        let (code, offset) = client.produce(version, "t", batch).await;
        assert!(codes.contains(&code), "{code} is not one of {codes:?}");
        assert_eq!(offset, -1);
    }
    assert_eq!(client.produce(9, "none", good.clone()).await.0, 3);
    let wrong = client.call(9, &produce_request("t", good.clone(), 7)).await;
    assert_eq!(first_partition(&wrong).0, 21);
    assert_eq!(client.produce(9, "__consumer_offsets", good).await.0, 17);
}

#[tokio::test]
async fn the_first_batch_comes_whole_whatever_the_limits() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let large = "x".repeat(50_000);
    client.produce(9, "t", batch(&[&large])).await;
    client.produce(9, "t", batch(&[&large])).await;
    let mut request = fetch("t", 0).with_max_bytes(1);
    request.topics[0].partitions[0].partition_max_bytes = 1;
    let response = client.call(12, &request).await;
    assert_eq!(records(&response), [large]);
}

#[tokio::test]
async fn fetch_errors_are_told_at_once() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let code = |response: &FetchResponse| response.responses[0].partitions[0].error_code;
    assert_eq!(code(&client.call(12, &fetch("t", 99)).await), 1);
    assert_eq!(code(&client.call(12, &fetch("none", 0)).await), 3);
    let unknown = by_id(fetch("", 0), Uuid::from_u128(77));
    assert_eq!(code(&client.call(13, &unknown).await), 100);
    let mut ahead = fetch("t", 0);
    ahead.topics[0].partitions[0].current_leader_epoch = 1000;
    assert_eq!(code(&client.call(12, &ahead).await), 75);
    let mut isolated = fetch("t", 0).with_isolation_level(1).with_max_wait_ms(0);
    let response = client.call(12, &isolated).await;
    assert_eq!(
        response.responses[0].partitions[0].aborted_transactions,
        Some(vec![])
    );
    isolated.isolation_level = 0;
    let response = client.call(12, &isolated).await;
    assert_eq!(
        response.responses[0].partitions[0].aborted_transactions,
        None
    );
}

#[tokio::test]
async fn incremental_sessions_tell_only_news() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let first = client
        .call(12, &fetch("t", 0).with_session_epoch(0).with_max_wait_ms(0))
        .await;
    assert_ne!(first.session_id, 0);
    let next = |epoch| {
        FetchRequest::default()
            .with_max_wait_ms(0)
            .with_max_bytes(1 << 20)
            .with_session_id(first.session_id)
            .with_session_epoch(epoch)
    };
    let quiet = client.call(12, &next(1)).await;
    assert_eq!((quiet.error_code, quiet.responses.len()), (0, 0));
    client.produce(9, "t", batch(&["a"])).await;
    let news = client.call(12, &next(2)).await;
    assert_eq!(records(&news), ["a"]);
    assert_eq!(client.call(12, &next(7)).await.error_code, 71);
    assert_eq!(client.call(13, &next(3)).await.error_code, 106);
    let other = next(3).with_session_id(first.session_id ^ 1);
    assert_eq!(client.call(12, &other).await.error_code, 70);
}

#[tokio::test]
async fn metadata_makes_topics_where_it_may() {
    let node = Node::start().await;
    let mut client = node.connect();
    let ask = |name: &str| {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        MetadataRequest::default().with_topics(Some(vec![topic]))
    };
    let mut quiet = ask("new");
    quiet.allow_auto_topic_creation = false;
    assert_eq!(client.call(9, &quiet).await.topics[0].error_code, 3);
    let made = client.call(12, &ask("new")).await;
    let topic = &made.topics[0];
    assert_eq!((topic.error_code, topic.partitions.len()), (0, 4));
    assert!(
        topic
            .partitions
            .iter()
            .all(|partition| partition.leader_id.0 == 1)
    );
    assert_eq!(made.brokers[0].host.as_str(), "broker.test");
    assert_eq!(
        client.call(12, &ask("bad name")).await.topics[0].error_code,
        17
    );
    let by_id = MetadataRequestTopic::default()
        .with_name(None)
        .with_topic_id(topic.topic_id);
    let request = MetadataRequest::default().with_topics(Some(vec![by_id]));
    let found = client.call(12, &request).await;
    assert_eq!(found.topics[0].name, Some(topic_name("new")));
    // In version 0 an empty list asks for all topics, later for none.
    let none = MetadataRequest::default().with_topics(Some(vec![]));
    assert!(!client.call(0, &none).await.topics.is_empty());
    assert!(client.call(1, &none).await.topics.is_empty());
    let all = MetadataRequest::default().with_topics(None);
    assert!(!client.call(1, &all).await.topics.is_empty());
    let off = Node::with(&[("auto.create.topics.enable", "false")]).await;
    assert_eq!(
        off.connect().call(9, &ask("new")).await.topics[0].error_code,
        3
    );
}

#[tokio::test]
async fn large_frames_come_in_pieces() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let value = "y".repeat(900_000);
    assert_eq!(client.produce(9, "t", batch(&[&value])).await, (0, 0));
    let response = client.call(12, &fetch("t", 0)).await;
    assert_eq!(records(&response), [value]);
    let mut padding = BytesMut::new();
    padding.put_bytes(b'z', 1_100_000);
    let large = String::from_utf8(padding.to_vec()).expect("text");
    assert_eq!(client.produce(9, "t", batch(&[&large])).await.0, 10);
}
