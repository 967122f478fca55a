//! Comparing what an index file says with the batches it is about.

use std::collections::HashMap;

use mainstem_record::{BatchHeader, Offset, ProducerId};

use crate::{dedupe::Producers, index::Entry, index_file::Contents};

/// Compares the index with the batches as they go by.
pub(super) struct Compare<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) next_entry: usize,
    base: Offset,
    /// Lowest and highest timestamp so far.
    pub(super) times: (i64, i64),
    /// The producers that the index file remembers: up to where, and what the batches say.
    pub(super) producers: HashMap<ProducerId, (Offset, Offset)>,
}

// === impl Compare ===

impl<'a> Compare<'a> {
    pub(super) fn new(contents: &'a Contents) -> Self {
        Self {
            entries: contents.index.entries(),
            next_entry: 0,
            base: contents.header.base,
            times: (i64::MAX, i64::MIN),
            producers: remembered(&contents.dedupe.producers),
        }
    }

    /// Takes a good batch; whether the index agrees with it.
    pub(super) fn batch(&mut self, header: &BatchHeader, position: u64) -> bool {
        let mut agrees = true;
        while let Some(entry) = self.entries.get(self.next_entry) {
            let at = u64::from(entry.position);
            if at > position {
                break;
            }
            self.next_entry += 1;
            // One that was passed over lay in what is damaged: it is told already.
            if at == position {
                let offset = self.base.plus(i64::from(entry.offset));
                agrees = offset == header.base_offset && entry.max_before >= self.times.1;
            }
        }
        self.times.0 = self.times.0.min(header.base_timestamp.0);
        self.times.1 = self.times.1.max(header.max_timestamp.0);
        if header.has_producer()
            && header.base_sequence.0 >= 0
            && let Some((_, newest)) = self.producers.get_mut(&header.producer_id)
        {
            *newest = header.last_offset();
        }
        agrees
    }
}

/// Up to which offset each producer is remembered; -1 for what the batches have still to say.
fn remembered(producers: &Producers) -> HashMap<ProducerId, (Offset, Offset)> {
    let with_marks = producers.iter().filter_map(|(id, producer)| {
        let last = producer.marks().last()?;
        Some((*id, (last.last_offset, Offset(-1))))
    });
    with_marks.collect()
}
