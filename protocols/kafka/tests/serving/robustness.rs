//! What is not Kafka, not ours or not meant well.

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::{
    messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest},
    protocol::{Decodable, StrBytes},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use crate::harness::{Client, Node, batch};

fn request(key: i16, version: i16, body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i32(10 + body.len() as i32);
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(77);
    frame.put_i16(-1);
    frame.put_slice(body);
    frame
}

async fn is_well(client: &mut Client) {
    let response = client.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!(response.error_code, 0);
}

#[tokio::test]
async fn a_newer_api_versions_is_answered_in_version_0() {
    let node = Node::start().await;
    let mut client = node.connect();
    client.send_bytes(&request(18, 99, &[0, 1, 2])).await;
    let mut frame = client.frame().await.expect("an answer");
    assert_eq!(frame.get_i32(), 77);
    let response = ApiVersionsResponse::decode(&mut frame, 0).expect("version 0");
    assert_eq!(response.error_code, 35);
    let own = &response.api_keys[0];
    assert_eq!((response.api_keys.len(), own.api_key), (1, 18));
    // The connection goes on with the version that both know.
    let named = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("test"))
        .with_client_software_version(StrBytes::from_static_str("1"));
    let response = client.call(own.max_version, &named).await;
    let produce = response
        .api_keys
        .iter()
        .find(|api| api.api_key == 0)
        .expect("Produce");
    assert_eq!((produce.min_version, produce.max_version), (0, 12));
    let bad = named.with_client_software_name(StrBytes::from_static_str("no spaces, please"));
    assert_eq!(client.call(3, &bad).await.error_code, 42);
}

#[tokio::test]
async fn what_is_not_served_ends_the_connection_and_no_other() {
    let node = Node::start().await;
    let mut bystander = node.with_topic("t").await;
    let mut hostile: Vec<BytesMut> = vec![
        request(0, 2, &[]),   // Produce as it was before batches
        request(0, 13, &[]),  // newer than ours
        request(1, 3, &[]),   // Fetch as it was before batches
        request(999, 0, &[]), // no such API
        request(-1, 0, &[]),
        request(17, 1, &[]), // SaslHandshake: not yet
        request(24, 0, &[]), // transactions: not yet
        request(3, -1, &[]),
        request(3, 9, &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        request(3, 1, &[0x7f, 0xff, 0xff, 0xff]),
        request(3, 12, &[]), // no body
    ];
    for length in [i32::MIN, -1, 0, 7, i32::MAX, (100 << 20) + 1] {
        let mut frame = BytesMut::new();
        frame.put_i32(length);
        frame.put_bytes(b'x', 64);
        hostile.push(frame);
    }
    hostile.push(BytesMut::from(
        &b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"[..],
    ));
    for bytes in hostile {
        let mut client = node.connect();
        client.send_bytes(&bytes).await;
        assert_eq!(client.frame().await, None, "{bytes:02x?}");
        is_well(&mut bystander).await;
    }
    assert!(node.counter("mainstem_kafka_closed_total") >= 18.0);
}

#[tokio::test]
async fn earlier_requests_are_answered_before_a_bad_one_ends_the_connection() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let produce = crate::harness::produce_request("t", batch(&["a"]), -1);
    let first = client.send(9, &produce).await;
    let second = client.send(9, &MetadataRequest::default()).await;
    client.send_bytes(&request(999, 0, &[])).await;
    let produced = client
        .receive::<kafka_protocol::messages::ProduceRequest>(9, first)
        .await;
    assert_eq!(crate::harness::first_partition(&produced), (0, 0));
    client.receive::<MetadataRequest>(9, second).await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let node = Node::with(&[("connections.max.idle.ms", "100")]).await;
    let mut client = node.connect();
    is_well(&mut client).await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn random_bodies_never_hurt_the_node() {
    let node = Node::start().await;
    let mut bystander = node.with_topic("t").await;
    let listed = bystander.call(0, &ApiVersionsRequest::default()).await;
    let mut runner = TestRunner::deterministic();
    let piece = proptest::collection::vec(0u8..5, 0..40);
    for _ in 0..5 {
        let body = piece.new_tree(&mut runner).expect("body").current();
        for api in &listed.api_keys {
            // JoinGroup may be legal, and then waits for its rebalance.
            if api.api_key == 11 {
                continue;
            }
            for version in api.min_version..=api.max_version {
                let mut client = node.connect();
                client
                    .send_bytes(&request(api.api_key, version, &body))
                    .await;
                // An end of the input instead of a further request: whatever was understood is
                // answered, and then the server closes.
                client.finish().await;
                while client.frame().await.is_some() {}
            }
        }
        is_well(&mut bystander).await;
    }
}
