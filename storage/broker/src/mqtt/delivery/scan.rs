//! Records of a chunk of the log as MQTT messages.

use std::ops::ControlFlow;

use bytes::Bytes;
use mainstem_log::Chunk;
use mainstem_metadata::Image;
use mainstem_record::{BatchHeader, Batches, Offset, RecordView, TimestampMs, records};

use crate::mqtt::{
    Message,
    mapping::{Source, TopicOf, View},
    metrics::MqttMetrics,
};

/// How to read a partition's records.
pub(crate) struct Scan<'a> {
    /// The Kafka topic.
    pub(crate) kafka_topic: &'a str,
    /// The routes.
    pub(crate) image: &'a Image,
    /// The most bytes of an unpacked batch.
    pub(crate) decompressed_bytes_max: usize,
    /// Where to count what cannot be read.
    pub(crate) metrics: &'a MqttMetrics,
}

/// One record.
pub(crate) struct Scanned<'a> {
    /// Its MQTT topic.
    pub(crate) topic: &'a str,
    /// Its offset.
    pub(crate) offset: Offset,
    /// Its timestamp.
    pub(crate) timestamp: TimestampMs,
    /// Its marks.
    pub(crate) view: View<'a>,
    batch: &'a Bytes,
    metrics: &'a MqttMetrics,
}

// === impl Scanned ===

impl Scanned<'_> {
    /// The message; what has no place in one is counted.
    pub(crate) fn message(&self) -> Message {
        let (message, dropped) = self.view.message(self.topic, &Source { batch: self.batch });
        if dropped > 0 {
            self.metrics.dropped_properties.inc_by(dropped as u64);
        }
        message
    }
}

/// Gives each data record of `chunk` at or above `from` to `visit`, in order, until it breaks. A
/// batch that cannot be read is counted and passed over: it would be unreadable for ever. `topic` is
/// working memory.
pub(crate) fn scan(
    scan: &Scan<'_>,
    chunk: &Chunk,
    from: Offset,
    topic: &mut String,
    mut visit: impl FnMut(&Scanned<'_>) -> ControlFlow<()>,
) {
    for run in &chunk.batches {
        for batch in Batches::new(run.clone()) {
            let Ok((header, bytes)) = batch else {
                scan.metrics.dropped_unreadable.inc();
                break;
            };
            if header.attributes.is_control() || header.next_offset() <= from {
                continue;
            }
            match scan_batch(scan, (&header, &bytes), from, topic, &mut visit) {
                Some(ControlFlow::Continue(())) => {}
                Some(ControlFlow::Break(())) => return,
                None => scan.metrics.dropped_unreadable.inc(),
            }
        }
    }
}

/// `None` if the batch cannot be read to its end.
fn scan_batch(
    scan: &Scan<'_>,
    (header, bytes): (&BatchHeader, &Bytes),
    from: Offset,
    topic: &mut String,
    visit: &mut impl FnMut(&Scanned<'_>) -> ControlFlow<()>,
) -> Option<ControlFlow<()>> {
    let is_mqtt = header.attributes.is_mqtt();
    let topic_of = TopicOf {
        kafka_topic: scan.kafka_topic,
        image: scan.image,
        is_mqtt,
    };
    let opened = records(bytes, scan.decompressed_bytes_max).ok()?;
    for record in opened.iter() {
        let record: RecordView<'_> = record.ok()?;
        if record.offset < from {
            continue;
        }
        topic_of.write(record.key, &record.headers, topic);
        let scanned = Scanned {
            topic,
            offset: record.offset,
            timestamp: record.timestamp,
            view: View::new(&record, is_mqtt),
            batch: bytes,
            metrics: scan.metrics,
        };
        if visit(&scanned).is_break() {
            return Some(ControlFlow::Break(()));
        }
    }
    Some(ControlFlow::Continue(()))
}
