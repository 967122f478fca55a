//! One broker's copy of one segment, from the first append to the cut: following, leading, fenced,
//! sealed.
//!
//! ```text
//!            Follow                 Fence (R22)            sealed, in an image
//!  Active ──────────> following ───────────────> fenced ────────────────────> Cut | Short | Exact
//!     └─────────────> leading ──────────────────>  │ CopyTail (R24)                (R33)
//! ```
//!
//! A fence is never lifted within one life of the broker, and lives in memory only: R10 and R26 (b)
//! void what an earlier life said.

use std::time::Duration;

use mainstem_metadata::{Image, Rule, SegmentState};
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId};

use super::{
    Ends, FenceAnswer, Segment, Timers, is_current,
    leader::{Leader, LeaderEffect},
};

/// What an append or a copied tail brings: whole batches from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The leader epoch of its batches, which is the segment's.
    pub epoch: LeaderEpoch,
    /// Where it begins.
    pub at: Offset,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// Fenced for a seal, or sealed.
    #[error("fenced")]
    Fenced,
    /// Not fenced: a tail is copied only between brokers that have answered.
    #[error("not fenced")]
    NotFenced,
    /// This broker leads the segment.
    #[error("leads the segment")]
    Leads,
    /// Batches of another epoch.
    #[error("segment has epoch {0}")]
    Epoch(LeaderEpoch),
    /// Not at the log end: a repetition or a gap. The stream resumes at the log end.
    #[error("log end is {0}")]
    NotAtEnd(Offset),
}

/// What is to be done with the file once the segment is sealed (R33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtSeal {
    /// Cut it to the end, then check the digest.
    Cut(Offset),
    /// It ends where the segment does: check the digest.
    Exact,
    /// Records are missing from here on: copy them from a complete replica.
    Short(Offset),
}

/// One broker's copy of one segment.
#[derive(Clone, Debug)]
pub struct Replica {
    me: Member,
    timers: Timers,
    image: Segment,
    ends: Ends,
    /// The high watermark that a leader told (R14: reads here end at it).
    told: Offset,
    leader: Option<Leader>,
    /// R22: the version of the `Sealing` image, and the certificate once it is fixed.
    fence: Option<(u32, Option<Offset>)>,
    sealed: Option<Offset>,
}

impl Replica {
    /// Takes up the segment with the log that is there. `None` if this life may not act from the
    /// image (R6), or the segment is not in it.
    pub fn new(
        me: Member,
        image: &Image,
        segment: Segment,
        ends: Ends,
        timers: Timers,
    ) -> Option<Self> {
        if !is_current(image, me) && Rule::R6.holds() {
            return None;
        }
        Some(Self {
            me,
            timers,
            told: segment.base,
            image: segment,
            ends,
            leader: None,
            fence: None,
            sealed: None,
        })
    }

    /// The leader's part, while this broker leads.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// The same, to act on it.
    pub fn leader_mut(&mut self) -> Option<&mut Leader> {
        self.leader.as_mut()
    }

    /// The newest image of the segment that was taken.
    pub fn segment(&self) -> &Segment {
        &self.image
    }

    /// The ends of its log.
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Whether it appends and acks no more.
    pub fn is_fenced(&self) -> bool {
        self.fence.is_some() || self.sealed.is_some()
    }

    /// R14: reads on this broker end here.
    pub fn readable_end(&self) -> Offset {
        let led = self.leader.as_ref().map(Leader::high_watermark);
        self.sealed
            .unwrap_or_else(|| led.unwrap_or(self.told).max(self.told))
    }

    /// Takes a newer image: begins to lead, stops leading, or learns the seal.
    pub fn image(
        &mut self,
        image: &Image,
        partition: PartitionId,
        now: Duration,
    ) -> Vec<LeaderEffect> {
        if !is_current(image, self.me) && Rule::R6.holds() {
            // R6: an older image says nothing to this life, a later life's ends it.
            return Vec::new();
        }
        let Some(segment) = Segment::of(image, partition, self.image.id) else {
            return self.leader.as_mut().map(Leader::stop).unwrap_or_default();
        };
        self.take(segment, now)
    }

    /// Takes the segment's newer record.
    pub fn take(&mut self, segment: Segment, now: Duration) -> Vec<LeaderEffect> {
        if segment.version < self.image.version {
            return Vec::new();
        }
        self.image = segment;
        if let Some(leader) = self.leader.as_mut() {
            return leader.image(&self.image, now);
        }
        if self.is_fenced() {
            return Vec::new();
        }
        // R8: named as leader of the Active segment, with its present incarnation.
        self.leader = Leader::new(self.me, self.image.clone(), self.ends, self.timers, now);
        Vec::new()
    }

    /// What it says to the leader when a stream begins: epoch, who, and its leo.
    pub fn follow(&self) -> Option<(LeaderEpoch, Member, Offset)> {
        self.ack().map(|leo| (self.image.epoch, self.me, leo))
    }

    /// What it may ack now (R11); nothing once it is fenced (R22).
    pub fn ack(&self) -> Option<Offset> {
        let silent = self.is_fenced() && Rule::R22Isr.holds();
        let leads = self.image.leader == self.me;
        (!silent && !leads).then(|| self.ends.leo(self.image.flush_always))
    }

    /// R9: whether these batches of the leader may be appended.
    ///
    /// # Errors
    /// They may not.
    pub fn accept(&self, incoming: Incoming) -> Result<(), AppendRefusal> {
        if self.image.leader == self.me {
            return Err(AppendRefusal::Leads);
        }
        let is_stopped = self.fence.is_some() && Rule::R22Isr.holds();
        if is_stopped || self.sealed.is_some() {
            return Err(AppendRefusal::Fenced);
        }
        self.accept_at_end(incoming)
    }

    /// R24: whether this copied tail may be appended, after the fence.
    ///
    /// # Errors
    /// It may not.
    pub fn accept_copy(&self, incoming: Incoming) -> Result<(), AppendRefusal> {
        if self.sealed.is_none() && !matches!(self.fence, Some((_, Some(_)))) {
            return Err(AppendRefusal::NotFenced);
        }
        self.accept_at_end(incoming)
    }

    fn accept_at_end(&self, incoming: Incoming) -> Result<(), AppendRefusal> {
        if incoming.epoch != self.image.epoch {
            return Err(AppendRefusal::Epoch(self.image.epoch));
        }
        if incoming.at != self.ends.log_end {
            return Err(AppendRefusal::NotAtEnd(self.ends.log_end));
        }
        Ok(())
    }

    /// The log grew, or was synced.
    ///
    /// # Panics
    /// An end went back; only [`Self::cut`] does that (R8, R9).
    pub fn wrote(&mut self, ends: Ends, now: Duration) -> Vec<LeaderEffect> {
        assert!(
            ends.log_end >= self.ends.log_end && ends.synced_end >= self.ends.synced_end,
            "R9: {ends:?} after {:?}",
            self.ends
        );
        self.ends = ends;
        let leader = self.leader.as_mut();
        leader
            .map(|leader| leader.wrote(ends, now))
            .unwrap_or_default()
    }

    /// A leader told its high watermark. Returns the end of reads if it moved.
    pub fn told(&mut self, hw: Offset) -> Option<Offset> {
        let hw = hw.min(self.ends.log_end);
        if hw <= self.told || self.sealed.is_some() {
            return None;
        }
        self.told = hw;
        Some(hw)
    }

    /// R22: Fence, with an image in which the segment is `Sealing`: from here on this life leads,
    /// appends and acks no more in it. The answer follows from [`Self::answer`].
    pub fn fence(&mut self, image: &Image, partition: PartitionId) -> Vec<LeaderEffect> {
        if !is_current(image, self.me) && Rule::R6.holds() {
            return Vec::new();
        }
        let sealing = Segment::open(image, partition);
        let sealing = sealing.filter(|it| {
            it.id == self.image.id
                && it.state == SegmentState::Sealing
                && it.version >= self.image.version
        });
        let Some(sealing) = sealing else {
            return Vec::new();
        };
        self.image = sealing;
        let is_eligible_only = !self.image.isr.contains(&self.me);
        if is_eligible_only && !Rule::R22Elr.holds() {
            return Vec::new();
        }
        self.fence.get_or_insert((self.image.version, None));
        if !Rule::R22Isr.holds() {
            return Vec::new();
        }
        self.leader.as_mut().map(Leader::stop).unwrap_or_default()
    }

    /// What a fenced replica answers; `None` while it is not fenced, or, with `flush=always`, while
    /// its log is not synced (R22): then sync, and ask again.
    pub fn answer(&mut self) -> Option<FenceAnswer> {
        let leo = self.ends.leo(self.image.flush_always);
        if self.image.state == SegmentState::Sealing && !Rule::R22Elr.holds() {
            return Some(FenceAnswer {
                segment: self.image.id,
                member: self.me,
                version: self.image.version,
                certificate: leo,
                leo,
            });
        }
        let synced = leo == self.ends.log_end;
        let (version, certificate) = self.fence.as_mut()?;
        if !synced && certificate.is_none() {
            return None;
        }
        // R24: the certificate never changes.
        let certificate = *certificate.get_or_insert(leo);
        Some(FenceAnswer {
            segment: self.image.id,
            member: self.me,
            version: *version,
            certificate,
            leo,
        })
    }

    /// R33: the segment is sealed at `end`, in an image.
    ///
    /// # Panics
    /// A seal that is not marked lossy ends below what was exposed here (I-SEAL-1).
    pub fn learn_seal(&mut self, end: Offset, lossy: bool) -> (AtSeal, Vec<LeaderEffect>) {
        let exposed = self.readable_end();
        assert!(
            lossy || exposed <= end || self.sealed.is_some(),
            "I-SEAL-1: sealed at {end}, exposed up to {exposed}"
        );
        self.sealed = Some(end);
        let leader = self.leader.take();
        let effects = leader.map(|mut leader| leader.stop()).unwrap_or_default();
        let what = match self.ends.log_end.cmp(&end) {
            std::cmp::Ordering::Less => AtSeal::Short(self.ends.log_end),
            std::cmp::Ordering::Equal => AtSeal::Exact,
            std::cmp::Ordering::Greater if !Rule::R33.holds() => AtSeal::Exact,
            std::cmp::Ordering::Greater => AtSeal::Cut(end),
        };
        (what, effects)
    }

    /// R33: the log was cut to the end of the seal.
    ///
    /// # Panics
    /// No seal is known, or it was cut elsewhere.
    pub fn was_cut(&mut self, ends: Ends) {
        assert_eq!(Some(ends.log_end), self.sealed, "R33: cut to the end only");
        self.ends = ends;
    }
}
