//! How streams end when a process or a host does.

use std::io::ErrorKind;

use mainstem_simulation::{NetOptions, run};
use tokio::io::AsyncWriteExt;

use crate::{A, B, LONG, Pair, expect, is_silent, listen, ms, next, of_b, process, send};

#[test]
fn end_of_a_process_is_told_after_what_it_sent() {
    run(1, |world| async move {
        let Pair {
            b,
            mut near,
            mut far,
            ..
        } = Pair::new(&world).await;
        send(&mut far, "last words").await;
        b.end();
        expect(&mut near, "last words").await;
        assert_eq!(next(&mut near).await, Ok(None));
        // Whoever still holds the stream of an ended process has nothing.
        assert_eq!(next(&mut far).await, Err(ErrorKind::ConnectionAborted));
        // The host knows nobody who would read this.
        send(&mut near, "late").await;
        assert_eq!(next(&mut near).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(
            near.write(b"x").await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn process_that_ends_without_having_read_all_resets() {
    run(1, |world| async move {
        let Pair {
            b,
            mut near,
            far: _far,
            ..
        } = Pair::new(&world).await;
        send(&mut near, "unread").await;
        b.end();
        assert_eq!(next(&mut near).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn writer_that_waits_learns_of_the_end() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            far: _far,
            ..
        } = Pair::new(&world).await;
        let write = async {
            loop {
                if let Err(error) = near.write(&[0; 4096]).await {
                    return error.kind();
                }
            }
        };
        let end = async {
            a.env.sleep(ms(10)).await;
            b.end();
        };
        let (kind, ()) = tokio::join!(write, end);
        assert_eq!(kind, ErrorKind::ConnectionReset);
    });
}

#[test]
fn connections_that_wait_to_be_accepted_are_reset_with_their_listener() {
    run(1, |world| async move {
        let (a, b) = (process(&world, A, 1), process(&world, B, 2));
        let listener = listen(&b.env, "0.0.0.0:0").await.unwrap();
        let mut stream = a.env.net.connect(of_b(&*listener)).await.unwrap();
        drop(listener);
        assert_eq!(next(&mut stream).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn power_cut_is_told_to_nobody_until_the_host_is_back_and_asked() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            far: _far,
            ..
        } = Pair::new(&world).await;
        world.net().power_off(B);
        b.end();
        assert!(is_silent(&a.env, &mut near, LONG).await);
        world.net().power_on(B);
        assert!(is_silent(&a.env, &mut near, LONG).await, "it has forgotten");
        send(&mut near, "anybody there?").await;
        assert_eq!(next(&mut near).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn bytes_for_a_host_without_power_time_out() {
    run(1, |world| async move {
        let Pair {
            a,
            mut near,
            far: _far,
            ..
        } = Pair::new(&world).await;
        world.net().power_off(B);
        let before = a.env.now();
        send(&mut near, "anybody there?").await;
        assert_eq!(next(&mut near).await, Err(ErrorKind::TimedOut));
        assert_eq!(a.env.now() - before, NetOptions::default().give_up);
    });
}

#[test]
fn end_of_an_isolated_process_is_learned_when_the_host_is_reached_again() {
    run(1, |world| async move {
        let Pair {
            a,
            b,
            mut near,
            far: _far,
            ..
        } = Pair::new(&world).await;
        world.net().isolate(B);
        b.end();
        assert!(is_silent(&a.env, &mut near, ms(60_000)).await);
        world.net().rejoin(B);
        // Its end is sent again and again.
        assert_eq!(next(&mut near).await, Ok(None));
    });
}
