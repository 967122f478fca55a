//! Background work on the log of partitions that are led here: rolls by age, retention, compaction.
//!
//! Each change of a chain of segments is a metadata command first; the files follow. The leader of a
//! partition decides; the other replicas follow what metadata says.

mod cleaner;
mod growth;
mod metrics;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use mainstem_config::TopicConfig;
use mainstem_log::{Partition, SegmentInfo};
use mainstem_metadata::{Command, Topic, TopicOrigin};
use mainstem_record::{Offset, SegmentId};

use self::{
    cleaner::{Cleaner, newest_ms},
    metrics::CleanerMetrics,
};
use crate::core::Core;

/// How often segments are looked at for their age; retention has its own, configured interval.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) fn start(core: &Arc<Core>) -> Result<(), prometheus::Error> {
    let cleaner = Cleaner::new(core, CleanerMetrics::register(&core.registry)?);
    core.spawn("retention", keep_retention(core.clone()));
    core.spawn("segment age", keep_age(core.clone()));
    core.spawn("cleaner", cleaner.run());
    core.spawn(
        "replicas of internal topics",
        growth::keep_growing(core.clone()),
    );
    Ok(())
}

async fn keep_age(core: Arc<Core>) {
    while wait(&core, AGE_CHECK_INTERVAL).await {
        let image = core.image();
        for partition in core.led_partitions() {
            let Some(topic) = image.topic_by_id(partition.id().topic) else {
                continue;
            };
            let config = core.topic_config(topic);
            let now = core.env.wall_ms();
            // The log tells of full ones by itself, if there is room to listen.
            let due = partition.segments().into_iter().find(|segment| {
                let age_ms = now.saturating_sub(segment.created_wall_ms);
                let is_due =
                    age_ms >= age_max_ms(&config, segment) || segment.bytes >= config.segment_bytes;
                segment.end.is_none() && segment.bytes > 0 && is_due
            });
            if let Some(segment) = due {
                // A refusal is logged and tried again at the next check.
                let _ = core.roll(partition.id(), segment.id).await;
            }
        }
    }
}

/// The age, in milliseconds, at which an active segment is rolled: `segment.ms`, less a jitter that is
/// the segment's own, and early enough for its records to be compacted in time.
fn age_max_ms(config: &TopicConfig, segment: &SegmentInfo) -> i64 {
    let mut age_max_ms = config.segment_ms;
    if config.cleanup.compact {
        age_max_ms = age_max_ms.min(config.max_compaction_lag_ms);
    }
    let jitter_max = config.segment_jitter_ms.min(age_max_ms).max(0);
    // Ids are random.
    let (_, dice) = segment.id.0.as_u64_pair();
    let jitter = dice % (jitter_max.unsigned_abs() + 1);
    age_max_ms.saturating_sub_unsigned(jitter)
}

async fn keep_retention(core: Arc<Core>) {
    let interval = Duration::from_millis(core.config.storage.retention_check_ms);
    while wait(&core, interval).await {
        core.apply_retention().await;
        if let Err(error) = core.log.empty_trash().await {
            tracing::warn!(%error, "what was moved aside is not removed");
        }
    }
}

/// Whether to go on after `interval`.
async fn wait(core: &Core, interval: Duration) -> bool {
    tokio::select! {
        biased;
        () = core.stop.cancelled() => false,
        () = core.env.sleep(interval) => true,
    }
}

/// Whether time has passed all records of a segment.
fn is_too_old(config: &TopicConfig, segment: &SegmentInfo, now_ms: i64) -> bool {
    config.cleanup.delete
        && config.retention_ms >= 0
        && now_ms.saturating_sub(newest_ms(segment)) > config.retention_ms
}

// === impl Core ===

impl Core {
    /// One round: by time and size per topic, then the node-wide budget of topics that MQTT made.
    pub(crate) async fn apply_retention(&self) {
        let image = self.image();
        for partition in self.led_partitions() {
            let Some(topic) = image.topic_by_id(partition.id().topic) else {
                continue;
            };
            self.roll_expired(topic, &partition).await;
            let expired = self.expired(topic, &partition);
            self.drop_prefix(&partition, &expired).await;
        }
        self.keep_mqtt_budget().await;
    }

    /// The sealed segments, oldest first, that time, size or the log start have passed.
    fn expired(&self, topic: &Topic, partition: &Partition) -> Vec<SegmentInfo> {
        let config = self.topic_config(topic);
        let log_start = partition.ends().log_start;
        let segments = partition.segments();
        let now = self.env.wall_ms();
        let mut excess = match config.retention_bytes {
            limit if limit >= 0 && config.cleanup.delete => {
                partition.size_bytes().saturating_sub(limit.unsigned_abs())
            }
            _ => 0,
        };
        let mut expired = Vec::new();
        for segment in segments {
            let Some(end) = segment.end else { break };
            let too_old = is_too_old(&config, &segment, now);
            let too_much = excess >= segment.bytes && excess > 0;
            if !(end <= log_start || too_old || too_much) {
                break;
            }
            excess = excess.saturating_sub(segment.bytes);
            expired.push(segment);
        }
        expired
    }

    /// Seals an active segment of which every record is too old, so that it can go.
    async fn roll_expired(&self, topic: &Topic, partition: &Partition) {
        let config = self.topic_config(topic);
        let now = self.env.wall_ms();
        let segments = partition.segments();
        let old = segments.iter().all(|s| is_too_old(&config, s, now));
        let active = segments.last().filter(|s| s.end.is_none() && s.bytes > 0);
        if let Some(active) = active.filter(|_| old) {
            // A refusal is logged and tried again at the next check.
            let _ = self.roll(partition.id(), active.id).await;
        }
    }

    async fn drop_prefix(&self, partition: &Partition, prefix: &[SegmentInfo]) {
        let Some(end) = prefix.last().and_then(|segment| segment.end) else {
            return;
        };
        let log_start = end.max(partition.ends().log_start);
        let segments: Vec<SegmentId> = prefix.iter().map(|segment| segment.id).collect();
        if let Err(reason) = self.drop_segments(partition, segments, log_start).await {
            tracing::warn!(partition = ?partition.id(), %reason, "retention not applied");
        }
    }

    async fn drop_segments(
        &self,
        partition: &Partition,
        segments: Vec<SegmentId>,
        log_start: Offset,
    ) -> Result<(), String> {
        let command = Command::DeleteSegments {
            partition: partition.id(),
            segments: segments.clone(),
            log_start,
        };
        self.metadata
            .propose(command)
            .await
            .map_err(|error| error.to_string())?;
        let dropped = partition.drop_segments(&segments, log_start).await;
        dropped.map_err(|error| error.to_string())?;
        tracing::info!(partition = ?partition.id(), segments = segments.len(), "segments deleted");
        Ok(())
    }

    /// Topics that MQTT made share a part of the disk; the oldest segments go first. One that is still
    /// written to is sealed for it: many such topics may have no other.
    async fn keep_mqtt_budget(&self) {
        let Ok(space) = self.env.fs.space(&self.config.data_dir) else {
            return;
        };
        let percent = u64::from(self.config.mqtt.created_topics_disk_percent);
        let budget = space.total / 100 * percent;
        let image = self.image();
        let is_ours = |partition: &Partition| {
            let topic = image.topic_by_id(partition.id().topic);
            topic.is_some_and(|topic| topic.origin == TopicOrigin::Mqtt)
        };
        let mut partitions = self.led_partitions();
        partitions.retain(is_ours);
        let mut used: u64 = partitions.iter().map(Partition::size_bytes).sum();
        while used > budget {
            let oldest = partitions
                .iter()
                .filter_map(|partition| {
                    let first = partition.segments().into_iter().next()?;
                    let may_go = first.end.is_some() || first.bytes > 0;
                    may_go.then_some((first.max_timestamp, partition, first))
                })
                .min_by_key(|(timestamp, ..)| *timestamp);
            let Some((_, partition, segment)) = oldest else {
                return;
            };
            if segment.end.is_none() {
                let rolled = self.roll(partition.id(), segment.id).await;
                let first = partition.segments().into_iter().next();
                if rolled.is_err() || first.is_none_or(|first| first.end.is_none()) {
                    return;
                }
                continue;
            }
            let (bytes, before) = (segment.bytes, partition.size_bytes());
            self.drop_prefix(partition, &[segment]).await;
            if partition.size_bytes() == before {
                return;
            }
            used = used.saturating_sub(bytes);
        }
    }
}
