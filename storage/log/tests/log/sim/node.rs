//! A node on the simulated disk: it starts, fails, is killed, loses power, and starts again.

use std::{future::Future, time::Duration};

use mainstem_env::{Env, Fs};
use mainstem_log::{Log, LogError, LogEvent, LogOptions, Partition, ReadError};
use mainstem_record::{BatchHeader, Offset};
use mainstem_simulation::{Process, SimFs};
use tokio::sync::mpsc;

use super::model::Model;
use crate::support::{Seen, read_batches, records_of};

/// Longer than anything takes, stalls of the disk included.
const STUCK_AFTER: Duration = Duration::from_secs(3600);

/// How often a read is tried again when the disk fails it.
const READ_ATTEMPTS_MAX: usize = 1000;

/// A process with a log and its partitions, in the order of the models.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) log: Log,
    pub(crate) events: mpsc::Receiver<LogEvent>,
    pub(crate) partitions: Vec<Partition>,
}

/// What a partition holds, as it was read.
pub(crate) struct Content {
    pub(crate) batches: Vec<BatchHeader>,
    pub(crate) seen: Vec<Seen>,
}

// === impl Node ===

impl Node {
    /// Starts a log and opens these partitions, all at the same time.
    pub(crate) async fn start(
        process: Process,
        options: &LogOptions,
        models: &[Model],
    ) -> Result<Self, LogError> {
        let registry = prometheus::Registry::new();
        let env = process.env.clone();
        let started = Log::start(env, options.clone(), &registry);
        let (log, events) = finish(&process.env, started).await?;
        let opening: Vec<_> = models
            .iter()
            .map(|model| {
                let (log, spec) = (log.clone(), model.spec());
                let open = async move { log.open_partition(spec).await };
                process.env.start("open", open)
            })
            .collect();
        let mut partitions = Vec::new();
        for open in opening {
            let opened = finish(&process.env, open).await;
            partitions.push(opened.expect("the process lives")?);
        }
        Ok(Self {
            process,
            log,
            events,
            partitions,
        })
    }

    /// Whether a shard has stopped acknowledging.
    pub(crate) fn has_failed(&self) -> bool {
        let health = self.log.health();
        health.iter().any(|shard| shard.failure.is_some())
    }
}

/// Waits for what must end.
pub(crate) async fn finish<T>(env: &Env, work: impl Future<Output = T>) -> T {
    let work = env.timeout(STUCK_AFTER, work).await;
    work.unwrap_or_else(|_| panic!("waits for ever"))
}

/// Reads a partition from `from` on; what the disk refuses is tried again.
pub(crate) async fn read_from(
    partition: &Partition,
    from: i64,
    bytes_max: usize,
) -> Result<Content, ReadError> {
    for _ in 0..READ_ATTEMPTS_MAX {
        match read_batches(partition, Offset(from), bytes_max).await {
            Ok(all) => {
                return Ok(Content {
                    batches: all.iter().map(|(header, _)| *header).collect(),
                    seen: all
                        .iter()
                        .flat_map(|(_, bytes)| records_of(bytes))
                        .collect(),
                });
            }
            Err(ReadError::Io(_)) => {}
            Err(error) => return Err(error),
        }
    }
    panic!("the disk refuses every read");
}

/// Removes everything that can be made again from batches.
pub(crate) fn forget_derived(fs: &SimFs) {
    for ending in [".idx", ".snap", "/checkpoint", "/clean-shutdown"] {
        for path in fs.files(ending) {
            fs.remove_file(&path).expect("it is there");
        }
    }
}
