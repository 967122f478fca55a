//! Quorums under schedules of all kinds of faults, from their first start on.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use mainstem_env::Clock as _;
use mainstem_simulation::{
    ChaosOptions, Fault, FaultClass, HostId, LinkOptions, Step, World, each_seed, schedule,
};
use parking_lot::Mutex;

use crate::{history::History, quorum::Quorum};

/// Seeds of `make test`.
const SEEDS: u64 = 1;
/// How long faults happen.
const FAULTS: Duration = Duration::from_secs(60);
/// Within this time after the last one all is well again.
const HEALS: Duration = Duration::from_secs(15);
/// Who waits for an answer for so long gives up, and does not know.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one looks at all nodes.
const LOOK: Duration = Duration::from_millis(10);
/// The same for runs of which all is compared.
const FAULTS_COMPARED: Duration = Duration::from_secs(12);
/// Answers of one seed, at least.
const ANSWERS_MIN: u64 = 1000;

const CLASSES: [FaultClass; 12] = [
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

/// What happened in one run, or in many.
#[derive(Debug, Default)]
struct Report {
    answers: u64,
    terms: usize,
    faults: BTreeMap<&'static str, u64>,
    heals_ms_max: u128,
}

// === impl Report ===

impl Report {
    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.terms += other.terms;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.heals_ms_max = self.heals_ms_max.max(other.heals_ms_max);
    }

    fn count(&mut self, fault: Fault) {
        let kind = match fault {
            Fault::Cut(..) => "one-way cut",
            Fault::Partition(..) => "partition",
            Fault::Isolate(_) => "isolation",
            Fault::Hold(..) => "held packets",
            Fault::Slow(..) => "slow link",
            Fault::Drift(..) => "clock drift",
            Fault::Jump(..) => "clock jump",
            Fault::Stall(_) => "disk stall",
            Fault::Pause(_) => "pause",
            Fault::Restart(_) => "clean restart",
            Fault::Kill(_) => "kill",
            Fault::PowerCut(_) => "power cut",
        };
        *self.faults.entry(kind).or_default() += 1;
    }
}

/// The faults of one run; at some moment all hosts lose their power.
fn steps(world: &World, hosts: Vec<HostId>, ends: Duration) -> Vec<Step> {
    let mut dice = world.dice(5000);
    let options = ChaosOptions {
        hosts: hosts.clone(),
        processes: hosts.clone(),
        classes: CLASSES.to_vec(),
        ends,
        pause_max: Duration::from_secs(3),
        lasts_max: Duration::from_secs(6),
    };
    let mut steps = schedule(&mut dice, &options);
    let middle = ends / 3 + Duration::from_millis(dice.below(3000));
    let lasts = Duration::from_millis(dice.below(2000));
    for host in hosts {
        let fault = Fault::PowerCut(host);
        for (at, begins) in [(middle, true), (middle + lasts, false)] {
            steps.push(Step { at, fault, begins });
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

/// Proposes and reads through one node until `ends`.
async fn ask(quorum: &RefCell<Quorum>, history: &RefCell<History>, host: HostId, ends: Duration) {
    let world = quorum.borrow().world.clone();
    let env = quorum.borrow().env.clone();
    let mut dice = world.dice(6000 + u64::from(host.0));
    while world.clock().now() < ends {
        env.sleep(Duration::from_millis(dice.below(60))).await;
        let Some((life, metadata)) = quorum.borrow().metadata(host) else {
            continue;
        };
        if dice.one_in(4) {
            let asked = history.borrow().read();
            let read = env.timeout(PATIENCE, metadata.barrier()).await;
            if let Ok(Ok(())) = read {
                let counter = metadata.image().next_producer_id;
                history.borrow_mut().found(&asked, counter);
            }
            continue;
        }
        let count = 1 + i32::try_from(dice.below(5)).expect("small");
        let (asked, command) = history.borrow_mut().propose(count);
        let answer = env.timeout(PATIENCE, metadata.propose(command)).await;
        if let Ok(answer) = answer {
            let stopped = quorum
                .borrow()
                .metadata(host)
                .is_none_or(|(now, _)| now != life);
            history.borrow_mut().proposed(&asked, &answer, stopped);
            let now = world.clock().now();
            world
                .trace()
                .add(now, format_args!("{host:?} is answered {answer:?}"));
        }
    }
}

/// Looks at all nodes until `ends`.
async fn watch(quorum: &RefCell<Quorum>, history: &RefCell<History>, ends: Duration) {
    let clock = quorum.borrow().world.clock().clone();
    while clock.now() < ends {
        for (host, life, metadata) in quorum.borrow().living() {
            history.borrow_mut().look(host, life, &metadata);
        }
        clock.sleep(LOOK).await;
    }
}

/// Faults happen; then they are over, and all must be well again.
async fn happen(quorum: &RefCell<Quorum>, steps: Vec<Step>, report: &mut Report) {
    let world = quorum.borrow().world.clone();
    let mut dice = world.dice(7000);
    let began = world.clock().now();
    let hosts = quorum.borrow().hosts();
    for host in &hosts {
        let after = Duration::from_millis(dice.below(300));
        world.clock().sleep(after).await;
        quorum.borrow_mut().start(*host);
    }
    for step in steps {
        let passed = world.clock().now() - began;
        world.clock().sleep(step.at.saturating_sub(passed)).await;
        if step.begins {
            report.count(step.fault);
        }
        let stopping = quorum.borrow().stopping(step);
        if let Some(stopping) = stopping {
            stopping.await;
        }
        quorum.borrow_mut().apply(step);
    }
    world.net().heal_all();
    quorum.borrow_mut().start_all();
    let began = world.clock().now();
    while !quorum.borrow().is_healthy() {
        let took = world.clock().now() - began;
        assert!(took < HEALS, "seed {}: not well in {HEALS:?}", world.seed());
        world.clock().sleep(LOOK).await;
    }
    report.heals_ms_max = (world.clock().now() - began).as_millis();
}

/// One seed: three nodes, or five.
fn run(seed: u64, faults: Duration, keep: bool) -> (Report, String, (u64, u64)) {
    mainstem_simulation::run(seed, |world| async move {
        if keep {
            world.trace().keep();
        }
        world.net().set_links(LinkOptions {
            delay: Duration::from_micros(200),
            jitter: Duration::from_millis(2),
            loss_per_10_000: 10,
        });
        let count = if seed.is_multiple_of(2) { 3 } else { 5 };
        let quorum = RefCell::new(Quorum::new(&world, count));
        let history = RefCell::new(History::default());
        let hosts = quorum.borrow().hosts();
        let steps = steps(&world, hosts.clone(), faults);
        let mut report = Report::default();
        let ends = faults + HEALS;
        let asking = hosts.iter().map(|host| ask(&quorum, &history, *host, ends));
        let asking: Vec<_> = asking.map(Box::pin).collect();
        tokio::join!(
            happen(&quorum, steps, &mut report),
            watch(&quorum, &history, ends),
            all(asking),
        );
        // Nobody else has it any more.
        let quorum = quorum.into_inner();
        let level = || quorum.is_level().then_some(());
        quorum.until("all level", HEALS, level).await;
        let mut history = history.into_inner();
        for (host, life, metadata) in quorum.living() {
            history.look(host, life, &metadata);
        }
        history.check();
        report.answers = history.answers;
        report.terms = history.terms();
        (report, world.trace().text(), world.trace().digest())
    })
}

/// Runs all of them at the same time.
async fn all<F: Future<Output = ()> + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn proposals_are_linearizable_whatever_happens_and_all_is_well_afterwards() {
    let total = Mutex::new(Report::default());
    let seeds = each_seed("quorum", SEEDS, |seed| {
        let (report, ..) = run(seed, FAULTS, false);
        assert!(report.answers >= ANSWERS_MIN, "{}", report.answers);
        total.lock().add(report);
    });
    let total = total.into_inner();
    println!("{seeds} seeds: {total:#?}");
    assert_eq!(total.faults.len(), CLASSES.len());
}

fn again(seed: u64) -> (Report, String, (u64, u64)) {
    run(seed, FAULTS_COMPARED, true)
}

#[test]
fn a_seed_repeats_its_history() {
    for seed in mainstem_simulation::seeds(1) {
        let ((_, one, digest), (_, other, digest_again)) = (again(seed), again(seed));
        let differs = one.lines().zip(other.lines()).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let lines = |text: &str| {
                let lines: Vec<_> = text.lines().skip(at.saturating_sub(5)).take(10).collect();
                lines.join("\n")
            };
            panic!(
                "seed {seed} differs in line {at}:\n{}\n\n{}",
                lines(&one),
                lines(&other)
            );
        }
        assert_eq!(digest, digest_again);
    }
}
