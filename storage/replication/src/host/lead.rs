//! What a leader's machine asks for, and the clock that it lives by.

use std::{sync::Arc, time::Duration};

use mainstem_metadata::BeginSeal;
use mainstem_record::{Member, PartitionId};

use super::{Host, Hosted};
use crate::machine::leader::LeaderEffect;

/// How often leaders look at the clock.
const TICK: Duration = Duration::from_millis(100);

// === impl Host ===

impl Host {
    /// Carries out one effect.
    pub(super) fn act(&self, hosted: &Hosted, effect: LeaderEffect) {
        let id = hosted.id();
        match effect {
            LeaderEffect::Exposed(hw) => hosted.log().set_high_watermark(hw),
            LeaderEffect::AlterIsr(proposal) => self.inner.proposals.alter_isr(id, proposal),
            LeaderEffect::Seal(proposal) => self.inner.proposals.seal(id, proposal),
            // Its log is thawed where it is brought in line with its machine.
            LeaderEffect::Thawed => self.look_at(id),
            LeaderEffect::FrozenTooLong => self.give_up_leading(hosted),
            LeaderEffect::Unhealthy(member) => self.replace(hosted, member),
            LeaderEffect::ShorterThanAcked(member) => {
                tracing::error!(
                    partition = %id, %member,
                    "a replica has lost what it had acknowledged as synced: declare it lost"
                );
            }
            LeaderEffect::Stopped => {
                hosted.set_led(None);
                self.look_at(id);
            }
        }
    }

    /// R30, R21: frozen for too long: what waits learns that its outcome is unknown, and the
    /// controller seals.
    fn give_up_leading(&self, hosted: &Hosted) {
        let id = hosted.id();
        let seal = {
            let mut state = hosted.state.lock();
            let replica = state.replica.as_ref();
            // Nobody else has anything of it: what waits is no better off for being refused.
            let replica = replica.filter(|replica| replica.segment().replicas.len() > 1);
            let seal = replica.map(|replica| BeginSeal {
                partition: id,
                segment: replica.segment().id,
                version: replica.segment().version,
            });
            state.gave_up = seal.as_ref().map(|seal| seal.segment);
            seal
        };
        tracing::warn!(partition = %id, asks = seal.is_some(), "a planned seal takes too long");
        if let Some(seal) = seal {
            self.inner.proposals.begin_seal(seal);
        }
        self.look_at(id);
    }

    /// A member of the ISR takes bytes and acknowledges nothing: the next segment is held by others.
    fn replace(&self, hosted: &Hosted, member: Member) {
        let id = hosted.id();
        tracing::warn!(partition = %id, %member, "a replica acknowledges nothing");
        let Some(segment) = hosted.open_segment() else {
            return;
        };
        let host = self.clone();
        self.spawn("replace replica", async move {
            // It is first shrunk out; the seal must not be in the way of that.
            host.inner.env.sleep(host.inner.seal_backoff).await;
            let avoid = [member.broker].into();
            if let Err(error) = host.roll_to(id, segment, &avoid).await {
                tracing::debug!(partition = %id, %error, "not sealed because of a slow replica");
            }
        });
    }

    /// Feeds the machines of leaders whose logs have moved.
    pub(super) async fn follow_ends(&self) {
        loop {
            for id in self.inner.moved.next().await {
                if let Some(hosted) = self.hosted(id) {
                    self.look_at_ends(&hosted);
                }
            }
        }
    }

    fn look_at_ends(&self, hosted: &Arc<Hosted>) {
        if let Some(segment) = hosted.open_segment() {
            hosted.feed(self, segment, |_, _| ((), Vec::new()));
        }
    }

    // === the clock ===

    /// Whether the machine of that partition has deadlines.
    pub(super) fn set_ticking(&self, id: PartitionId, ticks: bool) {
        let mut ticking = self.inner.ticking.lock();
        if ticks {
            ticking.insert(id);
            self.inner.ticks.notify_one();
        } else {
            ticking.remove(&id);
        }
    }

    /// One clock for all machines with deadlines; without any it stands still.
    pub(super) async fn tick(&self) {
        loop {
            let ids: Vec<PartitionId> = self.inner.ticking.lock().iter().copied().collect();
            if ids.is_empty() {
                self.inner.ticks.notified().await;
                continue;
            }
            for id in ids {
                self.tick_one(id);
            }
            self.inner.env.sleep(TICK).await;
        }
    }

    fn tick_one(&self, id: PartitionId) {
        let Some(hosted) = self.hosted(id) else {
            self.set_ticking(id, false);
            return;
        };
        if let Some(segment) = hosted.open_segment() {
            hosted.feed(self, segment, |replica, now| {
                let leader = replica.leader_mut();
                let effects = leader.map(|leader| leader.tick(now));
                ((), effects.unwrap_or_default())
            });
        }
        let mut ticking = self.inner.ticking.lock();
        let state = hosted.state.lock();
        if state.frozen.is_none() && !state.is_watched() {
            ticking.remove(&id);
        }
    }
}
