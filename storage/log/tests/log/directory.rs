//! The directory of the log: made once, and never made anew in the place of one that is lost.

use std::{path::Path, sync::Arc};

use mainstem_env::Fs;
use mainstem_log::{Flush, FormatDamage, Log, LogError};
use mainstem_simulation::SimFs;

use crate::support::{append, batch, inline_env, options, run, spec, start, values};

async fn start_existing(fs: &SimFs) -> Result<Log, LogError> {
    let env = inline_env(Arc::new(fs.clone()));
    let registry = prometheus::Registry::new();
    let (log, _events) = Log::start_existing(env, options(), &registry).await?;
    Ok(log)
}

/// What a log with one record leaves after a clean stop.
async fn used() -> SimFs {
    let fs = SimFs::new();
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let (log, _events) = start(&shared, options()).await;
    let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
    let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
    ticket.await.unwrap();
    log.close().await.unwrap();
    fs.process_death()
}

#[test]
fn whole_directory_is_taken_with_what_is_in_it() {
    run(async {
        let fs = used().await;
        let log = start_existing(&fs).await.unwrap();
        let partition = log.open_partition(spec(Flush::Always)).await.unwrap();
        assert_eq!(values(&partition).await, ["a"]);
    });
}

#[test]
fn lost_directory_is_named_and_nothing_is_made_or_deleted() {
    run(async {
        for lost in ["/log", "/log/format", "/log/partitions"] {
            let fs = used().await;
            if lost == "/log/format" {
                fs.remove_file(Path::new(lost)).unwrap();
            } else {
                fs.remove_dir_all(Path::new(lost)).unwrap();
            }
            let before = (fs.files(""), fs.exists(Path::new("/log")).unwrap());
            let error = start_existing(&fs).await.unwrap_err();
            match &error {
                LogError::Lost { dir, missing } => {
                    assert_eq!(dir, Path::new("/log"));
                    assert_eq!(missing, Path::new(lost));
                }
                other => panic!("{lost}: {other}"),
            }
            assert!(error.to_string().contains("/log"), "{error}");
            assert_eq!(
                (fs.files(""), fs.exists(Path::new("/log")).unwrap()),
                before,
                "{lost}"
            );
        }
    });
}

#[test]
fn lost_partitions_are_not_made_anew_by_a_node_that_is_not_registered_either() {
    run(async {
        let fs = used().await;
        fs.remove_dir_all(Path::new("/log/partitions")).unwrap();
        let registry = prometheus::Registry::new();
        let started = Log::start(inline_env(Arc::new(fs.clone())), options(), &registry).await;
        assert!(matches!(started, Err(LogError::Lost { .. })));
        assert!(!fs.exists(Path::new("/log/partitions")).unwrap());
    });
}

#[test]
fn damaged_format_file_ends_the_start_and_stays() {
    run(async {
        let fs = used().await;
        let path = fs.files("/format")[0].clone();
        fs.edit(&path, |content| content[4] ^= 1);
        let files = fs.files("");
        let error = start_existing(&fs).await.unwrap_err();
        assert!(matches!(
            error,
            LogError::Format {
                damage: FormatDamage::Bytes,
                ..
            }
        ));
        assert!(error.to_string().contains("/log/format"), "{error}");
        assert_eq!(fs.files(""), files);
    });
}

#[test]
fn directory_that_a_first_start_has_made_survives_a_power_cut_at_once() {
    run(async {
        for seed in 0..50 {
            let fs = SimFs::new();
            let shared: Arc<dyn Fs> = Arc::new(fs.clone());
            let (_log, _events) = start(&shared, options()).await;
            let started = start_existing(&fs.power_cut(seed)).await;
            assert!(started.is_ok(), "seed {seed}: {:?}", started.err());
        }
    });
}
