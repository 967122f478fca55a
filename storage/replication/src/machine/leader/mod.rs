//! The leader of one segment: what it counts, when records are exposed, whom it keeps in the ISR.
//!
//! ```text
//!             image: leads, Active            freeze (R28)            hw = leo = E
//!  (follows) ──────────────────────> Leads ─────────────────> Frozen ───────────────> Sealing its own
//!                                      │ ^ thaw (R30) ──────────┘ │                     │ (repeats, R30)
//!                                      └──────────── fence (R22), or an image in which it ─┘
//!                                                    does not lead: Stopped, for good
//! ```
//!
//! A leader never truncates in its own segment (R8), so its end only grows, and so does what each
//! life of a follower acks.

mod freeze;
mod isr;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mainstem_metadata::{Rule, SegmentState};
use mainstem_record::{BrokerId, Incarnation, LeaderEpoch, Member, Offset, SegmentId};

pub use freeze::{FreezeRefusal, SealProposal};
pub use isr::{AlterIsrOutcome, IsrProposal};

use self::{freeze::Freeze, isr::Pending};
use super::{Ends, Segment, Timers};

/// What a leader asks of the shell around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderEffect {
    /// Everything below is exposed now: complete what waits, wake readers, tell followers.
    Exposed(Offset),
    /// Propose this (or again: R17).
    AlterIsr(IsrProposal),
    /// Propose this (or again: R30).
    Seal(SealProposal),
    /// Frozen for too long: answer what waits with NOT_LEADER_OR_FOLLOWER and ask the controller to
    /// seal (R21).
    FrozenTooLong,
    /// It appends again, in the same segment: what waits may go on.
    Thawed,
    /// A member takes bytes and acks nothing: a planned seal may replace it.
    Unhealthy(Member),
    /// A later life of a follower came back with less than an earlier one acked, though the segment
    /// is `flush=always` (R2): its data is gone, and it has to be declared lost.
    ShorterThanAcked(Member),
    /// It leads no more: what waits has an unknown outcome.
    Stopped,
}

/// Why a follower is not streamed to, or its ack not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowRefusal {
    /// This broker does not lead the segment, or no more.
    #[error("not the leader")]
    NotLeading,
    /// Another epoch than the segment's.
    #[error("segment has epoch {0}")]
    Epoch(LeaderEpoch),
    /// Not a replica of the segment.
    #[error("not a replica")]
    NotReplica,
    /// A later life of that broker has followed.
    #[error("stale incarnation; {0} has followed")]
    StaleIncarnation(Incarnation),
    /// The follower holds more than the leader ever wrote.
    #[error("log end is {0}")]
    AboveLogEnd(Offset),
}

/// What is known of a follower: what its newest life acked, and when.
#[derive(Clone, Copy, Debug)]
struct Progress {
    incarnation: Incarnation,
    leo: Offset,
    /// When leo moved, or, if it held all, when the log grew.
    moved: Duration,
    /// The last moment at which it held all.
    caught_up: Duration,
    /// Once it has acked this, it had caught up with the moment beside it.
    mark: (Offset, Duration),
}

/// The leader of one segment.
#[derive(Clone, Debug)]
pub struct Leader {
    me: Member,
    timers: Timers,
    /// Its image (R13: version, ISR and min_insync are read together).
    image: Segment,
    ends: Ends,
    hw: Offset,
    followers: BTreeMap<BrokerId, Progress>,
    pending: Option<Pending>,
    freeze: Option<Freeze>,
    stopped: bool,
    /// What a leader that breaks R13 counts by.
    first_min_insync: usize,
    began: Duration,
}

impl Leader {
    /// Begins to lead, if `image` names `me` as leader of the `Active` segment (R8).
    ///
    /// # Panics
    /// `ends` lies below the segment's base.
    pub fn new(
        me: Member,
        image: Segment,
        ends: Ends,
        timers: Timers,
        now: Duration,
    ) -> Option<Self> {
        if image.leader != me || image.state != SegmentState::Active {
            return None;
        }
        assert!(
            image.base <= ends.synced_end && ends.synced_end <= ends.log_end,
            "I-SEAL-6: base {} <= synced {} <= end {}",
            image.base,
            ends.synced_end,
            ends.log_end
        );
        Some(Self {
            me,
            timers,
            // R14: all below is sealed and readable, so no hw is stale after a fail-over.
            hw: image.base,
            first_min_insync: image.min_insync,
            image,
            ends,
            followers: BTreeMap::new(),
            pending: None,
            freeze: None,
            stopped: false,
            began: now,
        })
    }

    /// The segment that it leads.
    pub fn segment(&self) -> SegmentId {
        self.image.id
    }

    /// The high watermark: everything below is exposed.
    pub fn high_watermark(&self) -> Offset {
        self.hw
    }

    /// The version of its image.
    pub fn version(&self) -> u32 {
        self.image.version
    }

    /// The confirmed ISR.
    pub fn isr(&self) -> &BTreeSet<Member> {
        &self.image.isr
    }

    /// R8: whether it appends. The shell asks before each append; what comes while it is frozen
    /// waits.
    pub fn may_append(&self) -> bool {
        !self.stopped && self.freeze.is_none()
    }

    /// Whether it leads no more.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether acks=all can be answered now: else NOT_ENOUGH_REPLICAS, before the append.
    pub fn has_min_insync(&self) -> bool {
        self.image.isr.len() >= self.min_insync()
    }

    /// Its own log grew, or was synced.
    ///
    /// # Panics
    /// An end went back: a leader never truncates (R8).
    pub fn wrote(&mut self, ends: Ends, now: Duration) -> Vec<LeaderEffect> {
        assert!(
            ends.log_end >= self.ends.log_end && ends.synced_end >= self.ends.synced_end,
            "R8: {ends:?} after {:?}",
            self.ends
        );
        if ends.log_end > self.ends.log_end {
            self.note_growth(ends.log_end, now);
        }
        self.ends = ends;
        self.advance(now)
    }

    /// Who held all of the log until now has something to take from now on: its clocks of lag and
    /// stall begin here, however long nothing was appended.
    fn note_growth(&mut self, log_end: Offset, now: Duration) {
        let before = self.ends.log_end;
        let caught_up = self.followers.values_mut();
        for progress in caught_up.filter(|progress| progress.leo >= before) {
            progress.moved = now;
            progress.caught_up = now;
            progress.mark = (log_end, now);
        }
    }

    /// Follow: a follower asks for the log from `leo` on. Its stream may begin if this is `Ok`.
    ///
    /// # Errors
    /// It is not to be streamed to.
    pub fn follow(
        &mut self,
        epoch: LeaderEpoch,
        follower: Member,
        leo: Offset,
        now: Duration,
    ) -> Result<Vec<LeaderEffect>, FollowRefusal> {
        if epoch != self.image.epoch {
            return Err(FollowRefusal::Epoch(self.image.epoch));
        }
        self.ack(follower, leo, now)
    }

    /// Ack: what `follower` holds, cumulative (R11: the follower says only what counts).
    ///
    /// # Errors
    /// It does not count.
    pub fn ack(
        &mut self,
        follower: Member,
        leo: Offset,
        now: Duration,
    ) -> Result<Vec<LeaderEffect>, FollowRefusal> {
        if self.stopped || follower.broker == self.me.broker {
            return Err(FollowRefusal::NotLeading);
        }
        if !self.image.replicas.contains(&follower.broker) {
            return Err(FollowRefusal::NotReplica);
        }
        if leo > self.ends.log_end {
            return Err(FollowRefusal::AboveLogEnd(self.ends.log_end));
        }
        let shorter = self.note_progress(follower, leo, now)?;
        let mut effects: Vec<_> = shorter
            .then_some(LeaderEffect::ShorterThanAcked(follower))
            .into_iter()
            .collect();
        effects.extend(self.advance(now));
        Ok(effects)
    }

    /// Keeps the newest life's ack (R10); whether an earlier life had acked more than a `flush=always`
    /// segment may lose.
    fn note_progress(
        &mut self,
        follower: Member,
        leo: Offset,
        now: Duration,
    ) -> Result<bool, FollowRefusal> {
        let log_end = self.ends.log_end;
        let known = self.followers.get(&follower.broker).copied();
        let fresh = Progress {
            incarnation: follower.incarnation,
            leo,
            moved: now,
            caught_up: self.began,
            mark: (log_end, now),
        };
        let Some(mut progress) = known else {
            self.followers.insert(follower.broker, fresh);
            return Ok(false);
        };
        if progress.incarnation > follower.incarnation {
            return Err(FollowRefusal::StaleIncarnation(progress.incarnation));
        }
        if progress.incarnation < follower.incarnation {
            let shorter = self.image.flush_always && leo < progress.leo;
            let leo = if !Rule::R10.holds() {
                leo.max(progress.leo)
            } else {
                leo
            };
            self.followers
                .insert(follower.broker, Progress { leo, ..fresh });
            return Ok(shorter);
        }
        if leo > progress.leo {
            progress.leo = leo;
            progress.moved = now;
        }
        if progress.leo >= progress.mark.0 {
            progress.caught_up = progress.mark.1;
            progress.mark = (log_end, now);
        }
        if progress.leo >= log_end {
            progress.caught_up = now;
        }
        self.followers.insert(follower.broker, progress);
        Ok(false)
    }

    /// R7, R17 (a): an image of the segment. A newer version is taken; one in which it does not lead
    /// the `Active` segment any more stops it for good.
    pub fn image(&mut self, image: &Segment, now: Duration) -> Vec<LeaderEffect> {
        assert_eq!(image.id, self.image.id, "an image of this segment");
        if self.stopped || image.version <= self.image.version {
            return Vec::new();
        }
        if image.leader != self.me || image.state != SegmentState::Active {
            return self.stop();
        }
        self.image = image.clone();
        self.pending = None;
        // R30: in an image with a newer version in which it still leads, SealAndOpen is dead.
        let thawed = self.freeze.take().map(|_| LeaderEffect::Thawed);
        thawed.into_iter().chain(self.advance(now)).collect()
    }

    /// The segment is gone from the chain, its seal is known, or this life is over.
    pub fn stop(&mut self) -> Vec<LeaderEffect> {
        if std::mem::replace(&mut self.stopped, true) {
            return Vec::new();
        }
        vec![LeaderEffect::Stopped]
    }

    /// Lets it do what time asks for: repeat what has no answer, shrink out who lags, add who has
    /// caught up.
    pub fn tick(&mut self, now: Duration) -> Vec<LeaderEffect> {
        if self.stopped {
            return Vec::new();
        }
        let was_frozen = self.freeze.is_some();
        let mut effects = self.repeat_seal(now);
        effects.extend(self.repeat_proposal(now));
        if self.pending.is_none() && !self.is_sealing() {
            effects.extend(self.change_isr(now));
        }
        if was_frozen && self.freeze.is_none() {
            effects.push(LeaderEffect::Thawed);
        }
        effects
    }

    /// R12: moves the high watermark, and with it the planned seal that waits for it (R28).
    fn advance(&mut self, now: Duration) -> Vec<LeaderEffect> {
        if self.stopped {
            return Vec::new();
        }
        let mut effects = Vec::new();
        let floor = self.counted().into_iter().map(|member| self.leo_of(member));
        let floor = floor.min().unwrap_or(self.hw);
        if self.counts_enough() && floor > self.hw {
            // I-SEAL-6: the leader is a member itself, so the floor is never above its end.
            assert!(
                floor <= self.leo(),
                "I-SEAL-6: hw {floor} <= leo {}",
                self.leo()
            );
            self.hw = floor;
            effects.push(LeaderEffect::Exposed(floor));
        }
        effects.extend(self.seal_when_exposed(now));
        effects
    }

    /// R12: the members whose leo counts: the maximal ISR, which is the confirmed one and what is
    /// proposed, the leader included.
    fn counted(&self) -> BTreeSet<Member> {
        let mut members = self.image.isr.clone();
        match &self.pending {
            Some(_) if !Rule::R12Proposed.holds() => {}
            Some(pending) if !Rule::R12Confirmed.holds() => {
                members = pending.proposal.isr.clone();
            }
            Some(pending) => members.extend(pending.proposal.isr.iter().copied()),
            None => {}
        }
        members.insert(self.me);
        members
    }

    /// R12: only while the confirmed ISR has at least min_insync members.
    fn counts_enough(&self) -> bool {
        if !Rule::R12Min.holds() {
            return true;
        }
        if !Rule::R12Size.holds() {
            return self.counted().len() >= self.min_insync();
        }
        self.has_min_insync()
    }

    /// R13: the value in the image of the segment record.
    fn min_insync(&self) -> usize {
        if !Rule::R13Image.holds() {
            self.first_min_insync
        } else {
            self.image.min_insync
        }
    }

    /// R10: what the life that is named holds; an ack of another life says nothing about it.
    fn leo_of(&self, member: Member) -> Offset {
        if member == self.me {
            return self.leo();
        }
        match self.followers.get(&member.broker) {
            Some(progress) if progress.incarnation == member.incarnation || !Rule::R10.holds() => {
                progress.leo
            }
            _ => self.image.base,
        }
    }

    /// R11, for the leader's own log.
    fn leo(&self) -> Offset {
        self.ends.leo(self.image.flush_always)
    }
}

#[cfg(test)]
mod tests;
