//! All unplanned seals that one controller drives: one [`Sealing`] each, ticked together, what they
//! ask batched per broker, and what they decide batched over partitions.
//!
//! ```text
//!   Sealing ── decision(E, complete) ──> what does each hold below E? ──> those that agree
//!                                            DigestAt, per broker              │
//!                                        CommitSeal, UncleanRecover <──────────┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mainstem_metadata::{Answer, CommitSeal, Image, NextSegment, SegmentFlush, Topic};
use mainstem_record::{Member, PartitionId, SegmentId, TimestampMs};

use crate::{
    machine::{
        FenceAnswer, Segment, Timers,
        placement::Healthy,
        sealing::{SealDecision, Sealing, SealingEffect, View, Wait},
    },
    wire::{CopyOrder, DigestOf, DigestQuestion, FenceOrder},
};

/// The most seals that are looked at in one tick for no other reason than that time has passed, so
/// that many of them at once leave the controller time for what it is told.
const TICKED_MAX: usize = 2_048;
/// How often that is done.
const TURN_PAUSE: Duration = Duration::from_millis(50);
/// How long the digests of a decision are waited for before those that do not answer are left out.
const DIGEST_WAIT: Duration = Duration::from_secs(1);

/// Why a seal began; for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The leader's session is over.
    LeaderLost,
    /// The leader has started anew.
    LeaderRestarted,
    /// The leader was declared lost.
    LeaderDeclaredLost,
    /// The leader was frozen for too long, the controller wants it elsewhere, or somebody asked.
    Requested,
}

/// What is known outside of the machines.
pub(crate) struct Outside<'a> {
    /// The image.
    pub(crate) image: &'a Image,
    /// Lives with a session.
    pub(crate) live: &'a BTreeSet<Member>,
    /// Who may hold what comes next. What is decided here is added to their loads.
    pub(crate) healthy: Healthy,
    /// A fresh id of a segment.
    pub(crate) fresh: &'a mut dyn FnMut() -> SegmentId,
    /// When the replicas of a topic sync.
    pub(crate) flush: &'a dyn Fn(&Topic) -> SegmentFlush,
}

/// What is to be sent and proposed.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) fences: BTreeMap<Member, Vec<FenceOrder>>,
    pub(crate) copies: BTreeMap<Member, Vec<CopyOrder>>,
    pub(crate) digests: BTreeMap<Member, Vec<DigestQuestion>>,
    pub(crate) commits: Vec<CommitSeal>,
    pub(crate) recoveries: Vec<CommitSeal>,
}

/// A seal that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) cause: Cause,
    /// From when this controller saw it `Sealing` to when it saw the next segment.
    pub(crate) took: Duration,
}

/// A decision whose digests are being collected.
struct Decided {
    decision: SealDecision,
    lossy: bool,
    next: SegmentId,
    since: Duration,
    digests: BTreeMap<Member, DigestOf>,
}

struct Drive {
    sealing: Sealing,
    cause: Cause,
    began: Duration,
    decided: Option<Decided>,
    /// A command with what was decided is on its way.
    proposing: bool,
    /// Since when nobody who could say where it ends is there (R38).
    stuck_since: Option<Duration>,
}

/// The seals of one controller.
pub(crate) struct Seals {
    timers: Timers,
    drives: BTreeMap<PartitionId, Drive>,
    by_segment: BTreeMap<SegmentId, PartitionId>,
    /// Of which something was heard since they were ticked.
    dirty: BTreeSet<PartitionId>,
    /// Where the round of those that are ticked because time has passed goes on.
    next: Option<PartitionId>,
    turned: Option<Duration>,
}

// === impl Seals ===

impl Seals {
    pub(crate) fn new(timers: Timers) -> Self {
        Self {
            timers,
            drives: BTreeMap::new(),
            by_segment: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next: None,
            turned: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.drives.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.drives.len()
    }

    /// What the seals wait for, and how many for each.
    pub(crate) fn waits(&self) -> BTreeMap<Wait, usize> {
        let mut waits = BTreeMap::new();
        for drive in self.drives.values() {
            *waits.entry(drive.sealing.wait()).or_default() += 1;
        }
        waits
    }

    /// Takes what an image says of a partition that has changed in it; returns the seal that is over
    /// with it.
    pub(crate) fn image(
        &mut self,
        image: &Image,
        id: PartitionId,
        now: Duration,
    ) -> Option<Sealed> {
        let mut over = None;
        if let Some(drive) = self.drives.get_mut(&id) {
            if drive.sealing.image(image) {
                self.dirty.insert(id);
                return None;
            }
            let took = now.saturating_sub(drive.began);
            let cause = drive.cause;
            self.by_segment.remove(&drive.sealing.segment().id);
            self.drives.remove(&id);
            self.dirty.remove(&id);
            over = Some(Sealed { cause, took });
        }
        if let Some(sealing) = Sealing::new(image, id, self.timers) {
            self.by_segment.insert(sealing.segment().id, id);
            let cause = cause(image, sealing.segment());
            let drive = Drive {
                sealing,
                cause,
                began: now,
                decided: None,
                proposing: false,
                stuck_since: None,
            };
            self.drives.insert(id, drive);
            self.dirty.insert(id);
        }
        over
    }

    /// An answer to Fence or CopyTail.
    pub(crate) fn answer(&mut self, answer: FenceAnswer, now: Duration) {
        if let Some(id) = self.by_segment.get(&answer.segment).copied()
            && let Some(drive) = self.drives.get_mut(&id)
        {
            drive.sealing.answer(answer, now);
            self.dirty.insert(id);
        }
    }

    /// An answer to DigestAt.
    pub(crate) fn digest(&mut self, member: Member, digest: DigestOf) {
        let Some(id) = self.by_segment.get(&digest.segment).copied() else {
            return;
        };
        let drive = self.drives.get_mut(&id);
        let decided = drive.and_then(|drive| drive.decided.as_mut());
        if let Some(decided) = decided
            && decided.decision.end == digest.end
            && decided.decision.complete.contains(&member)
        {
            decided.digests.insert(member, digest);
            self.dirty.insert(id);
        }
    }

    /// A command with a decision has an outcome, whichever: if it was applied, an image tells.
    pub(crate) fn settled(&mut self, commit: &CommitSeal) {
        let drive = self.drives.get_mut(&commit.partition);
        if let Some(drive) = drive.filter(|it| it.sealing.segment().id == commit.segment) {
            drive.proposing = false;
        }
    }

    /// Looks at the seals that were heard of, and in turn at the others.
    pub(crate) fn tick(&mut self, outside: &mut Outside<'_>, now: Duration) -> Work {
        let mut due = std::mem::take(&mut self.dirty);
        let last = self.turned;
        if last.is_none_or(|last| now >= last.saturating_add(TURN_PAUSE)) {
            self.turned = Some(now);
            due.extend(self.turn());
        }
        let mut work = Work::default();
        for id in due {
            if let Some(drive) = self.drives.get_mut(&id) {
                drive.tick(id, outside, now, &mut work);
            }
        }
        work
    }

    /// The next ones whose turn it is.
    fn turn(&mut self) -> Vec<PartitionId> {
        let from = self.next.take();
        let mut left = match from {
            Some(from) => self.drives.range(from..),
            None => self.drives.range(..),
        };
        let turn: Vec<_> = left.by_ref().take(TICKED_MAX).map(|(id, _)| *id).collect();
        self.next = left.next().map(|(id, _)| *id);
        turn
    }

    /// R38: brokers without which a seal does not go on that may be unclean, as `may` tells, and that
    /// have been waited for long enough.
    pub(crate) fn missing(
        &self,
        image: &Image,
        live: &BTreeSet<Member>,
        may: impl Fn(PartitionId) -> bool,
        now: Duration,
    ) -> BTreeSet<Member> {
        let mut missing = BTreeSet::new();
        for (id, drive) in &self.drives {
            let waited = drive.stuck_since.map(|since| now.saturating_sub(since));
            if waited.is_some_and(|waited| waited >= self.timers.unclean_timeout) && may(*id) {
                missing.extend(drive.absent(image, live));
            }
        }
        missing
    }
}

/// Why the segment is `Sealing`, as far as the image still tells.
fn cause(image: &Image, segment: &Segment) -> Cause {
    match image.brokers.get(&segment.leader.broker) {
        Some(broker) if broker.lost => Cause::LeaderDeclaredLost,
        Some(broker) if broker.incarnation != segment.leader.incarnation => Cause::LeaderRestarted,
        Some(broker) if broker.fenced => Cause::LeaderLost,
        _ => Cause::Requested,
    }
}

// === impl Drive ===

impl Drive {
    fn tick(&mut self, id: PartitionId, outside: &mut Outside<'_>, now: Duration, work: &mut Work) {
        let Some(topic) = outside.image.topic_by_id(id.topic) else {
            return;
        };
        let view = View {
            image: outside.image,
            live: outside.live,
            healthy: &outside.healthy,
            replicas: usize::try_from(topic.replication_factor).unwrap_or(1),
            spread: spread(id),
        };
        let effects = self.sealing.tick(view, now);
        for effect in effects {
            match effect {
                SealingEffect::Fence { to } => {
                    let order = FenceOrder {
                        partition: id,
                        segment: self.sealing.segment().id,
                        version: self.sealing.segment().version,
                    };
                    work.fences.entry(to).or_default().push(order);
                }
                SealingEffect::CopyTail { from, to, at } => {
                    let order = CopyOrder {
                        partition: id,
                        segment: self.sealing.segment().id,
                        from,
                        at,
                    };
                    work.copies.entry(to).or_default().push(order);
                }
                SealingEffect::Commit(decision) => self.decide(id, decision, outside, now, work),
                SealingEffect::Recover(decision) => self.decide(id, decision, outside, now, work),
            }
        }
        self.note_stuck(outside.image, outside.live, now);
        self.commit(id, (outside.flush)(topic), now, work);
    }

    /// Takes a decision; asks who holds it what they hold. One that comes again because nothing was
    /// heard keeps what was answered.
    fn decide(
        &mut self,
        id: PartitionId,
        decision: SealDecision,
        outside: &mut Outside<'_>,
        now: Duration,
        work: &mut Work,
    ) {
        if self.proposing {
            return;
        }
        let segment = self.sealing.segment();
        let lossy = segment.eligible().is_empty();
        let is_same = |decided: &&mut Decided| {
            let before = &decided.decision;
            before.end == decision.end && before.complete == decision.complete
        };
        let decided = match self.decided.as_mut().filter(is_same) {
            Some(decided) => {
                decided.decision = decision;
                decided.lossy = lossy;
                decided
            }
            None => self.decided.insert(Decided {
                decision,
                lossy,
                next: (outside.fresh)(),
                since: now,
                digests: BTreeMap::new(),
            }),
        };
        let next = &decided.decision.next;
        for member in &next.replicas {
            if let Some(load) = outside.healthy.get_mut(member) {
                load.replicas += 1;
                load.leads += u32::from(*member == next.leader);
            }
        }
        if decided.decision.end == segment.base {
            return;
        }
        for member in &decided.decision.complete {
            if !decided.digests.contains_key(member) {
                let question = DigestQuestion {
                    partition: id,
                    segment: segment.id,
                    end: decided.decision.end,
                };
                work.digests.entry(*member).or_default().push(question);
            }
        }
    }

    /// Proposes what is decided, once enough of those who hold it agree on what it is.
    fn commit(&mut self, id: PartitionId, flush: SegmentFlush, now: Duration, work: &mut Work) {
        let segment = self.sealing.segment();
        let Some(decided) = &self.decided else {
            return;
        };
        if decided.decision.version != segment.version {
            self.decided = None;
            return;
        }
        let Some((complete, tail)) = decided.agreed(segment, now) else {
            return;
        };
        let decision = &decided.decision;
        let answers = decision.answers.iter().map(|answer| Answer {
            member: answer.member,
            certificate: answer.certificate,
            leo: answer.leo,
        });
        let replicas = decision.next.replicas.iter();
        let commit = CommitSeal {
            partition: id,
            segment: segment.id,
            version: decision.version,
            end: decision.end,
            bytes: tail.map_or(0, |tail| tail.bytes),
            max_timestamp: tail.map_or(TimestampMs::NONE, |tail| tail.max_timestamp),
            digest: tail.map(|tail| tail.digest.to_be_bytes()),
            answers: answers.collect(),
            complete,
            durable: Vec::new(),
            next: NextSegment {
                id: decided.next,
                replicas: replicas.map(|member| member.broker).collect(),
                isr: decision.next.replicas.clone(),
                leader: decision.next.leader,
                flush,
            },
        };
        match decided.lossy {
            true => work.recoveries.push(commit),
            false => work.commits.push(commit),
        }
        // The machine decides again if nothing comes of it.
        self.decided = None;
        self.proposing = true;
    }

    /// Those without whom nobody can say where the segment ends: its eligible members if all of them
    /// are away; where none is left, those who lost data and have not come back (R36).
    fn absent(&self, image: &Image, live: &BTreeSet<Member>) -> BTreeSet<Member> {
        let segment = self.sealing.segment();
        let eligible = segment.eligible();
        if !eligible.is_disjoint(live) {
            return BTreeSet::new();
        }
        if !eligible.is_empty() {
            return eligible;
        }
        let lost = segment
            .lost
            .iter()
            .filter_map(|broker| image.member(*broker));
        lost.filter(|member| !live.contains(member)).collect()
    }

    fn note_stuck(&mut self, image: &Image, live: &BTreeSet<Member>, now: Duration) {
        let is_stuck = !self.absent(image, live).is_empty();
        self.stuck_since = match is_stuck {
            true => self.stuck_since.or(Some(now)),
            false => None,
        };
    }
}

// === impl Decided ===

impl Decided {
    /// R26 (b): who has one and the same below the end, and what; `None` while too few have said. An
    /// empty segment needs nobody to say it.
    fn agreed(&self, segment: &Segment, now: Duration) -> Option<(Vec<Member>, Option<DigestOf>)> {
        let complete = &self.decision.complete;
        if self.decision.end == segment.base {
            return Some((complete.clone(), None));
        }
        let is_whole = self.digests.len() == complete.len();
        if !is_whole && now < self.since.saturating_add(DIGEST_WAIT) {
            return None;
        }
        let mut groups: BTreeMap<u128, Vec<Member>> = BTreeMap::new();
        for (member, digest) in &self.digests {
            groups.entry(digest.digest).or_default().push(*member);
        }
        if groups.len() > 1 {
            tracing::error!(segment = %segment.id.0, end = %self.decision.end, ?groups,
                "replicas of a segment differ; the larger part is kept");
        }
        let largest = groups.into_values().rev().max_by_key(Vec::len)?;
        if largest.len() < segment.min_insync {
            return None;
        }
        let tail = self.digests.get(largest.first()?).copied();
        Some((largest, tail))
    }
}

/// Spreads the leaders of the partitions of a topic, and of different topics.
pub(crate) fn spread(id: PartitionId) -> u64 {
    let (_, topic) = id.topic.0.as_u64_pair();
    topic.wrapping_add(u64::from(id.index.0.unsigned_abs()))
}
