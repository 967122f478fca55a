use mainstem_record::{BrokerId, Incarnation};
use uuid::Uuid;

use super::*;
use crate::{
    apply::is_cluster_id,
    command::ApplyError,
    error::{ProposeError, Unavailability},
};

fn memory() -> MetadataOptions {
    MetadataOptions {
        dir: PathBuf::new(),
        node_id: 1,
        store: StoreKind::Memory,
    }
}

fn registration(expected: Option<Incarnation>) -> Command {
    Command::RegisterBroker {
        broker: BrokerId(1),
        directory_id: Uuid::from_u128(1),
        expected,
        listeners: Default::default(),
        peer: None,
        roles: Default::default(),
        intact: None,
        directory_life: None,
        request: Uuid::nil(),
    }
}

#[tokio::test]
async fn a_start_leads_and_names_the_cluster() {
    let metadata = Metadata::start(Env::real(), memory()).await.expect("start");
    let image = metadata.image();
    assert!(is_cluster_id(&image.cluster_id));
    let health = metadata.health();
    assert!(health.leader && !health.failed && health.applied >= image.version);
    assert!(health.term >= 1);
}

#[tokio::test]
async fn what_is_on_a_kept_disk_is_there_after_a_crash_and_nothing_else() {
    let disk = MemoryDisk::default();
    let on = |disk: &MemoryDisk| MetadataOptions {
        store: StoreKind::Kept(disk.clone()),
        ..memory()
    };
    let metadata = Metadata::start(Env::real(), on(&disk))
        .await
        .expect("start");
    metadata.propose(registration(None)).await.expect("applied");
    let crashed = disk.copy();
    let later = registration(Some(Incarnation(1)));
    metadata.propose(later).await.expect("applied");
    let again = Metadata::start(Env::real(), on(&crashed))
        .await
        .expect("start again");
    let (before, after) = (metadata.image(), again.image());
    assert_eq!(after.cluster_id, before.cluster_id);
    let incarnation = |image: &Image| image.brokers[&BrokerId(1)].incarnation;
    assert_eq!(incarnation(&before), Incarnation(2));
    assert_eq!(incarnation(&after), Incarnation(1));
}

#[tokio::test]
async fn the_image_is_as_new_as_the_answer_and_changes_are_told() {
    let metadata = Metadata::start(Env::real(), memory()).await.expect("start");
    let mut changes = metadata.changes();
    let before = *changes.borrow_and_update();
    let answer = metadata.propose(registration(None)).await;
    assert_eq!(
        answer,
        Ok(Applied::Registered {
            incarnation: Incarnation(1)
        })
    );
    let image = metadata.image();
    assert!(image.brokers.contains_key(&BrokerId(1)));
    changes.changed().await.expect("told");
    assert_eq!(*changes.borrow(), image.version);
    assert!(image.version > before);

    let again = metadata.propose(registration(None)).await;
    let current = Some(Incarnation(1));
    assert_eq!(
        again,
        Err(ProposeError::Apply(ApplyError::StaleIncarnation {
            current
        }))
    );
}

#[tokio::test]
async fn racing_proposers_are_all_answered_once() {
    let env = Env::real();
    let metadata = Metadata::start(env.clone(), memory()).await.expect("start");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    for _ in 0..64 {
        let (metadata, sender) = (metadata.clone(), sender.clone());
        env.spawn("proposer", async move {
            let answer = metadata
                .propose(Command::AllocateProducerIds { count: 3 })
                .await;
            sender.send(answer).await.expect("send");
        });
    }
    drop(sender);
    let mut firsts = Vec::new();
    while let Some(answer) = receiver.recv().await {
        let Ok(Applied::ProducerIds { first, count: 3 }) = answer else {
            panic!("{answer:?}")
        };
        firsts.push(first);
    }
    firsts.sort_unstable();
    assert_eq!(firsts, (0..64).map(|index| index * 3).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_closed_service_refuses_and_keeps_its_image() {
    let metadata = Metadata::start(Env::real(), memory()).await.expect("start");
    metadata.close().await.expect("close");
    metadata.close().await.expect("close again");
    let answer = metadata.propose(Command::Barrier).await;
    assert_eq!(
        answer,
        Err(ProposeError::Unavailable(Unavailability::Closing))
    );
    assert!(answer.expect_err("closed").is_retriable());
    assert!(!metadata.health().leader && !metadata.health().failed);
    assert!(!metadata.image().cluster_id.is_empty());
}

#[cfg(not(feature = "rocksdb"))]
#[tokio::test]
async fn a_build_without_rocksdb_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let options = MetadataOptions {
        dir: dir.path().join("d"),
        ..memory()
    };
    let options = MetadataOptions {
        store: StoreKind::RocksDb,
        ..options
    };
    let error = Metadata::start(Env::real(), options)
        .await
        .expect_err("not built");
    assert!(matches!(error, MetadataError::StoreNotBuilt));
}

#[cfg(feature = "rocksdb")]
mod on_disk {
    use std::{fs, path::Path};

    use super::*;
    use crate::identity::IDENTITY_FILE;

    fn options(dir: &Path) -> MetadataOptions {
        MetadataOptions {
            dir: dir.to_owned(),
            node_id: 1,
            store: StoreKind::RocksDb,
        }
    }

    async fn start(dir: &Path) -> Result<Metadata, MetadataError> {
        Metadata::start(Env::real(), options(dir)).await
    }

    /// A data directory in which two lives have committed something.
    async fn used() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        for life in 0..2 {
            let metadata = start(dir.path()).await.expect("start");
            let expected = Some(life).filter(|life| *life > 0).map(Incarnation);
            metadata
                .propose(registration(expected))
                .await
                .expect("propose");
            metadata.close().await.expect("close");
        }
        dir
    }

    fn listing(dir: &Path) -> Vec<(String, u64)> {
        let mut found: Vec<(String, u64)> = fs::read_dir(dir)
            .expect("list")
            .map(|entry| entry.expect("entry"))
            .map(|entry| {
                let len = entry.metadata().expect("metadata").len();
                (entry.file_name().to_string_lossy().into_owned(), len)
            })
            // RocksDB writes its own log also when it refuses to open.
            .filter(|(name, _)| !name.starts_with("LOG"))
            .collect();
        found.sort();
        found
    }

    /// Removes the files in the store for which `which` holds; the start must then fail, name the
    /// store and leave it as it is.
    async fn refused_without(what: &str, which: fn(&str) -> bool) {
        let dir = used().await;
        let store = dir.path().join(STORE_DIR);
        let doomed: Vec<(String, u64)> = listing(&store)
            .into_iter()
            .filter(|(name, _)| which(name))
            .collect();
        assert!(!doomed.is_empty(), "no {what} in {:?}", listing(&store));
        for (name, _) in &doomed {
            fs::remove_file(store.join(name)).expect("remove");
        }
        let before = listing(&store);
        let error = start(dir.path()).await.expect_err(what);
        assert!(
            error.to_string().contains(&*store.to_string_lossy()),
            "{error}"
        );
        assert_eq!(listing(&store), before, "{what}");
    }

    #[tokio::test]
    async fn a_restart_keeps_everything() {
        let dir = tempfile::tempdir().expect("dir");
        let metadata = start(dir.path()).await.expect("start");
        metadata.propose(registration(None)).await.expect("propose");
        let first = metadata.image();
        metadata.close().await.expect("close");
        let metadata = start(dir.path()).await.expect("start");
        let second = metadata.image();
        assert_eq!(
            *second,
            Image {
                version: second.version,
                ..(*first).clone()
            }
        );
        assert!(second.version > first.version);
        metadata.close().await.expect("close");
        let identity = Identity::load_or_create(&Env::real(), dir.path(), 1)
            .await
            .expect("load");
        assert!(identity.store_made);
        assert_eq!(identity.cluster_id, first.cluster_id);
    }

    #[tokio::test]
    async fn a_crash_keeps_every_answer() {
        let dir = tempfile::tempdir().expect("dir");
        let metadata = start(dir.path()).await.expect("start");
        metadata.propose(registration(None)).await.expect("propose");
        // A copy of the files while the store is open is what a killed process leaves.
        let copy = tempfile::tempdir().expect("dir");
        fs::create_dir(copy.path().join(STORE_DIR)).expect("make");
        for name in [IDENTITY_FILE.to_owned()].into_iter().chain(
            listing(&dir.path().join(STORE_DIR))
                .into_iter()
                .map(|(name, _)| format!("{STORE_DIR}/{name}")),
        ) {
            fs::copy(dir.path().join(&name), copy.path().join(&name)).expect("copy");
        }
        let image = metadata.image();
        metadata.close().await.expect("close");
        let metadata = start(copy.path()).await.expect("start");
        assert_eq!(metadata.image().brokers, image.brokers);
        metadata.close().await.expect("close");
    }

    #[tokio::test]
    async fn a_start_that_died_before_its_first_commit_is_finished() {
        let dir = tempfile::tempdir().expect("dir");
        Identity::load_or_create(&Env::real(), dir.path(), 1)
            .await
            .expect("make");
        let path = dir.path().join(STORE_DIR);
        let store = crate::store::RocksStore::open(&path, true).expect("make");
        store.close().expect("close");
        let metadata = start(dir.path()).await.expect("start");
        let known = Identity::load_or_create(&Env::real(), dir.path(), 1).await;
        let known = known.expect("load");
        assert!(known.store_made);
        assert_eq!(metadata.image().cluster_id, known.cluster_id);
        metadata.close().await.expect("close");
    }

    #[tokio::test]
    async fn a_lost_store_is_not_made_anew() {
        let dir = used().await;
        let store = dir.path().join(STORE_DIR);
        fs::remove_dir_all(&store).expect("remove");
        let error = start(dir.path()).await.expect_err("lost");
        assert!(matches!(error, MetadataError::StoreLost { .. }), "{error}");
        assert!(!store.exists());
        fs::create_dir(&store).expect("make");
        let error = start(dir.path()).await.expect_err("emptied");
        assert!(matches!(error, MetadataError::StoreLost { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_lost_identity_is_not_made_anew() {
        let dir = used().await;
        fs::remove_file(dir.path().join(IDENTITY_FILE)).expect("remove");
        let error = start(dir.path()).await.expect_err("lost");
        assert!(
            matches!(error, MetadataError::IdentityMissing { .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn missing_files_are_refused() {
        refused_without("table files", |name| name.ends_with(".sst")).await;
        refused_without("current", |name| name == "CURRENT").await;
        refused_without("manifest", |name| name.starts_with("MANIFEST")).await;
        refused_without("write-ahead log", |name| name.ends_with(".log")).await;
    }

    #[tokio::test]
    async fn damage_inside_the_write_ahead_log_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let metadata = start(dir.path()).await.expect("start");
        for _ in 0..20 {
            metadata
                .propose(Command::AllocateProducerIds { count: 1 })
                .await
                .expect("propose");
        }
        let copy = tempfile::tempdir().expect("dir");
        let store = copy.path().join(STORE_DIR);
        fs::create_dir(&store).expect("make");
        fs::copy(
            dir.path().join(IDENTITY_FILE),
            copy.path().join(IDENTITY_FILE),
        )
        .expect("copy");
        for (name, len) in listing(&dir.path().join(STORE_DIR)) {
            let mut bytes = fs::read(dir.path().join(STORE_DIR).join(&name)).expect("read");
            if name.ends_with(".log") && len > 0 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
            }
            fs::write(store.join(&name), bytes).expect("write");
        }
        metadata.close().await.expect("close");
        let error = start(copy.path()).await.expect_err("damaged");
        assert!(
            matches!(error, MetadataError::StoreDamaged { .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_store_of_another_cluster_is_refused() {
        let (one, two) = (used().await, used().await);
        fs::copy(
            one.path().join(IDENTITY_FILE),
            two.path().join(IDENTITY_FILE),
        )
        .expect("copy");
        let error = start(two.path()).await.expect_err("mixed up");
        assert!(
            matches!(error, MetadataError::StoreOfOtherCluster { .. }),
            "{error}"
        );
    }
}
