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
//! - **Controller**: [`LocalParty`] fences segments of this node and answers for them (R22), also
//!   for the controller of this node.
//! - **Repair**: [`Host::hosted`] gives the log; [`Host::copied`] takes a copied tail (R24);
//!   [`Host::proposals`] batches AddComplete, MarkDurable and RemoveComplete. What this node should
//!   hold and does not is read from the image ([`Host::image`], [`Host::watch`]).
//!
//! # Order
//! One change of a chain or a role at a time per partition. Machines are fed under one short lock per
//! partition, and what they return is carried out outside of it; nothing waits under that lock.

mod chain;
mod drain;
mod fence;
mod follow;
mod hosted;
mod lead;
mod open;
mod party;
mod proposals;
mod queue;
mod reconcile;
mod register;
mod roll;
mod spec;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    sync::atomic::AtomicBool,
    time::Duration,
};

use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_log::{Log, Moved};
use mainstem_metadata::{Image, Life, Metadata};
use mainstem_record::{Member, PartitionId, SegmentId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::reconcile::Work;
pub(crate) use self::{
    follow::{Following, NotAppended},
    hosted::Hosted,
    party::LocalParty,
    proposals::Proposals,
    register::Registration,
};
pub use self::{roll::RollError, spec::segment_spec};
use crate::{Policies, controller::Placer, machine::Timers};

/// Into how many sets partitions fall of which one at a time is opened or removed.
const DOORS: usize = 256;

/// The partitions hosted by one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Host {
    inner: Arc<Inner>,
}

/// What a host stands on.
pub(crate) struct HostParts {
    pub(crate) env: Env,
    pub(crate) metadata: Metadata,
    pub(crate) log: Log,
    pub(crate) policies: Arc<dyn Policies>,
    pub(crate) me: Member,
    pub(crate) life: Life,
    pub(crate) placer: Placer,
}

struct Inner {
    env: Env,
    metadata: Metadata,
    log: Log,
    policies: Arc<dyn Policies>,
    me: Member,
    life: Life,
    placer: Placer,
    timers: Timers,
    /// How long no planned seal follows one that a slow replica has caused.
    seal_backoff: Duration,
    hosted: RwLock<HashMap<PartitionId, Arc<Hosted>>>,
    /// Partitions that do not work, with the reason.
    failed: RwLock<BTreeMap<PartitionId, String>>,
    /// Held while a partition of the set is opened or removed.
    doors: [tokio::sync::Mutex<()>; DOORS],
    /// Segments that this node helps to seal without being a replica (R23).
    recruited: Mutex<BTreeMap<PartitionId, SegmentId>>,
    /// What controllers have asked and is being worked on.
    asked: Mutex<BTreeSet<(&'static str, SegmentId)>>,
    watchers: Mutex<Vec<Arc<Moved>>>,
    changes: watch::Sender<u64>,
    /// All that was to be opened at the start is.
    is_open: AtomicBool,
    proposals: Proposals,
    work: Mutex<Work>,
    /// Partitions whose log has moved, of those that are led with others.
    moved: Arc<Moved>,
    /// Partitions whose machines have deadlines.
    ticking: Mutex<BTreeSet<PartitionId>>,
    ticks: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Host ===

impl Host {
    /// A host without partitions; [`Host::run`] opens them.
    pub(crate) fn new(parts: HostParts, config: &Config) -> Self {
        let inner = Inner {
            env: parts.env,
            metadata: parts.metadata,
            log: parts.log,
            policies: parts.policies,
            me: parts.me,
            life: parts.life,
            placer: parts.placer,
            timers: timers(config),
            seal_backoff: Duration::from_millis(config.cluster.segment_seal_backoff_ms),
            hosted: RwLock::default(),
            failed: RwLock::default(),
            doors: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            recruited: Mutex::default(),
            asked: Mutex::default(),
            watchers: Mutex::default(),
            changes: watch::Sender::new(0),
            is_open: AtomicBool::new(false),
            proposals: Proposals::default(),
            work: Mutex::default(),
            moved: Arc::default(),
            ticking: Mutex::default(),
            ticks: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// This broker, in this life.
    pub(crate) fn me(&self) -> Member {
        self.inner.me
    }

    /// The metadata service.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The segment log.
    pub(crate) fn log(&self) -> &Log {
        &self.inner.log
    }

    /// What this data directory says of this life.
    pub(crate) fn life(&self) -> &Life {
        &self.inner.life
    }

    /// When machines act.
    pub(crate) fn timers(&self) -> Timers {
        self.inner.timers
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
        let moved = Arc::new(Moved::default());
        self.inner.watchers.lock().push(moved.clone());
        moved.add_all(self.all().iter().map(|hosted| hosted.id()));
        moved
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

    /// Whether the host is about to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.inner.stop.is_cancelled()
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
                biased;
                () = stop.cancelled() => {}
                () = future => {}
            }
        };
        self.inner
            .env
            .spawn(name, self.inner.tasks.track_future(until_stop));
    }
}

/// The configured timers.
fn timers(config: &Config) -> Timers {
    let cluster = &config.cluster;
    Timers {
        session_timeout: Duration::from_millis(cluster.session_timeout_ms),
        lag_max: Duration::from_millis(cluster.replica_lag_ms_max),
        stall_max: Duration::from_millis(cluster.replica_stall_ms_max),
        answer_wait: Duration::from_millis(cluster.seal_answer_wait_ms),
        copy_wait: Duration::from_millis(cluster.seal_copy_wait_ms),
        freeze_max: Duration::from_millis(cluster.seal_freeze_ms_max),
        unclean_timeout: Duration::from_millis(cluster.unclean_recovery_timeout_ms),
        ..Timers::default()
    }
}
