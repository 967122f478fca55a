//! Where a segment ends: R25, R26 and R36.

use std::time::Duration;

use mainstem_metadata::{Image, Rule};
use mainstem_record::{Member, Offset};

use super::{FenceAnswer, SealDecision, Sealing, View, Wait};

impl Sealing {
    /// The end, who holds it, and what follows; and whether it is an unclean recovery.
    pub(super) fn decide(
        &self,
        view: View<'_>,
        now: Duration,
    ) -> Result<(SealDecision, bool), Wait> {
        let lossy = self.segment.eligible().is_empty();
        let end = if lossy {
            self.recovered_end()?
        } else {
            self.end(view, now)?
        };
        let complete: Vec<Member> = self
            .answers
            .values()
            .filter(|answer| answer.leo >= end)
            .filter_map(|answer| present_life(view.image, answer.member))
            .collect();
        let decision = SealDecision {
            segment: self.segment.id,
            version: self.segment.version,
            end,
            answers: self.answers.values().copied().collect(),
            complete,
            next: self.place_next(view).ok_or(Wait::Placement)?,
        };
        // I-SEAL-4, and what apply asks for once more (R26 b, d).
        assert!(end >= self.segment.base, "I-SEAL-4: end >= base");
        Ok((decision, lossy))
    }

    /// R25: the largest leo that at least min_insync brokers hold after copying. Any end that R26
    /// allows is safe; a longer one keeps more records that nobody was promised.
    fn end(&self, view: View<'_>, now: Duration) -> Result<Offset, Wait> {
        let live = self.leos(|answer| view.live.contains(&answer.member));
        let longest = live.first().copied();
        let has_waited = self
            .copying_since
            .is_some_and(|since| now >= since.saturating_add(self.timers.copy_wait));
        let held = self.held(&live);
        let end = match held {
            // No copy can make it longer.
            Some(held) if Some(held) == longest => held,
            Some(held) if has_waited => held,
            // Who has answered and is away since holds it too (R26 b), but serves nobody.
            None if has_waited => self.held(&self.leos(|_| true)).ok_or(Wait::Copies)?,
            None | Some(_) => return Err(Wait::Copies),
        };
        if self.is_certified(end) {
            return Ok(end);
        }
        let eligible = self.segment.eligible();
        let mut answered = self.answers.values();
        let any = answered.any(|answer| eligible.contains(&answer.member));
        Err(if any { Wait::Copies } else { Wait::Eligible })
    }

    /// R26 (c): a member of ISR ∪ ELR acked nothing above its certificate, and hw needs every
    /// member: so nothing above it is exposed. One is enough.
    fn is_certified(&self, end: Offset) -> bool {
        if !Rule::R26c.holds() {
            return true;
        }
        let eligible = self.segment.eligible();
        let is_eligible = |member: Member| {
            let of_any_life = !Rule::R26b.holds();
            let mut eligible = eligible.iter();
            eligible.any(|it| *it == member || (of_any_life && it.broker == member.broker))
        };
        let mut answers = self.answers.values();
        answers.any(|answer| is_eligible(answer.member) && answer.certificate <= end)
    }

    /// R36: nobody is left who could certify. Every broker that lost data has to answer; the longest
    /// log of all is kept, once enough hold it.
    fn recovered_end(&self) -> Result<Offset, Wait> {
        let mut lost = self.segment.lost.iter();
        if Rule::R36.holds() && lost.any(|broker| !self.answers.contains_key(broker)) {
            return Err(Wait::Lost);
        }
        let leos = self.leos(|_| true);
        let longest = leos.first().copied().ok_or(Wait::Answers)?;
        if self.held(&leos) == Some(longest) {
            Ok(longest)
        } else {
            Err(Wait::Copies)
        }
    }

    /// The leos of those answers, longest first.
    fn leos(&self, counts: impl Fn(&FenceAnswer) -> bool) -> Vec<Offset> {
        let answers = self.answers.values().filter(|answer| counts(answer));
        let mut leos: Vec<Offset> = answers.map(|answer| answer.leo).collect();
        leos.sort_by(|a, b| b.cmp(a));
        leos
    }

    /// What enough of them hold.
    fn held(&self, leos: &[Offset]) -> Option<Offset> {
        leos.get(self.holders_needed().saturating_sub(1)).copied()
    }

    /// R26 (d).
    fn holders_needed(&self) -> usize {
        if Rule::R26d.holds() {
            self.segment.min_insync.max(1)
        } else {
            1
        }
    }
}

/// R26 (b): who answered, in the life that answered.
fn present_life(image: &Image, member: Member) -> Option<Member> {
    if Rule::R26b.holds() {
        Some(member)
    } else {
        image.member(member.broker)
    }
}
