//! Random walks. A seed decides everything: the shape of the cluster, how likely each kind of step
//! is in this walk (so that some walks are full of restarts, and others of late messages), and every
//! step.

use std::time::Duration;

use mainstem_metadata::{Command, EvictReplica, SegmentFlush};
use mainstem_record::{BrokerId, Member, SegmentId};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::world::{
    Options, World,
    broker::Stop,
    message::{Kind, Message},
};

/// Steps of one walk.
const STEPS: u32 = 320;

/// What a step can be; each has a weight of its own in each walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver,
    Repeat,
    Lose,
    Append,
    Sync,
    BrokerTicks,
    CatchUp,
    ControllerTicks,
    ControllerCatchesUp,
    ControllerChanges,
    Freeze,
    Shrink,
    Expand,
    BeginSeal,
    Stop,
    Start,
    AlterMin,
    DeclareLost,
    Evict,
    Wait,
    BackUp,
}

/// Each step with the weights that it may have.
const STEPS_OF: [(Step, [u32; 3]); 21] = [
    (Step::Deliver, [200, 300, 400]),
    (Step::Repeat, [0, 10, 40]),
    (Step::Lose, [0, 10, 40]),
    (Step::Append, [20, 40, 60]),
    (Step::Sync, [0, 5, 40]),
    (Step::BrokerTicks, [30, 60, 90]),
    (Step::CatchUp, [20, 50, 100]),
    (Step::ControllerTicks, [20, 50, 80]),
    (Step::ControllerCatchesUp, [20, 50, 80]),
    (Step::ControllerChanges, [0, 1, 4]),
    (Step::Freeze, [0, 10, 30]),
    (Step::Shrink, [0, 15, 30]),
    (Step::Expand, [5, 20, 40]),
    (Step::BeginSeal, [0, 5, 20]),
    (Step::Stop, [0, 8, 20]),
    (Step::Start, [15, 30, 60]),
    (Step::AlterMin, [0, 0, 8]),
    (Step::DeclareLost, [0, 3, 12]),
    (Step::Evict, [0, 4, 12]),
    (Step::Wait, [5, 20, 40]),
    (Step::BackUp, [0, 2, 5]),
];

struct Walk {
    world: World,
    rng: StdRng,
    weights: Vec<(Step, u32)>,
    stops: [u32; 5],
    /// Commands on a long way, and the step at which they arrive.
    late: Vec<(u32, Message)>,
    steps: u32,
}

/// What a walk has seen; `violation` if an invariant broke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) violation: Option<String>,
    pub(crate) exposures: u64,
    pub(crate) seals: u64,
    pub(crate) lossy: u64,
    pub(crate) commands: usize,
    /// What came out: the chain, and all that is on the disks.
    pub(crate) end: String,
}

/// One walk, and what it has seen.
pub(crate) fn walk(seed: u64) -> Seen {
    walk_of(seed, None)
}

/// The same, with what [`Options::keeps_life`] is to be.
pub(crate) fn walk_of(seed: u64, keeps_life: Option<bool>) -> Seen {
    let mut walk = Walk::new(seed, keeps_life);
    for _ in 0..STEPS {
        walk.step();
        walk.world.check();
        if walk.world.ghost.violation.is_some() {
            break;
        }
    }
    let world = &mut walk.world;
    if world.ghost.violation.is_none() {
        world.settle();
    }
    Seen {
        violation: world.ghost.violation.clone(),
        exposures: world.ghost.exposures,
        seals: world.ghost.seals,
        lossy: world.ghost.lossy,
        commands: world.images.len(),
        end: format!("{:?} {:?}", world.chain(), world.disks()),
    }
}

impl Walk {
    fn new(seed: u64, keeps_life: Option<bool>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let flush = if rng.random_ratio(1, 5) {
            SegmentFlush::Always
        } else {
            SegmentFlush::Os
        };
        let options = Options {
            brokers: if rng.random_ratio(1, 4) { 4 } else { 3 },
            replicas: 3,
            min_insync: if rng.random_ratio(1, 4) { 1 } else { 2 },
            flush,
            keeps_life: keeps_life.unwrap_or(false),
        };
        let weights = STEPS_OF.iter().map(|(step, weights)| {
            let weight = weights[rng.random_range(0..weights.len())];
            (*step, weight)
        });
        let weights = weights.collect();
        let mut stops = [0; 5];
        for stop in &mut stops {
            *stop = [0, 1, 3][rng.random_range(0..3)];
        }
        Self {
            world: World::new(options),
            weights,
            stops,
            late: Vec::new(),
            steps: 0,
            rng,
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        let steps = self.steps;
        let (due, late) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(due, _)| *due <= steps);
        self.late = late;
        let due: Vec<(u32, Message)> = due;
        for (_, message) in due {
            self.world.deliver(message);
        }
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.random_range(0..total);
        let step = self.weights.iter().find(|(_, weight)| {
            let found = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            found
        });
        let step = step.map_or(Step::Deliver, |(step, _)| *step);
        let id = BrokerId(self.rng.random_range(1..=self.world.options.brokers));
        self.take(step, id);
        self.world.now += Duration::from_millis(self.rng.random_range(0..40));
    }

    fn take(&mut self, step: Step, id: BrokerId) {
        let controller = self.rng.random_range(0..2);
        let behind = self.behind();
        let world = &mut self.world;
        match step {
            Step::Deliver | Step::Repeat | Step::Lose => self.message(step),
            Step::Append => {
                let leader = world.open().leader.broker;
                if !world.append(leader) {
                    // Perhaps one that does not know of its successor.
                    world.append(id);
                }
            }
            Step::Sync => {
                if let Some(segment) = self.segment_of(id) {
                    self.world.sync(id, segment);
                }
            }
            Step::BrokerTicks => world.broker_ticks(id),
            Step::CatchUp => world.catch_up(id, behind),
            Step::ControllerTicks => world.controller_ticks(controller),
            Step::ControllerCatchesUp => world.controller_catches_up(controller, behind),
            Step::ControllerChanges => world.controller_changes(controller),
            Step::Freeze => {
                world.with_leader(id, |leader, now| leader.freeze(now).unwrap_or_default())
            }
            Step::Shrink => self.change_isr(id, false),
            Step::Expand => self.change_isr(id, true),
            Step::BeginSeal => {
                let open = world.open().id;
                world.begin_seal(open);
            }
            Step::Stop => self.stop(id),
            Step::Start => world.start(id, behind),
            Step::AlterMin => self.alter_min(),
            Step::DeclareLost => self.declare_lost(id),
            Step::Evict => self.evict(id),
            Step::Wait => world.now += Duration::from_millis(self.rng.random_range(100..1500)),
            Step::BackUp => world.back_up(id),
        }
    }

    /// How many commands behind somebody is when it looks; mostly none.
    fn behind(&mut self) -> usize {
        match self.rng.random_range(0..4) {
            0 => self.rng.random_range(0..6),
            _ => 0,
        }
    }

    fn segment_of(&mut self, id: BrokerId) -> Option<SegmentId> {
        let logs = &self.world.brokers[&id].disk.logs;
        let count = logs.len();
        let chosen = (count > 0).then(|| self.rng.random_range(0..count))?;
        let logs = &self.world.brokers[&id].disk.logs;
        logs.keys().nth(chosen).copied()
    }

    /// A message arrives (mostly one of the oldest), arrives and stays, or is lost.
    fn message(&mut self, step: Step) {
        let world = &mut self.world;
        if world.soup.is_empty() {
            return;
        }
        let mut index = self.rng.random_range(0..world.soup.len());
        if self.rng.random_ratio(1, 2) {
            index = index.min(self.rng.random_range(0..world.soup.len()));
        }
        match step {
            Step::Repeat => {
                let message = world.soup[index].clone();
                world.deliver(message);
            }
            Step::Lose => {
                world.soup.remove(index);
            }
            _ => {
                let message = world.soup.remove(index);
                // A command may be held up, and may arrive once more, much later.
                let is_command = matches!(message, Message::Command { .. })
                    && message.kind() != Kind::OtherCommand;
                let fate = self.rng.random_range(0..8);
                if is_command && fate < 2 {
                    let due = self.steps + self.rng.random_range(5..80);
                    self.late.push((due, message.clone()));
                }
                if is_command && fate == 0 {
                    return;
                }
                world.deliver(message);
            }
        }
    }

    fn change_isr(&mut self, id: BrokerId, expands: bool) {
        let leader = self.world.open().leader.broker;
        let leader = if self.rng.random_ratio(1, 6) {
            id
        } else {
            leader
        };
        let other = BrokerId(self.rng.random_range(1..=self.world.options.brokers));
        let incarnation = self.world.brokers[&other].disk.registered;
        let Some(incarnation) = incarnation else {
            return;
        };
        let member = Member::new(other, incarnation);
        self.world.with_leader(leader, |leader, now| {
            let effect = if expands {
                leader.expand(member, now)
            } else {
                let listed = leader.isr().iter().find(|it| it.broker == other).copied();
                leader.shrink(listed.unwrap_or(member), now)
            };
            effect.into_iter().collect()
        });
    }

    fn stop(&mut self, id: BrokerId) {
        let kinds = [
            Stop::Clean,
            Stop::Kill,
            Stop::Power {
                kept: self.rng.random_range(0..2),
            },
            Stop::Disk,
            Stop::Restored,
        ];
        // Two that are gone at once are rare enough to leave something to find.
        let gone = self
            .world
            .brokers
            .values()
            .filter(|it| it.life.is_none())
            .count();
        if gone >= 2 || (gone == 1 && self.rng.random_ratio(1, 2)) {
            return;
        }
        let total: u32 = self.stops.iter().sum();
        if total == 0 {
            return;
        }
        let mut drawn = self.rng.random_range(0..total);
        for (how, weight) in kinds.iter().zip(self.stops) {
            if drawn < weight {
                self.world.stop(id, *how);
                return;
            }
            drawn -= weight;
        }
    }

    fn alter_min(&mut self) {
        let value = self.rng.random_range(1..=2).to_string();
        let topic = self.world.partition.topic;
        self.world.propose(Command::AlterTopicConfigs {
            topic,
            set: [("min.insync.replicas".to_owned(), value)].into(),
            delete: Vec::new(),
        });
    }

    /// Somebody gives up a broker: mostly one that is fenced.
    fn declare_lost(&mut self, id: BrokerId) {
        let head = self.world.head();
        let fenced = head.brokers.values().find(|broker| broker.fenced);
        let id = fenced.map_or(id, |broker| broker.id);
        if let Some(member) = head.member(id) {
            self.world.propose(Command::DeclareLost { member });
        }
    }

    /// The controller drops a follower (R20).
    fn evict(&mut self, id: BrokerId) {
        let open = self.world.open();
        let member = open.isr.iter().find(|member| member.broker == id);
        if let Some(member) = member.filter(|member| **member != open.leader) {
            self.world.propose(Command::EvictReplicas {
                evictions: vec![EvictReplica {
                    partition: self.world.partition,
                    segment: open.id,
                    version: open.version,
                    member: *member,
                }],
            });
        }
    }
}
