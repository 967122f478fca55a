//! Clocks of hosts that are not exact.

use mainstem_env::Clock as _;
use mainstem_simulation::run;

use crate::{A, B, ms, process};

#[test]
fn fast_clock_shows_more_and_sleeps_less() {
    run(1, |world| async move {
        let (a, b) = (process(&world, A, 1), process(&world, B, 2));
        world.clock().sleep(ms(1000)).await;
        world.host_clock(A).set_rate(100_000);
        a.env.sleep(ms(1100)).await;
        assert_eq!(world.clock().now(), ms(2000));
        assert_eq!(a.env.now(), ms(2100));
        assert_eq!(b.env.now(), ms(2000));
        world.host_clock(A).set_rate(0);
        a.env.sleep(ms(1000)).await;
        assert_eq!(world.clock().now(), ms(3000));
        assert_eq!(a.env.now(), ms(3100), "it never goes back");
        assert_eq!(a.env.wall_ms() - b.env.wall_ms(), 100);
    });
}

#[test]
fn clock_that_is_slowed_down_makes_sleepers_wait() {
    run(1, |world| async move {
        let a = process(&world, A, 1);
        let sleep = async {
            a.env.sleep(ms(1000)).await;
            (a.env.now(), world.clock().now())
        };
        let slow_down = async {
            world.clock().sleep(ms(500)).await;
            world.host_clock(A).set_rate(-500_000);
        };
        let ((local, outside), ()) = tokio::join!(sleep, slow_down);
        assert_eq!((local, outside), (ms(1000), ms(1500)));
    });
}

#[test]
fn wall_clock_jumps_and_timers_do_not_care() {
    run(1, |world| async move {
        let a = process(&world, A, 1);
        let before = a.env.wall_ms();
        world.host_clock(A).jump(-5000);
        assert_eq!(a.env.wall_ms(), before - 5000);
        a.env.sleep(ms(10)).await;
        assert_eq!(world.clock().now(), ms(10));
        // The clock is the host's: the next process has it, too.
        a.end();
        assert_eq!(process(&world, A, 2).env.wall_ms(), before - 4990);
    });
}
