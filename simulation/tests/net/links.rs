//! Links that cut, hold, lose and delay packets.

use std::io::ErrorKind;

use mainstem_simulation::{LinkOptions, NetOptions, SOCKET_BUFFER_BYTES, run, seeds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{A, B, LONG, Pair, expect, is_silent, ms, next, of_b, send, stream};

#[test]
fn cut_stalls_one_direction_and_healing_brings_all_in_order() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        world.net().cut(A, B);
        send(&mut near, "one ").await;
        send(&mut near, "two").await;
        assert!(is_silent(&b.env, &mut far, ms(30_000)).await);
        send(&mut far, "the other way").await;
        expect(&mut near, "the other way").await;
        world.net().heal(A, B);
        let healed = a.env.now();
        expect(&mut far, "one two").await;
        let took = a.env.now() - healed;
        assert!(took <= ms(60_000), "sent again in {took:?}");
    });
}

#[test]
fn word_of_what_was_read_does_not_pass_a_cut() {
    run(1, |world| async move {
        let Pair {
            a,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        world.net().cut(B, A);
        let (mut taken, mut buffer) = (0, vec![0; 4096]);
        let read = async {
            loop {
                taken += far.read(&mut buffer).await.unwrap();
            }
        };
        let write = async {
            near.write_all(&vec![0; 2 * SOCKET_BUFFER_BYTES])
                .await
                .unwrap();
        };
        let both = async { tokio::join!(read, write) };
        assert!(a.env.timeout(LONG, both).await.is_err());
        assert_eq!(taken, SOCKET_BUFFER_BYTES, "all that was sent, and no more");
        world.net().heal(B, A);
        near.write_all(&vec![0; 4096]).await.unwrap();
    });
}

#[test]
fn stream_of_an_isolated_host_gives_up_in_the_end() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        world.net().isolate(B);
        send(&mut near, "hello").await;
        assert!(is_silent(&b.env, &mut far, ms(60_000)).await);
        assert_eq!(next(&mut near).await, Err(ErrorKind::TimedOut));
        assert_eq!(a.env.now(), NetOptions::default().give_up);
        // The other side has nothing to send, and learns nothing, healed or not.
        world.net().rejoin(B);
        assert!(is_silent(&b.env, &mut far, LONG).await);
        drop(near);
        send(&mut far, "hello?").await;
        assert_eq!(next(&mut far).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn connections_are_not_made_over_a_cut_in_either_direction() {
    run(1, |world| async move {
        let Pair { a, listener, .. } = Pair::new(&world).await;
        for (from, to) in [(A, B), (B, A)] {
            world.net().cut(from, to);
            let connect = a.env.net.connect(of_b(&*listener));
            assert!(a.env.timeout(ms(60_000), connect).await.is_err());
            let accept = a.env.timeout(ms(60_000), listener.accept());
            assert!(accept.await.is_err(), "none is half made");
            world.net().heal(from, to);
            stream(&a.env, &*listener).await;
        }
    });
}

#[test]
fn cuts_add_up() {
    run(1, |world| async move {
        let Pair {
            b,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        world.net().cut(A, B);
        world.net().cut(A, B);
        world.net().isolate(A);
        send(&mut near, "x").await;
        world.net().heal(A, B);
        assert!(is_silent(&b.env, &mut far, ms(30_000)).await);
        world.net().heal(A, B);
        assert!(is_silent(&b.env, &mut far, ms(30_000)).await);
        world.net().heal_all();
        expect(&mut far, "x").await;
    });
}

/// The order in which two streams arrive that were held together, by seed.
fn released_first(seed: u64) -> usize {
    run(seed, |world| async move {
        let Pair {
            a,
            mut near,
            mut far,
            listener,
            ..
        } = Pair::new(&world).await;
        let (mut other_near, mut other_far) = stream(&a.env, &*listener).await;
        world.net().hold(A, B);
        send(&mut near, "first").await;
        a.env.sleep(ms(5000)).await;
        send(&mut other_near, "second").await;
        assert!(is_silent(&a.env, &mut far, LONG).await);
        world.trace().keep();
        let before = a.env.now();
        world.net().release(A, B);
        expect(&mut far, "first").await;
        expect(&mut other_far, "second").await;
        assert_eq!(a.env.now(), before, "at once");
        let trace = world.trace().text();
        let arrivals: Vec<&str> = trace.lines().filter(|line| line.contains(" -> ")).collect();
        assert_eq!(arrivals.len(), 3, "{trace}");
        // The first line is the release itself; the second stream has the higher number.
        let number = |line: &str| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
        usize::from(number(arrivals[1]) > number(arrivals[2]))
    })
}

#[test]
fn what_was_held_arrives_in_any_order_of_streams() {
    let orders: Vec<usize> = (0..20).map(released_first).collect();
    assert!(orders.contains(&0) && orders.contains(&1), "{orders:?}");
}

#[test]
fn bad_link_delays_bytes_and_neither_loses_nor_reorders_them() {
    for seed in seeds(10) {
        run(seed, |world| async move {
            let Pair {
                a,
                mut near,
                mut far,
                ..
            } = Pair::new(&world).await;
            let bad = LinkOptions {
                delay: ms(1),
                jitter: ms(50),
                loss_per_10_000: 2000,
            };
            world.net().set_links(bad);
            let sent: Vec<u8> = (0..200_000_u32).map(|n| (n / 7 % 251) as u8).collect();
            let write = async {
                let mut dice = world.dice(5);
                let mut rest = &sent[..];
                while !rest.is_empty() {
                    let some = 1 + dice.index(rest.len().min(5000));
                    near.write_all(&rest[..some]).await.unwrap();
                    rest = &rest[some..];
                }
                near.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(far.read_to_end(&mut got), write);
            read.unwrap();
            assert!(got == sent, "the same bytes");
            assert!(a.env.now() > ms(200), "losses take time");
        });
    }
}

#[test]
fn streams_overtake_each_other() {
    let overtaken = |seed| {
        run(seed, |world| async move {
            let Pair {
                a,
                mut near,
                mut far,
                listener,
                ..
            } = Pair::new(&world).await;
            let (mut other_near, mut other_far) = stream(&a.env, &*listener).await;
            world.net().set_links(LinkOptions {
                jitter: ms(100),
                ..LinkOptions::default()
            });
            send(&mut near, "1").await;
            send(&mut other_near, "2").await;
            tokio::select! {
                biased;
                _ = next(&mut far) => false,
                _ = next(&mut other_far) => true,
            }
        })
    };
    let found: Vec<bool> = (0..20).map(overtaken).collect();
    assert!(found.contains(&true) && found.contains(&false), "{found:?}");
}
