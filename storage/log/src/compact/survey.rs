//! The first pass: the newest offset of each key in what is not compacted yet.

use std::sync::Arc;

use mainstem_env::Fs;
use mainstem_record::{BatchHeader, Offset, control_type, records};

use super::{
    CompactError,
    offset_map::OffsetMap,
    walk::{Source, Step, Visit, Walk},
};
use crate::transactions::Transactions;

/// What is known of the records from the first one on that is not compacted yet.
pub(super) struct Survey {
    walk: Walk,
    from: Offset,
    /// Where it ends at the latest: before anything that is not decided.
    limit: Offset,
    map: OffsetMap,
    transactions: Transactions,
    phase: Phase,
    decompressed_bytes_max: usize,
}

enum Phase {
    /// No transaction was met so far.
    Plain,
    /// The rest is walked for markers only; then the keys from there on.
    Markers(Box<Walk>),
    /// All transactions are known.
    Decided,
}

// === impl Survey ===

impl Survey {
    /// Of the records from `from` to `limit` in segments that hold them all.
    pub(super) fn new(
        (fs, sources): (Arc<dyn Fs>, Arc<[Source]>),
        (from, limit): (Offset, Offset),
        map: OffsetMap,
        decompressed_bytes_max: usize,
    ) -> Self {
        Self {
            walk: Walk::new(fs, sources),
            from,
            limit,
            map,
            transactions: Transactions::default(),
            phase: Phase::Plain,
            decompressed_bytes_max,
        }
    }

    /// Goes on; `true` at the end.
    pub(super) fn step(&mut self, budget: &mut u64) -> Result<bool, CompactError> {
        match &mut self.phase {
            Phase::Markers(markers) => {
                let (transactions, from) = (&mut self.transactions, self.from);
                let limit = &mut self.limit;
                let unpack = self.decompressed_bytes_max;
                let step = markers.step(budget, |header, batch| {
                    if header.next_offset() <= from {
                        return Ok(Visit::Next);
                    }
                    if transactions.is_full() {
                        *limit = header.base_offset.min(*limit);
                        return Ok(Visit::Stop);
                    }
                    let control = match header.attributes.is_control() {
                        true => control_type(batch, unpack)?,
                        false => None,
                    };
                    transactions.observe(header, control);
                    Ok(Visit::Next)
                })?;
                if step != Step::More {
                    let open = self.transactions.first_open();
                    self.limit = open.map_or(self.limit, |open| open.min(self.limit));
                    self.phase = Phase::Decided;
                }
                Ok(false)
            }
            Phase::Plain | Phase::Decided => self.step_keys(budget),
        }
    }

    fn step_keys(&mut self, budget: &mut u64) -> Result<bool, CompactError> {
        let decided = matches!(self.phase, Phase::Decided);
        let (from, unpack) = (self.from, self.decompressed_bytes_max);
        let (map, limit, transactions) = (&mut self.map, &mut self.limit, &self.transactions);
        let mut met_transaction = false;
        let step = self.walk.step(budget, |header, batch| {
            if header.base_offset >= *limit {
                return Ok(Visit::Stop);
            }
            if header.next_offset() <= from {
                return Ok(Visit::Next);
            }
            let attributes = header.attributes;
            if attributes.is_control() || attributes.is_transactional() {
                if !decided {
                    met_transaction = true;
                    return Ok(Visit::Stop);
                }
                let undone = transactions.is_aborted(header.producer_id, header.base_offset);
                if attributes.is_control() || undone {
                    return Ok(Visit::Next);
                }
            }
            if let Some(full_at) = put_keys(map, (header, batch), from, unpack)? {
                *limit = full_at;
                return Ok(Visit::Stop);
            }
            Ok(Visit::Next)
        })?;
        if met_transaction {
            self.phase = Phase::Markers(Box::new(self.walk.clone()));
            return Ok(false);
        }
        Ok(step != Step::More)
    }

    /// The map, the transactions and the offset up to which both hold.
    pub(super) fn finish(self) -> (OffsetMap, Transactions, Offset) {
        (self.map, self.transactions, self.limit)
    }
}

/// Puts the keys of a batch into the map; the offset of the first record that did not fit.
fn put_keys(
    map: &mut OffsetMap,
    (header, batch): (&BatchHeader, &[u8]),
    from: Offset,
    decompressed_bytes_max: usize,
) -> Result<Option<Offset>, CompactError> {
    if header.record_count == 0 {
        return Ok(None);
    }
    for record in records(batch, decompressed_bytes_max)?.iter() {
        let record = record?;
        let key = record.key.filter(|_| record.offset >= from);
        if key.is_some_and(|key| !map.put(key, record.offset)) {
            return Ok(Some(record.offset));
        }
    }
    Ok(None)
}
