//! What is built reads back, over all codecs, and what the broker changes in place leaves a valid
//! batch.

mod common;

use bytes::Bytes;
use mainstem_record::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, Batches, Codec, EncodedRecord,
    LeaderEpoch, Offset, RecordView, RetainedBatch, Sequence, TimestampMs, TimestampType,
    check_stored, compress, decompress, records, stamp, stamp_log_append_time, validate,
    validate_records,
};
use proptest::collection::vec;
use proptest::prelude::*;

use common::{BYTES_MAX, ModelRecord, batch, codec, config, payload, record, sealed};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_built_batch_reads_back(model in batch()) {
        let bytes = model.build();
        let header = validate(&bytes).expect("valid");
        prop_assert_eq!(check_stored(&bytes), Ok(header));
        prop_assert_eq!(header.size_bytes(), bytes.len());
        prop_assert_eq!(header.attributes.codec(), Ok(model.options.codec));
        prop_assert_eq!(
            header.attributes,
            model.options.attributes.with_codec(model.options.codec)
        );
        prop_assert_eq!(header.producer_id, model.options.producer_id);
        prop_assert_eq!(header.producer_epoch, model.options.producer_epoch);
        prop_assert_eq!(header.base_sequence, model.options.base_sequence);
        prop_assert_eq!(header.base_timestamp.0, model.records[0].timestamp);
        let count = i32::try_from(model.records.len()).expect("few");
        prop_assert_eq!(header.record_count, count);
        prop_assert_eq!(header.next_offset(), Offset(i64::from(count)));
        if header.base_sequence != Sequence::NONE {
            prop_assert_eq!(header.last_sequence(), header.base_sequence.next(count - 1));
        }

        let opened = records(&bytes, BYTES_MAX).expect("readable");
        let read: Vec<_> = opened.iter().map(|r| r.expect("well-formed")).collect();
        let offsets: Vec<_> = read.iter().map(|record| record.offset.0).collect();
        prop_assert_eq!(offsets, (0..i64::from(count)).collect::<Vec<_>>());
        let read: Vec<_> = read.iter().map(ModelRecord::of).collect();
        prop_assert_eq!(&read, &model.records);

        let summary = validate_records(&bytes, BYTES_MAX).expect("well-formed");
        let newest = model.records.iter().map(|record| record.timestamp).max();
        prop_assert_eq!(Some(summary.max_timestamp.0), newest);
        prop_assert_eq!(summary.max_timestamp, header.max_timestamp);
        prop_assert_eq!(summary.any_null_key, model.records.iter().any(|r| r.key.is_none()));
    }

    #[test]
    fn compaction_leaves_chosen_records_and_everything_else_of_a_batch(
        (model, stays) in batch().prop_flat_map(|model| {
            let count = model.records.len();
            (Just(model), vec(any::<bool>(), count))
        }),
        base in 0..i64::MAX - 100,
        horizon in proptest::option::of(any::<i64>()),
        now in proptest::option::of(any::<i64>()),
    ) {
        let mut bytes = model.build();
        stamp(&mut bytes, Offset(base), LeaderEpoch(7));
        if let Some(now) = now {
            stamp_log_append_time(&mut bytes, TimestampMs(now));
        }
        let header = check_stored(&bytes).expect("valid");
        let opened = records(&bytes, BYTES_MAX).expect("readable");
        let all: Vec<_> = opened.iter().map(|r| r.expect("well-formed")).collect();
        let kept: Vec<_> = all.iter().zip(&stays).filter(|(_, s)| **s).map(|(r, _)| *r).collect();
        let horizon = horizon.map(TimestampMs);
        let mut retained = RetainedBatch::new(&header, horizon, 0);
        for record in &kept {
            retained.push(record);
        }
        prop_assert_eq!(retained.len(), kept.len());
        let retained = retained.finish().expect("small");

        let left = check_stored(&retained).expect("valid");
        let opened = records(&retained, BYTES_MAX).expect("readable");
        let read: Vec<_> = opened.iter().map(|r| r.expect("well-formed")).collect();
        let plain = |of: &[RecordView<'_>]| -> Vec<_> {
            of.iter().map(|r| (r.offset, ModelRecord::of(r))).collect()
        };
        prop_assert_eq!(plain(&read), plain(&kept));
        prop_assert_eq!(left.delete_horizon(), horizon.filter(|_| !kept.is_empty()));
        let newest = kept.iter().map(|r| r.timestamp).max().unwrap_or(header.max_timestamp);
        prop_assert_eq!(left.max_timestamp, newest);
        let codec = if kept.is_empty() { Codec::None } else { model.options.codec };
        prop_assert_eq!(left.attributes.codec(), Ok(codec));
        let unchanged = BatchHeader {
            batch_length: left.batch_length,
            crc: left.crc,
            attributes: header.attributes.with_codec(codec)
                .with_delete_horizon(left.attributes.has_delete_horizon()),
            base_timestamp: left.base_timestamp,
            max_timestamp: left.max_timestamp,
            record_count: left.record_count,
            ..header
        };
        prop_assert_eq!(left, unchanged);
        prop_assert_eq!(left.last_sequence(), header.last_sequence());

        // Once more: a horizon that is set stays.
        let mut again = RetainedBatch::new(&left, Some(TimestampMs(1)), retained.len());
        for record in &read {
            again.push(record);
        }
        let again = check_stored(&again.finish().expect("small")).expect("valid");
        let expected = horizon.unwrap_or(TimestampMs(1));
        prop_assert_eq!(again.delete_horizon(), (!kept.is_empty()).then_some(expected));
    }

    #[test]
    fn stamping_keeps_the_checksum(model in batch(), base in 0..i64::MAX - 100, epoch: i32) {
        let built = model.build();
        let mut stamped = built.clone();
        stamp(&mut stamped, Offset(base), LeaderEpoch(epoch));
        let header = check_stored(&stamped).expect("still valid");
        prop_assert_eq!(header.base_offset, Offset(base));
        prop_assert_eq!(header.leader_epoch, LeaderEpoch(epoch));
        prop_assert_eq!(header.crc, validate(&built).expect("valid").crc);
        let opened = records(&stamped, BYTES_MAX).expect("readable");
        let offsets: Vec<_> = opened.iter().map(|r| r.expect("well-formed").offset).collect();
        prop_assert_eq!(offsets.first().copied(), Some(Offset(base)));
        prop_assert_eq!(offsets.last().map(|last| last.next()), Some(header.next_offset()));
        stamp(&mut stamped, Offset::ZERO, LeaderEpoch::NONE);
        prop_assert_eq!(stamped, built, "nothing else was touched");
    }

    #[test]
    fn log_append_time_wins_and_keeps_the_rest(model in batch(), now: i64) {
        let mut bytes = model.build();
        let before = validate(&bytes).expect("valid");
        stamp_log_append_time(&mut bytes, TimestampMs(now));
        let after = validate(&bytes).expect("the checksum is renewed");
        prop_assert_eq!(after.attributes.timestamp_type(), TimestampType::LogAppendTime);
        prop_assert_eq!(
            after.attributes.with_timestamp_type(TimestampType::CreateTime),
            before.attributes
        );
        prop_assert_eq!(after.max_timestamp, TimestampMs(now));
        prop_assert_eq!(after.base_timestamp, before.base_timestamp);
        let opened = records(&bytes, BYTES_MAX).expect("readable");
        for (read, record) in opened.iter().zip(&model.records) {
            let read = ModelRecord::of(&read.expect("well-formed"));
            prop_assert_eq!(read, ModelRecord { timestamp: now, ..record.clone() });
        }
        let summary = validate_records(&bytes, BYTES_MAX).expect("well-formed");
        prop_assert_eq!(summary.max_timestamp, TimestampMs(now));
    }

    #[test]
    fn concatenated_batches_come_apart(models in vec(batch(), 0..5), cut: prop::sample::Index) {
        let built: Vec<_> = models.iter().map(|model| model.build().freeze()).collect();
        let all = Bytes::from(built.concat());
        let apart: Result<Vec<_>, _> = Batches::new(all.clone()).collect();
        let apart: Vec<_> = apart.expect("whole batches").into_iter().map(|(_, b)| b).collect();
        prop_assert_eq!(&apart, &built);

        // Cut anywhere: whole batches come out, then one error unless the cut is between two.
        let end = cut.index(all.len() + 1);
        let mut walk = Batches::new(all.slice(..end));
        let mut whole = 0;
        while let Some(item) = walk.next() {
            match item {
                Ok((header, batch)) => {
                    prop_assert_eq!(header.size_bytes(), batch.len());
                    whole += batch.len();
                }
                Err(error) => {
                    let truncated = matches!(error, BatchError::Truncated { .. });
                    prop_assert!(truncated, "{}", error);
                    prop_assert!(walk.next().is_none(), "an error is the last item");
                    break;
                }
            }
        }
        prop_assert_eq!(walk.rest().len(), end - whole);
        prop_assert!(whole <= end);
    }

    #[test]
    fn codecs_round_trip(codec in codec(), input in payload(100_000)) {
        let packed = compress(codec, &input).expect("compressible");
        let unpacked = decompress(codec, &packed, input.len()).expect("exactly the cap");
        prop_assert_eq!(&unpacked, &input);
        if let Some(too_few) = input.len().checked_sub(1) {
            prop_assert!(decompress(codec, &packed, too_few).is_err());
        }
    }

    #[test]
    fn pushing_encoded_or_plain_is_the_same(records in vec(record(), 1..5)) {
        let mut encoded = BatchBuilder::default();
        let mut plain = BatchBuilder::with_capacity(Default::default(), 1000);
        for record in &records {
            let headers = record.headers.iter().map(|(n, v)| (n.as_slice(), v.as_deref()));
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let time = TimestampMs(record.timestamp);
            let one = EncodedRecord::new(key, value, headers.clone());
            let before = encoded.size_bytes();
            encoded.push(record.attributes, time, &one);
            prop_assert!(encoded.size_bytes() > before + one.size_bytes());
            plain.push_record(record.attributes, time, key, value, headers);
        }
        prop_assert_eq!(encoded.len(), records.len());
        let size = encoded.size_bytes();
        let finished = encoded.finish().expect("a batch");
        prop_assert_eq!(finished.len(), size);
        prop_assert_eq!(finished, plain.finish().expect("a batch"));
    }

    /// Compaction keeps the offsets of a batch and drops records: recovery accepts that, a producer
    /// may not send it.
    #[test]
    fn a_compacted_batch_is_stored_and_not_produced(
        records in vec(record(), 1..8),
        gap in 1i32..1000,
    ) {
        let mut builder = BatchBuilder::default();
        for record in &records {
            builder.push_record(0, TimestampMs(record.timestamp), None, None, []);
        }
        let mut header = builder.finish().expect("a batch");
        let body = header.split_off(BATCH_HEADER_BYTES);
        let count = i32::try_from(records.len()).expect("few");
        header[23..27].copy_from_slice(&(count - 1 + gap).to_be_bytes());
        let gapped = sealed(&header, &body);
        let is_count = matches!(validate(&gapped), Err(BatchError::Count { .. }));
        prop_assert!(is_count);
        prop_assert_eq!(check_stored(&gapped).map(|h| h.record_count), Ok(count));
        validate_records(&gapped, 0).expect("the records are as they were");

        header[57..61].copy_from_slice(&0i32.to_be_bytes());
        let emptied = sealed(&header, &[]);
        prop_assert!(validate(&emptied).is_err());
        prop_assert_eq!(check_stored(&emptied).map(|h| h.record_count), Ok(0));
        let summary = validate_records(&emptied, 0).expect("no records are well-formed");
        prop_assert_eq!(summary.max_timestamp, TimestampMs::NONE);
    }
}

#[test]
fn a_batch_without_records_is_not_built() {
    let builder = BatchBuilder::default();
    assert!(builder.is_empty());
    assert!(matches!(
        builder.finish(),
        Err(BatchError::Count {
            record_count: 0,
            ..
        })
    ));
}
