//! The scrub finds what a disk has spoilt, names it, and leaves everything else served.

use std::{io::IoSlice, path::PathBuf, sync::Arc};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{Flush, LogEvent, Partition, Read, ReadError, SegmentSpec};
use mainstem_record::{Codec, Offset};

use crate::support::{
    append, batch_of, options, partition_id, read_batches, run, segment_spec, spec, start,
};

/// Bytes of a chunk, as the format says.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of the value of each batch: some batches of the segment reach over the end of a chunk.
const VALUE_BYTES: usize = 200_000;
const BATCHES: i64 = 20;

async fn sealed_segment(partition: &Partition) {
    for number in 0..BATCHES {
        let batch = batch_of(&[(vec![number as u8; VALUE_BYTES], 1)], None, Codec::None);
        partition
            .append(append(batch))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let next = SegmentSpec {
        epoch: segment_spec(1, 0).epoch,
        ..segment_spec(1, BATCHES)
    };
    partition.seal_begin().await.unwrap();
    partition.seal_commit(next).await.unwrap();
}

fn path() -> PathBuf {
    let topic = partition_id(0).topic;
    let id = segment_spec(0, 0).id.0;
    PathBuf::from(format!("/log/partitions/{topic}/0/{:020}-{id}.log", 0))
}

#[test]
fn damaged_chunk_is_told_with_its_batches_and_the_rest_is_served() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, mut events) = start(&fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        sealed_segment(&partition).await;
        assert_eq!(log.scrub().await, 0);
        assert!(events.try_recv().is_err());

        let file = fs.open(&path(), OpenMode::ReadWrite).unwrap();
        // In the middle of the second chunk, within the seventh batch.
        let at = CHUNK_BYTES + 250_000;
        file.write_all_vectored_at(&[IoSlice::new(b"rot")], at)
            .unwrap();
        assert_eq!(log.scrub().await, 1);
        let event = events.try_recv().unwrap();
        let expected = LogEvent::SegmentDamaged {
            partition: partition_id(0),
            segment: segment_spec(0, 0).id,
            path: path(),
            position: CHUNK_BYTES,
            offsets: (Offset(6), Offset(7)),
        };
        assert_eq!(event, expected);
        for offset in 0..BATCHES {
            let read = Read {
                from: Offset(offset),
                bytes_max: 1,
                at_least_one_batch: true,
                end: Offset(BATCHES),
            };
            let result = partition.read(read).await;
            if offset == 6 {
                assert!(matches!(
                    result,
                    Err(ReadError::Damaged {
                        base: Offset(6),
                        end: Offset(7),
                        ..
                    })
                ));
            } else {
                assert_eq!(result.unwrap().next, Offset(offset + 1));
            }
        }
        let behind = read_batches(&partition, Offset(7), 1 << 30).await.unwrap();
        assert_eq!(behind.len(), 13);
    });
}

#[test]
fn pass_that_was_interrupted_goes_on_where_it_was() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        {
            let (log, _events) = start(&fs, options()).await;
            let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
            sealed_segment(&partition).await;
            log.close().await.unwrap();
            assert_eq!(log.scrub().await, 0, "a closed log is left alone");
            assert!(!fs.exists(&PathBuf::from("/log/scrub")).unwrap());
        }
        let file = fs.open(&path(), OpenMode::ReadWrite).unwrap();
        file.write_all_vectored_at(&[IoSlice::new(b"rot")], 70)
            .unwrap();
        // The last pass has ended after the first segment of the partition.
        let mut state = b"MSSB\x01\0\0\0".to_vec();
        state.extend_from_slice(&0i64.to_le_bytes());
        state.extend_from_slice(partition_id(0).topic.0.as_bytes());
        state.extend_from_slice(&0i32.to_le_bytes());
        state.extend_from_slice(&0i64.to_le_bytes());
        state.extend_from_slice(&crc32c::crc32c(&state).to_le_bytes());
        fs.write_atomic(&PathBuf::from("/log/scrub"), &state)
            .unwrap();
        let (log, _events) = start(&fs, options()).await;
        let mut sealed = spec(Flush::Always);
        sealed.segments[0].end = Some(Offset(BATCHES));
        sealed.segments.push(segment_spec(1, BATCHES));
        log.open_partition(sealed).await.unwrap();
        assert_eq!(log.scrub().await, 0, "it goes on behind that segment");
        assert_eq!(log.scrub().await, 1, "the next pass begins at the start");
    });
}
