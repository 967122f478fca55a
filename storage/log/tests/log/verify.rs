//! What `verify` says of logs that a node has left, killed or spoilt.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{
    Flush, Partition,
    verify::{DumpOptions, Finding, Item, Problem, Severity, Summary, dump, verify},
};
use mainstem_record::{Batches, Codec, Offset};
use proptest::prelude::*;

use crate::support::{append, batch_of, options, partition_id, run, segment_spec, spec, start};

const BATCHES: u64 = 12;

fn memory() -> Arc<dyn Fs> {
    Arc::new(MemFs::new())
}

async fn fill(partition: &Partition, first: i32) {
    for number in first..first + BATCHES as i32 {
        let records: Vec<_> = (0..3).map(|i| (vec![i; 40], i64::from(number))).collect();
        let batch = batch_of(&records, Some((7, 0, number * 3)), Codec::None);
        let ticket = partition.append(append(batch)).await.unwrap();
        ticket.await.unwrap();
    }
}

/// A sealed segment of twelve batches and an active one of as many; left cleanly or as by a kill.
fn used(fs: &Arc<dyn Fs>, cleanly: bool) {
    run(async {
        let (log, _events) = start(fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        fill(&partition, 0).await;
        let info = partition.seal_begin().await.unwrap();
        let next = segment_spec(0, info.end.0);
        let next = mainstem_log::SegmentSpec {
            id: segment_spec(1, 0).id,
            ..next
        };
        partition.seal_commit(next).await.unwrap();
        fill(&partition, BATCHES as i32).await;
        if cleanly {
            log.close().await.unwrap();
        }
    });
}

fn file(extension: &str, segment: i32) -> PathBuf {
    let base = if segment == 0 { 0 } else { BATCHES * 3 };
    let id = segment_spec(segment, 0).id.0;
    let topic = partition_id(0).topic.0;
    PathBuf::from(format!(
        "/log/partitions/{topic}/0/{base:020}-{id}.{extension}"
    ))
}

fn check(fs: &dyn Fs) -> (Summary, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut keep = |finding: &Finding| findings.push(finding.clone());
    let summary = verify(fs, Path::new("/log"), &mut keep).unwrap();
    (summary, findings)
}

fn flip(fs: &dyn Fs, path: &Path, at: u64, bit: u8) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_vectored_at(&[IoSlice::new(&byte)], at)
        .unwrap();
}

/// Position and base offset of each batch.
fn places(fs: &dyn Fs, path: &Path) -> Vec<(u64, Offset)> {
    let bytes = fs.read(path, 1 << 20).unwrap();
    let mut position = 0;
    let mut places = Vec::new();
    for batch in Batches::new(bytes.into()) {
        let (header, bytes) = batch.unwrap();
        places.push((position, header.base_offset));
        position += bytes.len() as u64;
    }
    places
}

#[test]
fn what_a_node_has_left_is_good() {
    for cleanly in [true, false] {
        let fs = memory();
        used(&fs, cleanly);
        let (summary, findings) = check(&*fs);
        assert_eq!(findings, []);
        assert_eq!((summary.segments, summary.sealed), (2, 1));
        assert_eq!(summary.batches, 2 * BATCHES);
        assert_eq!(summary.records, 6 * BATCHES);
    }
}

#[test]
fn data_directory_of_a_node_is_understood_too() {
    let fs = memory();
    used(&fs, true);
    let mut none = |finding: &Finding| panic!("{finding}");
    assert!(verify(&*fs, Path::new("/"), &mut none).is_ok());
    assert!(verify(&*fs, Path::new("/elsewhere"), &mut none).is_err());
}

#[test]
fn torn_tail_is_a_note_and_the_loss_of_synced_bytes_is_damage() {
    let fs = memory();
    used(&fs, true);
    let path = file("log", 1);
    let log = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let len = log.len().unwrap();
    log.write_all_vectored_at(&[IoSlice::new(&[0, 0, 0, 1])], len)
        .unwrap();
    let (summary, findings) = check(&*fs);
    assert_eq!(summary.damage, 0);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].problem, Problem::TornTail { bytes: 4 });
    assert_eq!(findings[0].position, Some(len));
    // The clean stop has synced and noted everything.
    log.set_len(len - 1).unwrap();
    let (summary, findings) = check(&*fs);
    assert!(summary.damage > 0, "{findings:?}");
    assert!(findings.iter().any(|f| f.path == path));
}

#[test]
fn what_only_the_journal_has_counts() {
    let fs = memory();
    used(&fs, false);
    let path = file("log", 1);
    let whole = fs.read(&path, 1 << 20).unwrap();
    // As if a power cut had taken what was written to the file and synced in the journal.
    let log = fs.open(&path, OpenMode::ReadWrite).unwrap();
    for left in [0, whole.len() as u64 / 3] {
        log.set_len(left).unwrap();
        let (summary, findings) = check(&*fs);
        let bytes = whole.len() as u64 - left;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].problem, Problem::Journalled { bytes });
        assert_eq!(summary.damage, 0);
        assert_eq!(summary.records, 6 * BATCHES);
    }
    // A ring that cannot be read is named, since nobody knows what it held.
    let ring = Path::new("/log/journal/0.ring");
    flip(&*fs, ring, 20, 3);
    let (summary, findings) = check(&*fs);
    assert!(summary.damage > 0);
    assert!(findings.iter().any(|finding| finding.path == ring));
}

#[test]
fn missing_files_are_named() {
    let fs = memory();
    used(&fs, false);
    fs.remove_file(&file("log", 0)).unwrap();
    let (_, findings) = check(&*fs);
    assert_eq!(findings[0].problem, Problem::MissingSegment);
    assert_eq!(findings[0].path, file("log", 0));

    let fs = memory();
    used(&fs, false);
    fs.remove_file(&file("idx", 0)).unwrap();
    let (summary, findings) = check(&*fs);
    assert_eq!(summary.damage, 0);
    assert_eq!(findings[0].problem, Problem::NoIndex);
}

#[test]
fn dump_shows_each_batch_and_record_and_goes_on_behind_damage() {
    let fs = memory();
    used(&fs, true);
    let show = || {
        let options = DumpOptions {
            partition: Some(partition_id(0)),
            batches: true,
            records: true,
            index: true,
            decompressed_bytes_max: 1 << 20,
        };
        let mut items: Vec<Item> = Vec::new();
        let mut keep = |item: &Item| {
            items.push(item.clone());
            Ok(())
        };
        dump(&*fs, Path::new("/log"), &options, &mut keep).unwrap();
        items
    };
    let count = |items: &[Item], kind| items.iter().filter(|item| item.kind == kind).count() as u64;
    let items = show();
    assert_eq!(count(&items, "batch"), 2 * BATCHES);
    assert_eq!(count(&items, "record"), 6 * BATCHES);
    assert_eq!(count(&items, "producer"), 2);
    assert_eq!(count(&items, "damage"), 0);
    let places = places(&*fs, &file("log", 0));
    flip(&*fs, &file("log", 0), places[3].0 + 70, 1);
    let items = show();
    assert_eq!(count(&items, "batch"), 2 * BATCHES - 1);
    assert_eq!(count(&items, "damage"), 1);
}

proptest! {
    /// Wherever the bit is: the batch that holds it is named, and the others are good.
    #[test]
    fn flipped_bit_of_a_sealed_segment_is_named(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let fs = memory();
        used(&fs, false);
        let path = file("log", 0);
        let places = places(&*fs, &path);
        let len = fs.read(&path, 1 << 20).unwrap().len();
        let at = at.index(len) as u64;
        flip(&*fs, &path, at, bit);
        let holds = places.partition_point(|(position, _)| *position <= at) - 1;
        let (position, base) = places[holds];
        let (summary, findings) = check(&*fs);
        let damage: Vec<_> = findings
            .iter()
            .filter(|f| f.problem.severity() == Severity::Damage)
            .collect();
        prop_assert!(!damage.is_empty());
        prop_assert_eq!(&damage[0].path, &path);
        prop_assert_eq!(damage[0].position, Some(position));
        prop_assert_eq!(damage[0].offsets.map(|(first, _)| first), Some(base));
        // At most what one index entry leads to is lost with it.
        prop_assert!(summary.batches >= 2 * BATCHES - 3, "{:?}", findings);
    }

    /// Whatever the files hold, nothing panics and nothing is passed off as good.
    #[test]
    fn spoilt_files_are_survived(
        which in 0usize..5,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..64),
        cut in any::<bool>(),
    ) {
        let fs = memory();
        used(&fs, true);
        let path = [
            file("log", 0),
            file("idx", 0),
            file("log", 1),
            file("snap", 1),
            PathBuf::from("/log/checkpoint"),
        ][which].clone();
        let before = fs.read(&path, 1 << 20).unwrap();
        let at = at.index(before.len()) as u64;
        let spoilt = fs.open(&path, OpenMode::ReadWrite).unwrap();
        if cut {
            spoilt.set_len(at).unwrap();
        }
        spoilt.write_all_vectored_at(&[IoSlice::new(&bytes)], at).unwrap();
        let (summary, findings) = check(&*fs);
        if fs.read(&path, 1 << 20).unwrap() != before {
            prop_assert!(summary.damage + summary.notes > 0, "{:?}", findings);
        }
        let options = DumpOptions {
            partition: None,
            batches: true,
            records: true,
            index: true,
            decompressed_bytes_max: 1 << 20,
        };
        let _ = dump(&*fs, Path::new("/log"), &options, &mut |_| Ok(()));
    }
}
