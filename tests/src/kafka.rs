//! Kafka's protocol, byte by byte.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Produce.
pub const PRODUCE: i16 = 0;
/// Fetch.
pub const FETCH: i16 = 1;
/// ListOffsets.
pub const LIST_OFFSETS: i16 = 2;
/// Metadata.
pub const METADATA: i16 = 3;
/// ApiVersions.
pub const API_VERSIONS: i16 = 18;
/// CreateTopics.
pub const CREATE_TOPICS: i16 = 19;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer: correlation id and what follows it.
    Answer(i32, Vec<u8>),
    /// The peer closed the connection.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    correlation: i32,
}

/// Reads fields of an answer.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

/// A length-prefixed frame.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = i32::try_from(bytes.len())
        .expect("a frame below 2 GiB")
        .to_be_bytes()
        .to_vec();
    out.extend(bytes);
    out
}

/// Request header v1 (key, version, correlation id, client id) and body, without the length.
pub fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = key.to_be_bytes().to_vec();
    out.extend(version.to_be_bytes());
    out.extend(correlation.to_be_bytes());
    out.extend(string("hostile"));
    out.extend(body);
    out
}

/// Request header v2: the same with an empty list of tagged fields.
pub fn flexible_request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut tagged = vec![0];
    tagged.extend(body);
    request(key, version, correlation, &tagged)
}

/// A string with an i16 length.
pub fn string(text: &str) -> Vec<u8> {
    let mut out = i16::try_from(text.len())
        .expect("a short string")
        .to_be_bytes()
        .to_vec();
    out.extend(text.as_bytes());
    out
}

/// Bytes with an i32 length.
pub fn bytes(data: &[u8]) -> Vec<u8> {
    frame(data)
}

/// An unsigned varint.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("7 bits");
        value >>= 7;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return out;
        }
    }
}

fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)).cast_unsigned())
}

/// A record without headers.
pub fn record(offset_delta: i64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(zigzag(0));
    body.extend(zigzag(offset_delta));
    for part in [key, value] {
        body.extend(zigzag(i64::try_from(part.len()).expect("a short record")));
        body.extend(part);
    }
    body.extend(zigzag(0));
    let mut out = zigzag(i64::try_from(body.len()).expect("a short record"));
    out.extend(body);
    out
}

/// A batch of format v2 whose fields can be wrong on purpose.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Of the batch.
    pub attributes: i16,
    /// 2.
    pub magic: u8,
    /// What the header says.
    pub count: i32,
    /// What the header says.
    pub last_offset_delta: i32,
    /// The records, encoded, compressed if the attributes say so.
    pub records: Vec<u8>,
    /// Added to the right CRC.
    pub crc_error: u32,
    /// Added to the right length.
    pub length_error: i32,
}

// === impl Batch ===

impl Batch {
    /// A right batch of these (key, value) records.
    pub fn new(records: &[(&[u8], &[u8])]) -> Self {
        let count = i32::try_from(records.len()).expect("few records");
        let encoded = records
            .iter()
            .enumerate()
            .flat_map(|(delta, (key, value))| {
                record(i64::try_from(delta).expect("few records"), key, value)
            });
        Self {
            attributes: 0,
            magic: 2,
            count,
            last_offset_delta: count - 1,
            records: encoded.collect(),
            crc_error: 0,
            length_error: 0,
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        const TIMESTAMP_MS: i64 = 1_700_000_000_000;
        let mut checked = self.attributes.to_be_bytes().to_vec();
        checked.extend(self.last_offset_delta.to_be_bytes());
        checked.extend(TIMESTAMP_MS.to_be_bytes());
        checked.extend(TIMESTAMP_MS.to_be_bytes());
        checked.extend((-1i64).to_be_bytes());
        checked.extend((-1i16).to_be_bytes());
        checked.extend((-1i32).to_be_bytes());
        checked.extend(self.count.to_be_bytes());
        checked.extend(&self.records);
        let crc = crc32c::crc32c(&checked).wrapping_add(self.crc_error);
        let mut rest = (-1i32).to_be_bytes().to_vec();
        rest.push(self.magic);
        rest.extend(crc.to_be_bytes());
        rest.extend(checked);
        let length = i32::try_from(rest.len()).expect("a short batch") + self.length_error;
        let mut out = 0i64.to_be_bytes().to_vec();
        out.extend(length.to_be_bytes());
        out.extend(rest);
        out
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// The next `N` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("a longer answer");
        self.0 = rest;
        *head
    }

    /// An i16.
    pub fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    /// An i32.
    pub fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    /// An i64.
    pub fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    /// A string with an i16 length.
    ///
    /// # Panics
    /// If it is no string.
    pub fn string(&mut self) -> String {
        let length = usize::try_from(self.i16()).expect("a length");
        let (head, rest) = self.0.split_at(length);
        let text = String::from_utf8(head.to_vec()).expect("UTF-8");
        self.0 = rest;
        text
    }
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// If the connection is refused.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            correlation: 0,
        }
    }

    /// Sends bytes; that the peer has closed already is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next answer, or the close.
    ///
    /// # Panics
    /// If neither comes in time.
    pub fn receive(&mut self) -> Outcome {
        let mut length = [0; 4];
        if !self.fill(&mut length) {
            return Outcome::Closed;
        }
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length");
        let mut answer = vec![0; length];
        if !self.fill(&mut answer) {
            return Outcome::Closed;
        }
        let correlation = i32::from_be_bytes(*answer.first_chunk().expect("a correlation id"));
        Outcome::Answer(correlation, answer.split_off(4))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read_exact(buffer) {
            Ok(()) => true,
            Err(error) => {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(
                    !late,
                    "neither an answer nor a close within {ANSWER_LIMIT:?}"
                );
                false
            }
        }
    }

    /// Sends a request of header v1 and returns what follows the correlation id.
    ///
    /// # Panics
    /// If the peer closes or answers another request.
    pub fn ask(&mut self, key: i16, version: i16, body: &[u8]) -> Vec<u8> {
        self.correlation += 1;
        self.send(&frame(&request(key, version, self.correlation, body)));
        match self.receive() {
            Outcome::Answer(correlation, answer) => {
                assert_eq!(correlation, self.correlation, "answers come in order");
                answer
            }
            Outcome::Closed => panic!("closed instead of an answer to API {key} v{version}"),
        }
    }

    /// ApiVersions v0: (key, lowest, highest) of every API.
    ///
    /// # Panics
    /// If it answers an error.
    pub fn api_versions(&mut self) -> Vec<(i16, i16, i16)> {
        let answer = self.ask(API_VERSIONS, 0, &[]);
        let mut reader = Reader(&answer);
        assert_eq!(reader.i16(), 0);
        let count = reader.i32();
        (0..count)
            .map(|_| (reader.i16(), reader.i16(), reader.i16()))
            .collect()
    }

    /// Metadata v1 of `topic`, which makes it; the topic's error code.
    ///
    /// # Panics
    /// If the answer is not about it.
    pub fn metadata(&mut self, topic: &str) -> i16 {
        let mut body = 1i32.to_be_bytes().to_vec();
        body.extend(string(topic));
        let answer = self.ask(METADATA, 1, &body);
        let mut reader = Reader(&answer);
        for _ in 0..reader.i32() {
            reader.i32();
            reader.string();
            reader.i32();
            assert_eq!(reader.i16(), -1, "no rack");
        }
        reader.i32();
        assert_eq!(reader.i32(), 1, "one topic");
        let error = reader.i16();
        assert_eq!(reader.string(), topic);
        error
    }

    /// Produce v3 of one partition: (error code, base offset).
    ///
    /// # Panics
    /// If the answer is of another shape.
    pub fn produce(&mut self, topic: &str, acks: i16, batch: &[u8]) -> (i16, i64) {
        let answer = self.ask(PRODUCE, 3, &produce_body(topic, acks, batch));
        let mut reader = Reader(&answer);
        assert_eq!(
            (reader.i32(), reader.string().as_str(), reader.i32()),
            (1, topic, 1)
        );
        assert_eq!(reader.i32(), 0, "partition 0");
        (reader.i16(), reader.i64())
    }

    /// Fetch v4 of partition 0 from `offset` on, one batch at least: (error code, the batches).
    ///
    /// # Panics
    /// If the answer is of another shape.
    pub fn fetch(&mut self, topic: &str, offset: i64, bytes_max: i32) -> (i16, Vec<u8>) {
        const WAIT_MS: i32 = 0;
        let mut body = (-1i32).to_be_bytes().to_vec();
        body.extend(WAIT_MS.to_be_bytes());
        body.extend(0i32.to_be_bytes());
        body.extend(bytes_max.to_be_bytes());
        body.push(0);
        body.extend(1i32.to_be_bytes());
        body.extend(string(topic));
        body.extend(1i32.to_be_bytes());
        body.extend(0i32.to_be_bytes());
        body.extend(offset.to_be_bytes());
        body.extend(bytes_max.to_be_bytes());
        let answer = self.ask(FETCH, 4, &body);
        let mut reader = Reader(&answer);
        reader.i32();
        assert_eq!(
            (reader.i32(), reader.string().as_str(), reader.i32()),
            (1, topic, 1)
        );
        assert_eq!(reader.i32(), 0, "partition 0");
        let error = reader.i16();
        reader.i64();
        reader.i64();
        assert!(reader.i32() <= 0, "no aborted transactions");
        let length = reader.i32();
        let batches = reader.0.get(..usize::try_from(length).unwrap_or(0));
        (error, batches.unwrap_or_default().to_vec())
    }

    /// ListOffsets v1 of partition 0: the offset for `timestamp` (-1 the end, -2 the start).
    ///
    /// # Panics
    /// If it answers an error.
    pub fn offset(&mut self, topic: &str, timestamp: i64) -> i64 {
        let mut body = (-1i32).to_be_bytes().to_vec();
        body.extend(1i32.to_be_bytes());
        body.extend(string(topic));
        body.extend(1i32.to_be_bytes());
        body.extend(0i32.to_be_bytes());
        body.extend(timestamp.to_be_bytes());
        let answer = self.ask(LIST_OFFSETS, 1, &body);
        let mut reader = Reader(&answer);
        assert_eq!(
            (reader.i32(), reader.string().as_str(), reader.i32()),
            (1, topic, 1)
        );
        assert_eq!(
            (reader.i32(), reader.i16()),
            (0, 0),
            "partition 0 without an error"
        );
        reader.i64();
        reader.i64()
    }

    /// Makes `topic` and waits until it can be written.
    ///
    /// # Panics
    /// If it can't.
    pub fn create(&mut self, topic: &str) {
        const LEADER_NOT_AVAILABLE: i16 = 5;
        crate::until(ANSWER_LIMIT, "the topic has a leader", || {
            match self.metadata(topic) {
                0 => Some(()),
                LEADER_NOT_AVAILABLE => None,
                error => panic!("error {error} for topic {topic}"),
            }
        });
    }
}

/// Produce v3 to v8: no transaction, one topic, partition 0.
pub fn produce_body(topic: &str, acks: i16, batch: &[u8]) -> Vec<u8> {
    const TIMEOUT_MS: i32 = 5_000;
    let mut body = (-1i16).to_be_bytes().to_vec();
    body.extend(acks.to_be_bytes());
    body.extend(TIMEOUT_MS.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(string(topic));
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(bytes(batch));
    body
}
