//! MQTT, byte by byte.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A packet as it came: the first byte and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// What the remaining length counts.
    pub body: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// 3, 4 or 5.
    level: u8,
    packet_id: u16,
}

/// The remaining length.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let digit = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        out.push(if value > 0 { digit | 0x80 } else { digit });
        if value == 0 {
            return out;
        }
    }
}

/// A whole packet.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

/// A length-prefixed string.
pub fn string(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a string of at most 65,535 bytes");
    let mut out = length.to_be_bytes().to_vec();
    out.extend(text);
    out
}

/// CONNECT with a clean session, a keep alive of 60 s and nothing else.
pub fn connect(client_id: &str, level: u8) -> Vec<u8> {
    connect_with(client_id, level, 0x02)
}

/// CONNECT with these flags, a keep alive of 60 s and nothing else.
fn connect_with(client_id: &str, level: u8, flags: u8) -> Vec<u8> {
    let mut body = string(if level == 3 { b"MQIsdp" } else { b"MQTT" });
    body.extend([level, flags, 0, 60]);
    if level == 5 {
        body.push(0);
    }
    body.extend(string(client_id.as_bytes()));
    packet(0x10, &body)
}

/// PUBLISH; `packet_id` counts at QoS 1 and 2.
pub fn publish(level: u8, flags: u8, topic: &[u8], packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if flags & 0b110 != 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if level == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// SUBSCRIBE to one filter.
pub fn subscribe(level: u8, packet_id: u16, filter: &[u8], options: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend(string(filter));
    body.push(options);
    packet(0x82, &body)
}

// === impl Packet ===

impl Packet {
    /// The type, 1 to 15.
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }
}

// === impl Connection ===

impl Connection {
    /// Connects the socket and sends nothing.
    ///
    /// # Panics
    /// If the connection is refused.
    pub fn open(address: SocketAddr, level: u8) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            level,
            packet_id: 0,
        }
    }

    /// A session: CONNECT and a CONNACK that accepts.
    ///
    /// # Panics
    /// If it is refused.
    pub fn session(address: SocketAddr, client_id: &str, level: u8) -> Self {
        let mut connection = Self::open(address, level);
        connection.send(&connect(client_id, level));
        let connack = connection.receive().expect("CONNACK");
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
        connection
    }

    /// A session of MQTT 3.1.1 that outlives its connections; whether it was there.
    ///
    /// # Panics
    /// If it is refused.
    pub fn kept_session(address: SocketAddr, client_id: &str) -> (Self, bool) {
        let level = 4;
        let mut connection = Self::open(address, level);
        connection.send(&connect_with(client_id, level, 0));
        let connack = connection.receive().expect("CONNACK");
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
        (connection, connack.body[0] == 1)
    }

    /// Sends bytes; that the peer has closed already is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet; `None` once the peer has closed.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub fn receive(&mut self) -> Option<Packet> {
        let first = self.byte()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let digit = self.byte()?;
            length |= usize::from(digit & 0x7f) << shift;
            shift += 7;
            if digit & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        Some(Packet { first, body })
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        Some(byte[0])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    panic!("neither an answer nor a close within {ANSWER_LIMIT:?}")
                }
                _ => None,
            },
        }
    }

    /// Everything until the peer closes.
    pub fn receive_all(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.receive()).collect()
    }

    /// SUBSCRIBE to a filter at a QoS; the reason code.
    ///
    /// # Panics
    /// If the answer is no SUBACK.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        self.packet_id += 1;
        self.send(&subscribe(
            self.level,
            self.packet_id,
            filter.as_bytes(),
            qos,
        ));
        let suback = self.receive().expect("SUBACK");
        assert_eq!(suback.first, 0x90, "{suback:?}");
        suback.body[suback.body.len() - 1]
    }

    /// PUBLISH at QoS 1 and its PUBACK's reason code; messages that arrive in between are left out.
    ///
    /// # Panics
    /// If the connection is closed.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> u8 {
        self.packet_id += 1;
        self.send(&publish(
            self.level,
            0b010,
            topic.as_bytes(),
            self.packet_id,
            payload,
        ));
        loop {
            let answer = self.receive().expect("PUBACK");
            if answer.kind() == 4 {
                assert_eq!(answer.body[..2], self.packet_id.to_be_bytes(), "{answer:?}");
                return answer.body.get(2).copied().unwrap_or(0);
            }
        }
    }

    /// PINGREQ and PINGRESP.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn ping(&mut self) {
        self.send(&[0xc0, 0]);
        while self.receive().expect("PINGRESP").kind() != 13 {}
    }
}
