//! Streams between two nodes.

use std::time::Duration;

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_peers::{
    BODY_BYTES_MAX, CallError, HELLO_BYTES_MAX, Refusal, STREAMS_PER_CONNECTION_MAX, StreamEnd,
    WINDOW_BYTES,
};

use crate::{
    common::{CONTROL, DATA, LONG, Node, addresses, echo, pair, run},
    raw::simulate,
};

#[test]
fn messages_come_whole_and_in_order_both_ways() {
    run(|env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        let stream = one.peers.open(two.id, DATA, Bytes::new()).await;
        let (sender, mut receiver) = stream.expect("it opens").split();
        let sizes = [
            0,
            1,
            100,
            5000,
            70_000,
            1 << 20,
            WINDOW_BYTES as usize + 7,
            3,
        ];
        let message = |round: usize, bytes: usize| {
            let content = (0..bytes).map(|n| (n + round) as u8).collect::<Vec<u8>>();
            Bytes::from(content)
        };
        let sending = env.start("test", async move {
            for round in 0..5 {
                for bytes in sizes {
                    sender.send(message(round, bytes)).await.expect("it goes");
                }
            }
        });
        for round in 0..5 {
            for bytes in sizes {
                let received = receiver.recv().await.expect("a message");
                assert!(received == message(round, bytes), "{round} {bytes}");
            }
        }
        sending.await.expect("all is sent");
        // The sender is gone, so the handler ends, and so does the stream.
        assert_eq!(receiver.recv().await, None);
        assert_eq!(receiver.end(), Some(StreamEnd::Finished));
    });
}

#[test]
fn sender_waits_for_a_receiver_that_does_not_take() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        let echo = echo(&two);
        let stream = one.peers.open(two.id, DATA, "slow".into()).await;
        let (sender, mut receiver) = stream.expect("it opens").split();
        let mut sent = 0;
        let flood = async {
            loop {
                sender.send(vec![0; 1000].into()).await.expect("it goes");
                sent += 1000;
            }
        };
        assert!(env.timeout(Duration::from_secs(1), flood).await.is_err());
        assert!(sent <= WINDOW_BYTES as usize + 1000, "{sent}");
        assert!(sent >= WINDOW_BYTES as usize * 9 / 10, "{sent}");
        // Other streams and calls are not held up.
        let answer = one.peers.call(two.id, DATA, "x".into(), LONG).await;
        assert_eq!(answer.as_deref(), Ok(&b"x"[..]));
        echo.gate.notify_one();
        for _ in 0..10_000 {
            sender.send(vec![0; 1000].into()).await.expect("it goes");
            sent += 1000;
        }
        drop(sender);
        let told = receiver.recv().await.expect("how much came");
        assert_eq!(told, sent.to_string());
    });
}

#[test]
fn source_stops_when_nobody_wants_more() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        let echo = echo(&two);
        let stream = one.peers.open(two.id, DATA, "source".into()).await;
        let mut stream = stream.expect("it opens");
        let first = stream.recv().await.expect("a message");
        assert_eq!(first.len(), 100_000);
        drop(stream);
        echo.gate.notified().await;
    });
}

#[test]
fn refusal_of_a_handler_is_the_end_of_its_stream() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        let none = one.peers.open(two.id, DATA, Bytes::new()).await;
        assert_eq!(none.err(), Some(CallError::NoService));
        echo(&two);
        let stream = one.peers.open(two.id, DATA, "no".into()).await;
        let (sender, mut receiver) = stream.expect("it opens").split();
        assert_eq!(receiver.recv().await, None);
        let end = StreamEnd::Refused(Refusal {
            code: 9,
            text: "not here".to_owned(),
        });
        assert_eq!(receiver.end(), Some(end.clone()));
        assert_eq!(sender.closed().await, end);
        assert_eq!(sender.send(Bytes::new()).await, Err(end));
    });
}

#[test]
fn what_is_too_long_is_not_sent_and_the_stream_goes_on() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        let bytes = HELLO_BYTES_MAX + 1;
        let long = one.peers.open(two.id, DATA, vec![0; bytes].into()).await;
        assert_eq!(long.err(), Some(CallError::TooLarge { bytes }));
        let stream = one.peers.open(two.id, DATA, Bytes::new()).await;
        let mut stream = stream.expect("it opens");
        let bytes = BODY_BYTES_MAX + 1;
        let long = stream.send(vec![0; bytes].into()).await;
        assert_eq!(long, Err(StreamEnd::TooLarge(bytes)));
        stream.send("x".into()).await.expect("it goes");
        assert_eq!(stream.recv().await, Some("x".into()));
    });
}

#[test]
fn stream_ends_with_its_connection_after_what_came_before() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        let stream = one.peers.open(two.id, DATA, Bytes::new()).await;
        let mut stream = stream.expect("it opens");
        stream.send("x".into()).await.expect("it goes");
        env.sleep(Duration::from_secs(1)).await;
        one.peers.set_addresses(addresses([]));
        env.sleep(Duration::from_secs(1)).await;
        assert_eq!(stream.end(), None);
        assert_eq!(stream.recv().await, Some("x".into()));
        assert_eq!(stream.recv().await, None);
        assert_eq!(stream.end(), Some(StreamEnd::Lost));
        assert_eq!(stream.send("y".into()).await, Err(StreamEnd::Lost));
        assert_eq!(two.metric("mainstem_peers_connections", "accepted"), 0);
    });
}

#[test]
fn streams_that_ended_take_no_place() {
    simulate(1, |env| async move {
        let (one, two) = pair(&env).await;
        echo(&two);
        for round in 0..STREAMS_PER_CONNECTION_MAX * 3 {
            let hello = if round % 3 == 0 { "no" } else { "" };
            let stream = one.peers.open(two.id, DATA, hello.into()).await;
            let mut stream = stream.expect("it opens");
            if round % 3 == 1 {
                stream.send("x".into()).await.expect("it goes");
                assert_eq!(stream.recv().await, Some("x".into()));
            }
            drop(stream);
            env.sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Everything that happens, with its time.
async fn history(env: Env) -> Vec<String> {
    let (one, two) = pair(&env).await;
    echo(&one);
    echo(&two);
    let mut tasks = Vec::new();
    for number in 0..20_u8 {
        let (from, to) = if number % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let (peers, to, clock) = (from.peers.clone(), to.id, env.clone());
        tasks.push(env.start("test", async move {
            let service = if number % 3 == 0 { DATA } else { CONTROL };
            let body = vec![number; usize::from(number) * 1000];
            let answer = peers.call(to, service, body.into(), LONG).await;
            format!(
                "{number} {:?} {:?}",
                clock.now(),
                answer.map(|body| body.len())
            )
        }));
    }
    let mut history = Vec::new();
    for task in tasks {
        history.push(task.await.expect("it ends"));
    }
    let count = |node: &Node| node.metric("mainstem_peers_sent_bytes_total", "");
    one.peers.close().await;
    two.peers.close().await;
    history.push(format!("{:?} {} {}", env.now(), count(&one), count(&two)));
    history
}

#[test]
fn same_seed_gives_the_same_history() {
    for seed in 0..5 {
        assert_eq!(simulate(seed, history), simulate(seed, history));
    }
}
