//! What clients must not send, with the reason code that it gets.

use super::*;
use crate::codec::connect::answer_version;

#[test]
fn only_connect_may_be_first_and_only_once() {
    for kind in 0..16u8 {
        let bytes = packet(kind << 4, &[]);
        let expected = if kind <= 1 { MALFORMED } else { PROTOCOL };
        assert_eq!(reason(decode_first(&bytes)), expected, "type {kind}");
    }
    let connect = packet(0x10, &RawConnect::v5().body());
    assert_eq!(reason(decode(&connect, Version::V5)), PROTOCOL);
}

#[test]
fn packets_of_servers_and_reserved_types_are_refused() {
    for version in VERSIONS {
        for kind in [2u8, 9, 11, 13] {
            for body in [&[][..], &[0, 0], &[0, 1, 0, 0]] {
                assert_eq!(reason(decode(&packet(kind << 4, body), version)), PROTOCOL);
            }
        }
        assert_eq!(reason(decode(&[0x00, 0x00], version)), MALFORMED);
    }
    for version in [Version::V31, Version::V311] {
        assert_eq!(reason(decode(&[0xF0, 0x00], version)), MALFORMED);
    }
}

#[test]
fn reserved_flags_are_refused() {
    let id = [0, 1];
    let subscribe = [&id[..], &field(b"a"), &[0]].concat();
    let unsubscribe = [&id[..], &field(b"a")].concat();
    let bodies: [(u8, &[u8]); 8] = [
        (4, &id),
        (5, &id),
        (6, &id),
        (7, &id),
        (8, &subscribe),
        (10, &unsubscribe),
        (12, &[]),
        (14, &[]),
    ];
    for (kind, body) in bodies {
        let right = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
        for flags in 0..16u8 {
            let decoded = decode(&packet((kind << 4) | flags, body), Version::V311);
            assert_eq!(decoded.is_ok(), flags == right, "type {kind} flags {flags}");
        }
        if right == 2 {
            let repeated = packet((kind << 4) | 0b1010, body);
            assert!(
                decode(&repeated, Version::V31).is_ok(),
                "3.1 has DUP on type {kind}"
            );
        }
    }
}

#[test]
fn protocol_names_and_levels_are_those_of_three_versions() {
    let unsupported = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION.0;
    let answers: [(&[u8], u8, Option<Version>); 9] = [
        (b"MQTT", 3, Some(Version::V311)),
        (b"MQTT", 6, Some(Version::V5)),
        (b"MQTT", 0x84, Some(Version::V311)),
        (b"MQTT", 0, Some(Version::V311)),
        (b"MQIsdp", 4, Some(Version::V311)),
        (b"MQIsdp", 5, Some(Version::V311)),
        (b"", 4, None),
        (b"mqtt", 4, None),
        (b"HTTP", 5, None),
    ];
    for (name, level, answer) in answers {
        let connect = RawConnect {
            name: name.to_vec(),
            level,
            ..RawConnect::v5()
        };
        assert_eq!(reason(connect.decode()), unsupported, "{name:?} {level}");
        assert_eq!(answer_version(&connect.body()), answer);
    }
    for (connect, version) in [
        (RawConnect::v31(), Version::V31),
        (RawConnect::v311(), Version::V311),
        (RawConnect::v5(), Version::V5),
    ] {
        assert_eq!(connect.decode().unwrap().version, version);
        assert_eq!(answer_version(&connect.body()), Some(version));
    }
}

#[test]
fn connect_flags_are_checked() {
    let with_will = [field(b"id"), field(b"will"), field(b"gone")].concat();
    for flags in [0x03u8, 0x08 | 2, 0x10 | 2, 0x20 | 2] {
        let connect = RawConnect {
            flags,
            ..RawConnect::v311()
        };
        assert_eq!(reason(connect.decode()), MALFORMED, "flags {flags:#x}");
    }
    let will_qos_3 = RawConnect {
        flags: 0x1E,
        rest: with_will.clone(),
        ..RawConnect::v311()
    };
    assert_eq!(reason(will_qos_3.decode()), MALFORMED);
    let legal = RawConnect {
        flags: 0x36,
        rest: with_will,
        ..RawConnect::v311()
    };
    let will = legal.decode().unwrap().will.expect("a will");
    assert!(will.retain && will.qos == crate::codec::QoS::ExactlyOnce);

    let password = [field(b"id"), field(b"\xFF\x00")].concat();
    let lonely = RawConnect {
        flags: 0x42,
        rest: password.clone(),
        ..RawConnect::v311()
    };
    assert_eq!(reason(lonely.decode()), MALFORMED);
    let lonely_v5 = RawConnect {
        rest: [block(&[]), password].concat(),
        ..RawConnect::v5()
    };
    let lonely_v5 = RawConnect {
        flags: 0x42,
        rest: lonely_v5.rest[1..].to_vec(),
        ..lonely_v5
    };
    let connect = lonely_v5.decode().expect("legal in version 5");
    assert_eq!(connect.password.as_deref(), Some(&b"\xFF\x00"[..]));
    assert_eq!(connect.username, None);
}

#[test]
fn present_and_empty_is_not_absent() {
    let rest = [field(b"id"), field(b""), field(b"")].concat();
    let connect = RawConnect {
        flags: 0xC2,
        rest,
        ..RawConnect::v311()
    }
    .decode()
    .unwrap();
    assert!(connect.username.is_some_and(|name| name.is_empty()));
    assert!(connect.password.is_some_and(|password| password.is_empty()));
}

#[test]
fn version_3_1_lets_the_length_overrule_the_user_name_flag() {
    let connect = RawConnect {
        flags: 0xC2,
        ..RawConnect::v31()
    };
    assert_eq!(connect.decode().unwrap().username, None);
    let connect = RawConnect {
        flags: 0xC2,
        ..RawConnect::v311()
    };
    assert_eq!(reason(connect.decode()), MALFORMED);
}

#[test]
fn client_identifiers() {
    let empty = |connect: RawConnect, flags| RawConnect {
        flags,
        rest: field(b""),
        ..connect
    };
    let invalid = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID.0;
    assert_eq!(reason(empty(RawConnect::v311(), 0).decode()), invalid);
    assert_eq!(reason(empty(RawConnect::v31(), 0).decode()), invalid);
    assert!(empty(RawConnect::v311(), 2).decode().is_ok());
    assert!(empty(RawConnect::v5(), 0).decode().is_ok());

    let with_id = |id: &[u8]| {
        RawConnect {
            rest: field(id),
            ..RawConnect::v311()
        }
        .decode()
    };
    assert_eq!(with_id(&[b'x'; 65_535]).unwrap().client_id.len(), 65_535);
    assert_eq!(
        with_id(b"\xEF\xBB\xBFa").unwrap().client_id.as_str(),
        "\u{FEFF}a"
    );
    let illegal: [&[u8]; 5] = [
        b"a\0b",
        b"\xED\xA0\x80",
        b"\xC0\x80",
        b"\xF4\x90\x80\x80",
        b"\xFF",
    ];
    for id in illegal {
        assert_eq!(reason(with_id(id)), MALFORMED, "{id:02x?}");
    }
}

fn publish(first: u8, topic: &[u8], rest: &[u8]) -> Result<Packet, DecodeError> {
    decode(&packet(first, &[&field(topic), rest].concat()), Version::V5)
}

#[test]
fn publish_headers_are_checked() {
    assert_eq!(reason(publish(0x36, b"t", &[0, 1, 0])), MALFORMED, "QoS 3");
    assert_eq!(
        reason(publish(0x38, b"t", &[0])),
        MALFORMED,
        "DUP with QoS 0"
    );
    assert_eq!(
        reason(publish(0x32, b"t", &[0, 0, 0])),
        MALFORMED,
        "packet identifier 0"
    );
    assert_eq!(
        reason(publish(0x32, b"t", &[0])),
        MALFORMED,
        "half a packet identifier"
    );
    assert_eq!(
        reason(publish(0x30, b"", &[0])),
        PROTOCOL,
        "no topic and no alias"
    );
    assert!(
        publish(0x30, b"", &[3, 35, 0, 1]).is_ok(),
        "an alias stands for the topic"
    );
    for version in [Version::V31, Version::V311] {
        assert_eq!(
            reason(decode(&[0x30, 2, 0, 0], version)),
            MALFORMED,
            "no topic"
        );
    }
    assert!(publish(0x30, b"t", &[0]).is_ok(), "no payload");
    assert_eq!(reason(decode(&[0x30, 1, 0], Version::V5)), MALFORMED);
    assert_eq!(
        reason(decode(&[0x30, 3, 0, 5, b'a'], Version::V5)),
        MALFORMED
    );
}

#[test]
fn publish_topics_are_checked() {
    for topic in [
        &b"a/+"[..],
        b"#",
        b"a#",
        b"a\0",
        b"\xED\xA0\x80",
        b"\xC0\xAF",
    ] {
        assert_eq!(
            reason(publish(0x30, topic, &[0])),
            MALFORMED,
            "{topic:02x?}"
        );
    }
    for topic in ["é/1", "😀", "$SYS/x", "/", "\u{1}"] {
        assert!(publish(0x30, topic.as_bytes(), &[0]).is_ok(), "{topic}");
    }
    assert!(publish(0x30, &[b'a'; 65_535], &[0]).is_ok());
    let invalid = ReasonCode::TOPIC_NAME_INVALID.0;
    assert_eq!(reason(publish(0x30, &[b'/'; 65_535], &[0])), invalid);
    assert!(publish(0x30, &[b'/'; 127], &[0]).is_ok(), "128 levels");
    assert_eq!(
        reason(publish(0x30, &[b'/'; 128], &[0])),
        invalid,
        "129 levels"
    );
}

#[test]
fn a_payload_can_be_checked_against_its_format() {
    for (raw, payload, kept) in [
        (&[2, 1, 1][..], &b"\xFF"[..], false),
        (&[2, 1, 1], "é".as_bytes(), true),
        (&[2, 1, 0], b"\xFF", true),
        (&[0], b"\xFF", true),
    ] {
        match publish(0x30, b"t", &[raw, payload].concat()) {
            Ok(Packet::Publish(publish)) => assert_eq!(publish.is_payload_format_kept(), kept),
            other => panic!("{other:?}"),
        }
    }
}

fn subscribe(version: Version, filter: &[u8], options: u8) -> Result<Packet, DecodeError> {
    let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
    let body = [&[0, 1], properties, &field(filter), &[options]].concat();
    decode(&packet(0x82, &body), version)
}

#[test]
fn subscriptions_are_checked() {
    assert_eq!(
        reason(decode(&packet(0x82, &[0, 1, 0]), Version::V5)),
        PROTOCOL,
        "no filter"
    );
    assert_eq!(
        reason(decode(&packet(0x82, &[0, 1]), Version::V311)),
        PROTOCOL,
        "no filter"
    );
    assert_eq!(
        reason(decode(&packet(0xA2, &[0, 1, 0]), Version::V5)),
        PROTOCOL,
        "no filter"
    );
    let id_0 = [&[0, 0, 0][..], &field(b"a"), &[0]].concat();
    assert_eq!(reason(decode(&packet(0x82, &id_0), Version::V5)), MALFORMED);
    let no_options = [&[0, 1, 0][..], &field(b"a")].concat();
    assert_eq!(
        reason(decode(&packet(0x82, &no_options), Version::V5)),
        MALFORMED
    );

    for options in 0..=255u8 {
        let expected = match options {
            _ if options & 0xC0 != 0 => Err(MALFORMED),
            _ if options & 3 == 3 || options & 0x30 == 0x30 => Err(PROTOCOL),
            _ => Ok(()),
        };
        let got = subscribe(Version::V5, b"a", options)
            .map(drop)
            .map_err(|error| error.reason.0);
        assert_eq!(got, expected, "options {options:#x}");
        let old = subscribe(Version::V311, b"a", options);
        assert_eq!(old.is_ok(), options <= 2);
    }
    for filter in [
        &b""[..],
        b"a/#/b",
        b"a+",
        b"$share/g",
        b"$share/a+b/x",
        b"$share//x",
        b"$share/g/",
        b"a\0",
        b"\xED\xA0\x80",
    ] {
        for version in VERSIONS {
            assert_eq!(
                reason(subscribe(version, filter, 0)),
                MALFORMED,
                "{filter:02x?}"
            );
        }
    }
    assert_eq!(
        reason(subscribe(Version::V5, b"$share/g/x", 4)),
        PROTOCOL,
        "shared No Local"
    );
    assert!(subscribe(Version::V5, b"$share/g/x", 0).is_ok());
    let deep = reason(subscribe(Version::V5, &[b'/'; 128], 0));
    assert_eq!(deep, ReasonCode::TOPIC_FILTER_INVALID.0);
    let shared = [&b"$share/g/"[..], &[b'/'; 127]].concat();
    assert!(
        subscribe(Version::V5, &shared, 0).is_ok(),
        "the prefix has no depth"
    );
}

#[test]
fn filters_in_a_packet_are_limited() {
    for (first, tail) in [(0x82, &[0u8][..]), (0xA2, &[])] {
        let filter = [&field(b"a"), tail].concat();
        let body = |count: usize| [&[0, 1, 0][..], &filter.repeat(count)].concat();
        assert!(decode(&packet(first, &body(100)), Version::V5).is_ok());
        for count in [101, 10_000] {
            assert_eq!(
                reason(decode(&packet(first, &body(count)), Version::V5)),
                QUOTA
            );
        }
    }
}

#[test]
fn reason_codes_are_those_of_their_packet() {
    let refused = |first, code| decode(&packet(first, &[0, 1, code]), Version::V5).is_err();
    for code in 0..=255u8 {
        let publish = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99].contains(&code);
        let release = [0, 0x92].contains(&code);
        for (first, allowed) in [
            (0x40, publish),
            (0x50, publish),
            (0x62, release),
            (0x70, release),
        ] {
            assert_eq!(refused(first, code), !allowed, "{first:#x} {code:#x}");
        }
        let of_client = [
            0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        ];
        let disconnect = decode(&packet(0xE0, &[code]), Version::V5);
        assert_eq!(disconnect.is_ok(), of_client.contains(&code), "{code:#x}");
    }
}

#[test]
fn short_forms_of_version_5_are_read() {
    for bytes in [
        &[0xE0, 0][..],
        &[0xE0, 1, 4],
        &[0xE0, 2, 0, 0],
        &[0x40, 2, 0, 1],
    ] {
        assert!(decode(bytes, Version::V5).is_ok(), "{bytes:02x?}");
    }
    assert!(decode(&[0x40, 3, 0, 1, 0x10], Version::V5).is_ok());
    assert!(decode(&[0x40, 4, 0, 1, 0x10, 0], Version::V5).is_ok());
}

#[test]
fn trailing_and_missing_bytes_are_malformed() {
    for version in VERSIONS {
        assert_eq!(reason(decode(&[0xC0, 1, 0], version)), MALFORMED, "PINGREQ");
        for first in [0x40, 0x50, 0x62, 0x70] {
            assert_eq!(reason(decode(&packet(first, &[]), version)), MALFORMED);
            assert_eq!(reason(decode(&packet(first, &[0]), version)), MALFORMED);
            assert_eq!(
                reason(decode(&packet(first, &[0, 0]), version)),
                MALFORMED,
                "id 0"
            );
        }
    }
    for version in [Version::V31, Version::V311] {
        assert_eq!(reason(decode(&[0x40, 3, 0, 1, 0], version)), MALFORMED);
        assert_eq!(reason(decode(&[0xE0, 1, 0], version)), MALFORMED);
    }
    assert_eq!(
        reason(decode(&[0x40, 5, 0, 1, 0, 0, 0], Version::V5)),
        MALFORMED
    );
    for mut connect in [RawConnect::v31(), RawConnect::v311(), RawConnect::v5()] {
        connect.rest.push(0);
        assert_eq!(reason(connect.decode()), MALFORMED);
    }
}

#[test]
fn auth_has_a_method_and_a_client_s_reason() {
    let method = block(&[&[21][..], &field(b"SCRAM-SHA-256")].concat());
    let auth =
        |reason: u8, block: &[u8]| decode(&packet(0xF0, &[&[reason], block].concat()), Version::V5);
    assert!(auth(0x18, &method).is_ok());
    assert!(auth(0x19, &method).is_ok());
    assert_eq!(reason(auth(0x00, &method)), PROTOCOL);
    assert_eq!(reason(auth(0x80, &method)), PROTOCOL);
    assert_eq!(reason(auth(0x18, &[0])), PROTOCOL, "no method");
    assert_eq!(reason(auth(0x18, &[])), MALFORMED, "no property length");
    assert_eq!(reason(decode(&[0xF0, 0], Version::V5)), PROTOCOL);
}

#[test]
fn will_and_session_values_reach_the_server() {
    let properties = [
        &[17, 0xFF, 0xFF, 0xFF, 0xFF][..],
        &[33, 0, 7],
        &[39, 0, 0, 1, 0],
    ]
    .concat();
    let will_properties = [&[24, 0, 0, 0, 30][..], &[2, 0, 0, 0, 9]].concat();
    let rest = [
        field(b"id"),
        block(&will_properties),
        field(b"$CONTROL/x"),
        field(b"\xFF"),
    ]
    .concat();
    let raw = RawConnect {
        flags: 0x04,
        properties,
        rest,
        ..RawConnect::v5()
    };
    let connect = raw.decode().unwrap();
    assert_eq!(connect.session_expiry_secs(), u32::MAX);
    assert_eq!(connect.receive_maximum(), 7);
    assert_eq!(connect.peer().packet_bytes_max, 256);
    let will = connect.will.expect("a will");
    assert_eq!((will.delay_secs(), will.expiry_secs()), (30, Some(9)));

    let illegal = [field(b"id"), block(&[]), field(b"a/#"), field(b"")].concat();
    let raw = RawConnect {
        flags: 0x04,
        rest: illegal,
        ..RawConnect::v5()
    };
    assert_eq!(reason(raw.decode()), MALFORMED, "wildcard in a will topic");
    for (connect, secs) in [
        (RawConnect::v311(), 0),
        (
            RawConnect {
                flags: 0,
                ..RawConnect::v311()
            },
            u32::MAX,
        ),
    ] {
        assert_eq!(connect.decode().unwrap().session_expiry_secs(), secs);
    }
}
