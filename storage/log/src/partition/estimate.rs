//! Sizes of ranges of offsets, without touching a file.

use mainstem_record::Offset;

use super::Partition;
use crate::segment::Segment;

impl Partition {
    /// About how many bytes of batches lie between two offsets (`end` is exclusive): by the index
    /// where it is in memory, by proportion in sealed segments. Above 0 whenever `from < end`.
    pub fn estimate_bytes(&self, from: Offset, end: Offset) -> u64 {
        if from >= end {
            return 0;
        }
        let chain = self.inner.shared.chain.read();
        let newest_first = chain.iter().rev();
        let mut bytes = 0;
        for segment in newest_first {
            bytes += bytes_from(segment, from);
            // Segments before the one that holds `from` hold nothing of the range.
            if segment.base <= from {
                break;
            }
        }
        bytes.max(1)
    }

    /// How many segments the chain has.
    pub fn segment_count(&self) -> usize {
        self.inner.shared.chain.read().len()
    }
}

fn bytes_from(segment: &Segment, from: Offset) -> u64 {
    let state = segment.state.read();
    if from <= segment.base {
        return state.bytes;
    }
    if let Some((_, index)) = &state.open {
        return state.bytes.saturating_sub(index.by_offset(from).0);
    }
    let Some(end) = state.end.filter(|end| *end > from) else {
        return 0;
    };
    let (left, all) = (
        end.0.abs_diff(from.0),
        end.0.abs_diff(segment.base.0).max(1),
    );
    (u128::from(state.bytes) * u128::from(left) / u128::from(all)) as u64
}
