//! A peer that knows the secret and does not keep to the protocol.

use std::{net::SocketAddr, sync::Arc};

use mainstem_env::Env;
use mainstem_peers::{
    BODY_BYTES_MAX, CALLS_PER_CONNECTION_MAX, HELLO_BYTES_MAX, Lane, SILENCE_MAX,
    STREAMS_PER_CONNECTION_MAX, Service, WINDOW_BYTES,
    frame::{Failure, Header, Kind},
};

use crate::{
    common::{CONTROL, DATA, Echo, Node, echo},
    raw::{Raw, local, simulate},
};

const NONE: Service = Service(0);

async fn greeted(env: &Env, lane: Lane) -> (Node, Arc<Echo>, Raw) {
    let node = Node::start(env, 1).await;
    let echo = echo(&node);
    let address: SocketAddr = node.peers.local_addr().expect("it listens");
    let mut raw = Raw::connect(env, address).await;
    raw.greet(local(2, 2), lane).await.expect("it is let in");
    (node, echo, raw)
}

/// Sends `bytes` and expects that the connection ends for them, and only that one.
fn violates(what: &str, bytes: &[u8]) {
    simulate(1, |env| async move {
        let (node, _, mut raw) = greeted(&env, Lane::Control).await;
        raw.write(bytes).await;
        let mut last = raw.read_frame().await.expect("a farewell");
        if last.0.kind == Kind::Fail {
            // What was right before it.
            last = raw.read_frame().await.expect("a farewell");
        }
        let (header, text) = last;
        assert_eq!(
            (header.kind, &text[..2]),
            (Kind::Close, &[1, 0][..]),
            "{what}"
        );
        assert!(raw.read_to_end().await.is_empty());
        let closed = node.metric("mainstem_peers_connections_closed_total", "violation");
        assert_eq!(closed, 1, "{what}");
        let address = node.peers.local_addr().expect("it listens");
        let mut other = Raw::greeted(&env, address, local(3, 3)).await;
        other.frame(Kind::Call, CONTROL, 0, b"x").await;
        let (header, _) = other.read_frame().await.expect("an answer");
        assert_eq!(header.kind, Kind::Answer);
    });
}

fn frame(kind: Kind, service: Service, id: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::of(1, kind, service, id, payload);
    [&header.encode()[..], payload].concat()
}

/// A header with a right checksum, whatever it says.
fn header(bytes: usize, version: u8, kind: u8) -> Vec<u8> {
    let mut header = Header::of(1, Kind::Call, CONTROL, 0, b"").encode();
    header[0..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    header[4] = version;
    header[5] = kind;
    let crc = crc32c::crc32c(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    header.to_vec()
}

#[test]
fn frame_that_may_not_be_ends_the_connection_and_no_other() {
    violates(
        "an endless frame",
        &header(u32::MAX as usize, 1, Kind::Call as u8),
    );
    violates(
        "a frame too long",
        &header(BODY_BYTES_MAX + 1, 1, Kind::Call as u8),
    );
    violates(
        "a long hello",
        &header(HELLO_BYTES_MAX + 1, 1, Kind::Open as u8),
    );
    violates("a ping with a payload", &header(1, 1, Kind::Ping as u8));
    violates("another version", &header(0, 2, Kind::Call as u8));
    violates("no kind", &header(0, 1, 99));
    violates("noise", &[0xa5; 64]);
    let mut damaged = frame(Kind::Call, CONTROL, 0, b"abc");
    *damaged.last_mut().expect("a payload") ^= 1;
    violates("a damaged payload", &damaged);
    violates("an answer", &frame(Kind::Answer, NONE, 0, b""));
    violates(
        "a failure",
        &frame(Kind::Fail, NONE, 0, &Failure::Busy.encode()),
    );
    violates("a message of no stream", &frame(Kind::Data, NONE, 0, b"x"));
    violates(
        "credit of no stream",
        &frame(Kind::Credit, NONE, 0, &[0; 4]),
    );
    let call = frame(Kind::Call, Service::SEAL, 5, b"");
    violates("an id of before", &[call.clone(), call].concat());
    violates("the last id", &frame(Kind::Call, CONTROL, u64::MAX, b""));
    violates("no text", &frame(Kind::Close, NONE, 0, &[1, 0, 0xff]));
}

#[test]
fn service_of_the_other_lane_is_not_served() {
    simulate(1, |env| async move {
        let (_node, echo, mut raw) = greeted(&env, Lane::Control).await;
        raw.frame(Kind::Call, DATA, 0, b"x").await;
        let (header, payload) = raw.read_frame().await.expect("an answer");
        assert_eq!(
            (header.kind, payload),
            (Kind::Fail, Failure::NoService.encode())
        );
        assert_eq!(echo.came.count(), 0);
    });
}

#[test]
fn stream_that_takes_more_than_its_window_ends_the_connection() {
    simulate(1, |env| async move {
        let (node, _, mut raw) = greeted(&env, Lane::Data).await;
        raw.frame(Kind::Open, DATA, 0, b"slow").await;
        raw.read_frame().await.expect("it is open");
        // The last one that may begin, and one more.
        raw.frame(Kind::Data, NONE, 0, &vec![0; WINDOW_BYTES as usize - 25])
            .await;
        raw.frame(Kind::Data, NONE, 0, b"x").await;
        raw.frame(Kind::Data, NONE, 0, b"x").await;
        let (header, _) = raw.read_frame().await.expect("a farewell");
        assert_eq!(header.kind, Kind::Close);
        let closed = node.metric("mainstem_peers_connections_closed_total", "violation");
        assert_eq!(closed, 1);
    });
}

#[test]
fn credit_that_was_not_spent_ends_the_connection() {
    simulate(1, |env| async move {
        let (_node, _, mut raw) = greeted(&env, Lane::Data).await;
        raw.frame(Kind::Open, DATA, 0, b"").await;
        raw.read_frame().await.expect("it is open");
        raw.frame(Kind::Credit, NONE, 0, &1_u32.to_le_bytes()).await;
        let (header, _) = raw.read_frame().await.expect("a farewell");
        assert_eq!(header.kind, Kind::Close);
    });
}

#[test]
fn streams_beyond_the_limit_are_told_busy() {
    simulate(1, |env| async move {
        let (_node, _, mut raw) = greeted(&env, Lane::Data).await;
        let limit = STREAMS_PER_CONNECTION_MAX as u64;
        for id in 0..=limit {
            raw.frame(Kind::Open, DATA, id, b"").await;
            let (header, _) = raw.read_frame().await.expect("an answer");
            let expected = if id < limit { Kind::Opened } else { Kind::Fail };
            assert_eq!((header.kind, header.id), (expected, id));
        }
    });
}

/// A peer that asks and never reads: what it asks stays in its own buffers at last.
#[test]
fn peer_that_does_not_read_is_not_read_from_and_then_given_up() {
    simulate(1, |env| async move {
        let (node, echo, mut raw) = greeted(&env, Lane::Control).await;
        let body = vec![7; 32 << 10];
        let mut sent = 0;
        let flood = async {
            loop {
                raw.frame(Kind::Call, CONTROL, sent, &body).await;
                sent += 1;
            }
        };
        let stuck = env.timeout(SILENCE_MAX / 2, flood).await;
        assert!(stuck.is_err(), "it is taken for ever");
        // Each call that came waits for room for its answer, or has it: 4 MiB of them.
        let limit = CALLS_PER_CONNECTION_MAX + 128 + 16;
        assert!(echo.came.count() <= limit, "{}", echo.came.count());
        assert_eq!(node.metric("mainstem_peers_connections", ""), 1);
        env.sleep(SILENCE_MAX * 2).await;
        assert_eq!(node.metric("mainstem_peers_connections", ""), 0);
        let silent = node.metric("mainstem_peers_connections_closed_total", "silent");
        assert_eq!(silent, 1);
        // Other peers are served.
        let address = node.peers.local_addr().expect("it listens");
        let mut other = Raw::greeted(&env, address, local(3, 3)).await;
        other.frame(Kind::Call, CONTROL, 0, b"x").await;
        let (header, _) = other.read_frame().await.expect("an answer");
        assert_eq!(header.kind, Kind::Answer);
    });
}

#[test]
fn stream_whose_messages_are_not_taken_holds_no_more_than_its_window() {
    simulate(1, |env| async move {
        let (_node, _, mut raw) = greeted(&env, Lane::Data).await;
        raw.frame(Kind::Open, DATA, 0, b"source").await;
        raw.read_frame().await.expect("it is open");
        let mut bytes = 0;
        let reading = async {
            loop {
                let (header, payload) = raw.read_frame().await.expect("a message");
                assert_eq!(header.kind, Kind::Data);
                bytes += payload.len();
            }
        };
        // All that is read is read; nothing of it is told to be taken.
        let stuck = env.timeout(SILENCE_MAX / 2, reading).await;
        assert!(stuck.is_err(), "it sends for ever");
        let window = WINDOW_BYTES as usize;
        assert!(
            (window..window + 200_000).contains(&(bytes + bytes / 1000)),
            "{bytes}"
        );
    });
}

/// A peer that opens streams, ends them, and never reads what became of them.
#[test]
fn streams_whose_ends_are_not_read_pile_up_nowhere() {
    simulate(1, |env| async move {
        let (_node, echo, mut raw) = greeted(&env, Lane::Data).await;
        let flood = async {
            for id in 0.. {
                raw.frame(Kind::Open, DATA, id, b"no").await;
                raw.frame(Kind::End, NONE, id, b"").await;
            }
        };
        let stuck = env.timeout(SILENCE_MAX / 2, flood).await;
        assert!(stuck.is_err(), "they are taken for ever");
        // What is written is 24 bytes and 34 for each; 64 KiB lie in the pipe.
        assert!(echo.came.count() < 2000, "{}", echo.came.count());
    });
}

/// The same with calls of services that nobody serves.
#[test]
fn failures_that_are_not_read_pile_up_nowhere() {
    simulate(1, |env| async move {
        let (node, _, mut raw) = greeted(&env, Lane::Data).await;
        let flood = async {
            for id in 0.. {
                raw.frame(Kind::Call, Service::COPY, id, b"").await;
            }
        };
        let stuck = env.timeout(SILENCE_MAX / 2, flood).await;
        assert!(stuck.is_err(), "they are taken for ever");
        let failed = node.metric("mainstem_peers_served_total", "no_service");
        assert!((1..20_000).contains(&failed), "{failed}");
    });
}
