//! Retained messages: a view of the log, by MQTT topic.
//!
//! A retained publish is an ordinary record. Once it is committed, its entry is derived and appended
//! to the compacted topic `__mqtt_retained` with the record's place; of two the later place wins,
//! whatever the order in which they get here, so the view never disagrees with the log. Before the
//! first retained publish to a partition in a life of the node a *mark* is made durable: what lies
//! above it is looked at again at the next start, so a crash between a record and its entry is
//! repaired.

mod derive;
mod records;
mod view;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use dashmap::DashMap;
use mainstem_record::{LeaderEpoch, Offset, PartitionId, TimestampMs};
use parking_lot::RwLock;

use self::view::View;
use super::{
    Message, MessageProperties, Publish, QoS,
    limits::{RETAINED_SCAN_STEP, RETAINED_STRIPES},
};
use crate::internal::InternalTopic;

pub(crate) use view::{Page, RetainedEntry};

/// A publish that is to be retained.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    topic: String,
    payload: Bytes,
    qos: QoS,
    properties: MessageProperties,
    publisher: String,
}

/// Where a record is, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: PartitionId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) offset: Offset,
    pub(crate) timestamp: TimestampMs,
}

/// The retained view and its log.
pub(crate) struct Retained {
    store: InternalTopic,
    view: RwLock<View>,
    /// Held while an entry is changed and its record takes its place: the log's order of a topic's
    /// entries is that of the view.
    stripes: [tokio::sync::Mutex<()>; RETAINED_STRIPES],
    marks: DashMap<PartitionId, Arc<Mark>>,
    messages_max: usize,
}

/// From where on a partition is looked at again after a crash.
struct Mark {
    partition: PartitionId,
    pending: AtomicUsize,
    is_written: AtomicBool,
    at: AtomicI64,
    writing: tokio::sync::Mutex<()>,
}

/// A retained publish that is on its way. Dropped unfinished, its partition's mark stays where it
/// is.
pub(crate) struct Pending(Arc<Mark>);

// === impl Candidate ===

impl Candidate {
    pub(crate) fn of(publish: &Publish, client_id: &str) -> Self {
        Self {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            qos: publish.qos,
            properties: publish.properties.clone(),
            publisher: client_id.to_owned(),
        }
    }

    /// The entry for its place in the log; an empty payload deletes (MQTT 5.0 section 3.3.1.3).
    fn into_entry(self, place: Place) -> RetainedEntry {
        let message = Message::new(
            self.topic,
            // A copy: the entry may live for years, and must not keep a network buffer alive.
            Bytes::copy_from_slice(&self.payload),
            (self.qos, true),
            self.properties,
            place.timestamp.0,
        );
        RetainedEntry::new(message, self.publisher.into(), place)
    }
}

// === impl Pending ===

impl Pending {
    /// Its entry is durable, or it will never be a record.
    pub(crate) fn finish(self) {
        self.0.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Place ===

impl Place {
    /// Whether this record is later than `other`. Places in different partitions (a topic that got
    /// more of them) are compared by time.
    fn is_after(&self, other: &Self) -> bool {
        match self.partition == other.partition {
            true => (self.epoch, self.offset) > (other.epoch, other.offset),
            false => self.timestamp >= other.timestamp,
        }
    }
}

// === impl Retained ===

impl Retained {
    pub(crate) fn new(store: InternalTopic, messages_max: usize) -> Self {
        Self {
            store,
            view: RwLock::default(),
            stripes: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            marks: DashMap::new(),
            messages_max,
        }
    }

    /// The marks, by partition.
    fn all_marks(&self) -> Vec<Arc<Mark>> {
        let marks = self.marks.iter();
        let mut all: Vec<_> = marks.map(|mark| mark.value().clone()).collect();
        all.sort_unstable_by_key(|mark| mark.partition);
        all
    }

    /// The number of retained messages.
    pub(crate) fn len(&self) -> usize {
        self.view.read().len()
    }

    /// Some of the retained messages that a filter matches, in the order of topics, after `after`.
    pub(crate) fn page(&self, filter: &str, after: Option<&Arc<str>>) -> Page {
        self.view.read().page(filter, after, RETAINED_SCAN_STEP)
    }

    /// The retained message of a topic, if it is still the one of this place.
    pub(crate) fn message(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
    ) -> Option<Arc<Message>> {
        let entry = self.view.read().get(topic)?;
        (entry.partition == partition && entry.offset == offset).then(|| entry.message.clone())
    }

    pub(crate) async fn replay(&self) {
        let mut damaged = 0_usize;
        let mut apply = |record: crate::internal::ReplayRecord<'_>| {
            if self.apply_record(record.key, record.value).is_none() {
                damaged += 1;
            }
        };
        self.store.replay(&mut apply).await;
        if damaged > 0 {
            tracing::error!(records = damaged, "retained records that cannot be read");
        }
    }
}
