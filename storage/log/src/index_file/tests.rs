//! Index files as a whole.

use proptest::prelude::*;

use super::*;
use crate::digest::CHUNK_BYTES;

const CHUNKS: [u128; 3] = [1 << 99, 7, 8];

fn sample(count: u32) -> (Header, Index, Dedupe) {
    let header = Header {
        labelled: Labelled::NotYet,
        segment: SegmentId(uuid::Uuid::from_u128(5)),
        base: Offset(100),
        end: Offset(900),
        epoch: LeaderEpoch(3),
        compacted_from: Some(LeaderEpoch(2)),
        bytes: 2 * CHUNK_BYTES + 77,
        min_timestamp: -1,
        max_timestamp: 55,
        created_wall_ms: 9,
        digest: digest_of_chunks(&CHUNKS),
    };
    let entries = (0..count)
        .map(|i| Entry {
            offset: i * 3,
            position: i * 5000,
            max_before: i64::from(i) - 1,
        })
        .collect();
    let index = Index::from_parts(Offset(100), 4096, entries, (-1, 55));
    (header, index, Dedupe::new(10))
}

#[test]
fn header_of_an_impossible_segment_is_refused() {
    let (good, index, dedupe) = sample(3);
    for (base, end, bytes) in [
        (-1, 900, 77),
        (100, 99, 77),
        (100, 100 + (1 << 33), 77),
        (0, i64::MAX, 77),
        (i64::MIN, i64::MAX, 77),
        (100, 900, u64::MAX),
    ] {
        let header = Header {
            base: Offset(base),
            end: Offset(end),
            bytes,
            ..good
        };
        let file = encode(&header, &CHUNKS, &index, &dedupe);
        assert!(decode_header(&file).is_err(), "{base} {end} {bytes}");
    }
}

#[test]
fn file_round_trips_and_skips_unknown_sections() {
    let (header, index, dedupe) = sample(9);
    let file = encode(&header, &CHUNKS, &index, &dedupe);
    let mut longer = file[..file.len() - 4].to_vec();
    section(&mut longer, 4711, |out| out.extend_from_slice(b"new"));
    let crc = crc32c::crc32c(&longer);
    longer.extend_from_slice(&crc.to_le_bytes());
    for bytes in [file, longer] {
        assert_eq!(decode_header(&bytes[..HEADER_PREFIX_BYTES]), Ok(header));
        let contents = decode(&bytes, 4096, 10).expect("decodes");
        assert_eq!(contents.header, header);
        assert_eq!(contents.index, index);
        assert_eq!(contents.digest.chunks(), Some(CHUNKS.to_vec()));
        assert_eq!(contents.dedupe, dedupe);
    }
}

#[test]
fn chunks_must_be_those_of_the_header() {
    let (header, index, dedupe) = sample(2);
    for chunks in [&CHUNKS[..2], &[1, 2, 3], &[]] {
        let file = encode(&header, chunks, &index, &dedupe);
        let error = decode(&file, 4096, 10).expect_err("of something else");
        assert_eq!(error, IndexFileError::Section(TAG_CHUNKS));
    }
}

proptest! {
    #[test]
    fn any_flipped_bit_is_found(count in 0u32..20, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (header, index, dedupe) = sample(count);
        let mut file = encode(&header, &CHUNKS, &index, &dedupe);
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(decode(&file, 4096, 10).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut file = b"MSIX\x02\0\0\0".to_vec();
        file.extend_from_slice(&bytes);
        let _ = decode_header(&file);
        let crc = crc32c::crc32c(&file);
        file.extend_from_slice(&crc.to_le_bytes());
        let _ = decode(&file, 4096, 10);
    }
}
