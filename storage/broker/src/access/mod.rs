//! Partitions wherever they are led and held: appends that find the leader, reads that find the
//! records.
//!
//! What this node leads is used directly ([`PartitionAccess::Local`]); in a cluster of one nothing
//! else is ever seen. Appends to what another node leads go through [`forward`]: one group of
//! appends is under way for each partition, so that their order holds whatever is tried again. Reads
//! go to the replica that is here, else over a stream from the leader ([`tail`]) or by a question to
//! whoever holds the records; what a replica lacks, others give ([`elsewhere`]).
//!
//! What is said between nodes is in [`wire`], what answers it in [`serve`] (reads) and in
//! `mqtt::serve` (appends, which the owners of the records have to judge).

mod elsewhere;
mod forward;
mod reader;
mod serve;
mod tail;
pub(crate) mod wire;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dashmap::DashMap;
use mainstem_env::BoxFuture;
use mainstem_log::{Append, AppendError, AppendTicket, Appended, Partition};
use mainstem_metadata::Image;
use mainstem_peers::{Peers, Service};
use mainstem_record::{BrokerId, PartitionId};
use mainstem_replication::NotLed;
use tokio::sync::oneshot;

pub(crate) use self::{elsewhere::is_lack, forward::Forwarder, reader::Reader};
use self::{
    serve::Reads,
    tail::Tails,
    wire::{Guard, Item},
};
use crate::{core::Core, error_code::ErrorCode};

/// How long another node may take to answer a question.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Appends to partitions that this node leads what other nodes sent, or what waited while another
/// node led.
pub(crate) trait Appender: Send + Sync {
    /// In order; what became of each. After the first [`AppendError::NotLeader`] none is appended.
    fn append_here(
        &self,
        partition: PartitionId,
        items: Vec<Item>,
    ) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>>;
}

/// What a node needs to reach partitions of other nodes.
pub(crate) struct Access {
    peers: Peers,
    forwarders: DashMap<PartitionId, Arc<Forwarder>>,
    tails: Arc<Tails>,
    /// Numbers of groups of appends; they only grow.
    numbers: AtomicU64,
}

/// Where appends to a partition go.
#[derive(Clone)]
pub(crate) enum PartitionAccess {
    /// This node leads it.
    Local(Partition),
    /// Another one does, or nobody at the moment.
    Remote(Arc<Forwarder>),
}

/// Completes as an [`AppendTicket`] does, whoever leads the partition.
#[derive(Debug)]
#[must_use = "an append may fail, and only its ticket tells"]
pub(crate) enum AccessTicket {
    Local(AppendTicket),
    Remote(oneshot::Receiver<Result<Appended, AppendError>>),
}

/// Who leads a partition now.
pub(crate) enum Leader {
    Here(Partition),
    At(BrokerId),
    Nobody,
    Unknown,
}

// === impl Access ===

impl Access {
    /// Serves reads of other nodes from now on.
    pub(crate) fn start(core: &Arc<Core>, peers: Peers) -> Self {
        peers.serve(Service::FETCH, Arc::new(Reads::new(core)));
        Self {
            peers,
            forwarders: DashMap::new(),
            tails: Arc::default(),
            numbers: AtomicU64::new(1),
        }
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

// === impl Core ===

impl Core {
    /// Who leads a partition.
    pub(crate) fn leader(&self, id: PartitionId) -> Leader {
        if self.is_broken(id) {
            return Leader::Nobody;
        }
        match self.led(id) {
            Ok(partition) => Leader::Here(partition),
            Err(NotLed::Elsewhere { leader, .. }) => Leader::At(leader),
            Err(NotLed::NoLeader | NotLed::Opening | NotLed::Failed(_)) => Leader::Nobody,
            Err(NotLed::Unknown) => Leader::Unknown,
        }
    }

    /// Where appends to a partition go.
    pub(crate) fn writer(self: &Arc<Self>, id: PartitionId) -> Result<PartitionAccess, ErrorCode> {
        let Some(access) = self.access() else {
            return self.writable_partition(id).map(PartitionAccess::Local);
        };
        // What waits in a forwarder was asked for earlier, and must not be overtaken.
        let busy = access.forwarders.get(&id).map(|found| found.clone());
        if let Some(forwarder) = busy.filter(|forwarder| forwarder.is_busy()) {
            return Ok(PartitionAccess::Remote(forwarder));
        }
        match self.leader(id) {
            Leader::Here(partition) => Ok(PartitionAccess::Local(partition)),
            Leader::Unknown => Err(ErrorCode::UnknownTopicOrPartition),
            Leader::At(_) | Leader::Nobody => {
                if self.is_broken(id) {
                    return Err(ErrorCode::KafkaStorageError);
                }
                let fresh = || Forwarder::start(self, id);
                let forwarder = access.forwarders.entry(id).or_insert_with(fresh);
                Ok(PartitionAccess::Remote(forwarder.clone()))
            }
        }
    }

    /// Whether other nodes may own sessions and lead partitions.
    pub(crate) fn is_cluster(&self) -> bool {
        self.access().is_some() && self.image().brokers.len() > 1
    }
}

/// A broker of the image that is there to be asked.
fn is_reachable(image: &Image, broker: BrokerId) -> bool {
    image
        .brokers
        .get(&broker)
        .is_some_and(|broker| !broker.fenced)
}

// === impl PartitionAccess ===

impl PartitionAccess {
    /// Takes a place in the order; waits for room.
    ///
    /// # Errors
    /// [`AppendError::NotLeader`] also where the outcome is unknown.
    pub(crate) async fn append(&self, append: Append) -> Result<AccessTicket, AppendError> {
        match self {
            Self::Local(partition) => partition.append(append).await.map(AccessTicket::Local),
            Self::Remote(forwarder) => {
                let item = Item::new(append, None)?;
                forwarder.append(item).await.map(AccessTicket::Remote)
            }
        }
    }

    /// As [`Self::append`], at once or not at all.
    pub(crate) fn try_append(&self, append: Append) -> Result<AccessTicket, AppendError> {
        match self {
            Self::Local(partition) => partition.try_append(append).map(AccessTicket::Local),
            Self::Remote(forwarder) => {
                let item = Item::new(append, None)?;
                forwarder.try_append(item).map(AccessTicket::Remote)
            }
        }
    }
}

impl Forwarder {
    /// An append that the leader judges by `guard` first.
    pub(crate) async fn append_guarded(
        &self,
        append: Append,
        guard: Guard,
    ) -> Result<AccessTicket, AppendError> {
        let item = Item::new(append, Some(guard))?;
        self.append(item).await.map(AccessTicket::Remote)
    }
}

// === impl AccessTicket ===

impl Future for AccessTicket {
    type Output = Result<Appended, AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Local(ticket) => Pin::new(ticket).poll(context),
            Self::Remote(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|received| received.unwrap_or(Err(AppendError::Closed))),
        }
    }
}
