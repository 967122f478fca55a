//! Random faults of links and followers: nothing is exposed that a member of the ISR does not hold,
//! and in the end all logs are the same.

use std::time::Duration;

use mainstem_log::{Ack, Flush};
use mainstem_record::Member;
use mainstem_simulation::{Dice, HostId, LinkOptions, World, run, seeds};

use super::node::{Node, Start, equal, member, produce, segment};
use crate::machine::Segment;

const SEEDS: u64 = 20;
const STEPS: usize = 60;
const PARTITIONS: i32 = 3;

struct Cluster {
    world: World,
    dice: Dice,
    flush: Flush,
    leader: Node,
    followers: Vec<Node>,
    lives: [u64; 2],
    version: u32,
    cuts: Vec<(HostId, HostId)>,
}

impl Cluster {
    async fn new(world: World) -> Self {
        let mut dice = world.dice(0);
        let start = Start {
            tail_cache_bytes: [0, 20_000, 1 << 20][dice.index(3)],
            ..Start::default()
        };
        world.net().set_links(LinkOptions {
            delay: Duration::from_micros(dice.below(2000)),
            jitter: Duration::from_micros(dice.below(2000)),
            loss_per_10_000: 20,
        });
        let leader = Node::start(&world, 1, 1, start).await;
        let mut followers = Vec::new();
        for id in [2, 3] {
            followers.push(Node::start(&world, id, 1, Start::default()).await);
        }
        let flush = [Flush::Os, Flush::Always][dice.index(2)];
        let cluster = Self {
            world,
            dice,
            flush,
            leader,
            followers,
            lives: [1, 1],
            version: 1,
            cuts: Vec::new(),
        };
        for index in 0..PARTITIONS {
            let open = cluster.segment(index);
            cluster
                .leader
                .open(index, std::slice::from_ref(&open), flush)
                .await;
            for node in &cluster.followers {
                node.open(index, std::slice::from_ref(&open), flush).await;
            }
        }
        cluster
    }

    fn members(&self) -> [Member; 3] {
        let [two, three] = self.lives;
        [member(1, 1), member(2, two), member(3, three)]
    }

    fn segment(&self, index: i32) -> Segment {
        let mut segment = segment(index, 0, 0, &self.members());
        segment.version = self.version;
        segment.flush_always = self.flush == Flush::Always;
        segment
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..12 => {
                let index = self.dice.index(PARTITIONS as usize) as i32;
                let bytes = 1 + self.dice.index(20_000);
                // Its outcome is seen in the logs.
                drop(produce(&self.leader.part(index), bytes, Ack::Written).await);
            }
            12..14 => {
                let other = HostId(2 + self.dice.index(2) as u16);
                let ways = [(HostId(1), other), (other, HostId(1))];
                let (from, to) = ways[self.dice.index(2)];
                self.world.net().cut(from, to);
                self.cuts.push((from, to));
            }
            14..17 => self.heal(),
            17 => {
                let at = self.dice.index(2);
                self.followers[at].process.pause();
                self.sleep(8000).await;
                self.followers[at].process.resume();
            }
            _ => self.restart().await,
        }
        self.sleep(1500).await;
        self.check();
    }

    fn heal(&mut self) {
        for (from, to) in self.cuts.drain(..) {
            self.world.net().heal(from, to);
        }
    }

    async fn sleep(&mut self, ms_max: u64) {
        let pause = Duration::from_micros(self.dice.below(ms_max * 1000));
        self.leader.process.env.sleep(pause).await;
    }

    /// A follower is killed, or with `flush=always` loses its power, and comes back intact (R3).
    async fn restart(&mut self) {
        let at = self.dice.index(2);
        let node = self.followers.remove(at);
        node.process.end();
        let fs = match self.flush {
            Flush::Always => node.fs.power_cut(self.dice.next_u64()),
            _ => node.fs.process_death(),
        };
        drop(node);
        self.lives[at] += 1;
        self.version += 1;
        let life = (2 + at as i32, self.lives[at]);
        let node = Node::start_on(&self.world, fs, life, Start::default()).await;
        for index in 0..PARTITIONS {
            let open = self.segment(index);
            node.open(index, std::slice::from_ref(&open), self.flush)
                .await;
            self.leader.double.image(index, &open);
        }
        self.followers.insert(at, node);
    }

    /// R12: what is exposed is held by every member of the ISR.
    fn check(&self) {
        for index in 0..PARTITIONS {
            let exposed = self.leader.part(index).ends().committed_end;
            for node in &self.followers {
                let ends = node.part(index).ends();
                let leo = match self.flush {
                    Flush::Always => ends.synced_end,
                    _ => ends.log_end,
                };
                assert!(leo >= exposed, "exposed {exposed}, held {leo}");
                assert!(ends.committed_end <= exposed, "R14");
            }
        }
    }

    async fn settle(&mut self) {
        self.heal();
        for index in 0..PARTITIONS {
            let log = self.leader.part(index);
            produce(&log, 10, Ack::Durable).await.await.unwrap();
            for node in &self.followers {
                equal(&self.world, &log, &node.part(index)).await;
            }
        }
    }
}

#[test]
fn what_is_exposed_is_held_by_all_through_faults() {
    for seed in seeds(SEEDS) {
        run(seed, |world| async move {
            let mut cluster = Cluster::new(world).await;
            for _ in 0..STEPS {
                cluster.step().await;
            }
            cluster.settle().await;
        });
    }
}
