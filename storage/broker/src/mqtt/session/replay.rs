//! The sessions of an earlier life of the node, from `__mqtt_sessions`.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use mainstem_record::{Offset, PartitionId};

use super::{
    SessionEntry, State, Subscription,
    inbound::Inbound,
    inbox::Flight,
    records::{
        Key, OutboundRecord, SessionRecord, SubscriptionRecord, decode_claim, decode_group,
        decode_intent,
    },
};
use crate::{
    access::wire::Claim,
    caller::Caller,
    internal::ReplayRecord,
    mqtt::{
        Will,
        hub::Hub,
        topic::{self, ParsedFilter},
    },
};

/// What the records say, before it is made sense of.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) sessions: BTreeMap<String, ReplayedSession>,
    pub(super) groups: BTreeMap<String, Vec<(PartitionId, Offset)>>,
    damaged: usize,
}

/// What the records say of one session.
#[derive(Default, Clone)]
pub(super) struct ReplayedSession {
    pub(super) claim: Option<Claim>,
    pub(super) record: Option<SessionRecord>,
    pub(super) subscriptions: BTreeMap<String, SubscriptionRecord>,
    intents: HashMap<u16, u64>,
    outbound: OutboundRecord,
}

// === impl Replayed ===

impl Replayed {
    /// The claim, if the record is one, and whose.
    pub(super) fn apply(&mut self, record: &ReplayRecord<'_>) -> Option<(String, Claim)> {
        if self.try_apply(record.key, record.value).is_none() {
            self.damaged += 1;
            return None;
        }
        match (Key::decode(record.key)?, record.value) {
            (Key::Claim { client }, Some(value)) => Some((client.to_owned(), decode_claim(value)?)),
            _ => None,
        }
    }

    fn try_apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<()> {
        let key = Key::decode(key)?;
        let client = match key {
            Key::Group { name } => {
                match value {
                    Some(value) => self.groups.insert(name.to_owned(), decode_group(value)?),
                    None => self.groups.remove(name),
                };
                return Some(());
            }
            Key::Session { client }
            | Key::Subscription { client, .. }
            | Key::Intent { client, .. }
            | Key::Outbound { client }
            | Key::Claim { client } => client,
        };
        if !self.sessions.contains_key(client) {
            self.sessions
                .insert(client.to_owned(), ReplayedSession::default());
        }
        let session = self.sessions.get_mut(client)?;
        match (key, value) {
            (Key::Session { .. }, value) => {
                session.record = value
                    .map(SessionRecord::decode)
                    .map_or(Some(None), |r| r.map(Some))?;
            }
            (Key::Subscription { filter, .. }, Some(value)) => {
                let record = SubscriptionRecord::decode(value)?;
                session.subscriptions.insert(filter.to_owned(), record);
            }
            (Key::Subscription { filter, .. }, None) => {
                session.subscriptions.remove(filter);
            }
            (Key::Intent { packet_id, .. }, Some(value)) => {
                session.intents.insert(packet_id, decode_intent(value)?);
            }
            (Key::Intent { packet_id, .. }, None) => {
                session.intents.remove(&packet_id);
            }
            (Key::Outbound { .. }, value) => {
                session.outbound =
                    value.map_or(Some(OutboundRecord::default()), OutboundRecord::decode)?;
            }
            (Key::Claim { .. }, value) => {
                session.claim = value
                    .map(decode_claim)
                    .map_or(Some(None), |claim| claim.map(Some))?;
            }
            (Key::Group { .. }, _) => {}
        }
        let is_gone = session.claim.is_none()
            && session.record.is_none()
            && session.subscriptions.is_empty()
            && session.intents.is_empty()
            && session.outbound == OutboundRecord::default();
        if is_gone {
            self.sessions.remove(client);
        }
        Some(())
    }
}

// === impl Hub ===

impl Hub {
    /// Rebuilds all sessions. None has a connection; what the crash cut off counts as lost now.
    pub(crate) async fn replay_sessions(self: &Arc<Self>) {
        let mut replayed = Replayed::default();
        self.store
            .replay(&mut |record| {
                replayed.apply(&record);
            })
            .await;
        if replayed.damaged > 0 {
            tracing::error!(
                records = replayed.damaged,
                "session records that cannot be read"
            );
        }
        let groups = std::mem::take(&mut replayed.groups);
        for (client, session) in replayed.sessions {
            self.restore(&client, session, &groups, true).await;
        }
        // The sessions of a group may be among what could not be read.
        if !self.store.is_whole() {
            return;
        }
        // Positions of groups that no session has any more.
        for name in groups
            .keys()
            .filter(|name| !self.groups.contains_key(name.as_str()))
        {
            self.delete_group_record(name).await;
        }
    }

    /// Makes the entry of a session of which the records are known. One that is over ends.
    pub(super) async fn restore(
        self: &Arc<Self>,
        client: &str,
        session: ReplayedSession,
        groups: &BTreeMap<String, Vec<(PartitionId, Offset)>>,
        starts_timers: bool,
    ) {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let client_id: Arc<str> = Arc::from(client);
        let caller = Caller::anonymous(unspecified, client);
        let mut state = State::new([0; 16], caller.clone(), self.queue_limits());
        state.durable = true;
        state.claim = session.claim;
        let now_ms = self.core.env.wall_ms();
        let expiry_s = session.record.as_ref().map_or(0, |record| record.expiry_s);
        let will = session
            .record
            .as_ref()
            .and_then(|record| record.will.clone());
        let since_ms = session
            .record
            .as_ref()
            .and_then(|record| record.offline_since_ms);
        let elapsed_ms = now_ms.saturating_sub(since_ms.unwrap_or(now_ms)).max(0);
        let elapsed_s = u32::try_from(elapsed_ms / 1000).unwrap_or(u32::MAX);
        let is_over = session.record.is_none() || (expiry_s != u32::MAX && elapsed_s >= expiry_s);
        if let Some(record) = &session.record {
            state.id = record.id;
            state.epoch = record.epoch;
            state.expiry_s = record.expiry_s;
            state.offline_since_ms = since_ms.unwrap_or(now_ms);
            state.will = record.will.clone();
        }
        for (packet_id, sequence) in session.intents {
            let open = Inbound {
                sequence,
                is_intended: true,
                is_stored: false,
            };
            state.inbound.insert(packet_id, open);
        }
        state.cursors = session.outbound.feeds.iter().copied().collect();
        for record in &session.outbound.inflight {
            state
                .inbox
                .restore_flight(record.packet_id, Flight::from_record(record));
        }
        for (filter, record) in session.subscriptions {
            self.restore_subscription(&mut state, (client, &filter), record, is_over, groups);
        }
        let epoch = state.epoch;
        let entry = Arc::new(SessionEntry::new(
            self.next_number(),
            client_id.clone(),
            state,
        ));
        self.sessions.insert(client_id, entry.clone());
        if is_over {
            let _control = entry.control.lock().await;
            self.end_session(&entry).await;
            return;
        }
        if !starts_timers {
            return;
        }
        let delay_s = will.as_ref().map(|will: &Will| will.delay_s);
        self.start_timers(&entry, epoch, (expiry_s, delay_s), elapsed_s);
    }

    fn restore_subscription(
        self: &Arc<Self>,
        state: &mut State,
        (client, full): (&str, &str),
        record: SubscriptionRecord,
        is_over: bool,
        groups: &BTreeMap<String, Vec<(PartitionId, Offset)>>,
    ) {
        let mut starts = record.starts;
        starts.sort_unstable_by_key(|(partition, _)| *partition);
        let starts: Arc<[(PartitionId, Offset)]> = starts.into();
        let Some(parsed) = topic::parse_filter(full) else {
            return;
        };
        let (filter, group) = match parsed {
            ParsedFilter::Plain(filter) => (filter, None),
            ParsedFilter::Shared { group, filter } if !is_over => {
                let shared = self.group(group, filter, &starts);
                if let Some(shared) = &shared {
                    let parked = groups
                        .get(&*shared.name)
                        .map(Vec::as_slice)
                        .unwrap_or_default();
                    shared.restore(client, parked);
                }
                (filter, shared)
            }
            ParsedFilter::Shared { filter, .. } => (filter, None),
        };
        let full: Arc<str> = Arc::from(full);
        let subscription = Subscription {
            full: full.clone(),
            filter: Arc::from(filter),
            group,
            options: record.options,
            starts,
        };
        state.subscriptions.insert(full, Arc::new(subscription));
    }
}
