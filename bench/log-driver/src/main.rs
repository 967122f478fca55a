//! Runs one measure of the segment log once, in a directory of its own, and prints one line of JSON.
//!
//! `bench/log` starts it, alternates product and denominator over rounds, and takes medians; by
//! itself it serves for profiling. A measure that has a denominator in the same process (a bare loop
//! of the system calls that it cannot do without) prints both. No metadata, no protocol, no RocksDB.
//!
//! ```text
//! mainstem-log-bench MEASURE DIRECTORY [key=value]...
//! ```

mod appends;
mod args;
mod bare;
mod compaction;
mod load;
mod many;
mod reads;
mod reopen;
mod stall;
mod usage;

use std::{error::Error, process::ExitCode};

use mainstem_env::Env;
use serde_json::{Map, Value};

use crate::args::Args;

/// What a measure ends with: a tool that only reports has no use for kinds of errors.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Name to number, as it is printed.
type Report = Map<String, Value>;

const USAGE: &str = "usage: mainstem-log-bench MEASURE DIRECTORY [key=value]...
  append-large   64 KiB batches beside a bare pwrite loop
  append-small   1 KiB batches over 64 partitions beside a bare pwrite loop
  always-group   64 waiting over 64 partitions beside one waiting, each append synced
  always-many    64 waiting over 1,000 partitions beside 64 over one, each append synced
  always-latency one waiting beside a bare append and fdatasync
  tail-read      cached batches into a loopback socket beside the same bytes from memory
  prepare        fills partitions; a clean stop, or load until it is killed
  cold-read      reads what `prepare` has left, from start to end
  reopen         opens what `prepare` has left; then close, load until killed, or seal
  many           opens many partitions with one batch each; then close or load until killed
  prepare-keyed  fills a partition with four records of each key
  compact        compacts what `prepare-keyed` has left
  stall          appends of one shard while the disk of another one stalls";

fn main() -> ExitCode {
    let args = match Args::from_command_line() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("mainstem-log-bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(args) {
        Ok(report) => {
            println!("{}", Value::Object(report));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mainstem-log-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// On a runtime as the broker has it.
fn run(mut args: Args) -> Outcome<Report> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = args.optional("workers")? {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        let env = Env::real();
        // On a worker, as connections are: waking the main thread costs more.
        let measured = env.start("bench", measure(env.clone(), args));
        measured.await?
    })
}

async fn measure(env: Env, args: Args) -> Outcome<Report> {
    match args.measure() {
        "append-large" => appends::large(env, args).await,
        "append-small" => appends::small(env, args).await,
        "always-group" => appends::group(env, args).await,
        "always-many" => appends::many_partitions(env, args).await,
        "always-latency" => appends::latency(env, args).await,
        "tail-read" => reads::tail(env, args).await,
        "prepare" => reopen::prepare(env, args).await,
        "cold-read" => reads::cold(env, args).await,
        "reopen" => reopen::reopen(env, args).await,
        "many" => many::many(env, args).await,
        "prepare-keyed" => compaction::prepare(env, args).await,
        "compact" => compaction::compact(env, args).await,
        "stall" => stall::stall(env, args).await,
        other => Err(format!("no measure {other}\n{USAGE}").into()),
    }
}
