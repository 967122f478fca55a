//! How soon a leader is missed, and that one who only is far away or waits for its disk is not.

use std::time::Duration;

use mainstem_env::Clock as _;
use mainstem_metadata::Command;
use mainstem_simulation::{Fault, HostId, LinkOptions, Step, World, each_seed};
use parking_lot::Mutex;

use crate::quorum::Quorum;

/// Seeds of `make test`, for each size.
const SEEDS: u64 = 4;
const SIZES: [u16; 2] = [3, 5];
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// A leader that is gone is replaced within this time, also if two sought votes at once and again.
const FAIL_OVER: Duration = Duration::from_secs(3);
/// Half of the leaders that are gone are replaced within this time: a lease, which the last heartbeat
/// was a little into, a random part of which the shortest of several counts, and an election.
const HALF_MISSED: Duration = Duration::from_millis(650);

const NEAR: LinkOptions = LinkOptions {
    delay: Duration::from_micros(200),
    jitter: Duration::from_millis(1),
    loss_per_10_000: 0,
};
/// 200 ms there and back, with a jitter of half of it.
const FAR: LinkOptions = LinkOptions {
    delay: Duration::from_millis(50),
    jitter: Duration::from_millis(100),
    loss_per_10_000: 0,
};

/// Further than a round of asking for votes waits.
const FARTHER: LinkOptions = LinkOptions {
    delay: Duration::from_millis(140),
    jitter: Duration::from_millis(20),
    loss_per_10_000: 0,
};

async fn healthy(world: &World, size: u16, links: LinkOptions) -> Quorum {
    world.net().set_links(links);
    let mut quorum = Quorum::new(world, size);
    quorum.start_all();
    let look = || quorum.is_healthy().then_some(());
    quorum.until("all is well", PATIENCE, look).await;
    quorum
}

async fn pass(quorum: &Quorum, time: Duration) {
    quorum.world.clock().sleep(time).await;
}

/// Ends leaders by `end`, one after the other; tells within which time half of them were replaced, and
/// all.
fn missed(
    name: &str,
    links: LinkOptions,
    end: impl Fn(&mut Quorum, HostId) + Sync,
) -> (Duration, Duration) {
    let missed = Mutex::new(Vec::new());
    each_seed(name, SEEDS, |seed| {
        for size in SIZES {
            let (end, missed) = (&end, &missed);
            mainstem_simulation::run(seed, |world| async move {
                let mut quorum = healthy(&world, size, links).await;
                for _ in 0..5 {
                    let (leader, term) = quorum.leader().expect("a leader");
                    // Not always at the same moment between two heartbeats.
                    pass(
                        &quorum,
                        Duration::from_millis(1000 + world.dice(8000 + term).below(200)),
                    )
                    .await;
                    end(&mut quorum, leader);
                    let next = || quorum.leader().filter(|(_, next)| *next > term);
                    let (_, took) = quorum.until("another leads", PATIENCE, next).await;
                    missed.lock().push(took);
                    quorum.start(leader);
                    let look = || quorum.is_healthy().then_some(());
                    quorum.until("all is well", PATIENCE, look).await;
                }
            });
        }
    });
    let mut missed = missed.into_inner();
    missed.sort();
    let (half, all) = (missed[missed.len() / 2], missed[missed.len() - 1]);
    println!(
        "{name}: {} times, half in {half:?}, all in {all:?}",
        missed.len()
    );
    (half, all)
}

#[test]
fn a_leader_that_is_killed_is_missed_soon() {
    let missed = missed("killed", NEAR, |quorum, leader| quorum.kill(leader));
    assert!(
        missed.0 <= HALF_MISSED && missed.1 <= FAIL_OVER,
        "{missed:?}"
    );
}

#[test]
fn a_leader_without_power_is_missed_soon() {
    let missed = missed("power cut", NEAR, |quorum, leader| {
        let fault = Fault::PowerCut(leader);
        quorum.apply(Step {
            at: Duration::ZERO,
            fault,
            begins: true,
        });
    });
    assert!(
        missed.0 <= HALF_MISSED && missed.1 <= FAIL_OVER,
        "{missed:?}"
    );
}

/// Proposes through all nodes in turn for so long, each at once after the other; tells how many.
async fn propose(quorum: &Quorum, time: Duration) -> u32 {
    let ends = quorum.world.clock().now() + time;
    let mut count = 0;
    while quorum.world.clock().now() < ends {
        for (host, _, metadata) in quorum.living() {
            let answer = quorum
                .env
                .timeout(PATIENCE, metadata.propose(Command::Barrier));
            let answer = answer.await;
            assert!(
                matches!(answer, Ok(Ok(_))),
                "{host:?} is answered {answer:?}"
            );
            count += 1;
        }
    }
    count
}

fn each(name: &str, links: LinkOptions, scene: impl AsyncFn(Quorum) + Sync) {
    each_seed(name, SEEDS, |seed| {
        for size in SIZES {
            let scene = &scene;
            mainstem_simulation::run(seed, |world| async move {
                let quorum = healthy(&world, size, links).await;
                scene(quorum).await;
            });
        }
    });
}

#[test]
fn nodes_that_are_far_from_each_other_take_proposals_and_keep_their_leader() {
    each("far", FAR, async |quorum| {
        let leader = quorum.leader();
        let count = propose(&quorum, Duration::from_secs(30)).await;
        // From a follower it is there and back twice, and its own entry comes with the next append.
        assert!(count >= 30, "{count}");
        assert_eq!(quorum.leader(), leader);
        let level = || quorum.is_level().then_some(());
        quorum.until("all level", PATIENCE, level).await;
    });
}

#[test]
fn a_leader_is_missed_also_by_those_who_are_far_away() {
    let missed = missed("far away", FARTHER, |quorum, leader| quorum.kill(leader));
    assert!(
        missed.0 <= Duration::from_secs(2) && missed.1 <= Duration::from_secs(5),
        "{missed:?}"
    );
}

#[test]
fn a_leader_that_is_further_away_than_elections_wait_is_heard_by_the_others() {
    each("leader far away", NEAR, async |quorum| {
        let (leader, term) = quorum.leader().expect("a leader");
        let net = quorum.world.net();
        let far = LinkOptions {
            delay: Duration::from_millis(300),
            ..NEAR
        };
        for other in quorum.hosts() {
            net.set_link(leader, other, Some(far));
            net.set_link(other, leader, Some(far));
        }
        pass(&quorum, Duration::from_secs(30)).await;
        net.heal_all();
        let look = || quorum.is_healthy().then_some(());
        quorum.until("all is well", PATIENCE, look).await;
        assert_eq!(quorum.leader(), Some((leader, term)));
    });
}

/// Steps of the stall of a node's disk.
fn stall(host: HostId, begins: bool) -> Step {
    Step {
        at: Duration::ZERO,
        fault: Fault::Stall(host),
        begins,
    }
}

#[test]
fn a_leader_is_heard_by_those_who_wait_for_their_disks() {
    each("slow disks", NEAR, async |mut quorum| {
        let (leader, term) = quorum.leader().expect("a leader");
        let metadata = quorum.metadata(leader).expect("it lives").1;
        let others: Vec<_> = quorum
            .hosts()
            .into_iter()
            .filter(|host| *host != leader)
            .collect();
        for _ in 0..5 {
            for other in &others {
                quorum.apply(stall(*other, true));
            }
            let answer = metadata.propose(Command::Barrier);
            let early = quorum.env.timeout(Duration::from_millis(650), answer).await;
            assert!(early.is_err(), "nobody has stored it");
            // Who goes on first would ask the others whether they vote for it.
            for other in &others {
                quorum.apply(stall(*other, false));
                pass(&quorum, Duration::from_millis(100)).await;
            }
            pass(&quorum, Duration::from_secs(2)).await;
            assert_eq!(quorum.leader(), Some((leader, term)));
        }
    });
}

#[test]
fn a_leader_whose_disk_does_not_answer_is_replaced() {
    each("stalled leader", NEAR, async |mut quorum| {
        let (leader, term) = quorum.leader().expect("a leader");
        let (_, metadata) = quorum.metadata(leader).expect("it lives");
        quorum.apply(stall(leader, true));
        quorum.env.spawn("proposes", async move {
            // Nobody knows what becomes of it.
            let _ = metadata.propose(Command::Barrier).await;
        });
        let next = || {
            let mut living = quorum.living().into_iter();
            living.find_map(|(host, _, metadata)| {
                let now = *metadata.leadership().borrow();
                (host != leader && now.leads && now.term > term).then_some(())
            })
        };
        quorum.until("another leads", FAIL_OVER, next).await;
        quorum.apply(stall(leader, false));
        let look = || quorum.is_healthy().then_some(());
        quorum.until("all is well", PATIENCE, look).await;
    });
}
