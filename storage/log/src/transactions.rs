//! Which transactions of a stretch of a partition are decided, and how: told from its batches alone.
//! Sans-I/O.
//!
//! A transaction of a producer begins with its first transactional batch and ends with its next
//! marker, a control batch (KIP-98).

use std::collections::HashMap;

use mainstem_record::{BatchHeader, ControlType, Offset, ProducerId};

/// How many aborted transactions are remembered; beyond it the stretch has to end.
const ABORTED_MAX: usize = 1 << 20;

/// The transactions of the batches that were observed, in their order.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// Where those began that have no marker so far.
    open: HashMap<ProducerId, Offset>,
    /// First offset and offset of the marker of those that were aborted, per producer, in order.
    aborted: HashMap<ProducerId, Vec<(Offset, Offset)>>,
    aborted_count: usize,
}

// === impl Transactions ===

impl Transactions {
    /// Takes note of a batch; `control` is what it says if it is a control batch.
    pub(crate) fn observe(&mut self, header: &BatchHeader, control: Option<ControlType>) {
        let id = header.producer_id;
        if !header.attributes.is_control() {
            if header.attributes.is_transactional() {
                self.open.entry(id).or_insert(header.base_offset);
            }
            return;
        }
        let ends = matches!(control, Some(ControlType::Abort | ControlType::Commit));
        if !ends {
            return;
        }
        let first = self.open.remove(&id);
        if let (Some(first), Some(ControlType::Abort)) = (first, control) {
            let ranges = self.aborted.entry(id).or_default();
            ranges.push((first, header.base_offset));
            self.aborted_count += 1;
        }
    }

    /// Where the oldest transaction begins that is not decided in what was observed: nothing from
    /// there on is stable.
    pub(crate) fn first_open(&self) -> Option<Offset> {
        self.open.values().min().copied()
    }

    /// Whether a transactional batch of that producer at `offset` belongs to an aborted
    /// transaction.
    pub(crate) fn is_aborted(&self, producer: ProducerId, offset: Offset) -> bool {
        let Some(ranges) = self.aborted.get(&producer) else {
            return false;
        };
        let after = ranges.partition_point(|(first, _)| *first <= offset);
        let range = after.checked_sub(1).and_then(|at| ranges.get(at));
        range.is_some_and(|(_, marker)| offset < *marker)
    }

    /// No more can be remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.aborted_count >= ABORTED_MAX || self.open.len() >= ABORTED_MAX
    }
}

#[cfg(test)]
mod tests {
    use mainstem_record::{Attributes, LeaderEpoch, ProducerEpoch, Sequence, TimestampMs};

    use super::*;

    fn batch(producer: i64, base: i64, control: bool) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(base),
            batch_length: 49,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: Attributes(0).with_transactional(true).with_control(control),
            last_offset_delta: 0,
            base_timestamp: TimestampMs(1),
            max_timestamp: TimestampMs(1),
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence::NONE,
            record_count: 1,
        }
    }

    #[test]
    fn transactions_end_with_the_next_marker_of_their_producer() {
        let mut transactions = Transactions::default();
        for (producer, base) in [(1, 0), (2, 1), (1, 2)] {
            transactions.observe(&batch(producer, base, false), None);
        }
        assert_eq!(transactions.first_open(), Some(Offset(0)));
        transactions.observe(&batch(1, 3, true), Some(ControlType::Abort));
        assert_eq!(transactions.first_open(), Some(Offset(1)));
        transactions.observe(&batch(2, 4, true), Some(ControlType::Other(7)));
        transactions.observe(&batch(2, 5, true), Some(ControlType::Commit));
        assert_eq!(transactions.first_open(), None);
        transactions.observe(&batch(1, 6, false), None);
        transactions.observe(&batch(1, 7, true), Some(ControlType::Commit));
        let aborted = |producer| -> Vec<i64> {
            (0..9)
                .filter(|at| transactions.is_aborted(ProducerId(producer), Offset(*at)))
                .collect()
        };
        assert_eq!(aborted(1), [0, 1, 2]);
        assert_eq!(aborted(2), [0; 0]);
        assert_eq!(aborted(3), [0; 0]);
    }

    #[test]
    fn marker_without_data_ends_nothing() {
        let mut transactions = Transactions::default();
        transactions.observe(&batch(1, 3, true), Some(ControlType::Abort));
        assert!(!transactions.is_aborted(ProducerId(1), Offset(2)));
        assert_eq!(transactions.first_open(), None);
    }
}
