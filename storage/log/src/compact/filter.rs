//! What stays of a batch, as Kafka's cleaner decides it. Sans-I/O.
//!
//! - Of each key the newest record stays; a record without a key goes.
//! - A tombstone stays until the delete horizon of its batch has passed (KIP-534). The horizon is
//!   set when compaction first meets the tombstone: by then older records of its key are gone.
//! - Records of aborted transactions go. A marker gets a horizon once no batch of its transaction
//!   is left, and goes when that has passed.
//! - The newest batch of each producer stays, without records if need be, so that its sequence
//!   survives; so does the last batch of each new segment, which tells where the segment ends.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use mainstem_record::{
    BatchError, BatchHeader, ControlType, Offset, ProducerEpoch, ProducerId, RecordView, Records,
    RetainedBatch, TimestampMs, control_type, records,
};

use super::offset_map::OffsetMap;
use crate::{
    dedupe::Dedupe,
    planted::{Bug, planted},
    transactions::Transactions,
};

/// Decides about the batches of a partition, from its first one on.
pub(crate) struct Filter {
    pub(super) map: OffsetMap,
    pub(super) transactions: Transactions,
    /// Records from here on stay as they are.
    pub(super) clean_end: Offset,
    /// The newest batch of each producer.
    newest: NewestBatches,
    /// Producers of which a transactional batch was met since their last marker.
    unfinished: HashSet<ProducerId>,
    /// Now, and the horizon of what is met for the first time, in milliseconds since the Unix epoch.
    now_ms: i64,
    horizon_ms: i64,
    decompressed_bytes_max: usize,
    /// Which records of the batch at hand stay.
    stays: Vec<bool>,
}

/// Per producer its newest epoch and the last offset of its newest batch with a sequence. `None` if
/// it is not known: then every batch of a producer may be its newest.
pub(super) struct NewestBatches(Option<HashMap<ProducerId, (ProducerEpoch, Option<Offset>)>>);

/// When a compaction runs, and how much it may unpack.
#[derive(Clone, Copy)]
pub(super) struct FilterOptions {
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: i64,
    pub(super) decompressed_bytes_max: usize,
}

/// What stays of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Nothing,
    /// The batch as it is.
    Same,
    Changed(BytesMut),
}

/// What is decided of a batch as a whole.
struct Fate {
    /// None of its records stays.
    goes: bool,
    /// It is the marker of a transaction of which nothing is left.
    is_empty_marker: bool,
}

// === impl NewestBatches ===

impl NewestBatches {
    /// As `dedupe` remembers them at the end of what is compacted.
    pub(super) fn of(dedupe: Option<&Dedupe>) -> Self {
        Self(dedupe.map(|dedupe| {
            let producers = dedupe.producers.iter();
            let newest = producers.map(|(id, producer)| {
                let last = producer.marks().last().map(|mark| mark.last_offset);
                (*id, (producer.epoch, last))
            });
            newest.collect()
        }))
    }

    fn has(&self, header: &BatchHeader) -> bool {
        if !header.has_producer() {
            return false;
        }
        let Some(known) = &self.0 else {
            return true;
        };
        let Some((epoch, last)) = known.get(&header.producer_id) else {
            return false;
        };
        let is_newest = match last {
            Some(last) => header.last_offset() == *last,
            // All that is known of it is an epoch, from a marker.
            None => header.attributes.is_control(),
        };
        *epoch == header.producer_epoch && is_newest
    }
}

// === impl Filter ===

impl Filter {
    pub(super) fn new(
        (map, transactions, clean_end): (OffsetMap, Transactions, Offset),
        newest: NewestBatches,
        options: FilterOptions,
    ) -> Self {
        Self {
            map,
            transactions,
            clean_end,
            newest,
            unfinished: HashSet::new(),
            now_ms: options.now_ms,
            horizon_ms: options.now_ms.saturating_add(options.delete_retention_ms),
            decompressed_bytes_max: options.decompressed_bytes_max,
            stays: Vec::new(),
        }
    }

    /// What stays of a checked batch; `ends_segment` if it is the last one of the new segment.
    pub(crate) fn filter(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        ends_segment: bool,
    ) -> Result<Kept, BatchError> {
        let fate = self.fate(header, batch)?;
        if header.base_offset >= self.clean_end {
            return Ok(Kept::Same);
        }
        let opened = records(batch, self.decompressed_bytes_max)?;
        let (kept, tombstones) = self.choose(header, &opened, &fate)?;
        let is_whole = header.next_offset() <= self.clean_end;
        let sets_horizon = is_whole
            && header.delete_horizon().is_none()
            && (tombstones || (fate.is_empty_marker && kept > 0));
        let all = usize::try_from(header.record_count).unwrap_or(0);
        let is_newest = self.newest.has(header) && !planted(Bug::SequenceDropped);
        if kept == 0 && !(ends_segment || is_newest) {
            return Ok(Kept::Nothing);
        }
        if kept == all && !sets_horizon {
            return Ok(Kept::Same);
        }
        let horizon = sets_horizon.then_some(TimestampMs(self.horizon_ms));
        let mut retained = RetainedBatch::new(header, horizon, opened.body_bytes());
        for (record, stays) in opened.iter().zip(&self.stays) {
            if *stays {
                retained.push(&record?);
            }
        }
        retained.finish().map(Kept::Changed)
    }

    /// Follows transactions, and decides what can be told without looking at records.
    fn fate(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<Fate, BatchError> {
        let id = header.producer_id;
        let is_whole = header.next_offset() <= self.clean_end;
        let mut fate = Fate {
            goes: false,
            is_empty_marker: false,
        };
        if header.attributes.is_control() {
            let control = control_type(batch, self.decompressed_bytes_max)?;
            if matches!(control, Some(ControlType::Abort | ControlType::Commit)) {
                fate.is_empty_marker = !self.unfinished.remove(&id);
                let passed = header
                    .delete_horizon()
                    .is_some_and(|at| at.0 <= self.now_ms);
                fate.goes = is_whole && fate.is_empty_marker && passed;
            }
        } else if header.attributes.is_transactional() {
            self.unfinished.insert(id);
            fate.goes = is_whole && self.transactions.is_aborted(id, header.base_offset);
        }
        Ok(fate)
    }

    /// Notes which records stay; returns how many, and whether there are tombstones among them.
    fn choose(
        &mut self,
        header: &BatchHeader,
        opened: &Records<'_>,
        fate: &Fate,
    ) -> Result<(usize, bool), BatchError> {
        let mut stays = std::mem::take(&mut self.stays);
        stays.clear();
        let (mut kept, mut tombstones) = (0, false);
        for record in opened.iter() {
            let record = record?;
            let is_control = header.attributes.is_control();
            let stays_here = !fate.goes && (is_control || self.stays(header, &record));
            stays.push(stays_here);
            kept += usize::from(stays_here);
            tombstones |= stays_here && !is_control && record.value.is_none();
        }
        self.stays = stays;
        Ok((kept, tombstones))
    }

    fn stays(&self, header: &BatchHeader, record: &RecordView<'_>) -> bool {
        if record.offset >= self.clean_end {
            return true;
        }
        let Some(key) = record.key else {
            return false;
        };
        let is_newest = self
            .map
            .get(key)
            .is_none_or(|newest| record.offset >= newest && !planted(Bug::NewestDropped));
        let outlived = || {
            let at = header.delete_horizon();
            at.is_some_and(|at| at.0 <= self.now_ms) || planted(Bug::TombstoneEarly)
        };
        is_newest && (record.value.is_some() || !outlived())
    }
}
