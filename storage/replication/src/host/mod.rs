//! The partitions that this node hosts: for each its log, and the machine that decides what this
//! node does in the open segment.
//!
//! ```text
//!  metadata image ──> reconcile ──> Hosted { log, machine } <── streams: follow, ack, append, told
//!                                        │                  <── controller: fence
//!             effects: high watermark,   │                  <── repair: copied tails, copies
//!             AlterIsr, SealAndOpen  <───┘
//! ```
//!
//! # How the other parts use it
//! - **Streams, follower side**: [`Host::watch`] tells which partitions have changed;
//!   [`Host::following`] says whom to follow in a partition, from where on. [`Host::append`] takes
//!   what the leader sends; once its ticket is through, [`Host::written`] says what may be
//!   acknowledged (R9, R10, R11, R22). [`Host::told`] takes the leader's high watermark.
//! - **Streams, leader side**: [`Host::follow`] admits a follower to a segment and gives the log to
//!   read from ([`mainstem_log::Partition::read_tail`], woken by
//!   [`mainstem_log::Partition::subscribe_moved`]); [`Host::acked`] counts what it holds.
//! - **Controller**: [`Host::fence`] fences segments of this node and answers for them (R22). It
//!   calls it directly for its own node.
//! - **Repair**: [`Host::hosted`] gives the log; [`Host::copied`] takes a copied tail (R24);
//!   [`Host::proposals`] batches AddComplete, MarkDurable and RemoveComplete. What this node should
//!   hold and does not is read from the image ([`Host::image`], [`Host::watch`]).
//!
//! # Order
//! One change of a chain or a role at a time per partition. Machines are fed under one short lock per
//! partition, and what they return is carried out outside of it; nothing waits under that lock.

mod fence;
mod follow;
mod hosted;
mod lead;
mod proposals;
mod queue;

use std::{collections::HashMap, sync::Arc};

use mainstem_env::Env;
use mainstem_log::Moved;
use mainstem_metadata::{Image, Metadata};
use mainstem_record::{Member, PartitionId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    fence::FenceRequest,
    follow::{Following, NotAppended},
    hosted::Hosted,
    proposals::Proposals,
};
use crate::machine::Timers;

/// The partitions hosted by one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    metadata: Metadata,
    me: Member,
    timers: Timers,
    hosted: RwLock<HashMap<PartitionId, Arc<Hosted>>>,
    watchers: Mutex<Vec<Arc<Moved>>>,
    proposals: Proposals,
    changes: watch::Sender<u64>,
    /// Partitions that are to be brought in line with the image.
    work: Moved,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Host ===

impl Host {
    /// This broker, in this life.
    pub(crate) fn me(&self) -> Member {
        self.inner.me
    }

    /// The newest image.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.inner.metadata.image()
    }

    /// A partition that is open here.
    pub(crate) fn hosted(&self, id: PartitionId) -> Option<Arc<Hosted>> {
        self.inner.hosted.read().get(&id).cloned()
    }

    /// All partitions that are open here, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Hosted>> {
        let mut all: Vec<_> = self.inner.hosted.read().values().cloned().collect();
        all.sort_unstable_by_key(|hosted| hosted.id());
        all
    }

    /// Tells from now on which partitions have changed: opened, closed, another segment, role or
    /// leader. All that are open now are told at once.
    pub(crate) fn watch(&self) -> Arc<Moved> {
        let changed = Arc::new(Moved::default());
        self.inner.watchers.lock().push(changed.clone());
        changed.add_all(self.all().iter().map(|hosted| hosted.id()));
        changed
    }

    /// What is proposed to metadata, over all partitions at once.
    pub(crate) fn proposals(&self) -> &Proposals {
        &self.inner.proposals
    }

    /// Moves after each change of what is led or held here.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn tell(&self, id: PartitionId) {
        for watcher in self.inner.watchers.lock().iter() {
            watcher.add(id);
        }
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// Has a partition brought in line with the image, and its log with its machine.
    fn look_at(&self, id: PartitionId) {
        self.inner.work.add(id);
    }

    /// Starts a task that ends with the host.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.inner.stop.clone();
        let until_stop = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = future => {}
            }
        };
        self.inner
            .env
            .spawn(name, self.inner.tasks.track_future(until_stop));
    }
}
