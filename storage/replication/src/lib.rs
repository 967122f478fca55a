//! Replication: how the segments of the cluster get more than one copy, and how a segment ends when
//! its leader cannot say where.
//!
//! [`machine`] holds the state machines of the seal protocol, rule by rule (`R1` to `R38`, with the
//! invariants `I-SEAL-1` to `I-SEAL-11`): the leader of a segment, a replica of it, the controller's
//! driver of an unplanned seal, liveness of brokers, and placement of what comes next. They are pure:
//! inputs and `now` in, effects out.
//!
//! ```text
//!   leader ── Append(session, offset, batches, hw) ──> follower      pushed within credit
//!   leader <── Ack(broker, incarnation, leo) ───────── follower      cumulative
//!   leader ── AlterIsr, SealAndOpen ──> metadata <── BeginSeal, CommitSeal ── controller
//!   broker <── Fence ── controller ;  broker ── certificate, leo ──> controller
//! ```
//!
//! [`wire`] is what nodes say to each other about segments, byte by byte.
//!
//! What is committed is decided when a command is applied (`mainstem_metadata::apply`): any number of
//! leaders and controllers may propose at once. What does not live here: segment files
//! (`mainstem_log`), connections (`mainstem_peers`), and what clients are answered.

mod controller;
mod host;
pub mod machine;
mod repair;
mod replication;
mod stream;
mod throttle;
pub mod wire;

pub use controller::{Counts, NewPartitions, PlaceError};
pub use host::{RollError, segment_spec};
pub use replication::{NotLed, Policies, Replication, ReplicationDeps, ReplicationError};
