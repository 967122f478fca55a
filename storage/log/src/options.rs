//! What the log is told at its start.

use std::{path::PathBuf, time::Duration};

/// How the log of a node is set up. [`LogOptions::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The directory of the log; made by the first start. Nobody else may write in it.
    pub dir: PathBuf,
    /// How many I/O shards partitions are spread over; at least 1.
    pub shards: usize,
    /// Bytes of recent batches kept in memory, over the whole node; split evenly over the shards.
    pub tail_cache_bytes: usize,
    /// Bytes of appends that may wait in one shard.
    pub shard_inflight_bytes_max: usize,
    /// Messages that may wait in the inbox of one shard.
    pub shard_inflight_count_max: usize,
    /// Bytes of the journal of one shard, which makes small appends under [`crate::Flush::Always`]
    /// durable; 0 for none: they are then synced in their segments' files.
    pub journal_bytes: u64,
    /// One index entry is made per this many bytes of a segment.
    pub index_interval_bytes: u32,
    /// Below this much free space appends are refused; internal topics go on to a quarter of it.
    pub low_space_bytes: u64,
    /// How long the state of a silent producer or QoS 2 session is kept.
    pub producer_expiry: Duration,
    /// The most bytes that one batch may have when it is decompressed for a timestamp look-up.
    pub decompressed_bytes_max: usize,
    /// An active segment that has grown by so many bytes gets a new recovery point.
    pub recovery_point_bytes: u64,
    /// About so many bytes of active segments may lie past their recovery points, over the whole
    /// node: a start after a crash scans no more.
    pub recovery_scan_bytes_max: u64,
    /// Files that stay open: half of them of sealed segments, half of active ones.
    pub open_files_max: usize,
    /// Smaller segments get no dictionary of labels: reading them is cheap.
    pub dictionary_segment_bytes_min: u64,
    /// How fast sealed segments are checked against their digests; 0 never.
    pub scrub_bytes_per_second: u64,
    /// How long after the end of one check of all segments the next one begins.
    pub scrub_interval: Duration,
}

// === impl LogOptions ===

impl LogOptions {
    /// The defaults, for the log in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            shards: 2,
            tail_cache_bytes: 128 << 20,
            shard_inflight_bytes_max: 64 << 20,
            shard_inflight_count_max: 65_536,
            journal_bytes: 64 << 20,
            index_interval_bytes: 4096,
            low_space_bytes: 256 << 20,
            producer_expiry: Duration::from_secs(24 * 60 * 60),
            decompressed_bytes_max: 256 << 20,
            recovery_point_bytes: 32 << 20,
            recovery_scan_bytes_max: 512 << 20,
            open_files_max: 4096,
            dictionary_segment_bytes_min: 1 << 20,
            scrub_bytes_per_second: 0,
            scrub_interval: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}
