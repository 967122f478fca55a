//! The newest offset of each key, in bounded memory.

use std::hash::{DefaultHasher, Hasher};

use mainstem_record::Offset;

/// Bytes of memory per slot.
const SLOT_BYTES: usize = size_of::<Slot>();

/// Of ten slots, so many may be taken: beyond it probes become long.
const LOAD_TENTHS: usize = 9;

/// The fewest slots: one key must always fit.
const SLOTS_MIN: usize = 16;

/// Two halves of a key's hash, and its offset plus one; zero is free.
type Slot = [u64; 3];

/// An open-addressing table that knows keys by 128 bits of keyed hash only.
///
/// The hashes are keyed with secrets drawn for each pass: whoever chooses record keys cannot make
/// two of them collide, which would lose a record.
pub(crate) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    secrets: [u64; 2],
}

// === impl OffsetMap ===

impl OffsetMap {
    /// A map that takes at most `bytes_max` bytes, and no more than `keys_max` keys need.
    pub(crate) fn new(bytes_max: usize, keys_max: u64, secrets: [u64; 2]) -> Self {
        let keys_max = usize::try_from(keys_max).unwrap_or(usize::MAX);
        let needed = keys_max.saturating_add(keys_max / 4).saturating_add(1);
        let slots = (bytes_max / SLOT_BYTES).min(needed).max(SLOTS_MIN);
        Self {
            slots: vec![[0; 3]; slots],
            used: 0,
            secrets,
        }
    }

    /// Remembers the offset of a key, which is above all offsets so far; `false` if it does not
    /// fit.
    pub(crate) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let full = self.used >= self.slots.len() * LOAD_TENTHS / 10;
        let at = self.slot_of(hash);
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        let [_, _, taken] = slot;
        if *taken == 0 {
            if full {
                return false;
            }
            self.used += 1;
        }
        *slot = [hash[0], hash[1], offset.0.cast_unsigned().wrapping_add(1)];
        true
    }

    /// The newest offset of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots.get(self.slot_of(self.hash(key)))?;
        let [_, _, taken] = slot;
        (*taken != 0).then(|| Offset(taken.wrapping_sub(1).cast_signed()))
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// The slot of the key with that hash, or the free one where it belongs. There is always one.
    fn slot_of(&self, hash: [u64; 2]) -> usize {
        let count = self.slots.len();
        let mut at = ((u128::from(hash[0]) * count as u128) >> 64) as usize;
        while let Some([first, second, taken]) = self.slots.get(at) {
            if *taken == 0 || [*first, *second] == hash {
                break;
            }
            at = (at + 1) % count;
        }
        at
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        self.secrets.map(|secret| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(secret);
            hasher.write(key);
            hasher.finish()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn map_knows_the_newest_offset_of_every_key_that_fitted(
            keys in prop::collection::vec(0u16..40, 1..200),
            slots in 1usize..60,
        ) {
            let mut map = OffsetMap::new(slots * SLOT_BYTES, 1 << 40, [7, 9]);
            let mut model: HashMap<u16, i64> = HashMap::new();
            for (offset, key) in (0..).zip(keys) {
                if map.put(&key.to_le_bytes(), Offset(offset)) {
                    model.insert(key, offset);
                } else {
                    prop_assert!(!model.contains_key(&key), "a known key always fits");
                    prop_assert!(map.len() >= SLOTS_MIN * LOAD_TENTHS / 10);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0..40u16 {
                let expected = model.get(&key).map(|offset| Offset(*offset));
                prop_assert_eq!(map.get(&key.to_le_bytes()), expected);
            }
        }
    }

    #[test]
    fn memory_is_bounded_by_budget_and_by_need() {
        let slots = |bytes, keys| OffsetMap::new(bytes, keys, [1, 2]).slots.len();
        assert_eq!(slots(2400, u64::MAX), 100);
        assert_eq!(slots(1 << 30, 100), 126);
        assert_eq!(slots(0, 0), SLOTS_MIN);
        let mut map = OffsetMap::new(1 << 30, 1000, [1, 2]);
        assert!((0..1000u32).all(|key| map.put(&key.to_le_bytes(), Offset(key.into()))));
    }
}
