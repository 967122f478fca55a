//! What a leader's machine asks for.

use mainstem_metadata::BeginSeal;

use super::{Host, Hosted};
use crate::machine::leader::LeaderEffect;

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
            LeaderEffect::Unhealthy(member) => {
                tracing::warn!(partition = %id, %member, "a replica acknowledges nothing");
                self.look_at(id);
            }
            LeaderEffect::ShorterThanAcked(member) => {
                tracing::error!(
                    partition = %id, %member,
                    "a replica has lost what it had acknowledged as synced; it must be declared lost"
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
            let replica = state.replica.as_mut();
            replica.map(|replica| BeginSeal {
                partition: id,
                segment: replica.segment().id,
                version: replica.segment().version,
            })
        };
        tracing::warn!(partition = %id, "a planned seal takes too long; the controller is asked");
        if let Some(seal) = seal {
            self.inner.proposals.begin_seal(seal);
        }
        self.look_at(id);
    }
}
