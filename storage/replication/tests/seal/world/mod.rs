//! A cluster without I/O: brokers with disks that forget, controllers that race, metadata that
//! applies commands in the order in which they arrive, and messages that a seed or a script delivers.
//!
//! Nothing happens by itself: every step is a method here, [`World::check`] looks after each.

pub(crate) mod broker;
mod check;
mod controller;
mod deliver;
mod lead;
pub(crate) mod log;
pub(crate) mod message;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use mainstem_metadata::{
    Applied, ApplyError, Command, Image, NewSegment, Rule, SegmentFlush, SegmentRecord,
    TopicOrigin, apply,
};
use mainstem_record::{
    BrokerId, Incarnation, Member, Offset, PartitionId, PartitionIndex, SegmentId, TopicId,
};
use mainstem_replication::machine::{Segment, Timers, replica::Replica};
use uuid::Uuid;

use self::{
    broker::{Broker, Life, Stop},
    check::Ghost,
    controller::Controller,
    log::Log,
    message::{Asks, Kind, Message, Proof},
};

/// Messages under way; beyond it the oldest is lost.
const SOUP_MAX: usize = 48;

/// What a world is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) brokers: i32,
    pub(crate) replicas: i16,
    pub(crate) min_insync: i16,
    pub(crate) flush: SegmentFlush,
    /// Without R1, a broker that starts goes on under the life that it had.
    pub(crate) keeps_life: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 3,
            replicas: 3,
            min_insync: 2,
            flush: SegmentFlush::Os,
            keeps_life: false,
        }
    }
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) timers: Timers,
    pub(crate) now: Duration,
    pub(crate) partition: PartitionId,
    /// One after each command.
    pub(crate) images: Vec<Arc<Image>>,
    pub(crate) brokers: BTreeMap<BrokerId, Broker>,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) soup: Vec<Message>,
    pub(crate) ghost: Ghost,
    /// Who is never started again.
    pub(crate) gone: BTreeSet<BrokerId>,
    /// For the backup that [`Stop::Restored`] goes back to.
    backups: BTreeMap<BrokerId, broker::Disk>,
    drawn: u128,
}

impl World {
    /// All brokers registered, one partition on the first of them, all caught up.
    pub(crate) fn new(options: Options) -> Self {
        let timers = Timers::default();
        let topic = TopicId(Uuid::from_u128(1));
        let mut world = Self {
            options,
            timers,
            now: Duration::from_secs(10),
            partition: PartitionId {
                topic,
                index: PartitionIndex(0),
            },
            images: vec![Arc::new(Image::default())],
            brokers: BTreeMap::new(),
            controllers: Vec::new(),
            soup: Vec::new(),
            ghost: Ghost::default(),
            gone: BTreeSet::new(),
            backups: BTreeMap::new(),
            drawn: 100,
        };
        for id in (1..=options.brokers).map(BrokerId) {
            let directory = world.draw();
            world.brokers.insert(id, Broker::new(id, directory));
            world.start(id, 0);
            world.deliver_all(|message| matches!(message.kind(), Kind::Register | Kind::Outcome));
        }
        let config = (
            "min.insync.replicas".to_owned(),
            options.min_insync.to_string(),
        );
        let replicas = (1..=i32::from(options.replicas)).map(BrokerId).collect();
        let id = SegmentId(world.draw());
        world
            .apply(&Command::CreateTopic {
                id: topic,
                name: "t".to_owned(),
                internal: false,
                origin: TopicOrigin::Admin,
                replication_factor: options.replicas,
                configs: BTreeMap::from([config]),
                partitions: vec![NewSegment {
                    id,
                    replicas,
                    leader: Some(BrokerId(1)),
                    flush: options.flush,
                }],
                leader: BrokerId(1),
            })
            .expect("the topic");
        for _ in 0..2 {
            let controller = Controller::new(world.head(), timers, world.now);
            world.controllers.push(controller);
        }
        world.catch_up_all();
        world
    }

    pub(crate) fn draw(&mut self) -> Uuid {
        self.drawn += 1;
        Uuid::from_u128(self.drawn)
    }

    /// A number that was not drawn before.
    fn number(&mut self) -> u64 {
        self.drawn += 1;
        u64::try_from(self.drawn).expect("few are drawn")
    }

    pub(crate) fn head(&self) -> Arc<Image> {
        Arc::clone(self.images.last().expect("the first image"))
    }

    pub(crate) fn chain(&self) -> Vec<SegmentRecord> {
        let head = self.head();
        let chain = head.partition(self.partition).map(|it| it.segments.iter());
        chain.map(|it| it.cloned().collect()).unwrap_or_default()
    }

    /// What is on the disks.
    pub(crate) fn disks(&self) -> Vec<&broker::Disk> {
        self.brokers.values().map(|broker| &broker.disk).collect()
    }

    /// The last segment of the chain.
    pub(crate) fn open(&self) -> Segment {
        Segment::open(&self.head(), self.partition).expect("the chain has an open end")
    }

    pub(crate) fn send(&mut self, message: Message) {
        if self.soup.len() >= SOUP_MAX {
            self.soup.remove(0);
        }
        self.soup.push(message);
    }

    pub(crate) fn propose(&mut self, command: Command) {
        self.send(Message::Command {
            command,
            from: Asks::Nobody,
        });
    }

    /// Metadata applies a command.
    pub(crate) fn apply(&mut self, command: &Command) -> Result<Applied, ApplyError> {
        let before = self.chain();
        let mut image = (*self.head()).clone();
        let index = image.version + 1;
        let result = apply(&mut image, index, command);
        if result.is_ok() {
            self.count_loss(command);
            self.images.push(Arc::new(image));
            let after = self.chain();
            let recovers = matches!(command, Command::UncleanRecover { .. });
            self.ghost.applied(&before, &after, recovers);
        } else {
            // Refused commands change nothing; no need to remember one more equal image.
            *self.images.last_mut().expect("an image") = Arc::new(image);
        }
        result
    }

    /// What was declared lost counts as lost.
    fn count_loss(&mut self, command: &Command) {
        let (Command::DeclareLost { member } | Command::UnregisterBroker { member }) = command
        else {
            return;
        };
        self.ghost.gives_up(*member);
        let broker = &self.brokers[&member.broker];
        let life = broker.life.as_ref().map_or(0, |life| life.number);
        let logs = &broker.disk.logs;
        self.ghost.loses((member.broker, life), |segment| {
            Some(logs.get(&segment).map_or(Offset::ZERO, |log| log.end()))
        });
    }

    // === brokers ===

    /// A process starts, with the image of `behind` commands ago.
    pub(crate) fn start(&mut self, id: BrokerId, behind: usize) {
        let number = self.number();
        let request = self.draw();
        let seen = self.images.len().saturating_sub(1 + behind);
        let image = Arc::clone(&self.images[seen]);
        let keeps_life = self.options.keeps_life && !Rule::R1.holds();
        let broker = self.brokers.get_mut(&id).expect("a broker");
        if broker.life.is_some() {
            return;
        }
        let proof = Proof {
            intact: broker.disk.marker,
            directory: broker.disk.registered,
        };
        broker.life = Some(Life {
            number,
            request,
            proof,
            member: None,
            image,
            replicas: BTreeMap::new(),
            streams: BTreeMap::new(),
            seals: BTreeMap::new(),
        });
        match broker.disk.registered {
            Some(incarnation) if keeps_life => {
                let member = Member::new(id, incarnation);
                self.ghost.registered(member, number, true);
                self.is_registered(id, number, incarnation);
            }
            _ => self.register(id),
        }
    }

    /// R1: asks which life is expected, and registers the next.
    pub(crate) fn register(&mut self, id: BrokerId) {
        let head = self.head();
        let Some(life) = self.brokers[&id].life.as_ref() else {
            return;
        };
        let known = head.brokers.get(&id);
        if life.member.is_some() {
            return;
        }
        let command = Command::RegisterBroker {
            broker: id,
            directory_id: self.brokers[&id].disk.directory,
            expected: known.map(|known| known.incarnation),
            listeners: BTreeMap::new(),
            peer: None,
            roles: Default::default(),
            intact: life.proof.intact,
            directory_life: life.proof.directory,
            request: life.request,
        };
        let from = Asks::Registration {
            broker: id,
            life: life.number,
        };
        self.send(Message::Command { command, from });
    }

    /// The process `number` learns its incarnation.
    fn is_registered(&mut self, id: BrokerId, number: u64, incarnation: Incarnation) {
        let member = Member::new(id, incarnation);
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(life) = broker.life.as_mut().filter(|life| life.number == number) else {
            return;
        };
        if life.member.is_some() {
            return;
        }
        life.member = Some(member);
        // R2: before anything is acked.
        broker.disk.marker = None;
        broker.disk.registered = Some(incarnation);
        self.refresh(id);
    }

    /// A process ends.
    pub(crate) fn stop(&mut self, id: BrokerId, how: Stop) {
        let fresh = self.draw();
        let always = self.options.flush == SegmentFlush::Always;
        let backup = self.backups.get(&id).cloned();
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(life) = broker.life.take() else {
            return;
        };
        let before: BTreeMap<SegmentId, Offset> = broker
            .disk
            .logs
            .iter()
            .map(|(id, log)| (*id, log.end()))
            .collect();
        let disk = &mut broker.disk;
        // Who stops before it is registered has the marker that it found.
        let marker = life
            .member
            .map_or(disk.marker, |member| Some(member.incarnation));
        let loses = match how {
            Stop::Clean => {
                disk.logs.values_mut().for_each(Log::sync);
                disk.marker = marker;
                false
            }
            Stop::Kill => {
                disk.marker = marker;
                false
            }
            Stop::Power { kept } => {
                disk.logs.values_mut().for_each(|log| log.lose_power(kept));
                disk.marker = None;
                !always
            }
            Stop::Disk => {
                disk.logs.clear();
                disk.directory = fresh;
                disk.marker = None;
                disk.registered = None;
                true
            }
            Stop::Restored => {
                // A copy of the present life cannot be told from what it has become (decision 0025).
                let registered = disk.registered;
                if let Some(backup) = backup.filter(|backup| backup.registered != registered) {
                    *disk = backup;
                }
                disk.marker = None;
                true
            }
        };
        if loses {
            self.ghost.loses((id, life.number), |segment| {
                Some(before.get(&segment).copied().unwrap_or(Offset::ZERO))
            });
        }
    }

    /// Remembers the disk as it is, synced, for [`Stop::Restored`].
    pub(crate) fn back_up(&mut self, id: BrokerId) {
        let mut disk = self.brokers[&id].disk.clone();
        disk.logs.values_mut().for_each(Log::sync);
        self.backups.insert(id, disk);
    }

    /// A broker's next image: `behind` commands ago, but never an older one than it has.
    pub(crate) fn catch_up(&mut self, id: BrokerId, behind: usize) {
        let seen = self.images.len().saturating_sub(1 + behind);
        let image = Arc::clone(&self.images[seen]);
        if let Some(life) = self.brokers.get_mut(&id).and_then(|it| it.life.as_mut())
            && image.version > life.image.version
        {
            life.image = image;
            self.refresh(id);
        }
    }

    pub(crate) fn catch_up_all(&mut self) {
        let ids: Vec<BrokerId> = self.brokers.keys().copied().collect();
        for id in ids {
            self.catch_up(id, 0);
        }
    }

    /// Takes what the broker's image says of each segment that concerns it.
    pub(crate) fn refresh(&mut self, id: BrokerId) {
        let broker = &self.brokers[&id];
        let Some((life, me)) = broker.life.as_ref().and_then(|it| Some((it, it.member?))) else {
            return;
        };
        let image = Arc::clone(&life.image);
        let mut segments: BTreeSet<SegmentId> = life.replicas.keys().copied().collect();
        segments.extend(broker.concerned(&image, self.partition));
        for segment in segments {
            self.take_segment(id, me, segment, &image);
        }
    }

    /// Takes up a segment with what is on the disk, or takes its newer image.
    pub(crate) fn take_segment(
        &mut self,
        id: BrokerId,
        me: Member,
        segment: SegmentId,
        image: &Image,
    ) {
        let (partition, now, timers) = (self.partition, self.now, self.timers);
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(life) = broker.life.as_mut() else {
            return;
        };
        let view = Segment::of(image, partition, segment);
        let replica = match life.replicas.entry(segment) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let Some(view) = view.clone() else {
                    return;
                };
                let log = broker.disk.logs.entry(segment);
                let ends = log.or_insert_with(|| Log::new(view.base)).ends();
                match Replica::new(me, image, view, ends, timers) {
                    Some(replica) => place.insert(replica),
                    None => return,
                }
            }
        };
        let led = replica.leader().is_some();
        let mut effects = replica.image(image, partition, now);
        let begins = replica.leader().filter(|_| !led);
        if let Some(leader) = begins {
            let hw = leader.high_watermark();
            self.ghost.leads(segment, me, hw);
        }
        let end = view.and_then(|view| Some((view.end?, view.lossy)));
        if let Some((end, lossy)) = end {
            let (what, more) = replica.learn_seal(end, lossy);
            effects.extend(more);
            broker.at_seal(segment, what);
        }
        self.lead(id, segment, effects);
    }

    pub(crate) fn replica(&mut self, id: BrokerId, segment: SegmentId) -> Option<&mut Replica> {
        self.brokers.get_mut(&id)?.replica(segment)
    }
}
