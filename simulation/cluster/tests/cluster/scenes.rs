//! What a quorum does in one situation each.

use std::time::Duration;

use mainstem_env::Clock as _;
use mainstem_metadata::{Command, Metadata};
use mainstem_simulation::{HostId, World, each_seed};

use crate::quorum::Quorum;

/// Seeds of `make test`, for each size.
const SEEDS: u64 = 4;
const SIZES: [u16; 2] = [3, 5];
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// A leader that is gone is replaced within this time.
const FAIL_OVER: Duration = Duration::from_secs(3);
/// Raft's lease and more: who does not hear a leader seeks votes within this time.
const SILENCE: Duration = Duration::from_secs(3);

/// Runs a scene on clusters of all sizes that have just become healthy.
fn each<F: Future<Output = ()>>(name: &str, scene: impl Fn(Quorum) -> F + Sync) {
    each_seed(name, SEEDS, |seed| {
        for size in SIZES {
            mainstem_simulation::run(seed, |world: World| {
                let scene = &scene;
                async move {
                    let mut quorum = Quorum::new(&world, size);
                    quorum.start_all();
                    well(&quorum).await;
                    scene(quorum).await;
                }
            });
        }
    });
}

async fn well(quorum: &Quorum) -> Duration {
    let look = || quorum.is_healthy().then_some(());
    quorum.until("all is well", PATIENCE, look).await.1
}

/// The leader and its term, and the others.
fn roles(quorum: &Quorum) -> (HostId, u64, Vec<HostId>) {
    let (leader, term) = quorum.leader().expect("a leader");
    let others = quorum.hosts().into_iter().filter(|host| *host != leader);
    (leader, term, others.collect())
}

async fn proposes(quorum: &Quorum, metadata: &Metadata, limit: Duration) -> bool {
    let answer = metadata.propose(Command::Barrier);
    let answer = quorum.env.timeout(limit, answer).await;
    matches!(answer, Ok(Ok(_)))
}

async fn pass(quorum: &Quorum, time: Duration) {
    quorum.world.clock().sleep(time).await;
}

#[test]
fn every_node_proposes_and_all_see_it() {
    each("every node proposes", |quorum| async move {
        for (_, _, metadata) in quorum.living() {
            assert!(proposes(&quorum, &metadata, PATIENCE).await);
        }
        let level = || quorum.is_level().then_some(());
        quorum.until("all level", PATIENCE, level).await;
    });
}

#[test]
fn a_leader_that_dies_is_replaced_and_comes_back_without_a_stir() {
    each("leader dies", |mut quorum| async move {
        for _ in 0..3 {
            let (leader, term, _) = roles(&quorum);
            quorum.kill(leader);
            let next = || quorum.leader().filter(|(_, next)| *next > term);
            let ((next, next_term), _) = quorum.until("another leads", FAIL_OVER, next).await;
            assert_ne!(next, leader);
            quorum.start(leader);
            well(&quorum).await;
            pass(&quorum, SILENCE).await;
            assert_eq!(quorum.leader(), Some((next, next_term)), "nobody stirs");
        }
    });
}

#[test]
fn a_node_that_was_cut_off_does_not_depose_the_leader_when_it_is_back() {
    each("cut off", |quorum| async move {
        let (leader, term, others) = roles(&quorum);
        let net = quorum.world.net();
        for other in others {
            net.isolate(other);
            pass(&quorum, 2 * SILENCE).await;
            net.rejoin(other);
            well(&quorum).await;
            pass(&quorum, SILENCE).await;
            assert_eq!(quorum.leader(), Some((leader, term)));
        }
    });
}

#[test]
fn a_leader_that_is_cut_off_stops_saying_that_it_leads() {
    each("leader cut off", |quorum| async move {
        let (leader, term, _) = roles(&quorum);
        quorum.world.net().isolate(leader);
        let (_, old) = quorum.metadata(leader).expect("it lives");
        let quiet = || (!old.leadership().borrow().leads).then_some(());
        quorum.until("it is quiet", FAIL_OVER, quiet).await;
        let next = || quorum.leader().filter(|(_, next)| *next > term);
        quorum.until("another leads", FAIL_OVER, next).await;
        assert!(!proposes(&quorum, &old, FAIL_OVER).await);
        let read = quorum.env.timeout(FAIL_OVER, old.barrier()).await;
        assert!(!matches!(read, Ok(Ok(()))), "it reads what may be old");
        quorum.world.net().rejoin(leader);
        well(&quorum).await;
        assert!(proposes(&quorum, &old, PATIENCE).await);
    });
}

#[test]
fn without_a_majority_nothing_is_decided_until_one_is_back() {
    each("no majority", |mut quorum| async move {
        let (leader, _, others) = roles(&quorum);
        let gone = &others[..quorum.hosts().len() / 2];
        let killed: Vec<HostId> = gone.iter().copied().chain([leader]).collect();
        for host in &killed {
            quorum.kill(*host);
        }
        pass(&quorum, SILENCE).await;
        let left = quorum.living();
        for (_, _, metadata) in &left {
            assert!(!proposes(&quorum, metadata, SILENCE).await);
        }
        quorum.start(killed[0]);
        let leads = || quorum.leader().map(|_| ());
        quorum.until("somebody leads", PATIENCE, leads).await;
        for (_, _, metadata) in &left {
            assert!(proposes(&quorum, metadata, PATIENCE).await);
        }
        quorum.start_all();
        well(&quorum).await;
    });
}

#[test]
fn a_leader_that_hears_the_others_but_is_not_heard_is_replaced() {
    each("one way", |quorum| async move {
        let (leader, term, others) = roles(&quorum);
        let net = quorum.world.net();
        for other in &others {
            net.cut(leader, *other);
        }
        let next = || {
            let next = quorum.living();
            next.iter().find_map(|(host, _, metadata)| {
                let now = *metadata.leadership().borrow();
                (*host != leader && now.leads && now.term > term).then_some(())
            })
        };
        quorum.until("another leads", 3 * FAIL_OVER, next).await;
        net.heal_all();
        well(&quorum).await;
    });
}
