//! ISR changes: R15 to R18.

use std::{collections::BTreeSet, time::Duration};

use mainstem_metadata::Rule;
use mainstem_record::{Member, Offset, SegmentId};

use super::{Leader, LeaderEffect, Progress};

/// AlterIsr: applied only if the segment is `Active`, its version equals this one's and every
/// listed incarnation is current (R15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// Which segment.
    pub segment: SegmentId,
    /// The version that it was made from.
    pub version: u32,
    /// The whole new ISR, the leader included.
    pub isr: BTreeSet<Member>,
}

/// The answer to an [`IsrProposal`]; anything else is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterIsrOutcome {
    /// Applied: its image is on the way, and ends the proposal.
    Applied,
    /// Refused for good: a listed incarnation is not current, or a member is not a replica. Metadata
    /// says so only where the version was still the proposal's; no copy of it can be applied later,
    /// since incarnations only grow and replicas are fixed.
    RefusedForGood,
    /// Refused since the version has moved: perhaps by an earlier copy of the same proposal. As good
    /// as no answer.
    VersionMoved,
    /// Refused for a passing reason. As good as no answer.
    NotNow,
}

/// A proposal in flight; R15: at most one.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) proposal: IsrProposal,
    sent: Duration,
}

impl Leader {
    /// The proposal in flight.
    pub fn pending(&self) -> Option<&IsrProposal> {
        self.pending.as_ref().map(|pending| &pending.proposal)
    }

    /// R16: proposes an ISR without `member`; nothing while another proposal is in flight (R15), or
    /// a seal. A freeze that waits for the high watermark gives way: see [`Leader::may_append`].
    pub fn shrink(&mut self, member: Member, now: Duration) -> Option<LeaderEffect> {
        // Never by itself.
        if member == self.me || !self.image.isr.contains(&member) {
            return None;
        }
        let mut isr = self.image.isr.clone();
        isr.remove(&member);
        self.propose(isr, now)
    }

    /// R16: proposes an ISR with `member`, if its acked leo, in this life, has reached the high
    /// watermark. From this moment on it holds the watermark down (R12).
    pub fn expand(&mut self, member: Member, now: Duration) -> Option<LeaderEffect> {
        let known = self.followers.get(&member.broker)?;
        if known.incarnation != member.incarnation && Rule::R10.holds() {
            return None;
        }
        if known.leo < self.hw && Rule::R16.holds() {
            return None;
        }
        if self.image.isr.contains(&member) || !self.image.replicas.contains(&member.broker) {
            return None;
        }
        let mut isr = self.image.isr.clone();
        // Another life of it, if its registration is not in this image yet, is over.
        isr.retain(|other| other.broker != member.broker);
        isr.insert(member);
        self.propose(isr, now)
    }

    fn propose(&mut self, isr: BTreeSet<Member>, now: Duration) -> Option<LeaderEffect> {
        // R15: one in flight. R28: none beside a seal, which goes with the same version.
        if self.stopped || self.pending.is_some() || self.is_sealing() {
            return None;
        }
        // A planned seal that still waits for the watermark gives way.
        self.freeze = None;
        let proposal = IsrProposal {
            segment: self.image.id,
            version: self.image.version,
            isr,
        };
        self.pending = Some(Pending {
            proposal: proposal.clone(),
            sent: now,
        });
        Some(LeaderEffect::AlterIsr(proposal))
    }

    /// The outcome of `proposal`.
    pub fn isr_outcome(
        &mut self,
        proposal: &IsrProposal,
        outcome: AlterIsrOutcome,
        now: Duration,
    ) -> Vec<LeaderEffect> {
        let is_pending = self.pending() == Some(proposal);
        let ends = match outcome {
            // R18, R17 (b): while the version is still the proposal's own.
            AlterIsrOutcome::RefusedForGood => {
                self.image.version == proposal.version && Rule::R18.holds()
            }
            AlterIsrOutcome::VersionMoved => !Rule::R17Passing.holds(),
            // R17 (a): only the newer image ends it.
            AlterIsrOutcome::Applied | AlterIsrOutcome::NotNow => false,
        };
        if !is_pending || !ends {
            return Vec::new();
        }
        self.pending = None;
        if let Some(refused) = self.refused_life(proposal) {
            // Until a later life of it follows there is nothing to add.
            self.followers.remove(&refused.broker);
        }
        self.advance(now)
    }

    /// Whom a refused proposal would have added.
    fn refused_life(&self, proposal: &IsrProposal) -> Option<Member> {
        proposal.isr.difference(&self.image.isr).next().copied()
    }

    /// R17: a proposal without an answer stays, and is sent again.
    pub(super) fn repeat_proposal(&mut self, now: Duration) -> Option<LeaderEffect> {
        let retry = self.timers.retry;
        let pending = self.pending.as_mut()?;
        if now < pending.sent.saturating_add(retry) {
            return None;
        }
        if !Rule::R17Pending.holds() {
            self.pending = None;
            return None;
        }
        pending.sent = now;
        Some(LeaderEffect::AlterIsr(pending.proposal.clone()))
    }

    /// Proposes what the followers' progress asks for: first who leaves, then who comes.
    pub(super) fn change_isr(&mut self, now: Duration) -> Vec<LeaderEffect> {
        let members: Vec<Member> = self.image.isr.iter().copied().collect();
        for member in members.into_iter().filter(|member| *member != self.me) {
            let stalls = self.stalls(member, now);
            if !stalls && !self.lags(member, now) {
                continue;
            }
            let mut effects: Vec<_> = self.shrink(member, now).into_iter().collect();
            if stalls {
                effects.push(LeaderEffect::Unhealthy(member));
            }
            return effects;
        }
        let ready = self.followers.iter().map(|(broker, progress)| {
            let member = Member::new(*broker, progress.incarnation);
            (member, self.has_caught_up(member, progress, now))
        });
        let ready = ready.filter(|(_, ready)| *ready).map(|(member, _)| member);
        let ready: Vec<Member> = ready.collect();
        let proposed = ready
            .into_iter()
            .find_map(|member| self.expand(member, now));
        proposed.into_iter().collect()
    }

    /// Whether a follower is to be added: R16, and it would not be shrunk out again at once.
    fn has_caught_up(&self, member: Member, progress: &Progress, now: Duration) -> bool {
        let has_all = progress.leo >= self.hw || !Rule::R16.holds();
        let moves = now < progress.moved.saturating_add(self.timers.stall_max);
        let is_member = self.image.isr.contains(&member);
        !is_member && has_all && (moves || progress.leo >= self.ends.log_end)
    }

    /// replica.lag.time.max.ms: it has not been at the log end for too long.
    fn lags(&self, member: Member, now: Duration) -> bool {
        let (leo, caught_up) = self.progress_of(member);
        leo < self.ends.log_end && now >= caught_up.saturating_add(self.timers.lag_max)
    }

    /// replica.stall.max.ms: it has bytes to take and acks nothing, while another follower does.
    fn stalls(&self, member: Member, now: Duration) -> bool {
        let max = self.timers.stall_max;
        let moved = self.moved_of(member);
        let (leo, _) = self.progress_of(member);
        let others = self.image.isr.iter().filter(|other| **other != member);
        let others_move = others
            .filter(|other| **other != self.me)
            .any(|other| self.leo_of(*other) > leo && self.moved_of(*other) > moved);
        leo < self.ends.log_end && now >= moved.saturating_add(max) && others_move
    }

    fn progress_of(&self, member: Member) -> (Offset, Duration) {
        match self.followers.get(&member.broker) {
            Some(known) if known.incarnation == member.incarnation => (known.leo, known.caught_up),
            _ => (self.image.base, self.began),
        }
    }

    fn moved_of(&self, member: Member) -> Duration {
        let known = self.followers.get(&member.broker);
        known
            .filter(|known| known.incarnation == member.incarnation)
            .map_or(self.began, |known| known.moved)
    }
}
