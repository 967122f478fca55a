//! One node's segment log: files, index, I/O shards, flush, recovery.
//!
//! It is told which partitions and segments there are, and tells nothing to anybody but its owner:
//! it knows nothing of metadata, replication or protocols, and none of them may live here.
//!
//! # Concepts
//! - A **partition** is a chain of **segments**; only the last one is active. A segment file is
//!   concatenated record batches of version 2 and nothing else; names are in `paths.rs`, the index
//!   file of a sealed segment in `index_file/`, the file of synced points in `checkpoint.rs`, the
//!   files that tell the format and a clean stop in `dir.rs`.
//! - An **I/O shard** is a thread that owns the active segments of its partitions ([`Log`] spreads
//!   them by hash). It takes everything that waits, stamps offsets, makes one vectored write per
//!   segment, and completes tickets. Syncs run on other threads of the shard's own, directory
//!   operations and reads of files on the blocking pool.
//! - A **journal** (`journal.rs`) per shard makes small appends under [`Flush::Always`] durable
//!   with one sync, whatever the number of partitions.
//! - **Ends** ([`Ends`]): what is written, what is synced, and what is committed, which is what
//!   counts as acknowledged and may be read.
//!
//! # Invariants
//! - Offsets of a segment follow each other without a hole, in the order in which appends were
//!   taken; a failed append leaves no trace in offsets, sequences or index.
//! - The index entry is made before the append is visible, and the append is visible before it is
//!   acknowledged.
//! - Under [`Flush::Always`] nothing is acknowledged as durable, or read, before a successful sync
//!   that began after the write, of the segment's file or of the journal. A failed sync is never
//!   repeated: the shard stops acknowledging.
//! - What is sealed is synced in its own file.
//! - Nothing below a synced point is ever cut. What is found damaged there is reported.
//! - A directory of which something is known is never made anew: its loss ends the start.
//!
//! # Order of a clean stop
//! [`Log::close`]: inboxes close, what they hold is written, everything is synced in its own file,
//! the journals are emptied, recovery points of the active segments and the checkpoint are written,
//! then the mark of a clean stop.

mod acks;
mod active;
mod append;
mod cache;
mod checkpoint;
mod compact;
mod damage;
mod dedupe;
mod digest;
mod dir;
mod error;
mod event;
mod files;
#[cfg(test)]
mod formats;
mod inbox;
mod index;
mod index_file;
mod journal;
mod labels;
mod log;
mod metrics;
mod moved;
mod options;
mod partition;
mod paths;
#[doc(hidden)]
pub mod planted;
mod points;
mod pool;
mod progress;
mod read;
mod read_ahead;
mod recovery;
mod scan;
mod segment;
mod shard;
mod shared;
mod space;
mod spec;
mod syncer;
mod transactions;
mod trash;
mod upkeep;
pub mod verify;
mod writer;

pub use append::{Ack, Append, AppendTicket, Appended, Qos2Id, ReplicaAppend};
pub use compact::{CompactError, CompactOptions, Compaction, Replacement};
pub use damage::{Damage, DamageKind};
pub use error::{AppendError, FormatDamage, JournalDamage, LogError, PartitionError, ReadError};
pub use event::{EVENTS_MAX, LogEvent, PartitionFailure, RollReason, ShardFailure, ShardHealth};
pub use labels::{Label, Labeller, Labels};
pub use log::Log;
pub use moved::Moved;
pub use options::LogOptions;
pub use partition::{Highest, Hits, Lookup, Partition, SegmentCopy, Sought, TimeFound};
pub use read::{Chunk, Read};
pub use shared::Subscription;
pub use spec::{
    Commit, Ends, Flush, PartitionSettings, PartitionSpec, ProducerSnapshot, Role, SealInfo,
    SegmentInfo, SegmentSpec,
};

/// The header of a QoS 2 record that holds its identity; its value is [`Qos2Id::to_header`].
pub const QOS2_HEADER: &str = "mqtt.qos2";
