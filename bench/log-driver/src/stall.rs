//! Isolation: what a stalled disk of one shard costs everybody else.
//!
//! A file system stands between the log and the disk and stalls one write or sync of one shard now
//! and then. Meanwhile others go on at a steady pace: appends of the other shards, reads of the
//! stalled shard's partitions, an echo over a socket on the same runtime. An operation counts from
//! when it was due, so that one that is held up counts for those behind it too.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use mainstem_env::{DirEntry, DirLock, Env, File, Fs, OpenMode, RealFs, Space};
use mainstem_log::{AppendTicket, LogOptions, Partition, Read};
use mainstem_record::Offset;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    Outcome, Report,
    args::{Args, Policy},
    load::{Batches, LARGE_BYTES, Layout, Node, SMALL_BYTES, durable, fill},
    usage::{micros, percentile, put},
};

/// How long a stall takes.
const STALL: Duration = Duration::from_secs(1);

/// From the end of one stall to the next.
const BETWEEN_STALLS: Duration = Duration::from_millis(500);

/// A stall that has not taken place by then never will.
const STALL_MAX: Duration = Duration::from_secs(10);

/// The pace of each that goes on meanwhile.
const PACE: Duration = Duration::from_millis(4);

/// Partitions, spread over the shards.
const PARTITIONS: i32 = 32;

/// Batches of the stalled partition that are there to be read.
const READABLE_BATCHES: i64 = 2048;

/// More than one of them has under way during a stall.
const UNDER_WAY_MAX: usize = 4096;

/// What an echo sends.
const ECHO_BYTES: usize = 64;

/// Which calls are stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
}

/// When to stall whom.
struct Staller {
    call: Call,
    armed: AtomicBool,
    /// The directory of the stalled partition and the number of its shard.
    victim: Mutex<Option<(PathBuf, usize)>>,
    /// When stalls began and ended.
    stalls: Mutex<Vec<(Duration, Duration)>>,
    env: Env,
}

struct StallFs {
    real: RealFs,
    staller: Arc<Staller>,
}

struct StallFile {
    real: Arc<dyn File>,
    path: PathBuf,
    staller: Arc<Staller>,
}

/// What goes on while a shard stalls.
enum Probe {
    Append(Partition, Box<Batches>),
    Read(Partition, Offset),
    Echo(TcpStream),
}

/// When an operation was due, and how long after that it was done.
type Sample = (Duration, Duration);

/// One-second stalls of a shard, and the delays of those who do not need it.
pub(crate) async fn stall(env: Env, mut args: Args) -> Outcome<Report> {
    let count = args.get("stalls", 3)?;
    let policy = args.get("flush", Policy::Mixed)?;
    let call = match args.get("call", "write".to_owned())?.as_str() {
        "write" => Call::Write,
        "sync" => Call::Sync,
        other => return Err(format!("call={other}: write or sync").into()),
    };
    let options = LogOptions::new(args.dir().join("log"));
    args.all_read()?;
    let staller = Arc::new(Staller::new(call, env.clone()));
    let fs = StallFs {
        real: RealFs,
        staller: staller.clone(),
    };
    let node = Node::start_with(env.clone().with_fs(Arc::new(fs)), options).await?;
    let layout = Layout {
        partitions: PARTITIONS,
        sealed: 0,
        batches: 0,
        policy,
    };
    let partitions = node.open(layout).await?;
    // With Policy::Mixed one of those whose appends are synced.
    let victim = partitions.get(2).ok_or("no partition")?.clone();
    let mut large = Batches::of(&env, LARGE_BYTES)?;
    fill(&victim, &mut large, READABLE_BATCHES).await?;
    *staller.victim.lock() = Some((directory(&node, &victim), victim.shard()));

    let stop = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for (name, probe) in probes(&env, &partitions, &victim).await? {
        running.spawn(pace(env.clone(), stop.clone(), name, probe));
    }
    let own = stop.clone();
    let mut small = Batches::of(&env, SMALL_BYTES)?;
    let loaded = env.start("bench-victim", async move {
        while !own.load(Ordering::Relaxed) {
            victim.append(durable(small.fresh())).await?.await?;
        }
        Outcome::Ok(())
    });
    for _ in 0..count {
        env.sleep(BETWEEN_STALLS).await;
        staller.once().await?;
    }
    env.sleep(BETWEEN_STALLS).await;
    stop.store(true, Ordering::Relaxed);
    loaded.await??;
    let mut samples = Vec::new();
    while let Some(done) = running.join_next().await {
        samples.push(done??);
    }
    node.log.close().await?;
    let stalls = staller.stalls.lock().clone();
    Ok(report(&samples, &stalls))
}

/// The delays of each kind, within the stalls and outside of them.
fn report(samples: &[(&'static str, Vec<Sample>)], stalls: &[(Duration, Duration)]) -> Report {
    let stalled = |due: Duration| {
        stalls
            .iter()
            .any(|(began, ended)| (*began..*ended).contains(&due))
    };
    let mut report = Report::new();
    put(&mut report, "stalls", stalls.len());
    for kind in ["append", "read", "echo"] {
        let of_kind = samples.iter().filter(|(name, _)| *name == kind);
        let all = of_kind.flat_map(|(_, samples)| samples);
        let (within, outside): (Vec<&Sample>, Vec<&Sample>) =
            all.partition(|(due, _)| stalled(*due));
        for (name, samples) in [("", within), ("_without", outside)] {
            let mut delays: Vec<Duration> = samples.iter().map(|(_, delay)| *delay).collect();
            let p99 = micros(percentile(&mut delays, 0.99));
            put(&mut report, &format!("{kind}{name}_p99_us"), p99);
            put(&mut report, &format!("{kind}{name}_count"), delays.len());
        }
    }
    report
}

/// Appends to every partition of the other shards, reads of the stalled one, and an echo.
async fn probes(
    env: &Env,
    partitions: &[Partition],
    victim: &Partition,
) -> Outcome<Vec<(&'static str, Probe)>> {
    let mut probes = Vec::new();
    let others = partitions.iter().filter(|p| p.shard() != victim.shard());
    for other in others {
        let batches = Box::new(Batches::of(env, SMALL_BYTES)?);
        probes.push(("append", Probe::Append(other.clone(), batches)));
    }
    if probes.is_empty() {
        return Err("all partitions are of one shard".into());
    }
    probes.push(("read", Probe::Read(victim.clone(), Offset(0))));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    stream.set_nodelay(true)?;
    let (mut peer, _) = listener.accept().await?;
    peer.set_nodelay(true)?;
    env.spawn("bench-echo", async move {
        let mut buffer = [0; ECHO_BYTES];
        // Ends when the other side has closed.
        while peer.read_exact(&mut buffer).await.is_ok() && peer.write_all(&buffer).await.is_ok() {}
    });
    probes.push(("echo", Probe::Echo(stream)));
    Ok(probes)
}

async fn pace(
    env: Env,
    stop: Arc<AtomicBool>,
    name: &'static str,
    mut probe: Probe,
) -> Outcome<(&'static str, Vec<Sample>)> {
    let (sender, receiver) = mpsc::channel(UNDER_WAY_MAX);
    let collector = env.start("bench-collect", collect(env.clone(), receiver));
    let mut samples = Vec::new();
    let mut due = env.now();
    while !stop.load(Ordering::Relaxed) {
        due += PACE;
        env.sleep(due.saturating_sub(env.now())).await;
        match probe.once().await? {
            // Its successors do not wait for it: a slow disk would make them late, too.
            Some(ticket) => sender.send((due, ticket)).await?,
            None => samples.push((due, env.now().saturating_sub(due))),
        }
    }
    drop(sender);
    samples.extend(collector.await??);
    Ok((name, samples))
}

/// Waits for appends of one partition, which complete in order.
async fn collect(
    env: Env,
    mut receiver: mpsc::Receiver<(Duration, AppendTicket)>,
) -> Outcome<Vec<Sample>> {
    let mut samples = Vec::new();
    while let Some((due, ticket)) = receiver.recv().await {
        ticket.await?;
        samples.push((due, env.now().saturating_sub(due)));
    }
    Ok(samples)
}

fn directory(node: &Node, partition: &Partition) -> PathBuf {
    let id = partition.id();
    let topic = id.topic.0.to_string();
    node.dir()
        .join("partitions")
        .join(topic)
        .join(id.index.0.to_string())
}

// === impl Probe ===

impl Probe {
    /// Does it once; of an append, what is left to wait for.
    async fn once(&mut self) -> Outcome<Option<AppendTicket>> {
        match self {
            Self::Append(partition, batches) => {
                let ticket = partition.append(durable(batches.fresh())).await?;
                return Ok(Some(ticket));
            }
            Self::Read(partition, from) => {
                let read = Read {
                    from: *from,
                    bytes_max: LARGE_BYTES,
                    at_least_one_batch: true,
                    end: Offset(READABLE_BATCHES),
                };
                let chunk = partition.read(read).await?;
                let again = chunk.next >= read.end;
                *from = if again { Offset(0) } else { chunk.next };
            }
            Self::Echo(stream) => {
                let mut buffer = [7; ECHO_BYTES];
                stream.write_all(&buffer).await?;
                stream.read_exact(&mut buffer).await?;
            }
        }
        Ok(None)
    }
}

// === impl Staller ===

impl Staller {
    fn new(call: Call, env: Env) -> Self {
        Self {
            call,
            armed: AtomicBool::new(false),
            victim: Mutex::new(None),
            stalls: Mutex::default(),
            env,
        }
    }

    /// Stalls the next call, and returns when that is over.
    async fn once(&self) -> Outcome<()> {
        let before = self.stalls.lock().len();
        let end = self.env.now() + STALL_MAX;
        self.armed.store(true, Ordering::Release);
        while self.stalls.lock().len() == before {
            if self.env.now() > end {
                return Err("nothing was there to be stalled".into());
            }
            self.env.sleep(PACE).await;
        }
        Ok(())
    }

    /// Stalls a call on `path` if it is the one.
    fn pass(&self, call: Call, path: &Path) {
        if call != self.call || !self.armed.load(Ordering::Acquire) || !self.is_victim(path) {
            return;
        }
        if self.armed.swap(false, Ordering::AcqRel) {
            let began = self.env.now();
            thread::sleep(STALL);
            self.stalls.lock().push((began, self.env.now()));
        }
    }

    /// A segment of the partition, or the journal of its shard.
    fn is_victim(&self, path: &Path) -> bool {
        let victim = self.victim.lock();
        let Some((directory, shard)) = &*victim else {
            return false;
        };
        // The name that it is made under ends in `.tmp`.
        let journal = Path::new("journal").join(format!("{shard}.ring"));
        path.starts_with(directory)
            || path.ends_with(&journal)
            || path.ends_with(journal.with_added_extension("tmp"))
    }
}

// === impl StallFs ===

impl Fs for StallFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(StallFile {
            real: self.real.open(path, mode)?,
            path: path.to_owned(),
            staller: self.staller.clone(),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.real.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.real.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.real.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.real.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.real.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.real.lock(path)
    }
}

// === impl StallFile ===

impl File for StallFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buffer, offset)
    }

    fn read_append_at(&self, buffer: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
        self.real.read_append_at(buffer, len, offset)
    }

    fn read_ahead(&self, offset: u64, len: u64) {
        self.real.read_ahead(offset, len);
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.staller.pass(Call::Write, &self.path);
        self.real.write_all_vectored_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.staller.pass(Call::Sync, &self.path);
        self.real.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.staller.pass(Call::Sync, &self.path);
        self.real.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.real.set_len(len)
    }
}
