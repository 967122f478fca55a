//! Metrics of the log. Handles are resolved once; they are counted per batch or round, never per
//! record.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Bounds of the histograms of syncs, in seconds.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// All metrics of one log.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) append_bytes: IntCounter,
    pub(crate) append_batches: IntCounter,
    pub(crate) syncs: IntCounter,
    pub(crate) sync_seconds: Histogram,
    pub(crate) journal_bytes: IntCounter,
    pub(crate) journal_records: IntCounter,
    pub(crate) journal_used_bytes: IntGauge,
    pub(crate) journal_seconds: Histogram,
    /// Syncs of segments that make room in the journal.
    pub(crate) journal_trim_syncs: IntCounter,
    pub(crate) durable_seconds: Histogram,
    pub(crate) cache_bytes: IntGauge,
    pub(crate) read_bytes_cache: IntCounter,
    pub(crate) read_bytes_file: IntCounter,
    pub(crate) shard_failed: IntGauge,
    /// 1 while appends are refused for want of space.
    pub(crate) out_of_space: IntGauge,
    pub(crate) refused_no_space: IntCounter,
    /// Segments that are known to be lost or damaged.
    pub(crate) damaged_segments: IntGauge,
    pub(crate) scrub_bytes: IntCounter,
    pub(crate) scrub_damaged: IntCounter,
    pub(crate) scrub_unreadable: IntCounter,
    pub(crate) scrub_passes: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let labelled = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let reads = labelled(
            "mainstem_log_read_bytes_total",
            "Bytes of batches read, by where they came from",
            "source",
        )?;
        let refused = labelled(
            "mainstem_log_appends_refused_total",
            "Appends refused, by reason",
            "reason",
        )?;
        Ok(Self {
            append_bytes: counter(
                "mainstem_log_append_bytes_total",
                "Bytes of batches appended",
            )?,
            append_batches: counter("mainstem_log_append_batches_total", "Batches appended")?,
            syncs: counter("mainstem_log_sync_total", "Syncs of segment files in place")?,
            sync_seconds: seconds("mainstem_log_sync_seconds", "Duration of a round of syncs")?,
            journal_bytes: counter(
                "mainstem_log_journal_bytes_total",
                "Bytes written to the journals",
            )?,
            journal_records: counter(
                "mainstem_log_journal_records_total",
                "Records written to the journals: one for each round of syncs",
            )?,
            journal_used_bytes: gauge(
                "mainstem_log_journal_used_bytes",
                "Bytes of the journals that may not be overwritten yet",
            )?,
            journal_seconds: seconds(
                "mainstem_log_journal_seconds",
                "Duration of writing and syncing a record of a journal",
            )?,
            journal_trim_syncs: counter(
                "mainstem_log_journal_trim_syncs_total",
                "Syncs of segment files that made room in a journal",
            )?,
            durable_seconds: seconds(
                "mainstem_log_append_durable_seconds",
                "From taking an append out of the inbox to its being synced",
            )?,
            cache_bytes: gauge(
                "mainstem_log_tail_cache_bytes",
                "Bytes of recent batches kept in memory",
            )?,
            read_bytes_cache: reads.with_label_values(&["cache"]),
            read_bytes_file: reads.with_label_values(&["file"]),
            shard_failed: gauge(
                "mainstem_log_shard_failed",
                "Shards that no longer acknowledge appends",
            )?,
            out_of_space: gauge(
                "mainstem_log_out_of_space",
                "1 while appends are refused because the disk is nearly full",
            )?,
            refused_no_space: refused.with_label_values(&["no_space"]),
            damaged_segments: gauge(
                "mainstem_log_damaged_segments",
                "Segments known to be missing, unreadable, short or damaged",
            )?,
            scrub_bytes: counter(
                "mainstem_log_scrub_bytes_total",
                "Bytes of sealed segments compared with their digests",
            )?,
            scrub_damaged: counter(
                "mainstem_log_scrub_damaged_chunks_total",
                "Chunks of sealed segments that the scrub found damaged",
            )?,
            scrub_unreadable: counter(
                "mainstem_log_scrub_unreadable_chunks_total",
                "Chunks of sealed segments that the scrub could not read",
            )?,
            scrub_passes: counter(
                "mainstem_log_scrub_passes_total",
                "Whole passes of the scrub over all sealed segments",
            )?,
        })
    }
}
