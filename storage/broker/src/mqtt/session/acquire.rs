//! How a node becomes the owner of a session, and how it stops being it.

use std::sync::{Arc, atomic::Ordering};

use mainstem_log::{Ack, AppendError};
use mainstem_metadata::Image;
use mainstem_record::{Member, Offset, PartitionIndex};

use super::{
    SessionEntry, State,
    records::{Key, encode_claim},
};
use crate::{
    access::{
        AccessTicket, PartitionAccess,
        wire::{Claim, Guard, GuardKind, Item},
    },
    caller::Caller,
    error_code::ErrorCode,
    internal::KeyValue,
    mqtt::{
        ConnectError,
        hub::Hub,
        limits::{ADOPT_INTERVAL, CLAIM_ATTEMPTS_MAX},
        share::ShareGroup,
    },
};

/// What a session is acquired for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Its client connects: its timers need not run.
    Connect,
    /// Its owner is gone: somebody must run its timers.
    Adopt,
}

/// Whether the owner of a session is there to care for it.
fn is_cared_for(image: &Image, claim: Option<Claim>) -> bool {
    claim.is_some_and(|claim| {
        let broker = image.brokers.get(&claim.owner.broker);
        image.is_current(claim.owner) && broker.is_some_and(|broker| !broker.fenced)
    })
}

// === impl Hub ===

impl Hub {
    /// Appends records of a session under the claim of its owner.
    pub(crate) async fn append_owned(
        &self,
        guard: Guard,
        records: &[KeyValue],
    ) -> Result<AccessTicket, AppendError> {
        let index = self.store.partition_of(guard.client.as_bytes());
        let append = self.store.append_of(records, Ack::Durable);
        let access = self.store.writer(index);
        match access.map_err(|_| AppendError::NotLeader)? {
            PartitionAccess::Local(_) if self.core.is_cluster() => {
                let item = Item::new(append, Some(guard))?;
                let places = self.place_items(self.store.partition_id(index), vec![item]);
                let place = places.await.pop().ok_or(AppendError::NotLeader)?;
                place.ticket
            }
            PartitionAccess::Local(partition) => {
                partition.append(append).await.map(AccessTicket::Local)
            }
            PartitionAccess::Remote(forwarder) => forwarder.append_guarded(append, guard).await,
        }
    }

    /// Makes this node the owner of a client's session, if it is not. When it returns, there is an
    /// entry for it, with the state that the last owner has left.
    pub(super) async fn acquire(self: &Arc<Self>, caller: &Caller) -> Result<(), ConnectError> {
        let client = &caller.client_id;
        let _turn = self.owners.acquiring(client).lock().await;
        let known = self.sessions.get(client).map(|entry| entry.clone());
        if let Some(entry) = known {
            self.register(&entry).await;
            return Ok(());
        }
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            self.claim_and_restore(client, Some(caller), Purpose::Connect)
                .await
                .map_err(|_| ConnectError::Unavailable)?;
            // One that was over has ended now, and the next claim begins a new one.
            if self.sessions.contains_key(client) {
                return Ok(());
            }
        }
        Err(ConnectError::Unavailable)
    }

    async fn claim_and_restore(
        self: &Arc<Self>,
        client: &Arc<str>,
        caller: Option<&Caller>,
        purpose: Purpose,
    ) -> Result<(), ErrorCode> {
        let index = self.store.partition_of(client.as_bytes());
        let (claim, at) = self.claim(index, client).await?;
        // Nobody else has written after the claim: what is applied then is what its owner left.
        self.owners.applied_to(self, index, at.next()).await?;
        let session = self.owners.session(index, client);
        let session = session.filter(|session| session.claim == Some(claim));
        // Already claimed by another one.
        let session = session.ok_or(ErrorCode::NotCoordinator)?;
        let is_fresh = session.record.is_none() && session.subscriptions.is_empty();
        match (is_fresh, caller) {
            (true, Some(caller)) => {
                let id = self.core.env.random_uuid();
                let mut state = State::new(id, caller.clone(), self.queue_limits());
                state.claim = Some(claim);
                state.durable = true;
                let entry = SessionEntry::new(self.next_number(), client.clone(), state);
                self.sessions.insert(client.clone(), Arc::new(entry));
            }
            _ => {
                let groups = self.owners.groups(index);
                let starts_timers = purpose == Purpose::Adopt;
                self.restore(client, session, &groups, starts_timers).await;
            }
        }
        // A later claim may have been learned before there was an entry to be lost.
        if let Some(newer) = self.owners.claim(index, client) {
            self.learned_claim(client, newer);
        }
        Ok(())
    }

    /// Claims a session: the claim, and the offset of its record.
    async fn claim(
        &self,
        index: PartitionIndex,
        client: &str,
    ) -> Result<(Claim, Offset), ErrorCode> {
        let mut term = 0;
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let known = self.owners.claim(index, client);
            term = known.map_or(0, |claim| claim.term).max(term) + 1;
            let claim = Claim {
                term,
                owner: self.core.me(),
            };
            let ticket = self.append_claim(client, claim).await;
            let appended = match ticket {
                Ok(ticket) => ticket.await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(appended) => return Ok((claim, appended.base_offset)),
                Err(AppendError::InvalidProducerEpoch) => {
                    // Somebody has claimed it whose claim is not applied here yet.
                    let id = self.store.partition_id(index);
                    let end = self.core.leader_end(id).await?;
                    self.owners.applied_to(self, index, end).await?;
                }
                Err(_) => return Err(ErrorCode::CoordinatorNotAvailable),
            }
        }
        Err(ErrorCode::CoordinatorNotAvailable)
    }

    async fn append_claim(&self, client: &str, claim: Claim) -> Result<AccessTicket, AppendError> {
        let record = KeyValue {
            key: Key::Claim { client }.encode(),
            value: Some(encode_claim(claim)),
        };
        let guard = Guard {
            client: client.to_owned(),
            claim: Some(claim),
            kind: GuardKind::New,
        };
        self.append_owned(guard, &[record]).await
    }

    /// Claims a session that is here from before there were other nodes.
    async fn register(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        // No record may take its place between the claim and the knowledge of it.
        let _order = entry.writes.lock().await;
        if entry.state.lock().claim.is_some() {
            return;
        }
        let claim = Claim {
            term: 1,
            owner: self.core.me(),
        };
        match self.append_claim(&entry.client_id, claim).await {
            Ok(ticket) => {
                {
                    let mut state = entry.state.lock();
                    state.claim = Some(claim);
                    state.durable = true;
                }
                match ticket.await {
                    Err(AppendError::InvalidProducerEpoch) => self.lose(entry),
                    Err(error) => tracing::warn!(%error, "the claim of a session is not known"),
                    Ok(_) => {}
                }
            }
            Err(AppendError::InvalidProducerEpoch) => self.lose(entry),
            Err(error) => tracing::debug!(%error, "a session is not claimed yet"),
        }
    }

    /// A claim is committed. If it is another node's, this one is not the owner any more.
    pub(super) fn learned_claim(self: &Arc<Self>, client: &str, claim: Claim) {
        if claim.owner == self.core.me() {
            return;
        }
        let Some(entry) = self.sessions.get(client).map(|entry| entry.clone()) else {
            return;
        };
        let is_newer = {
            let state = entry.state.lock();
            state.claim.is_none_or(|mine| claim.term > mine.term)
        };
        if is_newer {
            self.lose(&entry);
        }
    }

    /// The session has gone to another node: its connection here is told so, and nothing is kept or
    /// written of it.
    fn lose(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        {
            let mut state = entry.state.lock();
            if state.gone {
                return;
            }
            state.gone = true;
            // Refuses what the connection still tries, and lets it see that it was taken over.
            state.epoch = state.epoch.saturating_add(1);
            state.will = None;
            self.timers.cancel(&mut state.timers);
        }
        self.sessions
            .remove_if(&entry.client_id, |_, other| Arc::ptr_eq(other, entry));
        entry.notify.notify_one();
        let (hub, entry) = (self.clone(), entry.clone());
        self.core.spawn("mqtt session lost", async move {
            let _control = entry.control.lock().await;
            if entry.state.lock().online {
                hub.detach(&entry);
            }
            let groups: Vec<Arc<ShareGroup>> = {
                let state = entry.state.lock();
                let own = state.subscriptions.values();
                own.filter_map(|sub| sub.group.clone()).collect()
            };
            for group in groups {
                hub.leave_group(&group, &entry, false);
            }
            entry.notify.notify_one();
        });
    }

    /// Takes part in a cluster as soon as there is one, until the node ends: applies what all owners
    /// write, claims what is here, and cares for sessions whose owner is gone where it leads their
    /// partition.
    pub(crate) async fn own_sessions(self: Arc<Self>) {
        let mut changes = self.core.metadata.changes();
        let mut seen = None;
        loop {
            changes.borrow_and_update();
            let is_cluster = self.core.is_cluster();
            if is_cluster && !self.is_applying.swap(true, Ordering::SeqCst) {
                self.begin_applying();
            }
            let now = is_cluster.then(|| self.situation());
            let is_done = match now == seen {
                true => true,
                false => self.adopt_orphans().await,
            };
            if is_done {
                seen = now;
            }
            let again = async {
                match is_done {
                    true => std::future::pending().await,
                    false => self.core.env.sleep(ADOPT_INTERVAL).await,
                }
            };
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    fn begin_applying(self: &Arc<Self>) {
        for index in self.owners.indexes() {
            self.core
                .spawn("mqtt sessions", self.clone().apply_sessions(index));
        }
        let mut entries: Vec<_> = self.sessions.iter().map(|entry| entry.clone()).collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        let hub = self.clone();
        self.core.spawn("mqtt sessions", async move {
            for entry in entries {
                hub.register(&entry).await;
            }
        });
    }

    /// What decides who has to care for sessions: the brokers that are there, and what this one
    /// leads.
    fn situation(&self) -> (Vec<(Member, bool)>, Vec<PartitionIndex>) {
        let image = self.core.image();
        let brokers = image.brokers.values();
        let brokers = brokers.map(|broker| {
            let member = Member::new(broker.id, broker.incarnation);
            (member, broker.fenced)
        });
        let led = self.owners.indexes();
        let led = led.filter(|index| self.core.leads(self.store.partition_id(*index)));
        (brokers.collect(), led.collect())
    }

    /// Whether nothing is left to be adopted.
    async fn adopt_orphans(self: &Arc<Self>) -> bool {
        let mut is_done = true;
        for index in self.owners.indexes() {
            let id = self.store.partition_id(index);
            let Ok(partition) = self.core.partition(id) else {
                continue;
            };
            if !self.core.leads(id) {
                continue;
            }
            let end = partition.ends().committed_end;
            if self.owners.applied_to(self, index, end).await.is_err() {
                is_done = false;
                continue;
            }
            let image = self.core.image();
            let orphans = self.owners.clients(index, |client, claim| {
                !is_cared_for(&image, claim) && !self.sessions.contains_key(client)
            });
            for client in orphans {
                if self.core.stop.is_cancelled() {
                    return true;
                }
                is_done &= self.adopt(index, &Arc::from(client)).await;
            }
        }
        is_done
    }

    async fn adopt(self: &Arc<Self>, index: PartitionIndex, client: &Arc<str>) -> bool {
        let _turn = self.owners.acquiring(client).lock().await;
        let claim = self.owners.claim(index, client);
        if self.sessions.contains_key(client) || is_cared_for(&self.core.image(), claim) {
            return true;
        }
        let adopted = self.claim_and_restore(client, None, Purpose::Adopt).await;
        if let Err(code) = &adopted {
            tracing::debug!(%code, "a session without an owner is not adopted yet");
        }
        adopted.is_ok()
    }
}
