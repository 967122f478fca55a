//! The checksums of a journal's ring; `docs/formats.md` has its layout.

const BLOCK_BYTES: usize = 4096;
/// The headers of the ring take a block each.
const SLOTS: usize = 2;
const SLOT_BYTES: usize = 48;

const RECORD_MAGIC: &[u8] = b"MSJR";
const HEAD_BYTES: usize = 64;
const ENTRIES_AT: usize = 48;
/// The checksum of the head, which covers what is around it and the entries.
const CRC_AT: usize = 56;
const ENTRY_BYTES: usize = 68;
/// In an entry, the length of its payload; the checksum of it follows.
const LENGTH_AT: usize = 60;

/// Bytes of a ring without the empty blocks at its end.
pub(super) fn used(ring: &[u8]) -> usize {
    let last = ring.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |at| (at / BLOCK_BYTES + 1) * BLOCK_BYTES)
}

/// Makes the checksums of the headers, and of every record that begins on a block, right.
pub(super) fn repair(ring: &mut [u8]) {
    for block in ring.chunks_mut(BLOCK_BYTES).take(SLOTS) {
        let slot = block.get_mut(..SLOT_BYTES);
        if let Some((body, crc)) = slot.and_then(|slot| slot.split_last_chunk_mut::<4>()) {
            *crc = crc32c::crc32c(body).to_le_bytes();
        }
    }
    for at in (SLOTS * BLOCK_BYTES..ring.len()).step_by(BLOCK_BYTES) {
        let record = ring.get_mut(at..).unwrap_or_default();
        if record.starts_with(RECORD_MAGIC) {
            repair_record(record);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 4)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}

fn repair_record(record: &mut [u8]) {
    let entries = number(record, ENTRIES_AT).unwrap_or(0);
    let front = HEAD_BYTES.saturating_add(entries.saturating_mul(ENTRY_BYTES));
    if front > record.len() {
        return;
    }
    let (head, payloads) = record.split_at_mut(front);
    let mut rest = &*payloads;
    for entry in head[HEAD_BYTES..].chunks_exact_mut(ENTRY_BYTES) {
        let length = number(entry, LENGTH_AT).unwrap_or(0).min(rest.len());
        let (payload, after) = rest.split_at(length);
        let crc = crc32c::crc32c(payload);
        entry[LENGTH_AT + 4..].copy_from_slice(&crc.to_le_bytes());
        rest = after;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), &head[CRC_AT + 4..]);
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}
