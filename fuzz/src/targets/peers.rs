//! What somebody says to the listener for peers: before the handshake is done, and after it.
//!
//! A node runs in virtual time on a pipe. Its nonces are always the same here, so that a proof can
//! be an input.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env, Net, Random, Stream};
use mainstem_peers::{
    Handler, Lane, PeerIdentity, PeerStream, Peers, PeersOptions, Refusal, Secret, Service,
    frame::{Failure, HEADER_BYTES, Header, Kind, encode_refusal},
    handshake::{self, Dialler, Identity, Listener, Local, Message, PREFIX_BYTES, rest_bytes},
};
use mainstem_record::BrokerId;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{Mutex, mpsc},
};
use uuid::Uuid;

use super::Target;
use crate::Trace;

/// Holds any input, so that writing never waits.
const PIPE_BYTES: usize = 1 << 20;
/// Longer than anything but a time limit takes.
const PATIENCE: Duration = Duration::from_millis(50);
/// The nonce of the node.
const NONCE: u8 = 9;
/// Service, on the control lane.
const ECHO: Service = Service::ADMIN;

pub(super) const HANDSHAKE: Target = Target {
    name: "peer-handshake",
    run: run_handshake,
    seeds: handshakes,
    repair: repair_messages,
    bytes_free: 16 << 20,
    bytes_factor: 64,
    short: 1500,
};

pub(super) const FRAMES: Target = Target {
    name: "peer-frames",
    run: run_frames,
    seeds: sessions,
    repair: repair_frames,
    bytes_free: 16 << 20,
    bytes_factor: 64,
    short: 1500,
};

/// Gives every connection that a test makes to the one listener.
struct Pipes {
    made: mpsc::UnboundedSender<DuplexStream>,
    accepted: Accepted,
}

/// The receiving end, until somebody listens.
type Accepted = Arc<Mutex<mpsc::UnboundedReceiver<DuplexStream>>>;

struct PipeListener(Accepted);

struct Same;

struct Echo;

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

impl Net for Pipes {
    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn mainstem_env::Listener>>> {
        let listener = PipeListener(Arc::clone(&self.accepted));
        Box::pin(async { Ok(Box::new(listener) as Box<dyn mainstem_env::Listener>) })
    }

    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let made = self.made.send(far).map_err(io::Error::other);
        Box::pin(async { made.map(|()| Box::new(near) as Box<dyn Stream>) })
    }
}

impl mainstem_env::Listener for PipeListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            let stream = self.0.lock().await.recv().await;
            let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok((Box::new(stream) as Box<dyn Stream>, address()))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address())
    }
}

impl Random for Same {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(NONCE);
    }
}

impl Handler for Echo {
    fn call<'a>(
        &'a self,
        _: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(async { Ok(body) })
    }

    fn stream<'a>(
        &'a self,
        _: &'a PeerIdentity,
        hello: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if hello.is_empty() {
                return;
            }
            while let Some(message) = stream.recv().await {
                if stream.send(message).await.is_err() {
                    return;
                }
            }
        })
    }
}

fn secret() -> Secret {
    Secret::new(b"sixteen bytes or more").expect("a secret")
}

/// Node `id`; the node under test is 1.
fn local(id: i32) -> Local {
    let identity = Identity {
        node: BrokerId(id),
        directory_id: Uuid::from_u128(id as u128),
        cluster_id: "ours".to_owned(),
    };
    Local::new(identity, Some(secret()))
}

/// Runs node 1 and `test` in a world of their own.
fn with_node<T, F: Future<Output = T>>(test: impl FnOnce(Env) -> F) -> T {
    mainstem_simulation::run(1, |world| async move {
        let mut env = world.process(&world.disk(), 1).env;
        let (made, accepted) = mpsc::unbounded_channel();
        let accepted = Arc::new(Mutex::new(accepted));
        env.net = Arc::new(Pipes { made, accepted });
        env.random = Arc::new(Same);
        let identity = local(1).identity;
        let options = PeersOptions {
            node: identity.node,
            directory_id: identity.directory_id,
            listen: Some(address()),
            secret: Some(secret()),
        };
        let peers = Peers::start(&env, options, &Registry::new()).await;
        let peers = peers.expect("it starts");
        peers.set_cluster_id(&identity.cluster_id);
        peers.serve(ECHO, Arc::new(Echo));
        let result = test(env.clone()).await;
        peers.close().await;
        result
    })
}

/// Writes `bytes` and reads what comes until nothing does.
async fn say(env: &Env, stream: &mut dyn Stream, bytes: &[u8]) -> Vec<u8> {
    // It may be closed already.
    let _ = stream.write_all(bytes).await;
    let mut heard = Vec::new();
    let reading = async {
        while stream
            .read_buf(&mut heard)
            .await
            .is_ok_and(|count| count > 0)
        {}
    };
    let _ = env.timeout(PATIENCE, reading).await;
    heard
}

async fn connect(env: &Env) -> Box<dyn Stream> {
    env.net.connect(address()).await.expect("a pipe")
}

/// All that a dialler says to let itself in as `id`.
fn handshake(local: Local, lane: Lane, expected: Option<i32>) -> Vec<u8> {
    let (mut dialler, hello) = Dialler::start(local, lane, expected.map(BrokerId), [7; 32]);
    let (_, challenge) = Listener::hello(self::local(1), &hello, [NONCE; 32]).expect("a hello");
    let proof = dialler.challenge(&challenge).expect("a challenge");
    [hello, proof].concat()
}

fn handshakes() -> Vec<Vec<u8>> {
    let mut stranger = local(2);
    stranger.secret = None;
    let mut foreign = local(2);
    foreign.identity.cluster_id = "theirs".to_owned();
    let mut old = local(2);
    old.versions = (0, 7);
    let mut new = local(2);
    new.versions = (2, 3);
    let (_, unspoken) = Dialler::start(new, Lane::Data, None, [7; 32]);
    let refusal = handshake::refuse(&mainstem_peers::HandshakeError::TooMany);
    vec![
        handshake(local(2), Lane::Control, None),
        handshake(local(2), Lane::Data, Some(1)),
        handshake(local(2), Lane::Data, Some(3)),
        handshake(local(1), Lane::Control, None),
        handshake(stranger, Lane::Control, None),
        handshake(foreign, Lane::Control, None),
        handshake(old, Lane::Control, None),
        unspoken,
        refusal,
    ]
}

/// Walks messages and makes their checksums right.
fn repair_messages(mut bytes: &mut [u8]) {
    while let Some(Ok(rest)) = bytes.first_chunk::<PREFIX_BYTES>().map(rest_bytes) {
        let Some((message, after)) = bytes.split_at_mut_checked(PREFIX_BYTES + rest) else {
            return;
        };
        if let Some((covered, crc)) = message.split_last_chunk_mut::<4>() {
            *crc = crc32c::crc32c(covered).to_le_bytes();
        }
        bytes = after;
    }
}

fn run_handshake(input: &[u8], trace: &mut Trace) {
    let heard = with_node(|env| async move {
        let mut stream = connect(&env).await;
        say(&env, &mut *stream, input).await
    });
    let mut rest = &heard[..];
    while let Some(Ok(length)) = rest.first_chunk::<PREFIX_BYTES>().map(rest_bytes) {
        let (message, after) = rest.split_at(PREFIX_BYTES + length);
        rest = after;
        match Message::decode(message).expect("the node speaks its own protocol") {
            Message::Accept { .. } => {
                // Nobody gets in who could not have made the proof.
                let lane = if input.get(11) == Some(&0) {
                    Lane::Control
                } else {
                    Lane::Data
                };
                trace.note_kind("accepted", &lane);
                assert!(is_proven(input), "let in without a proof");
            }
            Message::Refuse(refuse) => trace.note(&format!("{refuse:?}")),
            message => trace.note_kind("said", &std::mem::discriminant(&message)),
        }
    }
}

/// Whether the first two messages are right, by another way than the node's.
fn is_proven(input: &[u8]) -> bool {
    let mut messages = Vec::new();
    let mut rest = input;
    while let Some(Ok(length)) = rest.first_chunk::<PREFIX_BYTES>().map(rest_bytes) {
        let Some((message, after)) = rest.split_at_checked(PREFIX_BYTES + length) else {
            break;
        };
        messages.push(message);
        rest = after;
    }
    let [hello, proof, ..] = messages[..] else {
        return false;
    };
    let (
        Ok(Message::Hello {
            min,
            max,
            lane,
            nonce,
        }),
        Ok(Message::Proof {
            identity, expected, ..
        }),
    ) = (Message::decode(hello), Message::decode(proof))
    else {
        return false;
    };
    let mut dialler = Local::new(identity, Some(secret()));
    dialler.versions = (min, max);
    let (mut dialler, again) = Dialler::start(dialler, lane, expected, nonce);
    let challenge = Listener::hello(local(1), &again, [NONCE; 32]);
    challenge.is_ok_and(|(_, challenge)| dialler.challenge(&challenge).as_deref() == Ok(proof))
}

fn frame(kind: Kind, service: u16, id: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::of(1, kind, Service(service), id, payload);
    [&header.encode()[..], payload].concat()
}

fn sessions() -> Vec<Vec<u8>> {
    let refusal = encode_refusal(&Refusal {
        code: 3,
        text: "enough".to_owned(),
    });
    let call = |id, body: &[u8]| frame(Kind::Call, ECHO.0, id, body);
    let open = |id, hello: &[u8]| frame(Kind::Open, ECHO.0, id, hello);
    vec![
        [call(0, b"x"), call(1, b""), call(7, &[1; 3000])].concat(),
        frame(Kind::Call, 999, 0, b"nobody"),
        [
            open(0, b"hello"),
            frame(Kind::Data, 0, 0, b"one"),
            frame(Kind::Data, 0, 0, b""),
            frame(Kind::End, 0, 0, b""),
        ]
        .concat(),
        [
            open(0, b""),
            frame(Kind::Stop, 0, 0, b""),
            frame(Kind::End, 0, 0, b""),
        ]
        .concat(),
        [open(0, b"hello"), frame(Kind::Credit, 0, 0, &[0; 4])].concat(),
        [
            open(0, b"hello"),
            open(1, b"hello"),
            frame(Kind::Data, 0, 1, b"two"),
        ]
        .concat(),
        [frame(Kind::Ping, 0, 5, b""), frame(Kind::Pong, 0, 5, b"")].concat(),
        frame(Kind::Close, 0, 0, &refusal),
        frame(Kind::Refuse, 0, 0, &refusal),
        frame(Kind::Fail, 0, 0, &Failure::Busy.encode()),
        frame(Kind::Answer, 0, 0, b"x"),
    ]
}

/// Walks frames and makes their checksums right.
fn repair_frames(mut bytes: &mut [u8]) {
    while let Some((header, after)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (payload, after) = after.split_at_mut(length.min(after.len()));
        header[16..20].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&header[..20]);
        header[20..].copy_from_slice(&crc.to_le_bytes());
        bytes = after;
    }
}

fn run_frames(input: &[u8], trace: &mut Trace) {
    let (heard, other) = with_node(|env| async move {
        let mut stream = connect(&env).await;
        let greeting = handshake(local(2), Lane::Control, None);
        let said = [greeting, input.to_vec()].concat();
        let heard = say(&env, &mut *stream, &said).await;
        // Whatever this one did, another is served.
        let mut other = connect(&env).await;
        let greeting = handshake(local(3), Lane::Control, None);
        let said = [greeting, frame(Kind::Call, ECHO.0, 0, b"well?")].concat();
        let answer = say(&env, &mut *other, &said).await;
        (heard, answer)
    });
    assert!(other.ends_with(b"well?"), "another peer is not served");
    let mut rest = &heard[..];
    while let Some(Ok(length)) = rest.first_chunk::<PREFIX_BYTES>().map(rest_bytes) {
        rest = &rest[PREFIX_BYTES + length..];
    }
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(header, 1).expect("the node speaks its own protocol");
        let (payload, after) = after.split_at(header.payload_bytes);
        header.check(payload).expect("a whole payload");
        trace.note_kind("said", &header.kind);
        if header.kind == Kind::Close {
            trace.note_kind("because", &String::from_utf8_lossy(payload));
        }
        rest = after;
    }
}
