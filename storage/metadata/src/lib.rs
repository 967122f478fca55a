//! The cluster's metadata: a Raft log of commands, the state machine that applies them, and the
//! immutable image that requests read.
//!
//! ```text
//!  propose(Command) ──> MetadataLog (Raft) ──> Store (log, vote, snapshot)
//!                            │ committed
//!                            v
//!                     apply(image, command) ──> new Image, swapped atomically ──> changes()
//! ```
//!
//! [`image`], [`command`] and [`apply`](mod@apply) are pure: no I/O, no clock, no randomness. Every
//! precondition is checked when a command is applied, not when it is proposed, so any number of
//! proposers may race. [`Metadata`] is the service around them. openraft is named only in `raft`,
//! RocksDB only in `store`; both are replaceable behind a trait.
//!
//! What does not live here: the log of records, liveness of brokers (only transitions are committed),
//! and the meaning of configs and topic names beyond what keeps the image bounded and legal.

pub mod apply;
mod cluster;
pub mod command;
pub mod error;
pub mod identity;
pub mod image;
pub mod life;
mod log;
mod quorum;
mod raft;
pub mod rules;
mod service;
mod snapshot;
mod store;
pub mod transport;

pub use apply::apply;
pub use cluster::ClusterOptions;
pub use command::{
    AlterIsr, Answer, Applied, ApplyError, BeginSeal, Command, CommitSeal, EvictReplica,
    NewSegment, NextSegment, Opened, RemoveCopy, ReplacementSegment, SealAndOpen,
    SealAndOpenSingle, SealReason, SegmentCopy,
};
pub use error::{IdentityDamage, MetadataError, ProposeError, StoreError, Unavailability};
pub use identity::Identity;
pub use image::{
    Broker, Compaction, Complete, Endpoint, EpochEnd, Image, PartitionRecord, Roles, Route,
    RouteTarget, SegmentFlush, SegmentRecord, SegmentState, Topic, TopicOrigin,
};
pub use life::{Claim, LIFE_FILE, Life};
pub use quorum::{Leadership, QuorumMember, QuorumStatus};
pub use rules::Rule;
pub use service::{Metadata, MetadataHealth, MetadataOptions, STORE_DIR, StoreKind};
pub use store::MemoryDisk;
