//! Schedules of faults, and that a seed repeats its history.

use std::{collections::BTreeMap, time::Duration};

use mainstem_env::Clock as _;
use mainstem_simulation::{
    ChaosOptions, Dice, Fault, FaultClass, HostId, LinkOptions, World, run, schedule, seeds,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{ms, process};

const HOSTS: [HostId; 3] = [HostId(1), HostId(2), HostId(3)];

const ALL: [FaultClass; 12] = [
    FaultClass::Cut,
    FaultClass::Partition,
    FaultClass::Isolate,
    FaultClass::Hold,
    FaultClass::Slow,
    FaultClass::Drift,
    FaultClass::Jump,
    FaultClass::Stall,
    FaultClass::Pause,
    FaultClass::Restart,
    FaultClass::Kill,
    FaultClass::PowerCut,
];

fn options(classes: &[FaultClass]) -> ChaosOptions {
    ChaosOptions {
        hosts: HOSTS.to_vec(),
        processes: HOSTS.to_vec(),
        classes: classes.to_vec(),
        ends: Duration::from_secs(60),
        pause_max: ms(2000),
        lasts_max: ms(5000),
    }
}

#[test]
fn schedule_ends_what_it_begins_and_leaves_one_fault_to_a_process() {
    for seed in seeds(50) {
        let options = options(&ALL);
        let steps = schedule(&mut Dice::new(seed), &options);
        assert_eq!(steps, schedule(&mut Dice::new(seed), &options));
        assert!(steps.len() > 20, "{}", steps.len());
        assert!(steps.is_sorted_by_key(|step| step.at));
        assert!(steps.iter().all(|step| step.at <= options.ends));
        let mut down: BTreeMap<HostId, Fault> = BTreeMap::new();
        let mut open: Vec<Fault> = Vec::new();
        for step in steps {
            if step.begins {
                open.push(step.fault);
            } else {
                let at = open.iter().position(|fault| *fault == step.fault);
                open.remove(at.expect("it has begun"));
            }
            match step.fault.process() {
                Some(host) if step.begins => assert_eq!(down.insert(host, step.fault), None),
                Some(host) => assert_eq!(down.remove(&host), Some(step.fault)),
                None => {}
            }
        }
        assert_eq!(open, []);
    }
}

/// Three hosts that talk to each other while everything goes wrong; the trace, and the messages that
/// were answered before and after all faults were over.
fn talk(seed: u64) -> (String, (u64, u64), u64, u64) {
    run(seed, |world| async move {
        world.trace().keep();
        world.net().set_links(LinkOptions {
            delay: ms(1),
            jitter: ms(20),
            loss_per_10_000: 100,
        });
        let answered = std::cell::Cell::new(0);
        let classes = &ALL[..7];
        let steps = schedule(&mut world.dice(7), &options(classes));
        let talkers = async {
            let talker = |number| talker(&world, number, &answered);
            tokio::join!(talker(0), talker(1), talker(2));
        };
        let faults = async {
            let mut passed = Duration::ZERO;
            for step in steps {
                world.clock().sleep(step.at - passed).await;
                passed = step.at;
                assert!(world.apply(step.fault, step.begins), "{:?}", step.fault);
            }
            let before = answered.get();
            world.clock().sleep(Duration::from_secs(30)).await;
            (before, answered.get() - before)
        };
        let (before, after) = tokio::select! {
            biased;
            counts = faults => counts,
            () = talkers => unreachable!("they talk for ever"),
        };
        (world.trace().text(), world.trace().digest(), before, after)
    })
}

/// Listens, answers, and asks the next host.
async fn talker(world: &World, number: usize, answered: &std::cell::Cell<u64>) {
    let (host, next) = (HOSTS[number], HOSTS[(number + 1) % HOSTS.len()]);
    let process = process(world, host, number as u64);
    let env = &process.env;
    let listener = env
        .net
        .listen("0.0.0.0:7000".parse().unwrap())
        .await
        .unwrap();
    let server = env.clone();
    env.spawn("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            server.spawn("echo", async move {
                let mut word = [0; 8];
                while stream.read_exact(&mut word).await.is_ok() {
                    if stream.write_all(&word).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let address = std::net::SocketAddr::new(next.ip(), 7000);
    loop {
        let one = async {
            let mut stream = env.net.connect(address).await?;
            for _ in 0..10 {
                let word = env.random_u64().to_be_bytes();
                let mut back = [0; 8];
                stream.write_all(&word).await?;
                stream.read_exact(&mut back).await?;
                assert_eq!(back, word);
                answered.set(answered.get() + 1);
            }
            std::io::Result::Ok(())
        };
        // Whatever comes of it, the next one is tried.
        let _ = env.timeout(ms(1000), one).await;
        env.sleep(ms(10)).await;
    }
}

#[test]
fn same_seed_has_the_same_history_and_other_seeds_have_others() {
    let mut digests = Vec::new();
    for seed in seeds(3) {
        let (text, digest, before, after) = talk(seed);
        let (again, digest_again, ..) = talk(seed);
        assert!(text == again, "seed {seed} does not repeat itself");
        assert_eq!(digest, digest_again);
        assert_eq!(digest.1, text.lines().count() as u64);
        assert!(before > 100, "{before} messages under faults");
        assert!(after > 500, "{after} messages once they are over");
        assert!(!digests.contains(&digest));
        digests.push(digest);
    }
}
