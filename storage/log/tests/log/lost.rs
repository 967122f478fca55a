//! Files of segments that somebody has removed, replaced or made unreadable: their range is lost, it is
//! told, and everything else serves.

use std::{path::PathBuf, sync::Arc};

use mainstem_env::{Fs, MemFs, RealFs};
use mainstem_log::{
    DamageKind, Flush, Log, LogEvent, LogOptions, Partition, PartitionSpec, Read, ReadError,
    verify::{Severity, verify},
};
use mainstem_record::Offset;

use crate::support::{append, batch, options, partition_id, run, segment_spec, spec, start};

fn in_dir(dir: &tempfile::TempDir) -> LogOptions {
    LogOptions {
        dir: dir.path().join("log"),
        ..options()
    }
}

fn path(options: &LogOptions, segment: i32) -> PathBuf {
    let topic = partition_id(0).topic;
    let id = segment_spec(segment, 0).id.0;
    let place = format!("partitions/{topic}/0/{segment:020}-{id}.log");
    options.dir.join(place)
}

/// Two sealed segments of one record each, and an active one with a third record.
async fn three_segments(log: &Log) -> Partition {
    let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
    for number in 0..3 {
        put(&partition).await;
        if number < 2 {
            partition.seal_begin().await.unwrap();
            let next = segment_spec(number + 1, i64::from(number) + 1);
            partition.seal_commit(next).await.unwrap();
        }
    }
    partition
}

fn known_spec() -> PartitionSpec {
    let mut known = spec(Flush::Always);
    known.segments = (0..3)
        .map(|number| segment_spec(number, i64::from(number)))
        .collect();
    for (end, segment) in (1..).zip(known.segments.iter_mut().take(2)) {
        segment.end = Some(Offset(end));
    }
    known
}

async fn put(partition: &Partition) {
    let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
    ticket.await.unwrap();
}

async fn is_readable(partition: &Partition, offset: i64) -> bool {
    let read = Read {
        from: Offset(offset),
        bytes_max: 1,
        at_least_one_batch: true,
        end: Offset(offset + 1),
    };
    match partition.read(read).await {
        Ok(_) => true,
        Err(ReadError::Damaged { .. } | ReadError::Io { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

/// What may stand in the place of a file.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Fifo,
    Loop,
    Directory,
}

#[test]
fn sealed_file_that_cannot_be_opened_costs_its_own_range_only() {
    for (instead, with_index) in [
        (Instead::Fifo, true),
        (Instead::Loop, true),
        (Instead::Directory, true),
        (Instead::Fifo, false),
        (Instead::Loop, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = in_dir(&dir);
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        run(async {
            let (log, _events) = start(&fs, options.clone()).await;
            three_segments(&log).await;
            log.close().await.unwrap();
        });
        let spoilt = path(&options, 1);
        fs.remove_file(&spoilt).unwrap();
        if !with_index {
            fs.remove_file(&spoilt.with_extension("idx")).unwrap();
        }
        match instead {
            Instead::Fifo => {
                let made = std::process::Command::new("mkfifo").arg(&spoilt).status();
                assert!(made.unwrap().success());
            }
            Instead::Loop => std::os::unix::fs::symlink(&spoilt, &spoilt).unwrap(),
            Instead::Directory => fs.create_dir_all(&spoilt).unwrap(),
        }
        let mut named = Vec::new();
        let _ = verify(&*fs, &options.dir, &mut |finding| {
            if finding.path == spoilt && finding.problem.severity() != Severity::Note {
                named.push(finding.problem.clone());
            }
        });
        assert!(!named.is_empty(), "{instead:?}: verify names it");
        run(async {
            let (log, _events) = start(&fs, options.clone()).await;
            let partition = log.open_partition(known_spec()).await.unwrap();
            for (offset, readable) in [(0, true), (1, false), (2, true)] {
                let found = is_readable(&partition, offset).await;
                assert_eq!(found, readable, "{instead:?}: {offset}");
            }
            put(&partition).await;
            assert!(is_readable(&partition, 3).await);
            let damages = log.damages();
            let known: Vec<_> = damages.iter().map(|d| (d.base, d.end, d.kind)).collect();
            let expected = (Offset(1), Some(Offset(2)), DamageKind::Unreadable);
            assert_eq!(known, [expected], "{instead:?}");
            let old = [segment_spec(0, 0).id, segment_spec(1, 0).id];
            let dropped = partition.drop_segments(&old, Offset(2)).await;
            // A directory that somebody has put there is not removed with what is in it.
            let stays = matches!(instead, Instead::Directory);
            assert_eq!(dropped.is_err(), stays, "{instead:?}");
            assert_eq!(log.damages(), [], "it is nobody's loss any more");
        });
    }
}

#[test]
fn files_that_are_removed_under_a_running_node_are_noticed() {
    for segment in [1, 2] {
        run(async {
            let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
            let (log, mut events) = start(&fs, options()).await;
            let _partition = three_segments(&log).await;
            assert_eq!(log.scrub().await, 0);
            assert_eq!(log.damages(), []);
            let lost = path(&options(), segment);
            fs.remove_file(&lost).unwrap();
            assert_eq!(log.scrub().await, 1);
            let at = Offset(i64::from(segment));
            let expected = LogEvent::SegmentDamaged {
                partition: partition_id(0),
                segment: segment_spec(segment, 0).id,
                path: lost.clone(),
                position: 0,
                offsets: (at, at.next()),
            };
            assert_eq!(events.try_recv(), Ok(expected));
            let damages = log.damages();
            assert_eq!(damages.len(), 1);
            assert_eq!(
                (damages[0].base, damages[0].kind),
                (at, DamageKind::Missing)
            );
            assert_eq!(log.scrub().await, 0, "it is told once");
            assert_eq!(log.damages().len(), 1);
        });
    }
}
