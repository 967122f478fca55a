//! Hostile input on the MQTT port: the right reason code or a clean close, memory bounded, everyone
//! else unaffected, the process up. The codec's own tests have the thousand cases; here is what only
//! the whole program shows.

use mainstem_tests::{
    Bystanders, Node, Random,
    mqtt::{Connection, Packet, connect, packet, publish, string, subscribe, varint},
};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_FILTER_INVALID: u8 = 0x8f;
const TOPIC_NAME_INVALID: u8 = 0x90;
const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
const TOPIC_ALIAS_INVALID: u8 = 0x94;
const PACKET_TOO_LARGE: u8 = 0x95;
const SUBSCRIPTION_IDENTIFIERS: u8 = 0x0b;

/// What an MQTT 5 client is told before the close.
fn reason(packets: &[Packet]) -> Option<u8> {
    packets.last().and_then(|last| match last.kind() {
        2 => last.body.get(1).copied(),
        14 => Some(last.body.first().copied().unwrap_or(0)),
        _ => None,
    })
}

/// Sends `bytes` in place of a CONNECT; what comes until the close.
fn instead_of_connect(node: &Node, bytes: &[u8]) -> Vec<Packet> {
    let mut connection = Connection::open(node.mqtt(), 5);
    connection.send(bytes);
    let _ = connection.stream.shutdown(std::net::Shutdown::Write);
    connection.receive_all()
}

/// Sends `bytes` within a session; what comes until the close.
fn within_session(node: &Node, level: u8, bytes: &[u8]) -> Vec<Packet> {
    let mut connection = Connection::session(node.mqtt(), "hostile", level);
    connection.send(bytes);
    connection.receive_all()
}

#[test]
fn random_bytes_are_closed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut random = Random::new(11);
    for _ in 0..300 {
        let count = 1 + random.below(2048);
        let noise = random.bytes(count);
        instead_of_connect(&node, &noise);
    }
    for level in [3, 4, 5] {
        for _ in 0..100 {
            let count = 2 + random.below(500);
            let noise = random.bytes(count);
            let mut connection = Connection::session(node.mqtt(), "noise", level);
            connection.send(&noise);
            let _ = connection.stream.shutdown(std::net::Shutdown::Write);
            connection.receive_all();
        }
    }
    bystanders.check(&mut node, "random bytes");
}

#[test]
fn flipped_bits_in_good_packets_harm_nobody() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut random = Random::new(12);
    let good = [
        connect("flipped", 5),
        publish(5, 0b010, b"flipped/topic", 1, b"payload"),
        subscribe(5, 2, b"flipped/#", 2),
        packet(0xc0, &[]),
    ]
    .concat();
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        instead_of_connect(&node, &bytes);
    }
    bystanders.check(&mut node, "flipped bits");
}

#[test]
fn the_first_packet_must_be_connect() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    for kind in (0..=15).filter(|kind| *kind != 1) {
        for body in [&[][..], &[0, 1], &[0; 20]] {
            let answer = instead_of_connect(&node, &packet(kind << 4, body));
            assert!(answer.is_empty(), "type {kind} is answered: {answer:?}");
        }
    }
    bystanders.check(&mut node, "first packets");
}

#[test]
fn part_of_a_connect_is_not_waited_for_longer_than_the_limit() {
    let mut node = Node::start_set(&[("mqtt.connect.timeout.ms", "500")]);
    let mut bystanders = Bystanders::of(&node);
    let whole = connect("slow", 5);
    for end in [0, 1, 2, 5, whole.len() - 1] {
        let mut connection = Connection::open(node.mqtt(), 5);
        connection.send(&whole[..end]);
        assert!(connection.receive_all().is_empty(), "{end} bytes");
    }
    bystanders.check(&mut node, "slow connects");
}

#[test]
fn hostile_remaining_lengths_are_closed_and_nothing_is_allocated() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    // 268,435,455 announced by each of a hundred connections before and after CONNECT.
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(node.mqtt(), 5);
        connection.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
        held.push(connection);
    }
    for connection in &mut held {
        let answer = connection.receive_all();
        assert!(
            answer.is_empty() || reason(&answer) == Some(PACKET_TOO_LARGE),
            "{answer:?}"
        );
    }
    for level in [3, 4, 5] {
        let answer = within_session(&node, level, &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1]);
        let wanted = (level == 5).then_some(PACKET_TOO_LARGE);
        assert_eq!(reason(&answer), wanted, "level {level}");
    }
    bystanders.check(&mut node, "hostile lengths");
}

#[test]
fn many_sessions_that_announce_the_largest_packet_cost_no_memory() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut held = Vec::new();
    for number in 0..200 {
        let name = format!("announcer-{number}");
        let mut connection = Connection::session(node.mqtt(), &name, 5);
        connection.send(&[0x30]);
        connection.send(&varint(1_999_000));
        connection.send(&[0; 100]);
        held.push(connection);
    }
    bystanders.check(&mut node, "200 announced packets of 2 MB");
}

#[test]
fn varints_of_five_bytes_and_padded_ones_are_malformed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    for length in [
        &[0xff, 0xff, 0xff, 0xff, 0x01][..],
        &[0x80, 0x80, 0x80, 0x80, 0x00],
    ] {
        assert!(
            reason(&instead_of_connect(&node, &[&[0x10], length].concat()))
                .is_none_or(|r| r == MALFORMED)
        );
        for level in [4, 5] {
            let answer = within_session(&node, level, &[&[0x30], length].concat());
            assert_eq!(reason(&answer), (level == 5).then_some(MALFORMED));
        }
    }
    // A length that is longer than it needs to be.
    let answer = within_session(&node, 5, &[0xc0, 0x80, 0x00]);
    assert_eq!(reason(&answer), Some(MALFORMED));
    bystanders.check(&mut node, "varints");
}

/// CONNECT of MQTT 5 with these flags and what follows the keep alive.
fn connect5(flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(
        0x10,
        &[&string(b"MQTT")[..], &[5, flags, 0, 60], rest].concat(),
    )
}

#[test]
fn wrong_connects_are_refused() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let id = string(b"wrong");
    let named = |name: &[u8], level: u8| {
        packet(
            0x10,
            &[&string(name)[..], &[level, 2, 0, 60, 0], &id].concat(),
        )
    };
    let with = |rest: &[&[u8]]| rest.concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("another name", named(b"MQTX", 5)),
        ("no name", named(b"", 5)),
        ("level 6", named(b"MQTT", 6)),
        ("level 0", named(b"MQTT", 0)),
        ("the old name at level 4", named(b"MQIsdp", 4)),
        ("the new name at level 3", named(b"MQTT", 3)),
        ("a reserved flag", connect5(3, &with(&[&[0], &id]))),
        (
            "will QoS 3",
            connect5(
                0x1e,
                &with(&[&[0], &id, &[0], &string(b"w"), &string(b"m")]),
            ),
        ),
        (
            "will QoS without a will",
            connect5(0x0a, &with(&[&[0], &id])),
        ),
        (
            "will retain without a will",
            connect5(0x22, &with(&[&[0], &id])),
        ),
        (
            "a will topic with a wildcard",
            connect5(6, &with(&[&[0], &id, &[0], &string(b"w/#"), &string(b"m")])),
        ),
        (
            "an id with NUL",
            connect5(2, &with(&[&[0], &string(b"a\0b")])),
        ),
        (
            "an id that is no UTF-8",
            connect5(2, &with(&[&[0], &string(b"\xff\xfe")])),
        ),
        (
            "a surrogate",
            connect5(2, &with(&[&[0], &string(b"\xed\xa0\x80")])),
        ),
        (
            "an overlong encoding",
            connect5(2, &with(&[&[0], &string(b"\xc0\x80")])),
        ),
        (
            "receive maximum 0",
            connect5(2, &with(&[&[3, 0x21, 0, 0], &id])),
        ),
        (
            "maximum packet size 0",
            connect5(2, &with(&[&[5, 0x27, 0, 0, 0, 0], &id])),
        ),
        (
            "a property twice",
            connect5(2, &with(&[&[6, 0x21, 0, 1, 0x21, 0, 1], &id])),
        ),
        (
            "a property of PUBLISH",
            connect5(2, &with(&[&[3, 0x23, 0, 1], &id])),
        ),
        (
            "an unknown property",
            connect5(2, &with(&[&[2, 0x7f, 0], &id])),
        ),
        (
            "properties longer than the packet",
            connect5(2, &with(&[&[0x7f], &id])),
        ),
        ("half a property", connect5(2, &with(&[&[2, 0x21, 0], &id]))),
        (
            "problem information 2",
            connect5(2, &with(&[&[2, 0x17, 2], &id])),
        ),
        (
            "authentication data without a method",
            connect5(2, &with(&[&[4, 0x16, 0, 1, 9], &id])),
        ),
        (
            "bytes after the end",
            connect5(2, &with(&[&[0], &id, &[1, 2, 3]])),
        ),
        ("no client id", connect5(2, &[0])),
        (
            "a user name that is missing",
            connect5(0x82, &with(&[&[0], &id])),
        ),
    ];
    for (what, bytes) in cases {
        let answer = instead_of_connect(&node, &bytes);
        let code = reason(&answer);
        assert!(
            answer.len() <= 1 && code.is_none_or(|code| code != 0),
            "{what}: {answer:?}"
        );
    }
    bystanders.check(&mut node, "wrong connects");
}

#[test]
fn an_empty_client_id_without_clean_session_is_refused_in_3_1_1() {
    let node = Node::start();
    let bytes = packet(
        0x10,
        &[&string(b"MQTT")[..], &[4, 0, 0, 60], &string(b"")].concat(),
    );
    let answer = instead_of_connect(&node, &bytes);
    assert_eq!(
        answer,
        [Packet {
            first: 0x20,
            body: vec![0, 2]
        }]
    );
}

/// MQTT 5: what is sent within a session, and the reason codes that may answer it.
fn wrong_packets() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let publish = |flags, topic: &[u8]| publish(5, flags, topic, 1, b"m");
    let with_properties = |properties: &[u8]| {
        let length = varint(properties.len());
        packet(
            0x32,
            &[&string(b"wrong/x")[..], &[0, 1], &length, properties, b"m"].concat(),
        )
    };
    let filter = |filter: &[u8], options| subscribe(5, 1, filter, options);
    vec![
        ("CONNECT again", connect("again", 5), &[PROTOCOL_ERROR]),
        (
            "CONNACK",
            packet(0x20, &[0, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "SUBACK",
            packet(0x90, &[0, 1, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "UNSUBACK",
            packet(0xb0, &[0, 1, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        ("PINGRESP", packet(0xd0, &[]), &[MALFORMED, PROTOCOL_ERROR]),
        ("type 0", packet(0x00, &[]), &[MALFORMED, PROTOCOL_ERROR]),
        (
            "AUTH without a method",
            packet(0xf0, &[]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        ("PINGREQ with flags", packet(0xc1, &[]), &[MALFORMED]),
        ("PINGREQ with a body", packet(0xc0, &[0]), &[MALFORMED]),
        ("PUBREL with flags 0", packet(0x60, &[0, 1]), &[MALFORMED]),
        (
            "SUBSCRIBE with flags 0",
            packet(0x80, &[0, 1, 0, 0, 1, b'a', 0]),
            &[MALFORMED],
        ),
        (
            "UNSUBSCRIBE with flags 0",
            packet(0xa0, &[0, 1, 0, 0, 1, b'a']),
            &[MALFORMED],
        ),
        ("QoS 3", publish(0b110, b"wrong/x"), &[MALFORMED]),
        (
            "DUP at QoS 0",
            publish(0b1000, b"wrong/x"),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "packet id 0",
            packet(0x32, &[&string(b"wrong/x")[..], &[0, 0, 0]].concat()),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "no topic and no alias",
            publish(0b010, b""),
            &[PROTOCOL_ERROR],
        ),
        (
            "a topic with #",
            publish(0b010, b"wrong/#"),
            &[TOPIC_NAME_INVALID, MALFORMED],
        ),
        (
            "a topic with +",
            publish(0b010, b"wrong/+/x"),
            &[TOPIC_NAME_INVALID, MALFORMED],
        ),
        (
            "a topic with NUL",
            publish(0b010, b"wrong/\0"),
            &[TOPIC_NAME_INVALID, MALFORMED],
        ),
        (
            "a topic that is no UTF-8",
            publish(0b010, b"wrong/\xff"),
            &[TOPIC_NAME_INVALID, MALFORMED],
        ),
        (
            "a topic of 65,535 levels",
            publish(0b010, &[b'/'; 65_535]),
            &[TOPIC_NAME_INVALID],
        ),
        (
            "a topic longer than the packet",
            packet(0x32, &[0xff, 0xff, b'a']),
            &[MALFORMED],
        ),
        (
            "alias 0",
            with_properties(&[0x23, 0, 0]),
            &[TOPIC_ALIAS_INVALID, PROTOCOL_ERROR],
        ),
        (
            "an alias above the maximum",
            with_properties(&[0x23, 0, 11]),
            &[TOPIC_ALIAS_INVALID],
        ),
        (
            "an alias that is not set",
            packet(0x32, &[0, 0, 0, 1, 3, 0x23, 0, 5]),
            &[PROTOCOL_ERROR, TOPIC_ALIAS_INVALID],
        ),
        (
            "a subscription identifier from a client",
            with_properties(&[SUBSCRIPTION_IDENTIFIERS, 1]),
            &[PROTOCOL_ERROR, MALFORMED],
        ),
        (
            "an expiry twice",
            with_properties(&[2, 0, 0, 0, 1, 2, 0, 0, 0, 1]),
            &[PROTOCOL_ERROR, MALFORMED],
        ),
        (
            "a response topic with a wildcard",
            with_properties(&[8, 0, 1, b'#']),
            &[PROTOCOL_ERROR, MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "properties longer than the packet",
            packet(0x32, &[&string(b"w")[..], &[0, 1, 0x7f]].concat()),
            &[MALFORMED],
        ),
        (
            "no filter",
            packet(0x82, &[0, 1, 0]),
            &[PROTOCOL_ERROR, MALFORMED],
        ),
        (
            "reserved options",
            filter(b"a", 0xc0),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "QoS 3 asked for",
            filter(b"a", 3),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "retain handling 3",
            filter(b"a", 0x30),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "no local on a shared subscription",
            filter(b"$share/g/a", 0x05),
            &[PROTOCOL_ERROR],
        ),
        (
            "subscription identifier 0",
            packet(0x82, &[0, 1, 2, SUBSCRIPTION_IDENTIFIERS, 0, 0, 1, b'a', 0]),
            &[PROTOCOL_ERROR, MALFORMED],
        ),
        (
            "subscribe with packet id 0",
            subscribe(5, 0, b"a", 0),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "a filter that is no UTF-8",
            filter(b"\xff", 0),
            &[MALFORMED, TOPIC_FILTER_INVALID],
        ),
    ]
}

#[test]
fn wrong_packets_get_their_reason_codes() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    for (what, bytes, allowed) in wrong_packets() {
        let answer = within_session(&node, 5, &bytes);
        let code = reason(&answer);
        let right = code.is_some_and(|code| allowed.contains(&code));
        assert!(right, "{what}: {answer:02x?}, not one of {allowed:02x?}");
    }
    bystanders.check(&mut node, "wrong packets");
}

#[test]
fn wrong_packets_of_3_1_1_are_closed_without_a_word() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let cases = [
        ("CONNECT again", connect("again", 4)),
        ("QoS 3", publish(4, 0b110, b"wrong/x", 1, b"m")),
        ("a topic with #", publish(4, 0b010, b"wrong/#", 1, b"m")),
        ("an empty topic", publish(4, 0b010, b"", 1, b"m")),
        (
            "a topic that is no UTF-8",
            publish(4, 0b010, b"\xff", 1, b"m"),
        ),
        ("no filter", packet(0x82, &[0, 1])),
        ("options of MQTT 5", subscribe(4, 1, b"a", 0x04)),
        ("AUTH", packet(0xf0, &[])),
        ("SUBACK", packet(0x90, &[0, 1, 0])),
    ];
    for level in [3, 4] {
        for (what, bytes) in &cases {
            let answer = within_session(&node, level, bytes);
            assert!(answer.is_empty(), "{what} at level {level}: {answer:?}");
        }
    }
    bystanders.check(&mut node, "wrong packets of 3.1.1");
}

#[test]
fn illegal_filters_are_refused_one_by_one() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut filters: Vec<&[u8]> = vec![b"a/#/b", b"a+", b"a/b+/c", b"#a", b"a/#b", b"", b"a\0b"];
    filters.extend([
        &b"$share/g"[..],
        b"$share//x",
        b"$share/g+/x",
        b"$share/g#/x",
        b"$share/g/",
    ]);
    for filter in filters {
        let mut connection = Connection::session(node.mqtt(), "filters", 5);
        connection.send(&subscribe(5, 1, filter, 1));
        let answer = connection.receive();
        let code = answer
            .as_ref()
            .map(|answer| answer.body[answer.body.len() - 1]);
        // SUBACK with 0x8F, or DISCONNECT: never a subscription.
        let text = String::from_utf8_lossy(filter).into_owned();
        match answer {
            Some(packet) if packet.kind() == 9 => {
                assert_eq!(code, Some(TOPIC_FILTER_INVALID), "{text:?}");
            }
            Some(packet) => {
                let code = reason(&[packet]);
                let allowed = [TOPIC_FILTER_INVALID, PROTOCOL_ERROR, MALFORMED];
                assert!(
                    code.is_some_and(|code| allowed.contains(&code)),
                    "{text:?}: {code:?}"
                );
            }
            None => panic!("{text:?}: closed without a word"),
        }
    }
    bystanders.check(&mut node, "illegal filters");
}

#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut connection = Connection::session(node.mqtt(), "exceeds", 5);
    // QoS 2 without a single PUBREL: each one stays open.
    let mut bytes = Vec::new();
    for packet_id in 1..=33 {
        bytes.extend(publish(5, 0b100, b"exceeds/x", packet_id, b"m"));
    }
    connection.send(&bytes);
    let answers = connection.receive_all();
    assert_eq!(
        reason(&answers),
        Some(RECEIVE_MAXIMUM_EXCEEDED),
        "{:?}",
        answers.last()
    );
    bystanders.check(&mut node, "receive maximum");
}

#[test]
fn one_packet_id_again_and_again_is_one_message() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut reader = Connection::session(node.mqtt(), "reader", 5);
    assert_eq!(reader.subscribe("repeated/x", 0), 0);
    let mut connection = Connection::session(node.mqtt(), "repeats", 5);
    for round in 0..1000 {
        let dup = if round == 0 { 0 } else { 0b1000 };
        connection.send(&publish(5, 0b100 | dup, b"repeated/x", 1, b"m"));
        assert_eq!(connection.receive().expect("PUBREC").kind(), 5);
    }
    connection.send(&packet(0x62, &[0, 1]));
    assert_eq!(connection.receive().expect("PUBCOMP").kind(), 7);
    connection.publish("repeated/x", b"end");
    let first = reader.receive().expect("a message");
    assert!(first.body.ends_with(b"m"));
    assert!(
        reader.receive().expect("a message").body.ends_with(b"end"),
        "it came twice"
    );
    bystanders.check(&mut node, "one packet id");
}

#[test]
fn a_release_of_an_unknown_packet_is_answered() {
    let node = Node::start();
    let mut connection = Connection::session(node.mqtt(), "releases", 5);
    connection.send(&packet(0x62, &[0, 77]));
    let answer = connection.receive().expect("PUBCOMP");
    assert_eq!(
        (answer.kind(), answer.body.get(2)),
        (7, Some(&0x92)),
        "{answer:?}"
    );
    let mut old = Connection::session(node.mqtt(), "releases-old", 4);
    old.send(&packet(0x62, &[0, 77]));
    assert_eq!(
        old.receive(),
        Some(Packet {
            first: 0x70,
            body: vec![0, 77]
        })
    );
}

#[test]
fn ten_thousand_user_properties_are_refused() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let property: Vec<u8> = [&[0x26][..], &string(b"k"), &string(b"v")].concat();
    let properties = property.repeat(10_000);
    let length = varint(properties.len());
    let body = [&string(b"many/x")[..], &[0, 1], &length, &properties, b"m"].concat();
    let answer = within_session_or_ack(&node, &packet(0x32, &body));
    assert!(answer.is_some_and(|code| code >= 0x80), "{answer:?}");
    bystanders.check(&mut node, "user properties");
}

/// The reason code of a PUBACK, or of the DISCONNECT in its place.
fn within_session_or_ack(node: &Node, bytes: &[u8]) -> Option<u8> {
    let mut connection = Connection::session(node.mqtt(), "acks", 5);
    connection.send(bytes);
    let answer = connection.receive()?;
    match answer.kind() {
        4 => Some(answer.body.get(2).copied().unwrap_or(0)),
        _ => reason(&[answer]),
    }
}

#[test]
fn too_many_filters_and_subscriptions_are_refused() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut body = vec![0, 1, 0];
    for number in 0..10_000 {
        body.extend(string(format!("filters/{number}").as_bytes()));
        body.push(0);
    }
    let mut connection = Connection::session(node.mqtt(), "filters", 5);
    connection.send(&packet(0x82, &body));
    let answer = connection.receive().expect("an answer");
    let refused = answer.kind() == 14 || answer.body[3..].iter().all(|code| *code >= 0x80);
    assert!(refused, "type {}", answer.kind());
    let mut connection = Connection::session(node.mqtt(), "subscriptions", 5);
    let mut granted = 0;
    for number in 0..1_100 {
        granted += usize::from(connection.subscribe(&format!("one/{number}"), 0) < 0x80);
    }
    assert_eq!(granted, 1000);
    bystanders.check(&mut node, "subscriptions");
}

#[test]
fn odd_but_legal_topics_work() {
    let node = Node::start();
    let mut reader = Connection::session(node.mqtt(), "odd-reader", 5);
    assert_eq!(reader.subscribe("#", 0), 0);
    let mut writer = Connection::session(node.mqtt(), "odd-writer", 5);
    let long = format!("long/{}", "x".repeat(60_000));
    let deep = format!("deep{}", "/d".repeat(126));
    for topic in [
        "/",
        "//",
        "a//b",
        "é/1",
        "🌡",
        " ",
        "a b/ c",
        "a/\u{feff}",
        &long,
        &deep,
    ] {
        assert_eq!(writer.publish(topic, b"m"), 0, "{topic:.40}");
        let message = reader.receive().expect("a message");
        assert_eq!(
            &message.body[2..2 + topic.len()],
            topic.as_bytes(),
            "{topic:.40}"
        );
    }
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut stuck = Connection::session(node.mqtt(), "stuck", 5);
    assert_eq!(stuck.subscribe("flood/#", 1), 1);
    let mut never_acknowledges = Connection::session(node.mqtt(), "never", 5);
    assert_eq!(never_acknowledges.subscribe("flood/#", 1), 1);
    let mut writer = Connection::session(node.mqtt(), "flood", 5);
    let payload = vec![7; 100_000];
    for _ in 0..600 {
        assert_eq!(writer.publish("flood/x", &payload), 0);
    }
    bystanders.check(&mut node, "60 MB for two readers that do not read");
}

#[test]
fn a_storm_of_takeovers_leaves_one_session() {
    const SESSION_TAKEN_OVER: u8 = 0x8e;
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut held: Vec<_> = (0..200)
        .map(|_| Connection::session(node.mqtt(), "contested", 5))
        .collect();
    let mut last = held.pop().expect("a connection");
    for displaced in &mut held {
        assert_eq!(reason(&displaced.receive_all()), Some(SESSION_TAKEN_OVER));
    }
    last.ping();
    assert_eq!(last.subscribe("contested/x", 0), 0);
    bystanders.check(&mut node, "takeovers");
}
