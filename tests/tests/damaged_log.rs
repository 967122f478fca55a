//! The log of a killed node is good; one flipped bit in it is named, costs the records of its batch
//! and nothing else.

use std::{fs, path::PathBuf};

use mainstem_tests::{
    Node, files,
    kafka::{Batch, Connection},
    mqtt,
};

/// What `mainstem log verify` ends with if something is damaged.
const DAMAGED: i32 = 3;
/// Kafka's KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;
/// Bytes of a batch before its records.
const BATCH_HEADER_BYTES: usize = 61;
/// Batches written before the node is killed, one record each.
const BATCHES: i64 = 20;
/// The one that is damaged.
const DAMAGED_OFFSET: i64 = 7;

fn produce(node: &Node, from: i64) {
    let mut kafka = Connection::open(node.kafka());
    for number in from..from + BATCHES {
        let (key, value) = (format!("k{number}"), format!("value {number}").repeat(40));
        let batch = Batch::new(&[(key.as_bytes(), value.as_bytes())]).encode();
        assert_eq!(kafka.produce("kept", -1, &batch), (0, number));
    }
}

/// The sealed segment that holds our batches, where the batch with `offset` begins, and its length.
fn sealed_batch(node: &Node, offset: i64) -> (PathBuf, usize, usize) {
    let value = format!("value {offset}");
    let sealed = files::with_extension(&node.data_dir(), "idx").into_iter();
    let path = sealed
        .map(|index| index.with_extension("log"))
        .find(|path| files::holds(path, value.as_bytes()))
        .expect("a sealed segment");
    let bytes = fs::read(&path).expect("a segment");
    let mut position = 0;
    loop {
        let rest = &bytes[position..];
        let base = i64::from_be_bytes(*rest.first_chunk().expect("a batch"));
        let length = i32::from_be_bytes(*rest[8..].first_chunk().expect("a batch"));
        let size = 12 + usize::try_from(length).expect("a length");
        if base == offset {
            return (path, position, size);
        }
        position += size;
    }
}

fn base_offset(batches: &[u8]) -> i64 {
    i64::from_be_bytes(*batches.first_chunk().expect("a batch"))
}

#[test]
fn killed_node_is_good_and_a_flipped_bit_costs_one_batch() {
    let mut node = Node::start();
    Connection::open(node.kafka()).create("kept");
    let (mut device, was_there) = mqtt::Connection::kept_session(node.mqtt(), "away");
    assert!(!was_there);
    assert_eq!(device.subscribe("kept/#", 1), 1);
    drop(device);
    produce(&node, 0);
    let running = node.verify();
    assert!(running.status.success(), "{}", running.text());
    node.kill();
    let killed = node.verify();
    assert!(killed.status.success(), "{}", killed.text());
    assert!(!killed.stdout.contains("damage:"), "{}", killed.text());

    // A start seals what was active.
    node.start_again();
    produce(&node, BATCHES);
    node.kill();
    let killed = node.verify();
    assert!(killed.status.success(), "{}", killed.text());

    let (path, position, size) = sealed_batch(&node, DAMAGED_OFFSET);
    let mut bytes = fs::read(&path).expect("the segment");
    bytes[position + BATCH_HEADER_BYTES + size / 3] ^= 0x10;
    fs::write(&path, &bytes).expect("the flipped bit");
    let damaged = node.verify();
    assert_eq!(damaged.status.code(), Some(DAMAGED), "{}", damaged.text());
    for part in [
        path.to_str().expect("a path").to_owned(),
        format!("at byte {position} "),
        format!("(offsets {DAMAGED_OFFSET} to {})", DAMAGED_OFFSET + 1),
    ] {
        assert!(damaged.stdout.contains(&part), "{part}: {}", damaged.text());
    }

    node.start_again();
    kafka_has_the_rest(&node);
    device_gets_the_rest(&node);
    assert_eq!(
        fs::read(&path).expect("the segment"),
        bytes,
        "nothing was cut or mended"
    );
    produce(&node, 2 * BATCHES);
    node.stop();
}

fn kafka_has_the_rest(node: &Node) {
    let mut kafka = Connection::open(node.kafka());
    for offset in 0..2 * BATCHES {
        let (error, batches) = kafka.fetch("kept", offset, 1);
        if offset == DAMAGED_OFFSET {
            assert_eq!((error, batches.len()), (STORAGE_ERROR, 0));
        } else {
            assert_eq!((error, base_offset(&batches)), (0, offset));
        }
    }
    // A long read ends where the damage begins.
    let (error, batches) = kafka.fetch("kept", 0, 1 << 20);
    assert_eq!(error, 0);
    assert_eq!(base_offset(&batches), 0);
    let next = format!("value {DAMAGED_OFFSET}");
    let has = |text: &str| batches.windows(text.len()).any(|p| p == text.as_bytes());
    assert!(has("value 6") && !has(&next));
}

/// A session that was away gets what is good, once each; what is lost is counted.
fn device_gets_the_rest(node: &Node) {
    let (mut device, was_there) = mqtt::Connection::kept_session(node.mqtt(), "away");
    assert!(was_there, "the session is known");
    let mut topics = Vec::new();
    while topics.len() < usize::try_from(2 * BATCHES - 1).expect("a number") {
        let message = device.receive().expect("a message");
        if message.kind() != 3 {
            continue;
        }
        let length = usize::from(u16::from_be_bytes([message.body[0], message.body[1]]));
        let topic = String::from_utf8_lossy(&message.body[2..2 + length]).into_owned();
        let packet_id = &message.body[2 + length..4 + length];
        device.send(&mqtt::packet(0x40, packet_id));
        topics.push(topic);
    }
    let expected: Vec<String> = (0..2 * BATCHES)
        .filter(|number| *number != DAMAGED_OFFSET)
        .map(|number| format!("kept/k{number}"))
        .collect();
    assert_eq!(topics, expected);
    assert_eq!(
        node.metric("mainstem_mqtt_dropped_total{reason=\"damaged\"}"),
        1.0
    );
}
