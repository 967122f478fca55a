//! Metadata that applies at once, and brokers that answer when they are told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mainstem_metadata::{
    Applied, Command, Image, NewSegment, SegmentFlush, SegmentState, TopicOrigin, apply,
};
use mainstem_record::{
    BrokerId, Incarnation, Member, Offset, PartitionId, PartitionIndex, SegmentId, TimestampMs,
    TopicId,
};
use uuid::Uuid;

use crate::{
    controller::{
        term::{Effect, Known, Term},
        *,
    },
    machine::FenceAnswer,
    wire::{DigestOf, Fenced, Heartbeat, SealAnswer, SealQuestion, Suspect},
};

pub(super) const INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn member(broker: i32) -> Member {
    Member::new(BrokerId(broker), Incarnation(1))
}

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) fn topic(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

pub(super) fn partition(number: u128, index: i32) -> PartitionId {
    PartitionId {
        topic: topic(number),
        index: PartitionIndex(index),
    }
}

/// One controller, the metadata, and brokers that hold what they are said to hold.
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) image: Arc<Image>,
    pub(super) term: Term,
    /// Brokers that send heartbeats and answer.
    pub(super) alive: BTreeSet<Member>,
    /// Log ends, by broker and segment; 10 where nothing else is said.
    pub(super) leos: BTreeMap<(BrokerId, SegmentId), i64>,
    /// Brokers whose bytes differ.
    pub(super) differs: BTreeSet<BrokerId>,
    /// What leaders were told to roll.
    pub(super) rolls: Vec<PartitionId>,
    /// All commands that were proposed.
    pub(super) proposed: Vec<Command>,
    pub(super) unclean: BTreeSet<TopicId>,
    ids: u128,
}

// === impl World ===

impl World {
    /// So many brokers, all alive; no topic.
    pub(super) fn new(brokers: i32) -> Self {
        let mut image = Image::default();
        for broker in 1..=brokers {
            let command = register(broker, None);
            let index = image.version + 1;
            apply(&mut image, index, &command).expect("registered");
        }
        let image = Arc::new(image);
        Self {
            now: ms(100_000),
            term: Term::new(Timers::default(), INTERVAL, &image, ms(100_000)),
            image,
            alive: (1..=brokers).map(member).collect(),
            leos: BTreeMap::new(),
            differs: BTreeSet::new(),
            rolls: Vec::new(),
            proposed: Vec::new(),
            unclean: BTreeSet::new(),
            ids: 1_000_000,
        }
    }

    /// A topic on these brokers; its partitions are led by the first.
    pub(super) fn create(&mut self, number: u128, partitions: i32, replicas: &[i32], min: usize) {
        let replicas: Vec<BrokerId> = replicas.iter().copied().map(BrokerId).collect();
        let leader = *replicas.first().expect("some");
        let partitions = (0..partitions).map(|_| {
            self.ids += 1;
            NewSegment {
                id: SegmentId(Uuid::from_u128(self.ids)),
                replicas: replicas.clone(),
                leader: Some(leader),
                flush: SegmentFlush::Os,
            }
        });
        let command = Command::CreateTopic {
            id: topic(number),
            name: format!("t{number}"),
            internal: false,
            origin: TopicOrigin::Admin,
            replication_factor: i16::try_from(replicas.len()).expect("few"),
            configs: [("min.insync.replicas".to_owned(), min.to_string())].into(),
            partitions: partitions.collect(),
            leader,
        };
        self.apply(&command).expect("created");
    }

    pub(super) fn apply(
        &mut self,
        command: &Command,
    ) -> Result<Applied, mainstem_metadata::ApplyError> {
        let mut image = Image::clone(&self.image);
        let index = image.version + 1;
        let applied = apply(&mut image, index, command);
        self.image = Arc::new(image);
        applied
    }

    /// The next controller: it knows the image and nothing else.
    pub(super) fn change_controller(&mut self) {
        self.term = Term::new(Timers::default(), INTERVAL, &self.image, self.now);
    }

    pub(super) fn heartbeats(&mut self) {
        for member in self.alive.clone() {
            self.heartbeat(member, &[]);
        }
    }

    pub(super) fn heartbeat(&mut self, member: Member, refused: &[Member]) {
        let refused = refused.iter();
        let heartbeat = Heartbeat {
            member,
            image: self.image.version,
            ready: true,
            draining: false,
            refused: refused
                .map(|it| Suspect {
                    member: *it,
                    ago_ms: 0,
                })
                .collect(),
        };
        let answer = self.term.heartbeat(&heartbeat, self.now);
        self.rolls
            .extend(answer.rolls.iter().map(|it| it.partition));
    }

    /// What the term wants done.
    pub(super) fn tick(&mut self) -> Vec<Effect> {
        self.term.image(&self.image, self.now);
        self.term.suspect(std::iter::empty(), self.now);
        let ids = &mut self.ids;
        let unclean = &self.unclean;
        let mut fresh = || {
            *ids += 1;
            SegmentId(Uuid::from_u128(*ids))
        };
        let mut known = Known {
            fresh: &mut fresh,
            flush: &|_| SegmentFlush::Os,
            unclean: &|_, topic| unclean.contains(&topic.id),
        };
        self.term.tick(&mut known, self.now)
    }

    /// Carries out one effect; who is not alive does not answer.
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Propose(command) => {
                self.proposed.push(command.clone());
                let _ = self.apply(&command);
                self.term.settled(&command);
            }
            Effect::Ask(to, question) => {
                if self.alive.contains(&to) {
                    let answer = self.answer(to, question);
                    self.term.answered(answer, self.now);
                }
            }
        }
    }

    fn leo(&self, broker: BrokerId, segment: SegmentId) -> i64 {
        self.leos.get(&(broker, segment)).copied().unwrap_or(10)
    }

    fn answer(&mut self, to: Member, question: SealQuestion) -> SealAnswer {
        let fenced = |segment, version, certificate, leo| Fenced {
            segment,
            outcome: Ok(FenceAnswer {
                segment,
                member: to,
                version,
                certificate: Offset(certificate),
                leo: Offset(leo),
            }),
        };
        match question {
            SealQuestion::Fence { orders, .. } => {
                let answers = orders.iter().map(|order| {
                    let leo = self.leo(to.broker, order.segment);
                    fenced(order.segment, order.version, leo, leo)
                });
                SealAnswer::Fenced {
                    member: to,
                    answers: answers.collect(),
                }
            }
            SealQuestion::CopyTail(orders) => {
                let mut answers = Vec::new();
                for order in orders {
                    let before = self.leo(to.broker, order.segment);
                    let leo = self.leo(order.from.broker, order.segment).max(before);
                    self.leos.insert((to.broker, order.segment), leo);
                    answers.push(fenced(order.segment, 0, before, leo));
                }
                SealAnswer::Fenced {
                    member: to,
                    answers,
                }
            }
            SealQuestion::DigestAt(questions) => {
                let differs = u128::from(self.differs.contains(&to.broker));
                let answers = questions.iter().map(|question| DigestOf {
                    segment: question.segment,
                    end: question.end,
                    bytes: 100,
                    max_timestamp: TimestampMs(7),
                    digest: 42 + differs * u128::try_from(to.broker.0).expect("positive"),
                });
                SealAnswer::Digests {
                    member: to,
                    answers: answers.collect(),
                }
            }
        }
    }

    /// Time passes, in steps; heartbeats come, and all that is wanted is done at once.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += ms(50);
            if self.now.as_millis().is_multiple_of(500) {
                self.heartbeats();
            }
            for _ in 0..10 {
                let effects = self.tick();
                if effects.is_empty() {
                    break;
                }
                for effect in effects {
                    self.perform(effect);
                }
            }
            // What is kept up from image to image is what a look at everything finds.
            self.term.image(&self.image, self.now);
            assert_eq!(self.term.counts(), Counts::of(&self.image));
        }
    }

    pub(super) fn kill(&mut self, broker: i32) {
        self.alive.remove(&member(broker));
    }

    pub(super) fn restart(&mut self, broker: i32, intact: bool) {
        let life = self
            .image
            .member(BrokerId(broker))
            .expect("known")
            .incarnation;
        let mut command = register(broker, Some(life));
        if let Command::RegisterBroker { intact: proof, .. } = &mut command {
            *proof = intact.then_some(life);
        }
        self.apply(&command).expect("registered");
        let life = self.image.member(BrokerId(broker)).expect("known");
        self.alive.retain(|it| it.broker != life.broker);
        self.alive.insert(life);
    }

    pub(super) fn leader(&self, id: PartitionId) -> Option<Member> {
        let open = self.image.partition(id)?.active()?;
        (open.state == SegmentState::Active).then(|| open.leader_member())
    }

    pub(super) fn count(&self, which: impl Fn(&Command) -> bool) -> usize {
        self.proposed.iter().filter(|it| which(it)).count()
    }
}

fn register(broker: i32, expected: Option<Incarnation>) -> Command {
    let number = u128::try_from(broker).expect("positive");
    Command::RegisterBroker {
        broker: BrokerId(broker),
        directory_id: Uuid::from_u128(number),
        expected,
        listeners: BTreeMap::new(),
        peer: None,
        roles: mainstem_metadata::Roles::default(),
        intact: None,
        directory_life: None,
        request: Uuid::from_u128(number * 1_000 + u128::from(expected.map_or(0, |it| it.0))),
    }
}
