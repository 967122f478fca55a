//! Calls.

use std::time::Duration;

use bytes::Bytes;
use mainstem_peers::{BODY_BYTES_MAX, CALLS_PER_CONNECTION_MAX, CallError, Refusal, Unreachable};
use mainstem_record::BrokerId;

use crate::common::{
    CONTROL, DATA, LONG, Node, addresses, echo, nobody, options, pair, run, until,
};

#[test]
fn call_is_answered_both_ways_and_on_both_lanes() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        echo(&one);
        echo(&two);
        for service in [CONTROL, DATA] {
            let who = one.peers.call(two.id, service, "who".into(), LONG).await;
            assert_eq!(who.as_deref(), Ok(&b"1"[..]));
            let who = two.peers.call(one.id, service, "who".into(), LONG).await;
            assert_eq!(who.as_deref(), Ok(&b"2"[..]));
        }
        // One connection for each lane and direction, kept.
        for node in [&one, &two] {
            assert_eq!(node.metric("mainstem_peers_connections", "dialled"), 2);
            assert_eq!(node.metric("mainstem_peers_connections", "accepted"), 2);
        }
        one.peers.close().await;
        two.peers.close().await;
        assert_eq!(one.metric("mainstem_peers_connections", ""), 0);
        let after = one.peers.call(two.id, CONTROL, Bytes::new(), LONG).await;
        assert_eq!(after, Err(CallError::Closed));
    });
}

#[test]
fn body_of_any_length_passes_and_one_too_long_is_refused() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        for bytes in [0, 1, 4096, 4097, 300_000, BODY_BYTES_MAX] {
            let body = Bytes::from((0..bytes).map(|n| n as u8).collect::<Vec<u8>>());
            let answer = one.peers.call(two.id, DATA, body.clone(), LONG).await;
            assert!(answer == Ok(body), "{bytes}");
        }
        let bytes = BODY_BYTES_MAX + 1;
        let body = Bytes::from(vec![0; bytes]);
        let answer = one.peers.call(two.id, DATA, body, LONG).await;
        assert_eq!(answer, Err(CallError::TooLarge { bytes }));
        let answer = one.peers.call(two.id, DATA, "much".into(), LONG).await;
        let code = Refusal::ANSWER_TOO_LARGE;
        assert!(matches!(answer, Err(CallError::Refused { code: c, .. }) if c == code));
    });
}

#[test]
fn refusals_of_handlers_and_missing_services_are_told() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        let none = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(none, Err(CallError::NoService));
        echo(&two);
        let refused = CallError::Refused {
            code: 7,
            text: "no, thank you".to_owned(),
        };
        let no = one.peers.call(two.id, CONTROL, "no".into(), LONG).await;
        assert_eq!(no, Err(refused));
        assert_eq!(two.metric("mainstem_peers_served_total", "refused"), 1);
        assert_eq!(two.metric("mainstem_peers_served_total", "no_service"), 1);
    });
}

#[test]
fn call_that_is_not_answered_times_out_and_others_go_on() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        let echo = echo(&two);
        let short = Duration::from_millis(20);
        let late = one.peers.call(two.id, CONTROL, "wait".into(), short).await;
        // On a slow machine even the dial may take that long.
        let unreachable = CallError::Unreachable(Unreachable::TimedOut);
        let late = late.expect_err("nobody answers");
        assert!(late == CallError::TimedOut || late == unreachable, "{late}");
        let other = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(other.as_deref(), Ok(&b"x"[..]));
        // Its answer, when it comes, goes nowhere.
        echo.gate.notify_one();
        let other = one.peers.call(two.id, CONTROL, "y".into(), LONG).await;
        assert_eq!(other.as_deref(), Ok(&b"y"[..]));
    });
}

#[test]
fn calls_beyond_the_limit_are_told_busy_and_those_within_are_answered() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        let echo = echo(&two);
        let mut waiting = Vec::new();
        for _ in 0..CALLS_PER_CONNECTION_MAX {
            let (peers, to) = (one.peers.clone(), two.id);
            waiting.push(env.start("test", async move {
                peers.call(to, CONTROL, "wait".into(), LONG).await
            }));
        }
        until(&env, || echo.came.count() == CALLS_PER_CONNECTION_MAX).await;
        let more = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(more, Err(CallError::Busy));
        assert!(!CallError::Busy.is_outcome_unknown());
        // The other lane is not concerned.
        let data = one.peers.call(two.id, DATA, "x".into(), LONG).await;
        assert_eq!(data.as_deref(), Ok(&b"x"[..]));
        echo.gate.notify_waiters();
        for one in waiting {
            let answer = one.await.expect("it ends");
            assert_eq!(answer.as_deref(), Ok(&b"wait"[..]));
        }
    });
}

#[test]
fn node_that_is_gone_is_refused_at_once_and_found_again_when_it_is_back() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        let answer = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
        assert_eq!(one.peers.refused(two.id), None);
        let mut changes = one.peers.changes();
        two.peers.close().await;
        // Nobody calls: the lost connection is dialled by itself.
        while one.peers.refused(two.id).is_none() {
            changes.changed().await.expect("the peers live");
        }
        let gone = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(gone, Err(CallError::Unreachable(Unreachable::Refused)));

        let mut options = options(2);
        options.listen = two.peers.local_addr();
        let back = Node::start_with(&env, options).await;
        echo(&back);
        while one.peers.refused(two.id).is_some() {
            changes.changed().await.expect("the peers live");
        }
        let answer = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
    });
}

#[test]
fn node_that_comes_back_and_dials_is_dialled_without_a_pause() {
    run(|env| async move {
        let one = Node::start(&env, 1).await;
        let two = Node::start(&env, 2).await;
        echo(&one);
        echo(&two);
        let wrong = nobody(&env).await;
        one.peers.set_addresses(addresses([(2, wrong)]));
        let refused = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(refused, Err(CallError::Unreachable(Unreachable::Refused)));
        one.knows(&[&two]);
        two.knows(&[&one]);
        let answer = two.peers.call(one.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
        until(&env, || one.peers.refused(two.id).is_none()).await;
        let answer = one.peers.call(two.id, CONTROL, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
    });
}

#[test]
fn call_under_way_is_lost_with_its_connection_and_its_outcome_unknown() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        let echo = echo(&two);
        let (peers, to) = (one.peers.clone(), two.id);
        let waiting = env.start("test", async move {
            peers.call(to, CONTROL, "wait".into(), LONG).await
        });
        until(&env, || echo.came.count() == 1).await;
        // No longer one of the cluster.
        one.peers.set_addresses(addresses([]));
        let lost = waiting.await.expect("it ends");
        assert_eq!(lost, Err(CallError::Lost));
        assert!(CallError::Lost.is_outcome_unknown());
        let unknown = one.peers.call(to, CONTROL, "x".into(), LONG).await;
        let none = CallError::Unreachable(Unreachable::NoAddress);
        assert_eq!(unknown, Err(none));
        let itself = one.peers.call(BrokerId(1), CONTROL, "x".into(), LONG).await;
        assert_eq!(itself, Err(CallError::Unreachable(Unreachable::Itself)));
    });
}
