//! The first packets of a connection.

use super::{
    World, bytes_of,
    client::{connect, text},
};

/// The properties of a CONNACK by identifier, as far as tests look at them.
fn property(connack: &[u8], id: u8) -> Option<&[u8]> {
    let mut rest = &connack[3..];
    while let [found, tail @ ..] = rest {
        let bytes = match found {
            0x11 | 0x27 => 4,
            0x13 | 0x21 | 0x22 => 2,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x12 | 0x1F => 2 + usize::from(u16::from_be_bytes([tail[0], tail[1]])),
            other => panic!("property {other:#x}"),
        };
        if *found == id {
            return Some(&tail[..bytes]);
        }
        rest = &tail[bytes..];
    }
    None
}

#[tokio::test]
async fn version_5_is_told_what_was_agreed() {
    let world = World::new().await;
    let mut client = world.dial();
    // Session expiry for ever, keep alive off, no identifier.
    client
        .send(&connect(5, "", (2, 0), &[0x11, 0xFF, 0xFF, 0xFF, 0xFF]))
        .await;
    let (first, body) = client.packet().await;
    assert_eq!((first, body[0], body[1]), (0x20, 0, 0));
    assert_eq!(property(&body, 0x11), Some(&604_800u32.to_be_bytes()[..]));
    assert_eq!(property(&body, 0x13), Some(&3600u16.to_be_bytes()[..]));
    assert_eq!(property(&body, 0x21), Some(&32u16.to_be_bytes()[..]));
    assert_eq!(property(&body, 0x22), Some(&10u16.to_be_bytes()[..]));
    assert_eq!(property(&body, 0x27), Some(&2_000_000u32.to_be_bytes()[..]));
    assert_eq!(property(&body, 0x24), None, "all QoS levels are there");
    for available in [0x25, 0x28, 0x29, 0x2A] {
        assert_eq!(property(&body, available), Some(&[1][..]));
    }
    assert!(property(&body, 0x12).is_some_and(|assigned| assigned.len() > 2));
    assert_eq!(world.counted("mainstem_mqtt_connections", "5"), 1.0);
}

#[tokio::test]
async fn what_was_asked_for_and_granted_is_not_repeated() {
    let world = World::new().await;
    let mut client = world.dial();
    client
        .send(&connect(5, "mine", (2, 60), &[0x11, 0, 0, 0, 9]))
        .await;
    let (_, body) = client.packet().await;
    for absent in [0x11, 0x12, 0x13] {
        assert_eq!(property(&body, absent), None);
    }
}

#[tokio::test]
async fn a_client_that_takes_small_packets_gets_a_small_connack() {
    let world = World::new().await;
    let mut client = world.dial();
    // CONNACK without what need not be said takes 2 + 3 + 3 + 5 + 3 bytes.
    client
        .send(&connect(5, "mine", (2, 60), &[0x27, 0, 0, 0, 16]))
        .await;
    let (_, body) = client.packet().await;
    assert_eq!(body.len(), 14);
    let mut tiny = world.dial();
    tiny.send(&connect(5, "tiny", (2, 60), &[0x27, 0, 0, 0, 4]))
        .await;
    assert!(tiny.rest().await.is_empty());
}

#[tokio::test]
async fn older_versions_get_four_bytes() {
    let world = World::new().await;
    for level in [3, 4] {
        let mut client = world.dial().enter(level, "old").await;
        client.ping().await;
        client.send(&[0xE0, 0]).await;
        assert!(client.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_connect_may_come_byte_by_byte_and_with_packets_behind_it() {
    let world = World::new().await;
    let mut client = world.dial();
    for byte in connect(4, "slow", (2, 60), &[]) {
        client.send(&[byte]).await;
    }
    assert_eq!(client.packet().await, (0x20, vec![0, 0]));
    let mut client = world.dial();
    let mut bytes = connect(4, "eager", (2, 60), &[]);
    bytes.extend_from_slice(&[0xC0, 0, 0xC0, 0]);
    client.send(&bytes).await;
    assert_eq!(client.packet().await, (0x20, vec![0, 0]));
    assert_eq!(client.packet().await, (0xD0, vec![]));
    assert_eq!(client.packet().await, (0xD0, vec![]));
}

#[tokio::test]
async fn a_stranger_who_does_not_begin_with_connect_is_told_nothing() {
    let world = World::new().await;
    for kind in (0u8..=15).filter(|kind| *kind != 1) {
        let mut client = world.dial();
        client.send(&[kind << 4]).await;
        assert!(client.rest().await.is_empty(), "type {kind}");
    }
    // Five bytes of length; more than a CONNECT may have.
    for bytes in [
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF][..],
        &[0x10, 0xFF, 0xFF, 0xFF, 0x7F],
    ] {
        let mut client = world.dial();
        client.send(bytes).await;
        assert!(client.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_connect_that_does_not_come_in_time_is_not_waited_for() {
    let world = World::with(|config| config.mqtt.connect_timeout_ms = 30).await;
    let mut silent = world.dial();
    assert!(silent.rest().await.is_empty());
    let mut half = world.dial();
    half.send(&connect(5, "half", (2, 60), &[])[..8]).await;
    assert!(half.rest().await.is_empty());
    let reason = "connect_timeout";
    assert_eq!(
        world.counted("mainstem_mqtt_disconnects_total", reason),
        2.0
    );
}

#[tokio::test]
async fn refusals_are_said_in_the_version_that_was_spoken() {
    let world = World::new().await;
    let refused = [
        // A level that nobody knows yet, and one that nobody knows any more.
        (connect(6, "x", (2, 60), &[]), Some((2, 0x84))),
        (connect(2, "x", (2, 60), &[]), Some((1, 1))),
        // An authentication method that we do not have.
        (
            connect(5, "x", (2, 60), &[0x15, 0, 1, b'm']),
            Some((2, 0x8C)),
        ),
        // Will QoS 3.
        (connect(5, "x", (0x1E, 60), &[]), Some((2, 0x81))),
        (connect(4, "x", (0x1E, 60), &[]), None),
        // No identifier for a session that is to stay.
        (connect(4, "", (0, 60), &[]), Some((1, 2))),
    ];
    for (at, (bytes, answer)) in refused.into_iter().enumerate() {
        let mut client = world.dial();
        client.send(&bytes).await;
        let rest = client.rest().await;
        match answer {
            None => assert!(rest.is_empty(), "case {at}: {rest:x?}"),
            Some((_, code)) => {
                assert_eq!((rest[0], rest[2], rest[3]), (0x20, 0, code), "case {at}")
            }
        }
    }
    let mut other = world.dial();
    let mut body = text("HTTP");
    body.extend_from_slice(&[4, 2, 0, 60, 0, 1, b'x']);
    other.send(&bytes_of(0x10, &body)).await;
    assert!(other.rest().await.is_empty());
}
