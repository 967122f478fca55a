//! The rules one by one.

use super::*;

const OK: ReasonCode = ReasonCode::SUCCESS;
const PROTOCOL: Option<u8> = Some(ReasonCode::PROTOCOL_ERROR.0);

#[test]
fn acknowledgements_leave_in_the_order_of_their_publishes() {
    let mut steps = Steps::new(options(Version::V5));
    let first = steps.receipt(QoS::AtLeastOnce, 7);
    let second = steps.receipt(QoS::ExactlyOnce, 8);
    let third = steps.receipt(QoS::AtLeastOnce, 9);
    assert_eq!(steps.published(third, Ok(())), []);
    assert_eq!(steps.published(second, Err(ReasonCode::NOT_AUTHORIZED)), []);
    assert_eq!(
        steps.published(first, Ok(())),
        [
            sends(AckKind::PubAck, 7, OK),
            sends(AckKind::PubRec, 8, ReasonCode::NOT_AUTHORIZED),
            sends(AckKind::PubAck, 9, OK),
        ]
    );
    assert_eq!(
        steps.machine.in_flight(),
        (0, 0),
        "a refused PUBLISH has no PUBREL to come"
    );
    assert_eq!(steps.published(first, Ok(())), [], "an answer counts once");
}

#[test]
fn a_repeated_qos_2_publish_goes_up_once() {
    let mut steps = Steps::new(options(Version::V5));
    let receipt = steps.receipt(QoS::ExactlyOnce, 1);
    for _ in 0..100_000 {
        assert_eq!(
            steps.publish(publish(QoS::ExactlyOnce, 1)),
            [],
            "its PUBREC will come"
        );
    }
    assert_eq!(
        steps.published(receipt, Ok(())),
        [sends(AckKind::PubRec, 1, OK)]
    );
    for _ in 0..100_000 {
        let again = steps.publish(publish(QoS::ExactlyOnce, 1));
        assert_eq!(again, [sends(AckKind::PubRec, 1, OK)]);
    }
    assert_eq!(steps.machine.in_flight(), (1, 0));
    assert_eq!(steps.pub_rel(1), [Effect::Release(id(1))]);
    assert_eq!(steps.pub_rel(1), [], "its PUBCOMP will come");
    let released = steps.step(|machine, effects| machine.released(id(1), true, effects));
    assert_eq!(released, [sends(AckKind::PubComp, 1, OK)]);
    steps.receipt(QoS::ExactlyOnce, 1);
}

#[test]
fn repeats_behind_an_open_publish_wait_without_growing() {
    let mut steps = Steps::new(options(Version::V311));
    let receipt = steps.receipt(QoS::ExactlyOnce, 1);
    assert_eq!(
        steps.published(receipt, Ok(())),
        [sends(AckKind::PubRec, 1, OK)]
    );
    let open = steps.receipt(QoS::AtLeastOnce, 2);
    for _ in 0..100_000 {
        assert_eq!(steps.publish(publish(QoS::ExactlyOnce, 1)), []);
    }
    let answers = steps.published(open, Ok(()));
    assert_eq!(
        answers,
        [sends(AckKind::PubAck, 2, OK), sends(AckKind::PubRec, 1, OK)]
    );
}

#[test]
fn pubrel_needs_its_exchange() {
    let mut steps = Steps::new(options(Version::V5));
    let not_found = ReasonCode::PACKET_ID_NOT_FOUND;
    assert_eq!(steps.pub_rel(9), [sends(AckKind::PubComp, 9, not_found)]);
    steps.receipt(QoS::ExactlyOnce, 1);
    assert_eq!(closes(&steps.pub_rel(1)), PROTOCOL, "PUBREL before PUBREC");
    assert!(steps.machine.is_closed());
    assert_eq!(steps.packet(Packet::PingReq), [], "nothing after the end");
}

#[test]
fn publish_between_pubrel_and_pubcomp_is_a_protocol_error() {
    let (mut steps, _) = Steps::resumed(options(Version::V5), &[4], Vec::new());
    assert_eq!(steps.pub_rel(4), [Effect::Release(id(4))]);
    assert_eq!(
        closes(&steps.publish(publish(QoS::ExactlyOnce, 4))),
        PROTOCOL
    );
}

#[test]
fn one_publish_over_the_receive_maximum_closes() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut steps = Steps::new(options(Version::V5));
        for number in 1..=3 {
            steps.receipt(qos, number);
        }
        let over = steps.publish(publish(qos, 4));
        assert_eq!(closes(&over), Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED.0));
    }
    let mut steps = Steps::new(options(Version::V5));
    for number in 1..=100 {
        let receipt = steps.receipt(QoS::AtLeastOnce, number);
        assert_eq!(
            steps.published(receipt, Ok(())).len(),
            1,
            "acknowledged ones free a place"
        );
        assert_eq!(
            steps.publish(publish(QoS::AtMostOnce, 0)).len(),
            1,
            "QoS 0 takes none"
        );
    }
}

#[test]
fn older_clients_are_held_back_instead() {
    let mut steps = Steps::new(options(Version::V311));
    let receipts: Vec<_> = (1..=3)
        .map(|number| steps.receipt(QoS::AtLeastOnce, number))
        .collect();
    assert!(!steps.machine.wants_input());
    steps.published(receipts[0], Ok(()));
    assert!(steps.machine.wants_input());
}

#[test]
fn messages_that_wait_for_pubrel_are_limited() {
    let mut steps = Steps::new(options(Version::V311));
    for number in 1..=5 {
        let receipt = steps.receipt(QoS::ExactlyOnce, number);
        steps.published(receipt, Ok(()));
    }
    let over = steps.publish(publish(QoS::ExactlyOnce, 6));
    assert_eq!(closes(&over), Some(ReasonCode::QUOTA_EXCEEDED.0));
}

#[test]
fn messages_of_earlier_connections_take_no_place_until_they_come_again() {
    let (mut steps, _) = Steps::resumed(options(Version::V5), &[1, 2], Vec::new());
    for number in 3..=5 {
        steps.receipt(QoS::ExactlyOnce, number);
    }
    let over = steps.publish(publish(QoS::ExactlyOnce, 1));
    assert_eq!(closes(&over), Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED.0));
    let (mut steps, _) = Steps::resumed(options(Version::V5), &[1, 2], Vec::new());
    let receipt = steps.receipt(QoS::ExactlyOnce, 1);
    assert_eq!(
        steps.published(receipt, Ok(())),
        [sends(AckKind::PubRec, 1, OK)]
    );
}

/// A node may have ended between the intent and the record: a PUBREC that the broker was not asked
/// for would acknowledge a message that nobody has.
#[test]
fn publish_of_an_earlier_connection_goes_up_before_it_is_acknowledged() {
    let (mut steps, _) = Steps::resumed(options(Version::V5), &[1, 2], Vec::new());
    let receipt = steps.receipt(QoS::ExactlyOnce, 1);
    let repeated = steps.publish(publish(QoS::ExactlyOnce, 1));
    assert_eq!(repeated, [], "once in this connection");
    assert_eq!(
        steps.published(receipt, Ok(())),
        [sends(AckKind::PubRec, 1, OK)]
    );
    assert_eq!(steps.pub_rel(1), [Effect::Release(id(1))]);
    assert_eq!(
        steps.pub_rel(2),
        [Effect::Release(id(2))],
        "the client has the PUBREC of the earlier connection"
    );
}

#[test]
fn refusals_of_older_clients_close_or_are_swallowed() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut steps = Steps::new(options(Version::V311));
        let receipt = steps.receipt(qos, 1);
        let refused = steps.published(receipt, Err(ReasonCode::NOT_AUTHORIZED));
        assert_eq!(closes(&refused), Some(ReasonCode::NOT_AUTHORIZED.0));

        let lenient = Options {
            v3_refusal: V3Refusal::AckAndDrop,
            ..options(Version::V311)
        };
        let mut steps = Steps::new(lenient);
        let receipt = steps.receipt(qos, 1);
        let kind = if qos == QoS::AtLeastOnce {
            AckKind::PubAck
        } else {
            AckKind::PubRec
        };
        let refused = steps.published(receipt, Err(ReasonCode::NOT_AUTHORIZED));
        assert_eq!(refused, [sends(kind, 1, OK)]);
    }
}

#[test]
fn topic_aliases_are_resolved_and_not_passed_on() {
    let mut steps = Steps::new(options(Version::V5));
    let mut up = |publish| match &steps.publish(publish)[..] {
        [Effect::Publish(up)] => {
            assert!(!up.properties.has(PropertyId::TopicAlias));
            assert!(up.properties.has(PropertyId::UserProperty));
            up.topic.as_str().to_owned()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(up(with_alias(Some("a"), 1)), "a");
    assert_eq!(up(with_alias(Some("b"), 2)), "b");
    assert_eq!(up(with_alias(None, 1)), "a");
    assert_eq!(up(with_alias(Some("c"), 1)), "c");
    assert_eq!(up(with_alias(None, 1)), "c");
    assert_eq!(up(with_alias(None, 2)), "b");
}

#[test]
fn illegal_topic_aliases_close() {
    let refused = |publish| closes(&Steps::new(options(Version::V5)).publish(publish));
    assert_eq!(
        refused(with_alias(Some("a"), 3)),
        Some(ReasonCode::TOPIC_ALIAS_INVALID.0)
    );
    assert_eq!(
        refused(with_alias(Some("a"), 65_535)),
        Some(ReasonCode::TOPIC_ALIAS_INVALID.0)
    );
    assert_eq!(refused(with_alias(None, 2)), PROTOCOL, "unset");
    let none = Options {
        topic_alias_maximum: 0,
        ..options(Version::V5)
    };
    let refused = Steps::new(none).publish(with_alias(Some("a"), 1));
    assert_eq!(closes(&refused), Some(ReasonCode::TOPIC_ALIAS_INVALID.0));
}

#[test]
fn payload_format_is_refused_in_turn() {
    let checked = Options {
        payload_format_checked: true,
        ..options(Version::V5)
    };
    let mut steps = Steps::new(checked);
    let mut writer = PropertyWriter::new();
    writer.byte(PropertyId::PayloadFormatIndicator, 1);
    let bad = |qos, number| Publish {
        properties: writer.finish(),
        payload: Bytes::from_static(b"\xFF"),
        ..publish(qos, number)
    };
    let first = steps.receipt(QoS::AtLeastOnce, 1);
    assert_eq!(steps.publish(bad(QoS::ExactlyOnce, 2)), []);
    let invalid = ReasonCode::PAYLOAD_FORMAT_INVALID;
    assert_eq!(
        steps.published(first, Ok(())),
        [
            sends(AckKind::PubAck, 1, OK),
            sends(AckKind::PubRec, 2, invalid)
        ]
    );
    let mut writer = PropertyWriter::new();
    writer.byte(PropertyId::PayloadFormatIndicator, 1);
    let bad = Publish {
        properties: writer.finish(),
        payload: Bytes::from_static(b"\xFF"),
        ..publish(QoS::AtMostOnce, 0)
    };
    assert_eq!(
        closes(&steps.publish(bad)),
        Some(invalid.0),
        "QoS 0 has no other answer"
    );
}

#[test]
fn disconnect_tells_of_will_and_expiry() {
    let leave = |session_expiry_secs, reason, expiry: Option<u32>| {
        let mut steps = Steps::new(Options {
            session_expiry_secs,
            ..options(Version::V5)
        });
        let mut writer = PropertyWriter::new();
        if let Some(secs) = expiry {
            writer.u32(PropertyId::SessionExpiryInterval, secs);
        }
        let effects = steps.packet(Packet::Disconnect(Disconnect {
            reason,
            properties: writer.finish(),
        }));
        assert!(steps.machine.is_closed());
        effects
    };
    let left = |publish_will, session_expiry_secs| {
        [Effect::Disconnected {
            publish_will,
            session_expiry_secs,
        }]
    };
    assert_eq!(leave(60, OK, None), left(false, None));
    assert_eq!(
        leave(60, ReasonCode::DISCONNECT_WITH_WILL, Some(0)),
        left(true, Some(0))
    );
    assert_eq!(
        leave(60, ReasonCode::UNSPECIFIED_ERROR, None),
        left(true, None)
    );
    assert_eq!(leave(0, OK, Some(0)), left(false, Some(0)));
    assert_eq!(closes(&leave(0, OK, Some(1))), PROTOCOL, "raised from 0");
}

#[test]
fn auth_is_refused_where_nobody_asked_for_it() {
    let mut steps = Steps::new(options(Version::V5));
    let auth = crate::codec::Auth {
        reason: ReasonCode::RE_AUTHENTICATE,
        method: Utf8Str::copy_from("m").unwrap(),
        properties: Properties::EMPTY,
    };
    assert_eq!(closes(&steps.packet(Packet::Auth(auth))), PROTOCOL);
}

fn sent(number: u16, qos: QoS, delivery: u32) -> Effect<u32> {
    let packet_id = PacketId::new(number);
    Effect::Deliver(SendPublish {
        packet_id,
        qos,
        dup: false,
        resumed: false,
        delivery,
    })
}

fn sent_again(number: u16, qos: QoS, delivery: u32) -> Effect<u32> {
    let packet_id = PacketId::new(number);
    Effect::Deliver(SendPublish {
        packet_id,
        qos,
        dup: true,
        resumed: true,
        delivery,
    })
}

#[test]
fn deliveries_stop_at_the_window() {
    let mut steps = Steps::new(options(Version::V5));
    assert_eq!(steps.machine.window_free(), 2);
    let first = steps.deliver(QoS::AtLeastOnce, 10).unwrap();
    assert_eq!(first, [sent(1, QoS::AtLeastOnce, 10)]);
    let second = steps.deliver(QoS::ExactlyOnce, 11).unwrap();
    assert_eq!(second, [sent(2, QoS::ExactlyOnce, 11)]);
    assert!(steps.deliver(QoS::AtLeastOnce, 12).is_err());
    assert_eq!(
        steps.deliver(QoS::AtMostOnce, 13).unwrap().len(),
        1,
        "QoS 0 needs no place"
    );
    assert_eq!(
        steps.answer(AckKind::PubAck, 1, OK),
        [Effect::Completed(id(1))]
    );
    assert_eq!(
        steps.answer(AckKind::PubAck, 1, OK),
        [],
        "twice is harmless"
    );
    assert_eq!(steps.machine.window_free(), 1);
    let third = steps.deliver(QoS::AtLeastOnce, 12).unwrap();
    assert_eq!(
        third,
        [sent(3, QoS::AtLeastOnce, 12)],
        "identifiers go round"
    );
}

#[test]
fn the_qos_2_handshake_waits_for_durability() {
    let mut steps = Steps::new(options(Version::V5));
    steps.deliver(QoS::ExactlyOnce, 10).unwrap();
    assert_eq!(
        steps.answer(AckKind::PubRec, 1, OK),
        [Effect::Received(id(1))]
    );
    assert_eq!(
        steps.answer(AckKind::PubRec, 1, OK),
        [],
        "its PUBREL will come"
    );
    let release = [sends(AckKind::PubRel, 1, OK)];
    let marked = steps.step(|machine, effects| machine.marked_received(id(1), effects));
    assert_eq!(marked, release);
    assert_eq!(
        steps.answer(AckKind::PubRec, 1, OK),
        release,
        "PUBREL was lost on the client"
    );
    assert_eq!(
        steps.answer(AckKind::PubComp, 1, OK),
        [Effect::Completed(id(1))]
    );
    let not_found = ReasonCode::PACKET_ID_NOT_FOUND;
    let after = steps.answer(AckKind::PubRec, 1, OK);
    assert_eq!(
        after,
        [sends(AckKind::PubRel, 1, not_found)],
        "PUBREC after PUBCOMP"
    );
    assert_eq!(steps.answer(AckKind::PubComp, 1, not_found), []);
}

#[test]
fn a_refusal_of_the_client_ends_the_exchange() {
    let mut steps = Steps::new(options(Version::V5));
    steps.deliver(QoS::ExactlyOnce, 10).unwrap();
    steps.deliver(QoS::AtLeastOnce, 11).unwrap();
    let refused = ReasonCode::QUOTA_EXCEEDED;
    assert_eq!(
        steps.answer(AckKind::PubRec, 1, refused),
        [Effect::Completed(id(1))]
    );
    assert_eq!(
        steps.answer(AckKind::PubAck, 2, refused),
        [Effect::Completed(id(2))]
    );
    assert_eq!(steps.machine.window_free(), 2);
}

#[test]
fn answers_of_the_wrong_kind_close() {
    for (qos, kind) in [
        (QoS::AtLeastOnce, AckKind::PubRec),
        (QoS::AtLeastOnce, AckKind::PubComp),
        (QoS::ExactlyOnce, AckKind::PubAck),
        (QoS::ExactlyOnce, AckKind::PubComp),
    ] {
        let mut steps = Steps::new(options(Version::V5));
        steps.deliver(qos, 1).unwrap();
        assert_eq!(
            closes(&steps.answer(kind, 1, OK)),
            PROTOCOL,
            "{qos:?} {kind:?}"
        );
    }
}

#[test]
fn resumption_keeps_identifiers_order_and_window() {
    let published = |number, qos, delivery| Resume {
        packet_id: id(number),
        phase: ResumePhase::Published { qos, delivery },
    };
    let outbound = vec![
        Resume {
            packet_id: id(65_535),
            phase: ResumePhase::Released,
        },
        published(1, QoS::AtLeastOnce, 10),
        published(2, QoS::ExactlyOnce, 11),
        published(4, QoS::AtLeastOnce, 12),
    ];
    let (mut steps, effects) = Steps::resumed(options(Version::V5), &[], outbound);
    assert_eq!(
        effects,
        [
            sends(AckKind::PubRel, 65_535, OK),
            sent_again(1, QoS::AtLeastOnce, 10)
        ],
        "two places, one taken by the released message"
    );
    assert_eq!(steps.machine.window_free(), 0);
    assert!(
        steps.deliver(QoS::AtLeastOnce, 13).is_err(),
        "old ones go first"
    );
    assert_eq!(
        steps.answer(AckKind::PubAck, 1, OK),
        [
            Effect::Completed(id(1)),
            sent_again(2, QoS::ExactlyOnce, 11)
        ]
    );
    assert_eq!(
        steps.answer(AckKind::PubComp, 65_535, OK),
        [
            Effect::Completed(id(65_535)),
            sent_again(4, QoS::AtLeastOnce, 12)
        ]
    );
    let refused = steps.answer(AckKind::PubRec, 2, ReasonCode::UNSPECIFIED_ERROR);
    assert_eq!(refused, [Effect::Completed(id(2))]);
    let new = steps.deliver(QoS::AtLeastOnce, 13).unwrap();
    assert_eq!(new, [sent(5, QoS::AtLeastOnce, 13)], "4 is still held");
}

#[test]
fn an_abandoned_delivery_frees_its_place() {
    let resume = |number| Resume {
        packet_id: id(number),
        phase: ResumePhase::Published {
            qos: QoS::AtLeastOnce,
            delivery: u32::from(number),
        },
    };
    let narrow = Options {
        window: 1,
        ..options(Version::V5)
    };
    let (mut steps, effects) = Steps::resumed(narrow, &[], vec![resume(1), resume(2)]);
    assert_eq!(effects, [sent_again(1, QoS::AtLeastOnce, 1)]);
    let abandoned = steps.step(|machine, effects| machine.abandon(id(1), effects));
    assert_eq!(
        abandoned,
        [Effect::Completed(id(1)), sent_again(2, QoS::AtLeastOnce, 2)]
    );
}

#[test]
fn identifiers_in_use_are_skipped() {
    let wide = Options {
        window: u16::MAX,
        ..options(Version::V5)
    };
    let held = (1..=65_534u16)
        .filter(|number| *number != 40_000)
        .map(|number| Resume {
            packet_id: id(number),
            phase: ResumePhase::Released,
        });
    let (mut steps, _) = Steps::resumed(wide, &[], held.collect());
    for (number, free) in [(65_535, 1), (40_000, 0)] {
        let delivered = steps.deliver(QoS::AtLeastOnce, 1).unwrap();
        assert_eq!(delivered, [sent(number, QoS::AtLeastOnce, 1)]);
        assert_eq!(steps.machine.window_free(), free);
    }
    assert!(steps.deliver(QoS::AtLeastOnce, 1).is_err());
}
