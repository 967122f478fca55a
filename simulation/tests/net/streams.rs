//! Streams and listeners on a network without faults.

use std::io::ErrorKind;

use mainstem_simulation::{HostId, LinkOptions, NetOptions, SOCKET_BUFFER_BYTES, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{A, B, LONG, Pair, expect, is_silent, listen, ms, next, of_b, process, send, stream};

#[test]
fn stream_carries_bytes_both_ways_until_each_side_ends_it() {
    run(1, |world| async move {
        let Pair {
            mut near, mut far, ..
        } = Pair::new(&world).await;
        send(&mut near, "request").await;
        expect(&mut far, "request").await;
        near.shutdown().await.unwrap();
        assert_eq!(
            near.write(b"more").await.unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        assert_eq!(next(&mut far).await, Ok(None));
        send(&mut far, "answer").await;
        drop(far);
        expect(&mut near, "answer").await;
        assert_eq!(next(&mut near).await, Ok(None));
    });
}

#[test]
fn each_host_has_its_own_loopback_and_address() {
    run(1, |world| async move {
        let (a, b) = (process(&world, A, 1), process(&world, B, 2));
        let of_a = listen(&a.env, "127.0.0.1:9092").await.unwrap();
        let of_b = listen(&b.env, "127.0.0.1:9092").await.unwrap();
        let address = of_b.local_addr().unwrap();
        let (near, accepted) = tokio::join!(b.env.net.connect(address), of_b.accept());
        let (mut near, (mut far, peer)) = (near.unwrap(), accepted.unwrap());
        assert!(peer.ip().is_loopback());
        send(&mut near, "b").await;
        expect(&mut far, "b").await;
        let other = a.env.timeout(LONG, of_a.accept()).await;
        assert!(other.is_err(), "nobody connected to A");
        // What listens on the loopback is not there for others.
        let refused = a
            .env
            .net
            .connect(format!("{}:9092", B.ip()).parse().unwrap())
            .await;
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn addresses_are_taken_once_and_free_again_with_their_listener() {
    run(1, |world| async move {
        let a = process(&world, A, 1);
        let kind = async |address: &str| listen(&a.env, address).await.err().map(|e| e.kind());
        let one = listen(&a.env, "10.0.0.1:80").await.unwrap();
        assert_eq!(kind("10.0.0.1:80").await, Some(ErrorKind::AddrInUse));
        assert_eq!(kind("0.0.0.0:80").await, Some(ErrorKind::AddrInUse));
        assert_eq!(kind("10.0.0.2:80").await, Some(ErrorKind::AddrNotAvailable));
        assert_eq!(kind("127.0.0.1:80").await, None, "another address");
        drop(one);
        assert_eq!(kind("0.0.0.0:80").await, None);
        let free = [
            listen(&a.env, "0.0.0.0:0").await,
            listen(&a.env, "0.0.0.0:0").await,
        ];
        let [one, other] = free.map(|listener| listener.unwrap());
        let (one, other) = (one.local_addr().unwrap(), other.local_addr().unwrap());
        assert!(one.port() != 0 && other.port() != 0 && one != other);
    });
}

#[test]
fn connection_is_refused_where_nobody_listens_or_the_process_has_ended() {
    run(1, |world| async move {
        let Pair { a, b, listener, .. } = Pair::new(&world).await;
        let nobody = format!("{}:1", B.ip()).parse().unwrap();
        let refused = a.env.net.connect(nobody).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        b.end();
        let refused = a.env.net.connect(of_b(&*listener)).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let next = process(&world, B, 3);
        let port = listener.local_addr().unwrap().port();
        let listener = listen(&next.env, &format!("0.0.0.0:{port}")).await.unwrap();
        stream(&a.env, &*listener).await;
    });
}

#[test]
fn connection_to_nowhere_times_out() {
    run(1, |world| async move {
        let a = process(&world, A, 1);
        for nowhere in [
            format!("{}:80", HostId(77).ip()),
            "192.168.0.1:80".to_owned(),
        ] {
            let before = a.env.now();
            let error = a
                .env
                .net
                .connect(nowhere.parse().unwrap())
                .await
                .err()
                .unwrap();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert_eq!(a.env.now() - before, NetOptions::default().connect_give_up);
        }
    });
}

#[test]
fn writer_waits_while_the_buffer_is_full() {
    run(1, |world| async move {
        let Pair {
            a,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        let all = vec![7; 3 * SOCKET_BUFFER_BYTES];
        let mut written = 0;
        let fill = async {
            loop {
                written += near.write(&all[written..]).await.unwrap();
            }
        };
        assert!(a.env.timeout(LONG, fill).await.is_err(), "nobody reads");
        assert_eq!(written, SOCKET_BUFFER_BYTES);
        let mut some = vec![0; 1000];
        far.read_exact(&mut some).await.unwrap();
        assert_eq!(near.write(&all).await.unwrap(), some.len());
    });
}

#[test]
fn backlog_is_bounded_and_who_does_not_fit_tries_again() {
    run(1, |world| async move {
        let options = NetOptions {
            backlog: 2,
            ..NetOptions::default()
        };
        world.net().set_options(options);
        let (a, b) = (process(&world, A, 1), process(&world, B, 2));
        let listener = listen(&b.env, "0.0.0.0:0").await.unwrap();
        let address = of_b(&*listener);
        let _first = a.env.net.connect(address).await.unwrap();
        let _second = a.env.net.connect(address).await.unwrap();
        let third = a.env.net.connect(address);
        assert!(a.env.timeout(ms(5000), third).await.is_err());
        let (third, _) = tokio::join!(a.env.net.connect(address), async {
            a.env.sleep(ms(500)).await;
            listener.accept().await.unwrap()
        });
        third.unwrap();
    });
}

#[test]
fn delay_is_that_of_the_link_each_way() {
    run(1, |world| async move {
        let Pair {
            a,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        let slow = |delay| LinkOptions {
            delay,
            ..LinkOptions::default()
        };
        world.net().set_links(slow(ms(30)));
        world.net().set_link(B, A, Some(slow(ms(5))));
        let before = a.env.now();
        send(&mut near, "ping").await;
        expect(&mut far, "ping").await;
        assert_eq!(a.env.now() - before, ms(30));
        send(&mut far, "pong").await;
        expect(&mut near, "pong").await;
        assert_eq!(a.env.now() - before, ms(35));
    });
}

#[test]
fn stopped_process_keeps_its_streams_and_goes_on_later() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            mut far,
            listener,
        } = Pair::new(&world).await;
        b.env.spawn("echo", async move {
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                far.write_all(&byte).await.unwrap();
            }
        });
        send(&mut near, "a").await;
        expect(&mut near, "a").await;
        b.pause();
        send(&mut near, "b").await;
        assert!(is_silent(&a.env, &mut near, LONG).await);
        // Its host still takes connections for it.
        let other = a.env.net.connect(of_b(&*listener)).await;
        assert!(other.is_ok());
        b.resume();
        expect(&mut near, "b").await;
    });
}
