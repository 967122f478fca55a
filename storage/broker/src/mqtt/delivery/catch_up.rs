//! Reading the log for one session that is behind.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use mainstem_log::{Chunk, Lookup, Read, ReadError};
use mainstem_record::{Offset, PartitionId};

use super::{Origin, Scan, Token, scan};
use crate::{
    error_code::ErrorCode,
    mqtt::{
        Delivery,
        hub::Hub,
        limits::{CATCH_UP_READ_BYTES, RETRY_PAUSE},
        session::{SessionEntry, Subscription},
        trie::{Scratch, Trie},
    },
};

/// One session's own subscriptions, for reading the log.
#[derive(Debug, Default)]
pub(crate) struct OwnFilters {
    version: Option<u64>,
    trie: Arc<Trie<Arc<Subscription>>>,
    /// What the dictionaries say of the segments at which the feeds are.
    looked_up: HashMap<PartitionId, LookedUp>,
}

/// What of a partition's records from `from` on has to be read.
#[derive(Debug)]
struct LookedUp {
    from: Offset,
    lookup: Lookup,
}

/// What of one read is a session's.
struct Matched {
    /// Where to go on.
    next: Offset,
    deliveries: Vec<Delivery>,
    /// What would be its, had it not expired; in order.
    expired: Vec<Offset>,
}

/// What a read of the log gave.
pub(crate) enum Reading {
    /// Records, to be gone on with at `Chunk::next`.
    Chunk(Chunk),
    /// Nothing can be had below this offset.
    Gap(Offset, Lost),
    /// The partition is not here.
    Gone,
    /// Not now.
    Retry,
}

/// Why records cannot be had any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// They are below the log start, or above an end that a crash has moved back.
    Retention,
    /// They are damaged or missing on the disk. Those behind them are good: a session that waited
    /// for the damage to go away would wait for ever.
    Damage,
}

impl Hub {
    /// Reads from `from` on, up to what is committed.
    pub(crate) async fn read_log(
        &self,
        id: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Reading {
        let partition = match self.core.reader_when_open(id).await {
            Ok(partition) => partition,
            Err(ErrorCode::UnknownTopicOrPartition) => return Reading::Gone,
            Err(_) => return Reading::Retry,
        };
        let end = partition.ends().committed_end;
        let read = Read {
            from,
            bytes_max,
            at_least_one_batch: true,
            end,
        };
        Reading::of(partition.read(read).await, from)
    }

    /// Reads from `from` on what may concern `filters`: from sealed segments with a dictionary only
    /// the batches that have one of their topics.
    async fn read_own(
        &self,
        (id, from): (PartitionId, Offset),
        filters: &mut OwnFilters,
    ) -> Reading {
        let partition = match self.core.reader_when_open(id).await {
            Ok(partition) => partition,
            Err(ErrorCode::UnknownTopicOrPartition) => return Reading::Gone,
            Err(_) => return Reading::Retry,
        };
        let known = filters.looked_up.get(&id);
        let is_known = known.is_some_and(|known| known.from <= from && from < known.end());
        if !is_known {
            let matches = filters.matcher();
            let lookup = match partition.matching(from, matches).await {
                Ok(lookup) => lookup,
                Err(error) => return Reading::of(Err(error), from),
            };
            let looked_up = LookedUp { from, lookup };
            filters.looked_up.insert(id, looked_up);
        }
        let lookup = filters.looked_up.get(&id).map(|known| &known.lookup);
        match lookup {
            Some(Lookup::Hits(hits)) => {
                let read = partition.read_hits(hits, (from, CATCH_UP_READ_BYTES));
                Reading::of(read.await, from)
            }
            _ => self.read_log(id, from, CATCH_UP_READ_BYTES).await,
        }
    }

    /// One read for a session whose feed of `partition` is behind at `from`. Cancelling it loses
    /// nothing.
    pub(crate) async fn catch_up(
        &self,
        entry: &SessionEntry,
        (partition, from): (PartitionId, Offset),
        filters: &mut OwnFilters,
    ) {
        filters.refresh(entry);
        let asked_for = filters.version;
        let reading = self.read_own((partition, from), filters).await;
        filters.refresh(entry);
        if filters.version != asked_for {
            // The session has subscribed to something else meanwhile.
            return;
        }
        let matched = match reading {
            Reading::Chunk(chunk) => self.match_own(entry, (partition, from), &chunk, filters),
            Reading::Gap(next, why) => {
                if next > from {
                    let lost = next.0.abs_diff(from.0);
                    self.metrics.dropped_lost(why).inc_by(lost);
                }
                Matched::none(next)
            }
            Reading::Gone => {
                filters.looked_up.remove(&partition);
                entry
                    .state
                    .lock()
                    .inbox
                    .retain_feeds(|other| other != partition);
                return;
            }
            Reading::Retry => {
                self.core.env.sleep(RETRY_PAUSE).await;
                return;
            }
        };
        let pushed =
            entry
                .state
                .lock()
                .inbox
                .push_read(partition, (from, matched.next), matched.deliveries);
        if let Some(reached) = pushed.reached {
            // What lies behind it is read again.
            let expired = matched.expired.partition_point(|offset| *offset < reached);
            self.metrics.dropped_expired.inc_by(expired as u64);
        }
        if pushed.dropped > 0 {
            self.metrics.dropped_queue_full.inc_by(pushed.dropped);
        }
    }

    /// What of `chunk` the session's own subscriptions match, up to the room that it has; and where
    /// to go on.
    fn match_own(
        &self,
        entry: &SessionEntry,
        (partition, from): (PartitionId, Offset),
        chunk: &Chunk,
        filters: &OwnFilters,
    ) -> Matched {
        let room = entry.state.lock().inbox.room().max(1);
        let image = self.core.image();
        let Some(topic) = image.topic_by_id(partition.topic) else {
            return Matched::none(chunk.next);
        };
        let how = Scan {
            kafka_topic: &topic.name,
            image: &image,
            decompressed_bytes_max: self.core.config.storage.decompressed_batch_bytes_max,
            metrics: &self.metrics,
        };
        let now_ms = self.core.env.wall_ms();
        let mut scratch = Scratch::default();
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut expired = Vec::new();
        let mut next = chunk.next;
        scan(&how, chunk, from, &mut String::new(), |scanned| {
            if deliveries.len() >= room {
                next = scanned.offset;
                return ControlFlow::Break(());
            }
            let mut found: Option<Delivery> = None;
            filters
                .trie
                .for_each_match(scanned.topic, &mut scratch, |subscription| {
                    let options = &subscription.options;
                    let is_own = options.no_local
                        && scanned.view.publisher() == Some(entry.client_id.as_bytes());
                    if is_own || !subscription.covers(partition, scanned.offset) {
                        return;
                    }
                    match &mut found {
                        Some(delivery) => delivery.merge(options),
                        None => {
                            let origin = Origin::Feed;
                            let token = Token {
                                origin,
                                partition,
                                offset: scanned.offset,
                            };
                            let message = Arc::new(scanned.message());
                            found = Some(Delivery::new(message, options, token));
                        }
                    }
                });
            match found {
                Some(delivery) if delivery.message.is_expired(now_ms) => {
                    expired.push(scanned.offset);
                }
                found => deliveries.extend(found),
            }
            ControlFlow::Continue(())
        });
        Matched {
            next,
            deliveries,
            expired,
        }
    }
}

// === impl Reading ===

impl Reading {
    /// What a read from `from` on gave.
    fn of(read: Result<Chunk, ReadError>, from: Offset) -> Self {
        match read {
            Ok(chunk) => Self::Chunk(chunk),
            Err(ReadError::OutOfRange { log_start, .. }) if log_start > from => {
                Self::Gap(log_start, Lost::Retention)
            }
            // A position above the end: unsynced records were lost with the machine's power.
            Err(ReadError::OutOfRange { log_end, .. }) => Self::Gap(log_end, Lost::Retention),
            Err(ReadError::Damaged { end, .. }) => Self::Gap(end.max(from.next()), Lost::Damage),
            Err(ReadError::Removed) => Self::Gone,
            // Who has it may be back.
            Err(ReadError::NotHeld { .. } | ReadError::Io(_)) => Self::Retry,
        }
    }
}

// === impl LookedUp ===

impl LookedUp {
    /// Up to where it is known.
    fn end(&self) -> Offset {
        match &self.lookup {
            Lookup::Hits(hits) => hits.end(),
            Lookup::All(end) => *end,
        }
    }
}

// === impl Matched ===

impl Matched {
    fn none(next: Offset) -> Self {
        Self {
            next,
            deliveries: Vec::new(),
            expired: Vec::new(),
        }
    }
}

// === impl OwnFilters ===

impl OwnFilters {
    /// Takes over the session's present subscriptions, if they have changed.
    fn refresh(&mut self, entry: &SessionEntry) {
        let state = entry.state.lock();
        if self.version == Some(state.subscriptions_version) {
            return;
        }
        self.version = Some(state.subscriptions_version);
        self.looked_up.clear();
        let mut trie = Trie::default();
        let own = state
            .subscriptions
            .values()
            .filter(|subscription| subscription.group.is_none());
        for (number, subscription) in own.enumerate() {
            trie.insert(&subscription.filter, number as u64, subscription.clone());
        }
        self.trie = Arc::new(trie);
    }

    /// Says which labels, that is MQTT topics, one of the filters matches.
    fn matcher(&self) -> impl FnMut(&[u8]) -> bool + Send + use<> {
        let (trie, mut scratch) = (self.trie.clone(), Scratch::default());
        move |label| {
            let mut matches = false;
            // A topic is UTF-8; anything else is nobody's.
            if let Ok(topic) = std::str::from_utf8(label) {
                trie.for_each_match(topic, &mut scratch, |_| matches = true);
            }
            matches
        }
    }
}
