//! The common record model: ids, offsets, the record batch v2 (view, validation, builder),
//! compression and the key partitioner.
//!
//! A record, at rest and in motion, is only ever part of a Kafka record batch of magic 2: the same
//! bytes on disk, to followers and to consumers. This crate reads those bytes where they lie and
//! never rewrites what a producer sent, except for the fields that the broker owns ([`stamp`],
//! [`stamp_log_append_time`]) and where compaction takes records out ([`RetainedBatch`]).
//!
//! What may not live here: I/O, clocks, tasks, tokio, and anything that knows a partition's state
//! (producer sequences, high watermarks) or a protocol's frames. Every input is hostile: parsers
//! bound what they read by the bytes that are there, and decompression is capped by its caller.

mod attributes;
pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod ids;
pub mod partitioner;
pub mod records;
pub mod retain;
pub mod varint;

pub use batch::{
    Attributes, BATCH_HEADER_BYTES, BatchError, BatchHeader, Batches, LOG_OVERHEAD_BYTES,
    TimestampType, check_stored, stamp, stamp_log_append_time, stamp_max_timestamp, validate,
};
pub use builder::{BatchBuilder, BatchOptions, EncodedRecord};
pub use compression::{Codec, CodecError, compress, decompress};
pub use control::{ControlType, control_type};
pub use ids::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, PartitionIndex, ProducerEpoch,
    ProducerId, SegmentId, Sequence, TimestampMs, TopicId,
};
pub use partitioner::{murmur2, partition_for_key};
pub use records::{
    Headers, RecordError, RecordView, Records, RecordsSummary, records, validate_records,
};
pub use retain::RetainedBatch;
