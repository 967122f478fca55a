//! The bodies of what nodes say to each other about segments: layouts, limits, nothing else.
//!
//! Each begins with its version and a number that tells what it is; integers are little-endian. It is
//! all written down byte by byte in `docs/peers.md`. What is decoded was bounded before anything was
//! allocated for it, and batches are slices of the message.
//!
//! ```text
//!   Service      from -> to               question                        answer
//!   LIVENESS     broker -> controller     Heartbeat                       HeartbeatAnswer
//!   SEAL         controller -> broker     SealQuestion                    SealAnswer
//!   COPY         broker -> broker         CopyQuestion                    CopyAnswer
//!   REPLICATION  stream                   FollowerHello, FollowerSays     LeaderSays
//! ```

mod copy;
mod fields;
mod liveness;
mod seal;
mod stream;
#[cfg(test)]
mod tests;

pub use copy::{Asked, CopyAnswer, CopyQuestion};
pub use liveness::{Heartbeat, HeartbeatAnswer, RollOrder, Session, Suspect};
pub use seal::{
    CopyOrder, DigestOf, DigestQuestion, FenceOrder, Fenced, SealAnswer, SealQuestion, Unfenced,
};
pub use stream::{
    AckOf, AppendFrame, AppendOf, ExposedOf, FollowOf, FollowerHello, FollowerSays, LeaderSays,
    MemoryOf, RefusedOf, WantOf,
};

/// The version that this build writes, and the only one that it reads.
pub const VERSION: u8 = 1;
/// Segments that one message may be about. Who has more to say says it in several messages.
pub const SEGMENTS_MAX: usize = 16_384;
/// What a frame of batches is filled up to. A single larger batch goes alone.
pub const FRAME_BYTES: usize = 1 << 20;
/// The longest run of batches in a frame: a message of a stream less what is around it.
pub const BATCHES_BYTES_MAX: usize = mainstem_peers::BODY_BYTES_MAX - 64;

/// What topics accept goes into one frame.
const _: () = assert!(mainstem_config::BATCH_BYTES_MAX <= BATCHES_BYTES_MAX);

/// Why bytes are no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Written by a version that is not known here.
    #[error("version {0}, this node knows {VERSION}")]
    Version(u8),
    /// Nothing that is said here.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow where nothing may follow.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// About more than one message may be.
    #[error("about {0}, at most {SEGMENTS_MAX}")]
    TooMany(usize),
    /// A field has a value that makes no sense.
    #[error("{0} makes no sense")]
    Value(&'static str),
}
