//! Look-ups by timestamp.

use std::{io::IoSlice, sync::Arc};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{Flush, LogOptions, ReadError};
use mainstem_record::{Codec, Offset, TimestampMs, TimestampType};

use crate::support::{
    append, batch_of, options, partition_id, read_batches, run, segment_spec, spec, start,
};

#[test]
fn timestamps_are_found_exactly_inside_compressed_batches() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let options = LogOptions {
            tail_cache_bytes: 0,
            ..options()
        };
        let (log, _events) = start(&fs, options).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        let mut all: Vec<i64> = Vec::new();
        let codecs = [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ];
        for round in 0..40_i64 {
            // Rising on the whole, out of order within batches.
            let stamps = [30, 10, 20, 10].map(|t| round * 25 + t);
            let records = stamps.map(|t| (vec![b'v'; 90], t));
            let codec = codecs[round as usize % codecs.len()];
            let ticket = partition
                .append(append(batch_of(&records, None, codec)))
                .await
                .unwrap();
            ticket.await.unwrap();
            all.extend(stamps);
            if round == 20 {
                let info = partition.seal_begin().await.unwrap();
                let next = segment_spec(1, info.end.0);
                partition.seal_commit(next).await.unwrap();
            }
        }
        for start in [0, 3, 50, 90, 159] {
            partition.set_log_start(Offset(start)).await.unwrap();
            for at_least in -5..1040 {
                let expected = all
                    .iter()
                    .enumerate()
                    .skip(start as usize)
                    .find(|(_, t)| **t >= at_least)
                    .map(|(offset, t)| (Offset(offset as i64), TimestampMs(*t)));
                let found = partition
                    .find_timestamp(TimestampMs(at_least), Offset::ZERO)
                    .await;
                assert_eq!(found, Ok(expected), "from {start} at {at_least}");
            }
            let readable = all.iter().enumerate().skip(start as usize);
            let expected = readable
                .rev()
                .max_by_key(|(_, t)| **t)
                .map(|(offset, t)| (Offset(offset as i64), TimestampMs(*t)));
            let highest = partition.max_timestamp().await.unwrap();
            assert_eq!(highest.here, expected);
        }
    });
}

#[test]
fn time_of_append_is_stamped_and_told() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, _events) = start(&fs, options()).await;
        let mut spec = spec(Flush::Os);
        spec.settings.timestamp_type = TimestampType::LogAppendTime;
        let partition = log.open_partition(spec).await.unwrap();
        let records = [(b"a".to_vec(), 5), (b"b".to_vec(), 6)];
        let ticket = partition
            .append(append(batch_of(&records, None, Codec::None)))
            .await
            .unwrap();
        let stamped = ticket.await.unwrap().log_append_time.unwrap();
        assert!(stamped.0 > 1_600_000_000_000);
        let batches = read_batches(&partition, Offset(0), 1000).await.unwrap();
        let (header, bytes) = &batches[0];
        assert_eq!(header.max_timestamp, stamped);
        assert_eq!(mainstem_record::validate(bytes), Ok(*header));
        let found = partition.find_timestamp(stamped, Offset::ZERO).await;
        assert_eq!(found, Ok(Some((Offset(0), stamped))));
        let highest = partition.max_timestamp().await.unwrap();
        assert_eq!(highest.here, Some((Offset(0), stamped)));
    });
}

/// The first batch with what is looked for says that all of it is older.
#[test]
fn damage_in_the_header_of_a_batch_that_is_passed_over_is_an_error() {
    /// Where a header has its highest timestamp: the first of these bytes.
    const MAX_TIMESTAMP_AT: u64 = 35;
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, _events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
        for stamp in [1 << 40, 2 << 40] {
            let batch = batch_of(&[(b"v".to_vec(), stamp)], None, Codec::None);
            let ticket = partition.append(append(batch)).await.unwrap();
            ticket.await.unwrap();
        }
        let look = || partition.find_timestamp(TimestampMs(1 << 40), Offset::ZERO);
        let found = Some((Offset(0), TimestampMs(1 << 40)));
        assert_eq!(look().await, Ok(found));
        let topic = partition_id(0).topic;
        let id = segment_spec(0, 0).id.0;
        let path = format!("/log/partitions/{topic}/0/{:020}-{id}.log", 0);
        let file = fs.open(path.as_ref(), OpenMode::ReadWrite).unwrap();
        file.write_all_vectored_at(&[IoSlice::new(&[0; 4])], MAX_TIMESTAMP_AT)
            .unwrap();
        for result in [
            look().await,
            partition.max_timestamp().await.map(|highest| highest.here),
        ] {
            let base = Offset(0);
            assert!(matches!(result, Err(ReadError::Damaged { base: at, .. }) if at == base));
        }
    });
}
