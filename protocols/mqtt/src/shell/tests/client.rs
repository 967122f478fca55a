//! A client that speaks in bytes.

use std::time::Duration;

use mainstem_env::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// More than any test should have to wait.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client {
    pub(super) stream: DuplexStream,
    env: Env,
}

/// A packet: first byte and everything after the remaining length.
pub(super) type Packet = (u8, Vec<u8>);

/// The bytes of a packet.
pub(super) fn bytes_of(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        bytes.push((length & 0x7F) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// A string with its length.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// CONNECT of a level (3, 4 or 5); `properties` only for 5.
pub(super) fn connect(
    level: u8,
    id: &str,
    (flags, keep_alive): (u8, u16),
    properties: &[u8],
) -> Vec<u8> {
    let mut body = text(if level == 3 { "MQIsdp" } else { "MQTT" });
    body.extend_from_slice(&[level, flags]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(&text(id));
    bytes_of(0x10, &body)
}

pub(super) fn publish(level: u8, flags: u8, topic: &str, (id, payload): (u16, &[u8])) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 0b110 != 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    bytes_of(0x30 | flags, &body)
}

pub(super) fn subscribe(level: u8, id: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(&text(filter));
    body.push(options);
    bytes_of(0x82, &body)
}

// === impl Client ===

impl Client {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self {
            stream,
            env: Env::real(),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the server reads");
    }

    /// Connects, and expects success without a session.
    pub(super) async fn enter(mut self, level: u8, id: &str) -> Self {
        self.send(&connect(level, id, (2, 60), &[])).await;
        let (first, body) = self.packet().await;
        assert_eq!((first, &body[..2]), (0x20, &[0, 0][..]), "CONNACK");
        self
    }

    pub(super) async fn raw(&mut self, bytes: &mut [u8]) {
        let read = self
            .env
            .timeout(PATIENCE, self.stream.read_exact(bytes))
            .await;
        read.expect("in time").expect("bytes");
    }

    pub(super) async fn packet(&mut self) -> Packet {
        let mut byte = [0];
        self.raw(&mut byte).await;
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.raw(&mut byte).await;
            length |= usize::from(byte[0] & 0x7F) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.raw(&mut body).await;
        (first, body)
    }

    /// Everything until the server closes.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = self
            .env
            .timeout(PATIENCE, self.stream.read_to_end(&mut bytes))
            .await;
        read.expect("closed in time").expect("bytes");
        bytes
    }

    /// Subscribes with MQTT 3.1.1 or 5 and expects that it is granted.
    pub(super) async fn subscribe(&mut self, level: u8, filter: &str, qos: u8) {
        self.send(&subscribe(level, 77, filter, qos)).await;
        let (first, body) = self.packet().await;
        assert_eq!((first, body.last()), (0x90, Some(&qos)), "SUBACK");
    }

    /// PINGREQ and its answer: what was sent before is taken in.
    pub(super) async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.packet().await, (0xD0, vec![]));
    }
}
