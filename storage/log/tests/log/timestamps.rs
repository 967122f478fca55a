//! Look-ups by timestamp.

use std::sync::Arc;

use mainstem_env::{Fs, MemFs};
use mainstem_log::{Flush, LogOptions};
use mainstem_record::{Codec, Offset, TimestampMs, TimestampType};

use crate::support::{append, batch_of, options, read_batches, run, segment_spec, spec, start};

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
                let found = partition.find_timestamp(TimestampMs(at_least)).await;
                assert_eq!(found, Ok(expected), "from {start} at {at_least}");
            }
            let readable = all.iter().enumerate().skip(start as usize);
            let expected = readable
                .rev()
                .max_by_key(|(_, t)| **t)
                .map(|(offset, t)| (Offset(offset as i64), TimestampMs(*t)));
            assert_eq!(partition.max_timestamp().await, Ok(expected));
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
        let found = partition.find_timestamp(stamped).await;
        assert_eq!(found, Ok(Some((Offset(0), stamped))));
        assert_eq!(
            partition.max_timestamp().await,
            Ok(Some((Offset(0), stamped)))
        );
    });
}
