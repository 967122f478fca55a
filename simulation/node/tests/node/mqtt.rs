//! An MQTT 3.1.1 client that speaks in bytes.

use mainstem_env::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{kafka::Gone, node::Door};

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Whether there was a session.
    ConnAck(bool),
    Publish {
        topic: String,
        qos: u8,
        id: u16,
        payload: String,
        retain: bool,
    },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16, u8),
}

/// A connection.
pub(crate) struct Mqtt {
    stream: Box<dyn Stream>,
}

// === impl Mqtt ===

impl Mqtt {
    /// Connects; whether the server had a session. Refused is gone.
    pub(crate) async fn connect(
        door: &Door,
        client: &str,
        clean: bool,
    ) -> Result<(Self, bool), Gone> {
        let stream = door.dial_mqtt().await.ok_or(Gone)?;
        let mut this = Self { stream };
        let mut body = string("MQTT");
        body.extend([4, u8::from(clean) << 1, 0, 0]);
        body.extend(string(client));
        this.send(0x10, &body).await?;
        match this.receive().await? {
            Packet::ConnAck(present) => Ok((this, present)),
            other => panic!("{other:?} instead of a CONNACK"),
        }
    }

    pub(crate) async fn publish(
        &mut self,
        (topic, qos, id): (&str, u8, u16),
        payload: &str,
        dup: bool,
    ) -> Result<(), Gone> {
        self.publish_with(0x30 | u8::from(dup) << 3 | qos << 1, (topic, id), payload)
            .await
    }

    /// A retained publish at QoS 1.
    pub(crate) async fn retain(&mut self, topic: &str, id: u16, payload: &str) -> Result<(), Gone> {
        self.publish_with(0x33, (topic, id), payload).await
    }

    async fn publish_with(
        &mut self,
        first: u8,
        (topic, id): (&str, u16),
        payload: &str,
    ) -> Result<(), Gone> {
        let mut body = string(topic);
        if first & 0x06 != 0 {
            body.extend(id.to_be_bytes());
        }
        body.extend(payload.as_bytes());
        self.send(first, &body).await
    }

    pub(crate) async fn subscribe(&mut self, id: u16, filter: &str, qos: u8) -> Result<(), Gone> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend(string(filter));
        body.push(qos);
        self.send(0x82, &body).await
    }

    pub(crate) async fn pub_ack(&mut self, id: u16) -> Result<(), Gone> {
        self.send(0x40, &id.to_be_bytes()).await
    }

    pub(crate) async fn pub_rec(&mut self, id: u16) -> Result<(), Gone> {
        self.send(0x50, &id.to_be_bytes()).await
    }

    pub(crate) async fn pub_rel(&mut self, id: u16) -> Result<(), Gone> {
        self.send(0x62, &id.to_be_bytes()).await
    }

    pub(crate) async fn pub_comp(&mut self, id: u16) -> Result<(), Gone> {
        self.send(0x70, &id.to_be_bytes()).await
    }

    async fn send(&mut self, first: u8, body: &[u8]) -> Result<(), Gone> {
        let mut packet = vec![first];
        let mut length = body.len();
        loop {
            let digit = u8::try_from(length % 128).expect("below 128");
            length /= 128;
            packet.push(if length > 0 { digit | 0x80 } else { digit });
            if length == 0 {
                break;
            }
        }
        packet.extend(body);
        self.stream.write_all(&packet).await.map_err(|_| Gone)
    }

    /// The next packet. Not to be cancelled and called again.
    pub(crate) async fn receive(&mut self) -> Result<Packet, Gone> {
        let first = self.stream.read_u8().await.map_err(|_| Gone)?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let digit = self.stream.read_u8().await.map_err(|_| Gone)?;
            length |= usize::from(digit & 0x7f) << shift;
            shift += 7;
            if digit < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        let read = self.stream.read_exact(&mut body).await;
        read.map_err(|_| Gone)?;
        decode(first, &body)
    }
}

fn decode(first: u8, body: &[u8]) -> Result<Packet, Gone> {
    let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ok(match first >> 4 {
        // A refusal is followed by the close.
        2 if body[1] != 0 => return Err(Gone),
        2 => Packet::ConnAck(body[0] & 1 == 1),
        3 => {
            let topic_end = 2 + usize::from(id(0));
            let qos = (first >> 1) & 3;
            let payload_at = topic_end + if qos > 0 { 2 } else { 0 };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            Packet::Publish {
                topic: text(&body[2..topic_end]),
                qos,
                id: if qos > 0 { id(topic_end) } else { 0 },
                payload: text(&body[payload_at..]),
                retain: first & 1 == 1,
            }
        }
        4 => Packet::PubAck(id(0)),
        5 => Packet::PubRec(id(0)),
        6 => Packet::PubRel(id(0)),
        7 => Packet::PubComp(id(0)),
        9 => Packet::SubAck(id(0), body[2]),
        kind => panic!("packet type {kind} from a server"),
    })
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short string");
    let mut out = length.to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}
