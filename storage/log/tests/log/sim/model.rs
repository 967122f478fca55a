//! What must be true of one partition, and what is known of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use mainstem_log::{Commit, Flush, PartitionSpec, Role, SegmentSpec};
use mainstem_record::{BatchHeader, Offset};

use crate::support::{Seen, partition_id, segment_spec, settings};

/// A record, told by its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) partition: usize,
    pub(crate) writer: usize,
    /// Rises in the order in which records were first sent.
    pub(crate) number: u64,
}

/// A partition as metadata and its clients know it.
pub(crate) struct Model {
    pub(crate) index: usize,
    pub(crate) flush: Flush,
    pub(crate) chain: Vec<SegmentSpec>,
    pub(crate) log_start: i64,
    /// What lies below survives a power cut.
    pub(crate) floor: i64,
    /// What lies below survives the death of the process.
    pub(crate) written: i64,
    /// The flush policy was `Always` ever since the log was opened.
    pub(crate) always: bool,
    /// Records whose append failed with the promise that nothing was written.
    pub(crate) failed: HashSet<Id>,
    known: BTreeMap<i64, Id>,
    places: HashMap<Id, i64>,
    segments_made: i32,
}

// === impl Id ===

impl Id {
    /// The value of the record.
    pub(crate) fn value(self) -> Vec<u8> {
        let mut value = format!("{}/{}/{}/", self.partition, self.writer, self.number).into_bytes();
        let filler = self.number.wrapping_mul(0x9e37_79b9) % 257;
        value.resize(value.len() + filler as usize, b'x');
        value
    }

    pub(crate) fn timestamp(self) -> i64 {
        (1000 + self.number + self.number * 7 % 5) as i64
    }

    /// The record that was read; a violation if it is none that was ever sent.
    pub(crate) fn of(seen: &Seen) -> Self {
        let text = String::from_utf8_lossy(&seen.value).into_owned();
        let mut fields = text.split('/');
        let mut field = || fields.next().and_then(|field| field.parse::<u64>().ok());
        let (Some(partition), Some(writer), Some(number)) = (field(), field(), field()) else {
            panic!("offset {}: a value that nobody sent: {text}", seen.offset);
        };
        let id = Self {
            partition: partition as usize,
            writer: writer as usize,
            number,
        };
        assert_eq!(seen.value, id.value(), "wrong bytes at {}", seen.offset);
        assert_eq!(seen.timestamp, id.timestamp(), "wrong time of {id:?}");
        id
    }
}

// === impl Model ===

impl Model {
    pub(crate) fn new(index: usize, flush: Flush) -> Self {
        let mut model = Self {
            index,
            flush,
            chain: Vec::new(),
            log_start: 0,
            floor: 0,
            written: 0,
            always: flush == Flush::Always,
            failed: HashSet::new(),
            known: BTreeMap::new(),
            places: HashMap::new(),
            segments_made: 0,
        };
        let first = model.next_segment(0);
        model.chain.push(first);
        model
    }

    pub(crate) fn spec(&self) -> PartitionSpec {
        PartitionSpec {
            id: partition_id(self.index as i32),
            log_start: Offset(self.log_start),
            segments: self.chain.clone(),
            settings: settings(self.flush),
            role: Role::Leader(Commit::Own),
        }
    }

    /// A segment that was never there before.
    pub(crate) fn next_segment(&mut self, base: i64) -> SegmentSpec {
        self.segments_made += 1;
        segment_spec(self.index as i32 * 10_000 + self.segments_made, base)
    }

    /// A record has this offset: it was acknowledged so, or read there.
    pub(crate) fn learn(&mut self, offset: i64, id: Id) {
        let partition = self.index;
        assert_eq!(id.partition, partition, "a record of another partition");
        let before = self.known.insert(offset, id);
        assert!(
            before.is_none_or(|before| before == id),
            "partition {partition}: offset {offset} was {before:?} and is {id:?}"
        );
        let before = self.places.insert(id, offset);
        assert!(
            before.is_none_or(|before| before == offset),
            "partition {partition}: {id:?} is at {offset} and was at {before:?}: a duplicate"
        );
    }

    /// Where a record is, if that is known.
    pub(crate) fn place(&self, id: Id) -> Option<i64> {
        self.places.get(&id).copied()
    }

    /// What is known from the log start on, by offset.
    pub(crate) fn known(&self) -> impl Iterator<Item = (i64, Id)> {
        let from = self.known.range(self.log_start..);
        from.map(|(offset, id)| (*offset, *id))
    }

    /// Looks at what a read gave: offsets follow each other from `from` on, and every record is the
    /// one that was sent, where it was acknowledged.
    pub(crate) fn check_read(&mut self, from: i64, seen: &[Seen]) {
        let first = seen.first().map_or(from, |first| first.offset);
        assert!(first <= from, "a gap before {first}, read from {from}");
        for (offset, record) in (first..).zip(seen) {
            assert_eq!(record.offset, offset, "offsets do not follow each other");
            let id = Id::of(record);
            if record.offset < self.log_start {
                continue;
            }
            assert!(!self.failed.contains(&id), "{id:?} had failed");
            self.learn(record.offset, id);
        }
    }

    /// The log came back after a crash with these records up to `end`.
    pub(crate) fn came_back(&mut self, end: i64, seen: &[Seen], survives: i64) {
        let partition = self.index;
        assert!(
            end >= survives,
            "partition {partition} lost {end}..{survives}, which had to survive"
        );
        self.known.retain(|offset, _| *offset < end);
        self.places.retain(|_, offset| *offset < end);
        self.log_start = self.log_start.min(end);
        // Bytes of a failed append can outlive it, if the cut that took it back was lost.
        self.failed.clear();
        self.check_read(self.log_start, seen);
        let last = seen.last().map_or(self.log_start, |last| last.offset + 1);
        assert_eq!(last, end, "partition {partition}: not readable to its end");
        self.floor = end;
        self.written = end;
        self.always = self.flush == Flush::Always;
    }

    /// Records of one writer stand in the order in which they were sent.
    pub(crate) fn check_order(&self, is_ordered: impl Fn(usize) -> bool) {
        let mut newest: HashMap<usize, u64> = HashMap::new();
        for (offset, id) in self.known() {
            let before = newest.insert(id.writer, id.number);
            assert!(
                !is_ordered(id.writer) || before.is_none_or(|before| before < id.number),
                "{id:?} at {offset} comes after {before:?} of the same writer"
            );
        }
    }

    /// The last sequence and offset of each idempotent producer, from its batches.
    pub(crate) fn producers(batches: &[BatchHeader]) -> BTreeMap<i64, (i16, i32, i64)> {
        let with_producer = batches.iter().filter(|header| header.producer_id.0 >= 0);
        with_producer
            .map(|header| {
                let last = (header.last_sequence().0, header.last_offset().0);
                let id = header.producer_id.0;
                (id, (header.producer_epoch.0, last.0, last.1))
            })
            .collect()
    }
}
