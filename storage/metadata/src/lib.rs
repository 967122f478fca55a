//! The cluster's metadata: Raft log, state machine, immutable image.

pub mod apply;
pub mod command;
pub mod error;
pub mod identity;
pub mod image;
mod service;

pub use command::{
    Applied, ApplyError, Command, NewSegment, Opened, ReplacementSegment, SealAndOpen,
};
pub use error::{IdentityDamage, MetadataError, ProposeError, StoreError, Unavailability};
pub use identity::Identity;
pub use image::{
    Broker, Endpoint, Image, PartitionRecord, Route, RouteTarget, SegmentRecord, SegmentState,
    Topic, TopicOrigin,
};
pub use service::{Metadata, MetadataHealth, MetadataOptions, StoreKind};
