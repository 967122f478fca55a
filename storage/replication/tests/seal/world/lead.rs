//! What a leader does in the world: client appends, streams to followers, proposals.

use mainstem_metadata::{AlterIsr, BeginSeal, Command, NextSegment, SealAndOpen, SealReason};
use mainstem_record::{BrokerId, Member, Offset, SegmentId, TimestampMs};
use mainstem_replication::machine::{
    leader::{LeaderEffect, SealProposal},
    placement::{Ask, Placed, place},
};

use super::{
    World,
    log::Rec,
    message::{Asks, Message},
};

/// Records of one Append.
const APPEND_MAX: usize = 3;

impl World {
    /// The segment that this broker appends to.
    pub(crate) fn leads(&self, id: BrokerId) -> Option<SegmentId> {
        let life = self.brokers.get(&id)?.life.as_ref()?;
        let mut led = life
            .replicas
            .iter()
            .rev()
            .filter(|(_, replica)| replica.leader().is_some_and(|leader| !leader.is_stopped()));
        led.next().map(|(id, _)| *id)
    }

    /// A client's append, if this broker takes it (R8).
    pub(crate) fn append(&mut self, id: BrokerId) -> bool {
        let Some(segment) = self.leads(id) else {
            return false;
        };
        let content = self.number();
        let now = self.now;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let life = broker.life.as_mut().expect("it leads");
        let replica = life.replicas.get_mut(&segment).expect("it leads");
        if !replica.leader().is_some_and(|leader| leader.may_append()) {
            return false;
        }
        let record = Rec {
            epoch: replica.segment().epoch,
            content,
        };
        let base = replica.segment().base;
        let log = broker.disk.logs.get_mut(&segment).expect("its log");
        let at = log.end();
        log.records.push(record);
        self.ghost
            .append((segment, base), at, (id, life.number), record);
        let effects = replica.wrote(log.ends(), now);
        self.lead(id, segment, effects);
        self.push(id, segment);
        true
    }

    /// A log is synced.
    pub(crate) fn sync(&mut self, id: BrokerId, segment: SegmentId) {
        let now = self.now;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(log) = broker.disk.logs.get_mut(&segment) else {
            return;
        };
        log.sync();
        let ends = log.ends();
        let Some(replica) = broker.replica(segment) else {
            return;
        };
        let effects = replica.wrote(ends, now);
        self.lead(id, segment, effects);
        self.ack(id, segment);
    }

    /// Sends what a follower may ack.
    pub(crate) fn ack(&mut self, id: BrokerId, segment: SegmentId) {
        let Some(member) = self.brokers[&id].member() else {
            return;
        };
        let Some(replica) = self.replica(id, segment) else {
            return;
        };
        let to = replica.segment().leader.broker;
        if let Some(leo) = replica.ack() {
            self.send(Message::Ack {
                to,
                segment,
                member,
                leo,
            });
        }
    }

    /// Sends each follower what it has not been sent.
    pub(crate) fn push(&mut self, id: BrokerId, segment: SegmentId) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let (Some(log), Some(life)) = (broker.disk.logs.get(&segment), broker.life.as_mut()) else {
            return;
        };
        let Some(replica) = life.replicas.get(&segment) else {
            return;
        };
        let Some(leader) = replica.leader().filter(|leader| !leader.is_stopped()) else {
            return;
        };
        let (hw, epoch) = (leader.high_watermark(), replica.segment().epoch);
        let mut sent = Vec::new();
        for ((of, _), (to, next)) in &mut life.streams {
            if *of != segment {
                continue;
            }
            let records = log.read(*next, APPEND_MAX);
            let at = *next;
            *next = next.plus(i64::try_from(records.len()).expect("few"));
            sent.push(Message::Append {
                to: *to,
                segment,
                epoch,
                at,
                records,
                hw,
            });
        }
        sent.into_iter().for_each(|message| self.send(message));
    }

    /// Does what a leader asks for.
    pub(crate) fn lead(&mut self, id: BrokerId, segment: SegmentId, effects: Vec<LeaderEffect>) {
        let Some(me) = self.brokers[&id].member() else {
            return;
        };
        for effect in effects {
            match effect {
                LeaderEffect::Exposed(hw) => {
                    let broker = &self.brokers[&id];
                    let log = &broker.disk.logs[&segment];
                    let replica = &broker.life.as_ref().expect("it leads").replicas[&segment];
                    let (base, min) = (replica.segment().base, replica.segment().min_insync);
                    self.ghost
                        .expose((segment, base), me, hw, (min, &|at| log.get(at)));
                }
                LeaderEffect::AlterIsr(proposal) => {
                    let change = AlterIsr {
                        partition: self.partition,
                        segment,
                        version: proposal.version,
                        isr: proposal.isr.iter().copied().collect(),
                    };
                    self.send(Message::Command {
                        command: Command::AlterIsr {
                            changes: vec![change],
                        },
                        from: Asks::Isr {
                            leader: me,
                            proposal,
                        },
                    });
                }
                LeaderEffect::Seal(proposal) => self.seal_and_open(id, me, proposal),
                LeaderEffect::FrozenTooLong => self.begin_seal(segment),
                LeaderEffect::Unhealthy(_)
                | LeaderEffect::Thawed
                | LeaderEffect::ShorterThanAcked(_)
                | LeaderEffect::Stopped => {}
            }
        }
    }

    /// R21, at whatever version the segment has now.
    pub(crate) fn begin_seal(&mut self, segment: SegmentId) {
        let version = self
            .chain()
            .iter()
            .find(|record| record.id == segment)
            .map(|record| record.version);
        if let Some(version) = version {
            self.propose(Command::BeginSeal {
                seals: vec![BeginSeal {
                    partition: self.partition,
                    segment,
                    version,
                }],
                reason: SealReason::Requested,
            });
        }
    }

    /// R30: the same command as before, if there was one.
    fn seal_and_open(&mut self, id: BrokerId, me: Member, seal: SealProposal) {
        let key = (seal.segment, seal.version);
        let known = self.brokers[&id]
            .life
            .as_ref()
            .and_then(|life| life.seals.get(&key).cloned());
        let command = match known {
            Some(command) => command,
            None => {
                let Some(command) = self.new_seal_and_open(id, me, seal) else {
                    return;
                };
                let broker = self.brokers.get_mut(&id).expect("a broker");
                let life = broker.life.as_mut().expect("it leads");
                life.seals.insert(key, command.clone());
                command
            }
        };
        self.propose(command);
    }

    fn new_seal_and_open(
        &mut self,
        id: BrokerId,
        me: Member,
        seal: SealProposal,
    ) -> Option<Command> {
        let life = self.brokers[&id].life.as_ref()?;
        let (image, base) = (
            life.image.clone(),
            life.replicas[&seal.segment].segment().base,
        );
        let min_insync = life.replicas[&seal.segment].segment().min_insync;
        let healthy = Self::healthy(&image, |_| true);
        let ask = Ask {
            replicas: usize::try_from(self.options.replicas).expect("few"),
            min_insync,
            prefer: &Default::default(),
            leader: Some(me.broker),
            spread: 0,
        };
        let next = self.next_segment(place(&healthy, &ask)?);
        Some(Command::SealAndOpen {
            seals: vec![SealAndOpen {
                partition: self.partition,
                segment: seal.segment,
                version: seal.version,
                end: seal.end,
                bytes: 1,
                max_timestamp: TimestampMs(1),
                digest: Some(self.ghost.digest(seal.segment, base, seal.end)),
                durable: Vec::new(),
                next,
            }],
        })
    }

    pub(crate) fn next_segment(&mut self, placed: Placed) -> NextSegment {
        NextSegment {
            id: SegmentId(self.draw()),
            replicas: placed.replicas.iter().map(|member| member.broker).collect(),
            isr: placed.replicas,
            leader: placed.leader,
            flush: self.options.flush,
        }
    }

    /// Lets a leader do something that only it can.
    pub(crate) fn with_leader(
        &mut self,
        id: BrokerId,
        act: impl FnOnce(
            &mut mainstem_replication::machine::leader::Leader,
            std::time::Duration,
        ) -> Vec<LeaderEffect>,
    ) {
        let Some(segment) = self.leads(id) else {
            return;
        };
        let now = self.now;
        let leader = self.replica(id, segment).and_then(|it| it.leader_mut());
        let effects = leader.map(|leader| act(leader, now)).unwrap_or_default();
        self.lead(id, segment, effects);
    }

    /// The high watermark of the segment that this broker leads.
    pub(crate) fn hw(&mut self, id: BrokerId) -> Option<Offset> {
        let segment = self.leads(id)?;
        let leader = self.replica(id, segment)?.leader()?;
        Some(leader.high_watermark())
    }
}
