//! Who answers at the address of a node, and does not answer well.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_peers::{
    CallError,
    CallError::Unreachable as CallUnreachable,
    HANDSHAKE_TIMEOUT, HandshakeError, PING_INTERVAL, SILENCE_MAX, Secret, Unreachable,
    frame::Kind,
    handshake::{Listener, Local, Message},
};
use mainstem_record::BrokerId;

use crate::{
    common::{CONTROL, LONG, Node, addresses, echo},
    raw::{Raw, local, simulate},
};

/// Node 1, which looks for node 2 at the address of the listener.
async fn node(env: &Env) -> (Node, Box<dyn mainstem_env::Listener>) {
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let listener = env.net.listen(address).await.expect("it listens");
    let node = Node::start(env, 1).await;
    let address = listener.local_addr().expect("it is bound");
    node.peers.set_addresses(addresses([(2, address.into())]));
    (node, listener)
}

/// Accepts and answers as `local`.
async fn answer_as(listener: &dyn mainstem_env::Listener, local: Local) -> Raw {
    let (stream, _) = listener.accept().await.expect("somebody dials");
    let mut raw = Raw { stream };
    let hello = raw.read_message().await.expect("a hello");
    let (mut listener, challenge) = Listener::hello(local, &hello, [9; 32]).expect("a hello");
    raw.write(&challenge).await;
    let proof = raw.read_message().await.expect("a proof");
    // Whether it is right or not.
    let _ = listener.proof(&proof);
    raw.write(&listener.accept()).await;
    raw
}

/// What a call comes to when its node is answered for by `local`.
fn called(local: Local) -> Result<Bytes, CallError> {
    simulate(1, |env| async move {
        let (node, listener) = node(&env).await;
        let peers = node.peers.clone();
        let calling = env.start("test", async move {
            peers.call(BrokerId(2), CONTROL, "x".into(), LONG).await
        });
        let _raw = answer_as(&*listener, local).await;
        calling.await.expect("it ends")
    })
}

fn refused(error: HandshakeError) -> Result<Bytes, CallError> {
    Err(CallUnreachable(Unreachable::Handshake(error)))
}

#[test]
fn who_does_not_know_the_secret_is_not_talked_to() {
    let mut other = local(2, 2);
    other.secret = Some(Secret::new(b"another secret of many bytes").expect("a secret"));
    assert_eq!(called(other), refused(HandshakeError::Secret));
}

#[test]
fn other_node_at_the_address_is_not_talked_to() {
    let wrong = HandshakeError::WrongNode {
        expected: BrokerId(2),
        found: BrokerId(3),
    };
    assert_eq!(called(local(3, 3)), refused(wrong));
}

#[test]
fn own_node_id_at_the_address_is_not_talked_to() {
    let own = HandshakeError::OwnNodeId { node: BrokerId(1) };
    assert_eq!(called(local(1, 9)), refused(own));
}

#[test]
fn version_out_of_range_is_not_talked_to() {
    simulate(1, |env| async move {
        let (node, listener) = node(&env).await;
        let peers = node.peers.clone();
        let calling = env.start("test", async move {
            peers.call(BrokerId(2), CONTROL, "x".into(), LONG).await
        });
        let (stream, _) = listener.accept().await.expect("somebody dials");
        let mut raw = Raw { stream };
        raw.read_message().await.expect("a hello");
        let challenge = Message::Challenge {
            version: 9,
            nonce: [0; 32],
        };
        raw.write(&challenge.encode()).await;
        let result = calling.await.expect("it ends");
        assert!(
            matches!(
                result,
                Err(CallUnreachable(Unreachable::Handshake(
                    HandshakeError::Version { theirs_max: 9, .. }
                )))
            ),
            "{result:?}"
        );
    });
}

#[test]
fn silent_listener_costs_a_caller_no_more_than_its_time() {
    simulate(1, |env| async move {
        let (node, _listener) = node(&env).await;
        let short = Duration::from_millis(300);
        let begun = env.now();
        let result = node
            .peers
            .call(BrokerId(2), CONTROL, "x".into(), short)
            .await;
        assert_eq!(result, Err(CallUnreachable(Unreachable::TimedOut)));
        assert_eq!(env.now() - begun, short);
        let result = node
            .peers
            .call(BrokerId(2), CONTROL, "x".into(), LONG)
            .await;
        assert_eq!(result, refused(HandshakeError::TimedOut));
        assert_eq!(env.now() - begun, HANDSHAKE_TIMEOUT);
        // From then on at once.
        let result = node
            .peers
            .call(BrokerId(2), CONTROL, "x".into(), LONG)
            .await;
        assert_eq!(result, refused(HandshakeError::TimedOut));
        assert_eq!(env.now() - begun, HANDSHAKE_TIMEOUT);
    });
}

/// As a process does that was stopped: its sockets stay open, and it says nothing.
#[test]
fn stopped_peer_is_noticed_and_hangs_no_caller() {
    simulate(1, |env| async move {
        let (node, listener) = node(&env).await;
        let peers = node.peers.clone();
        let clock = env.clone();
        let calling = env.start("test", async move {
            let short = Duration::from_millis(700);
            let first = peers.call(BrokerId(2), CONTROL, "x".into(), short).await;
            assert_eq!((first, clock.now()), (Err(CallError::TimedOut), short));
            peers.call(BrokerId(2), CONTROL, "x".into(), LONG).await
        });
        let _raw = answer_as(&*listener, local(2, 2)).await;
        assert_eq!(calling.await.expect("it ends"), Err(CallError::Lost));
        assert!(
            env.now() <= SILENCE_MAX + 2 * PING_INTERVAL,
            "{:?}",
            env.now()
        );
        let silent = node.metric("mainstem_peers_connections_closed_total", "silent");
        assert_eq!(silent, 1);
    });
}

#[test]
fn quiet_connection_lives_by_pings() {
    simulate(1, |env| async move {
        let (one, two) = crate::common::pair(&env).await;
        echo(&two);
        let answer = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert!(answer.is_ok());
        env.sleep(SILENCE_MAX * 20).await;
        for node in [&one, &two] {
            assert_eq!(
                node.metric("mainstem_peers_connections_closed_total", ""),
                0
            );
        }
    });
}

#[test]
fn answers_that_nobody_asked_for_end_the_connection() {
    simulate(1, |env| async move {
        let (node, listener) = node(&env).await;
        let peers = node.peers.clone();
        let calling = env.start("test", async move {
            peers.call(BrokerId(2), CONTROL, "x".into(), LONG).await
        });
        let mut raw = answer_as(&*listener, local(2, 2)).await;
        raw.frame(Kind::Answer, mainstem_peers::Service(0), 77, b"y")
            .await;
        assert_eq!(calling.await.expect("it ends"), Err(CallError::Lost));
        let closed = node.metric("mainstem_peers_connections_closed_total", "violation");
        assert_eq!(closed, 1);
    });
}

#[test]
fn seed_is_asked_by_its_address_alone_and_says_who_it_is() {
    simulate(1, |env| async move {
        let (one, two) = (Node::start(&env, 1).await, Node::start(&env, 2).await);
        echo(&two);
        let asked = |address| one.peers.ask_address(address, CONTROL, "x".into(), LONG);
        let address = two.address();
        let (identity, answer) = asked(&address).await.expect("it answers");
        assert_eq!((identity.node, &answer[..]), (BrokerId(2), &b"x"[..]));
        let own = one.address();
        let itself = Unreachable::Handshake(HandshakeError::Itself);
        assert_eq!(asked(&own).await, Err(CallUnreachable(itself)));
        // The connection was for the question only.
        env.sleep(Duration::from_secs(1)).await;
        assert_eq!(two.metric("mainstem_peers_connections", ""), 0);
    });
}
