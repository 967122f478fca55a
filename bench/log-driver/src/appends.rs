//! Appends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mainstem_env::Env;
use mainstem_log::{Flush, Partition};
use tokio::task::JoinSet;

use crate::{
    Outcome, Report,
    args::Args,
    bare,
    load::{Batches, LARGE_BYTES, Node, SMALL_BYTES, durable, fill},
    usage::{Mark, Used, micros, percentile, put, resident_peak},
};

/// How many wait at once.
const WAITERS: usize = 64;

/// More than small batches are written in a run.
const TOUCHED_BYTES: usize = 1 << 30;

/// What the written file of a ring is like.
const OVERWRITTEN_BYTES: u64 = 64 << 20;

/// Appends of one kind between two looks at the other, so that both see the same minute.
const LATENCY_TURN: usize = 50;

/// On a disk in a bad spell turns end here.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// What some waiters got done.
struct Done {
    appends: u64,
    used: Used,
}

// === throughput ===

/// 64 KiB batches through a shard, beside bare loops of writes of the same size: of one buffer, and
/// of bytes that come from another thread.
pub(crate) async fn large(env: Env, mut args: Args) -> Outcome<Report> {
    let count = args.get("mib", 512)? * (1 << 20) / LARGE_BYTES;
    let product_first = args.get("product_first", true)?;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let partitions = node.open_empty(1, Flush::Os).await?;
    let partition = partitions.first().ok_or("no partition")?;
    let mut batches = Batches::of(&env, LARGE_BYTES)?;
    let mut report = Report::new();
    let mut order = ["product", "bare_fresh", "bare"];
    if !product_first {
        order.reverse();
    }
    for name in order {
        let path = dir.join("bare");
        let own = env.clone();
        let bare = in_background(&env, move || {
            bare::touch_page_cache(&path, count * LARGE_BYTES)?;
            match name {
                "bare" => bare::write(&own, &path, LARGE_BYTES, count).map(Some),
                "bare_fresh" => bare::write_fresh(&own, &path, LARGE_BYTES, count).map(Some),
                _ => Ok(None),
            }
        });
        let used = match bare.await? {
            Some(used) => used,
            None => {
                let mark = Mark::now(&env);
                fill(partition, &mut batches, count as i64).await?;
                mark.elapsed(&env)
            }
        };
        let bytes = count * LARGE_BYTES;
        put(&mut report, name, bytes as f64 / used.seconds);
        let per_gb = used.cpu / (bytes as f64 / 1e9);
        put(&mut report, &format!("{name}_cpu_s_per_gb"), per_gb);
        if name == "product" {
            // Its pages come free for the other one.
            node.log.remove_partition(partition.id()).await?;
        }
    }
    Ok(report)
}

/// What blocks does not run on a worker.
async fn in_background<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let done = env.blocking("bench-bare", work).await;
    done.ok_or("the runtime is gone")?
}

/// Small batches, 64 waiting over 64 partitions, in the page cache: records per second of CPU.
pub(crate) async fn small(env: Env, mut args: Args) -> Outcome<Report> {
    let length = seconds(&mut args)?;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let partitions = node.open_empty(WAITERS as i32, Flush::Os).await?;
    wait_and_append(&env, &partitions, WAITERS, length / 8).await?;
    let path = dir.join("bare");
    in_background(&env, move || {
        Ok(bare::touch_page_cache(&path, TOUCHED_BYTES)?)
    })
    .await?;
    let done = wait_and_append(&env, &partitions, WAITERS, length).await?;
    for partition in &partitions {
        node.log.remove_partition(partition.id()).await?;
    }
    let own = env.clone();
    let (writes, bare) = in_background(&env, move || {
        bare::touch_page_cache(&dir.join("bare"), TOUCHED_BYTES)?;
        bare::write_in_turn(&own, &dir, (WAITERS, SMALL_BYTES), length / 2)
    })
    .await?;
    let mut report = Report::new();
    put(&mut report, "product", done.appends as f64 / done.used.cpu);
    put(&mut report, "product_per_s", done.per_second());
    put(&mut report, "bare", writes as f64 / bare.cpu);
    put(&mut report, "resident_peak", resident_peak()?);
    Ok(report)
}

/// Each append synced: 64 waiting over 64 partitions, beside one that waits alone.
pub(crate) async fn group(env: Env, args: Args) -> Outcome<Report> {
    two_loads(env, args, (WAITERS, 1)).await
}

/// Each append synced, 64 waiting: over 1,000 partitions in turn, beside over one.
pub(crate) async fn many_partitions(env: Env, mut args: Args) -> Outcome<Report> {
    let partitions = args.get("partitions", 1000)?;
    let length = seconds(&mut args)?;
    let product_first = args.get("product_first", true)?;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let all = node.open_empty(partitions, Flush::Always).await?;
    let one = all.get(..1).ok_or("no partition")?;
    let loads = [("product", &all[..], WAITERS), ("bare", one, WAITERS)];
    in_order(&env, loads, length, product_first).await
}

async fn two_loads(env: Env, mut args: Args, waiters: (usize, usize)) -> Outcome<Report> {
    let length = seconds(&mut args)?;
    let product_first = args.get("product_first", true)?;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let all = node.open_empty(WAITERS as i32, Flush::Always).await?;
    let one = all.get(..1).ok_or("no partition")?;
    let loads = [("product", &all[..], waiters.0), ("bare", one, waiters.1)];
    in_order(&env, loads, length, product_first).await
}

/// Both loads on the same log, one after the other.
async fn in_order(
    env: &Env,
    mut loads: [(&str, &[Partition], usize); 2],
    length: Duration,
    product_first: bool,
) -> Outcome<Report> {
    if !product_first {
        loads.reverse();
    }
    let mut report = Report::new();
    for (name, partitions, waiters) in loads {
        wait_and_append(env, partitions, waiters, length / 8).await?;
        let done = wait_and_append(env, partitions, waiters, length).await?;
        put(&mut report, name, done.per_second());
        let cpu_us = done.used.cpu * 1e6 / done.appends as f64;
        put(&mut report, &format!("{name}_cpu_us_per_append"), cpu_us);
    }
    Ok(report)
}

fn seconds(args: &mut Args) -> Outcome<Duration> {
    Ok(Duration::from_secs_f64(args.get("seconds", 2.0)?))
}

// === impl Done ===

impl Done {
    fn per_second(&self) -> f64 {
        self.appends as f64 / self.used.seconds
    }
}

/// For `length`, each of `waiters` appends a small batch, waits for it and goes on with the
/// partition that is `waiters` further on.
async fn wait_and_append(
    env: &Env,
    partitions: &[Partition],
    waiters: usize,
    length: Duration,
) -> Outcome<Done> {
    let stop = Arc::new(AtomicBool::new(false));
    let all: Arc<[Partition]> = partitions.into();
    let mut running = JoinSet::new();
    let mark = Mark::now(env);
    for waiter in 0..waiters {
        let (stop, all) = (stop.clone(), all.clone());
        let mut batches = Batches::of(env, SMALL_BYTES)?;
        running.spawn(async move {
            let mut appends = 0;
            let mut at = waiter % all.len();
            while !stop.load(Ordering::Relaxed) {
                let Some(partition) = all.get(at) else { break };
                partition.append(durable(batches.fresh())).await?.await?;
                appends += 1;
                at = (at + waiters) % all.len();
            }
            Outcome::Ok(appends)
        });
    }
    env.sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut appends = 0;
    while let Some(done) = running.join_next().await {
        appends += done??;
    }
    let used = mark.elapsed(env);
    Ok(Done { appends, used })
}

// === latency ===

/// One that waits for each of its appends to be synced, beside a bare append and fdatasync.
pub(crate) async fn latency(env: Env, mut args: Args) -> Outcome<Report> {
    let turns = args.get("turns", 40)?;
    let end = env.now() + LATENCY_MAX;
    let dir = args.dir();
    args.all_read()?;
    let node = Node::start(env.clone(), dir.join("log")).await?;
    let partitions = node.open_empty(1, Flush::Always).await?;
    let partition = partitions.first().ok_or("no partition")?;
    let mut batches = Batches::of(&env, SMALL_BYTES)?;
    let mut extending = bare::SyncedFile::extending(&env, &dir.join("bare"), SMALL_BYTES)?;
    let over = dir.join("bare-over");
    let mut overwriting = bare::SyncedFile::overwriting(&env, &over, OVERWRITTEN_BYTES)?;
    let (mut product, mut bare, mut bare_over) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn warms up.
    for turn in 0..=turns {
        if turn > 1 && env.now() > end {
            break;
        }
        let mut own = Vec::with_capacity(LATENCY_TURN);
        for _ in 0..LATENCY_TURN {
            let append = durable(batches.fresh());
            let began = env.now();
            partition.append(append).await?.await?;
            own.push(env.now() - began);
        }
        let clock = env.clone();
        let (extended, over);
        (extending, overwriting, extended, over) = in_background(&env, move || {
            let extended = extending.writes(&clock, LATENCY_TURN)?;
            let over = overwriting.writes(&clock, LATENCY_TURN)?;
            Ok((extending, overwriting, extended, over))
        })
        .await?;
        if turn > 0 {
            product.extend(own);
            bare.extend(extended);
            bare_over.extend(over);
        }
    }
    let mut report = Report::new();
    let all = [
        ("product", product),
        ("bare", bare),
        ("bare_over", bare_over),
    ];
    for (name, mut took) in all {
        put(&mut report, name, micros(percentile(&mut took, 0.5)));
        let p99 = micros(percentile(&mut took, 0.99));
        put(&mut report, &format!("{name}_p99"), p99);
    }
    Ok(report)
}
