//! A short fuzz with a fixed seed over everything that reads bytes of strangers: nothing panics,
//! nothing wrong is accepted, nothing grows beyond its cap.

mod common;

use bytes::Bytes;
use mainstem_record::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, Batches, Codec, CodecError, RecordError,
    check_stored, compress, decompress, records, stamp, stamp_log_append_time, validate,
    validate_records,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use common::{BYTES_MAX, ModelRecord, batch, codec, config, payload, sealed};

/// What a bomb unpacks to, and what is allowed of it.
const BOMB_BYTES: usize = 64 << 20;
const BOMB_CAP: usize = 1 << 20;

/// A batch that starts like one: plausible magic, length and counts, arbitrary otherwise.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    (
        vec(any::<u8>(), BATCH_HEADER_BYTES),
        codec(),
        -2i32..40,
        -2i32..40,
        body(),
    )
        .prop_map(|(mut header, codec, count, delta, body)| {
            header[16] = 2;
            header[22] = (header[22] & !7) | codec.id();
            header[23..27].copy_from_slice(&delta.to_be_bytes());
            header[57..61].copy_from_slice(&count.to_be_bytes());
            sealed(&header, &body)
        })
}

/// Bytes near to records: small values are likely lengths and counts.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        vec(prop_oneof![4 => 0u8..32, 1 => any::<u8>()], 0..300),
    ]
}

/// Reads `bytes` in every way there is; whatever they are, this returns.
fn read_every_way(bytes: &[u8]) {
    let parsed = BatchHeader::parse(bytes);
    if let Ok(header) = &parsed {
        assert_eq!(header.encode(), bytes[..BATCH_HEADER_BYTES]);
        // Whatever the fields are, these saturate or wrap.
        let _ = (
            header.next_offset(),
            header.last_sequence(),
            header.has_producer(),
        );
    }
    for header in [validate(bytes), check_stored(bytes)].into_iter().flatten() {
        assert_eq!(header.size_bytes(), bytes.len());
        assert_eq!(header.crc, crc32c::crc32c(&bytes[21..]));
    }
    walk(bytes);
    let mut walked = 0;
    for item in Batches::new(Bytes::copy_from_slice(bytes)) {
        let Ok((header, batch)) = item else { break };
        assert_eq!(header.size_bytes(), batch.len());
        walked += batch.len();
    }
    assert!(walked <= bytes.len());
    let mut changed = bytes.to_vec();
    stamp(&mut changed, 7.into(), 1.into());
    stamp_log_append_time(&mut changed, 5.into());
}

/// Walks the records and checks what every walk promises.
fn walk(bytes: &[u8]) {
    let Ok(opened) = records(bytes, BYTES_MAX) else {
        assert!(validate_records(bytes, BYTES_MAX).is_err());
        return;
    };
    assert!(opened.body_bytes() <= BYTES_MAX.max(bytes.len()));
    let header = *opened.header();
    let (mut read, mut failed, mut previous) = (0, false, None);
    for record in &opened {
        assert!(!failed, "an error is the last item");
        let Ok(record) = record else {
            failed = true;
            continue;
        };
        assert_eq!(record.headers.iter().count(), record.headers.len());
        assert!(previous < Some(record.offset), "offsets rise");
        assert!(record.offset >= header.base_offset && record.offset <= header.last_offset());
        previous = Some(record.offset);
        read += 1;
    }
    assert!(
        failed || read == header.record_count.max(0),
        "exactly as many as announced"
    );
    assert_eq!(validate_records(bytes, BYTES_MAX).is_err(), failed);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        read_every_way(&bytes);
        prop_assert!(validate(&bytes).is_err(), "2^-32 says that this is no accident");
    }

    #[test]
    fn plausible_batches_never_panic(bytes in plausible()) {
        read_every_way(&bytes);
    }

    /// A flip that the checksum does not cover is one of a field that the leader overwrites.
    #[test]
    fn a_flipped_byte_is_found(model in batch(), at: Index, mask in 1u8..) {
        let mut bytes = model.build().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        read_every_way(&bytes);
        let overwritten = at < 8 || (12..16).contains(&at);
        prop_assert_eq!(validate(&bytes).is_ok(), overwritten, "byte {}", at);
        if !overwritten {
            prop_assert!(check_stored(&bytes).is_err());
        }
    }

    #[test]
    fn a_wrong_checksum_is_never_accepted(model in batch(), flips in 1u32..) {
        let mut bytes = model.build().to_vec();
        let computed = validate(&bytes).expect("valid").crc;
        let stored = computed ^ flips;
        bytes[17..21].copy_from_slice(&stored.to_be_bytes());
        prop_assert_eq!(validate(&bytes), Err(BatchError::Crc { stored, computed }));
        prop_assert_eq!(check_stored(&bytes), Err(BatchError::Crc { stored, computed }));
    }

    #[test]
    fn a_cut_or_extended_batch_is_never_accepted(model in batch(), cut: Index, tail in 1usize..9) {
        let mut bytes = model.build().to_vec();
        let short = cut.index(bytes.len());
        let truncated = matches!(validate(&bytes[..short]), Err(BatchError::Truncated { .. }));
        prop_assert!(truncated);
        read_every_way(&bytes[..short]);
        bytes.resize(bytes.len() + tail, 0);
        prop_assert_eq!(validate(&bytes), Err(BatchError::Trailing { bytes: tail }));
        prop_assert!(records(&bytes, BYTES_MAX).is_err());
    }

    /// The sender is the liar: the checksum fits, the records are damaged.
    #[test]
    fn damaged_records_under_a_valid_checksum_never_panic(
        model in batch(),
        damage in vec((any::<Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<Index>()),
    ) {
        let built = model.build();
        let (header, body) = built.split_at(BATCH_HEADER_BYTES);
        let mut body = body.to_vec();
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        read_every_way(&sealed(header, &body));
    }

    /// Counts in the header that do not fit the body are found by the walk, whatever the codec.
    #[test]
    fn a_lying_record_count_is_found(model in batch(), more in prop::sample::select(vec![-1, 1, 9])) {
        let built = model.build();
        let (header, body) = built.split_at(BATCH_HEADER_BYTES);
        let mut header = header.to_vec();
        let count = i32::try_from(model.records.len()).expect("few") + more;
        prop_assume!(count > 0);
        header[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        header[57..61].copy_from_slice(&count.to_be_bytes());
        let error = validate_records(&sealed(&header, body), BYTES_MAX).expect_err("a lie");
        let expected = if more > 0 {
            matches!(error, BatchError::Record(RecordError::Missing { missing }) if missing == more)
        } else {
            matches!(error, BatchError::Record(RecordError::Trailing { .. }))
        };
        prop_assert!(expected, "{}", error);
    }

    #[test]
    fn decompression_of_arbitrary_bytes_is_capped(
        codec in codec(),
        packed in body(),
        cap in 0usize..2000,
    ) {
        if let Ok(unpacked) = decompress(codec, &packed, cap) {
            prop_assert!(unpacked.len() <= cap);
        }
    }

    #[test]
    fn decompression_of_damaged_bytes_is_capped(
        codec in codec(),
        input in payload(3000),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cap in 0usize..10_000,
    ) {
        let mut packed = compress(codec, &input).expect("compressible");
        prop_assume!(!packed.is_empty());
        for (at, value) in damage {
            let at = at.index(packed.len());
            packed[at] = value;
        }
        if let Ok(unpacked) = decompress(codec, &packed, cap) {
            prop_assert!(unpacked.len() <= cap);
        }
    }

    /// What is cut off is an error or, where only an end mark is missing, what was there before.
    #[test]
    fn cut_off_records_are_never_altered(model in batch(), cut: Index) {
        let built = model.build();
        let (header, body) = built.split_at(BATCH_HEADER_BYTES);
        let bytes = sealed(header, &body[..cut.index(body.len())]);
        if let Ok(opened) = records(&bytes, BYTES_MAX) {
            let read: Result<Vec<_>, _> = opened.iter().collect();
            if let Ok(read) = read {
                let read: Vec<_> = read.iter().map(ModelRecord::of).collect();
                prop_assert_eq!(read, model.records);
            }
        }
    }
}

#[test]
fn bombs_are_capped() {
    let zeros = vec![0; BOMB_BYTES];
    for codec in Codec::ALL {
        let bomb = compress(codec, &zeros).unwrap();
        assert_eq!(
            decompress(codec, &bomb, BOMB_CAP),
            Err(CodecError::TooLarge {
                bytes_max: BOMB_CAP
            }),
            "{codec}"
        );
        if codec == Codec::None {
            continue;
        }
        let mut header = common::ModelBatch {
            options: mainstem_record::BatchOptions {
                codec,
                ..Default::default()
            },
            records: vec![ModelRecord {
                attributes: 0,
                timestamp: 0,
                key: None,
                value: None,
                headers: Vec::new(),
            }],
        }
        .build()
        .to_vec();
        header.truncate(BATCH_HEADER_BYTES);
        let batch = sealed(&header, &bomb);
        let error = validate_records(&batch, BOMB_CAP).unwrap_err();
        assert_eq!(
            error,
            BatchError::TooLarge {
                bytes_max: BOMB_CAP
            },
            "{codec}"
        );
    }
}

#[test]
fn what_fits_the_cap_takes_no_more_memory_than_twice_the_cap() {
    let zeros = vec![0; BOMB_CAP];
    for codec in Codec::ALL {
        let packed = compress(codec, &zeros).unwrap();
        let unpacked = decompress(codec, &packed, BOMB_CAP).unwrap();
        assert_eq!(unpacked.len(), BOMB_CAP);
        assert!(
            unpacked.capacity() <= 2 * BOMB_CAP + 64,
            "{codec}: {}",
            unpacked.capacity()
        );
    }
}

/// Each claims far more than it holds; nobody may reserve memory for the claim.
#[test]
fn claimed_sizes_are_not_believed() {
    // Raw snappy that claims 4 GiB - 1 in 6 bytes.
    let snappy = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    // A framed block that claims 2 GiB.
    let framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\0";
    // A zstd frame that claims 2^60 bytes and has an empty last block.
    let zstd = b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x10\x01\0\0";
    for (codec, bytes) in [
        (Codec::Snappy, &snappy[..]),
        (Codec::Snappy, framed),
        (Codec::Zstd, zstd),
    ] {
        // Without a cap; and with one, where a lie is told from what is merely too large.
        for cap in [usize::MAX, 1000] {
            let error = decompress(codec, bytes, cap).unwrap_err();
            assert!(
                matches!(error, CodecError::Corrupt { .. }),
                "{codec}: {error}"
            );
        }
    }
}

/// The largest window that a zstd frame may ask for, around three bytes of content.
#[test]
fn a_huge_zstd_window_is_not_allocated_and_not_refused() {
    // No content size, window descriptor 17 << 3 (128 MiB), one raw last block of 3 bytes.
    let frame = b"\x28\xb5\x2f\xfd\x00\x88\x19\x00\x00abc";
    assert_eq!(decompress(Codec::Zstd, frame, 3).unwrap(), b"abc");
}

#[test]
fn the_legacy_lz4_frame_is_refused() {
    assert!(decompress(Codec::Lz4, b"\x02\x21\x4c\x18\0\0\0\0", 100).is_err());
    assert!(decompress(Codec::Lz4, b"", 100).is_err());
}

#[test]
fn older_formats_are_told_by_their_magic() {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    for magic in [0, 1, 3] {
        bytes[16] = magic;
        let error = BatchHeader::parse(&bytes).unwrap_err();
        assert!(matches!(error, BatchError::Magic(_)), "{error}");
    }
    bytes[16] = 2;
    bytes[8..12].copy_from_slice(&48i32.to_be_bytes());
    assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::Length(48)));
    assert!(matches!(
        BatchHeader::parse(&bytes[..60]),
        Err(BatchError::Truncated {
            need: BATCH_HEADER_BYTES,
            have: 60
        })
    ));
}

/// An uncompressed batch with these counts and these bytes as its body.
fn uncompressed(record_count: i32, last_offset_delta: i32, body: &[u8]) -> Vec<u8> {
    let mut header = [0; BATCH_HEADER_BYTES];
    header[16] = 2;
    header[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    header[57..61].copy_from_slice(&record_count.to_be_bytes());
    sealed(&header, body)
}

/// Record by record, what a liar may write and what we call it. Varints here are one byte each:
/// twice the value, or twice its magnitude less one if it is negative.
#[test]
fn each_malformed_record_is_named() {
    let well_formed = [12, 0, 0, 0, 1, 1, 0];
    assert!(validate_records(&uncompressed(1, 0, &well_formed), 0).is_ok());
    let cases: [(&[u8], RecordError); 7] = [
        (&[1, 0, 0, 0, 1, 1, 0], RecordError::Length(-1)),
        (
            &[14, 0, 0, 0, 1, 1, 0],
            RecordError::Truncated { need: 7, have: 6 },
        ),
        (
            &[14, 0, 0, 0, 1, 1, 0, 0],
            RecordError::RecordTrailing { bytes: 1 },
        ),
        (&[12, 0, 0, 0, 3, 1, 0], RecordError::Length(-2)),
        (&[12, 0, 0, 0, 1, 1, 1], RecordError::HeaderCount(-1)),
        // Three bytes hold one header of two bytes, not two.
        (
            &[18, 0, 0, 0, 1, 1, 4, 0, 1, 0],
            RecordError::HeaderCount(2),
        ),
        (&[16, 0, 0, 0, 1, 1, 2, 1, 1], RecordError::Length(-1)),
    ];
    for (body, expected) in cases {
        let error = validate_records(&uncompressed(1, 0, body), 0).unwrap_err();
        assert_eq!(error, BatchError::Record(expected), "{body:?}");
    }
}

#[test]
fn counts_that_nobody_could_have_written_are_refused() {
    let records = [12, 0, 0, 0, 1, 1, 0].repeat(2);
    // Fresh: one record per offset, at least one. Stored: no more records than offsets.
    for (count, delta, fresh, stored) in [
        (2, 1, true, true),
        (1, 1, false, true),
        (0, 1, false, true),
        (2, 0, false, false),
        (0, -1, false, false),
        (-1, 1, false, false),
        (1, i32::MAX, false, true),
        // Records take 7 bytes at least.
        (3, 2, false, false),
        (i32::MAX, i32::MAX - 1, false, false),
    ] {
        let batch = uncompressed(count, delta, &records);
        assert_eq!(
            validate(&batch).is_ok(),
            fresh,
            "{count} records, delta {delta}"
        );
        assert_eq!(
            check_stored(&batch).is_ok(),
            stored,
            "{count} records, delta {delta}"
        );
    }
}

#[test]
fn offsets_that_do_not_exist_are_not_stored() {
    let mut batch = uncompressed(1, 0, &[12, 0, 0, 0, 1, 1, 0]);
    for (base, stored) in [
        (0, true),
        (i64::MAX - 1, true),
        (i64::MAX, false),
        (-1, false),
    ] {
        stamp(&mut batch, base.into(), 0.into());
        assert_eq!(check_stored(&batch).is_ok(), stored, "{base}");
        assert!(validate(&batch).is_ok(), "the leader will assign another");
    }
}
