//! Reads.

use std::{
    io::{self, IoSlice, Read as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes};
use mainstem_env::Env;
use mainstem_log::{Flush, LogOptions, Partition, Read};
use mainstem_record::Offset;
use tokio::io::AsyncWriteExt;

use crate::{
    Outcome, Report,
    args::Args,
    load::{Batches, LARGE_BYTES, Node, fill},
    reopen::layout,
    usage::{Mark, Used, put, read_from_disk, resident_peak},
};

/// What a consumer asks for at a time.
const FETCH_BYTES: usize = 1 << 20;

/// Fits the tail cache of one shard.
const TAIL_BYTES: usize = 48 << 20;

/// The most pieces that go into one write (`IOV_MAX` on Linux).
const SLICES_MAX: usize = 1024;

/// Bytes sent, and what that took.
struct Sent {
    bytes: u64,
    used: Used,
}

// === tail ===

/// Batches from the tail cache into a loopback socket, beside the same bytes from memory.
pub(crate) async fn tail(env: Env, mut args: Args) -> Outcome<Report> {
    let seconds = Duration::from_secs_f64(args.get("seconds", 2.0)?);
    let batch_bytes = args.get("batch", LARGE_BYTES)?;
    let product_first = args.get("product_first", true)?;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let partitions = node.open_empty(1, Flush::Os).await?;
    let partition = partitions.first().ok_or("no partition")?;
    let mut batches = Batches::of(&env, batch_bytes)?;
    fill(partition, &mut batches, (TAIL_BYTES / batch_bytes) as i64).await?;
    let memory = in_memory(partition).await?;
    let mut report = Report::new();
    for product in [product_first, !product_first] {
        let source = product.then_some(partition);
        send(&env, source, &memory, seconds / 8).await?;
        let sent = send(&env, source, &memory, seconds).await?;
        let name = if product { "product" } else { "bare" };
        put(&mut report, name, sent.bytes as f64 / sent.used.seconds);
        let per_gb = sent.used.cpu / (sent.bytes as f64 / 1e9);
        put(&mut report, &format!("{name}_cpu_s_per_gb"), per_gb);
    }
    Ok(report)
}

/// All that the partition holds, in one piece.
async fn in_memory(partition: &Partition) -> Outcome<Vec<u8>> {
    let mut all = Vec::with_capacity(TAIL_BYTES);
    let mut from = Offset(0);
    while from < partition.ends().committed_end {
        let chunk = partition.read(fetch(from)).await?;
        if !chunk.from_cache {
            return Err("the tail is not in the cache".into());
        }
        for batch in &chunk.batches {
            all.extend_from_slice(batch);
        }
        from = chunk.next;
    }
    Ok(all)
}

/// Sends all again and again for `length`, from the partition or else from memory.
async fn send(
    env: &Env,
    partition: Option<&Partition>,
    memory: &[u8],
    length: Duration,
) -> Outcome<Sent> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || discard(&listener));
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mark = Mark::now(env);
    let end = env.now() + length;
    let mut bytes = 0;
    while env.now() < end {
        match partition {
            Some(partition) => send_cached(partition, &mut stream).await?,
            None => {
                for piece in memory.chunks(FETCH_BYTES) {
                    stream.write_all(piece).await?;
                }
            }
        }
        bytes += memory.len() as u64;
    }
    stream.shutdown().await?;
    let received = env
        .blocking("bench-join", move || reader.join())
        .await
        .ok_or("the runtime is gone")?
        .map_err(|_| "the reader has panicked")??;
    let used = mark.elapsed(env);
    if received != bytes {
        return Err(format!("{received} of {bytes} bytes have arrived").into());
    }
    Ok(Sent { bytes, used })
}

/// A peer that throws all away.
fn discard(listener: &TcpListener) -> io::Result<u64> {
    let (mut stream, _): (TcpStream, _) = listener.accept()?;
    let mut buffer = vec![0; FETCH_BYTES];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(received),
            count => received += count as u64,
        }
    }
}

async fn send_cached(partition: &Partition, stream: &mut tokio::net::TcpStream) -> Outcome<()> {
    let mut from = Offset(0);
    let end = partition.ends().committed_end;
    while from < end {
        let chunk = partition.read(fetch(from)).await?;
        from = chunk.next;
        write_vectored(stream, chunk.batches).await?;
    }
    Ok(())
}

async fn write_vectored(
    stream: &mut tokio::net::TcpStream,
    mut batches: Vec<Bytes>,
) -> io::Result<()> {
    let mut at = 0;
    while let Some(rest) = batches.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let slices: Vec<IoSlice<'_>> = rest
            .iter()
            .take(SLICES_MAX)
            .map(|b| IoSlice::new(b))
            .collect();
        let mut written = stream.write_vectored(&slices).await?;
        for batch in rest {
            let taken = written.min(batch.len());
            batch.advance(taken);
            written -= taken;
            if !batch.is_empty() {
                break;
            }
            at += 1;
            if written == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// What a consumer asks for.
fn fetch(from: Offset) -> Read {
    Read {
        from,
        bytes_max: FETCH_BYTES,
        at_least_one_batch: true,
        end: Offset(i64::MAX),
    }
}

// === cold ===

/// Reads all partitions that `prepare` has left, one after the other from start to end.
pub(crate) async fn cold(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let fetch_bytes = args.get("fetch", FETCH_BYTES)?;
    let options = LogOptions::new(args.dir().join("log"));
    args.all_read()?;
    let node = Node::start_with(env.clone(), options).await?;
    let partitions = node.open(layout).await?;
    let from_disk = read_from_disk()?;
    let mark = Mark::now(&env);
    let mut bytes = 0;
    for partition in &partitions {
        let mut from = Offset(0);
        while from < partition.ends().committed_end {
            let read = Read {
                bytes_max: fetch_bytes,
                ..fetch(from)
            };
            let chunk = partition.read(read).await?;
            bytes += chunk.bytes;
            from = chunk.next;
        }
    }
    let used = mark.elapsed(&env);
    let from_disk = read_from_disk()? - from_disk;
    let mut report = Report::new();
    put(&mut report, "product", bytes as f64 / used.seconds);
    put(
        &mut report,
        "product_cpu_s_per_gb",
        used.cpu / (bytes as f64 / 1e9),
    );
    put(&mut report, "bytes", bytes);
    put(
        &mut report,
        "share_from_disk",
        from_disk as f64 / bytes as f64,
    );
    put(&mut report, "resident_peak", resident_peak()?);
    node.log.close().await?;
    Ok(report)
}
