//! Starts on what an earlier process has left.

use mainstem_env::Env;
use mainstem_log::Partition;
use tokio::task::JoinSet;

use crate::{
    Outcome, Report,
    args::{Args, Policy},
    load::{Batches, LARGE_BYTES, Layout, Node, durable, fill, until_killed},
    usage::{Mark, descriptors, put, read_from_disk, resident},
};

/// How many partitions are filled at the same time.
const FILLERS: i32 = 8;

/// Load until the process is killed, over all partitions.
const LOAD_BYTES_PER_S: u64 = 100_000_000;

/// Reads the layout of what is, or shall be, in the directory.
pub(crate) fn layout(args: &mut Args) -> Outcome<Layout> {
    Ok(Layout {
        partitions: args.get("partitions", 1)?,
        sealed: args.get("sealed", 0)?,
        batches: args.get("segment_mib", 0)? * (1 << 20) / LARGE_BYTES as i64,
        policy: args.get("flush", Policy::Mixed)?,
    })
}

/// Fills the sealed segments of each partition and then its active one with `active_mib`. Ends
/// with a clean stop, or with load until it is killed.
pub(crate) async fn prepare(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let active = args.get("active_mib", 0)? * (1 << 20) / LARGE_BYTES as i64;
    let then: String = args.get("then", "close".to_owned())?;
    let dir = args.dir().join("log");
    args.all_read()?;
    let mark = Mark::now(&env);
    let node = std::sync::Arc::new(Node::start(env.clone(), dir).await?);
    let empty = Layout {
        sealed: 0,
        ..layout
    };
    let partitions = node.open(empty).await?;
    let mut filling = JoinSet::new();
    for filler in 0..FILLERS {
        let mine: Vec<Partition> = partitions
            .iter()
            .skip(filler as usize)
            .step_by(FILLERS as usize)
            .cloned()
            .collect();
        let node = node.clone();
        let mut batches = Batches::of(&env, LARGE_BYTES)?;
        filling.spawn(async move {
            for partition in mine {
                for number in 1..=layout.sealed {
                    fill(&partition, &mut batches, layout.batches).await?;
                    node.roll(&partition, number).await?;
                }
                fill(&partition, &mut batches, active).await?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let mut report = Report::new();
    put(&mut report, "filled_s", mark.elapsed(&env).seconds);
    end(&node, &partitions, &then, report).await
}

/// Opens all partitions and appends once to each; then `close`, `load` until it is killed, `seal`
/// (what the broker does at each start, since a new process is a new leader), or `exit`.
pub(crate) async fn reopen(env: Env, mut args: Args) -> Outcome<Report> {
    let layout = layout(&mut args)?;
    let then: String = args.get("then", "close".to_owned())?;
    let append = args.get("append", true)?;
    let dir = args.dir().join("log");
    args.all_read()?;
    let batch = Batches::of(&env, LARGE_BYTES)?.fresh();
    let mark = Mark::now(&env);
    let from_disk = read_from_disk()?;
    let node = Node::start(env.clone(), dir).await?;
    let partitions = node.open(layout).await?;
    let opened = mark.elapsed(&env);
    let mut report = Report::new();
    put(&mut report, "opened_s", opened.seconds);
    if then == "seal" {
        for partition in &partitions {
            node.roll(partition, layout.sealed + 1).await?;
        }
        put(&mut report, "sealed_s", mark.elapsed(&env).seconds);
    }
    if append {
        for partition in &partitions {
            partition.append(durable(batch.clone())).await?.await?;
        }
    }
    let all = mark.elapsed(&env);
    put(&mut report, "product", all.seconds);
    put(&mut report, "cpu_s", all.cpu);
    put(&mut report, "read_from_disk", read_from_disk()? - from_disk);
    put(&mut report, "resident", resident()?);
    put(&mut report, "descriptors", descriptors()?);
    let bytes: u64 = partitions.iter().map(Partition::size_bytes).sum();
    put(&mut report, "bytes", bytes);
    end(&node, &partitions, &then, report).await
}

/// Ends as told. Under load the report is printed before, and nothing comes after it.
pub(crate) async fn end(
    node: &Node,
    partitions: &[Partition],
    then: &str,
    mut report: Report,
) -> Outcome<Report> {
    match then {
        "close" | "seal" => {
            let mark = Mark::now(&node.env);
            node.log.close().await?;
            put(&mut report, "closed_s", mark.elapsed(&node.env).seconds);
        }
        "load" => {
            println!("{}", serde_json::Value::Object(report.clone()));
            until_killed(&node.env, partitions, LOAD_BYTES_PER_S).await?;
        }
        "exit" => {}
        other => return Err(format!("there is no then={other}").into()),
    }
    Ok(report)
}
