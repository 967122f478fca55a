//! Keys of the segment log.

use crate::{
    table::section,
    value::{Allowed, int_from, ints, long_from},
};

fn is_rate(text: &str) -> bool {
    text.parse().is_ok_and(|rate: f64| rate >= 1.0)
}

/// The shortest and the longest ring that the log takes.
const JOURNAL_BYTES: std::ops::RangeInclusive<u64> = 131_072..=4_294_967_296;

fn is_journal_size(text: &str) -> bool {
    text.parse()
        .is_ok_and(|bytes: u64| bytes == 0 || JOURNAL_BYTES.contains(&bytes))
}

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
        /// Bytes of each shard's journal, a preallocated file that makes small appends of many
        /// partitions durable with one sync; 0: each partition's file is synced. It is not made while it
        /// would bring the free space near `mainstem.low.space.bytes`.
        "mainstem.journal.bytes" => journal_bytes: u64 = 67_108_864, Long,
            Allowed::Matching(is_journal_size, "0, or 131072 to 4294967296");
        /// Bytes of log between two entries of a segment's index, for all topics.
        "log.index.interval.bytes" => index_interval_bytes: u32 = 4096, Int, int_from(1024);
        /// Milliseconds between two looks for segments that retention lets go.
        "log.retention.check.interval.ms" => retention_check_ms: u64 = 300_000, Long, long_from(1);
        /// Data is refused while fewer bytes than this are free on the disk, so that metadata and
        /// recovery still have room.
        "mainstem.low.space.bytes" => low_space_bytes: u64 = 67_108_864, Long, long_from(0);
        /// Bytes per second at which sealed segments are read again and compared with their
        /// digests, so that what a disk has spoilt is known before somebody needs it; 0: never.
        "mainstem.scrub.bytes.per.second" => scrub_bytes_per_second: u64 = 8_388_608, Long,
            long_from(0);
        /// Hours from the end of one such check of everything to the beginning of the next.
        "mainstem.scrub.interval.hours" => scrub_interval_hours: u64 = 168, Long, long_from(1);
        /// Segment files held open at a time; half of what the process may have open, if that is less.
        "mainstem.open.files.max" => open_files_max: usize = 4096, Int, ints(64, 1_048_576);
        /// Bytes that one compressed batch may grow to when it is read; more is refused.
        "mainstem.decompressed.batch.max.bytes" => decompressed_batch_bytes_max: usize = 134_217_728,
            Int, int_from(65_536);
        /// Milliseconds that the files of a segment stay after it was deleted or compacted, for those
        /// who still read them; the default of the topic config `file.delete.delay.ms`.
        "log.segment.delete.delay.ms" => file_delete_delay_ms: u64 = 60_000, Long, long_from(0);
        /// Bytes of memory for the keys of one compaction, 24 for each. If they do not suffice, less
        /// is compacted at a time.
        "log.cleaner.dedupe.buffer.size" => cleaner_dedupe_buffer_bytes: usize = 134_217_728, Long,
            long_from(1_048_576);
        /// The most bytes per second that compaction reads and writes together.
        "log.cleaner.io.max.bytes.per.second" => cleaner_io_bytes_per_second: f64 = f64::MAX, Double,
            Allowed::Matching(is_rate, "a number of 1 or more");
        /// Milliseconds that compaction waits when there is nothing to do.
        "log.cleaner.backoff.ms" => cleaner_backoff_ms: u64 = 15_000, Long, long_from(1);
    }
    also {}
}
