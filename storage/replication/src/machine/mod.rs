//! The machines of the seal protocol. Each takes what happened and `now` (time since any fixed
//! moment, never going back) and returns what is to be done; none reads a clock, draws a number or
//! does I/O.
//!
//! ```text
//!   broker, per segment                     controller
//!   ┌──────────── Replica ────────────┐     Liveness   sessions -> fence, unfence
//!   │ log ends, fence, certificate    │     Sealing    one unplanned seal, per Sealing segment
//!   │  └─ Leader, while it leads:     │     placement  who holds and leads what comes next
//!   │     ISR, hw, proposal, freeze   │
//!   └─────────────────────────────────┘
//! ```
//!
//! What is committed is decided by `mainstem_metadata::apply`; a machine proposes, and believes only
//! images.

pub mod leader;
pub mod liveness;
pub mod placement;
pub mod replica;
pub mod sealing;
mod segment;
mod timers;

pub use segment::{Segment, is_current};
pub use timers::Timers;

use mainstem_metadata::Rule;
use mainstem_record::{Member, Offset, SegmentId};

/// The ends of one broker's log of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Offset after the last record that write() has returned for.
    pub log_end: Offset,
    /// Offset after the last record that is synced; at most the log end.
    pub synced_end: Offset,
}

impl Ends {
    /// R11: what counts: what is written, with `flush=always` what is synced.
    pub fn leo(self, flush_always: bool) -> Offset {
        if flush_always && Rule::R11.holds() {
            self.synced_end
        } else {
            self.log_end
        }
    }
}

/// The answer to a Fence (R22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// Which segment.
    pub segment: SegmentId,
    /// Who answers, in which life.
    pub member: Member,
    /// The version of the `Sealing` image that it was fenced by.
    pub version: u32,
    /// Its leo when it was fenced: it acked nothing above. Never changes.
    pub certificate: Offset,
    /// Its leo now, after copying (R24).
    pub leo: Offset,
}
