//! What must not be lost although nobody can place it: rings whose name was not durable, rings with
//! the only copy of something, the trash.

use std::{collections::HashSet, io::IoSlice, path::Path, time::Duration};

use mainstem_env::{Fs, OpenMode};
use mainstem_log::{Log, LogError, LogEvent, Partition, verify::verify};
use mainstem_simulation::{Process, SimFs, World};
use prometheus::Registry;
use tokio::sync::mpsc;

use crate::{
    journal::{BATCH_BYTES, only_the_ring_is_left, put, spec_of},
    support::{options, values},
};

async fn start(process: &Process) -> (Log, mpsc::Receiver<LogEvent>) {
    let registry = Registry::new();
    let started = Log::start(process.env.clone(), options(), &registry).await;
    started.unwrap()
}

/// Appends until the journal is in use, and then some more.
async fn fill(fs: &SimFs, partition: &Partition) {
    while fs.files(".ring").is_empty() {
        put(partition, "a").await;
    }
    for _ in 0..5 {
        put(partition, "a").await;
    }
}

/// A name that a process has given, which is not durable.
fn name_again(fs: &SimFs, path: &Path) {
    let aside = path.with_added_extension("aside");
    let parent = path.parent().unwrap();
    fs.rename(path, &aside).unwrap();
    fs.sync_dir(parent).unwrap();
    fs.rename(&aside, path).unwrap();
}

#[test]
fn ring_that_is_taken_over_has_a_durable_name_before_anything_is_acknowledged() {
    for (seed, name) in (0..8).flat_map(|seed| [(seed, "journal/0.ring"), (seed, "journal")]) {
        mainstem_simulation::run(seed, |world| async move {
            let fs = world.disk();
            let process = world.process(&fs, 0);
            let (log, _events) = start(&process).await;
            fill(&fs, &log.open_partition(spec_of(0)).await.unwrap()).await;
            log.close().await.unwrap();
            process.end();
            let fs = fs.process_death();
            let process = world.process(&fs, 1);
            name_again(&fs, &options().dir.join(name));
            let (log, _events) = start(&process).await;
            let partition = log.open_partition(spec_of(0)).await.unwrap();
            for _ in 0..50 {
                put(&partition, "b").await;
            }
            let acknowledged = values(&partition).await;
            process.end();
            let (log, _events) = start(&world.process(&fs.power_cut(seed), 2)).await;
            let partition = log.open_partition(spec_of(0)).await.unwrap();
            assert_eq!(values(&partition).await, acknowledged, "{seed} {name}");
        });
    }
}

fn restore(fs: &SimFs, path: &Path, content: &[u8]) {
    let file = fs.open(path, OpenMode::Truncate).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(content)], 0)
        .unwrap();
    file.sync_all().unwrap();
    fs.sync_dir(path.parent().unwrap()).unwrap();
}

/// The partition fails, and so it does at the next start.
async fn fails_twice(world: &World, fs: &SimFs) {
    for incarnation in [1, 2] {
        let process = world.process(fs, incarnation);
        let (log, mut events) = start(&process).await;
        log.open_partition(spec_of(0)).await.unwrap();
        let event = events.recv().await;
        assert!(
            matches!(event, Some(LogEvent::PartitionFailed { .. })),
            "{event:?}"
        );
        // Others go on, and use the journal.
        fill(fs, &log.open_partition(spec_of(1)).await.unwrap()).await;
        // One has failed.
        let stopped = log.close().await;
        assert!(matches!(stopped, Err(LogError::NotClean)), "{stopped:?}");
        process.end();
    }
}

#[test]
fn ring_with_bytes_of_a_lost_segment_is_kept_and_can_be_put_back() {
    for is_gone in [true, false] {
        mainstem_simulation::run(3, |world| async move {
            let (fs, _) = only_the_ring_is_left(&world).await;
            let ring = fs.content(&fs.files(".ring")[0]);
            let segment = fs.files(".log").remove(0);
            let copy = fs.content(&segment);
            assert_eq!(copy.len(), BATCH_BYTES);
            if is_gone {
                fs.remove_file(&segment).unwrap();
                fs.sync_dir(segment.parent().unwrap()).unwrap();
            } else {
                fs.edit(&segment, |content| content.truncate(7));
            }
            fails_twice(&world, &fs).await;
            let trash = options().dir.join("trash");
            let kept = fs.read_dir(&trash).unwrap();
            let [kept] = &kept[..] else {
                panic!("{kept:?}");
            };
            assert!(kept.name.ends_with("-journal-0.ring"), "{}", kept.name);
            assert!(fs.content(&trash.join(&kept.name)) == ring, "as it was");
            let mut paths = Vec::new();
            verify(&fs, &options().dir, &mut |finding| {
                paths.push(finding.path.clone());
            })
            .unwrap();
            assert!(
                !paths.iter().any(|path| path.starts_with(&trash)),
                "{paths:?}"
            );

            restore(&fs, &segment, &copy);
            let back = options().dir.join("journal/7.ring");
            fs.rename(&trash.join(&kept.name), &back).unwrap();
            let process = world.process(&fs, 3);
            let (log, _events) = start(&process).await;
            let partition = log.open_partition(spec_of(0)).await.unwrap();
            assert!(values(&partition).await.len() >= 6);
            assert!(!fs.exists(&back).unwrap(), "it has been replayed");
            put(&partition, "b").await;
            log.close().await.unwrap();
        });
    }
}

#[test]
fn trash_is_not_removed_because_the_clock_says_that_it_is_old() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    mainstem_simulation::run(4, |world| async move {
        let fs = world.disk();
        let process = world.process(&fs, 0);
        let (log, _events) = start(&process).await;
        log.open_partition(spec_of(0)).await.unwrap();
        log.close().await.unwrap();
        process.end();
        let process = world.process(&fs, 1);
        let (log, _events) = start(&process).await;
        assert_eq!(log.remove_unknown(&HashSet::new()).await.unwrap(), 1);
        log.close().await.unwrap();
        process.end();
        world.clock().advance(3 * DAY);
        let (log, _events) = start(&world.process(&fs, 2)).await;
        assert_eq!(log.empty_trash().await.unwrap(), 0);
        world.clock().advance(DAY / 2);
        assert_eq!(log.empty_trash().await.unwrap(), 0);
        world.clock().advance(DAY / 2);
        assert_eq!(log.empty_trash().await.unwrap(), 1);
        assert_eq!(log.empty_trash().await.unwrap(), 0);
    });
}
