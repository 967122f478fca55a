//! Controllers: each sees sessions and answers of its own, and any may act at any time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mainstem_metadata::{Answer, Command, CommitSeal, Image, Rule};
use mainstem_record::{Member, Offset, TimestampMs};
use mainstem_replication::machine::{
    Segment, Timers,
    liveness::{Liveness, Registered, Transition},
    placement::{Healthy, Load, Misplaced, misplaced},
    sealing::{SealDecision, Sealing, SealingEffect, View},
};

use super::{World, message::Message};

pub(crate) struct Controller {
    pub(crate) image: Arc<Image>,
    pub(crate) liveness: Liveness,
    pub(crate) sealing: Option<Sealing>,
}

impl Controller {
    pub(crate) fn new(image: Arc<Image>, timers: Timers, now: Duration) -> Self {
        Self {
            image,
            liveness: Liveness::new(timers.session_timeout, now),
            sealing: None,
        }
    }
}

impl World {
    pub(crate) fn healthy(image: &Image, lives: impl Fn(Member) -> bool) -> Healthy {
        let brokers = image.brokers.values();
        let healthy = brokers.filter(|broker| {
            let is_lost = broker.lost && !Rule::R26eLost.holds();
            is_lost || !(broker.fenced || broker.draining || broker.lost)
        });
        let members = healthy.map(|broker| Member::new(broker.id, broker.incarnation));
        let members = members.filter(|member| lives(*member));
        members.map(|member| (member, Load::default())).collect()
    }

    /// A controller's next image.
    pub(crate) fn controller_catches_up(&mut self, controller: usize, behind: usize) {
        let seen = self.images.len().saturating_sub(1 + behind);
        let image = Arc::clone(&self.images[seen]);
        let controller = &mut self.controllers[controller];
        if image.version > controller.image.version {
            controller.image = image;
        }
    }

    /// Another node becomes controller in its place: it knows nothing but the image.
    pub(crate) fn controller_changes(&mut self, controller: usize) {
        let fresh = Controller::new(self.head(), self.timers, self.now);
        self.controllers[controller] = fresh;
    }

    /// A controller does what time asks for.
    pub(crate) fn controller_ticks(&mut self, index: usize) {
        let (now, partition, timers) = (self.now, self.partition, self.timers);
        let replicas = usize::try_from(self.options.replicas).expect("few");
        let controller = &mut self.controllers[index];
        let image = Arc::clone(&controller.image);
        let known = image.brokers.values().map(|broker| Registered {
            member: Member::new(broker.id, broker.incarnation),
            fenced: broker.fenced,
        });
        let known: Vec<Registered> = known.collect();
        let transitions = controller.liveness.tick(&known, now);
        let live: BTreeSet<Member> = known
            .iter()
            .map(|broker| broker.member)
            .filter(|member| controller.liveness.is_live(*member, now))
            .collect();
        // Without (e), also who was declared lost and nobody has heard since.
        let healthy = Self::healthy(&image, |member| {
            live.contains(&member) || !Rule::R26eLost.holds()
        });
        if controller
            .sealing
            .as_mut()
            .is_none_or(|it| !it.image(&image))
        {
            controller.sealing = Sealing::new(&image, partition, timers);
        }
        let effects = controller.sealing.as_mut().map(|sealing| {
            sealing.tick(
                View {
                    image: &image,
                    live: &live,
                    healthy: &healthy,
                    replicas,
                    spread: 0,
                },
                now,
            )
        });
        let open = Segment::open(&image, partition);
        let misplaced = open
            .as_ref()
            .and_then(|it| misplaced(it, &healthy, replicas));
        if let (Some(open), Some(Misplaced::TooFewLive)) = (open, misplaced) {
            self.begin_seal(open.id);
        }
        for transition in transitions {
            self.propose(match transition {
                Transition::Fence(member) => Command::FenceBroker { member },
                Transition::Unfence(member) => Command::UnfenceBroker { member },
            });
        }
        for effect in effects.unwrap_or_default() {
            self.drive(index, &image, effect);
        }
    }

    fn drive(&mut self, controller: usize, image: &Arc<Image>, effect: SealingEffect) {
        match effect {
            SealingEffect::Fence { to } => self.send(Message::Fence {
                controller,
                to,
                image: Arc::clone(image),
            }),
            SealingEffect::CopyTail { from, to, .. } => {
                let segment = self.controllers[controller]
                    .sealing
                    .as_ref()
                    .map(|sealing| sealing.segment().id);
                if let Some(segment) = segment {
                    self.send(Message::CopyTail {
                        controller,
                        to,
                        source: from,
                        segment,
                    });
                }
            }
            SealingEffect::Commit(decision) => {
                let commit = self.commit_seal(controller, decision);
                self.propose(Command::CommitSeal {
                    commits: vec![commit],
                });
            }
            SealingEffect::Recover(decision) => {
                let commit = self.commit_seal(controller, decision);
                self.propose(Command::UncleanRecover {
                    recoveries: vec![commit],
                });
            }
        }
    }

    fn commit_seal(&mut self, controller: usize, decision: SealDecision) -> CommitSeal {
        let sealing = self.controllers[controller].sealing.as_ref();
        let base = sealing.map_or(Offset::ZERO, |sealing| sealing.segment().base);
        let answers = decision.answers.iter().map(|answer| Answer {
            member: answer.member,
            certificate: answer.certificate,
            leo: answer.leo,
        });
        CommitSeal {
            partition: self.partition,
            segment: decision.segment,
            version: decision.version,
            end: decision.end,
            bytes: 1,
            max_timestamp: TimestampMs(1),
            digest: Some(self.ghost.digest(decision.segment, base, decision.end)),
            answers: answers.collect(),
            complete: decision.complete,
            durable: Vec::new(),
            next: self.next_segment(decision.next),
        }
    }
}
