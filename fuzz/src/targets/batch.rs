//! A record batch as a producer sends it, or as recovery finds it.

use bytes::Bytes;
use mainstem_record::{
    Attributes, BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchOptions, Batches, Codec,
    LOG_OVERHEAD_BYTES, LeaderEpoch, Offset, ProducerEpoch, ProducerId, RetainedBatch, Sequence,
    TimestampMs, check_stored, control_type, records, stamp, stamp_log_append_time, validate,
    validate_records,
};

use super::Target;
use crate::Trace;

/// What a batch may unpack to here.
const UNPACKED_BYTES_MAX: usize = 1 << 20;

const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;

pub(super) const BATCH: Target = Target {
    name: "batch",
    run,
    seeds,
    repair: repair_first,
    // Buffers that grow by doubling, for the unpacked body and its copy.
    bytes_free: 16 << 20,
    bytes_factor: 64,
    short: 60_000,
};

/// A batch of `count` records of some variety.
fn sample(codec: Codec, count: i32, attributes: Attributes) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        attributes,
        producer_id: ProducerId(if count % 2 == 0 { 7 } else { -1 }),
        producer_epoch: ProducerEpoch(if count % 2 == 0 { 3 } else { -1 }),
        base_sequence: Sequence(if count % 2 == 0 { 40 } else { -1 }),
    });
    for number in 0..count {
        let value = vec![number as u8; (number * 37 % 300) as usize];
        let key = format!("key-{}", number % 5);
        let key = (number % 3 != 0).then_some(key.as_bytes());
        let value = (number % 7 != 3).then_some(value.as_slice());
        let headers: [(&[u8], Option<&[u8]>); 3] = [
            (b"mqtt.topic", Some(b"a/b/c")),
            (b"null", None),
            (b"", Some(b"")),
        ];
        let few = headers.into_iter().take(number as usize % 4);
        let timestamp = TimestampMs(1_700_000_000_000 + i64::from(number * number % 50));
        builder.push_record(0, timestamp, key, value, few);
    }
    builder.finish().expect("a small batch").to_vec()
}

/// A commit marker as a transaction coordinator writes it.
fn marker() -> Vec<u8> {
    let none: [(&[u8], Option<&[u8]>); 0] = [];
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::None,
        attributes: Attributes(0).with_control(true).with_transactional(true),
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence::NONE,
    });
    let (key, value) = ([0, 0, 0, 1], [0; 6]);
    builder.push_record(0, TimestampMs(5), Some(&key), Some(&value), none);
    builder.finish().expect("a small batch").to_vec()
}

/// How many kinds of batches [`some_batch`] knows.
pub(super) const BATCHES: usize = 9;

/// Batches of all kinds, one after the other.
pub(super) fn some_batch(number: usize) -> Vec<u8> {
    let codec = Codec::ALL[number % Codec::ALL.len()];
    match number % BATCHES {
        4 => marker(),
        5 => sample(codec, 5, Attributes(0).with_mqtt(true)),
        // An idempotent producer counts on; only one such batch, so that none is out of sequence.
        2 => sample(codec, 4, Attributes(0)),
        other => sample(codec, 2 * other as i32 + 1, Attributes(0)),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![marker()];
    for codec in Codec::ALL {
        for count in [1, 4, 60] {
            seeds.push(sample(codec, count, Attributes(0)));
        }
    }
    seeds.push(sample(
        Codec::None,
        6,
        Attributes(0).with_transactional(true),
    ));
    seeds.push(sample(Codec::None, 6, Attributes(0).with_mqtt(true)));
    seeds
}

fn repair_first(input: &mut [u8]) {
    let len = input.len();
    repair(input, len);
}

/// Makes length, magic and checksum of a batch of `len` bytes at the start of `input` right.
pub(super) fn repair(input: &mut [u8], len: usize) {
    let Some(batch) = input
        .get_mut(..len)
        .filter(|b| b.len() >= BATCH_HEADER_BYTES)
    else {
        return;
    };
    let length = (len - LOG_OVERHEAD_BYTES) as i32;
    batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    batch[MAGIC_AT] = 2;
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

fn run(input: &[u8], trace: &mut Trace) {
    let parsed = BatchHeader::parse(input);
    match &parsed {
        Ok(header) => {
            assert_eq!(
                header.encode(),
                input[..BATCH_HEADER_BYTES],
                "a header is what it was read from"
            );
            trace.note_kind("attributes", &header.attributes);
        }
        Err(error) => trace.note_kind("parse", error),
    }
    for batch in Batches::new(Bytes::copy_from_slice(input)) {
        let Ok((header, bytes)) = batch else { break };
        assert_eq!(header.size_bytes(), bytes.len());
    }
    let stored = check_stored(input);
    if let Err(error) = &stored {
        trace.note_kind("stored", error);
    }
    match validate(input) {
        Ok(header) => {
            assert_eq!(Ok(header), parsed);
            trace.note("valid");
            accepted(input, &header);
        }
        Err(error) => trace.note_kind("valid", &error),
    }
    read(input, trace);
    if let Ok(header) = stored {
        retain(input, &header, trace);
    }
}

/// What the leader does with a batch that it accepts.
fn accepted(input: &[u8], header: &BatchHeader) {
    let mut stamped = input.to_vec();
    stamp(&mut stamped, Offset(1000), LeaderEpoch(9));
    let back = check_stored(&stamped).expect("offset and epoch are outside the checksum");
    assert_eq!(
        (back.base_offset, back.leader_epoch),
        (Offset(1000), LeaderEpoch(9))
    );
    assert_eq!(back.record_count, header.record_count);
    stamp_log_append_time(&mut stamped, TimestampMs(77));
    let back = check_stored(&stamped).expect("the checksum is made anew");
    assert_eq!(back.max_timestamp, TimestampMs(77));
}

fn read(input: &[u8], trace: &mut Trace) {
    match records(input, UNPACKED_BYTES_MAX) {
        Ok(records) => {
            assert!(records.body_bytes() <= UNPACKED_BYTES_MAX.max(input.len()));
            let mut good = 0;
            for record in records.iter() {
                match record {
                    Ok(record) => {
                        good += 1;
                        assert_eq!(record.headers.iter().count(), record.headers.len());
                    }
                    Err(error) => trace.note_kind("record", &error),
                }
            }
            trace.note_size("records", good);
        }
        Err(error) => trace.note_kind("records", &error),
    }
    match validate_records(input, UNPACKED_BYTES_MAX) {
        Ok(summary) => {
            let records = records(input, UNPACKED_BYTES_MAX).expect("they have been read");
            assert!(
                records.iter().all(|record| record.is_ok()),
                "checked records can be read"
            );
            assert!(summary.min_timestamp <= summary.max_timestamp);
        }
        Err(error) => trace.note_kind("checked", &error),
    }
    match control_type(input, UNPACKED_BYTES_MAX) {
        Ok(control) => trace.note_kind("control", &control),
        Err(error) => trace.note_kind("control", &error),
    }
}

/// What compaction does with a stored batch: every second record goes.
fn retain(input: &[u8], header: &BatchHeader, trace: &mut Trace) {
    if validate_records(input, UNPACKED_BYTES_MAX).is_err() {
        return;
    }
    let opened = records(input, UNPACKED_BYTES_MAX).expect("they have been read");
    let mut retained = RetainedBatch::new(header, None, opened.body_bytes());
    let kept: Vec<_> = opened
        .iter()
        .filter_map(Result::ok)
        .filter(|record| record.offset.0 % 2 == 0)
        .collect();
    for record in &kept {
        retained.push(record);
    }
    let batch = match retained.finish() {
        Ok(batch) => batch,
        Err(error) => {
            trace.note_kind("retained", &error);
            return;
        }
    };
    let back = check_stored(&batch).expect("compaction writes what recovery takes");
    assert_eq!(back.base_offset, header.base_offset, "offsets stay");
    assert_eq!(back.last_offset(), header.last_offset(), "offsets stay");
    let again = records(&batch, UNPACKED_BYTES_MAX.saturating_mul(2)).expect("a body of ours");
    let again: Vec<_> = again
        .iter()
        .map(|record| record.expect("a record of ours"))
        .collect();
    assert_eq!(again, kept, "records stay as they were");
    trace.note_size("kept", kept.len());
}
