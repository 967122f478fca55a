//! What the simulated disk keeps and loses, and that a seed repeats itself.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
    time::Duration,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_simulation::{Chances, Dice, FaultKind, Faults, SimFs, World, run};

fn put(file: &Arc<dyn File>, bytes: &[u8], at: u64) {
    file.write_all_vectored_at(&[IoSlice::new(bytes)], at)
        .unwrap();
}

/// A disk with a durable file `/d/f`.
fn disk_with(content: &[u8]) -> (SimFs, Arc<dyn File>) {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/d")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    let file = fs.open(Path::new("/d/f"), OpenMode::CreateNew).unwrap();
    put(&file, content, 0);
    file.sync_data().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    (fs, file)
}

fn contents(fs: &SimFs) -> Vec<u8> {
    fs.read(Path::new("/d/f"), 1 << 20).unwrap()
}

#[test]
fn what_is_synced_survives_every_power_cut() {
    let (fs, _file) = disk_with(&[7; 10_000]);
    for seed in 0..200 {
        assert_eq!(contents(&fs.power_cut(seed)), [7; 10_000]);
    }
}

#[test]
fn unsynced_writes_are_lost_torn_and_reordered_by_sectors_and_lengths() {
    let (fs, file) = disk_with(&[0; 8192]);
    put(&file, &[1; 5000], 0);
    put(&file, &[2; 5000], 5000);
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let left = contents(&fs.power_cut(seed));
        assert!((8192..=10_000).contains(&left.len()));
        for (sector, bytes) in left.chunks(512).enumerate() {
            // Sector 9 ends in the second write, which was made on top of the first.
            let whole = |at: usize| match sector * 512 + at {
                at if at < 5000 => 1,
                _ => 2,
            };
            let new = bytes
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == whole(at));
            let old = bytes.iter().all(|byte| *byte == 0);
            assert!(new || old, "sector {sector} is torn");
        }
        seen.insert(left);
    }
    assert!(seen.len() > 100);
    let counts = fs.counts();
    for kind in [
        FaultKind::TornSector,
        FaultKind::TornPage,
        FaultKind::LostData,
        FaultKind::Reordered,
        FaultKind::LostLength,
    ] {
        assert!(counts.get(kind) > 0, "{kind:?} never happened");
    }
}

#[test]
fn names_survive_only_a_sync_of_their_directory() {
    let (fs, _file) = disk_with(b"old");
    let made = fs.open(Path::new("/d/f.tmp"), OpenMode::Create).unwrap();
    put(&made, b"new", 0);
    made.sync_all().unwrap();
    fs.rename(Path::new("/d/f.tmp"), Path::new("/d/f")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        seen.insert(contents(&fs.power_cut(seed)));
    }
    assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    fs.sync_dir(Path::new("/d")).unwrap();
    for seed in 0..100 {
        assert_eq!(contents(&fs.power_cut(seed)), b"new");
    }
    assert!(fs.counts().get(FaultKind::LostRename) > 0);
    assert!(fs.counts().get(FaultKind::LostEntry) > 0);
}

#[test]
fn pages_of_a_failed_sync_count_as_clean_until_they_are_written_again() {
    let (fs, file) = disk_with(&[0; 4096]);
    put(&file, &[1; 4096], 0);
    fs.set_faults(Faults {
        sync: true,
        ..Faults::default()
    });
    assert!(file.sync_data().is_err());
    fs.set_faults(Faults::default());
    file.sync_data().unwrap();
    assert_eq!(contents(&fs), [1; 4096], "the page cache still has it");
    assert!(contents(&fs.power_cut(0)).contains(&0), "the disk has not");
    put(&file, &[1; 4096], 0);
    file.sync_data().unwrap();
    assert_eq!(contents(&fs.power_cut(0)), [1; 4096]);
}

#[test]
fn cut_and_grown_files_show_no_old_bytes_once_synced() {
    let (fs, file) = disk_with(&[9; 3000]);
    file.set_len(700).unwrap();
    file.set_len(2500).unwrap();
    put(&file, &[3; 10], 2000);
    let expected = contents(&fs);
    assert_eq!(expected[700..2000], [0; 1300]);
    file.sync_data().unwrap();
    for seed in 0..50 {
        assert_eq!(contents(&fs.power_cut(seed)), expected);
    }
}

#[test]
fn removed_and_renamed_directories_behave_as_on_a_real_disk() {
    let (fs, file) = disk_with(b"x");
    fs.rename(Path::new("/d"), Path::new("/e")).unwrap();
    assert_eq!(fs.read(Path::new("/e/f"), 10).unwrap(), b"x");
    assert!(!fs.exists(Path::new("/d/f")).unwrap());
    fs.remove_dir_all(Path::new("/e")).unwrap();
    assert!(!fs.exists(Path::new("/e")).unwrap());
    // An open file outlives its name.
    assert_eq!(file.len().unwrap(), 1);
    let missing = fs.open(Path::new("/e/f"), OpenMode::Create).err().unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn chances_hit_calls_and_reads_go_on_over_short_ones() {
    run(3, |world| async move {
        let fs = world.disk();
        let file = fs.open(Path::new("/f"), OpenMode::Create).unwrap();
        let content: Vec<u8> = (0..5000_u32).map(|i| i as u8).collect();
        put(&file, &content, 0);
        let chances = Chances {
            short_read: 5000,
            write_error: 2000,
            no_space: 2000,
            sync_error: 2000,
            stall: 1000,
            ..Chances::default()
        };
        fs.set_chances(chances, world.dice(1));
        for _ in 0..50 {
            let mut back = vec![0; 5000];
            file.read_exact_at(&mut back, 0).unwrap();
            assert_eq!(back, content);
            // Whether they fail is the disk's choice.
            let _ = file.write_all_vectored_at(&[IoSlice::new(&content)], 0);
            let _ = file.sync_data();
        }
        for kind in [
            FaultKind::ShortRead,
            FaultKind::WriteError,
            FaultKind::NoSpace,
            FaultKind::SyncError,
            FaultKind::Stall,
        ] {
            assert!(fs.counts().get(kind) > 0, "{kind:?} never happened");
        }
    });
}

/// Tasks that write in the order in which the seed lets them go.
async fn history(world: World) -> (u64, u64, Duration) {
    let fs = world.disk();
    let process = world.process(&fs, 0);
    let mut done = Vec::new();
    for task in 0..5_u64 {
        let env = process.env.clone();
        done.push(process.env.start("writer", async move {
            for turn in 0..5_u64 {
                env.sleep(Duration::from_millis(env.random_u64() % 3)).await;
                let this = env.clone();
                env.blocking("write", move || {
                    let file = this.fs.open(Path::new("/f"), OpenMode::Create).unwrap();
                    put(&file, &[task as u8; 100], turn * 70);
                })
                .await;
            }
        }));
    }
    for task in done {
        task.await.unwrap();
    }
    let left = fs.power_cut(world.seed());
    (fs.history(), left.image_digest(), process.env.now())
}

#[test]
fn same_seed_gives_the_same_history_and_another_seed_another() {
    let of = |seed| run(seed, history);
    let all: BTreeSet<_> = (0..20).map(of).collect();
    assert_eq!(all.len(), 20);
    for seed in 0..20 {
        assert!(all.contains(&of(seed)));
    }
}

#[test]
fn time_passes_only_when_nothing_can_run_and_an_ended_process_does_nothing() {
    run(0, |world| async move {
        let process = world.process(&world.disk(), 0);
        let env = process.env.clone();
        let (begin, long) = (env.now(), Duration::from_secs(3600));
        env.sleep(long).await;
        assert_eq!(env.now() - begin, long);
        let ran = env.start("task", {
            let env = env.clone();
            async move { env.sleep(long).await }
        });
        process.end();
        assert!(ran.await.is_err());
    });
}

#[test]
#[should_panic = "everything waits, and there is no timer"]
fn deadlock_is_found() {
    run(0, |_| std::future::pending::<()>());
}

#[test]
fn dice_are_fair_enough() {
    let mut dice = Dice::new(1);
    let hits = (0..10_000).filter(|_| dice.chance(1000)).count();
    assert!((800..1200).contains(&hits));
    assert_eq!(dice.below(0), 0);
}
