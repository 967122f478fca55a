//! A disk that is full: publishers are held back, and what they sent is stored in its order or not
//! answered.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mainstem_env::{DirEntry, DirLock, File, Fs, MemFs, OpenMode, Space};

use super::{
    World,
    client::{Client, publish, text},
    world::HASTE,
};

/// Less than clients' records may take, more than internal topics need.
const LOW_BYTES: u64 = 200 << 20;

/// A disk that can be full.
#[derive(Default)]
struct Disk {
    files: MemFs,
    is_full: AtomicBool,
    /// How often it has said that it is.
    told: AtomicUsize,
}

impl Fs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.files.open(path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.files.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.files.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let space = self.files.space(path)?;
        if !self.is_full.load(Ordering::SeqCst) {
            return Ok(space);
        }
        self.told.fetch_add(1, Ordering::SeqCst);
        Ok(Space {
            available: LOW_BYTES,
            ..space
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.files.lock(path)
    }
}

/// Fills the disk, and returns when the log knows.
async fn fill(world: &World, disk: &Disk, other: &mut Client) {
    disk.is_full.store(true, Ordering::SeqCst);
    until_told(world, disk, 1, async || {
        other.send(&publish(4, 0, "full/a", (0, b"probe"))).await;
    })
    .await;
}

async fn until_told(world: &World, disk: &Disk, count: usize, mut ask: impl AsyncFnMut()) {
    while disk.told.load(Ordering::SeqCst) < count {
        ask().await;
        world.env.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_finds_the_disk_full_is_stored_in_order_when_there_is_space() {
    let disk = Arc::new(Disk::default());
    let world = World::on(disk.clone(), 1, |_| {}).await;
    let mut other = world.dial().enter(4, "other").await;
    let mut sender = world.dial().enter(5, "sender").await;
    sender.send(&publish(5, 2, "full/a", (1, b"first"))).await;
    assert_eq!(sender.packet().await, (0x40, vec![0, 1]));
    fill(&world, &disk, &mut other).await;
    let mut reader = world.dial().enter(4, "reader").await;
    reader.subscribe(4, "full/#", 0).await;
    let mut bytes = Vec::new();
    for (id, flags) in [(2, 2), (3, 4), (4, 2), (5, 4), (6, 2)] {
        bytes.extend_from_slice(&publish(5, flags, "full/a", (id, &[id as u8])));
    }
    sender.send(&bytes).await;
    until_told(&world, &disk, 4, async || {}).await;
    disk.is_full.store(false, Ordering::SeqCst);
    for (first, id) in [(0x40, 2), (0x50, 3), (0x40, 4), (0x50, 5), (0x40, 6)] {
        assert_eq!(sender.packet().await, (first, vec![0, id]));
    }
    for id in 2..=6 {
        let mut expected = text("full/a");
        expected.push(id);
        assert_eq!(reader.packet().await, (0x30, expected));
    }
    // It goes on as before.
    sender.send(&publish(5, 2, "full/a", (7, b"last"))).await;
    assert_eq!(sender.packet().await, (0x40, vec![0, 7]));
}

#[tokio::test]
async fn a_disk_that_stays_full_closes_the_connection_late_and_without_an_answer() {
    let disk = Arc::new(Disk::default());
    let world = World::on(disk.clone(), HASTE, |_| {}).await;
    let mut other = world.dial().enter(4, "other").await;
    other.send(&publish(4, 2, "full/a", (1, b"first"))).await;
    assert_eq!(other.packet().await, (0x40, vec![0, 1]));
    fill(&world, &disk, &mut other).await;
    for (level, flags) in [(5, 2), (5, 4), (5, 3), (4, 2)] {
        let mut sender = world.dial().enter(level, "sender").await;
        let began = world.env.now();
        for id in 1..=2 {
            let bytes = publish(level, flags, "full/a", (id, b"x"));
            sender.send(&bytes).await;
        }
        let rest = sender.rest().await;
        match level {
            5 => assert_eq!((rest.first(), rest.get(2)), (Some(&0xE0), Some(&0x89))),
            _ => assert!(rest.is_empty(), "{rest:x?}"),
        }
        let waited = world.env.now() - began;
        assert!(waited >= Duration::from_millis(4500), "{waited:?}");
    }
    let closed = world.counted("mainstem_mqtt_disconnects_total", "unavailable");
    assert_eq!(closed, 4.0);
}
