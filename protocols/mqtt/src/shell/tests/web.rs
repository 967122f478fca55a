//! Over WebSocket.

use super::{
    World, bytes_of,
    client::{Client, connect},
};
use crate::shell::Transport;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn request(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The response's head.
async fn response(client: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.raw(&mut byte).await;
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// A server's frame: first byte and payload.
async fn server_frame(client: &mut Client) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    client.raw(&mut head).await;
    let mut payload = vec![0; usize::from(head[1])];
    assert!(payload.len() < 126, "small frames only, and without a mask");
    client.raw(&mut payload).await;
    (head[0], payload)
}

async fn upgraded(world: &World) -> Client {
    let mut client = world.dial_over(Transport::WebSocket, 64 << 10);
    let offer = "Sec-WebSocket-Protocol: chat, mqtt\r\n";
    client.send(request("/mqtt", offer).as_bytes()).await;
    let head = response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(
        head.to_lowercase()
            .contains("sec-websocket-protocol: mqtt\r\n")
    );
    client
}

#[tokio::test]
async fn packets_lie_across_frames_as_they_like() {
    let world = World::new().await;
    let mut client = upgraded(&world).await;
    let bytes = connect(4, "web", (2, 60), &[]);
    // One packet over three frames, a fragmented message among them, and a ping in between.
    let mut stream = frame(0x82, &bytes[..1]);
    stream.extend_from_slice(&frame(0x02, &bytes[1..5]));
    stream.extend_from_slice(&frame(0x89, b"are you there"));
    stream.extend_from_slice(&frame(0x80, &bytes[5..]));
    client.send(&stream).await;
    assert_eq!(
        server_frame(&mut client).await,
        (0x8A, b"are you there".to_vec())
    );
    assert_eq!(server_frame(&mut client).await, (0x82, vec![0x20, 2, 0, 0]));
    // Three packets in one frame: answered by one frame.
    client
        .send(&frame(0x82, &[0xC0, 0, 0xC0, 0, 0xC0, 0]))
        .await;
    assert_eq!(
        server_frame(&mut client).await,
        (0x82, vec![0xD0, 0, 0xD0, 0, 0xD0, 0])
    );
    client.send(&frame(0x88, &[])).await;
    assert_eq!(client.rest().await, [0x88, 2, 3, 0xE8]);
}

#[tokio::test]
async fn what_follows_the_request_at_once_is_not_lost() {
    let world = World::new().await;
    let mut client = world.dial_over(Transport::WebSocket, 64 << 10);
    let mut bytes = request("/", "Sec-WebSocket-Protocol: mqttv3.1\r\n").into_bytes();
    bytes.extend_from_slice(&frame(0x82, &connect(3, "eager", (2, 60), &[])));
    client.send(&bytes).await;
    let head = response(&mut client).await;
    assert!(
        head.to_lowercase()
            .contains("sec-websocket-protocol: mqttv3.1\r\n")
    );
    assert_eq!(server_frame(&mut client).await, (0x82, vec![0x20, 2, 0, 0]));
}

#[tokio::test]
async fn requests_that_are_none_of_ours_are_refused() {
    let world = World::new().await;
    let offer = "Sec-WebSocket-Protocol: mqtt\r\n";
    let long = format!("Cookie: {}\r\n", "x".repeat(20_000));
    for (bytes, status) in [
        (request("/mqtt", ""), "400"),
        (request("/mqtt", "Sec-WebSocket-Protocol: chat\r\n"), "400"),
        (request("/other", offer), "404"),
        (request("/mqtt", &long), "431"),
        ("GET /mqtt HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), "400"),
        (
            "POST /mqtt HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
            "400",
        ),
        ("\u{10}\0\0\0\0\r\n\r\n".to_owned(), "400"),
    ] {
        let mut client = world.dial_over(Transport::WebSocket, 64 << 10);
        client.send(bytes.as_bytes()).await;
        let rest = client.rest().await;
        let text = String::from_utf8_lossy(&rest);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
}

#[tokio::test]
async fn frames_that_mqtt_does_not_know_end_the_connection() {
    let world = World::with(|config| config.mqtt.ws_frame_bytes_max = 1024).await;
    let unmasked = vec![0x82, 2, 0xC0, 0];
    let huge = vec![
        0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4,
    ];
    for bytes in [
        frame(0x81, b"text"),
        unmasked,
        huge,
        frame(0x82, &[0xC0; 1025]),
        frame(0x80, b"continues nothing"),
        frame(0xC2, &[0xC0, 0]),
    ] {
        let mut client = upgraded(&world).await;
        client
            .send(&frame(0x82, &connect(4, "odd", (2, 60), &[])))
            .await;
        assert_eq!(server_frame(&mut client).await.1, [0x20, 2, 0, 0]);
        client.send(&bytes).await;
        client.rest().await;
    }
    let reason = "connection_lost";
    assert_eq!(
        world.counted("mainstem_mqtt_disconnects_total", reason),
        6.0
    );
}

#[tokio::test]
async fn a_reason_is_said_before_the_socket_is_closed() {
    let world = World::new().await;
    let mut client = upgraded(&world).await;
    client
        .send(&frame(0x82, &connect(5, "web", (2, 60), &[])))
        .await;
    assert_eq!(server_frame(&mut client).await.1[0], 0x20);
    client.send(&frame(0x82, &bytes_of(0xC1, &[]))).await;
    let (first, payload) = server_frame(&mut client).await;
    assert_eq!((first, payload[0], payload[2]), (0x82, 0xE0, 0x81));
    assert_eq!(client.rest().await, [0x88, 2, 3, 0xE8]);
}
