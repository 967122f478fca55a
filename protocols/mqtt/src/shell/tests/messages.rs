//! Messages in and out.

use mainstem_config::V3Refusal;

use super::{
    World, bytes_of,
    client::{Client, connect, publish, subscribe, text},
};

/// The body of a version 3 PUBLISH with an identifier.
fn v3_body(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    body
}

#[tokio::test]
async fn a_publish_behind_a_subscribe_reaches_it() {
    let world = World::new().await;
    let mut client = world.dial().enter(4, "loop").await;
    let mut bytes = subscribe(4, 5, "loop/+", 1);
    bytes.extend_from_slice(&publish(4, 2, "loop/a", (6, b"hello")));
    client.send(&bytes).await;
    assert_eq!(client.packet().await, (0x90, vec![0, 5, 1]));
    let mut got = [client.packet().await, client.packet().await];
    got.sort();
    assert_eq!(got[0].0, 0x32);
    assert_eq!(got[0].1, v3_body("loop/a", 1, b"hello"));
    assert_eq!(got[1], (0x40, vec![0, 6]));
}

#[tokio::test]
async fn what_comes_in_and_goes_out_is_counted_for_the_protocol() {
    let world = World::new().await;
    let mut reader = world.dial().enter(4, "reader").await;
    reader.subscribe(4, "flow/+", 1).await;
    let mut sender = world.dial().enter(5, "sender").await;
    for (id, flags, payload) in [(0, 0, "abc"), (1, 2, "hello"), (2, 4, "once")] {
        let bytes = publish(5, flags, "flow/a", (id, payload.as_bytes()));
        sender.send(&bytes).await;
        if id > 0 {
            sender.packet().await;
        }
        reader.packet().await;
    }
    // Refused, and so not stored.
    sender.send(&publish(5, 2, "$SYS/forged", (3, b"x"))).await;
    sender.packet().await;
    for (name, expected) in [
        ("mainstem_produced_records_total", 3.0),
        ("mainstem_produced_bytes_total", 12.0),
        ("mainstem_fetched_records_total", 3.0),
        ("mainstem_fetched_bytes_total", 12.0),
    ] {
        assert_eq!(world.counted(name, "mqtt"), expected, "{name}");
    }
}

#[tokio::test]
async fn every_version_gets_the_message_in_its_own_words() {
    let world = World::new().await;
    let mut three = world.dial().enter(3, "three").await;
    three.subscribe(3, "words", 2).await;
    let mut four = world.dial().enter(4, "four").await;
    four.subscribe(4, "words", 0).await;
    let mut five = world.dial().enter(5, "five").await;
    // With subscription identifier 9.
    let mut body = vec![0, 1, 2, 0x0B, 9];
    body.extend_from_slice(&text("words"));
    body.push(1);
    five.send(&bytes_of(0x82, &body)).await;
    assert_eq!(five.packet().await.0, 0x90);
    let mut plain = world.dial().enter(5, "plain").await;
    plain.subscribe(5, "words", 1).await;

    let mut publisher = world.dial().enter(5, "publisher").await;
    // Content type "t", one user property.
    let properties = [&[0x03, 0, 1, b't', 0x26, 0, 1, b'k', 0, 1, b'v'][..]].concat();
    let mut body = text("words");
    body.extend_from_slice(&[0, 3, properties.len() as u8]);
    body.extend_from_slice(&properties);
    body.extend_from_slice(b"payload");
    publisher.send(&bytes_of(0x34, &body)).await;
    assert_eq!(publisher.packet().await, (0x50, vec![0, 3]));

    assert_eq!(
        three.packet().await,
        (0x34, v3_body("words", 1, b"payload"))
    );
    let mut expected = text("words");
    expected.extend_from_slice(b"payload");
    assert_eq!(four.packet().await, (0x30, expected));
    let with = |ids: &[u8]| {
        let mut body = text("words");
        body.extend_from_slice(&[0, 1, (ids.len() + properties.len()) as u8]);
        body.extend_from_slice(ids);
        body.extend_from_slice(&properties);
        body.extend_from_slice(b"payload");
        (0x32, body)
    };
    assert_eq!(five.packet().await, with(&[0x0B, 9]));
    assert_eq!(plain.packet().await, with(&[]));
}

async fn finish_qos2_in(client: &mut Client, id: u8) {
    client.send(&[0x62, 2, 0, id]).await;
    assert_eq!(client.packet().await, (0x70, vec![0, id]));
}

#[tokio::test]
async fn qos_2_goes_both_ways_step_by_step() {
    let world = World::new().await;
    let mut receiver = world.dial().enter(4, "receiver").await;
    receiver.subscribe(4, "exact/#", 2).await;
    let mut sender = world.dial().enter(4, "sender").await;
    for repeat in 0..3 {
        // DUP from the second time on: it is stored once.
        let flags = if repeat == 0 { 4 } else { 0xC };
        sender
            .send(&publish(4, flags, "exact/a", (8, b"once")))
            .await;
        assert_eq!(sender.packet().await, (0x50, vec![0, 8]));
    }
    finish_qos2_in(&mut sender, 8).await;
    assert_eq!(
        receiver.packet().await,
        (0x34, v3_body("exact/a", 1, b"once"))
    );
    receiver.send(&[0x50, 2, 0, 1]).await;
    assert_eq!(receiver.packet().await, (0x62, vec![0, 1]));
    receiver.send(&[0x70, 2, 0, 1]).await;
    sender.send(&publish(4, 4, "exact/b", (8, b"again"))).await;
    assert_eq!(sender.packet().await, (0x50, vec![0, 8]));
    finish_qos2_in(&mut sender, 8).await;
    assert_eq!(
        receiver.packet().await,
        (0x34, v3_body("exact/b", 2, b"again"))
    );
    // A release of nothing, said by version 5.
    let mut five = world.dial().enter(5, "five").await;
    five.send(&[0x62, 2, 0, 99]).await;
    assert_eq!(five.packet().await, (0x70, vec![0, 99, 0x92]));
}

#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_the_messages() {
    let world = World::new().await;
    let mut client = world.dial().enter(5, "many").await;
    let mut bytes = Vec::new();
    for id in 1..=30u16 {
        let qos = if id % 3 == 0 { 4 } else { 2 };
        bytes.extend_from_slice(&publish(5, qos, "many/a", (id, b"x")));
    }
    client.send(&bytes).await;
    for id in 1..=30u8 {
        let kind = if id % 3 == 0 { 0x50 } else { 0x40 };
        assert_eq!(client.packet().await, (kind, vec![0, id]));
    }
}

#[tokio::test]
async fn an_old_client_may_send_more_than_it_was_never_told_the_limit_of() {
    let world = World::with(|config| config.mqtt.receive_maximum = 2).await;
    let mut client = world.dial().enter(4, "eager").await;
    let mut bytes = Vec::new();
    for id in 1..=200u16 {
        bytes.extend_from_slice(&publish(4, 2, "eager/a", (id, b"x")));
    }
    client.send(&bytes).await;
    for id in 1..=200u8 {
        assert_eq!(client.packet().await, (0x40, vec![0, id]));
    }
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let world = World::new().await;
    let mut slow = world.dial();
    // Receive Maximum 2.
    slow.send(&connect(5, "slow", (2, 60), &[0x21, 0, 2])).await;
    slow.packet().await;
    slow.subscribe(5, "flow", 1).await;
    let mut fast = world.dial().enter(5, "fast").await;
    for id in 1..=5u16 {
        fast.send(&publish(5, 2, "flow", (id, &[id as u8]))).await;
        fast.packet().await;
    }
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (first, body) = slow.packet().await;
        assert_eq!(first, 0x32);
        ids.push([body[6], body[7]]);
    }
    // Nothing more, though three wait.
    slow.ping().await;
    for at in 0..3 {
        let [high, low] = ids[at];
        slow.send(&[0x40, 2, high, low]).await;
        let (_, body) = slow.packet().await;
        assert_eq!(body.last(), Some(&(at as u8 + 3)));
        ids.push([body[6], body[7]]);
    }
}

#[tokio::test]
async fn what_is_too_large_for_a_client_is_left_out_and_the_next_one_comes() {
    let world = World::new().await;
    let mut small = world.dial();
    small
        .send(&connect(5, "small", (2, 60), &[0x27, 0, 0, 0, 60]))
        .await;
    small.packet().await;
    small.subscribe(5, "size", 1).await;
    let mut sender = world.dial().enter(5, "sender").await;
    for (id, payload) in [(1, vec![b'a'; 100]), (2, vec![b'b'; 9])] {
        sender.send(&publish(5, 2, "size", (id, &payload))).await;
        sender.packet().await;
    }
    let (first, body) = small.packet().await;
    assert_eq!((first, body.last()), (0x32, Some(&b'b')));
    assert_eq!(
        world.counted("mainstem_mqtt_unsent_total", "too_large"),
        1.0
    );
}

#[tokio::test]
async fn the_remaining_expiry_goes_along() {
    let world = World::new().await;
    let mut reader = world.dial().enter(5, "reader").await;
    reader.subscribe(5, "soon", 0).await;
    let mut sender = world.dial().enter(5, "sender").await;
    let mut body = text("soon");
    body.extend_from_slice(&[0, 1, 5, 0x02, 0, 0, 1, 0, b'x']);
    sender.send(&bytes_of(0x32, &body)).await;
    sender.packet().await;
    let (first, body) = reader.packet().await;
    assert_eq!(first, 0x30);
    assert_eq!(body[6..8], [5, 0x02]);
    let left = u32::from_be_bytes([body[8], body[9], body[10], body[11]]);
    assert!((200..=256).contains(&left), "{left}");
}

#[tokio::test]
async fn large_payloads_arrive_whole_and_in_order() {
    let world = World::new().await;
    let mut reader = world.dial().enter(4, "reader").await;
    reader.subscribe(4, "large", 0).await;
    let mut sender = world.dial().enter(4, "sender").await;
    for (id, size) in [300_000usize, 10, 70_000, 4096, 4095]
        .into_iter()
        .enumerate()
    {
        let payload = vec![id as u8; size];
        sender
            .send(&publish(4, 2, "large", (id as u16 + 1, &payload)))
            .await;
        let mut expected = text("large");
        expected.extend_from_slice(&payload);
        assert!(reader.packet().await == (0x30, expected), "{size} bytes");
        sender.packet().await;
    }
}

#[tokio::test]
async fn unsubscribe_tells_what_was_there() {
    let world = World::new().await;
    let mut client = world.dial().enter(5, "leaver").await;
    client.subscribe(5, "there", 0).await;
    let mut body = vec![0, 4, 0];
    body.extend_from_slice(&text("there"));
    body.extend_from_slice(&text("not/there"));
    client.send(&bytes_of(0xA2, &body)).await;
    assert_eq!(client.packet().await, (0xB0, vec![0, 4, 0, 0, 0x11]));
}

#[tokio::test]
async fn a_refusal_is_said_in_version_5_and_as_configured_before() {
    let refused = |level| publish(level, 2, "$SYS/forged", (7, b"x"));
    let world = World::new().await;
    let mut five = world.dial().enter(5, "five").await;
    five.send(&refused(5)).await;
    assert_eq!(five.packet().await, (0x40, vec![0, 7, 0x87]));
    five.ping().await;
    let mut four = world.dial().enter(4, "four").await;
    four.send(&refused(4)).await;
    assert!(four.rest().await.is_empty());
    let world = World::with(|config| config.mqtt.v3_refusal = V3Refusal::AckAndDrop).await;
    let mut four = world.dial().enter(4, "four").await;
    four.send(&refused(4)).await;
    assert_eq!(four.packet().await, (0x40, vec![0, 7]));
}

#[tokio::test]
async fn a_session_goes_on_where_its_connection_was_lost() {
    let world = World::new().await;
    let enter = connect(4, "back", (0, 60), &[]);
    let mut first = world.dial();
    first.send(&enter).await;
    assert_eq!(first.packet().await, (0x20, vec![0, 0]));
    first.subscribe(4, "back/#", 2).await;
    let mut sender = world.dial().enter(4, "sender").await;
    for (id, flags) in [(1, 2), (2, 4)] {
        sender
            .send(&publish(4, flags, "back/a", (id, &[id as u8])))
            .await;
        sender.packet().await;
    }
    assert_eq!(first.packet().await, (0x32, v3_body("back/a", 1, &[1])));
    assert_eq!(first.packet().await, (0x34, v3_body("back/a", 2, &[2])));
    // The QoS 2 message is known to be there, the QoS 1 message is not.
    first.send(&[0x50, 2, 0, 2]).await;
    assert_eq!(first.packet().await, (0x62, vec![0, 2]));
    drop(first);
    let mut second = world.dial();
    second.send(&enter).await;
    assert_eq!(second.packet().await, (0x20, vec![1, 0]));
    let mut again = [second.packet().await, second.packet().await];
    again.sort();
    assert_eq!(again[0].0, 0x3A, "with DUP");
    assert_eq!(again[0].1, v3_body("back/a", 1, &[1]));
    assert_eq!(again[1], (0x62, vec![0, 2]));
    second.send(&[0x40, 2, 0, 1, 0x70, 2, 0, 2]).await;
    sender.send(&publish(4, 2, "back/b", (3, b"new"))).await;
    let (first, body) = second.packet().await;
    assert_eq!((first, body.ends_with(b"new")), (0x32, true));
}

#[tokio::test]
async fn a_node_tells_of_itself() {
    let world = World::hasty(|config| config.mqtt.sys_interval_s = 1).await;
    let mut client = world.dial().enter(4, "curious").await;
    client
        .subscribe(4, "$SYS/broker/clients/connected", 2)
        .await;
    let mut expected = text("$SYS/broker/clients/connected");
    expected.push(b'1');
    assert_eq!(client.packet().await, (0x30, expected));
}
