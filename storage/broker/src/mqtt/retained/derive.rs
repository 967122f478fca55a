//! From the log to the retained view.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use mainstem_log::{Appended, Partition};
use mainstem_record::{LeaderEpoch, Offset, PartitionId, TimestampMs, murmur2};

use super::{
    Candidate, Mark, Pending, Place, Retained,
    records::{Key, decode_entry, decode_mark, encode_entry, encode_mark},
    view::{Change, RetainedEntry},
};
use crate::{
    internal::KeyValue,
    mqtt::{
        PublishError,
        delivery::{Reading, Scan, scan},
        hub::Hub,
        limits::{FOLLOW_READ_BYTES, RETAINED_SCAN_STEP, RETAINED_STRIPES, RETRY_PAUSE},
        session::append_error,
    },
};

// === impl Hub ===

impl Hub {
    /// Comes before the append of a retained publish: makes sure that a crash will not lose its
    /// entry.
    pub(crate) async fn begin_retained(
        &self,
        partition: &Partition,
    ) -> Result<Pending, PublishError> {
        let id = partition.id();
        // One expression: the guard of the map must not live on.
        let mark = self
            .retained
            .marks
            .entry(id)
            .or_insert_with(|| Arc::new(Mark::new(id)))
            .clone();
        mark.pending.fetch_add(1, Ordering::SeqCst);
        let pending = Pending(mark);
        if pending.0.is_written.load(Ordering::SeqCst) {
            return Ok(pending);
        }
        let mark = pending.0.clone();
        let _writing = mark.writing.lock().await;
        if !mark.is_written.load(Ordering::SeqCst) {
            // Nothing retained was appended in this life of the node before this.
            let at = partition.ends().committed_end;
            if let Err(code) = self.retained.write_mark(id, at).await {
                pending.finish();
                return Err(PublishError::Transient(code.to_string()));
            }
            mark.at.store(at.0, Ordering::SeqCst);
            mark.is_written.store(true, Ordering::SeqCst);
        }
        Ok(pending)
    }

    /// A retained publish is committed: its entry is durable when this returns.
    pub(crate) async fn retain(
        &self,
        candidate: Candidate,
        (partition, epoch): (PartitionId, LeaderEpoch),
        appended: &Appended,
    ) -> Result<(), PublishError> {
        if appended.base_offset < Offset::ZERO {
            // A repeat of QoS 2 whose place is no longer known: its entry was derived with it.
            return Ok(());
        }
        let now = TimestampMs(self.core.env.wall_ms());
        let timestamp = appended.log_append_time.unwrap_or(now);
        let place = Place {
            partition,
            epoch,
            offset: appended.base_offset,
            timestamp,
        };
        self.derive(candidate.into_entry(place)).await
    }

    async fn derive(&self, entry: RetainedEntry) -> Result<(), PublishError> {
        let retained = &self.retained;
        let topic = entry.topic.clone();
        let value = encode_entry(&entry);
        let stripe = murmur2(topic.as_bytes()).unsigned_abs() as usize % RETAINED_STRIPES;
        let ticket = {
            let _order = retained.stripes[stripe].lock().await;
            let change = retained.view.write().apply(entry, retained.messages_max);
            let value = match change {
                Change::Set => Some(value),
                Change::Deleted => None,
                Change::Nothing => return Ok(()),
                Change::Full => {
                    self.metrics.dropped_retained.inc();
                    return Ok(());
                }
            };
            self.metrics.retained.set(retained.len() as i64);
            let record = KeyValue {
                key: Key::Topic(&topic).encode(),
                value,
            };
            let partition = retained.store.partition_of(topic.as_bytes());
            let ticket = retained
                .store
                .append_anywhere(partition, vec![record])
                .await;
            ticket.map_err(|code| PublishError::Transient(code.to_string()))?
        };
        ticket
            .await
            .map(|_| ())
            .map_err(|error| append_error(&error))
    }

    /// Looks at everything above the marks of the last life of the node.
    pub(crate) async fn repair_retained(&self) {
        for mark in self.retained.all_marks() {
            let from = Offset(mark.at.load(Ordering::SeqCst));
            if let Err(error) = self.repair_partition(mark.partition, from).await {
                // The mark stays, so the next start tries again.
                tracing::warn!(%error, partition = %mark.partition, "retained messages not repaired");
                continue;
            }
            // The next retained publish of this life writes a new one.
            self.retained.marks.remove(&mark.partition);
        }
        self.metrics.retained.set(self.retained.len() as i64);
    }

    async fn repair_partition(
        &self,
        partition: PartitionId,
        mut from: Offset,
    ) -> Result<(), PublishError> {
        let Ok(opened) = self.core.partition(partition) else {
            return Ok(());
        };
        let (end, epoch) = (opened.ends().committed_end, opened.epoch());
        while from < end {
            let chunk = match self.read_log(partition, from, FOLLOW_READ_BYTES).await {
                Reading::Chunk(chunk) if chunk.next > from => chunk,
                Reading::Gap(next, _) if next > from => {
                    from = next;
                    continue;
                }
                Reading::Retry => {
                    return Err(PublishError::Transient("the log cannot be read".to_owned()));
                }
                _ => return Ok(()),
            };
            for entry in self.retained_in(partition, epoch, from, &chunk) {
                self.derive(entry).await?;
            }
            from = chunk.next;
        }
        Ok(())
    }

    /// Derives the entry of a retained record that is committed at `offset`.
    pub(crate) async fn retain_appended(
        &self,
        id: PartitionId,
        offset: Offset,
    ) -> Result<(), PublishError> {
        let Ok(opened) = self.core.partition(id) else {
            return Err(PublishError::Transient("not led here any more".to_owned()));
        };
        if offset < Offset::ZERO {
            // A repeat of QoS 2 whose place is no longer known: its entry was derived with it.
            return Ok(());
        }
        let chunk = match self.read_log(id, offset, 1).await {
            Reading::Chunk(chunk) => chunk,
            Reading::Retry => {
                return Err(PublishError::Transient("the log cannot be read".to_owned()));
            }
            Reading::Gap(..) | Reading::Gone => return Ok(()),
        };
        let entries = self.retained_in(id, opened.epoch(), offset, &chunk);
        match entries.into_iter().find(|entry| entry.offset == offset) {
            Some(entry) => self.derive(entry).await,
            None => Ok(()),
        }
    }

    fn retained_in(
        &self,
        partition: PartitionId,
        epoch: LeaderEpoch,
        from: Offset,
        chunk: &mainstem_log::Chunk,
    ) -> Vec<RetainedEntry> {
        let mut found = Vec::new();
        let image = self.core.image();
        let Some(topic) = image.topic_by_id(partition.topic) else {
            return found;
        };
        let how = Scan {
            kafka_topic: &topic.name,
            image: &image,
            decompressed_bytes_max: self.core.config.storage.decompressed_batch_bytes_max,
            metrics: &self.metrics,
        };
        scan(&how, chunk, from, &mut String::new(), |scanned| {
            if scanned.view.retain() {
                let publisher = scanned.view.publisher().unwrap_or_default();
                let candidate = Candidate::from_message(scanned.message(), publisher);
                // Offsets never go back, so the present epoch orders as well as the record's own.
                let place = Place {
                    partition,
                    epoch,
                    offset: scanned.offset,
                    timestamp: scanned.timestamp,
                };
                found.push(candidate.into_entry(place));
            }
            ControlFlow::Continue(())
        });
        found
    }

    /// Moves marks up and sweeps expired messages, until the node ends.
    pub(crate) async fn keep_retained(self: Arc<Self>) {
        let mut after = None;
        loop {
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => return,
                () = self.core.env.sleep(crate::mqtt::limits::RETAINED_SWEEP_INTERVAL) => {}
            }
            self.advance_marks().await;
            loop {
                let now_ms = self.core.env.wall_ms();
                let (expired, next) =
                    self.retained
                        .view
                        .read()
                        .expired(after.as_ref(), RETAINED_SCAN_STEP, now_ms);
                for entry in expired {
                    self.forget_expired(entry).await;
                }
                after = next;
                if after.is_none() || self.core.stop.is_cancelled() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    async fn forget_expired(&self, entry: RetainedEntry) {
        let topic = entry.topic.clone();
        let stripe = murmur2(topic.as_bytes()).unsigned_abs() as usize % RETAINED_STRIPES;
        let _order = self.retained.stripes[stripe].lock().await;
        {
            let mut view = self.retained.view.write();
            // A newer one may have come meanwhile.
            if view
                .get(&topic)
                .is_none_or(|known| known.place() != entry.place())
            {
                return;
            }
            view.remove(&topic);
            self.metrics.retained.set(view.len() as i64);
        }
        let record = KeyValue {
            key: Key::Topic(&topic).encode(),
            value: None,
        };
        let partition = self.retained.store.partition_of(topic.as_bytes());
        // What remains has expired, and is swept again after the next start.
        let _ = self
            .retained
            .store
            .append_anywhere(partition, vec![record])
            .await;
    }

    async fn advance_marks(&self) {
        for mark in self.retained.all_marks() {
            // The end first: what begins after it is appended above it.
            let Ok(partition) = self.core.partition(mark.partition) else {
                continue;
            };
            let end = partition.ends().committed_end;
            let is_idle = mark.pending.load(Ordering::SeqCst) == 0;
            let is_written = mark.is_written.load(Ordering::SeqCst);
            if !is_idle || !is_written || end.0 <= mark.at.load(Ordering::SeqCst) {
                continue;
            }
            if self.retained.write_mark(mark.partition, end).await.is_ok() {
                mark.at.store(end.0, Ordering::SeqCst);
            } else {
                self.core.env.sleep(RETRY_PAUSE).await;
            }
        }
    }
}

// === impl Mark ===

impl Mark {
    fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            pending: Default::default(),
            is_written: Default::default(),
            at: Default::default(),
            writing: Default::default(),
        }
    }
}

// === impl Candidate ===

impl Candidate {
    fn from_message(message: crate::mqtt::Message, publisher: &[u8]) -> Self {
        Self {
            topic: message.topic,
            payload: message.payload,
            qos: message.qos,
            properties: message.properties,
            publisher: String::from_utf8_lossy(publisher).into_owned(),
        }
    }
}

// === impl Retained ===

impl Retained {
    pub(super) fn apply_record(&self, key: &[u8], value: Option<&[u8]>) -> Option<()> {
        match (Key::decode(key)?, value) {
            (Key::Topic(topic), Some(value)) => {
                let entry = decode_entry(topic, value)?;
                self.view.write().apply(entry, self.messages_max);
            }
            (Key::Topic(topic), None) => {
                self.view.write().remove(topic);
            }
            (Key::Mark(partition), Some(value)) => {
                let mark = Mark::new(partition);
                mark.at.store(decode_mark(value)?.0, Ordering::SeqCst);
                self.marks.insert(partition, Arc::new(mark));
            }
            (Key::Mark(partition), None) => {
                self.marks.remove(&partition);
            }
        }
        Some(())
    }

    async fn write_mark(
        &self,
        partition: PartitionId,
        at: Offset,
    ) -> Result<(), crate::error_code::ErrorCode> {
        let key = Key::Mark(partition).encode();
        let index = self.store.partition_of(&key);
        let record = KeyValue {
            key,
            value: Some(encode_mark(at)),
        };
        let ticket = self.store.append_anywhere(index, vec![record]).await?;
        ticket
            .await
            .map(|_| ())
            .map_err(|error| crate::internal::code_of(&error))
    }
}
