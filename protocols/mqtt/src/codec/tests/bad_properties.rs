//! Properties that clients must not send, with the reason code that each gets.

use super::*;
use crate::codec::PropertyId;

/// An example value for each property identifier, by its own table of kinds.
fn value_of(id: u8) -> Option<Vec<u8>> {
    Some(match id {
        1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => vec![1],
        19 | 33 | 34 | 35 => vec![0, 5],
        2 | 17 | 24 | 39 => vec![0, 0, 0, 9],
        11 => vec![0x80, 0x01],
        3 | 8 | 18 | 21 | 26 | 28 | 31 | 9 | 22 => field(b"ab"),
        38 => [field(b"k"), field(b"v")].concat(),
        _ => return None,
    })
}

/// Decodes each packet that has properties with the given block.
fn with_properties(kind: &str, raw: &[u8]) -> Result<(), DecodeError> {
    let id = [0, 1];
    let properties = block(raw);
    let later = |first, body: &[&[u8]]| decode(&packet(first, &body.concat()), Version::V5);
    match kind {
        "CONNECT" => RawConnect {
            properties: raw.to_vec(),
            ..RawConnect::v5()
        }
        .decode()
        .map(drop),
        "WILL" => {
            let rest = [field(b"id"), properties, field(b"w"), field(b"x")].concat();
            RawConnect {
                flags: 0x06,
                rest,
                ..RawConnect::v5()
            }
            .decode()
            .map(drop)
        }
        "PUBLISH" => later(0x30, &[&field(b"t"), &properties, b"payload"]).map(drop),
        "PUBACK" => later(0x40, &[&id, &[0], &properties]).map(drop),
        "PUBREC" => later(0x50, &[&id, &[0], &properties]).map(drop),
        "PUBREL" => later(0x62, &[&id, &[0], &properties]).map(drop),
        "PUBCOMP" => later(0x70, &[&id, &[0], &properties]).map(drop),
        "SUBSCRIBE" => later(0x82, &[&id, &properties, &field(b"f"), &[0]]).map(drop),
        "UNSUBSCRIBE" => later(0xA2, &[&id, &properties, &field(b"f")]).map(drop),
        "DISCONNECT" => later(0xE0, &[&[0], &properties]).map(drop),
        _ => later(0xF0, &[&[0x18], &properties]).map(drop),
    }
}

const WITH_PROPERTIES: [(&str, &[u8]); 11] = [
    ("CONNECT", &[17, 21, 23, 25, 33, 34, 38, 39]),
    ("WILL", &[1, 2, 3, 8, 9, 24, 38]),
    ("PUBLISH", &[1, 2, 3, 8, 9, 35, 38]),
    ("PUBACK", &[31, 38]),
    ("PUBREC", &[31, 38]),
    ("PUBREL", &[31, 38]),
    ("PUBCOMP", &[31, 38]),
    ("SUBSCRIBE", &[11, 38]),
    ("UNSUBSCRIBE", &[38]),
    ("DISCONNECT", &[17, 31, 38]),
    ("AUTH", &[21]),
];

#[test]
fn each_property_only_in_its_packets() {
    for (kind, allowed) in WITH_PROPERTIES {
        for id in 0..=255u8 {
            let value = value_of(id).unwrap_or_else(|| vec![0; 4]);
            let mut raw = Vec::new();
            if id > 127 {
                raw.extend([id, 1]);
            } else {
                raw.push(id);
            }
            raw.extend(value);
            let got = with_properties(kind, &raw).map_err(|error| error.reason.0);
            let expected = match (kind, id) {
                _ if allowed.contains(&id) => Ok(()),
                // Known there, but for servers to send.
                ("PUBLISH", 11) | ("DISCONNECT", 28) => Err(PROTOCOL),
                // Known there, but not without a method.
                ("CONNECT", 22) | ("AUTH", 22 | 31 | 38) => Err(PROTOCOL),
                _ => Err(MALFORMED),
            };
            assert_eq!(got, expected, "property {id} in {kind}");
        }
    }
}

#[test]
fn single_use_properties_are_single() {
    for (kind, allowed) in WITH_PROPERTIES {
        for &id in allowed {
            let once = [&[id][..], &value_of(id).unwrap()].concat();
            let twice = with_properties(kind, &[once.clone(), once].concat());
            if id == PropertyId::UserProperty.byte() {
                assert!(twice.is_ok());
            } else {
                assert_eq!(reason(twice), PROTOCOL, "property {id} in {kind}");
            }
        }
    }
}

#[test]
fn truncated_properties_are_malformed_at_every_byte() {
    for (kind, allowed) in WITH_PROPERTIES {
        for &id in allowed {
            let whole = [&[id][..], &value_of(id).unwrap()].concat();
            for cut in 1..whole.len() {
                let error = reason(with_properties(kind, &whole[..cut]));
                assert_eq!(error, MALFORMED, "property {id} in {kind} cut at {cut}");
            }
        }
    }
}

#[test]
fn a_property_length_past_the_packet_is_malformed() {
    let bodies: [(u8, Vec<u8>); 4] = [
        (0x30, [&field(b"t")[..], &[0x05, 1, 1]].concat()),
        (0x40, vec![0, 1, 0, 0x01]),
        (0x82, vec![0, 1, 0xFF, 0xFF, 0xFF, 0x7F]),
        (0xE0, vec![0, 0x80]),
    ];
    for (first, body) in bodies {
        assert_eq!(
            reason(decode(&packet(first, &body), Version::V5)),
            MALFORMED
        );
    }
}

#[test]
fn property_values_have_their_ranges() {
    let connect = |raw: &[u8]| with_properties("CONNECT", raw);
    assert_eq!(reason(connect(&[33, 0, 0])), PROTOCOL, "receive maximum 0");
    assert_eq!(
        reason(connect(&[39, 0, 0, 0, 0])),
        PROTOCOL,
        "maximum packet size 0"
    );
    assert!(
        connect(&[34, 0, 0]).is_ok(),
        "topic alias maximum 0 is the default"
    );
    assert_eq!(
        reason(connect(&[23, 2])),
        PROTOCOL,
        "request problem information 2"
    );
    assert_eq!(
        reason(connect(&[25, 2])),
        PROTOCOL,
        "request response information 2"
    );
    let method_and_data = [&[21][..], &field(b"m"), &[22], &field(b"d")].concat();
    assert!(connect(&method_and_data).is_ok());

    let publish = |raw: &[u8]| with_properties("PUBLISH", raw);
    assert_eq!(
        reason(publish(&[35, 0, 0])),
        ReasonCode::TOPIC_ALIAS_INVALID.0
    );
    assert_eq!(reason(publish(&[1, 2])), PROTOCOL, "payload format 2");
    assert!(publish(&[2, 0, 0, 0, 0]).is_ok(), "expiry 0 is legal");
    for topic in [&b"a/+"[..], b"#", b""] {
        let raw = [&[8][..], &field(topic)].concat();
        assert_eq!(reason(publish(&raw)), PROTOCOL, "response topic");
    }
    for text in [&b"\0"[..], b"\xED\xA0\x80"] {
        let content_type = [&[3][..], &field(text)].concat();
        assert_eq!(reason(publish(&content_type)), MALFORMED);
        let user = [&[38][..], &field(b"k"), &field(text)].concat();
        assert_eq!(reason(publish(&user)), MALFORMED);
        let correlation = [&[9][..], &field(text)].concat();
        assert!(publish(&correlation).is_ok(), "binary data may be anything");
    }

    let subscribe = |raw: &[u8]| with_properties("SUBSCRIBE", raw);
    assert_eq!(
        reason(subscribe(&[11, 0])),
        PROTOCOL,
        "subscription identifier 0"
    );
    assert!(subscribe(&[11, 0xFF, 0xFF, 0xFF, 0x7F]).is_ok());
    assert_eq!(
        reason(subscribe(&[11, 0x80, 0x80, 0x80, 0x80, 1])),
        MALFORMED
    );
    assert_eq!(reason(subscribe(&[11, 0x85, 0])), MALFORMED, "not minimal");
}

#[test]
fn properties_are_limited_in_count_and_bytes() {
    let user = [&[38][..], &field(b"k"), &field(b"v")].concat();
    assert!(with_properties("PUBLISH", &user.repeat(64)).is_ok());
    for count in [65, 1_000, 10_000] {
        let many = with_properties("PUBLISH", &user.repeat(count));
        assert_eq!(reason(many), QUOTA);
    }
    let sized = |bytes: usize| [&[9][..], &field(&vec![0; bytes - 3])].concat();
    assert!(with_properties("PUBLISH", &sized(32 * 1024)).is_ok());
    assert_eq!(
        reason(with_properties("PUBLISH", &sized(32 * 1024 + 1))),
        QUOTA
    );

    let half = user.repeat(40);
    let will = [field(b"id"), block(&half), field(b"w"), field(b"x")].concat();
    let both = RawConnect {
        flags: 0x06,
        properties: half,
        rest: will,
        ..RawConnect::v5()
    };
    assert_eq!(
        reason(both.decode()),
        QUOTA,
        "CONNECT and its will share one limit"
    );
}
