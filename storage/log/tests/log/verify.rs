//! What `verify` says of logs that a node has left, killed or spoilt.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Fs, MemFs, OpenMode};
use mainstem_log::{
    Flush, Partition,
    verify::{DumpOptions, Finding, Item, Problem, Severity, Summary, Value, dump, verify},
};
use mainstem_record::{Batches, Codec, Offset, PartitionId};
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

/// Three segments, the first two of them sealed; left as by a kill.
fn three_segments(fs: &Arc<dyn Fs>) {
    run(async {
        let (log, _events) = start(fs, options()).await;
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        for number in 0..3 {
            fill(&partition, number * BATCHES as i32).await;
            if number < 2 {
                let end = partition.seal_begin().await.unwrap().end.0;
                let next = mainstem_log::SegmentSpec {
                    id: segment_spec(number + 1, 0).id,
                    ..segment_spec(0, end)
                };
                partition.seal_commit(next).await.unwrap();
            }
        }
    });
}

/// The file of the segment in the middle, or after it.
fn file_of(extension: &str, segment: i32) -> PathBuf {
    let first = file(extension, 0);
    let id = segment_spec(segment, 0).id.0;
    let base = i64::from(segment) * BATCHES as i64 * 3;
    first.with_file_name(format!("{base:020}-{id}.{extension}"))
}

fn damage(fs: &dyn Fs) -> Vec<Finding> {
    let (_, mut findings) = check(fs);
    findings.retain(|f| f.problem.severity() == Severity::Damage);
    findings
}

#[test]
fn hole_between_segments_is_damage_and_names_the_neighbours() {
    let fs = memory();
    three_segments(&fs);
    assert_eq!(damage(&*fs), []);
    for extension in ["log", "idx"] {
        fs.remove_file(&file_of(extension, 1)).unwrap();
    }
    let damage = damage(&*fs);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0].path, file("log", 0).parent().unwrap());
    let lost = (Offset(3 * BATCHES as i64), Offset(6 * BATCHES as i64));
    assert_eq!(damage[0].offsets, Some(lost));
    let text = damage[0].to_string();
    for neighbour in [file_of("log", 0), file_of("log", 2)] {
        let name = neighbour.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn segment_without_index_file_must_reach_to_the_next_one() {
    for number in 0..2 {
        let fs = memory();
        three_segments(&fs);
        let path = file_of("log", number);
        fs.remove_file(&file_of("idx", number)).unwrap();
        assert_eq!(damage(&*fs), [], "its batches are whole");
        let places = places(&*fs, &path);
        let whole = fs.read(&path, 1 << 20).unwrap();
        let log = fs.open(&path, OpenMode::ReadWrite).unwrap();
        let next = Offset((i64::from(number) + 1) * 3 * BATCHES as i64);
        for (position, base) in &places {
            // Cut between two batches, cut within one, a flipped bit.
            for spoil in 0..3 {
                match spoil {
                    0 => log.set_len(*position).unwrap(),
                    1 => log.set_len(position + 20).unwrap(),
                    _ => flip(&*fs, &path, position + 70, 2),
                }
                let damage = damage(&*fs);
                assert_eq!(damage.len(), 1, "{damage:?}");
                assert_eq!(damage[0].offsets, Some((*base, next)));
                let text = damage[0].to_string();
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(text.contains(name), "{text}");
                log.write_all_vectored_at(&[IoSlice::new(&whole)], 0)
                    .unwrap();
            }
        }
        assert_eq!(damage(&*fs), []);
    }
}

#[test]
fn old_and_new_segments_of_a_compaction_are_no_damage() {
    let fs = memory();
    three_segments(&fs);
    // The files of one that is being put in place: without index file, and not yet whole.
    let other = segment_spec(9, 0).id.0;
    let new = file("log", 0).with_file_name(format!("{:020}-{other}.log", 0));
    let bytes = fs.read(&file("log", 0), 1 << 20).unwrap();
    let log = fs.open(&new, OpenMode::CreateNew).unwrap();
    let part = &bytes[..bytes.len() / 2];
    log.write_all_vectored_at(&[IoSlice::new(part)], 0).unwrap();
    let (summary, findings) = check(&*fs);
    assert_eq!(summary.damage, 0, "{findings:?}");
    let is_overlap = |f: &Finding| matches!(f.problem, Problem::Overlap { .. });
    assert!(findings.iter().any(is_overlap), "{findings:?}");
}

#[test]
fn synced_segment_that_is_gone_is_damage() {
    for cleanly in [true, false] {
        for snapshot in [true, false] {
            let fs = memory();
            used(&fs, cleanly);
            fs.remove_file(&file("log", 1)).unwrap();
            if !snapshot && fs.exists(&file("snap", 1)).unwrap() {
                fs.remove_file(&file("snap", 1)).unwrap();
            }
            let damage = damage(&*fs);
            assert_eq!(damage.len(), 1, "{damage:?}");
            let text = damage[0].to_string();
            let id = segment_spec(1, 0).id.to_string();
            assert!(text.contains(&id), "{text}");
            // A topic that was removed.
            let partition = file("log", 1).parent().unwrap().to_owned();
            fs.remove_dir_all(&partition).unwrap();
            assert_eq!(check(&*fs).0.damage, 0);
        }
    }
}

#[test]
fn synced_segment_may_go_when_a_later_one_is_there() {
    let fs = memory();
    three_segments(&fs);
    for segment in 0..2 {
        for extension in ["log", "idx"] {
            fs.remove_file(&file_of(extension, segment)).unwrap();
        }
        assert_eq!(damage(&*fs), [], "retention removes the oldest ones");
    }
}

#[test]
fn what_comes_back_before_the_second_look_is_no_damage() {
    for segment in [1, 2] {
        let fs = memory();
        three_segments(&fs);
        let path = file_of("log", segment);
        let whole = fs.read(&path, 1 << 20).unwrap();
        fs.remove_file(&path).unwrap();
        if segment == 1 {
            fs.remove_file(&file_of("idx", segment)).unwrap();
        }
        assert_eq!(damage(&*fs).len(), 1);
        // Named after the first listing and before the second.
        fs.open(&path.with_file_name("foreign"), OpenMode::Create)
            .unwrap();
        let mut findings = Vec::new();
        let mut put_back = |finding: &Finding| {
            findings.push(finding.clone());
            if finding.problem == Problem::UnknownFile {
                let log = fs.open(&path, OpenMode::CreateNew).unwrap();
                log.write_all_vectored_at(&[IoSlice::new(&whole)], 0)
                    .unwrap();
            }
        };
        let summary = verify(&*fs, Path::new("/log"), &mut put_back).unwrap();
        assert_eq!(summary.damage, 0, "{findings:?}");
    }
}

/// All that a dump can show, of one partition or of all.
fn everything(partition: Option<PartitionId>) -> DumpOptions {
    DumpOptions {
        partition,
        batches: true,
        records: true,
        index: true,
        decompressed_bytes_max: 1 << 20,
    }
}

#[test]
fn directory_that_is_no_log_is_called_that_and_is_not_to_be_removed() {
    let fs = memory();
    fs.create_dir_all(Path::new("/empty")).unwrap();
    fs.create_dir_all(Path::new("/foreign/partitions/other"))
        .unwrap();
    let options = everything(None);
    for dir in ["/empty", "/foreign", "/missing"] {
        let dir = Path::new(dir);
        let errors = [
            verify(&*fs, dir, &mut |_| ()).unwrap_err(),
            dump(&*fs, dir, &options, &mut |_| Ok(())).unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            let start = format!("no log in {}:", dir.display());
            assert!(text.starts_with(&start), "{text}");
            assert!(!text.contains("remove"), "{text}");
        }
    }
}

/// What a dump of everything that concerns one partition shows.
fn show(fs: &dyn Fs, partition: i32) -> Vec<Item> {
    let options = everything(Some(partition_id(partition)));
    let mut items: Vec<Item> = Vec::new();
    let mut keep = |item: &Item| {
        items.push(item.clone());
        Ok(())
    };
    dump(fs, Path::new("/log"), &options, &mut keep).unwrap();
    items
}

fn count(items: &[Item], kind: &str) -> u64 {
    items.iter().filter(|item| item.kind == kind).count() as u64
}

fn number(item: &Item, name: &str) -> u64 {
    let field = item.fields.iter().find(|(field, _)| *field == name);
    match field {
        Some((_, Value::Number(number))) => u64::try_from(*number).unwrap(),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn dump_shows_what_a_ring_holds_and_goes_on_where_it_is_damaged() {
    let fs = memory();
    used(&fs, false);
    let items = show(&*fs, 0);
    assert_eq!(count(&items, "ring"), 1, "the shard that needs it has one");
    assert_eq!(count(&items, "damage"), 0);
    let log = fs.read(&file("log", 1), 1 << 20).unwrap();
    let entries = items.iter().filter(|item| item.kind == "journal_entry");
    let active = Value::Text(segment_spec(1, 0).id.to_string());
    let of_active: Vec<_> = entries
        .filter(|item| item.fields.contains(&("segment", active.clone())))
        .collect();
    assert!(!of_active.is_empty());
    for entry in &of_active {
        assert!(entry.fields.contains(&("good", Value::Flag(true))));
        assert!(number(entry, "position") + number(entry, "bytes") <= log.len() as u64);
    }
    let records = count(&items, "journal_record");
    let ring = items.iter().find(|item| item.kind == "ring").unwrap();
    assert!(records <= number(ring, "records"));
    // Nothing of others.
    let others = show(&*fs, 1);
    assert_eq!(count(&others, "journal_record"), 0);
    // A payload: its entry says so. A head: the record is missing.
    let first = items.iter().find(|item| item.kind == "journal_record");
    let position = number(first.unwrap(), "position");
    let ring = Path::new("/log/journal/0.ring");
    let bad = ("good", Value::Flag(false));
    let payload = position + 64 + 68 * number(first.unwrap(), "entries");
    flip(&*fs, ring, payload, 1);
    let spoilt = show(&*fs, 0);
    let is_bad = |item: &&Item| item.fields.contains(&bad);
    assert_eq!(spoilt.iter().filter(is_bad).count(), 1);
    flip(&*fs, ring, position + 24, 1);
    let spoilt = show(&*fs, 0);
    assert_eq!(count(&spoilt, "journal_record"), records - 1);
    assert_eq!(count(&spoilt, "damage"), 1);
}

/// Makes the recovery point of the active segment say that it ends at another offset, with all its
/// checksums right.
fn forge_end(fs: &dyn Fs, change: i64) {
    /// Where the header section begins, its end offset in it, and its length without the checksum.
    const HEADER_AT: usize = 20;
    const END_AT: usize = HEADER_AT + 25;
    const HEADER_BYTES: usize = 89;
    let path = file("snap", 1);
    let mut bytes = fs.read(&path, 1 << 20).unwrap();
    let place = END_AT..END_AT + 8;
    let end = i64::from_le_bytes(bytes[place.clone()].try_into().unwrap());
    assert_eq!(end, 6 * BATCHES as i64);
    bytes[place].copy_from_slice(&(end + change).to_le_bytes());
    for (start, end) in [(HEADER_AT, HEADER_AT + HEADER_BYTES), (0, bytes.len() - 4)] {
        let crc = crc32c::crc32c(&bytes[start..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(&bytes)], 0)
        .unwrap();
}

#[test]
fn recovery_point_with_another_end_is_named_and_not_believed() {
    for change in [-3, -1, 1, 1 << 20] {
        let fs = memory();
        used(&fs, true);
        forge_end(&*fs, change);
        let (_, findings) = check(&*fs);
        let problem = Problem::End {
            found: Offset(6 * BATCHES as i64),
            expected: Offset(6 * BATCHES as i64 + change),
        };
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].problem, problem);
        assert_eq!(findings[0].path, file("snap", 1));
        run(async {
            let (log, _events) = start(&fs, options()).await;
            let mut spec = spec(Flush::Always);
            spec.segments[0].end = Some(Offset(3 * BATCHES as i64));
            spec.segments.push(mainstem_log::SegmentSpec {
                id: segment_spec(1, 0).id,
                ..segment_spec(0, 3 * BATCHES as i64)
            });
            let partition = log.open_partition(spec).await.unwrap();
            assert_eq!(partition.ends().log_end, Offset(6 * BATCHES as i64));
        });
    }
}

#[test]
fn dump_shows_each_batch_and_record_and_goes_on_behind_damage() {
    let fs = memory();
    used(&fs, true);
    let show = || show(&*fs, 0);
    let items = show();
    assert_eq!(count(&items, "batch"), 2 * BATCHES);
    assert_eq!(count(&items, "record"), 6 * BATCHES);
    assert_eq!(count(&items, "producer"), 2);
    assert_eq!(count(&items, "damage"), 0);
    assert_eq!(
        count(&items, "journal_record"),
        0,
        "a clean stop needs none"
    );
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
        let options = everything(None);
        let _ = dump(&*fs, Path::new("/log"), &options, &mut |_| Ok(()));
    }
}

/// It is no damage by itself, but what it would tell is missing.
#[test]
fn checkpoint_that_is_gone_is_noted() {
    for cleanly in [true, false] {
        let fs = memory();
        used(&fs, cleanly);
        let checkpoint = PathBuf::from("/log/checkpoint");
        fs.remove_file(&checkpoint).unwrap();
        let (summary, findings) = check(&*fs);
        assert_eq!((summary.damage, summary.notes), (0, 1));
        let found = (&findings[0].path, &findings[0].problem);
        assert_eq!(found, (&checkpoint, &Problem::NoCheckpoint));
    }
}
