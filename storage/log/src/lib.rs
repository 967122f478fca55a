//! One node's segment log.

mod append;
mod error;
mod event;
mod log;
mod options;
mod partition;
mod read;
mod spec;

pub use append::{Ack, Append, AppendTicket, Appended, Qos2Id};
pub use error::{AppendError, LogError, PartitionError, ReadError};
pub use event::{
    EVENTS_MAX, LogEvent, PartitionFailure, RollReason, ShardFailure, ShardHealth,
};
pub use log::Log;
pub use options::LogOptions;
pub use partition::{Partition, Subscription};
pub use read::{Chunk, Read};
pub use spec::{
    Ends, Flush, PartitionSettings, PartitionSpec, ProducerSnapshot, SealInfo, SegmentInfo,
    SegmentSpec,
};

/// The header of a QoS 2 record that holds its identity: 16 bytes session, u32 epoch and u64
/// sequence, both big-endian.
pub const QOS2_HEADER: &str = "mqtt.qos2";
