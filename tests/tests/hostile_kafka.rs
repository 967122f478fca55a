//! Hostile input on the Kafka port: the protocol's error or a clean close, memory bounded, everyone
//! else unaffected, the process up.

use std::{io::Write as _, net::Shutdown};

use mainstem_tests::{
    Bystanders, Node, Random,
    kafka::{
        API_VERSIONS, Batch, CREATE_TOPICS, Connection, METADATA, Outcome, PRODUCE, Reader, bytes,
        flexible_request, frame, produce_body, record, request, string, varint,
    },
};

const CORRUPT_MESSAGE: i16 = 2;
const INVALID_REQUIRED_ACKS: i16 = 21;
const UNSUPPORTED_VERSION: i16 = 35;
const INVALID_RECORD: i16 = 87;

/// The first version of an API whose header has tagged fields; others keep the old header.
fn is_flexible(key: i16, version: i16) -> bool {
    let first = match key {
        0 | 3 | 11 => 9,
        1 => 12,
        2 | 9 => 6,
        10 => 3,
        8 => 8,
        12..=14 | 20 | 23 | 32 => 4,
        15 | 19 => 5,
        16 | 18 => 3,
        21 | 22 | 37 | 42 => 2,
        33 => 2,
        44 => 1,
        _ => 0,
    };
    version >= first
}

fn send_and_see(node: &Node, bytes: &[u8]) -> Outcome {
    let mut connection = Connection::open(node.kafka());
    connection.send(bytes);
    // Half a frame is all that there will ever be.
    let _ = connection.stream.shutdown(Shutdown::Write);
    connection.receive()
}

#[test]
fn random_bytes_are_closed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut random = Random::new(1);
    for _ in 0..200 {
        let count = 1 + random.below(4096);
        let noise = random.bytes(count);
        send_and_see(&node, &noise);
    }
    bystanders.check(&mut node, "random bytes");
}

#[test]
fn a_random_body_of_a_known_api_gets_an_error_or_a_close() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let apis = Connection::open(node.kafka()).api_versions();
    let mut random = Random::new(2);
    for (key, lowest, highest) in apis {
        for version in lowest..=highest {
            let count = random.below(200);
            let body = random.bytes(count);
            send_and_see(&node, &frame(&header(key, version, &body)));
        }
    }
    bystanders.check(&mut node, "random bodies");
}

fn header(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    if is_flexible(key, version) {
        flexible_request(key, version, 7, body)
    } else {
        request(key, version, 7, body)
    }
}

#[test]
fn hostile_lengths_of_a_frame_are_closed_and_nothing_is_allocated() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    for length in [i32::MAX, i32::MAX - 1, -1, i32::MIN, 104_857_601, 0] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(request(METADATA, 1, 7, &0i32.to_be_bytes()));
        assert_eq!(
            send_and_see(&node, &bytes),
            Outcome::Closed,
            "a length of {length}"
        );
    }
    bystanders.check(&mut node, "hostile lengths");
}

#[test]
fn many_connections_that_announce_the_largest_frame_cost_no_memory() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut connection = Connection::open(node.kafka());
        connection.send(&104_857_600i32.to_be_bytes());
        connection.send(&[0; 1000]);
        held.push(connection);
    }
    bystanders.check(&mut node, "100 announced frames of 100 MiB");
}

#[test]
fn half_a_frame_is_waited_for_and_its_end_is_a_close() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let whole = frame(&request(METADATA, 1, 7, &0i32.to_be_bytes()));
    for end in 0..whole.len() {
        assert_eq!(
            send_and_see(&node, &whole[..end]),
            Outcome::Closed,
            "{end} bytes"
        );
    }
    let mut slow = Connection::open(node.kafka());
    for byte in &whole {
        slow.stream.write_all(&[*byte]).expect("one byte");
    }
    assert!(
        matches!(slow.receive(), Outcome::Answer(7, _)),
        "byte by byte it is a request"
    );
    bystanders.check(&mut node, "half frames");
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_before_anything_is_allocated() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    // The bodies that made decoders elsewhere reserve hundreds of gigabytes.
    let mut metadata_v9 = varint(u64::from(u32::MAX));
    assert_eq!(metadata_v9.len(), 5);
    let known = [
        (METADATA, 9, std::mem::take(&mut metadata_v9)),
        (METADATA, 1, i32::MAX.to_be_bytes().to_vec()),
        (
            PRODUCE,
            7,
            [&[0xff, 0xff, 0, 1, 0, 0, 0, 1][..], &i32::MAX.to_be_bytes()].concat(),
        ),
        (
            PRODUCE,
            9,
            [&[0, 0, 1, 0, 0, 0, 1][..], &varint(u64::from(u32::MAX))].concat(),
        ),
    ];
    for (key, version, body) in known {
        let outcome = send_and_see(&node, &frame(&header(key, version, &body)));
        assert_eq!(outcome, Outcome::Closed, "API {key} v{version}");
    }
    let apis = Connection::open(node.kafka()).api_versions();
    for (key, lowest, highest) in apis {
        for version in lowest..=highest {
            for body in hostile_bodies() {
                send_and_see(&node, &frame(&header(key, version, &body)));
            }
        }
    }
    bystanders.check(&mut node, "hostile counts");
}

/// Whatever an API's fields are, some prefix of these is read as a count of billions.
fn hostile_bodies() -> Vec<Vec<u8>> {
    let mut bodies = vec![
        vec![0xff; 64],
        vec![0x7f; 64],
        vec![0xfe, 0xff, 0xff, 0xff, 0x0f],
    ];
    for zeros in [0, 1, 2, 4, 6, 8, 10, 12, 16] {
        let mut body = vec![0; zeros];
        body.extend(i32::MAX.to_be_bytes());
        bodies.push(body);
        let mut body = vec![1; zeros];
        body.extend(varint(u64::from(u32::MAX)));
        bodies.push(body);
    }
    bodies
}

#[test]
fn an_unknown_api_or_version_is_closed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let apis = Connection::open(node.kafka()).api_versions();
    for key in [-1, 93, 999, i16::MAX] {
        assert_eq!(
            send_and_see(&node, &frame(&request(key, 0, 7, &[]))),
            Outcome::Closed,
            "{key}"
        );
    }
    for (key, lowest, highest) in apis.into_iter().filter(|api| api.0 != API_VERSIONS) {
        for version in [lowest - 1, highest + 1, i16::MAX] {
            let outcome = send_and_see(&node, &frame(&header(key, version, &[0; 64])));
            assert_eq!(outcome, Outcome::Closed, "API {key} v{version}");
        }
    }
    bystanders.check(&mut node, "unknown APIs and versions");
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let node = Node::start();
    for version in [5, 99, i16::MAX] {
        let mut connection = Connection::open(node.kafka());
        connection.send(&frame(&flexible_request(
            API_VERSIONS,
            version,
            7,
            &[1, 1, 0],
        )));
        let Outcome::Answer(7, body) = connection.receive() else {
            panic!("no answer")
        };
        let mut reader = Reader(&body);
        assert_eq!(reader.i16(), UNSUPPORTED_VERSION);
        let apis: Vec<_> = (0..reader.i32())
            .map(|_| (reader.i16(), reader.i16(), reader.i16()))
            .collect();
        assert!(reader.0.is_empty(), "more than a v0 body");
        assert!(
            apis.iter().any(|api| api.0 == API_VERSIONS && api.1 == 0),
            "{apis:?}"
        );
        // The connection lives on: the client tries again with what it was told.
        assert!(!connection.api_versions().is_empty());
    }
}

#[test]
fn produce_below_version_3_is_refused_though_it_is_advertised() {
    let node = Node::start();
    let mut connection = Connection::open(node.kafka());
    let produce = connection
        .api_versions()
        .into_iter()
        .find(|api| api.0 == PRODUCE);
    assert_eq!(
        produce.expect("Produce").1,
        0,
        "old librdkafka compresses only then"
    );
    for version in 0..3 {
        let body = [&(-1i16).to_be_bytes()[..], &[0; 8]].concat();
        send_and_see(&node, &frame(&request(PRODUCE, version, 7, &body)));
    }
    connection.api_versions();
}

#[test]
fn damaged_batches_are_refused_and_nothing_is_stored() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut connection = Connection::open(node.kafka());
    connection.create("damaged");
    let good = Batch::new(&[(b"k", b"one"), (b"k", b"two")]);
    let changed = |change: &dyn Fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch.encode()
    };
    let mark = 1 << 14;
    let cases = [
        (
            "a wrong CRC",
            changed(&|batch| batch.crc_error = 1),
            vec![CORRUPT_MESSAGE],
        ),
        (
            "magic 1",
            changed(&|batch| batch.magic = 1),
            vec![CORRUPT_MESSAGE, 43, INVALID_RECORD],
        ),
        (
            "magic 9",
            changed(&|batch| batch.magic = 9),
            vec![CORRUPT_MESSAGE, 43, INVALID_RECORD],
        ),
        (
            "a count too high",
            changed(&|b| b.count = 3),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        (
            "a huge count",
            changed(&|b| b.count = i32::MAX),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        (
            "a negative count",
            changed(&|b| b.count = -1),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        (
            "no records",
            changed(&|b| b.count = 0),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        (
            "a wrong last offset",
            changed(&|b| b.last_offset_delta = 7),
            vec![CORRUPT_MESSAGE, 87],
        ),
        (
            "too long",
            changed(&|batch| batch.length_error = 9),
            vec![CORRUPT_MESSAGE, 87],
        ),
        (
            "too short",
            changed(&|batch| batch.length_error = -9),
            vec![CORRUPT_MESSAGE, 87],
        ),
        (
            "an unknown codec",
            changed(&|batch| batch.attributes = 7),
            vec![CORRUPT_MESSAGE, 76, 87],
        ),
        (
            "a control batch",
            changed(&|batch| batch.attributes = 0x20),
            vec![CORRUPT_MESSAGE, 87],
        ),
        (
            "the mark of MQTT",
            changed(&|batch| batch.attributes = mark),
            vec![INVALID_RECORD],
        ),
        (
            "a header only",
            good.encode()[..61].to_vec(),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        (
            "half a header",
            good.encode()[..30].to_vec(),
            vec![CORRUPT_MESSAGE, INVALID_RECORD],
        ),
        ("nothing", Vec::new(), vec![CORRUPT_MESSAGE, INVALID_RECORD]),
        (
            "two batches",
            [good.encode(), good.encode()].concat(),
            vec![CORRUPT_MESSAGE, 87],
        ),
    ];
    for (what, batch, allowed) in cases {
        let (error, _) = connection.produce("damaged", -1, &batch);
        assert!(
            allowed.contains(&error),
            "{what}: error {error}, not one of {allowed:?}"
        );
    }
    assert_eq!(connection.offset("damaged", -1), 0, "something was stored");
    assert_eq!(connection.produce("damaged", -1, &good.encode()), (0, 0));
    bystanders.check(&mut node, "damaged batches");
}

#[test]
fn compressed_nonsense_and_bombs_harm_nobody() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut connection = Connection::open(node.kafka());
    connection.create("bombs");
    // Someone subscribes, so that batches are decompressed for delivery.
    let mut subscriber = mainstem_tests::mqtt::Connection::session(node.mqtt(), "bombs", 5);
    assert_eq!(subscriber.subscribe("bombs/#", 0), 0);
    let mut random = Random::new(3);
    for codec in 1..=4 {
        let mut batch = Batch::new(&[(b"k", b"v")]);
        batch.attributes = codec;
        batch.records = random.bytes(100);
        connection.produce("bombs", -1, &batch.encode());
    }
    // A gigabyte of zeros in about a megabyte of gzip.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&zeros).expect("compression");
    }
    let mut bomb = Batch::new(&[(b"k", b"v")]);
    bomb.attributes = 1;
    bomb.records = encoder.finish().expect("compression");
    bomb.records.truncate(1_000_000);
    connection.produce("bombs", -1, &bomb.encode());
    let good = Batch::new(&[(b"after", b"m")]).encode();
    let (error, _) = connection.produce("bombs", -1, &good);
    assert_eq!(error, 0);
    let message = std::iter::from_fn(|| subscriber.receive())
        .find(|packet| packet.body.ends_with(b"m") && packet.kind() == 3);
    assert!(message.is_some(), "what comes after is delivered");
    bystanders.check(&mut node, "compressed nonsense");
}

#[test]
fn records_with_hostile_lengths_are_refused_or_skipped() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut connection = Connection::open(node.kafka());
    connection.create("lengths");
    let mut subscriber = mainstem_tests::mqtt::Connection::session(node.mqtt(), "lengths", 5);
    assert_eq!(subscriber.subscribe("lengths/#", 0), 0);
    for bad in [
        varint(u64::MAX),
        varint(u64::from(u32::MAX)),
        vec![0xff; 12],
        vec![0x80; 12],
    ] {
        let mut batch = Batch::new(&[(b"k", b"v")]);
        batch.records = [bad, record(0, b"k", b"v")].concat();
        let (error, _) = connection.produce("lengths", -1, &batch.encode());
        assert!(
            [0, CORRUPT_MESSAGE, INVALID_RECORD].contains(&error),
            "error {error}"
        );
    }
    let (error, _) = connection.produce("lengths", -1, &Batch::new(&[(b"k", b"end")]).encode());
    assert_eq!(error, 0);
    let end = std::iter::from_fn(|| subscriber.receive()).find(|p| p.body.ends_with(b"end"));
    assert!(end.is_some(), "what comes after is delivered");
    bystanders.check(&mut node, "hostile record lengths");
}

#[test]
fn illegal_acks_and_topics_get_the_protocols_errors() {
    let node = Node::start();
    let mut connection = Connection::open(node.kafka());
    connection.create("acks");
    let good = Batch::new(&[(b"k", b"v")]).encode();
    for acks in [2, -2, i16::MAX] {
        assert_eq!(
            connection.produce("acks", acks, &good).0,
            INVALID_REQUIRED_ACKS,
            "acks {acks}"
        );
    }
    for topic in [
        "",
        ".",
        "..",
        "with space",
        "with/slash",
        "é",
        &"x".repeat(250),
    ] {
        let error = connection.metadata(topic);
        assert_eq!(error, 17, "topic {topic:?}");
    }
    assert_eq!(connection.offset("acks", -1), 0);
}

#[test]
fn strings_that_are_no_utf_8_are_closed_or_refused() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let body = [&1i32.to_be_bytes()[..], &[0, 3, 0xff, 0xfe, 0xfd]].concat();
    send_and_see(&node, &frame(&request(METADATA, 1, 7, &body)));
    let mut create = 1i32.to_be_bytes().to_vec();
    create.extend([0, 2, 0xc3, 0x28]);
    create.extend([0; 64]);
    send_and_see(&node, &frame(&request(CREATE_TOPICS, 2, 7, &create)));
    bystanders.check(&mut node, "illegal UTF-8");
}

#[test]
fn a_batch_above_the_topics_limit_is_too_large() {
    const MESSAGE_TOO_LARGE: i16 = 10;
    let node = Node::start();
    let mut connection = Connection::open(node.kafka());
    connection.create("large");
    let value = vec![7; 1_100_000];
    let (error, _) = connection.produce("large", -1, &Batch::new(&[(b"k", &value)]).encode());
    assert_eq!(error, MESSAGE_TOO_LARGE);
    assert_eq!(connection.offset("large", -1), 0);
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let node = Node::start();
    let mut connection = Connection::open(node.kafka());
    connection.create("pipeline");
    let batch = Batch::new(&[(b"k", b"v")]).encode();
    let mut all = Vec::new();
    for correlation in 0..300 {
        let one = match correlation % 3 {
            0 => request(
                PRODUCE,
                3,
                correlation,
                &produce_body("pipeline", -1, &batch),
            ),
            1 => request(API_VERSIONS, 0, correlation, &[]),
            _ => request(METADATA, 1, correlation, &0i32.to_be_bytes()),
        };
        all.extend(frame(&one));
    }
    connection.send(&all);
    for correlation in 0..300 {
        match connection.receive() {
            Outcome::Answer(found, _) => assert_eq!(found, correlation),
            Outcome::Closed => panic!("closed at {correlation}"),
        }
    }
    assert_eq!(connection.offset("pipeline", -1), 100);
}

#[test]
fn bytes_after_a_request_are_not_part_of_it() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut body = 1i32.to_be_bytes().to_vec();
    body.extend(string("trailing"));
    body.extend(bytes(b"more than the request has fields"));
    send_and_see(&node, &frame(&request(METADATA, 1, 7, &body)));
    bystanders.check(&mut node, "trailing bytes");
}

#[test]
fn hundreds_of_connections_that_say_nothing_leave_room_for_others() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let held: Vec<_> = (0..400).map(|_| Connection::open(node.kafka())).collect();
    bystanders.check(&mut node, "idle connections");
    drop(held);
    bystanders.check(&mut node, "closed connections");
}
