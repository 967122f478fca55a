//! Who is let in.

use std::net::SocketAddr;

use mainstem_env::Env;
use mainstem_peers::{
    ACCEPTED_PER_NODE_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HandshakeError, Lane, Peers,
    PeersError, Secret,
    frame::Kind,
    handshake::{Listener, Local, Message},
};
use mainstem_record::BrokerId;

use crate::{
    common::{CONTROL, LONG, Node, addresses, echo, options},
    raw::{Raw, local, simulate},
};

const REFUSALS: &str = "mainstem_peers_handshakes_refused_total";

/// Node 1 of cluster `ours`, and where it listens.
async fn node(env: &Env) -> (Node, SocketAddr) {
    let node = Node::start(env, 1).await;
    node.peers.set_cluster_id("ours");
    echo(&node);
    let address = node.peers.local_addr().expect("it listens");
    (node, address)
}

/// Greets node 1 and expects to be refused, and the connection to be over.
fn refused_as(local: Local, looks_for: Option<i32>, reason: &str) -> HandshakeError {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let mut raw = Raw::connect(&env, address).await;
        let greeted = raw.greet_looking_for(local, Lane::Control, looks_for).await;
        assert!(raw.read_to_end().await.is_empty());
        assert_eq!(node.metric(REFUSALS, reason), 1, "{reason}");
        assert_eq!(node.metric("mainstem_peers_connections", ""), 0);
        greeted.expect_err("it is refused")
    })
}

#[test]
fn wrong_secret_is_refused() {
    let mut local = local(2, 2);
    local.secret = Some(Secret::new(b"another secret of many bytes").expect("a secret"));
    let error = refused_as(local.clone(), None, "secret");
    assert_eq!(error, HandshakeError::Secret);
    // Neither is whoever has none.
    local.secret = None;
    let error = refused_as(local, None, "secret");
    assert_eq!(error, HandshakeError::Secret);
}

#[test]
fn other_cluster_is_refused_and_one_that_knows_none_is_not() {
    let mut other = local(2, 2);
    other.identity.cluster_id = "theirs".to_owned();
    let error = refused_as(other, None, "cluster");
    // As the other side sees it.
    let expected = HandshakeError::Cluster {
        ours: "theirs".to_owned(),
        theirs: "ours".to_owned(),
    };
    assert_eq!(error, expected);
    simulate(1, |env| async move {
        let (_node, address) = node(&env).await;
        let mut raw = Raw::connect(&env, address).await;
        let remote = raw.greet(local(2, 2), Lane::Control).await.expect("let in");
        assert_eq!(remote.identity.cluster_id, "ours");
    });
}

#[test]
fn connection_with_another_cluster_ends_when_the_own_one_is_known() {
    simulate(1, |env| async move {
        let node = Node::start(&env, 1).await;
        let address = node.peers.local_addr().expect("it listens");
        let mut greeted = Vec::new();
        for (id, cluster) in [(2, "theirs"), (3, "ours"), (4, "")] {
            let mut local = local(id, 1000 + id as u128);
            local.identity.cluster_id = cluster.to_owned();
            greeted.push(Raw::greeted(&env, address, local).await);
        }
        node.peers.set_cluster_id("ours");
        let (header, _) = greeted[0].read_frame().await.expect("a farewell");
        assert_eq!(header.kind, Kind::Close);
        for raw in &mut greeted[1..] {
            raw.frame(Kind::Call, CONTROL, 0, b"x").await;
            let (header, _) = raw.read_frame().await.expect("an answer");
            assert_eq!(header.kind, Kind::Fail);
        }
    });
}

#[test]
fn version_that_is_not_spoken_is_refused() {
    let mut local = local(2, 2);
    local.versions = (2, 3);
    let error = refused_as(local, None, "version");
    let expected = HandshakeError::Version {
        ours_min: 2,
        ours_max: 3,
        theirs_min: 1,
        theirs_max: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn own_node_id_is_refused_and_the_node_itself_told_apart() {
    assert_eq!(
        refused_as(local(1, 1), None, "itself"),
        HandshakeError::Itself
    );
    let node = BrokerId(1);
    let error = refused_as(local(1, 5), None, "own_node_id");
    assert_eq!(error, HandshakeError::OwnNodeId { node });
}

#[test]
fn who_looks_for_another_node_is_told_who_is_here() {
    let error = refused_as(local(2, 2), Some(3), "wrong_node");
    let expected = HandshakeError::WrongNode {
        expected: BrokerId(3),
        found: BrokerId(1),
    };
    assert_eq!(error, expected);
}

#[test]
fn node_id_belongs_to_one_directory_as_long_as_that_is_connected() {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let first = Raw::greeted(&env, address, local(2, 2)).await;
        let second = Raw::greeted(&env, address, local(2, 2)).await;
        let mut other = Raw::connect(&env, address).await;
        let greeted = other.greet(local(2, 6), Lane::Data).await;
        let duplicate = HandshakeError::Duplicate { node: BrokerId(2) };
        assert_eq!(greeted, Err(duplicate));
        drop(first);
        drop(second);
        while node.metric("mainstem_peers_connections", "") > 0 {
            env.sleep(std::time::Duration::from_millis(1)).await;
        }
        let _other = Raw::greeted(&env, address, local(2, 6)).await;
    });
}

#[test]
fn node_that_connects_too_often_loses_its_oldest_connection() {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let mut greeted = Vec::new();
        for _ in 0..=ACCEPTED_PER_NODE_MAX {
            greeted.push(Raw::greeted(&env, address, local(2, 2)).await);
        }
        let (header, _) = greeted[0].read_frame().await.expect("a farewell");
        assert_eq!(header.kind, Kind::Close);
        assert!(greeted[0].read_to_end().await.is_empty());
        let open = node.metric("mainstem_peers_connections", "accepted");
        assert_eq!(open, ACCEPTED_PER_NODE_MAX as u64);
    });
}

#[test]
fn what_is_no_handshake_is_refused_before_more_is_read() {
    let (_, hello) =
        mainstem_peers::handshake::Dialler::start(local(2, 2), Lane::Control, None, [1; 32]);
    let mut too_long = hello.clone();
    too_long[4..6].copy_from_slice(&2000_u16.to_le_bytes());
    let mut damaged = hello;
    damaged[20] ^= 1;
    let out_of_turn = Message::Challenge {
        version: 1,
        nonce: [0; 32],
    };
    let inputs = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        too_long,
        damaged,
        out_of_turn.encode(),
        vec![0; 4096],
    ];
    for input in inputs {
        simulate(1, |env| async move {
            let (node, address) = node(&env).await;
            let mut raw = Raw::connect(&env, address).await;
            raw.write(&input).await;
            let answer = Message::decode(&raw.read_to_end().await);
            assert!(matches!(answer, Ok(Message::Refuse(_))), "{answer:?}");
            assert_eq!(node.metric(REFUSALS, "malformed"), 1);
            assert!(env.now() < HANDSHAKE_TIMEOUT);
        });
    }
}

#[test]
fn half_a_handshake_is_given_up_in_time_however_it_trickles() {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let mut silent = Raw::connect(&env, address).await;
        let Raw { stream } = Raw::connect(&env, address).await;
        let (_read, mut write) = tokio::io::split(stream);
        let (_, hello) =
            mainstem_peers::handshake::Dialler::start(local(2, 2), Lane::Control, None, [1; 32]);
        let clock = env.clone();
        env.spawn("test", async move {
            for byte in hello {
                clock.sleep(HANDSHAKE_TIMEOUT / 10).await;
                // It is closed at some point.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &[byte]).await;
            }
        });
        silent.read_to_end().await;
        assert_eq!(env.now(), HANDSHAKE_TIMEOUT);
        env.sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(node.metric(REFUSALS, "timed_out"), 2);
    });
}

#[test]
fn flood_of_strangers_is_bounded_and_keeps_no_peer_out() {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let mut strangers = Vec::new();
        for _ in 0..HANDSHAKES_MAX * 4 {
            strangers.push(Raw::connect(&env, address).await);
        }
        let two = Node::start(&env, 2).await;
        two.knows(&[&node]);
        let answer = two.peers.call(node.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
        assert!(env.now() < HANDSHAKE_TIMEOUT);
        let evicted = node.metric("mainstem_peers_handshakes_evicted_total", "");
        assert_eq!(evicted, HANDSHAKES_MAX as u64 * 3 + 1);
        // The oldest are gone, before their time.
        assert!(strangers[0].read_to_end().await.is_empty());
        assert!(env.now() < HANDSHAKE_TIMEOUT);
    });
}

#[test]
fn handshake_that_is_replayed_is_refused() {
    simulate(1, |env| async move {
        let (node, address) = node(&env).await;
        let mut raw = Raw::connect(&env, address).await;
        let (mut dialler, hello) =
            mainstem_peers::handshake::Dialler::start(local(2, 2), Lane::Control, None, [7; 32]);
        raw.write(&hello).await;
        let proof = dialler
            .challenge(&raw.read_message().await.expect("an answer"))
            .expect("a challenge");
        raw.write(&proof).await;
        let accept = raw.read_message().await.expect("an answer");
        dialler.accepted(&accept).expect("it is let in");

        let mut replayed = Raw::connect(&env, address).await;
        replayed.write(&hello).await;
        replayed.read_message().await.expect("a challenge");
        replayed.write(&proof).await;
        replayed.read_to_end().await;
        assert_eq!(node.metric(REFUSALS, "secret"), 1);
    });
}

#[test]
fn proof_is_of_no_use_to_the_other_side() {
    // A listener without the secret hands the dialler's own proof back.
    let (mut dialler, hello) =
        mainstem_peers::handshake::Dialler::start(local(2, 2), Lane::Control, None, [7; 32]);
    let (_, challenge) = Listener::hello(local(1, 1), &hello, [8; 32]).expect("a hello");
    let proof = dialler.challenge(&challenge).expect("a challenge");
    let Ok(Message::Proof { mac, .. }) = Message::decode(&proof) else {
        panic!("no proof");
    };
    let accept = Message::Accept {
        identity: local(1, 1).identity,
        mac,
    };
    let accepted = dialler.accepted(&accept.encode());
    assert_eq!(accepted, Err(HandshakeError::Secret));
}

#[test]
fn address_beyond_loopback_needs_a_secret() {
    simulate(1, |env| async move {
        let mut options = options(1);
        options.secret = None;
        options.listen = Some("10.0.0.1:9301".parse().expect("an address"));
        let registry = prometheus::Registry::new();
        let started = Peers::start(&env, options.clone(), &registry).await;
        assert!(matches!(started, Err(PeersError::SecretNeeded { .. })));
        options.listen = None;
        let node = Node::start_with(&env, options).await;
        let far = mainstem_peers::PeerAddress::parse("10.0.0.2:9301").expect("an address");
        node.peers.set_addresses(addresses([(2, far)]));
        let called = node
            .peers
            .call(BrokerId(2), CONTROL, "x".into(), LONG)
            .await;
        let why = mainstem_peers::Unreachable::SecretNeeded;
        assert_eq!(called, Err(mainstem_peers::CallError::Unreachable(why)));
    });
}
