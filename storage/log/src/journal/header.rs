//! The first two blocks of a ring: which records are the ring's own.
//!
//! ```text
//! slot   "MSJH"  version u32  generation u64  ring u128  bytes u64  state u32  crc32c u32
//! ```
//! Integers are little-endian. The slots are written in turn, and the one with the higher
//! generation counts: while one is written the other one stands. A slot is much smaller than a
//! sector, so no power cut leaves half of it, and if its write fails its bytes are put back: one that
//! cannot be read is damage.

use crate::dedupe::Fields;

use super::record::BLOCK_BYTES;

/// How many blocks of the file the slots take; records come after them.
pub(crate) const SLOTS: u64 = 2;

pub(crate) const SLOT_BYTES: usize = 48;

/// The longest ring, in bytes.
pub(crate) const RING_BYTES_MAX: u64 = 4 << 30;

/// The shortest ring, in bytes: some records, and room to write down that others are not needed.
pub(crate) const RING_BYTES_MIN: u64 = 32 * BLOCK_BYTES as u64;

pub(crate) const MAGIC: [u8; 4] = *b"MSJH";
pub(crate) const VERSION: u32 = 1;

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Goes up by one each time.
    pub(crate) generation: u64,
    /// Records of another identity are leftovers.
    pub(crate) ring: u128,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Records may follow; otherwise there are none to look for.
    pub(crate) open: bool,
}

/// Why the slots say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderDamage {
    /// The slot of this number is damaged.
    Slot(u64),
    /// A newer version has written it.
    Version(u32),
}

// === impl Header ===

impl Header {
    /// Which slot this header goes to.
    pub(crate) fn slot(&self) -> u64 {
        self.generation % SLOTS
    }

    pub(crate) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.ring.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&u32::from(self.open).to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(out.len(), SLOT_BYTES);
        for (place, byte) in block.iter_mut().zip(out) {
            *place = byte;
        }
        block
    }

    fn decode(slot: &[u8]) -> Result<Self, Option<u32>> {
        let (body, crc) = slot
            .get(..SLOT_BYTES)
            .and_then(|slot| slot.split_last_chunk::<4>())
            .ok_or(None)?;
        let mut fields = Fields(body);
        let magic = fields.take().ok_or(None)?;
        if magic != MAGIC {
            return Err(None);
        }
        let version = fields.u32().ok_or(None)?;
        let is_whole = crc32c::crc32c(body) == u32::from_le_bytes(*crc);
        // Later versions keep this much, so that they can be told from damage.
        if version != VERSION {
            return Err(is_whole.then_some(version));
        }
        let header = || {
            Some(Self {
                generation: fields.u64()?,
                ring: u128::from_le_bytes(fields.take()?),
                bytes: fields.u64()?,
                open: match fields.u32()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            })
        };
        let mut header = header;
        header().filter(|_| is_whole).ok_or(None)
    }
}

/// What counts of the two slots; `blocks` are the first bytes of the file.
pub(crate) fn newest(blocks: &[u8]) -> Result<Header, HeaderDamage> {
    let mut newest: Option<Header> = None;
    for slot in 0..SLOTS {
        let bytes = blocks.chunks(BLOCK_BYTES).nth(slot as usize);
        let header =
            Header::decode(bytes.unwrap_or_default()).map_err(|version| match version {
                Some(version) => HeaderDamage::Version(version),
                None => HeaderDamage::Slot(slot),
            })?;
        if header.slot() != slot {
            return Err(HeaderDamage::Slot(slot));
        }
        if newest.is_none_or(|newest| newest.generation < header.generation) {
            newest = Some(header);
        }
    }
    newest.ok_or(HeaderDamage::Slot(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_slot_counts_and_damage_of_either_is_found() {
        let header = |generation, open| Header {
            generation,
            ring: 7 + u128::from(generation),
            bytes: 1 << 20,
            open,
        };
        for (even, odd) in [(0, 1), (2, 1), (2, 3)] {
            let (even, odd) = (header(even, false), header(odd, true));
            let mut blocks = even.encode().to_vec();
            blocks.extend_from_slice(&odd.encode());
            let expected = if even.generation > odd.generation {
                even
            } else {
                odd
            };
            assert_eq!(newest(&blocks), Ok(expected));
            for slot in 0..SLOTS {
                let start = slot as usize * BLOCK_BYTES;
                for at in start..start + SLOT_BYTES {
                    let mut bad = blocks.clone();
                    bad[at] ^= 4;
                    assert_eq!(newest(&bad), Err(HeaderDamage::Slot(slot)));
                }
            }
            assert_eq!(newest(&blocks[..BLOCK_BYTES]), Err(HeaderDamage::Slot(1)));
        }
    }

    #[test]
    fn newer_version_is_told_from_damage() {
        let mut slot = Header {
            generation: 0,
            ring: 1,
            bytes: 1,
            open: true,
        }
        .encode();
        slot[4] = 9;
        let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]).to_le_bytes();
        slot[SLOT_BYTES - 4..SLOT_BYTES].copy_from_slice(&crc);
        assert_eq!(newest(&slot), Err(HeaderDamage::Version(9)));
    }
}
