//! What an operator sees of the log and of the groups: gauges that are refreshed periodically, so
//! that a scrape never walks partitions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use prometheus::{IntGauge, IntGaugeVec, Opts};

use crate::{core::Core, groups::Groups};

/// How often the gauges are refreshed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// The most topics that get a label of their own; the rest count in the totals only.
const TOPIC_LABELS_MAX: usize = 200;

struct Gauges {
    partitions: IntGauge,
    partitions_failed: IntGauge,
    topics: IntGauge,
    log_bytes: IntGauge,
    segments: IntGauge,
    topic_bytes: IntGaugeVec,
    group_lag: IntGaugeVec,
    groups: IntGauge,
}

/// Registers the gauges and starts refreshing them.
pub(crate) fn start(core: &Arc<Core>, groups: &Groups) -> Result<(), prometheus::Error> {
    let gauges = Gauges::register(&core.registry)?;
    let (task_core, groups) = (core.clone(), groups.clone());
    core.spawn("broker gauges", async move {
        loop {
            gauges.refresh(&task_core, &groups);
            tokio::select! {
                biased;
                () = task_core.stop.cancelled() => return,
                () = task_core.env.sleep(REFRESH_INTERVAL) => {}
            }
        }
    });
    Ok(())
}

// === impl Gauges ===

impl Gauges {
    fn register(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let vector =
            |name: &str, help: &str, label: &str| -> Result<IntGaugeVec, prometheus::Error> {
                let vector = IntGaugeVec::new(Opts::new(name, help), &[label])?;
                registry.register(Box::new(vector.clone()))?;
                Ok(vector)
            };
        Ok(Self {
            partitions: gauge(
                "mainstem_partitions",
                "Partitions that are open on this node.",
            )?,
            partitions_failed: gauge(
                "mainstem_partitions_failed",
                "Partitions that do not work because of damage or I/O errors.",
            )?,
            topics: gauge("mainstem_topics", "Topics of the cluster.")?,
            log_bytes: gauge(
                "mainstem_log_size_bytes",
                "Bytes of all segments on this node.",
            )?,
            segments: gauge("mainstem_log_segments", "Segments on this node.")?,
            topic_bytes: vector(
                "mainstem_topic_size_bytes",
                "Bytes of a topic's segments on this node (the first 200 topics by name).",
                "topic",
            )?,
            group_lag: vector(
                "mainstem_consumer_group_lag_records",
                "Records that a consumer group has not committed yet, over all its partitions.",
                "group",
            )?,
            groups: gauge(
                "mainstem_consumer_groups",
                "Consumer groups that this node coordinates.",
            )?,
        })
    }

    fn refresh(&self, core: &Core, groups: &Groups) {
        let image = core.image();
        self.topics.set(count(image.topics.len()));
        self.partitions_failed.set(count(core.failed_count()));
        let labelled: HashSet<_> = image
            .topics
            .values()
            .take(TOPIC_LABELS_MAX)
            .copied()
            .collect();
        let mut by_topic: std::collections::HashMap<_, u64> = std::collections::HashMap::new();
        let partitions = core.log.partitions();
        let (mut bytes, mut segments) = (0u64, 0usize);
        for partition in &partitions {
            let size = partition.size_bytes();
            bytes += size;
            segments += partition.segment_count();
            *by_topic.entry(partition.id().topic).or_default() += size;
        }
        self.partitions.set(count(partitions.len()));
        self.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.segments.set(count(segments));
        self.topic_bytes.reset();
        for (topic, size) in by_topic {
            if let Some(topic) = image
                .topic_by_id(topic)
                .filter(|t| labelled.contains(&t.id))
            {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                self.topic_bytes
                    .with_label_values(&[topic.name.as_str()])
                    .set(size);
            }
        }
        let lags = groups.lag();
        self.groups.set(count(groups.count()));
        self.group_lag.reset();
        for (group, lag) in lags {
            self.group_lag.with_label_values(&[group.as_str()]).set(lag);
        }
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
