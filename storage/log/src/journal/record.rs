//! A record of the journal: what one round of syncs made durable.
//!
//! ```text
//! head   "MSJR"  version u32  ring u128  sequence u64  trim u64  durable u64  entries u32
//!        payload u32  crc32c u32
//! entry  topic 16  index i32  segment 16  base i64  position u64  end i64  length u32  crc32c u32
//! then the payloads, in the order of the entries, and zeros up to the next block
//! ```
//! Integers are little-endian. The checksum of the head covers the head before it and all entries;
//! that of an entry covers its payload. A record begins on a block and never wraps.
//!
//! An entry says that a segment is durable up to `position + length`, which is before the record
//! with offset `end`. Its payload belongs at `position` of the segment's file; one without payload
//! is a note: the file itself holds all of it.

use mainstem_record::{Offset, PartitionId, PartitionIndex, SegmentId, TopicId};
use uuid::Uuid;

use crate::dedupe::Fields;

/// A record begins at a multiple of this, and is filled up to one with zeros, so that no write has
/// to read a page first. In bytes.
pub(crate) const BLOCK_BYTES: usize = 4096;

pub(crate) const HEAD_BYTES: usize = 64;

pub(crate) const ENTRY_BYTES: usize = 68;

/// The most entries of one record.
pub(crate) const ENTRIES_MAX: usize = 8192;

/// The longest payload of one entry, in bytes: more is synced in the segment's file, and not
/// written twice.
pub(crate) const ENTRY_PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The most payload of one record, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

pub(crate) const MAGIC: [u8; 4] = *b"MSJR";
pub(crate) const VERSION: u32 = 1;

/// What a record says of itself and of the records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The ring's identity since it was last emptied.
    pub(crate) ring: u128,
    /// Records are numbered from 1 without a gap.
    pub(crate) sequence: u64,
    /// Nothing needs the records below this any more.
    pub(crate) trim: u64,
    /// All records up to this one were on stable storage when this one was written.
    pub(crate) durable: u64,
    /// How many entries follow.
    pub(crate) entries: usize,
    /// Bytes of all payloads.
    pub(crate) payload: usize,
}

/// What a record says of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) partition: PartitionId,
    pub(crate) segment: SegmentId,
    /// The offset of the segment's first record.
    pub(crate) base: Offset,
    /// Where in the segment's file the payload belongs.
    pub(crate) position: u64,
    /// The offset after the payload's last record.
    pub(crate) end: Offset,
    /// Bytes of payload.
    pub(crate) length: u32,
    /// Of the payload.
    pub(crate) crc: u32,
}

/// How many blocks a record takes.
pub(crate) fn blocks_of(entries: usize, payload: usize) -> u64 {
    let bytes = HEAD_BYTES + entries * ENTRY_BYTES + payload;
    bytes.div_ceil(BLOCK_BYTES) as u64
}

/// Head and entries; the payloads and the filling follow.
pub(crate) fn encode(head: &Head, entries: &[Entry]) -> Vec<u8> {
    debug_assert_eq!(head.entries, entries.len());
    let mut out = Vec::with_capacity(HEAD_BYTES + entries.len() * ENTRY_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&head.ring.to_le_bytes());
    for number in [head.sequence, head.trim, head.durable] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for count in [head.entries, head.payload] {
        let count = u32::try_from(count).expect("bounded by what a round takes");
        out.extend_from_slice(&count.to_le_bytes());
    }
    // Filled in at the end; the four bytes after it are spare.
    out.extend_from_slice(&[0; 8]);
    debug_assert_eq!(out.len(), HEAD_BYTES);
    for entry in entries {
        out.extend_from_slice(entry.partition.topic.0.as_bytes());
        out.extend_from_slice(&entry.partition.index.0.to_le_bytes());
        out.extend_from_slice(entry.segment.0.as_bytes());
        out.extend_from_slice(&entry.base.0.to_le_bytes());
        out.extend_from_slice(&entry.position.to_le_bytes());
        out.extend_from_slice(&entry.end.0.to_le_bytes());
        out.extend_from_slice(&entry.length.to_le_bytes());
        out.extend_from_slice(&entry.crc.to_le_bytes());
    }
    let crc = front_crc(&out);
    if let Some(place) = out.get_mut(CRC_AT..CRC_AT + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Where the head's checksum lies.
const CRC_AT: usize = 56;

/// Of a head and its entries, as if the checksum itself were not there.
fn front_crc(front: &[u8]) -> u32 {
    let (before, rest) = front.split_at(CRC_AT.min(front.len()));
    crc32c::crc32c_append(crc32c::crc32c(before), rest.get(4..).unwrap_or_default())
}

/// The head of a record of this ring, if one may begin here; only [`decode`] tells for sure.
pub(crate) fn peek(bytes: &[u8], ring: u128) -> Option<Head> {
    let mut fields = Fields(bytes.get(..HEAD_BYTES)?);
    if fields.take()? != MAGIC || fields.u32()? != VERSION {
        return None;
    }
    let head = Head {
        ring: u128::from_le_bytes(fields.take()?),
        sequence: fields.u64()?,
        trim: fields.u64()?,
        durable: fields.u64()?,
        entries: fields.u32()? as usize,
        payload: fields.u32()? as usize,
    };
    let is_sane = head.ring == ring
        && head.entries <= ENTRIES_MAX
        && head.payload <= PAYLOAD_BYTES_MAX
        && head.sequence > head.durable
        && head.trim <= head.sequence;
    is_sane.then_some(head)
}

/// Head and entries of a record of this ring: `front` holds exactly those. `None` if they are
/// damaged.
pub(crate) fn decode(front: &[u8], ring: u128) -> Option<(Head, Vec<Entry>)> {
    let head = peek(front, ring)?;
    let table = front.get(HEAD_BYTES..)?;
    let crc = front.get(CRC_AT..)?.first_chunk::<4>()?;
    let is_whole = table.len() == head.entries * ENTRY_BYTES;
    if !is_whole || front_crc(front) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = Fields(table);
    let mut entries = Vec::with_capacity(head.entries);
    let mut payload = 0;
    while !fields.0.is_empty() {
        let entry = decode_entry(&mut fields)?;
        if entry.length as usize > ENTRY_PAYLOAD_BYTES_MAX {
            return None;
        }
        payload += entry.length as usize;
        entries.push(entry);
    }
    (payload == head.payload).then_some((head, entries))
}

fn decode_entry(fields: &mut Fields<'_>) -> Option<Entry> {
    Some(Entry {
        partition: PartitionId {
            topic: TopicId(Uuid::from_bytes(fields.take()?)),
            index: PartitionIndex(fields.i32()?),
        },
        segment: SegmentId(Uuid::from_bytes(fields.take()?)),
        base: Offset(fields.i64()?),
        position: fields.u64()?,
        end: Offset(fields.i64()?),
        length: fields.u32()?,
        crc: fields.u32()?,
    })
}
