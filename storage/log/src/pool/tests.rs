use std::sync::Barrier;

use mainstem_env::{DirEntry, DirLock, Fs, MemFs, Space};

use super::*;

fn pool(fs: &(impl Fs + Clone + 'static), open_max: usize) -> ShardPool {
    struct Inline;
    impl mainstem_env::Tasks for Inline {
        fn spawn(&self, _: &'static str, _: mainstem_env::BoxFuture<'static, ()>) {}
        fn blocking(&self, _: &'static str, work: Box<dyn FnOnce() + Send>) {
            work();
        }
    }
    let mut env = Env::real().with_fs(Arc::new(fs.clone()));
    env.tasks = Arc::new(Inline);
    Pool::new(env, open_max).for_shard(Health::new(0).0)
}

#[test]
fn few_are_open_and_all_can_be_used() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/p")).expect("directory");
    let pool = pool(&fs, 8);
    let files: Vec<_> = (0..100)
        .map(|n| {
            let path = PathBuf::from(format!("/p/{n}"));
            pool.open(&path, OpenMode::Create).expect("opens")
        })
        .collect();
    let open = || pool.pool.open.load(Ordering::Acquire);
    assert!(open() <= 9, "{}", open());
    for round in 0..3_u8 {
        for (n, file) in files.iter().enumerate() {
            let at = u64::from(round);
            file.write_all_vectored_at(&[IoSlice::new(&[n as u8])], at)
                .expect("written");
            assert!(open() <= 10, "{}", open());
        }
    }
    for (n, file) in files.iter().enumerate() {
        let mut content = [0; 3];
        file.read_exact_at(&mut content, 0).expect("read");
        assert_eq!(content, [n as u8; 3]);
        assert_eq!(file.len().expect("known"), 3);
    }
    drop(files);
    assert_eq!(open(), 0);
}

#[test]
fn write_that_could_not_open_the_file_is_taken_back_without_opening_it() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/p")).expect("directory");
    let pool = pool(&fs, 1);
    let file = pool.open(Path::new("/p/a"), OpenMode::Create).expect("a");
    file.write_all_vectored_at(&[IoSlice::new(b"abc")], 0)
        .expect("written");
    file.sync_data().expect("synced");
    let _others: Vec<_> = (0..5)
        .map(|n| {
            let path = PathBuf::from(format!("/p/{n}"));
            pool.open(&path, OpenMode::Create).expect("opens")
        })
        .collect();
    // It cannot be opened again.
    fs.rename(Path::new("/p/a"), Path::new("/p/b"))
        .expect("renamed");
    let write = file.write_all_vectored_at(&[IoSlice::new(b"def")], 3);
    assert!(write.is_err());
    file.set_len(3).expect("nothing to do");
    assert!(file.set_len(2).is_err());
}

#[test]
fn files_that_are_gone_are_forgotten() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/p")).expect("directory");
    let pool = pool(&fs, 8);
    let kept = pool.open(Path::new("/p/kept"), OpenMode::Create);
    for n in 0..100 {
        let path = PathBuf::from(format!("/p/{n}"));
        pool.open(&path, OpenMode::Create).expect("opens");
    }
    assert_eq!(pool.pool.files.lock().len(), 1);
    drop(kept);
    assert_eq!(pool.pool.files.lock().len(), 0);
}

#[test]
fn what_is_synced_is_closed_before_what_would_need_a_sync() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/p")).expect("directory");
    let pool = pool(&fs, 64);
    let open = |n: usize| {
        let path = PathBuf::from(format!("/p/{n}"));
        pool.open(&path, OpenMode::Create).expect("opens")
    };
    let is_open = |key: u64| {
        let file = pool.pool.files.lock().get(&key).and_then(Weak::upgrade);
        file.is_some_and(|file| file.state.lock().file.is_some())
    };
    let mut files = Vec::new();
    for n in 0..32 {
        let file = open(n);
        file.write_all_vectored_at(&[IoSlice::new(b"x")], 0)
            .expect("written");
        files.push(file);
    }
    // Synced ones come and go, and the others stay.
    files.extend((32..300).map(open));
    assert!((0..32).all(is_open));
    // Where all need a sync, no more are closed than there are too many.
    for file in &files[32..] {
        let before = pool.pool.open.load(Ordering::Acquire);
        file.write_all_vectored_at(&[IoSlice::new(b"x")], 0)
            .expect("written");
        let after = pool.pool.open.load(Ordering::Acquire);
        assert!(
            after + SYNCS_MAX >= before || after >= 56,
            "{before} {after}"
        );
        assert!(after <= 64 + 2 * SYNCS_MAX, "{after}");
    }
    let unsynced = files.iter().zip(0..).filter(|(_, key)| is_open(*key));
    assert!(unsynced.count() >= 56);
}

/// Holds the next open back, between the two meetings at its gate.
#[derive(Clone)]
struct SlowOpen {
    inner: MemFs,
    is_slow: Arc<AtomicBool>,
    gate: Arc<Barrier>,
}

impl Fs for SlowOpen {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if self.is_slow.swap(false, Ordering::AcqRel) {
            self.gate.wait();
            self.gate.wait();
        }
        self.inner.open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.inner.lock(path)
    }
}

#[test]
fn slow_open_of_a_reader_does_not_hold_the_writer() {
    let fs = SlowOpen {
        inner: MemFs::new(),
        is_slow: Arc::default(),
        gate: Arc::new(Barrier::new(2)),
    };
    fs.create_dir_all(Path::new("/p")).expect("directory");
    let pool = pool(&fs, 1);
    let file = pool.open(Path::new("/p/a"), OpenMode::Create).expect("a");
    let others: Vec<_> = (0..5)
        .map(|n| {
            let path = PathBuf::from(format!("/p/{n}"));
            pool.open(&path, OpenMode::Create).expect("opens")
        })
        .collect();
    drop(others);
    assert_eq!(pool.pool.open.load(Ordering::Acquire), 0);
    fs.is_slow.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut content = [0];
            file.read_exact_at(&mut content, 0).map(|()| content)
        });
        fs.gate.wait();
        file.write_all_vectored_at(&[IoSlice::new(b"x")], 0)
            .expect("written");
        fs.gate.wait();
        let content = reader.join().expect("no panic").expect("read");
        assert_eq!(content, *b"x");
    });
    // Of the two that were opened one is kept, and it knows what is not synced.
    assert_eq!(pool.pool.open.load(Ordering::Acquire), 1);
    file.sync_data().expect("synced");
}
