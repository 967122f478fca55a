//! Copies between brokers: what this node should hold and does not is copied from those that do.
//!
//! ```text
//!   Sealing: fenced broker that is short ── tail, memory ──> fenced broker that is not       (R24)
//!   sealed:  replica without all of it  ── facts, chunks ──> complete replica           (R33, R34)
//!            └─ every chunk, then every batch checked; fsync; in the chain; AddComplete
//!   leader:  of a segment before which it has nothing ── memory ──> whoever has it
//!   readers: of a segment that is not held here ── batches, times ──> complete replica
//! ```
//! What is copied is read from the image, again whenever something about a partition has changed
//! ([`plan`]): the segments with the fewest complete copies first, a few at a time, no faster than
//! [`RepairOptions::copy_rate`]. What could not be copied is tried again later, from another holder.
//! A file that is whole already costs one question.
//!
//! # Invariant
//! I-SEAL-3: a broker is proposed as complete only after its own file was found, byte for byte, to
//! be the segment, and is synced. A copy that turns out to be spoilt leaves the complete ones first
//! (R35), and is not read here from then on; the only complete one stays, for what is left of it.

mod ask;
mod copier;
mod elsewhere;
mod hosted;
mod memory;
mod metrics;
mod plan;
mod serve;
mod tail;
#[cfg(test)]
mod tests;
mod worker;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_log::{AppendTicket, Log, Moved, Partition};
use mainstem_metadata::{Image, RemoveCopy, SegmentCopy};
use mainstem_peers::{Peers, Service};
use mainstem_record::{Member, Offset, PartitionId, SegmentId};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{ask::Asker, metrics::Metrics, serve::CopyService, worker::Worker};
use crate::{host::NotAppended, machine::FenceAnswer, throttle::Throttle};

/// Whoever hosts the partitions of this node. All but `copied` return at once.
pub(crate) trait Copies: Clone + Send + Sync + 'static {
    /// This broker, in this life.
    fn me(&self) -> Member;
    /// The newest image.
    fn image(&self) -> Arc<Image>;
    /// Which partitions have changed, in the image or here.
    fn watch(&self) -> Arc<Moved>;
    /// The log of a partition that is open here.
    fn log(&self, id: PartitionId) -> Option<Partition>;
    /// The answer of a segment that is fenced here, as it is now.
    fn answer(&self, id: PartitionId, segment: SegmentId) -> Option<FenceAnswer>;
    /// Appends a copied tail to a fenced segment (R24); waits only for room.
    fn copied(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> impl Future<Output = Result<AppendTicket, NotAppended>> + Send;
    /// Proposes that a copy is whole (R34).
    fn add_complete(&self, copy: SegmentCopy);
    /// Proposes that a complete copy is synced (R32).
    fn mark_durable(&self, copy: SegmentCopy);
    /// Proposes that a copy is not to be read any more (R35).
    fn remove_complete(&self, copy: RemoveCopy);
}

/// How copies are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RepairOptions {
    /// Bytes per second of sealed segments that this node copies, all together.
    pub(crate) copy_rate: u64,
    /// Bytes per second of sealed segments that this node reads from disk for those who copy them,
    /// all together.
    pub(crate) serve_rate: u64,
}

/// The copies of a node, both ways. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Repair<H: Copies> {
    inner: Arc<Inner<H>>,
}

struct Inner<H> {
    env: Env,
    host: H,
    log: Log,
    asker: Asker,
    metrics: Metrics,
    copying: Throttle,
    /// Segments whose tails are being copied, or whose producers are asked for.
    tails: Mutex<BTreeSet<SegmentId>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Repair ===

impl<H: Copies> Repair<H> {
    /// Serves copies from now on, and makes those that this node lacks. Without `peers` there is
    /// nobody to copy from: only own files are verified.
    ///
    /// # Errors
    /// The metrics are registered already.
    pub(crate) fn start(
        env: &Env,
        peers: Option<&Peers>,
        (host, log): (&H, &Log),
        options: RepairOptions,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let inner = Inner {
            env: env.clone(),
            host: host.clone(),
            log: log.clone(),
            asker: Asker::new(peers.cloned()),
            metrics,
            copying: Throttle::new(env, options.copy_rate),
            tails: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let repair = Self {
            inner: Arc::new(inner),
        };
        if let Some(peers) = peers {
            let serving = Throttle::new(env, options.serve_rate);
            let service = CopyService::new(host.clone(), serving);
            peers.serve(Service::COPY, Arc::new(service));
        }
        let worker = Worker::new(repair.clone());
        repair.spawn("repair", worker.run());
        Ok(repair)
    }

    /// Makes no more copies.
    pub(crate) async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        let until_stop = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        let tracked = self.inner.tasks.track_future(until_stop);
        self.inner.env.spawn(name, tracked);
    }
}

impl<H: Copies> std::fmt::Debug for Repair<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repair").finish_non_exhaustive()
    }
}

/// A digest as metadata has it.
fn digest_of(bytes: [u8; 16]) -> u128 {
    u128::from_be_bytes(bytes)
}
