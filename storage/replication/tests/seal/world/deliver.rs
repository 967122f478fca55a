//! What a message does where it arrives.

use std::sync::Arc;

use mainstem_metadata::{Applied, ApplyError, Command, Image, Rule, SegmentFlush};
use mainstem_record::{BrokerId, Incarnation, LeaderEpoch, Member, Offset, SegmentId};
use mainstem_replication::machine::{
    Segment, is_current, leader::AlterIsrOutcome, leader::IsrProposal, replica::Incoming,
};

use super::{
    World,
    log::{Log, Rec},
    message::{Asks, Message},
};

/// Records of one Records message.
const FETCH_MAX: usize = 8;

impl World {
    /// Delivers all that `wanted` names, and what follows from it, first come first served.
    pub(crate) fn deliver_all(&mut self, wanted: impl Fn(&Message) -> bool) {
        // What goes round in circles ends here.
        for _ in 0..10_000 {
            let Some(index) = self.soup.iter().position(&wanted) else {
                return;
            };
            let message = self.soup.remove(index);
            self.deliver(message);
        }
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        match message {
            Message::Command { command, from } => self.deliver_command(&command, from),
            Message::Outcome { result, to } => self.deliver_outcome(&result, to),
            Message::Follow {
                to,
                segment,
                epoch,
                member,
                leo,
            } => self.deliver_follow(to, segment, (epoch, member, leo)),
            Message::Append {
                to,
                segment,
                epoch,
                at,
                records,
                hw,
            } => {
                let incoming = Incoming { epoch, at };
                self.deliver_append(to, segment, (incoming, &records), hw);
            }
            Message::Ack {
                to,
                segment,
                member,
                leo,
            } => self.deliver_ack(to, segment, member, leo),
            Message::Fence {
                controller,
                to,
                image,
            } => self.deliver_fence(controller, to, &image),
            Message::Answer {
                controller,
                segment,
                answer,
            } => {
                let now = self.now;
                let sealing = self.controllers[controller].sealing.as_mut();
                if let Some(sealing) = sealing.filter(|it| it.segment().id == segment) {
                    sealing.answer(answer, now);
                }
            }
            Message::CopyTail {
                controller,
                to,
                source,
                segment,
            } => self.fetch(to, source.broker, segment, Some(controller)),
            Message::Fetch {
                to,
                from,
                segment,
                at,
                controller,
            } => self.deliver_fetch(to, from, (segment, at), controller),
            Message::Records {
                to,
                segment,
                epoch,
                at,
                records,
                controller,
            } => {
                let incoming = Incoming { epoch, at };
                self.deliver_records(to, segment, (incoming, &records), controller);
            }
        }
    }

    fn deliver_command(&mut self, command: &Command, from: Asks) {
        let result = self.apply(command);
        if let Ok(Applied::Registered { incarnation }) = &result {
            self.count_registration(command, &from, *incarnation);
        }
        if from != Asks::Nobody {
            self.send(Message::Outcome { result, to: from });
        }
    }

    /// Notes who lives as whom.
    fn count_registration(&mut self, command: &Command, from: &Asks, incarnation: Incarnation) {
        let Command::RegisterBroker {
            broker,
            expected,
            intact,
            directory_life,
            ..
        } = command
        else {
            return;
        };
        let Asks::Registration { life, .. } = from else {
            return;
        };
        let member = Member::new(*broker, incarnation);
        // A late copy of what was applied before is nobody's start.
        let follows = expected.map_or(1, |expected| expected.0 + 1);
        if incarnation.0 != follows || self.ghost.is_known(member) {
            return;
        }
        let always = self.options.flush == SegmentFlush::Always;
        let proven =
            expected.is_none() || intact == expected || (always && directory_life == expected);
        self.ghost.registered(member, *life, proven);
    }

    fn deliver_outcome(&mut self, result: &Result<Applied, ApplyError>, to: Asks) {
        match to {
            Asks::Nobody => {}
            Asks::Registration { broker, life } => {
                if let Ok(Applied::Registered { incarnation }) = result {
                    self.is_registered(broker, life, *incarnation);
                }
            }
            Asks::Isr { leader, proposal } => {
                let outcome = match result {
                    Ok(Applied::IsrAltered { results }) => match results.first() {
                        Some(Ok(_)) => AlterIsrOutcome::Applied,
                        Some(Err(refusal)) if refusal.is_final() => AlterIsrOutcome::RefusedForGood,
                        Some(Err(_)) => AlterIsrOutcome::VersionMoved,
                        None => AlterIsrOutcome::NotNow,
                    },
                    _ => AlterIsrOutcome::NotNow,
                };
                self.isr_outcome(leader, &proposal, outcome);
            }
        }
    }

    fn isr_outcome(&mut self, leader: Member, proposal: &IsrProposal, outcome: AlterIsrOutcome) {
        if self.brokers[&leader.broker].member() != Some(leader) {
            return;
        }
        let now = self.now;
        let replica = self.replica(leader.broker, proposal.segment);
        let leads = replica.and_then(|replica| replica.leader_mut());
        if let Some(leads) = leads {
            let effects = leads.isr_outcome(proposal, outcome, now);
            self.lead(leader.broker, proposal.segment, effects);
        }
    }

    fn deliver_follow(
        &mut self,
        to: BrokerId,
        segment: SegmentId,
        (epoch, member, leo): (LeaderEpoch, Member, Offset),
    ) {
        let now = self.now;
        let Some(leader) = self.replica(to, segment).and_then(|it| it.leader_mut()) else {
            return;
        };
        let Ok(effects) = leader.follow(epoch, member, leo, now) else {
            return;
        };
        let life = self.brokers.get_mut(&to).and_then(|it| it.life.as_mut());
        let streams = life.map(|life| &mut life.streams);
        if let Some(streams) = streams {
            streams.insert((segment, member.broker), (member, leo));
        }
        self.lead(to, segment, effects);
        self.push(to, segment);
    }

    fn deliver_append(
        &mut self,
        to: Member,
        segment: SegmentId,
        (incoming, records): (Incoming, &[Rec]),
        hw: Offset,
    ) {
        if self.brokers[&to.broker].member() != Some(to) {
            return;
        }
        let Some(replica) = self.replica(to.broker, segment) else {
            return;
        };
        if replica.accept(incoming).is_ok() {
            self.extend(to.broker, segment, records);
        }
        if let Some(replica) = self.replica(to.broker, segment) {
            replica.told(hw);
        }
        self.ack(to.broker, segment);
    }

    /// Appends to a follower's log.
    fn extend(&mut self, id: BrokerId, segment: SegmentId, records: &[Rec]) {
        let now = self.now;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(log) = broker.disk.logs.get_mut(&segment) else {
            return;
        };
        log.records.extend_from_slice(records);
        let ends = log.ends();
        if let Some(replica) = broker.replica(segment) {
            replica.wrote(ends, now);
        }
    }

    fn deliver_ack(&mut self, to: BrokerId, segment: SegmentId, member: Member, leo: Offset) {
        let now = self.now;
        let Some(leader) = self.replica(to, segment).and_then(|it| it.leader_mut()) else {
            return;
        };
        let Ok(effects) = leader.ack(member, leo, now) else {
            return;
        };
        let more = !effects.is_empty();
        self.lead(to, segment, effects);
        let end = self.brokers[&to].disk.logs[&segment].end();
        let life = self.brokers[&to].life.as_ref();
        let stream = life.and_then(|life| life.streams.get(&(segment, member.broker)));
        if more || stream.is_some_and(|(_, next)| *next < end) {
            self.push(to, segment);
        }
    }

    fn deliver_fence(&mut self, controller: usize, to: Member, image: &Arc<Image>) {
        let id = to.broker;
        if self.brokers[&id].member() != Some(to) {
            return;
        }
        let partition = self.partition;
        let Some(open) = Segment::open(image, partition) else {
            return;
        };
        // It takes the Sealing image first (R22): who does not stop does not.
        let takes = Rule::R22Isr.holds();
        let life = self.brokers.get_mut(&id).and_then(|it| it.life.as_mut());
        if let Some(life) = life.filter(|life| takes && life.image.version < image.version) {
            life.image = Arc::clone(image);
            self.refresh(id);
        }
        if !is_current(image, to) && Rule::R6.holds() {
            return;
        }
        // A recruit (R23).
        if self.replica(id, open.id).is_none() {
            self.take_segment(id, to, open.id, image);
        }
        let Some(replica) = self.replica(id, open.id) else {
            return;
        };
        let always = replica.segment().flush_always;
        let effects = replica.fence(image, partition);
        self.lead(id, open.id, effects);
        if always {
            self.sync(id, open.id);
        }
        self.answer(controller, id, open.id);
    }

    fn answer(&mut self, controller: usize, id: BrokerId, segment: SegmentId) {
        let answer = self.replica(id, segment).and_then(|it| it.answer());
        if let Some(answer) = answer {
            self.send(Message::Answer {
                controller,
                segment,
                answer,
            });
        }
    }

    /// Asks `source` for what is missing.
    pub(crate) fn fetch(
        &mut self,
        to: Member,
        source: BrokerId,
        segment: SegmentId,
        controller: Option<usize>,
    ) {
        let broker = &self.brokers[&to.broker];
        let at = broker.disk.logs.get(&segment).map(Log::end);
        if let Some(at) = at.filter(|_| broker.member() == Some(to)) {
            self.send(Message::Fetch {
                to: source,
                from: to,
                segment,
                at,
                controller,
            });
        }
    }

    fn deliver_fetch(
        &mut self,
        to: BrokerId,
        from: Member,
        (segment, at): (SegmentId, Offset),
        controller: Option<usize>,
    ) {
        let Some(replica) = self.replica(to, segment) else {
            return;
        };
        let (epoch, always) = (replica.segment().epoch, replica.segment().flush_always);
        // R24: only who has answered; R33: sealed, only once it is cut.
        if !replica.is_fenced() && Rule::R22Isr.holds() && Rule::R22Elr.holds() {
            return;
        }
        if always {
            self.sync(to, segment);
        }
        let records = self.brokers[&to].disk.logs[&segment].read(at, FETCH_MAX);
        if !records.is_empty() {
            self.send(Message::Records {
                to: from,
                segment,
                epoch,
                at,
                records,
                controller,
            });
        }
    }

    fn deliver_records(
        &mut self,
        to: Member,
        segment: SegmentId,
        (incoming, records): (Incoming, &[Rec]),
        controller: Option<usize>,
    ) {
        if self.brokers[&to.broker].member() != Some(to) {
            return;
        }
        let Some(replica) = self.replica(to.broker, segment) else {
            return;
        };
        if replica.accept_copy(incoming).is_err() {
            return;
        }
        let always = replica.segment().flush_always;
        // What is sealed is copied up to its end only.
        let end = replica.segment().end;
        let room = end.map(|end| usize::try_from(end.0 - incoming.at.0).unwrap_or(0));
        let records = &records[..records.len().min(room.unwrap_or(usize::MAX))];
        self.extend(to.broker, segment, records);
        if always {
            self.sync(to.broker, segment);
        }
        if let Some(controller) = controller {
            self.answer(controller, to.broker, segment);
        }
    }
}
