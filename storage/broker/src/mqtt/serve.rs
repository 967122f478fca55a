//! Appends that other nodes send to the partitions that this node leads.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use mainstem_env::BoxFuture;
use mainstem_log::{AppendError, Appended, Partition};
use mainstem_peers::{Handler, PeerIdentity, Refusal, Service};
use mainstem_record::{BrokerId, PartitionId};

use super::{PublishError, hub::Hub, mapping::is_retained, retained::Pending, session::Admission};
use crate::access::{
    AccessTicket, Appender, Leader,
    wire::{Group, Item, What, encode_outcomes},
};

/// The code of a body that cannot be read.
const MALFORMED: u16 = 1;
/// The code of a node that is stopping.
const STOPPING: u16 = 2;
/// The code of a group that another one of the same sender has passed.
const LATE: u16 = 3;

/// The newest group of a sender: its life, and the number in it.
type Newest = Arc<tokio::sync::Mutex<(u64, u64)>>;

/// Serves [`Service::PRODUCE`].
struct Appends {
    hub: Weak<Hub>,
    newest: DashMap<(PartitionId, BrokerId), Newest>,
}

/// An append that has its place, and the retained message that comes of it.
pub(super) struct Place {
    pub(super) ticket: Result<AccessTicket, AppendError>,
    retained: Option<Pending>,
}

// === impl Hub ===

impl Hub {
    /// Serves appends of other nodes from now on.
    pub(super) fn serve_appends(self: &Arc<Self>) {
        let hub: Weak<Self> = Arc::downgrade(self);
        self.core.set_appender(hub.clone());
        if let Some(access) = self.core.access() {
            let newest = DashMap::new();
            let appends = Appends { hub, newest };
            access.peers().serve(Service::PRODUCE, Arc::new(appends));
        }
    }

    /// Takes places for `items`, in order.
    pub(super) async fn place_items(&self, id: PartitionId, items: Vec<Item>) -> Vec<Place> {
        let mut places = Vec::with_capacity(items.len());
        let mut admission = None;
        let mut is_led = true;
        if id == self.store.partition_id(id.index)
            && self.core.is_cluster()
            && let Leader::Here(partition) = self.core.leader(id)
        {
            admission = self.admission(id.index, &partition).await.ok();
            is_led = admission.is_some();
        }
        for item in items {
            let place = match (self.core.leader(id), is_led) {
                (Leader::Here(partition), true) => {
                    self.place_item(&partition, item, admission.as_mut()).await
                }
                _ => Place::failed(AppendError::NotLeader),
            };
            // What comes behind one that may be tried again must not overtake it.
            is_led &= !matches!(place.ticket, Err(AppendError::NotLeader));
            places.push(place);
        }
        places
    }

    async fn place_item(
        &self,
        partition: &Partition,
        item: Item,
        admission: Option<&mut Admission<'_>>,
    ) -> Place {
        if let (Some(admission), Some(guard)) = (admission, &item.guard)
            && !admission.admit(guard)
        {
            return Place::failed(AppendError::InvalidProducerEpoch);
        }
        let is_retained = match &item.what {
            What::Record { attributes, .. } => is_retained(*attributes),
            What::Records(_) => false,
        };
        let retained = match is_retained {
            true => match self.begin_retained(partition).await {
                Ok(pending) => Some(pending),
                Err(_) => return Place::failed(AppendError::NotLeader),
            },
            false => None,
        };
        let ticket = partition
            .append(item.append())
            .await
            .map(AccessTicket::Local);
        Place { ticket, retained }
    }

    /// Waits for what has its place. What is retained has its entry when this returns.
    async fn outcome(&self, id: PartitionId, place: Place) -> Result<Appended, AppendError> {
        let appended = place.ticket?.await?;
        let Some(pending) = place.retained else {
            return Ok(appended);
        };
        match self.retain_appended(id, appended.base_offset).await {
            Err(PublishError::Transient(_)) => Err(AppendError::NotLeader),
            _ => {
                pending.finish();
                Ok(appended)
            }
        }
    }
}

impl Appender for Hub {
    fn append_here(
        &self,
        partition: PartitionId,
        items: Vec<Item>,
    ) -> BoxFuture<'_, Vec<Result<Appended, AppendError>>> {
        Box::pin(async move {
            let places = self.place_items(partition, items).await;
            let mut outcomes = Vec::with_capacity(places.len());
            for place in places {
                outcomes.push(self.outcome(partition, place).await);
            }
            outcomes
        })
    }
}

// === impl Place ===

impl Place {
    fn failed(error: AppendError) -> Self {
        Self {
            ticket: Err(error),
            retained: None,
        }
    }
}

// === impl Appends ===

impl Appends {
    async fn append(&self, from: &PeerIdentity, body: Bytes) -> Result<Bytes, Refusal> {
        let hub = self.hub.upgrade().filter(|hub| !hub.is_closing());
        let hub = hub.ok_or_else(|| refused(STOPPING, "the node is stopping"))?;
        let group = Group::decode(&body);
        let group = group.ok_or_else(|| refused(MALFORMED, "the body is malformed"))?;
        let id = group.partition;
        if !hub.core.leads(id) {
            let outcomes = vec![Err(AppendError::NotLeader); group.items.len()];
            return Ok(encode_outcomes(&outcomes));
        }
        let newest = self.newest.entry((id, from.node)).or_default().clone();
        let places = {
            let mut newest = newest.lock().await;
            let this = (group.incarnation.0, group.number);
            // Its sender has given it up, and has sent others since, or again what was in it.
            if this <= *newest {
                return Err(refused(LATE, "a later group has been appended"));
            }
            *newest = this;
            hub.place_items(id, group.items).await
        };
        let mut outcomes = Vec::with_capacity(places.len());
        for place in places {
            outcomes.push(hub.outcome(id, place).await);
        }
        Ok(encode_outcomes(&outcomes))
    }
}

fn refused(code: u16, text: &str) -> Refusal {
    Refusal {
        code,
        text: text.to_owned(),
    }
}

impl Handler for Appends {
    fn call<'a>(
        &'a self,
        from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(self.append(from, body))
    }
}
