//! Idempotent producers: per producer the newest epoch and the last batches.
//!
//! An exact repeat of one of the last five batches is a duplicate; anything else must follow the
//! newest batch without a gap (Kafka's rules since KIP-98, five batches since KIP-360). What lies
//! further back is a duplicate, too, whose offsets are not known: a client that sends to a leader
//! which was cut off goes on at the next leader with any number of batches before it learns that
//! what it sent first is not acknowledged, though it may be in the log.

use std::collections::HashMap;

use mainstem_record::{BatchHeader, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

use super::Fields;
use crate::error::AppendError;

/// How many marks are kept of a producer: a client has at most five batches in flight to one leader.
/// The oldest of all stands for everything that came before those.
pub(crate) const MARKS_MAX: usize = 6;

/// So many sequences back at most, so that what is behind can be told from what is ahead.
const BEHIND_MAX: i32 = 1 << 30;

/// How many producers are remembered of a partition; beyond it the longest silent go.
pub(crate) const PRODUCERS_MAX: usize = 65_536;

/// Bytes that a producer takes in a file, at most.
pub(crate) const PRODUCER_BYTES_MAX: usize = 8 + 2 + 8 + 1 + MARKS_MAX * 32;

/// From how many producers on the expired ones are looked for.
const SWEEP_AT_MIN: usize = 256;

/// A batch that was appended, or several in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) base: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) timestamp: TimestampMs,
}

/// What is remembered of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) last_seen_ms: i64,
    /// Oldest first; the first `len` count.
    marks: [Mark; MARKS_MAX],
    len: usize,
}

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It comes next.
    New,
    /// It was appended as this. One without a base is somewhere up to its last offset.
    Duplicate(Mark),
}

/// The producers of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producers {
    map: HashMap<ProducerId, Producer>,
    expiry_ms: i64,
    sweep_at: usize,
}

const NO_MARK: Mark = Mark {
    first: Sequence::NONE,
    last: Sequence::NONE,
    base: Offset(-1),
    last_offset: Offset(-1),
    timestamp: TimestampMs::NONE,
};

// === impl Mark ===

impl Mark {
    /// Both, if `next` follows without a gap and not too much comes together.
    fn joined(&self, next: &Self) -> Self {
        let follows = self.last.next(1) == next.first;
        if !follows || distance(self.first, next.last) > BEHIND_MAX {
            return *next;
        }
        Self {
            first: self.first,
            base: self.base,
            ..*next
        }
    }

    /// Whether the sequences `first` to `last` are among those of this mark.
    fn covers(&self, first: Sequence, last: Sequence) -> bool {
        let until_last = distance(self.first, last);
        distance(self.first, first) <= until_last && until_last <= distance(self.first, self.last)
    }
}

/// How many sequences after `from` comes `to`; they begin again at zero.
fn distance(from: Sequence, to: Sequence) -> i32 {
    to.0.wrapping_sub(from.0) & i32::MAX
}

// === impl Producer ===

impl Producer {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            last_seen_ms: 0,
            marks: [NO_MARK; MARKS_MAX],
            len: 0,
        }
    }

    pub(crate) fn marks(&self) -> &[Mark] {
        self.marks.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, mark: Mark) {
        if self.len == MARKS_MAX {
            let [oldest, next, ..] = &mut self.marks;
            *next = oldest.joined(next);
            self.marks.rotate_left(1);
            self.len -= 1;
        }
        if let Some(slot) = self.marks.get_mut(self.len) {
            *slot = mark;
            self.len += 1;
        }
    }
}

// === impl Producers ===

impl Producers {
    pub(crate) fn new(expiry_ms: i64) -> Self {
        Self {
            map: HashMap::new(),
            expiry_ms,
            sweep_at: SWEEP_AT_MIN,
        }
    }

    /// Bytes of memory, about.
    pub(crate) fn size_bytes(&self) -> usize {
        self.map.len() * size_of::<(ProducerId, Producer)>()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ProducerId, &Producer)> {
        self.map.iter()
    }

    /// Whether the batch may be appended. Batches without a sequence (control batches) only have
    /// to carry an epoch that is not older than the newest.
    pub(crate) fn check(&self, header: &BatchHeader, now_ms: i64) -> Result<Verdict, AppendError> {
        let Some(producer) = self.map.get(&header.producer_id) else {
            return Ok(Verdict::New);
        };
        if self.is_expired(producer, now_ms) {
            return Ok(Verdict::New);
        }
        if header.producer_epoch < producer.epoch {
            return Err(AppendError::InvalidProducerEpoch);
        }
        if header.base_sequence == Sequence::NONE {
            return Ok(Verdict::New);
        }
        let expected = if header.producer_epoch > producer.epoch {
            Sequence(0)
        } else {
            let (first, last) = (header.base_sequence, header.last_sequence());
            let same = |mark: &&Mark| mark.first == first && mark.last == last;
            if let Some(mark) = producer.marks().iter().rev().find(same) {
                return Ok(Verdict::Duplicate(*mark));
            }
            let before = producer
                .marks()
                .first()
                .filter(|_| producer.len == MARKS_MAX);
            if let Some(mark) = before.filter(|mark| mark.covers(first, last)) {
                return Ok(Verdict::Duplicate(Mark {
                    base: NO_MARK.base,
                    timestamp: NO_MARK.timestamp,
                    ..*mark
                }));
            }
            match producer.marks().last() {
                Some(mark) => mark.last.next(1),
                None => return Ok(Verdict::New),
            }
        };
        if header.base_sequence == expected {
            return Ok(Verdict::New);
        }
        Err(AppendError::OutOfOrderSequence {
            producer: header.producer_id,
            expected,
            got: header.base_sequence,
        })
    }

    /// Takes note of a batch with its final offsets; returns what was known before, for
    /// [`Producers::restore`].
    pub(crate) fn record(&mut self, header: &BatchHeader, now_ms: i64) -> Option<Producer> {
        let previous = self.map.get(&header.producer_id).copied();
        if previous.is_none() {
            self.make_room(now_ms);
        }
        let mut producer = match previous {
            Some(known)
                if known.epoch == header.producer_epoch && !self.is_expired(&known, now_ms) =>
            {
                known
            }
            _ => Producer::new(header.producer_epoch),
        };
        producer.last_seen_ms = now_ms;
        if header.base_sequence != Sequence::NONE {
            producer.push(Mark {
                first: header.base_sequence,
                last: header.last_sequence(),
                base: header.base_offset,
                last_offset: header.last_offset(),
                timestamp: header.max_timestamp,
            });
        }
        self.map.insert(header.producer_id, producer);
        previous
    }

    /// Takes a [`Producers::record`] back.
    pub(crate) fn restore(&mut self, id: ProducerId, previous: Option<Producer>) {
        match previous {
            Some(previous) => self.map.insert(id, previous),
            None => self.map.remove(&id),
        };
    }

    fn is_expired(&self, producer: &Producer, now_ms: i64) -> bool {
        now_ms.saturating_sub(producer.last_seen_ms) > self.expiry_ms
    }

    fn make_room(&mut self, now_ms: i64) {
        if self.map.len() < self.sweep_at {
            return;
        }
        let expiry_ms = self.expiry_ms;
        self.map
            .retain(|_, p| now_ms.saturating_sub(p.last_seen_ms) <= expiry_ms);
        if self.map.len() >= PRODUCERS_MAX {
            // A scan sees all at one time: the offsets tell then who was silent longest. No two are
            // alike, so that the same log leaves the same memory.
            let age = |(id, producer): (&ProducerId, &Producer)| {
                let newest = producer.marks().last().map(|mark| mark.last_offset);
                (producer.last_seen_ms, newest, *id)
            };
            let mut ages: Vec<_> = self.map.iter().map(age).collect();
            let eighth = ages.len() / 8;
            let (_, &mut limit, _) = ages.select_nth_unstable(eighth);
            self.map.retain(|id, producer| age((id, producer)) >= limit);
        }
        self.sweep_at = (self.map.len() * 2).clamp(SWEEP_AT_MIN, PRODUCERS_MAX);
    }

    /// Appends the section of an index file, in the order of the ids.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut sorted: Vec<_> = self.map.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        for (id, producer) in sorted {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&producer.epoch.0.to_le_bytes());
            out.extend_from_slice(&producer.last_seen_ms.to_le_bytes());
            out.push(producer.len as u8);
            for mark in producer.marks() {
                out.extend_from_slice(&mark.first.0.to_le_bytes());
                out.extend_from_slice(&mark.last.0.to_le_bytes());
                out.extend_from_slice(&mark.base.0.to_le_bytes());
                out.extend_from_slice(&mark.last_offset.0.to_le_bytes());
                out.extend_from_slice(&mark.timestamp.0.to_le_bytes());
            }
        }
    }

    /// Reads the section of an index file; `None` if it is malformed.
    pub(crate) fn decode(section: &[u8], expiry_ms: i64) -> Option<Self> {
        let mut producers = Self::new(expiry_ms);
        let mut fields = Fields(section);
        while !fields.0.is_empty() {
            let id = ProducerId(fields.i64()?);
            let mut producer = Producer::new(ProducerEpoch(fields.i16()?));
            producer.last_seen_ms = fields.i64()?;
            let marks = fields.u8()?;
            if usize::from(marks) > MARKS_MAX {
                return None;
            }
            for _ in 0..marks {
                producer.push(Mark {
                    first: Sequence(fields.i32()?),
                    last: Sequence(fields.i32()?),
                    base: Offset(fields.i64()?),
                    last_offset: Offset(fields.i64()?),
                    timestamp: TimestampMs(fields.i64()?),
                });
            }
            producers.map.insert(id, producer);
            if producers.map.len() > PRODUCERS_MAX {
                return None;
            }
        }
        producers.sweep_at = (producers.map.len() * 2).clamp(SWEEP_AT_MIN, PRODUCERS_MAX);
        Some(producers)
    }
}

#[cfg(test)]
mod tests {
    use mainstem_record::{Attributes, LeaderEpoch};

    use super::*;

    fn batch(epoch: i16, sequence: i32, records: i32, base: i64) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(base),
            batch_length: 49,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: records - 1,
            base_timestamp: TimestampMs(1),
            max_timestamp: TimestampMs(1),
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
            record_count: records,
        }
    }

    #[test]
    fn only_the_next_sequence_is_new_and_the_last_five_are_duplicates() {
        let mut producers = Producers::new(1000);
        for i in 0..7 {
            let header = batch(0, i * 2, 2, i64::from(i) * 2);
            assert_eq!(producers.check(&header, 0), Ok(Verdict::New));
            producers.record(&header, 0);
        }
        for i in 2..7 {
            let verdict = producers.check(&batch(0, i * 2, 2, 0), 0);
            assert!(
                matches!(verdict, Ok(Verdict::Duplicate(mark)) if mark.base.0 == i64::from(i) * 2)
            );
        }
        // Further back it is known only that it is there.
        for (sequence, records) in [(0, 2), (2, 2), (0, 4), (1, 1)] {
            let verdict = producers.check(&batch(0, sequence, records, 0), 0);
            assert!(matches!(verdict, Ok(Verdict::Duplicate(mark))
                if mark.base == Offset(-1) || (sequence, records) == (0, 4)));
        }
        for (sequence, records) in [(2, 3), (12, 1), (13, 2), (15, 1)] {
            assert!(matches!(
                producers.check(&batch(0, sequence, records, 0), 0),
                Err(AppendError::OutOfOrderSequence {
                    expected: Sequence(14),
                    ..
                })
            ));
        }
    }

    #[test]
    fn what_is_known_reaches_back_without_a_gap_and_over_the_end_of_the_sequences() {
        let mut producers = Producers::new(1000);
        let mut sequence = Sequence(i32::MAX - 10);
        for base in 0..20 {
            let header = batch(0, sequence.0, 2, base * 2);
            assert_eq!(producers.check(&header, 0), Ok(Verdict::New));
            producers.record(&header, 0);
            sequence = sequence.next(2);
        }
        let before = [i32::MAX - 10, i32::MAX - 1, 1, 3];
        for first in before {
            let verdict = producers.check(&batch(0, first, 1, 0), 0);
            assert!(matches!(verdict, Ok(Verdict::Duplicate(mark)) if mark.base == Offset(-1)));
        }
        let unknown = producers.check(&batch(0, i32::MAX - 12, 1, 0), 0);
        assert!(unknown.is_err());
        let encoded = {
            let mut out = Vec::new();
            producers.encode(&mut out);
            out
        };
        assert_eq!(Producers::decode(&encoded, 1000).as_ref(), Some(&producers));
    }

    #[test]
    fn epochs_fence_and_begin_at_zero_and_unknown_producers_begin_anywhere() {
        let mut producers = Producers::new(1000);
        assert_eq!(producers.check(&batch(3, 55, 1, 0), 0), Ok(Verdict::New));
        producers.record(&batch(3, 55, 1, 0), 0);
        assert_eq!(
            producers.check(&batch(2, 56, 1, 0), 0),
            Err(AppendError::InvalidProducerEpoch)
        );
        assert!(matches!(
            producers.check(&batch(4, 56, 1, 0), 0),
            Err(AppendError::OutOfOrderSequence {
                expected: Sequence(0),
                ..
            })
        ));
        assert_eq!(producers.check(&batch(4, 0, 1, 0), 0), Ok(Verdict::New));
        assert_eq!(producers.check(&batch(1, 9, 1, 0), 1001), Ok(Verdict::New));
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::new(1000);
        producers.record(&batch(0, i32::MAX - 1, 2, 0), 0);
        assert_eq!(producers.check(&batch(0, 0, 1, 0), 0), Ok(Verdict::New));
        producers.record(&batch(0, i32::MAX, 3, 0), 0);
        assert_eq!(producers.check(&batch(0, 2, 1, 0), 0), Ok(Verdict::New));
    }

    #[test]
    fn restore_takes_a_record_back_and_the_section_round_trips() {
        let mut producers = Producers::new(1000);
        producers.record(&batch(0, 0, 2, 0), 5);
        let before = producers.clone();
        let undo = producers.record(&batch(0, 2, 2, 2), 6);
        producers.restore(ProducerId(7), undo);
        assert_eq!(producers, before);
        let mut section = Vec::new();
        producers.encode(&mut section);
        assert_eq!(Producers::decode(&section, 1000), Some(before));
        assert_eq!(Producers::decode(&section[..section.len() - 1], 1000), None);
    }

    #[test]
    fn where_all_were_seen_at_one_time_the_oldest_offsets_go() {
        let mut producers = Producers::new(i64::MAX);
        let all = PRODUCERS_MAX as i64;
        let header = |id: i64, sequence, base| BatchHeader {
            producer_id: ProducerId(id),
            ..batch(0, sequence, 1, base)
        };
        for id in 0..all {
            producers.record(&header(id, 0, id), 5);
        }
        producers.record(&header(0, 1, all), 5);
        producers.record(&header(all, 0, all + 1), 5);
        for id in 0..=all {
            let stays = id == 0 || id > all / 8;
            assert_eq!(producers.map.contains_key(&ProducerId(id)), stays, "{id}");
        }
    }

    #[test]
    fn number_of_producers_is_bounded() {
        let mut producers = Producers::new(i64::MAX);
        for id in 0..(PRODUCERS_MAX as i64 + 10) {
            let header = BatchHeader {
                producer_id: ProducerId(id),
                ..batch(0, 0, 1, 0)
            };
            producers.record(&header, id);
        }
        assert!(producers.map.len() <= PRODUCERS_MAX);
        assert!(
            producers
                .map
                .contains_key(&ProducerId(PRODUCERS_MAX as i64 + 9))
        );
        assert!(!producers.map.contains_key(&ProducerId(0)));
    }
}
