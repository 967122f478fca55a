//! Finds the records of a ring that count.

use std::{collections::BTreeMap, io};

use mainstem_env::File;

use super::{
    header::SLOTS,
    record::{self, BLOCK_BYTES, ENTRY_BYTES, Entry, HEAD_BYTES, Head},
};

/// How much is read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// A record whose head and entries are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it begins, in bytes.
    pub(crate) position: u64,
    pub(crate) head: Head,
}

/// The records that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// In the order in which they were written.
    pub(crate) records: Vec<Found>,
    /// All records up to this one were on stable storage: those after it may be torn.
    pub(crate) durable: u64,
}

/// A record that was on stable storage cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) sequence: u64,
    /// Where it must have begun, in bytes, if the record before it is there.
    pub(crate) position: Option<u64>,
}

/// All records of this ring in the file, whether they count or not, by sequence.
pub(crate) fn find(file: &dyn File, ring: u128, bytes: u64) -> io::Result<BTreeMap<u64, Found>> {
    let mut found = BTreeMap::new();
    let mut window = vec![0; WINDOW_BYTES.min(bytes as usize)];
    let mut start = SLOTS * BLOCK_BYTES as u64;
    while start < bytes {
        let length = (bytes - start).min(WINDOW_BYTES as u64) as usize;
        let (window, _) = window.split_at_mut(length);
        file.read_exact_at(window, start)?;
        // A record may begin at any block: the blocks of one that was overwritten tell nothing.
        for (at, block) in window.chunks(BLOCK_BYTES).enumerate() {
            let Some(head) = record::peek(block, ring) else {
                continue;
            };
            let position = start + (at * BLOCK_BYTES) as u64;
            if let Some((head, _)) = read(file, position, &head, bytes)? {
                found.insert(head.sequence, Found { position, head });
            }
        }
        start += length as u64;
    }
    Ok(found)
}

/// Head and entries of the record at `position`; `None` if they are damaged or reach beyond the
/// ring.
pub(crate) fn read(
    file: &dyn File,
    position: u64,
    head: &Head,
    bytes: u64,
) -> io::Result<Option<(Head, Vec<Entry>)>> {
    let blocks = record::blocks_of(head.entries, head.payload);
    if position + blocks * BLOCK_BYTES as u64 > bytes {
        return Ok(None);
    }
    let mut front = vec![0; HEAD_BYTES + head.entries * ENTRY_BYTES];
    file.read_exact_at(&mut front, position)?;
    Ok(record::decode(&front, head.ring))
}

/// Which of the records that were found count: from the trim point of the newest one on. Only those
/// that nobody knew to be durable may be missing.
pub(crate) fn live(mut found: BTreeMap<u64, Found>) -> Result<Live, Hole> {
    let Some(newest) = found.last_key_value().map(|(_, newest)| newest.head) else {
        return Ok(Live::default());
    };
    let durable = newest.durable;
    let mut records = Vec::new();
    let mut expected = newest.trim.max(1);
    let mut position = None;
    for (sequence, found) in found.split_off(&expected) {
        if sequence > expected && expected <= durable {
            break;
        }
        let blocks = record::blocks_of(found.head.entries, found.head.payload);
        position = Some(found.position + blocks * BLOCK_BYTES as u64);
        expected = sequence + 1;
        records.push(found);
    }
    if expected <= durable {
        return Err(Hole {
            sequence: expected,
            position,
        });
    }
    Ok(Live { records, durable })
}
