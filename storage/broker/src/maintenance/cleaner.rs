//! The cleaner: which compacted partition is worth it next, and the commit of what compaction wrote.
//!
//! One replica writes the new segment, metadata decides ([`Command::ReplaceSegments`]), then the log
//! changes its chain. A crash in between leaves files that are removed, or a decision that is taken
//! up at the next look or start.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mainstem_config::TopicConfig;
use mainstem_log::{CompactError, CompactOptions, Compaction, Partition, Replacement, SegmentInfo};
use mainstem_metadata::{Command, PartitionRecord, ProposeError, ReplacementSegment};
use mainstem_record::{Offset, PartitionId, SegmentId};

use super::metrics::CleanerMetrics;
use mainstem_replication::segment_spec;

use crate::core::Core;

/// Compacts one partition at a time.
pub(super) struct Cleaner {
    core: Arc<Core>,
    metrics: CleanerMetrics,
    /// Partitions that cannot be compacted because of damage, and why. They are left alone until the
    /// next start.
    uncleanable: HashMap<PartitionId, String>,
}

/// A partition that could be compacted.
struct Candidate {
    partition: Partition,
    config: Arc<TopicConfig>,
    first_dirty: Offset,
    /// What may be compacted ends here.
    end: Offset,
    /// The share of what is not compacted.
    dirty_ratio: f64,
    /// Its oldest record has waited as long as it may.
    is_overdue: bool,
}

/// How a replacement ended.
enum Committed {
    Yes,
    /// The chain has changed, or it is not known: this compaction must end.
    No,
}

// === impl Cleaner ===

impl Cleaner {
    pub(super) fn new(core: &Arc<Core>, metrics: CleanerMetrics) -> Self {
        Self {
            core: core.clone(),
            metrics,
            uncleanable: HashMap::new(),
        }
    }

    /// Compacts until the broker stops.
    pub(super) async fn run(mut self) {
        let core = self.core.clone();
        let backoff = Duration::from_millis(core.config.storage.cleaner_backoff_ms);
        loop {
            let worked = tokio::select! {
                biased;
                () = core.stop.cancelled() => return,
                worked = self.round() => worked,
            };
            if !worked && !super::wait(&core, backoff).await {
                return;
            }
        }
    }

    /// Compacts the partition that needs it most; `false` if none does, or it failed.
    pub(super) async fn round(&mut self) -> bool {
        self.core.adopt_replacements().await;
        let Some(candidate) = self.choose() else {
            return false;
        };
        let id = candidate.partition.id();
        let started = self.core.env.now();
        let result = self.compact(&candidate).await;
        let took = self.core.env.now().saturating_sub(started);
        self.metrics.seconds.inc_by(took.as_secs_f64());
        match result {
            Ok(done) => {
                self.metrics.runs.inc();
                done
            }
            Err(error) => {
                self.metrics.failures.inc();
                self.note_failure(id, &error);
                false
            }
        }
    }

    /// Damage is there until somebody repairs it; anything else is tried again.
    fn note_failure(&mut self, id: PartitionId, error: &CompactError) {
        match error {
            CompactError::Damaged { .. } | CompactError::Batch(_) | CompactError::TooLarge => {
                tracing::error!(partition = ?id, %error, "partition not compacted any more");
                self.uncleanable.insert(id, error.to_string());
                self.metrics.uncleanable.set(self.uncleanable.len() as i64);
            }
            CompactError::Removed | CompactError::Closed => {}
            CompactError::Io(_) => {
                tracing::warn!(partition = ?id, %error, "partition not compacted; tried again later");
            }
        }
    }

    /// The partition with the greatest share of dirty bytes, overdue ones first.
    fn choose(&mut self) -> Option<Candidate> {
        let image = self.core.image();
        let known = |id: &PartitionId| image.topic_by_id(id.topic).is_some();
        self.uncleanable.retain(|id, _| known(id));
        self.metrics.uncleanable.set(self.uncleanable.len() as i64);
        let mut dirtiest: f64 = 0.0;
        let mut best: Option<Candidate> = None;
        for partition in self.core.led_partitions() {
            let id = partition.id();
            let (Some(topic), Some(record)) = (image.topic_by_id(id.topic), image.partition(id))
            else {
                continue;
            };
            let config = self.core.topic_config(topic);
            if !config.cleanup.compact || self.uncleanable.contains_key(&id) {
                continue;
            }
            // Nothing gives the other replicas what comes in the place of their segments: metadata
            // would refuse it each time.
            if self.core.replica_count(id) > 1 {
                continue;
            }
            let now = self.core.env.wall_ms();
            let Some(candidate) = candidate(partition, record, config, now) else {
                continue;
            };
            dirtiest = dirtiest.max(candidate.dirty_ratio);
            let is_worth_it = candidate.is_overdue
                || candidate.dirty_ratio > candidate.config.min_cleanable_dirty_ratio;
            let is_better = best
                .as_ref()
                .is_none_or(|best| candidate.rank() > best.rank());
            if is_worth_it && is_better {
                best = Some(candidate);
            }
        }
        self.metrics.dirty_ratio_max.set(dirtiest);
        best
    }

    /// `false` if it had to end before its end.
    async fn compact(&self, candidate: &Candidate) -> Result<bool, CompactError> {
        let Candidate {
            partition, config, ..
        } = candidate;
        let storage = &self.core.config.storage;
        let rate = storage.cleaner_io_bytes_per_second;
        // A rate that no disk reaches is none.
        let is_bound = rate < u64::MAX as f64;
        let options = CompactOptions {
            first_dirty: candidate.first_dirty,
            end: candidate.end,
            segment_bytes_max: config.segment_bytes,
            delete_retention_ms: config.delete_retention_ms,
            map_bytes_max: storage.cleaner_dedupe_buffer_bytes,
            io_bytes_per_second: is_bound.then_some(rate as u64),
        };
        let mut compaction: Compaction = partition.compact(options).await?;
        let (mut bytes_in, mut bytes_out) = (0, 0);
        while let Some(replacement) = compaction.next(self.core.new_segment_id()).await? {
            bytes_in += replacement.old_bytes;
            bytes_out += replacement.bytes;
            self.metrics.bytes_in.inc_by(replacement.old_bytes);
            self.metrics.bytes_out.inc_by(replacement.bytes);
            match self.core.commit_replacement(partition, &replacement).await {
                Committed::Yes => {}
                Committed::No => return Ok(false),
            }
        }
        tracing::info!(
            partition = ?partition.id(), clean_end = compaction.clean_end().0,
            keys = compaction.keys(), bytes_in, bytes_out, "partition compacted"
        );
        Ok(true)
    }
}

// === impl Candidate ===

impl Candidate {
    fn rank(&self) -> (bool, f64) {
        (self.is_overdue, self.dirty_ratio)
    }
}

/// What could be compacted of a partition, as Kafka's cleaner chooses it; `None` if nothing.
fn candidate(
    partition: Partition,
    record: &PartitionRecord,
    config: Arc<TopicConfig>,
    now_ms: i64,
) -> Option<Candidate> {
    let first_dirty = first_dirty(record)?;
    let segments = partition.segments();
    let (mut clean_bytes, mut dirty_bytes) = (0, 0);
    let mut end = None;
    let mut oldest_ms = i64::MAX;
    for (segment, segment_end) in segments.iter().map_while(|s| Some((s, s.end?))) {
        if segment_end <= first_dirty {
            clean_bytes += segment.bytes;
            continue;
        }
        if config.min_compaction_lag_ms > 0
            && now_ms.saturating_sub(newest_ms(segment)) < config.min_compaction_lag_ms
        {
            break;
        }
        dirty_bytes += segment.bytes;
        // No record is older here than its segment.
        oldest_ms = oldest_ms.min(segment.created_wall_ms);
        end = Some(segment_end);
    }
    let all = clean_bytes + dirty_bytes;
    let end = end.filter(|_| dirty_bytes > 0)?;
    Some(Candidate {
        partition,
        first_dirty,
        end,
        dirty_ratio: dirty_bytes as f64 / all as f64,
        is_overdue: now_ms.saturating_sub(oldest_ms) > config.max_compaction_lag_ms,
        config,
    })
}

/// Where the records begin that were never compacted.
pub(super) fn first_dirty(record: &PartitionRecord) -> Option<Offset> {
    for segment in &record.segments {
        match (&segment.compaction, segment.end) {
            (Some(compaction), Some(end)) if compaction.clean_end >= end => {}
            (Some(compaction), _) => return Some(compaction.clean_end.max(segment.base)),
            (None, _) => return Some(segment.base),
        }
    }
    record.segments.last()?.end
}

/// Records without a timestamp are as old as their segment.
pub(super) fn newest_ms(segment: &SegmentInfo) -> i64 {
    match segment.max_timestamp.0 {
        timestamp if timestamp >= 0 => timestamp,
        _ => segment.created_wall_ms,
    }
}

// === impl Core ===

impl Core {
    /// Has metadata decide on a replacement, and puts it into its place.
    async fn commit_replacement(&self, partition: &Partition, done: &Replacement) -> Committed {
        let new = done.new;
        let command = Command::ReplaceSegments {
            partition: partition.id(),
            old: done.old.clone(),
            new: ReplacementSegment {
                id: new.id,
                base: new.base,
                end: new.end.unwrap_or(new.base),
                epoch: new.epoch,
                clean_end: done.clean_end,
                bytes: done.bytes,
                max_timestamp: done.max_timestamp,
                digest: Some(done.digest.to_be_bytes()),
                complete: vec![],
            },
        };
        match self.metadata.propose(command).await {
            Ok(_) => {}
            Err(ProposeError::Apply(error)) => {
                // Retention or a deletion was faster.
                tracing::info!(partition = ?partition.id(), %error, "compaction given up");
                partition.discard_replacement(new).await;
                return Committed::No;
            }
            Err(error) => {
                // It may yet be applied: the files stay until that is known.
                tracing::warn!(partition = ?partition.id(), %error, "compaction of unknown outcome");
                return Committed::No;
            }
        }
        match partition.replace_segments(&done.old, new).await {
            Ok(()) => Committed::Yes,
            Err(error) => {
                tracing::warn!(partition = ?partition.id(), %error, "compacted segment not in place");
                Committed::No
            }
        }
    }

    /// Puts compacted segments into their place that metadata knows and the log does not: the
    /// outcome was not known, or the chain could not be changed.
    async fn adopt_replacements(&self) {
        let image = self.image();
        for partition in self.led_partitions() {
            let Some(record) = image.partition(partition.id()) else {
                continue;
            };
            if record.segments.iter().all(|s| s.compaction.is_none()) {
                continue;
            }
            let chain = partition.segments();
            for segment in &record.segments {
                let is_known = chain.iter().any(|known| known.id == segment.id);
                if segment.compaction.is_none() || is_known {
                    continue;
                }
                let within = |known: &&SegmentInfo| {
                    known.base >= segment.base && known.end.is_some_and(|e| Some(e) <= segment.end)
                };
                let old: Vec<SegmentId> = chain.iter().filter(within).map(|s| s.id).collect();
                let new = segment_spec(segment, true);
                if let Err(error) = partition.replace_segments(&old, new).await {
                    let id = partition.id();
                    tracing::warn!(partition = ?id, %error, "compacted segment not in place");
                }
            }
        }
    }
}
