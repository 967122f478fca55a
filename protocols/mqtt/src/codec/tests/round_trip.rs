//! Properties that hold for all packets: what one side writes the other reads, and no bytes at all
//! make a decoder panic or read past its frame.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::codec::{
    Ack, AckKind, ConnAck, Disconnect, PacketId, Peer, Properties, PropertyId, PropertyWriter,
    Publish, PublishOut, QoS, RetainHandling, SubAck, Subscribe, SubscribeOptions, Subscription,
    TopicFilter, TopicName, UnsubAck, Unsubscribe, Utf8Str, Will,
    client::{self, ServerPacket},
};

fn text() -> impl Strategy<Value = Utf8Str> {
    "[a-zé😀 ]{0,12}".prop_map(|text| Utf8Str::copy_from(&text).unwrap())
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&VERSIONS[..])
}

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn topic() -> impl Strategy<Value = TopicName> {
    vec("[a-zé$]{0,4}", 1..5).prop_filter_map("empty topic", |levels| {
        TopicName::parse(Utf8Str::copy_from(&levels.join("/")).unwrap()).ok()
    })
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    (
        any::<bool>(),
        vec(prop_oneof![Just("+".to_owned()), "[a-z]{0,4}"], 1..5),
        any::<bool>(),
    )
        .prop_filter_map("empty filter", |(shared, mut levels, all)| {
            if all {
                levels.push("#".to_owned());
            }
            let prefix = if shared { "$share/group/" } else { "" };
            let text = format!("{prefix}{}", levels.join("/"));
            TopicFilter::parse(Utf8Str::copy_from(&text).unwrap()).ok()
        })
}

/// A block with any choice of `ids`, in their order, and user properties between them.
fn properties(ids: &'static [PropertyId]) -> impl Strategy<Value = Properties> {
    let values = vec(
        (any::<bool>(), 1u32..=varint::VALUE_MAX, text(), text()),
        ids.len(),
    );
    values.prop_map(move |values| {
        let mut writer = PropertyWriter::new();
        for (&id, (used, number, name, value)) in ids.iter().zip(values) {
            if used {
                put(&mut writer, id, number, &value);
            } else {
                writer.user(name.as_bytes(), value.as_bytes()).unwrap();
            }
        }
        writer.finish()
    })
}

fn put(writer: &mut PropertyWriter, id: PropertyId, number: u32, value: &Utf8Str) {
    use crate::codec::properties::Kind;
    match id.kind() {
        Kind::Byte => writer.byte(id, (number & 1) as u8),
        Kind::U16 => writer.u16(id, (number as u16).max(1)),
        Kind::U32 => writer.u32(id, number),
        Kind::Varint => writer.subscription_identifier(number),
        Kind::Text if id == PropertyId::ResponseTopic => writer.text_bytes(id, b"re/ply").unwrap(),
        Kind::Text => writer.text(id, value),
        Kind::Binary => writer.binary(id, value.as_bytes()).unwrap(),
        Kind::Pair => writer.user(b"k", value.as_bytes()).unwrap(),
    };
}

const MESSAGE: [PropertyId; 5] = [
    PropertyId::PayloadFormatIndicator,
    PropertyId::MessageExpiryInterval,
    PropertyId::ContentType,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
];

const CONNECT: [PropertyId; 8] = [
    PropertyId::SessionExpiryInterval,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumPacketSize,
    PropertyId::TopicAliasMaximum,
    PropertyId::RequestResponseInformation,
    PropertyId::RequestProblemInformation,
    PropertyId::AuthenticationMethod,
    PropertyId::UserProperty,
];

const EXPLANATION: [PropertyId; 2] = [PropertyId::ReasonString, PropertyId::UserProperty];

fn only_v5(version: Version, properties: Properties) -> Properties {
    if version.is_v5() {
        properties
    } else {
        Properties::EMPTY
    }
}

prop_compose! {
    fn connect()(
        version in version(),
        clean_start in any::<bool>(),
        keep_alive_secs in any::<u16>(),
        client_id in text(),
        will in option::of((topic(), bytes(), qos(), any::<bool>(), properties(&MESSAGE))),
        username in option::of(text()),
        password in option::of(bytes()),
        properties in properties(&CONNECT),
    ) -> Connect {
        let will = will.map(|(topic, payload, qos, retain, properties)| {
            Will { topic, payload, qos, retain, properties: only_v5(version, properties) }
        });
        let password = if version.is_v5() { password } else { username.as_ref().and(password) };
        Connect {
            version,
            clean_start: clean_start || client_id.is_empty(),
            keep_alive_secs,
            client_id,
            will,
            username,
            password,
            properties: only_v5(version, properties),
        }
    }
}

prop_compose! {
    fn publish()(
        version in version(),
        (qos, id, dup, retain) in (qos(), packet_id(), any::<bool>(), any::<bool>()),
        topic in topic(),
        properties in properties(&MESSAGE),
        payload in bytes(),
    ) -> (Version, Publish) {
        let reliable = qos != QoS::AtMostOnce;
        (version, Publish {
            dup: dup && reliable,
            qos,
            retain,
            topic: Some(topic),
            packet_id: reliable.then_some(id),
            properties: only_v5(version, properties),
            payload,
        })
    }
}

prop_compose! {
    fn options()(
        qos in qos(),
        no_local in any::<bool>(),
        retain_as_published in any::<bool>(),
        retain_handling in prop::sample::select(&[
            RetainHandling::Send,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ][..]),
    ) -> SubscribeOptions {
        SubscribeOptions { qos, no_local, retain_as_published, retain_handling }
    }
}

prop_compose! {
    fn subscribe()(
        version in version(),
        packet_id in packet_id(),
        properties in properties(&[PropertyId::SubscriptionIdentifier]),
        subscriptions in vec((filter(), options()), 1..10),
    ) -> (Version, Subscribe) {
        let subscriptions = subscriptions.into_iter().map(|(filter, mut options)| {
            if !version.is_v5() {
                options = SubscribeOptions { qos: options.qos, ..SubscribeOptions::default() };
            }
            options.no_local &= !filter.is_shared();
            Subscription { filter, options }
        });
        let subscriptions = subscriptions.collect();
        (version, Subscribe { packet_id, properties: only_v5(version, properties), subscriptions })
    }
}

fn decode_server(bytes: &[u8], version: Version) -> ServerPacket {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::split(&mut buffer, u32::MAX)
        .unwrap()
        .expect("a whole packet");
    assert!(buffer.is_empty(), "the encoder wrote a wrong length");
    ServerPacket::decode(frame, version).expect("the server writes legal packets")
}

/// Decodes `bytes` as every version would, whatever comes of it.
fn decode_all(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = frame::split(&mut buffer, u32::MAX) {
        let _ = Packet::decode_first(frame.clone(), &Limits::default());
        for version in VERSIONS {
            let _ = ServerPacket::decode(frame.clone(), version);
            if let Ok(Packet::Publish(publish)) =
                Packet::decode(frame.clone(), version, &Limits::default())
            {
                let inside = frame.body.as_ptr_range();
                let payload = publish.payload.as_ptr_range();
                assert!(inside.start <= payload.start && payload.end <= inside.end);
                assert_eq!(
                    publish.properties.iter().count() == 0,
                    publish.properties.is_empty()
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn connect_survives(connect in connect()) {
        let mut out = BytesMut::new();
        client::encode_connect(&connect, &mut out).unwrap();
        prop_assert_eq!(decode_first(&out), Ok(connect));
    }

    #[test]
    fn publish_of_a_client_survives((version, publish) in publish()) {
        let mut out = BytesMut::new();
        client::encode_publish(&publish, version, &mut out).unwrap();
        prop_assert_eq!(decode(&out, version), Ok(Packet::Publish(publish)));
    }

    #[test]
    fn publish_of_the_server_survives(
        (version, publish) in publish(),
        expiry_secs in option::of(any::<u32>()),
        ids in vec(1..=varint::VALUE_MAX, 0..5),
    ) {
        let kept = publish.properties.without(PropertyId::MessageExpiryInterval.bit());
        let sent = PublishOut {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.as_ref().unwrap().as_str(),
            packet_id: publish.packet_id,
            expiry_secs,
            subscription_ids: &ids,
            properties: kept.raw(),
            payload: &publish.payload,
        };
        let mut out = BytesMut::new();
        sent.encode(&Peer::new(version), &mut out).unwrap();
        let ServerPacket::Publish(got) = decode_server(&out, version) else {
            return Err(TestCaseError::fail("no PUBLISH"));
        };
        prop_assert_eq!((&got.topic, &got.payload), (&publish.topic, &publish.payload));
        prop_assert_eq!((got.packet_id, got.dup, got.retain, got.qos),
            (publish.packet_id, publish.dup, publish.retain, publish.qos));
        if version.is_v5() {
            prop_assert_eq!(got.expiry_secs(), expiry_secs);
            let own = PropertyId::MessageExpiryInterval.bit()
                | PropertyId::SubscriptionIdentifier.bit();
            let rest = got.properties.without(own);
            prop_assert_eq!(rest.raw(), kept.raw());
            let got_ids: Vec<u32> = got.properties.iter().filter_map(|property| {
                match property.value {
                    crate::codec::properties::Value::Varint(id) => Some(id),
                    _ => None,
                }
            }).collect();
            prop_assert_eq!(got_ids, ids);
        }
    }

    #[test]
    fn subscribe_survives((version, subscribe) in subscribe()) {
        let mut out = BytesMut::new();
        client::encode_subscribe(&subscribe, version, &mut out).unwrap();
        prop_assert_eq!(decode(&out, version), Ok(Packet::Subscribe(subscribe)));
    }

    #[test]
    fn unsubscribe_survives(
        version in version(),
        packet_id in packet_id(),
        filters in vec(filter(), 1..10),
        properties in properties(&[PropertyId::UserProperty]),
    ) {
        let properties = only_v5(version, properties);
        let unsubscribe = Unsubscribe { packet_id, properties, filters };
        let mut out = BytesMut::new();
        client::encode_unsubscribe(&unsubscribe, version, &mut out).unwrap();
        prop_assert_eq!(decode(&out, version), Ok(Packet::Unsubscribe(unsubscribe)));
    }

    #[test]
    fn acknowledgements_survive_both_ways(
        version in version(),
        packet_id in packet_id(),
        properties in properties(&EXPLANATION),
    ) {
        let properties = only_v5(version, properties);
        let ack = Ack { packet_id, reason: ReasonCode::SUCCESS, properties };
        for kind in [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp] {
            let mut out = BytesMut::new();
            ack.encode(kind, &Peer::new(version), &mut out).unwrap();
            let (server, client) = match kind {
                AckKind::PubAck => (ServerPacket::PubAck(ack.clone()), Packet::PubAck(ack.clone())),
                AckKind::PubRec => (ServerPacket::PubRec(ack.clone()), Packet::PubRec(ack.clone())),
                AckKind::PubRel => (ServerPacket::PubRel(ack.clone()), Packet::PubRel(ack.clone())),
                AckKind::PubComp => {
                    (ServerPacket::PubComp(ack.clone()), Packet::PubComp(ack.clone()))
                }
            };
            prop_assert_eq!(decode_server(&out, version), server);
            prop_assert_eq!(decode(&out, version), Ok(client));
        }
    }

    #[test]
    fn answers_survive(
        packet_id in packet_id(),
        codes in vec(0u8..=2, 1..20),
        session_present in any::<bool>(),
        properties in properties(&EXPLANATION),
    ) {
        let reasons: Vec<ReasonCode> = codes.into_iter().map(ReasonCode).collect();
        let peer = Peer::new(Version::V5);
        let suback =
            SubAck { packet_id, reasons: reasons.clone(), properties: properties.clone() };
        let mut out = BytesMut::new();
        suback.encode(&peer, &mut out).unwrap();
        prop_assert_eq!(decode_server(&out, Version::V5), ServerPacket::SubAck(suback));
        let unsuback = UnsubAck { packet_id, reasons, properties: properties.clone() };
        out.clear();
        unsuback.encode(&peer, &mut out).unwrap();
        prop_assert_eq!(decode_server(&out, Version::V5), ServerPacket::UnsubAck(unsuback));
        let reason = ReasonCode::SUCCESS;
        let connack = ConnAck { session_present, reason, properties: properties.clone() };
        out.clear();
        connack.encode(&peer, &mut out).unwrap();
        prop_assert_eq!(decode_server(&out, Version::V5), ServerPacket::ConnAck(connack));
        let disconnect = Disconnect { reason: ReasonCode::SERVER_BUSY, properties };
        out.clear();
        disconnect.encode(&peer, &mut out).unwrap();
        prop_assert_eq!(decode_server(&out, Version::V5), ServerPacket::Disconnect(disconnect));
    }

    /// A cut copy of a block is the block without what was cut, in order.
    #[test]
    fn properties_can_be_left_out(properties in properties(&MESSAGE), mask in any::<u64>()) {
        let kept: Vec<_> =
            properties.iter().filter(|property| property.id.bit() & mask == 0).collect();
        let cut = properties.without(mask);
        prop_assert_eq!(cut.iter().collect::<Vec<_>>(), kept);
        for property in properties.iter() {
            prop_assert_eq!(cut.has(property.id), property.id.bit() & mask == 0);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    /// Frames of a right length get further into the decoders than noise does.
    #[test]
    fn no_body_panics(first in any::<u8>(), body in vec(any::<u8>(), 0..100)) {
        decode_all(&packet(first, &body));
    }

    /// Damage to legal packets gets further still; a cut one is never taken for whole.
    #[test]
    fn damaged_packets_do_not_panic(
        (version, publish) in publish(),
        connect in connect(),
        (sub_version, subscribe) in subscribe(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut out = [BytesMut::new(), BytesMut::new(), BytesMut::new()];
        client::encode_publish(&publish, version, &mut out[0]).unwrap();
        client::encode_connect(&connect, &mut out[1]).unwrap();
        client::encode_subscribe(&subscribe, sub_version, &mut out[2]).unwrap();
        for bytes in &mut out {
            let at = at.index(bytes.len());
            let cut = frame::split(&mut BytesMut::from(&bytes[..at]), u32::MAX);
            prop_assert_eq!(cut, Ok(None));
            bytes[at] = byte;
            decode_all(bytes);
        }
    }
}
