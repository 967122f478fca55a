//! Compaction: what it gets through, what it costs, and how much memory it takes.

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_log::{CompactOptions, LogOptions};
use mainstem_record::{BatchBuilder, BatchOptions, EncodedRecord, Offset, TimestampMs};

use crate::{
    Outcome, Report,
    args::{Args, Policy},
    load::{Layout, Node, append_in_window, fresh_segment},
    usage::{Mark, put, resident, resident_peak},
};

/// Records of a batch; with their values it has about 64 KiB.
const RECORDS: i64 = 64;

/// Bytes of a value.
const VALUE_BYTES: usize = 1000;

/// Each key is written so many times.
const VERSIONS: i64 = 4;

/// An odd multiplier, so that the versions of a key lie far apart and keys come in no order.
const STRIDE: i64 = 7919;

/// What is filled and compacted.
fn layout(args: &mut Args) -> Outcome<Layout> {
    Ok(Layout {
        partitions: 1,
        sealed: args.get("sealed", 4)?,
        batches: args.get("segment_mib", 128)? * (1 << 20) / (VALUE_BYTES as i64 + 24),
        policy: args.get("flush", Policy::One(mainstem_log::Flush::Os))?,
    })
}

/// Fills sealed segments with records that have keys, four of each.
pub(crate) async fn prepare(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let dir = args.dir().join("log");
    args.all_read()?;
    let node = Node::start(env.clone(), dir).await?;
    let empty = Layout {
        sealed: 0,
        ..layout
    };
    let partitions = node.open(empty).await?;
    let partition = partitions.first().ok_or("no partition")?;
    let keys = layout.batches * i64::from(layout.sealed) / VERSIONS;
    let mut value = vec![0; VALUE_BYTES];
    env.random.fill(&mut value);
    let mut tickets = std::collections::VecDeque::new();
    for number in 0..layout.sealed {
        let first = layout.batches * i64::from(number);
        let mut at = first;
        while at < first + layout.batches {
            let end = (at + RECORDS).min(first + layout.batches);
            let batch = keyed(at..end, keys, &value)?;
            append_in_window(partition, batch, &mut tickets).await?;
            at = end;
        }
        node.roll(partition, number + 1).await?;
    }
    for ticket in tickets {
        ticket.await?;
    }
    let mut report = Report::new();
    put(&mut report, "bytes", partition.size_bytes());
    put(&mut report, "keys", keys);
    node.log.close().await?;
    Ok(report)
}

fn keyed(records: std::ops::Range<i64>, keys: i64, value: &[u8]) -> Outcome<Bytes> {
    let none: [(&[u8], Option<&[u8]>); 0] = [];
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for record in records {
        let key = (record * STRIDE % keys).to_be_bytes();
        let record = EncodedRecord::new(Some(&key), Some(value), none);
        builder.push(0, TimestampMs(1_700_000_000_000), &record);
    }
    Ok(builder.finish()?.freeze())
}

/// Compacts all that `prepare-keyed` has left, in a process that has done nothing else.
pub(crate) async fn compact(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let map_bytes_max = args.get("map_mib", 16)? << 20;
    let dir = args.dir().join("log");
    args.all_read()?;
    let node = Node::start_with(env.clone(), LogOptions::new(dir)).await?;
    let partitions = node.open(layout).await?;
    let partition = partitions.first().ok_or("no partition")?;
    let options = CompactOptions {
        first_dirty: Offset(0),
        end: Offset(layout.batches * i64::from(layout.sealed)),
        segment_bytes_max: 256 << 20,
        delete_retention_ms: 0,
        map_bytes_max,
        io_bytes_per_second: None,
    };
    let before = partition.size_bytes();
    let resident_before = resident()?;
    let mark = Mark::now(&env);
    let mut compaction = partition.compact(options).await?;
    let mut number = layout.sealed;
    loop {
        number += 1;
        let Some(replacement) = compaction.next(fresh_segment(0, number)).await? else {
            break;
        };
        partition
            .replace_segments(&replacement.old, replacement.new)
            .await?;
    }
    let used = mark.elapsed(&env);
    let mut report = Report::new();
    put(&mut report, "product", before as f64 / used.seconds);
    put(
        &mut report,
        "cpu_s_per_gb",
        used.cpu / (before as f64 / 1e9),
    );
    put(&mut report, "bytes_in", before);
    put(&mut report, "bytes_out", partition.size_bytes());
    put(&mut report, "keys", compaction.keys());
    let peak = resident_peak()?;
    put(&mut report, "memory", peak.saturating_sub(resident_before));
    put(&mut report, "resident_peak", peak);
    if compaction.clean_end() < options.end {
        return Err("the map was too small for all keys".into());
    }
    node.log.close().await?;
    Ok(report)
}
