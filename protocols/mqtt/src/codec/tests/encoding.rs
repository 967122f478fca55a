//! What servers send: exact bytes, forms of old versions, the client's maximum packet size.

use bytes::{Bytes, BytesMut};

use super::VERSIONS;
use crate::codec::{
    Ack, AckKind, ConnAck, Disconnect, EncodeError, PacketId, Peer, PropertyId, PropertyWriter,
    PublishOut, QoS, ReasonCode, SubAck, UnsubAck, Utf8Str, Version, disconnect::encode_ping_resp,
};

fn v5() -> Peer {
    Peer::new(Version::V5)
}

fn id() -> PacketId {
    PacketId::new(0x0102).unwrap()
}

fn encoded(
    encode: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::from(&b"before"[..]);
    let result = encode(&mut out);
    let bytes = out
        .strip_prefix(b"before")
        .expect("never touches what was there")
        .to_vec();
    match result {
        Ok(()) => Ok(bytes),
        Err(error) => {
            assert!(bytes.is_empty(), "an error leaves nothing behind");
            Err(error)
        }
    }
}

/// A block with a reason string of `reason` bytes and a user property.
fn explained(reason: usize) -> crate::codec::Properties {
    let mut writer = PropertyWriter::new();
    let text = Utf8Str::copy_from(&"r".repeat(reason)).unwrap();
    writer.text(PropertyId::ReasonString, &text);
    writer.user(b"key", b"value").unwrap();
    writer.finish()
}

#[test]
fn acknowledgements_take_their_shortest_form() {
    let kinds = [
        (AckKind::PubAck, 0x40),
        (AckKind::PubRec, 0x50),
        (AckKind::PubRel, 0x62),
        (AckKind::PubComp, 0x70),
    ];
    for (kind, first) in kinds {
        let ok = Ack::new(id(), ReasonCode::SUCCESS);
        for version in VERSIONS {
            let bytes = encoded(|out| ok.encode(kind, &Peer::new(version), out)).unwrap();
            assert_eq!(bytes, [first, 2, 1, 2]);
        }
        let gone = Ack::new(id(), ReasonCode::PACKET_ID_NOT_FOUND);
        let bytes = encoded(|out| gone.encode(kind, &v5(), out)).unwrap();
        assert_eq!(bytes, [first, 3, 1, 2, 0x92]);
    }
}

#[test]
fn a_refused_publish_cannot_be_said_before_version_5() {
    let refusal = Ack::new(id(), ReasonCode::NOT_AUTHORIZED);
    for version in [Version::V31, Version::V311] {
        for kind in [AckKind::PubAck, AckKind::PubRec] {
            let result = encoded(|out| refusal.encode(kind, &Peer::new(version), out));
            assert_eq!(result, Err(EncodeError::NotInVersion));
        }
        let gone = Ack::new(id(), ReasonCode::PACKET_ID_NOT_FOUND);
        let peer = Peer::new(version);
        let bytes = encoded(|out| gone.encode(AckKind::PubComp, &peer, out)).unwrap();
        assert_eq!(bytes, [0x70, 2, 1, 2]);
    }
}

#[test]
fn reason_strings_go_first_and_user_properties_next() {
    let mut ack = Ack::new(id(), ReasonCode::QUOTA_EXCEEDED);
    ack.properties = explained(20);
    let at_most = |packet_bytes_max| {
        let peer = Peer {
            packet_bytes_max,
            ..v5()
        };
        encoded(|out| ack.encode(AckKind::PubAck, &peer, out)).map(|bytes| bytes.len())
    };
    // 2 header + 3 + 1 property length + 23 reason string + 13 user property
    assert_eq!(at_most(42), Ok(42));
    assert_eq!(at_most(41), Ok(19), "without the reason string");
    assert_eq!(at_most(19), Ok(19));
    assert_eq!(at_most(18), Ok(5), "without properties");
    assert_eq!(at_most(6), Ok(5));
    assert!(matches!(
        at_most(4),
        Err(EncodeError::TooLarge { max: 4, .. })
    ));
}

#[test]
fn explanations_are_left_out_where_the_client_wants_none() {
    let peer = Peer {
        problem_information: false,
        ..v5()
    };
    let mut ack = Ack::new(id(), ReasonCode::SUCCESS);
    ack.properties = explained(5);
    assert_eq!(
        encoded(|out| ack.encode(AckKind::PubAck, &peer, out))
            .unwrap()
            .len(),
        4
    );
    let suback = SubAck {
        packet_id: id(),
        reasons: vec![ReasonCode(0)],
        properties: explained(5),
    };
    assert_eq!(
        encoded(|out| suback.encode(&peer, out)).unwrap(),
        [0x90, 4, 1, 2, 0, 0]
    );
    let disconnect = Disconnect {
        reason: ReasonCode::SERVER_BUSY,
        properties: explained(5),
    };
    assert!(
        encoded(|out| disconnect.encode(&peer, out)).unwrap().len() > 20,
        "always allowed"
    );
}

#[test]
fn connack_has_the_return_codes_of_its_version() {
    let table = [
        (ReasonCode::SUCCESS, Some(0)),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, Some(1)),
        (ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, Some(2)),
        (ReasonCode::SERVER_UNAVAILABLE, Some(3)),
        (ReasonCode::SERVER_BUSY, Some(3)),
        (ReasonCode::BAD_USER_NAME_OR_PASSWORD, Some(4)),
        (ReasonCode::NOT_AUTHORIZED, Some(5)),
        (ReasonCode::BANNED, Some(5)),
        (ReasonCode::MALFORMED_PACKET, None),
        (ReasonCode::PROTOCOL_ERROR, None),
    ];
    for (reason, code) in table {
        let ack = ConnAck {
            session_present: true,
            reason,
            ..ConnAck::default()
        };
        let present = u8::from(!reason.is_error());
        let new = encoded(|out| ack.encode(&v5(), out)).unwrap();
        assert_eq!(new, [0x20, 3, present, reason.0, 0]);
        let v311 = encoded(|out| ack.encode(&Peer::new(Version::V311), out));
        assert_eq!(v311.ok(), code.map(|code| vec![0x20, 2, present, code]));
        let v31 = encoded(|out| ack.encode(&Peer::new(Version::V31), out));
        assert_eq!(
            v31.ok(),
            code.map(|code| vec![0x20, 2, 0, code]),
            "no session present in 3.1"
        );
    }
}

#[test]
fn suback_and_unsuback_lose_what_old_versions_do_not_know() {
    let reasons = vec![ReasonCode(2), ReasonCode::NOT_AUTHORIZED];
    let ack = SubAck {
        packet_id: id(),
        reasons: reasons.clone(),
        properties: explained(3),
    };
    let old = encoded(|out| ack.encode(&Peer::new(Version::V311), out)).unwrap();
    assert_eq!(old, [0x90, 4, 1, 2, 2, 0x80]);
    let ack = UnsubAck {
        packet_id: id(),
        reasons,
        properties: explained(3),
    };
    let old = encoded(|out| ack.encode(&Peer::new(Version::V311), out)).unwrap();
    assert_eq!(old, [0xB0, 2, 1, 2]);
}

#[test]
fn disconnect_is_for_version_5() {
    let busy = Disconnect::new(ReasonCode::SERVER_BUSY);
    assert_eq!(
        encoded(|out| busy.encode(&v5(), out)).unwrap(),
        [0xE0, 1, 0x89]
    );
    let normal = Disconnect::default();
    assert_eq!(encoded(|out| normal.encode(&v5(), out)).unwrap(), [0xE0, 0]);
    let old = encoded(|out| busy.encode(&Peer::new(Version::V311), out));
    assert_eq!(old, Err(EncodeError::NotInVersion));
    let ping = encoded(|out| {
        encode_ping_resp(out);
        Ok(())
    });
    assert_eq!(ping.unwrap(), [0xD0, 0]);
}

#[test]
fn publish_has_exact_bytes_in_every_version() {
    let mut writer = PropertyWriter::new();
    writer.byte(PropertyId::PayloadFormatIndicator, 1);
    let properties = writer.finish();
    let payload = Bytes::from_static(b"xyz");
    let publish = PublishOut {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "a/b",
        packet_id: Some(id()),
        expiry_secs: Some(10),
        subscription_ids: &[1, 128],
        properties: properties.raw(),
        payload: &payload,
    };
    let old = [&[0x3B, 10, 0, 3][..], b"a/b", &[1, 2], b"xyz"].concat();
    for version in [Version::V31, Version::V311] {
        assert_eq!(
            encoded(|out| publish.encode(&Peer::new(version), out)).unwrap(),
            old
        );
    }
    let block = [2, 0, 0, 0, 10, 11, 1, 11, 0x80, 1, 1, 1];
    let new = [&[0x3B, 23, 0, 3][..], b"a/b", &[1, 2, 12], &block, b"xyz"].concat();
    assert_eq!(encoded(|out| publish.encode(&v5(), out)).unwrap(), new);
    let head = encoded(|out| publish.encode_head(&v5(), out)).unwrap();
    assert_eq!([&head[..], &payload].concat(), new);

    let exact = u32::try_from(new.len()).unwrap();
    let peer = |packet_bytes_max| Peer {
        packet_bytes_max,
        ..v5()
    };
    assert!(encoded(|out| publish.encode(&peer(exact), out)).is_ok());
    let over = encoded(|out| publish.encode(&peer(exact - 1), out));
    assert!(
        matches!(over, Err(EncodeError::TooLarge { .. })),
        "dropped, never cut"
    );
    assert_eq!(
        encoded(|out| publish.encode_head(&peer(exact - 1), out)),
        over
    );
    let at_most_once = PublishOut {
        qos: QoS::AtMostOnce,
        packet_id: None,
        dup: true,
        ..publish
    };
    let bytes = encoded(|out| at_most_once.encode(&Peer::new(Version::V311), out)).unwrap();
    assert_eq!(bytes[0], 0x31, "no DUP with QoS 0");
    let long = "a".repeat(65_536);
    let too_long = PublishOut {
        topic: &long,
        ..publish
    };
    assert!(encoded(|out| too_long.encode(&v5(), out)).is_err());
}

#[test]
fn property_writers_refuse_what_is_no_protocol_string() {
    let mut writer = PropertyWriter::new();
    assert!(writer.user(b"k", b"\xFF").is_err());
    assert!(writer.user(b"\0", b"v").is_err());
    assert!(
        writer
            .text_bytes(PropertyId::ContentType, &[b'a'; 65_536])
            .is_err()
    );
    assert!(
        writer
            .binary(PropertyId::CorrelationData, &[0; 65_536])
            .is_err()
    );
    assert!(writer.is_empty(), "nothing is left of a refused property");
}
