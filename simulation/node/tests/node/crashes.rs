//! Lives of one node that end by a power cut, by the death of the process or cleanly, at random
//! moments, while clients of both protocols write, commit and read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstem_env::Clock as _;
use mainstem_metadata::MemoryDisk;
use mainstem_simulation::{Dice, SimFs, World};

use crate::{
    actors::{Committer, Idempotent, Plain, Publisher, Retained, Subscriber},
    disk::{Crash, Disk, Syncs},
    kafka::Kafka,
    node::{self, Node},
    seeds,
    world::Place,
};

/// Seeds of `make test`.
const SEEDS: u64 = 300;

/// Seeds within which a disk that lies is found out: the first or second does.
const LYING_SEEDS: u64 = 10;

/// Keys that make compaction busy.
const CLEANING: &[(&str, &str)] = &[
    ("log.segment.delete.delay.ms", "30"),
    ("log.cleaner.backoff.ms", "10"),
    ("log.cleaner.min.cleanable.ratio", "0.01"),
];

/// Lives of a node that end early, and one more that does not.
const LIVES: u64 = 4;

/// What was on its way to a client when the node died still arrives within this.
const GRACE: Duration = Duration::from_millis(20);

/// The longest life, in virtual time: something hangs if it takes longer.
const LIFE_MAX: Duration = Duration::from_secs(30);

/// The longest that the subscriber's last message may take.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// Changes of the disk within which a life ends.
const CHANGES_MAX: u64 = 500;

/// How a life is to end.
#[derive(Debug, Clone, Copy)]
enum End {
    Crash(Crash),
    Clean,
    /// The last one: everything is looked at.
    Check,
}

/// How often things happened, over all seeds.
#[derive(Debug, Default)]
struct Counts {
    crashes: AtomicU64,
    clean_stops: AtomicU64,
    crashed_starts: AtomicU64,
    kafka_acknowledged: AtomicU64,
    mqtt_acknowledged: AtomicU64,
    commits: AtomicU64,
    retained: AtomicU64,
    compactions: AtomicU64,
    journal_bytes: AtomicU64,
}

/// The clients of a node.
struct Clients {
    idempotent: Vec<Idempotent>,
    plain: Plain,
    at_least_once: Publisher,
    exactly_once: Publisher,
    committer: Committer,
    retained: Retained,
    subscriber: Subscriber,
}

#[test]
fn nothing_acknowledged_is_missing_after_crashes() {
    let counts = Counts::default();
    seeds::all("crashes", SEEDS, |seed| {
        run_seed(seed, Syncs::Work, &counts)
    });
    println!("{counts:#?}");
    let Counts {
        crashes,
        clean_stops,
        crashed_starts,
        kafka_acknowledged,
        mqtt_acknowledged,
        commits,
        retained,
        compactions,
        journal_bytes,
    } = counts;
    let is_whole = ["BROKER_SEED", "BROKER_SEEDS"]
        .iter()
        .all(|name| std::env::var_os(name).is_none());
    if is_whole {
        let all = [
            crashes,
            clean_stops,
            crashed_starts,
            kafka_acknowledged,
            mqtt_acknowledged,
            commits,
            retained,
            compactions,
            journal_bytes,
        ];
        let idle = all
            .iter()
            .filter(|count| count.load(Ordering::Relaxed) == 0);
        assert_eq!(idle.count(), 0, "everything has happened");
    }
}

/// The test above can fail: a disk that only says that it has synced is found out.
#[test]
fn disk_that_lies_is_found_out() {
    let run = |seed| run_seed(seed, Syncs::Lie, &Counts::default());
    let found = seeds::first_failure(LYING_SEEDS, run);
    assert!(found.is_some(), "not found within {LYING_SEEDS} seeds");
}

fn run_seed(seed: u64, syncs: Syncs, counts: &Counts) {
    mainstem_simulation::run(seed, |world| async move {
        let mut dice = world.dice(1);
        let mut clients = Clients::new(&mut dice);
        let mut fs = world.disk();
        let mut metadata = MemoryDisk::default();
        for life in 0..=LIVES {
            let end = match dice.below(6) {
                _ if life == LIVES => End::Check,
                0 => End::Clean,
                1 => End::Crash(Crash::ProcessKill),
                _ => End::Crash(Crash::PowerCut),
            };
            let life = Life {
                world: &world,
                number: life,
                end,
                syncs,
            };
            fs = Box::pin(life.run(fs, &metadata, &mut clients, &mut dice, counts)).await;
            metadata = metadata.copy();
        }
        clients.count(counts);
    });
}

struct Life<'a> {
    world: &'a World,
    number: u64,
    end: End,
    syncs: Syncs,
}

// === impl Life ===

impl Life<'_> {
    /// Lives on a disk with a metadata store; what is on the disk afterwards.
    async fn run(
        self,
        fs: SimFs,
        metadata: &MemoryDisk,
        clients: &mut Clients,
        dice: &mut Dice,
        counts: &Counts,
    ) -> SimFs {
        let disk = Disk::new(fs);
        disk.set_syncs(self.syncs);
        if let End::Crash(crash) = self.end {
            let changes = dice.below(CHANGES_MAX);
            disk.end_in(changes, crash, dice.next_u64());
            counts.crashes.fetch_add(1, Ordering::Relaxed);
        }
        let place = Place::new(self.world, 1, self.number, Arc::new(disk.clone()));
        let config = node::config(CLEANING);
        let ended = async {
            disk.ended().await;
            self.world.clock().sleep(GRACE).await;
        };
        let node = tokio::select! {
            biased;
            node = Node::start(&place, &config, metadata) => node,
            () = ended => Err("the disk has ended".to_owned()),
            () = self.world.clock().sleep(LIFE_MAX) => panic!("the node does not start"),
        };
        match node {
            Ok(node) => {
                self.serve(&node, &disk, clients, dice).await;
                for (count, name) in [
                    (&counts.compactions, "mainstem_compaction_runs_total"),
                    (&counts.journal_bytes, "mainstem_log_journal_bytes_total"),
                ] {
                    count.fetch_add(node.metric(name) as u64, Ordering::Relaxed);
                }
                if matches!(self.end, End::Clean) {
                    counts.clean_stops.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(reason) => {
                assert!(disk.has_ended(), "the node does not start: {reason}");
                counts.crashed_starts.fetch_add(1, Ordering::Relaxed);
            }
        }
        place.process.end();
        disk.left()
    }

    async fn serve(&self, node: &Node, disk: &Disk, clients: &mut Clients, dice: &mut Dice) {
        let ended = async {
            disk.ended().await;
            self.world.clock().sleep(GRACE).await;
        };
        let seed = dice.next_u64();
        let work = async {
            clients.live(node, dice).await;
            match self.end {
                End::Crash(crash) => disk.end_now(crash, seed),
                End::Clean => node.drain().await,
                End::Check => clients.check(node).await,
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = work => {}
            () = self.world.clock().sleep(LIFE_MAX) => panic!("a client waits for ever"),
        }
    }
}

// === impl Clients ===

impl Clients {
    fn new(dice: &mut Dice) -> Self {
        let mut seed = || dice.next_u64();
        Self {
            idempotent: vec![
                Idempotent::new("one", "shared", &[], seed()),
                Idempotent::new("two", "shared", &[], seed()),
                Idempotent::new("three", "alone", &[("segment.bytes", "65536")], seed()),
            ],
            plain: Plain::new("plain", "shared", seed()),
            at_least_once: Publisher::new("qos1", "gauges", 1, seed()),
            exactly_once: Publisher::new("qos2", "meters", 2, seed()),
            committer: Committer::new("readers", "shared"),
            retained: Retained::default(),
            subscriber: Subscriber::new("watcher", &[("gauges", 1), ("meters", 2)]),
        }
    }

    /// All of them do something, and wait until it is answered.
    async fn live(&mut self, node: &Node, dice: &mut Dice) {
        let Self {
            idempotent,
            plain,
            at_least_once,
            exactly_once,
            committer,
            retained,
            subscriber,
        } = self;
        subscriber.begin(node).await;
        let mut some = || dice.below(12);
        let [first, second, third] = idempotent.as_mut_slice() else {
            unreachable!("three producers");
        };
        let work = async {
            tokio::join!(
                first.live(node, some()),
                second.live(node, some()),
                third.live(node, some()),
                plain.live(node, some()),
                at_least_once.live(node, some()),
                exactly_once.live(node, some()),
                committer.live(node, some()),
                retained.live(node, some()),
            );
        };
        tokio::select! {
            biased;
            () = work => {}
            () = subscriber.live(node, |_| false) => {}
        }
    }

    /// Reads everything back.
    async fn check(&mut self, node: &Node) {
        let (gauges, meters) = (&self.at_least_once, &self.exactly_once);
        let all = |subscriber: &Subscriber| {
            subscriber.has("gauges", gauges.sent()) && subscriber.has("meters", meters.sent())
        };
        let delivered = node
            .env
            .timeout(DELIVERY_MAX, self.subscriber.live(node, all));
        let delivered = delivered.await;
        // Else what is missing is said first.
        self.subscriber.check("gauges", gauges.sent());
        self.subscriber.check("meters", meters.sent());
        assert!(delivered.is_ok(), "all has come, and the subscriber waits");
        let mut kafka = Kafka::connect(node).await.expect("a connection");
        for producer in &self.idempotent {
            let records = kafka.read_all(&producer.topic).await.expect("records");
            producer.check(&records);
        }
        let records = kafka.read_all(&self.plain.topic).await.expect("records");
        self.plain.check(&records);
        for publisher in [gauges, meters] {
            if publisher.sent().is_empty() {
                continue;
            }
            let records = kafka.read_all(&publisher.topic).await.expect("records");
            publisher.check(&records);
        }
        let mut producers: Vec<_> = self.idempotent.iter().map(|one| one.producer).collect();
        producers.sort();
        producers.dedup();
        assert_eq!(producers.len(), self.idempotent.len(), "one id each");
    }

    fn count(&self, counts: &Counts) {
        let producers = self.idempotent.iter().map(Idempotent::acknowledged);
        let kafka = producers.sum::<usize>() + self.plain.acknowledged();
        let mqtt = self.at_least_once.promised() + self.exactly_once.promised();
        let add = |count: &AtomicU64, more: u64| count.fetch_add(more, Ordering::Relaxed);
        add(&counts.kafka_acknowledged, kafka as u64);
        add(&counts.mqtt_acknowledged, mqtt as u64);
        let commits = u64::try_from(self.committer.answered + 1).expect("not negative");
        add(&counts.commits, commits);
        add(&counts.retained, self.retained.acknowledged);
    }
}
