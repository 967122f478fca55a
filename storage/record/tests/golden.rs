//! Exact bytes: what this crate writes must never change, and what other writers of the format
//! write must be read.

use mainstem_record::{
    Attributes, BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchOptions, Codec, ControlType,
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, RetainedBatch, Sequence, TimestampMs,
    TimestampType, check_stored, compress, control_type, decompress, records, stamp, validate,
    validate_records,
};

const TIME: i64 = 1_700_000_000_000;

/// More than any batch here unpacks to.
const BYTES_MAX: usize = 1000;

/// A batch of the MQTT adapter, written byte by byte from the protocol guide by other means: batch
/// bit 14, record attributes with each of bits 4, 5 and 6, null and empty keys and values, a
/// timestamp before the first, repeated header names.
const MQTT_BATCH: &str = "\
    00000000000000000000006effffffff020d4a37cd4000000000020000018bcfe568000000018bcfe56805\
    ffffffffffffffffffffffffffff0000000350100000186b69746368656e2f74656d700832312e3502166d\
    7174742e636c69656e740a6465762d310c700a0201000018600504000104026101026100";

/// The same four records as another implementation (a Kafka client for Python) writes them,
/// transactional, per codec.
const FOREIGN_BATCHES: [(Codec, &str); 4] = [
    (
        Codec::Gzip,
        "0000000000000000000000810000000002fca416690011000000030000018bcfe568000000018bcfe5692c\
         000000000000126700037ffffffe000000041f8b0800e641056b02ffeb60626060e0ca4eadd435f8c05896\
         98539aaa407f92611613c3094626b0330c07ce192c4c194c15405cd9c5c430819965c0434582e1060b1b24\
         5018190084232461a9010000",
    ),
    (
        Codec::Snappy,
        "000000000000000000000099000000000235e4dfcb0012000000030000018bcfe568000000018bcfe5692c\
         000000000000126700037ffffffe0000000482534e4150505900000000010000000100000054a903488802\
         0000000a6b65792d30f00176616c756520fe0600c6060018009a0200c8010205870031fe8700e687003804\
         02680278026802798a0200900304058ffe1601ee1601301800d804060a6b65792d310100",
    ),
    (
        Codec::Lz4,
        "00000000000000000000009400000000024a16f4dc0013000000030000018bcfe568000000018bcfe5692c\
         000000000000126700037ffffffe0000000404224d186840a901000000000000524c000000ff0488020000\
         000a6b65792d30f00176616c75652006005f71009a0200c8010287001f31870067f1000402680278026802\
         798a02009003048f000f160169d01800d804060a6b65792d31010000000000",
    ),
    (
        Codec::Zstd,
        "0000000000000000000000830000000002b721a5ad0014000000030000018bcfe568000000018bcfe5692c\
         000000000000126700037ffffffe0000000428b52ffd60a900450200740388020000000a6b65792d30f001\
         76616c756520009a0200c80102310402680278026802798a02009003041800d804060a6b65792d31010004\
         003e63a5f542120a23982f690903",
    ),
];

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes();
    assert_eq!(digits.len() % 2, 0);
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(text, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(pair).collect()
}

fn mqtt_builder() -> BatchBuilder {
    let mut builder = BatchBuilder::new(BatchOptions {
        attributes: Attributes::default().with_mqtt(true),
        ..BatchOptions::default()
    });
    builder.push_record(
        0x10,
        TimestampMs(TIME),
        Some(b"kitchen/temp"),
        Some(b"21.5"),
        [(&b"mqtt.client"[..], Some(&b"dev-1"[..]))],
    );
    builder.push_record(0x70, TimestampMs(TIME + 5), None, Some(b""), []);
    builder.push_record(
        0x60,
        TimestampMs(TIME - 3),
        Some(b""),
        None,
        [(&b"a"[..], None), (&b"a"[..], Some(&b""[..]))],
    );
    builder
}

#[test]
fn the_mqtt_batch_has_these_bytes() {
    let builder = mqtt_builder();
    assert_eq!(builder.size_bytes(), unhex(MQTT_BATCH).len());
    assert_eq!(&builder.finish().unwrap()[..], unhex(MQTT_BATCH));
}

#[test]
fn the_mqtt_batch_reads_back() {
    let batch = unhex(MQTT_BATCH);
    let header = validate(&batch).unwrap();
    assert_eq!(header.attributes, Attributes(0x4000));
    assert!(header.attributes.is_mqtt());
    assert_eq!(header.base_timestamp, TimestampMs(TIME));
    assert_eq!(header.max_timestamp, TimestampMs(TIME + 5));
    assert_eq!(header.leader_epoch, LeaderEpoch::NONE);
    assert!(!header.has_producer());
    let read = records(&batch, 0).unwrap();
    let read: Vec<_> = read.iter().map(Result::unwrap).collect();
    assert_eq!(
        read.iter().map(|r| r.attributes).collect::<Vec<_>>(),
        [0x10, 0x70, 0x60]
    );
    assert_eq!(
        read.iter().map(|r| r.offset.0).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(read[2].timestamp, TimestampMs(TIME - 3));
    assert_eq!(read[0].headers.last(b"mqtt.client"), Some(&b"dev-1"[..]));
    let repeated: Vec<_> = read[2].headers.iter().collect();
    assert_eq!(repeated, [(&b"a"[..], None), (&b"a"[..], Some(&b""[..]))]);
    let summary = validate_records(&batch, 0).unwrap();
    assert!(summary.any_null_key);
    assert_eq!(summary.max_timestamp, TimestampMs(TIME + 5));
}

#[test]
fn batches_of_another_writer_are_read() {
    for (codec, hex) in FOREIGN_BATCHES {
        let batch = unhex(hex);
        let header = validate(&batch).unwrap();
        assert_eq!(header.attributes.codec(), Ok(codec));
        assert!(header.attributes.is_transactional() && !header.attributes.is_control());
        assert_eq!(
            header.attributes.timestamp_type(),
            TimestampType::CreateTime
        );
        assert_eq!(header.producer_id, ProducerId(4711));
        assert_eq!(header.producer_epoch, ProducerEpoch(3));
        assert_eq!(header.base_sequence, Sequence(i32::MAX - 1));
        assert_eq!(header.last_sequence(), Sequence(1), "sequences wrap to 0");
        assert_eq!(header.next_offset(), Offset(4));
        assert_eq!(check_stored(&batch), Ok(header));
        assert_eq!(records(&batch, BYTES_MAX).unwrap().iter().count(), 4);
        for (index, record) in (0..).zip(&records(&batch, BYTES_MAX).unwrap()) {
            let record = record.unwrap();
            assert_eq!((record.attributes, record.offset), (0, Offset(index)));
            assert_eq!(record.timestamp, TimestampMs(TIME + index * 100));
            assert_eq!(record.key, Some(format!("key-{}", index % 2).as_bytes()));
            assert_eq!(
                record.value,
                (index != 3).then_some(&b"value ".repeat(20)[..])
            );
            let headers: Vec<_> = record.headers.iter().collect();
            let h = |value| (&b"h"[..], Some(value));
            let repeated = [h(&b"x"[..]), h(&b"y"[..])];
            assert_eq!(
                headers,
                if index == 1 { &repeated[..] } else { &[] },
                "{codec}"
            );
        }
    }
}

/// A transactional batch of three records at offset 1000 and epoch 5, of which compaction has left
/// the last, a tombstone with a header and record attribute bit 4, with a delete horizon; written
/// byte by byte from the protocol guide by other means.
const RETAINED_BATCH: &str = "\
    00000000000003e80000003e000000050255d2b6d54050000000020000018bcfe56be80000018bcfe56801\
    0000000000001267000300000029000000011810cd0f040261010202680278";

/// The same batch without any record.
const EMPTY_BATCH: &str = "\
    00000000000003e8000000310000000502998510db401000000002ffffffffffffffff0000018bcfe56809\
    000000000000126700030000002900000000";

/// What a transaction coordinator writes at the end of a transaction: abort and commit.
const MARKERS: [(&str, ControlType); 2] = [
    (
        "\
    00000000000000070000004200000005025ce451790030000000000000018bcfe568000000018bcfe56800\
    00000000000012670003ffffffff000000012000000008000000000c00000000000900",
        ControlType::Abort,
    ),
    (
        "\
    0000000000000007000000420000000502a8da87310030000000000000018bcfe568000000018bcfe56800\
    00000000000012670003ffffffff000000012000000008000000010c00000000000900",
        ControlType::Commit,
    ),
];

fn to_be_compacted() -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        attributes: Attributes::default()
            .with_transactional(true)
            .with_mqtt(true),
        producer_id: ProducerId(4711),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(41),
        ..BatchOptions::default()
    });
    builder.push_record(0, TimestampMs(TIME), Some(b"a"), Some(b"1"), []);
    builder.push_record(0, TimestampMs(TIME + 9), Some(b"b"), Some(b"2"), []);
    let header = (&b"h"[..], Some(&b"x"[..]));
    builder.push_record(0x10, TimestampMs(TIME + 1), Some(b"a"), None, [header]);
    let mut batch = builder.finish().expect("small").to_vec();
    stamp(&mut batch, Offset(1000), LeaderEpoch(5));
    batch
}

#[test]
fn batches_that_compaction_has_left_have_these_bytes() {
    let original = to_be_compacted();
    let header = check_stored(&original).unwrap();
    let opened = records(&original, 0).unwrap();
    let last = opened.iter().map(Result::unwrap).last().unwrap();
    let mut retained = RetainedBatch::new(&header, Some(TimestampMs(TIME + 1000)), 0);
    let empty = RetainedBatch::new(&header, Some(TimestampMs(TIME + 1000)), 0);
    retained.push(&last);
    assert_eq!(retained.finish().unwrap()[..], unhex(RETAINED_BATCH));
    assert_eq!(empty.finish().unwrap()[..], unhex(EMPTY_BATCH));
    let read = check_stored(&unhex(EMPTY_BATCH)).unwrap();
    assert_eq!((read.record_count, read.last_sequence().0), (0, 43));
    assert_eq!(records(&unhex(EMPTY_BATCH), 0).unwrap().iter().count(), 0);
}

#[test]
fn transaction_markers_are_read() {
    for (hex, kind) in MARKERS {
        let batch = unhex(hex);
        assert!(check_stored(&batch).unwrap().attributes.is_control());
        assert_eq!(control_type(&batch, 0), Ok(Some(kind)));
    }
    assert_eq!(control_type(&unhex(EMPTY_BATCH), 0), Ok(None));
    assert_eq!(
        control_type(&to_be_compacted(), 0),
        Ok(Some(ControlType::Other(-1)))
    );
}

#[test]
fn raw_snappy_is_read_too() {
    let raw = unhex("781476616c756520fe0600c60600");
    assert_eq!(
        decompress(Codec::Snappy, &raw, 120).unwrap(),
        b"value ".repeat(20)
    );
    assert_eq!(decompress(Codec::Snappy, &[0], 0).unwrap(), b"");
}

#[test]
fn snappy_is_written_in_the_java_librarys_framing() {
    let long = vec![7; 32 * 1024 + 1];
    let framed = compress(Codec::Snappy, &long).unwrap();
    assert!(framed.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
    let first = usize::try_from(u32::from_be_bytes(framed[16..20].try_into().unwrap())).unwrap();
    let second = 20 + first;
    assert_eq!(
        framed[second..],
        [0, 0, 0, 3, 1, 0, 7],
        "the last byte is a block of its own"
    );
    // Streams may follow each other.
    let twice = [framed.as_slice(), framed.as_slice()].concat();
    let both = decompress(Codec::Snappy, &twice, 2 * long.len()).unwrap();
    assert_eq!(both.len(), 2 * long.len());
}

#[test]
fn lz4_is_written_as_independent_blocks_of_64_kib() {
    let frame = compress(Codec::Lz4, b"value value value").unwrap();
    // Version 1, independent blocks, no checksums or sizes; 64 KiB; its correct header checksum.
    assert_eq!(frame[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    assert_eq!(frame[frame.len() - 4..], [0; 4], "the end mark");
}

#[test]
fn codec_ids_and_names_are_kafkas() {
    let known = [
        (0, "none"),
        (1, "gzip"),
        (2, "snappy"),
        (3, "lz4"),
        (4, "zstd"),
    ];
    for ((id, name), codec) in known.into_iter().zip(Codec::ALL) {
        assert_eq!((codec.id(), codec.name()), (id, name));
        assert_eq!(Codec::from_id(id), Some(codec));
        assert_eq!(name.parse(), Ok(codec));
    }
    assert_eq!("uncompressed".parse(), Ok(Codec::None));
    assert!("producer".parse::<Codec>().is_err());
    assert_eq!(Codec::from_id(5), None);
}

#[test]
fn attribute_bits_are_where_kafka_has_them() {
    let none = Attributes::default();
    assert_eq!(none.with_codec(Codec::Zstd).with_codec(Codec::Lz4).0, 3);
    assert_eq!(
        none.with_timestamp_type(TimestampType::LogAppendTime).0,
        1 << 3
    );
    assert_eq!(none.with_transactional(true).0, 1 << 4);
    assert_eq!(none.with_control(true).0, 1 << 5);
    assert_eq!(none.with_delete_horizon(true).0, 1 << 6);
    assert_eq!(none.with_mqtt(true).0, 1 << 14);
    let all = Attributes(-1);
    assert!(all.is_transactional() && all.is_control() && all.has_delete_horizon());
    assert_eq!(all.with_mqtt(false).0, !(1 << 14));
    assert!(all.codec().is_err());
}

#[test]
fn the_header_encodes_to_what_it_was_parsed_from() {
    let batch = unhex(MQTT_BATCH);
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(header.encode(), batch[..BATCH_HEADER_BYTES]);
}
