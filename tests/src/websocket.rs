//! WebSocket (RFC 6455), byte by byte, as a client.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A socket on which frames are written by hand.
#[derive(Debug)]
pub struct WebSocket(pub TcpStream);

/// A frame from a client: masked, final, of this opcode.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(0x80 | opcode, payload)
}

/// A frame with this first byte, masked.
pub fn frame_with(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | u8::try_from(length).expect("at most 125")),
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

// === impl WebSocket ===

impl WebSocket {
    /// Connects and sends `request`; the head of the answer.
    ///
    /// # Panics
    /// If the connection is refused or nothing comes in time.
    pub fn open(address: SocketAddr, request: &[u8]) -> (Self, String) {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .expect("a timeout");
        let _ = stream.write_all(request);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => break,
                Err(error) => {
                    let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(
                        !late,
                        "neither an answer nor a close within {ANSWER_LIMIT:?}"
                    );
                    break;
                }
            }
        }
        (Self(stream), String::from_utf8_lossy(&head).into_owned())
    }

    /// The handshake of an MQTT client with this subprotocol.
    pub fn request(path: &str, protocol: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
    }

    /// A socket that has been upgraded.
    ///
    /// # Panics
    /// If the upgrade is refused.
    pub fn upgraded(address: SocketAddr) -> Self {
        let (socket, head) = Self::open(address, Self::request("/mqtt", "mqtt").as_bytes());
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let named = head
            .to_ascii_lowercase()
            .contains("sec-websocket-protocol: mqtt");
        assert!(named, "the subprotocol is not confirmed: {head}");
        socket
    }

    /// Sends bytes; that the peer has closed already is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// The payload of the next data frame; `None` at a close frame or the end.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut head = [0; 2];
            self.fill(&mut head)?;
            assert_eq!(head[1] & 0x80, 0, "a server does not mask");
            let length = match head[1] {
                126 => {
                    let mut bytes = [0; 2];
                    self.fill(&mut bytes)?;
                    usize::from(u16::from_be_bytes(bytes))
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.fill(&mut bytes)?;
                    usize::try_from(u64::from_be_bytes(bytes)).expect("a frame that fits")
                }
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.fill(&mut payload)?;
            match head[0] & 0x0f {
                0..=2 => return Some(payload),
                8 => return None,
                _ => {}
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    panic!("neither a frame nor a close within {ANSWER_LIMIT:?}")
                }
                _ => None,
            },
        }
    }

    /// Waits until the peer has closed.
    pub fn wait_closed(&mut self) {
        while self.receive().is_some() {}
    }
}
