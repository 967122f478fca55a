//! What scripts say.

use mainstem_metadata::{
    Answer, Applied, ApplyError, Command, CommitSeal, EvictReplica, NextSegment,
};
use mainstem_record::{BrokerId, Member, Offset, SegmentId, TimestampMs};

use crate::world::{
    World,
    message::{Kind, Message},
};

impl World {
    /// The broker's life, as metadata has it.
    pub(crate) fn member(&self, id: BrokerId) -> Member {
        self.head().member(id).expect("registered")
    }

    /// Everything of this kind that waits arrives.
    pub(crate) fn arrives(&mut self, kind: Kind) {
        let (now, rest) = std::mem::take(&mut self.soup)
            .into_iter()
            .partition(|message| message.kind() == kind);
        self.soup = rest;
        let now: Vec<Message> = now;
        now.into_iter().for_each(|message| self.deliver(message));
        self.check();
    }

    /// Everything of this kind that waits is taken out, to arrive later or never.
    pub(crate) fn held(&mut self, kind: Kind) -> Vec<Message> {
        let (held, rest) = std::mem::take(&mut self.soup)
            .into_iter()
            .partition(|message| message.kind() == kind);
        self.soup = rest;
        held
    }

    pub(crate) fn late(&mut self, held: &[Message]) {
        for message in held {
            self.deliver(message.clone());
            self.check();
        }
    }

    /// A follower takes what the leader of this segment has.
    pub(crate) fn takes(&mut self, id: BrokerId, segment: SegmentId) {
        let Some(replica) = self.replica(id, segment) else {
            return;
        };
        let to = replica.segment().leader.broker;
        let Some((epoch, member, leo)) = replica.follow() else {
            return;
        };
        self.held(Kind::Append);
        self.deliver(Message::Follow {
            to,
            segment,
            epoch,
            member,
            leo,
        });
        let appends = self.held(Kind::Append);
        for append in appends {
            if matches!(&append, Message::Append { to, .. } if to.broker == id) {
                self.deliver(append);
            }
        }
    }

    /// A follower takes what the leader has, and its ack arrives.
    pub(crate) fn pulls(&mut self, id: BrokerId) {
        let segment = self.open().id;
        self.pulls_in(id, segment);
    }

    pub(crate) fn pulls_in(&mut self, id: BrokerId, segment: SegmentId) {
        self.held(Kind::Ack);
        self.takes(id, segment);
        self.arrives(Kind::Ack);
        self.held(Kind::Append);
    }

    /// The leader proposes an ISR without `other`.
    pub(crate) fn shrinks(&mut self, leader: BrokerId, other: BrokerId) {
        self.with_leader(leader, |leader, now| {
            let member = leader.isr().iter().find(|it| it.broker == other).copied();
            let effect = member.and_then(|member| leader.shrink(member, now));
            effect.into_iter().collect()
        });
    }

    /// The leader proposes an ISR with `other`, in its present life.
    pub(crate) fn expands(&mut self, leader: BrokerId, other: Member) {
        self.with_leader(leader, |leader, now| {
            leader.expand(other, now).into_iter().collect()
        });
    }

    /// The proposal is applied, and its image arrives at the leader.
    pub(crate) fn altered(&mut self, leader: BrokerId) {
        self.arrives(Kind::AlterIsr);
        self.catch_up(leader, 0);
        self.arrives(Kind::Outcome);
        self.check();
    }

    /// `other` is shrunk out, and everybody knows.
    pub(crate) fn without(&mut self, leader: BrokerId, other: BrokerId) {
        self.shrinks(leader, other);
        self.altered(leader);
    }

    pub(crate) fn freezes(&mut self, leader: BrokerId) {
        self.with_leader(leader, |leader, now| leader.freeze(now).unwrap_or_default());
    }

    /// Time goes on, for the leader alone.
    pub(crate) fn leader_waits(&mut self, leader: BrokerId) {
        self.now += self.timers.retry;
        self.with_leader(leader, |leader, now| leader.tick(now));
    }

    /// The controller drops a follower (R20).
    pub(crate) fn evicts(&mut self, other: BrokerId) {
        let open = self.open();
        let member = self.member(other);
        let _ = self.apply(&Command::EvictReplicas {
            evictions: vec![EvictReplica {
                partition: self.partition,
                segment: open.id,
                version: open.version,
                member,
            }],
        });
    }

    /// R21, at once.
    pub(crate) fn seal_begins(&mut self) {
        self.begin_seal(self.open().id);
        self.arrives(Kind::OtherCommand);
    }

    /// Fence arrives at a broker, and its answer at once.
    pub(crate) fn answers(&mut self, id: BrokerId) -> Option<Answer> {
        let image = self.head();
        let to = self.member(id);
        self.held(Kind::Answer);
        self.deliver(Message::Fence {
            controller: 0,
            to,
            image,
        });
        self.held(Kind::Answer).into_iter().find_map(|message| {
            let Message::Answer { answer, .. } = message else {
                return None;
            };
            Some(Answer {
                member: answer.member,
                certificate: answer.certificate,
                leo: answer.leo,
            })
        })
    }

    /// CommitSeal, written by hand and applied at once, at the version that the segment has.
    pub(crate) fn commits(
        &mut self,
        (segment, version): (SegmentId, u32),
        (answers, end): (&[Option<Answer>], i64),
        complete: &[Member],
        next: &[Member],
    ) -> bool {
        let records = self.chain();
        let base = records.iter().find(|record| record.id == segment);
        let base = base.map_or(Offset::ZERO, |record| record.base);
        let end = Offset(end);
        let commit = CommitSeal {
            partition: self.partition,
            segment,
            version,
            end,
            bytes: 1,
            max_timestamp: TimestampMs(1),
            digest: Some(self.ghost.digest(segment, base, end)),
            answers: answers.iter().flatten().copied().collect(),
            complete: complete.to_vec(),
            durable: Vec::new(),
            next: NextSegment {
                id: SegmentId(self.draw()),
                replicas: next.iter().map(|member| member.broker).collect(),
                isr: next.to_vec(),
                leader: next[0],
                flush: self.options.flush,
            },
        };
        let result = self.apply(&Command::CommitSeal {
            commits: vec![commit],
        });
        self.check();
        let Ok(Applied::SealedAndOpened { results }) = result else {
            return false;
        };
        let refused: Vec<&ApplyError> = results.iter().filter_map(|it| it.as_ref().err()).collect();
        refused.is_empty()
    }

    /// The open segment and its version: what a command is made for.
    pub(crate) fn named(&self) -> (SegmentId, u32) {
        let open = self.open();
        (open.id, open.version)
    }

    /// A broker stops, starts and is registered again.
    pub(crate) fn restarts(&mut self, id: BrokerId, how: crate::world::broker::Stop) {
        self.stop(id, how);
        self.returns(id, 0);
    }

    /// A broker that stopped is started and registered, and has the image of `behind` commands ago.
    pub(crate) fn returns(&mut self, id: BrokerId, behind: usize) {
        self.start(id, behind);
        self.arrives(Kind::Register);
        self.arrives(Kind::Outcome);
        if behind == 0 {
            self.catch_up(id, 0);
        }
        self.check();
    }

    pub(crate) fn alters_min(&mut self, value: i16) {
        let topic = self.partition.topic;
        let _ = self.apply(&Command::AlterTopicConfigs {
            topic,
            set: [("min.insync.replicas".to_owned(), value.to_string())].into(),
            delete: Vec::new(),
        });
        self.check();
    }
}
