//! Sessions: what is known of a client, with or without a connection.
//!
//! [`SessionEntry`] is one client's state for as long as it lasts; [`Session`] is one connection's
//! handle on it. A connection that was taken over holds an old owner epoch, and everything that it
//! still tries is refused.
//!
//! Locks, in the order in which they may be taken: `control` (connect, subscribe, disconnect: one at
//! a time), `writes` (records go to the log in the order in which the state changed), `state`
//! (short, never across an await; the follower of a partition takes it to push). A share group's
//! lock comes before the `state` of its members. The subscription trie is never locked inside any
//! of them but `control`.

mod acquire;
mod attach;
mod detach;
mod flight;
mod handle;
mod inbound;
pub(crate) mod inbox;
mod owners;
pub(crate) mod records;
mod replay;
mod retained_job;
mod step;
mod store;
mod subscribe;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mainstem_record::{Offset, PartitionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use handle::Session;
pub use inbound::PublishTicket;
pub(crate) use inbound::append_error;
pub(crate) use owners::{Admission, Owners};
pub(crate) use retained_job::RetainedJob;
pub(crate) use subscribe::StartAt;

use self::{
    inbound::Inbound,
    inbox::{Inbox, QueueLimits},
    records::{Options, OutboundRecord, SessionRecord},
};
use super::{Will, share::ShareGroup, timers::TimerKey};
use crate::{access::wire::Claim, caller::Caller};

/// One client's state.
pub(crate) struct SessionEntry {
    /// Unique in this process; names the session in the trie.
    pub(crate) number: u64,
    /// The client identifier.
    pub(crate) client_id: Arc<str>,
    /// Held by whoever connects, subscribes or disconnects.
    pub(crate) control: tokio::sync::Mutex<()>,
    /// Held while records are built and take their place in the log.
    pub(crate) writes: tokio::sync::Mutex<()>,
    /// The state.
    pub(crate) state: Mutex<State>,
    /// Wakes [`Session::next`].
    pub(crate) notify: Notify,
}

/// The part of a session that changes.
pub(crate) struct State {
    /// The identity of the session; a clean start makes a new one.
    pub(crate) id: [u8; 16],
    /// The owner epoch: one more at each connect.
    pub(crate) epoch: u32,
    /// By which claim this node owns it; `None` in a cluster of one.
    pub(crate) claim: Option<Claim>,
    /// It is out of the table of sessions; whoever still holds the entry must look again.
    pub(crate) gone: bool,
    /// Whether a connection has it.
    pub(crate) online: bool,
    /// Since when not, in milliseconds since the Unix epoch.
    pub(crate) offline_since_ms: i64,
    /// Seconds that it outlives its connection.
    pub(crate) expiry_s: u32,
    /// Records of it may be in the log.
    pub(crate) durable: bool,
    /// The will of the present or the last connection, until it is published or dropped.
    pub(crate) will: Option<Will>,
    /// Who connected last.
    pub(crate) caller: Caller,
    /// By filter, `$share/{group}/` included.
    pub(crate) subscriptions: BTreeMap<Arc<str>, Arc<Subscription>>,
    /// Raised when the subscriptions change.
    pub(crate) subscriptions_version: u64,
    /// QoS 2 publishes that are not released, by packet id.
    pub(crate) inbound: HashMap<u16, Inbound>,
    /// QoS 2 publishes of this owner epoch.
    pub(crate) publishes: u32,
    /// Outbound.
    pub(crate) inbox: Inbox,
    /// Where partitions without a feed go on: all of them while there is no connection.
    pub(crate) cursors: HashMap<PartitionId, Offset>,
    /// A clean session that is too far behind.
    pub(crate) is_slow: bool,
    /// Waits for its checkpoint.
    pub(crate) is_dirty: bool,
    /// Running timers.
    pub(crate) timers: Vec<TimerKey>,
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// As the client names it.
    pub(crate) full: Arc<str>,
    /// The filter without `$share/{group}/`.
    pub(crate) filter: Arc<str>,
    /// The group, if it is shared.
    pub(crate) group: Option<Arc<ShareGroup>>,
    /// What the client asked for.
    pub(crate) options: Options,
    /// Sorted by partition: nothing below belongs to this subscription.
    pub(crate) starts: Arc<[(PartitionId, Offset)]>,
}

// === impl Subscription ===

impl Subscription {
    /// Where it begins in a partition, if the partition was there when it was made.
    pub(crate) fn start(&self, partition: PartitionId) -> Option<Offset> {
        let at = self
            .starts
            .binary_search_by_key(&partition, |(partition, _)| *partition)
            .ok()?;
        Some(self.starts[at].1)
    }

    /// Whether a record is part of it by its place.
    pub(crate) fn covers(&self, partition: PartitionId, offset: Offset) -> bool {
        self.start(partition).is_none_or(|start| offset >= start)
    }
}

// === impl SessionEntry ===

impl SessionEntry {
    pub(crate) fn new(number: u64, client_id: Arc<str>, state: State) -> Self {
        Self {
            number,
            client_id,
            control: tokio::sync::Mutex::default(),
            writes: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
            notify: Notify::new(),
        }
    }
}

impl std::fmt::Debug for SessionEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionEntry")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    pub(crate) fn new(id: [u8; 16], caller: Caller, limits: QueueLimits) -> Self {
        Self {
            id,
            epoch: 0,
            claim: None,
            gone: false,
            online: false,
            offline_since_ms: 0,
            expiry_s: 0,
            durable: false,
            will: None,
            caller,
            subscriptions: BTreeMap::new(),
            subscriptions_version: 0,
            inbound: HashMap::new(),
            publishes: 0,
            inbox: Inbox::new(limits),
            cursors: HashMap::new(),
            is_slow: false,
            is_dirty: false,
            timers: Vec::new(),
        }
    }

    /// Whether it outlives its connection, and so must outlive the process.
    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    pub(crate) fn session_record(&self) -> SessionRecord {
        SessionRecord {
            id: self.id,
            epoch: self.epoch,
            expiry_s: self.expiry_s,
            offline_since_ms: (!self.online).then_some(self.offline_since_ms),
            will: self.will.clone(),
        }
    }

    /// Positions and flights as they are now.
    pub(crate) fn outbound_record(&self) -> OutboundRecord {
        let mut feeds = self.inbox.positions();
        let parked = self
            .cursors
            .iter()
            .map(|(partition, offset)| (*partition, *offset));
        feeds.extend(parked.filter(|(partition, _)| !self.inbox.has_feed(*partition)));
        let inflight = self
            .inbox
            .inflight()
            .into_iter()
            .map(|(id, flight)| flight.record(id));
        OutboundRecord {
            feeds,
            inflight: inflight.collect(),
        }
    }
}
