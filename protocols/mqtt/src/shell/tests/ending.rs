//! How connections end.

use super::{
    World, bytes_of,
    client::{connect, publish, text},
};

/// The reason code of a DISCONNECT that is all that comes.
fn reason(rest: &[u8]) -> u8 {
    assert_eq!(rest.first(), Some(&0xE0), "{rest:x?}");
    rest[2]
}

#[tokio::test]
async fn broken_rules_are_named_in_version_5_and_only_closed_before() {
    let world = World::with(|config| config.mqtt.receive_maximum = 2).await;
    let second_connect = connect(5, "rules", (2, 60), &[]);
    let mut too_many = Vec::new();
    for id in 1..=3 {
        too_many.extend_from_slice(&publish(5, 4, "rules/a", (id, b"x")));
    }
    let broken: [(&[u8], u8); 9] = [
        (&second_connect, 0x82),
        // From a server: CONNACK, SUBACK, PINGRESP.
        (&[0x20, 2, 0, 0], 0x82),
        (&[0x90, 3, 0, 1, 0], 0x82),
        (&[0xD0, 0], 0x82),
        // AUTH that nobody asked for.
        (&[0xF0, 6, 0x18, 4, 0x15, 0, 1, b'm'], 0x82),
        (&[0xC1, 0], 0x81),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 0x81),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
        (&too_many, 0x93),
    ];
    for (at, (bytes, code)) in broken.into_iter().enumerate() {
        let mut client = world.dial().enter(5, "rules").await;
        client.send(bytes).await;
        let mut rest = client.rest().await;
        // PUBRECs of the two that were allowed may come first.
        while rest[0] == 0x50 {
            rest.drain(..2 + usize::from(rest[1]));
        }
        assert_eq!(reason(&rest), code, "case {at}");
    }
    let mut client = world.dial().enter(4, "rules").await;
    client.send(&connect(4, "rules", (2, 60), &[])).await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn the_newer_connection_has_the_session() {
    let world = World::new().await;
    let mut first = world.dial().enter(5, "one").await;
    let mut second = world.dial().enter(4, "one").await;
    assert_eq!(reason(&first.rest().await), 0x8E);
    let mut third = world.dial().enter(5, "one").await;
    assert!(second.rest().await.is_empty());
    third.ping().await;
}

#[tokio::test]
async fn an_ending_node_says_so() {
    let world = World::new().await;
    let mut five = world.dial().enter(5, "five").await;
    let mut four = world.dial().enter(4, "four").await;
    let mut nobody = world.dial();
    four.send(&publish(4, 2, "ends/here", (9, b"last"))).await;
    assert_eq!(four.packet().await, (0x40, vec![0, 9]));
    world.drain.cancel();
    assert_eq!(reason(&five.rest().await), 0x8B);
    assert!(four.rest().await.is_empty());
    assert!(nobody.rest().await.is_empty());
}

#[tokio::test]
async fn silence_ends_a_connection_after_one_and_a_half_keep_alives() {
    let world = World::hasty(|_| {}).await;
    let mut client = world.dial();
    client.send(&connect(5, "silent", (2, 20), &[])).await;
    client.packet().await;
    let began = world.env.now();
    assert_eq!(reason(&client.rest().await), 0x8D);
    let waited = (world.env.now() - began).as_secs();
    assert!((29..60).contains(&waited), "{waited} s");
    // One that speaks goes on.
    let mut client = world.dial();
    client.send(&connect(5, "alive", (2, 20), &[])).await;
    client.packet().await;
    let began = world.env.now();
    while (world.env.now() - began).as_secs() < 60 {
        client.ping().await;
        world.env.sleep(std::time::Duration::from_secs(5)).await;
    }
    client.ping().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_others_are_not() {
    let world = World::hasty(|config| config.mqtt.write_stall_ms = 4000).await;
    let mut stuck = world
        .dial_over(super::super::Transport::Tcp, 512)
        .enter(5, "stuck")
        .await;
    stuck.subscribe(5, "stall/#", 0).await;
    let mut other = world.dial().enter(5, "other").await;
    other.subscribe(5, "stall/#", 0).await;
    let payload = vec![7; 40_000];
    other.send(&publish(5, 2, "stall/a", (1, &payload))).await;
    let (mut acked, mut delivered) = (false, false);
    while !(acked && delivered) {
        let (first, body) = other.packet().await;
        acked |= first == 0x40;
        delivered |= first == 0x30 && body.ends_with(&payload);
    }
    while world.counted("mainstem_mqtt_disconnects_total", "write_stall") < 1.0 {
        world.env.sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(stuck.rest().await.len() < payload.len());
    other.ping().await;
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let world = World::new().await;
    let mut watcher = world.dial().enter(4, "watcher").await;
    watcher.subscribe(4, "wills/#", 0).await;
    let with_will = |id: &str| {
        let mut body = text("MQTT");
        body.extend_from_slice(&[4, 0x06, 0, 60]);
        for field in [id, &format!("wills/{id}"), "gone"] {
            body.extend_from_slice(&text(field));
        }
        bytes_of(0x10, &body)
    };
    let mut polite = world.dial();
    polite.send(&with_will("polite")).await;
    polite.packet().await;
    polite.send(&[0xE0, 0]).await;
    assert!(polite.rest().await.is_empty());
    let mut lost = world.dial();
    lost.send(&with_will("lost")).await;
    lost.packet().await;
    drop(lost);
    let mut broken = world.dial();
    broken.send(&with_will("broken")).await;
    broken.packet().await;
    broken.send(&[0x00, 0x00]).await;
    let mut wills = vec![watcher.packet().await.1, watcher.packet().await.1];
    wills.sort();
    let expected = ["lost", "broken"].map(|id| {
        let mut body = text(&format!("wills/{id}"));
        body.extend_from_slice(b"gone");
        body
    });
    assert_eq!(wills, expected);
}

#[tokio::test]
async fn an_idle_connection_keeps_little() {
    let world = World::new().await;
    let (_client, server) = tokio::io::duplex(64);
    let connection = mainstem_net::Connection {
        stream: Box::new(server),
        peer: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        id: 1,
        drain: world.drain.clone(),
    };
    let context = world.protocol.context;
    let served = super::super::serve(context, connection, super::super::Transport::Tcp);
    let bytes = std::mem::size_of_val(&served);
    assert!(bytes < 1800, "the task of a connection has {bytes} bytes");
}
