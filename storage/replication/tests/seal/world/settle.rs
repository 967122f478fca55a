//! What brokers do by themselves as time goes on; and faults off, until everything is healthy
//! (I-SEAL-11).

use std::time::Duration;

use mainstem_metadata::{Command, Image, SegmentCopy, SegmentRecord, SegmentState};
use mainstem_record::{BrokerId, Member, Offset, SegmentId};

use super::{World, broker::Stop, log::Log, message::Message};

/// How long a healthy cluster may take, in rounds of [`ROUND`].
const ROUNDS_MAX: u32 = 120;
const ROUND: Duration = Duration::from_millis(300);

impl World {
    /// A broker does what time asks for.
    pub(crate) fn broker_ticks(&mut self, id: BrokerId) {
        let Some(life) = self.brokers[&id].life.as_ref() else {
            return;
        };
        let image = life.image.clone();
        let Some(me) = life.member else {
            self.register(id);
            return;
        };
        let known = image.member(id);
        if known.is_some_and(|known| known.incarnation > me.incarnation) {
            // Declared lost: this life is over, and the next begins without proof (R38).
            self.stop(id, Stop::Power { kept: 0 });
            self.start(id, 0);
            return;
        }
        for controller in &mut self.controllers {
            controller.liveness.heartbeat(me, self.now);
        }
        let segments: Vec<SegmentId> = life_segments(self, id);
        for segment in segments {
            self.replica_ticks(id, me, segment);
        }
        for record in self.chain_of(&image) {
            if record.state == SegmentState::Sealed && image.is_current(me) {
                self.repair(me, &record, &image);
            }
        }
    }

    fn chain_of(&self, image: &Image) -> Vec<SegmentRecord> {
        let chain = image.partition(self.partition);
        chain
            .map(|chain| chain.segments.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn replica_ticks(&mut self, id: BrokerId, me: Member, segment: SegmentId) {
        let now = self.now;
        let Some(replica) = self.replica(id, segment) else {
            return;
        };
        if let Some(leader) = replica.leader_mut() {
            let effects = leader.tick(now);
            self.lead(id, segment, effects);
            self.push(id, segment);
            return;
        }
        let is_replica = replica.segment().replicas.contains(&id);
        let leader = replica.segment().leader.broker;
        if let Some((epoch, member, leo)) = replica.follow().filter(|_| is_replica) {
            debug_assert_eq!(member, me);
            self.send(Message::Follow {
                to: leader,
                segment,
                epoch,
                member,
                leo,
            });
        }
    }

    /// R32 to R34: a sealed segment is made whole, checked, and told of.
    fn repair(&mut self, me: Member, record: &SegmentRecord, image: &Image) {
        let id = me.broker;
        let complete = record
            .complete
            .iter()
            .find(|copy| copy.broker == id && copy.incarnation == me.incarnation);
        if complete.is_none() && !record.replicas.contains(&id) {
            return;
        }
        let end = record.end.unwrap_or(record.base);
        let Some(log) = self.brokers[&id].disk.logs.get(&record.id) else {
            return;
        };
        if log.end() < end {
            let sources = record.complete.iter();
            let source = sources
                .map(|copy| Member::new(copy.broker, copy.incarnation))
                .find(|copy| image.is_current(*copy) && copy.broker != id);
            if let Some(source) = source {
                self.fetch(me, source.broker, record.id, None);
            }
            return;
        }
        let digest = Some(log.digest(end));
        if digest != record.digest || complete.is_some_and(|copy| copy.durable) {
            return;
        }
        let copies = vec![SegmentCopy {
            partition: self.partition,
            segment: record.id,
            member: me,
            digest,
        }];
        if complete.is_none() {
            self.propose(Command::AddComplete { copies });
        } else {
            // R32: synced first.
            self.sync(id, record.id);
            self.propose(Command::MarkDurable { copies });
        }
    }

    /// Faults off: everybody is started, everything arrives.
    pub(crate) fn settle(&mut self) {
        for message in std::mem::take(&mut self.soup) {
            self.deliver(message);
            self.check();
        }
        let mut wrote = false;
        for _ in 0..ROUNDS_MAX {
            if self.ghost.violation.is_some() {
                return;
            }
            self.round();
            if self.is_healthy() {
                if wrote {
                    return;
                }
                // It takes writes, and from a time on which everybody is in sync again.
                wrote = self.append(self.open().leader.broker);
            }
        }
        let open = self.open();
        let what = self.unhealthy();
        self.ghost
            .violation
            .get_or_insert_with(|| format!("I-SEAL-11: {what}; {:?} of {open:?}", open.state));
    }

    pub(crate) fn round(&mut self) {
        self.now += ROUND;
        let ids: Vec<BrokerId> = self.brokers.keys().copied().collect();
        for id in ids {
            if self.gone.contains(&id) {
                continue;
            }
            self.start(id, 0);
            self.catch_up(id, 0);
            self.broker_ticks(id);
            for segment in life_segments(self, id) {
                self.sync(id, segment);
            }
            self.deliver_all(|_| true);
        }
        for controller in 0..self.controllers.len() {
            self.controller_catches_up(controller, 0);
            self.controller_ticks(controller);
            self.deliver_all(|_| true);
        }
        self.check();
    }

    fn is_healthy(&mut self) -> bool {
        self.unhealthy().is_empty()
    }

    /// What is not as it should be: empty if all is.
    fn unhealthy(&mut self) -> String {
        let open = self.open();
        let leader = open.leader;
        if open.state != SegmentState::Active || self.leads(leader.broker) != Some(open.id) {
            return "nobody leads".to_owned();
        }
        let log_end = |world: &Self, id: BrokerId, segment: SegmentId| -> Option<Offset> {
            world.brokers[&id].disk.logs.get(&segment).map(Log::end)
        };
        let end = log_end(self, leader.broker, open.id);
        if self.hw(leader.broker) != end {
            return format!(
                "the high watermark is {:?} of {end:?}",
                self.hw(leader.broker)
            );
        }
        for broker in open.replicas.difference(&self.gone) {
            if log_end(self, *broker, open.id) != end {
                return format!("broker {broker} is behind");
            }
        }
        for record in self.chain() {
            let Some(end) = record.end else {
                continue;
            };
            // Lost by all who had it: more losses than are promised to be survived (I-SEAL-9).
            let mut complete = record.complete.iter();
            let head = self.head();
            if !complete.any(|copy| head.is_current(Member::new(copy.broker, copy.incarnation))) {
                continue;
            }
            for broker in &record.replicas {
                if self.gone.contains(broker) {
                    continue;
                }
                if log_end(self, *broker, record.id) != Some(end) {
                    return format!("broker {broker} has another end than {end}");
                }
            }
        }
        String::new()
    }
}

/// The segments that a running broker has.
pub(crate) fn life_segments(world: &World, id: BrokerId) -> Vec<SegmentId> {
    let life = world.brokers[&id].life.as_ref();
    life.map(|life| life.replicas.keys().copied().collect())
        .unwrap_or_default()
}
