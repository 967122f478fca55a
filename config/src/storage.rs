//! Keys of the segment log.

use crate::{
    table::section,
    value::{int_from, ints, long_from},
};

section! {
    /// What concerns the segment log of this node.
    pub struct StorageConfig, at storage, titled "The log" {
        /// How many I/O shards write the partitions; 0: as many as there are cores.
        "mainstem.io.shards" => shards: usize = 0, Int, ints(0, 1024);
        /// Bytes of recent batches kept in memory, all partitions together, so that consumers at the
        /// tail never touch a file.
        "mainstem.tail.cache.bytes" => tail_cache_bytes: usize = 134_217_728, Long, long_from(0);
        /// Bytes of appends that may wait in one shard before producers are held back.
        "mainstem.shard.inflight.bytes" => shard_inflight_bytes_max: usize = 67_108_864, Long,
            long_from(1_048_576);
        /// Bytes of log between two entries of a segment's index, for all topics.
        "log.index.interval.bytes" => index_interval_bytes: u32 = 4096, Int, int_from(1024);
        /// Milliseconds between two looks for segments that retention lets go.
        "log.retention.check.interval.ms" => retention_check_ms: u64 = 300_000, Long, long_from(1);
        /// Data is refused while fewer bytes than this are free on the disk, so that metadata and
        /// recovery still have room.
        "mainstem.low.space.bytes" => low_space_bytes: u64 = 67_108_864, Long, long_from(0);
        /// Segment files held open at a time.
        "mainstem.open.files.max" => open_files_max: usize = 4096, Int, ints(64, 1_048_576);
        /// Bytes that one compressed batch may grow to when it is read; more is refused.
        "mainstem.decompressed.batch.max.bytes" => decompressed_batch_bytes_max: usize = 134_217_728,
            Int, int_from(65_536);
        /// Kept for tools: has no effect yet because the files of a deleted segment are removed at
        /// once. Milliseconds that they are to be kept; also the default of the topic config
        /// `file.delete.delay.ms`.
        "log.segment.delete.delay.ms" => file_delete_delay_ms: u64 = 60_000, Long, long_from(0);
    }
    also {}
}
