//! The controller's driver of one unplanned seal: R21 to R27, and unclean recovery (R36 to R38).
//!
//! ```text
//!   Sealing, in an image
//!      │ Fence: every live replica, and who led; recruits where too few live      (R22, R23)
//!      v
//!   certificates ── the first, then answer_wait ──> CopyTail from the longest     (R24)
//!      │                                                │ copy_wait
//!      v                                                v
//!   none eligible left, all lost answered (R36)     E, certified and held          (R25, R26)
//!      └──> UncleanRecover                              └──> CommitSeal
//! ```
//!
//! It keeps nothing that another controller could not find out again: any number of them may drive
//! the same seal, and the first command wins (R27).

mod end;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mainstem_metadata::{Image, Rule, SegmentState};
use mainstem_record::{BrokerId, Member, Offset, PartitionId, SegmentId};

use super::{
    FenceAnswer, Segment, Timers,
    placement::{Ask, Healthy, Placed, place},
};

/// What a controller does for a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealingEffect {
    /// Send Fence, with this segment's `Sealing` image.
    Fence {
        /// Which live broker, in its present life.
        to: Member,
    },
    /// Have `to` copy the tail from `from`. Both have answered (R24).
    CopyTail {
        /// Who has more.
        from: Member,
        /// Who copies, and then answers again.
        to: Member,
        /// Its log end: where the copy begins.
        at: Offset,
    },
    /// Propose CommitSeal.
    Commit(SealDecision),
    /// Propose UncleanRecover.
    Recover(SealDecision),
}

/// Where the segment ends and what follows. The shell adds bytes, digest and a fresh segment id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealDecision {
    /// The segment.
    pub segment: SegmentId,
    /// The version that it was decided from.
    pub version: u32,
    /// Offset after its last record.
    pub end: Offset,
    /// All answers that it was decided from.
    pub answers: Vec<FenceAnswer>,
    /// Who holds everything below the end.
    pub complete: Vec<Member>,
    /// Who holds and leads the next segment.
    pub next: Placed,
}

/// What a controller sees when it looks at a seal.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its image.
    pub image: &'a Image,
    /// Lives with a session.
    pub live: &'a BTreeSet<Member>,
    /// Who may hold the next segment.
    pub healthy: &'a Healthy,
    /// How many replicas the next segment is meant to have.
    pub replicas: usize,
    /// Spreads leaders of different partitions (see [`Ask::spread`]).
    pub spread: u64,
}

/// Why a seal is not committed yet; for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// For answers.
    Answers,
    /// For a member of ISR ∪ ELR: all of them are away.
    Eligible,
    /// For every broker that lost data (R36).
    Lost,
    /// For copies of the tail.
    Copies,
    /// For enough healthy brokers to hold the next segment.
    Placement,
}

/// One unplanned seal, as one controller drives it.
#[derive(Clone, Debug)]
pub struct Sealing {
    timers: Timers,
    partition: PartitionId,
    segment: Segment,
    answers: BTreeMap<BrokerId, FenceAnswer>,
    recruited: BTreeSet<BrokerId>,
    /// When each was last asked for what it has not done yet.
    asked: BTreeMap<BrokerId, Duration>,
    first_certificate: Option<Duration>,
    copying_since: Option<Duration>,
    proposed: Option<Duration>,
    wait: Wait,
}

impl Sealing {
    /// Takes up the open segment of `partition`, if the image has it as `Sealing`: also one that
    /// another controller has left (R27).
    pub fn new(image: &Image, partition: PartitionId, timers: Timers) -> Option<Self> {
        let segment = Segment::open(image, partition)?;
        (segment.state == SegmentState::Sealing).then(|| Self {
            timers,
            partition,
            segment,
            answers: BTreeMap::new(),
            recruited: BTreeSet::new(),
            asked: BTreeMap::new(),
            first_certificate: None,
            copying_since: None,
            proposed: None,
            wait: Wait::Answers,
        })
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// What it waits for.
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// The answers so far.
    pub fn answers(&self) -> impl Iterator<Item = &FenceAnswer> {
        self.answers.values()
    }

    /// Whether the segment is still to be sealed; takes what the image says of it.
    pub fn image(&mut self, image: &Image) -> bool {
        let Some(segment) = Segment::open(image, self.partition) else {
            return false;
        };
        if segment.id != self.segment.id || segment.state != SegmentState::Sealing {
            return false;
        }
        if segment.version >= self.segment.version {
            self.segment = segment;
        }
        true
    }

    /// An answer to Fence or CopyTail. A fence holds for the whole life of who answers, so the
    /// answer holds whatever version it names.
    pub fn answer(&mut self, answer: FenceAnswer, now: Duration) {
        let ends = [self.segment.base, answer.certificate, answer.leo];
        // Ends in another order are none that a broker can have of this segment.
        if answer.segment != self.segment.id || !ends.is_sorted() {
            return;
        }
        let kept = self.answers.entry(answer.member.broker).or_insert(answer);
        if kept.member.incarnation < answer.member.incarnation {
            *kept = answer;
        } else if kept.member == answer.member {
            // R24: leo grows by copying; the certificate is the one of the fence.
            kept.leo = kept.leo.max(answer.leo);
        }
        self.first_certificate.get_or_insert(now);
        self.asked.remove(&answer.member.broker);
    }

    /// What is to be done now.
    pub fn tick(&mut self, view: View<'_>, now: Duration) -> Vec<SealingEffect> {
        if !self.image(view.image) {
            return Vec::new();
        }
        if Rule::R26b.holds() {
            // Of brokers that have registered since, the answer is void.
            self.answers
                .retain(|_, answer| view.image.is_current(answer.member));
        }
        let mut effects = self.fence(view, now);
        if !self.has_waited_for_answers(view, now) {
            self.wait = Wait::Answers;
            return effects;
        }
        self.copying_since.get_or_insert(now);
        effects.extend(self.copy(view, now));
        match self.decide(view, now) {
            Ok((decision, lossy)) if self.may_propose(now) => {
                self.proposed = Some(now);
                effects.push(if lossy {
                    SealingEffect::Recover(decision)
                } else {
                    SealingEffect::Commit(decision)
                });
            }
            Ok(_) => {}
            Err(wait) => self.wait = wait,
        }
        effects
    }

    /// R22, R23: whom to ask: every live replica, the ELR like the ISR, and who led.
    fn asked_brokers(&mut self, view: View<'_>) -> BTreeSet<Member> {
        let mut brokers = self.segment.replicas.clone();
        if !Rule::R23Outside.holds() {
            let eligible = self.segment.eligible();
            brokers.retain(|broker| eligible.iter().any(|member| member.broker == *broker));
        }
        if Rule::R23Leader.holds() {
            brokers.insert(self.segment.leader.broker);
        } else {
            brokers.remove(&self.segment.leader.broker);
        }
        let asked = |brokers: &BTreeSet<BrokerId>| -> BTreeSet<Member> {
            let live = view.live.iter().copied();
            live.filter(|member| brokers.contains(&member.broker) && view.image.is_current(*member))
                .collect()
        };
        let mut targets = asked(&brokers);
        // Recruits copy the whole segment, so only where too few replicas live.
        if targets.len() < self.segment.min_insync && Rule::R23Outside.holds() {
            let missing = self.segment.min_insync - targets.len();
            let spare = view.healthy.keys();
            let spare = spare.filter(|member| !self.segment.replicas.contains(&member.broker));
            let fresh: Vec<_> = spare.map(|member| member.broker).take(missing).collect();
            self.recruited.extend(fresh);
        }
        targets.extend(asked(&self.recruited));
        targets
    }

    fn fence(&mut self, view: View<'_>, now: Duration) -> Vec<SealingEffect> {
        let mut effects = Vec::new();
        for to in self.asked_brokers(view) {
            let answered = self.answers.get(&to.broker);
            if answered.is_some_and(|answer| answer.member == to) || !self.may_ask(to, now) {
                continue;
            }
            effects.push(SealingEffect::Fence { to });
        }
        effects
    }

    /// Whether to ask that broker (again); notes that it was.
    fn may_ask(&mut self, to: Member, now: Duration) -> bool {
        let last = self.asked.get(&to.broker);
        if last.is_some_and(|last| now < last.saturating_add(self.timers.retry)) {
            return false;
        }
        self.asked.insert(to.broker, now);
        true
    }

    /// Everybody who lives has answered, or it is long enough since the first certificate.
    fn has_waited_for_answers(&mut self, view: View<'_>, now: Duration) -> bool {
        let targets = self.asked_brokers(view);
        let all = targets.iter().all(|member| {
            let answer = self.answers.get(&member.broker);
            answer.is_some_and(|answer| answer.member == *member)
        });
        let first = self.first_certificate;
        let waited =
            first.is_some_and(|first| now >= first.saturating_add(self.timers.answer_wait));
        !self.answers.is_empty() && (all || waited)
    }

    fn may_propose(&self, now: Duration) -> bool {
        let retry = self.timers.retry;
        self.proposed
            .is_none_or(|last| now >= last.saturating_add(retry))
    }

    /// R24: who is short copies from who is longest.
    fn copy(&mut self, view: View<'_>, now: Duration) -> Vec<SealingEffect> {
        let Some(longest) = self.longest(view.live) else {
            return Vec::new();
        };
        let short: Vec<(Member, Offset)> = self
            .answers
            .values()
            .filter(|answer| answer.leo < longest.leo && view.live.contains(&answer.member))
            .map(|answer| (answer.member, answer.leo))
            .collect();
        let mut effects = Vec::new();
        for (to, at) in short {
            if self.may_ask(to, now) {
                let from = longest.member;
                effects.push(SealingEffect::CopyTail { from, to, at });
            }
        }
        effects
    }

    /// The answer with the largest leo of a broker that lives.
    fn longest(&self, live: &BTreeSet<Member>) -> Option<FenceAnswer> {
        let answers = self.answers.values().copied();
        let answers = answers.filter(|answer| live.contains(&answer.member));
        answers.max_by_key(|answer| answer.leo)
    }

    /// The next segment, on brokers that are healthy now (R26 e).
    fn place_next(&self, view: View<'_>) -> Option<Placed> {
        let answered: BTreeSet<BrokerId> = self.answers.keys().copied().collect();
        let min_insync = if Rule::R26eMin.holds() {
            self.segment.min_insync
        } else {
            1
        };
        place(
            view.healthy,
            &Ask {
                replicas: view.replicas,
                min_insync,
                prefer: &answered,
                leader: None,
                spread: view.spread,
            },
        )
    }
}

#[cfg(test)]
mod tests;
