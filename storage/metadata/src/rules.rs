//! The rules of the seal protocol, and a switch for each, for tests only.
//!
//! A fault case is a test that passes with its rule and fails without it. Without the feature
//! `rule-switches`, which only tests have, every question is answered with a constant yes, and
//! nothing of this is left in the code. The switches are those of the calling thread: what shall be
//! without a rule runs on one thread.

/// A rule, or the part of a rule that one fault case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A repeated or late registration changes nothing (F26); a restart is noticed (F25).
    R1,
    /// A restart is intact only with a proof, for the expected incarnation (F24, F34, F46).
    R2,
    /// An intact restart keeps ISR, ELR and complete entries (F27).
    R3,
    /// An unclean restart leaves the ISR (F24).
    R4Isr,
    /// An unclean restart leaves the ELR (F23).
    R4Elr,
    /// An unclean restart leaves the complete lists (F34).
    R4Complete,
    /// What a restarted leader led is sealed (F29, F30).
    R5,
    /// A restarted broker acts only on an image that has its registration (F06).
    R6,
    /// Every change adds to the version.
    R7,
    /// Only the leader in its present incarnation, not frozen, not fenced, appends.
    R8,
    /// A follower appends only at its log end, under the epoch followed, not when fenced.
    R9,
    /// Acks count for one incarnation only (F05, F06, F28).
    R10,
    /// The acknowledged log end is the synced one, with `flush=always` (F42).
    R11,
    /// The high watermark needs the confirmed members (F17).
    R12Confirmed,
    /// The high watermark needs the proposed members (F16).
    R12Proposed,
    /// Only confirmed members count towards `min_insync` (F18).
    R12Size,
    /// The high watermark stands still below `min_insync` (F19, F20).
    R12Min,
    /// `min_insync` is that of the segment record (F43).
    R13Image,
    /// Lowering `min_insync` empties the ELR (F44).
    R13Lower,
    /// A new leader starts with its high watermark at the base.
    R14,
    /// A proposal is applied only at its version (F12).
    R15Version,
    /// A proposal is applied only if its incarnations are current (F14).
    R15Incarnation,
    /// Only who has everything below the high watermark is added (F15).
    R16,
    /// An unanswered proposal stays pending (F31).
    R17Pending,
    /// A refusal for a passing reason is no answer (F32).
    R17Passing,
    /// A refusal for good ends the proposal (F33).
    R18,
    /// Who leaves an ISR that is, or gets, too small becomes eligible (F21).
    R19Join,
    /// An ISR that is large enough empties the ELR (F22).
    R19Empty,
    /// The controller never drops the leader by itself.
    R20,
    /// `Sealing` is begun at one version, and ends what was proposed before.
    R21,
    /// Who has answered stops appending and acknowledging (F01).
    R22Isr,
    /// So do members of the ELR (F02).
    R22Elr,
    /// The old leader may answer (F03).
    R23Leader,
    /// So may replicas outside ISR and ELR (F04).
    R23Outside,
    /// Copying does not change a certificate.
    R24,
    /// The end is the largest that enough brokers hold.
    R25,
    /// The segment is `Sealing`, at the version of the command (F11).
    R26a,
    /// The complete brokers have answered in their current incarnation (F05, F07).
    R26b,
    /// An eligible member has certified the end (F08, F09).
    R26c,
    /// There are enough complete brokers (F36).
    R26d,
    /// The next ISR is large enough (F10).
    R26eMin,
    /// Nobody in the next ISR is declared lost (F45).
    R26eLost,
    /// The next segment begins at the end, with the next epoch.
    R27,
    /// A planned seal waits for the high watermark (F38).
    R28Watermark,
    /// A planned seal needs an ISR that is large enough (F39).
    R28Min,
    /// A planned seal is applied only at its version (F13).
    R29,
    /// A leader stays frozen while the outcome is unknown (F37).
    R30,
    /// Who learns of a seal cuts its log to the end (F41).
    R33,
    /// A stale incarnation adds no copy (F35).
    R34,
    /// A good copy leaves only while enough others remain.
    R35,
    /// An unclean recovery waits for everybody who lost data.
    R36,
    /// The segment after an unclean recovery begins above all used offsets (F40).
    R37,
    /// A broker is not declared lost while its session lives.
    R38,
}

#[cfg(any(test, feature = "rule-switches"))]
mod choice {
    use std::cell::Cell;

    use super::Rule;

    const _: () = assert!((Rule::R38 as u8) < u64::BITS as u8);

    thread_local! {
        static OFF: Cell<u64> = const { Cell::new(0) };
    }

    /// Switches these rules off, and all others on, for this thread, until dropped.
    #[must_use]
    pub fn without(rules: &[Rule]) -> Without {
        let before = OFF.get();
        OFF.set(rules.iter().fold(0, |off, rule| off | 1 << *rule as u8));
        Without { before }
    }

    /// The rules that were off before are off again, and the others on, once it is dropped.
    #[derive(Debug)]
    pub struct Without {
        before: u64,
    }

    impl Drop for Without {
        fn drop(&mut self) {
            OFF.set(self.before);
        }
    }

    impl Rule {
        /// Whether the rule is kept.
        pub fn holds(self) -> bool {
            OFF.get() & (1 << self as u8) == 0
        }
    }
}

#[cfg(any(test, feature = "rule-switches"))]
pub use choice::{Without, without};

#[cfg(not(any(test, feature = "rule-switches")))]
impl Rule {
    /// Whether the rule is kept: always.
    pub const fn holds(self) -> bool {
        true
    }
}
