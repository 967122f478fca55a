//! The planned seal: R28 and R30.

use std::time::Duration;

use mainstem_metadata::Rule;
use mainstem_record::{Offset, SegmentId};

use super::{Leader, LeaderEffect};

/// SealAndOpen: applied only if the segment is `Active` and its version unchanged (R29). The shell
/// adds bytes, digest and the next segment, and keeps them for the repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealProposal {
    /// Which segment.
    pub segment: SegmentId,
    /// The version that it was made from.
    pub version: u32,
    /// Offset after its last record: the high watermark and the log end of every member.
    pub end: Offset,
}

/// A planned seal in progress.
#[derive(Clone, Debug)]
pub(super) struct Freeze {
    since: Duration,
    told: bool,
    /// Once hw = leo = E: what was proposed, and when last.
    sent: Option<(SealProposal, Duration)>,
}

/// Why a leader does not freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreezeRefusal {
    /// It leads no more, or is frozen already.
    #[error("not appending")]
    NotAppending,
    /// An ISR change is in flight.
    #[error("an ISR change is in flight")]
    ProposalPending,
    /// Fewer in-sync replicas than min_insync: the sealed segment would have too few copies.
    #[error("too few in-sync replicas")]
    TooFewInSync,
}

impl Leader {
    /// R28: begins a planned seal: appends wait from here on.
    ///
    /// # Errors
    /// Not now.
    pub fn freeze(&mut self, now: Duration) -> Result<Vec<LeaderEffect>, FreezeRefusal> {
        if !self.may_append() {
            return Err(FreezeRefusal::NotAppending);
        }
        if self.pending.is_some() {
            return Err(FreezeRefusal::ProposalPending);
        }
        if !self.has_min_insync() && Rule::R28Min.holds() {
            return Err(FreezeRefusal::TooFewInSync);
        }
        self.freeze = Some(Freeze {
            since: now,
            told: false,
            sent: None,
        });
        Ok(self.seal_when_exposed(now).into_iter().collect())
    }

    /// The seal that was proposed and has no outcome yet.
    pub fn sealing(&self) -> Option<SealProposal> {
        let sent = self.freeze.as_ref()?.sent.as_ref()?;
        Some(sent.0)
    }

    pub(super) fn is_sealing(&self) -> bool {
        self.sealing().is_some()
    }

    /// R28: E is final once hw = leo = E.
    pub(super) fn seal_when_exposed(&mut self, now: Duration) -> Option<LeaderEffect> {
        let end = self.ends.log_end;
        let exposed = self.hw == end && self.leo() == end;
        let proposal = SealProposal {
            segment: self.image.id,
            version: self.image.version,
            end,
        };
        let below_min = !Rule::R28Min.holds() && self.image.isr.len() < self.min_insync();
        let freeze = self.freeze.as_mut()?;
        if freeze.sent.is_some() || !(exposed || !Rule::R28Watermark.holds() || below_min) {
            return None;
        }
        freeze.sent = Some((proposal, now));
        Some(LeaderEffect::Seal(proposal))
    }

    /// R30: while the outcome is unknown it stays frozen and repeats the same command. What was
    /// never sent may be given up.
    pub(super) fn repeat_seal(&mut self, now: Duration) -> Vec<LeaderEffect> {
        let timers = self.timers;
        let Some(freeze) = self.freeze.as_mut() else {
            return Vec::new();
        };
        let too_long = now >= freeze.since.saturating_add(timers.freeze_max);
        let Some((proposal, sent)) = freeze.sent.as_mut() else {
            if too_long {
                self.freeze = None;
            }
            return Vec::new();
        };
        let mut effects = Vec::new();
        if now >= sent.saturating_add(timers.retry) {
            if !Rule::R30.holds() {
                self.freeze = None;
                return effects;
            }
            *sent = now;
            effects.push(LeaderEffect::Seal(*proposal));
        }
        if too_long && !freeze.told {
            freeze.told = true;
            effects.push(LeaderEffect::FrozenTooLong);
        }
        effects
    }
}
