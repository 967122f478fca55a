//! Dictionaries of labels: who looks records up by their labels finds what a full read finds.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{
    Flush, Label, Labeller, Labels, LogOptions, Partition, SegmentSpec, verify::verify,
};
use mainstem_record::{BatchHeader, Batches, Codec, Offset, PartitionId, RecordView, records};
use proptest::prelude::*;

use crate::support::{
    append, batch_of, options, partition_id, read_batches, run, segment_spec, spec, start,
};

/// Values whose first byte is this have a label that is not known for certain.
const UNCERTAIN: u8 = b'?';

/// The label of a record is its value.
#[derive(Debug)]
struct ByValue;

impl Labels for ByValue {
    fn labeller(&self, partition: PartitionId) -> Option<Box<dyn Labeller>> {
        assert_eq!(partition, partition_id(0));
        Some(Box::new(Self))
    }
}

impl Labeller for ByValue {
    fn label(&mut self, _: &BatchHeader, record: &RecordView<'_>, out: &mut Vec<u8>) -> Label {
        let value = record.value.unwrap_or_default();
        if value.first() == Some(&UNCERTAIN) {
            return Label::Uncertain;
        }
        out.extend_from_slice(value);
        Label::Known
    }
}

fn small() -> LogOptions {
    LogOptions {
        dictionary_segment_bytes_min: 0,
        ..options()
    }
}

async fn seal(partition: &Partition, number: i32) {
    let info = partition.seal_begin().await.unwrap();
    let next = SegmentSpec {
        epoch: segment_spec(number, 0).epoch,
        ..segment_spec(number, info.end.0)
    };
    partition.seal_commit(next).await.unwrap();
}

/// (offset, value) of the records of `batches` from `from` on that `wanted` matches.
fn wanted_of(batch: &[u8], from: Offset, wanted: u8, found: &mut Vec<(i64, Vec<u8>)>) {
    let opened = records(batch, 1 << 20).unwrap();
    for record in opened.iter() {
        let record = record.unwrap();
        let value = record.value.unwrap();
        if record.offset >= from && value.contains(&wanted) {
            found.push((record.offset.0, value.to_vec()));
        }
    }
}

/// What a reader that looks labels up finds, and how many batches it has read.
async fn look_up(
    partition: &Partition,
    mut from: Offset,
    (wanted, bytes_max): (u8, usize),
) -> (Vec<(i64, Vec<u8>)>, usize) {
    let (mut found, mut read) = (Vec::new(), 0);
    let end = partition.ends().committed_end;
    while from < end {
        let matches = move |label: &[u8]| label.contains(&wanted);
        let hits = partition.matching(from, matches).await.unwrap();
        let Some(hits) = hits.hits() else {
            for (_, batch) in read_batches(partition, from, 1).await.unwrap() {
                wanted_of(&batch, from, wanted, &mut found);
            }
            return (found, read);
        };
        while from < hits.end() {
            let chunk = partition.read_hits(&hits, from, bytes_max).await.unwrap();
            assert!(chunk.next > from, "it goes forward");
            assert!(chunk.next == hits.end() || !chunk.batches.is_empty());
            for run in chunk.batches {
                for batch in Batches::new(run) {
                    let (header, batch) = batch.unwrap();
                    assert!(header.last_offset() >= from);
                    wanted_of(&batch, from, wanted, &mut found);
                    read += 1;
                }
            }
            from = chunk.next;
        }
    }
    (found, read)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![1 => Just(UNCERTAIN), 20 => b'a'..=b'z'];
    prop::collection::vec(byte, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn look_up_finds_what_a_full_read_finds(
        batches in prop::collection::vec(
            (prop::collection::vec(value(), 1..4), any::<bool>(), prop::bool::weighted(0.1)),
            1..40,
        ),
        from in any::<prop::sample::Index>(),
        wanted in b'a'..=b'z',
        bytes_max in 1usize..2000,
        again in any::<bool>(),
    ) {
        run(async {
            let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
            let (log, _events) = start(&fs, small()).await;
            log.set_labels(Arc::new(ByValue));
            let partition = log.open_partition(spec(Flush::Os)).await.unwrap();
            let mut segments = 0;
            for (values, packed, sealed) in batches {
                let records: Vec<_> = values.into_iter().map(|value| (value, 1)).collect();
                let codec = if packed { Codec::Lz4 } else { Codec::None };
                let batch = batch_of(&records, None, codec);
                partition.append(append(batch)).await.unwrap().await.unwrap();
                if sealed {
                    segments += 1;
                    seal(&partition, segments).await;
                }
            }
            log.make_dictionaries().await;
            assert_eq!(log.make_dictionaries().await, 0, "each is made once");
            if again {
                // The first look-up after a start finds them in the files.
                segments += 1;
                seal(&partition, segments).await;
                log.make_dictionaries().await;
            }
            let from = Offset(from.index(partition.ends().log_end.0 as usize) as i64);
            let mut expected = Vec::new();
            for (_, batch) in read_batches(&partition, from, 1 << 20).await.unwrap() {
                wanted_of(&batch, from, wanted, &mut expected);
            }
            let (found, _) = look_up(&partition, from, (wanted, bytes_max)).await;
            assert_eq!(found, expected);
            let mut none = |finding: &mainstem_log::verify::Finding| panic!("{finding}");
            verify(&*fs, std::path::Path::new("/log"), &mut none).unwrap();
        });
    }
}

/// A sealed segment of 200 batches, of which three have the label `needle`.
async fn haystack(fs: &Arc<dyn Fs>) -> (mainstem_log::Log, Partition) {
    let (log, _events) = start(fs, small()).await;
    log.set_labels(Arc::new(ByValue));
    let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
    for number in 0..200 {
        let value = if number % 90 == 0 {
            b"needle".to_vec()
        } else {
            format!("hay {number}").into_bytes()
        };
        let batch = batch_of(&[(value, 1)], None, Codec::None);
        partition
            .append(append(batch))
            .await
            .unwrap()
            .await
            .unwrap();
    }
    seal(&partition, 1).await;
    (log, partition)
}

#[test]
fn only_hits_are_read_also_after_a_start() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, partition) = haystack(&fs).await;
        let is_needle = |label: &[u8]| label == b"needle";
        assert!(
            partition
                .matching(Offset(0), is_needle)
                .await
                .unwrap()
                .hits()
                .is_none()
        );
        assert_eq!(log.make_dictionaries().await, 1);
        let (found, read) = look_up(&partition, Offset(0), (b'n', 1 << 20)).await;
        assert_eq!((found.len(), read), (3, 3));
        // Too much matches: a plain read is the way.
        assert!(
            partition
                .matching(Offset(0), |_| true)
                .await
                .unwrap()
                .hits()
                .is_none()
        );
        // The active segment has none.
        assert!(
            partition
                .matching(Offset(200), is_needle)
                .await
                .unwrap()
                .hits()
                .is_none()
        );
        let mut sealed = spec(Flush::Always);
        sealed.segments[0].end = Some(Offset(200));
        let next = partition.segments()[1];
        sealed.segments.push(SegmentSpec {
            epoch: next.epoch,
            ..segment_spec(1, 200)
        });
        log.close().await.unwrap();
        let (log, _events) = start(&fs, small()).await;
        log.set_labels(Arc::new(ByValue));
        let partition = log.open_partition(sealed).await.unwrap();
        assert_eq!(log.make_dictionaries().await, 0, "it is there");
        let hits = partition.matching(Offset(91), is_needle).await.unwrap();
        let hits = hits.hits().expect("few");
        assert_eq!((hits.len(), hits.end()), (3, Offset(200)));
        let chunk = partition
            .read_hits(&hits, Offset(91), 1 << 20)
            .await
            .unwrap();
        assert_eq!((chunk.batches.len(), chunk.next), (1, Offset(200)));
    });
}

#[test]
fn damaged_dictionary_costs_reads_and_no_records() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, partition) = haystack(&fs).await;
        assert_eq!(log.make_dictionaries().await, 1);
        let dir = PathBuf::from(format!("/log/partitions/{}/0", partition_id(0).topic));
        let index = fs
            .read_dir(&dir)
            .unwrap()
            .into_iter()
            .find(|entry| entry.name.ends_with(".idx"))
            .unwrap();
        let file = fs.open(&dir.join(index.name), OpenMode::ReadWrite).unwrap();
        let at = index.len - 30;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 4;
        file.write_all_vectored_at(&[std::io::IoSlice::new(&byte)], at)
            .unwrap();
        let (found, _) = look_up(&partition, Offset(0), (b'n', 1 << 20)).await;
        assert_eq!(found.len(), 3);
    });
}

#[test]
fn damaged_hit_is_named_and_the_others_are_read() {
    run(async {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let (log, partition) = haystack(&fs).await;
        assert_eq!(log.make_dictionaries().await, 1);
        let dir = PathBuf::from(format!("/log/partitions/{}/0", partition_id(0).topic));
        let name = format!("{:020}-{}.log", 0, segment_spec(0, 0).id.0);
        let file = fs.open(&dir.join(name), OpenMode::ReadWrite).unwrap();
        let (_, position) = read_batches(&partition, Offset(0), 1 << 20)
            .await
            .unwrap()
            .iter()
            .take(90)
            .fold((0, 0u64), |(_, at), (_, batch)| {
                (0, at + batch.len() as u64)
            });
        file.write_all_vectored_at(&[std::io::IoSlice::new(b"xx")], position + 70)
            .unwrap();
        let is_needle = |label: &[u8]| label == b"needle";
        let hits = partition.matching(Offset(0), is_needle).await.unwrap();
        let hits = hits.hits().expect("few");
        let (mut from, mut seen, mut lost) = (Offset(0), BTreeSet::new(), BTreeSet::new());
        while from < hits.end() {
            match partition.read_hits(&hits, from, 1).await {
                Ok(chunk) => {
                    for run in &chunk.batches {
                        let header = BatchHeader::parse(run).unwrap();
                        seen.insert(header.base_offset.0);
                    }
                    from = chunk.next;
                }
                Err(mainstem_log::ReadError::Damaged { base, end, .. }) => {
                    lost.insert(base.0);
                    from = end;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(seen, BTreeSet::from([0, 180]));
        assert_eq!(lost, BTreeSet::from([90]));
    });
}
