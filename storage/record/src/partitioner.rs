//! Which partition a key belongs to: the function of Kafka's default partitioner, so that a Kafka
//! producer and an MQTT publisher with the same key meet in the same partition.

use crate::ids::PartitionIndex;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The 32-bit MurmurHash2 of `data` with the seed that Kafka's clients use.
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    // The length goes in modulo 2^32, as Java's int does.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> SHIFT;
        mixed = mixed.wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed;
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)) as i32
}

/// The partition of `key` among `partitions`; fewer than 1 partition counts as 1.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: i32) -> PartitionIndex {
    PartitionIndex((murmur2(key) & i32::MAX) % partitions.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The values that Kafka's own clients are tested against.
    #[test]
    fn known_hashes() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn a_negative_hash_loses_its_sign_bit_and_not_its_sign() {
        // -973932308 & 0x7fffffff = 1173551340, of which 7 leaves 4 (its absolute value leaves 2).
        assert_eq!(
            partition_for_key(b"21", 7),
            PartitionIndex(1_173_551_340 % 7)
        );
        assert_ne!(1_173_551_340 % 7, 973_932_308 % 7);
    }

    proptest! {
        #[test]
        fn the_partition_is_in_range(key: Vec<u8>, partitions in -3i32..10_000) {
            let PartitionIndex(index) = partition_for_key(&key, partitions);
            prop_assert!(index >= 0 && index < partitions.max(1));
        }
    }
}
