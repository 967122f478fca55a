//! Writing a session's state to `__mqtt_sessions`.

use std::sync::Arc;

use super::{
    SessionEntry, State, append_error,
    records::{Key, SubscriptionRecord},
};
use crate::{
    access::{
        AccessTicket,
        wire::{Claim, Guard, GuardKind},
    },
    internal::KeyValue,
    mqtt::{PublishError, hub::Hub},
};

/// Bytes of keys and values that are appended at once when a session is deleted.
const DELETE_BYTES: usize = 256 << 10;

impl Hub {
    /// Builds records under the session's lock and takes their place in the log, so that the log's
    /// order is that of the changes. Refused if `epoch` is not the session's any more. No records,
    /// no ticket.
    pub(crate) async fn write(
        &self,
        entry: &SessionEntry,
        epoch: u32,
        build: impl FnOnce(&mut State) -> Vec<KeyValue> + Send,
    ) -> Result<Option<AccessTicket>, PublishError> {
        let _order = entry.writes.lock().await;
        let (records, claim) = {
            let mut state = entry.state.lock();
            if state.epoch != epoch || state.gone {
                return Err(PublishError::Fenced);
            }
            let records = build(&mut state);
            state.durable |= !records.is_empty();
            (records, state.claim)
        };
        if records.is_empty() {
            return Ok(None);
        }
        let guard = Guard {
            client: entry.client_id.to_string(),
            claim,
            kind: GuardKind::Present,
        };
        let ticket = self.append_owned(guard, &records).await;
        ticket.map(Some).map_err(|error| append_error(&error))
    }

    /// As [`Hub::write`], and waits until it is durable.
    pub(crate) async fn write_durable(
        &self,
        entry: &SessionEntry,
        epoch: u32,
        build: impl FnOnce(&mut State) -> Vec<KeyValue> + Send,
    ) -> Result<(), PublishError> {
        match self.write(entry, epoch, build).await? {
            Some(ticket) => ticket
                .await
                .map(|_| ())
                .map_err(|error| append_error(&error)),
            None => Ok(()),
        }
    }

    /// Positions and flights, durable when it returns.
    pub(crate) async fn write_outbound(
        &self,
        entry: &SessionEntry,
        epoch: u32,
    ) -> Result<(), PublishError> {
        let client = entry.client_id.clone();
        self.write_durable(entry, epoch, move |state| vec![outbound(&client, state)])
            .await
    }

    /// As [`Hub::write_outbound`], without waiting: an older checkpoint only repeats QoS 1.
    pub(crate) async fn checkpoint_session(&self, entry: &SessionEntry, epoch: u32) {
        let client = entry.client_id.clone();
        let write = self
            .write(entry, epoch, move |state| vec![outbound(&client, state)])
            .await;
        if let Err(error @ PublishError::Transient(_)) = write {
            tracing::debug!(%error, "positions of a session not written");
        }
    }

    /// Forgets all records of a session. The caller holds `control` and has set `gone`.
    /// With `claim` the session ends for good, and the claim with the last record.
    pub(super) async fn delete_records(
        &self,
        client: &Arc<str>,
        keys: Vec<bytes::Bytes>,
        (claim, is_last): (Option<Claim>, bool),
    ) {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            bytes += key.len();
            records.push(KeyValue { key, value: None });
            if bytes >= DELETE_BYTES || keys.peek().is_none() {
                bytes = 0;
                let kind = match is_last && keys.peek().is_none() {
                    true => GuardKind::Last,
                    false => GuardKind::Present,
                };
                let guard = Guard {
                    client: client.to_string(),
                    claim,
                    kind,
                };
                let batch = std::mem::take(&mut records);
                let append = self.append_owned(guard, &batch);
                // Not waited for: what survives a crash now is deleted at the next start.
                if let Err(error) = append.await {
                    tracing::warn!(%error, "records of a session not deleted");
                    return;
                }
            }
        }
    }
}

/// The record of what is outbound.
pub(super) fn outbound(client: &str, state: &State) -> KeyValue {
    KeyValue {
        key: Key::Outbound { client }.encode(),
        value: Some(state.outbound_record().encode()),
    }
}

/// The record of the session itself.
pub(super) fn session(client: &str, state: &State) -> KeyValue {
    KeyValue {
        key: Key::Session { client }.encode(),
        value: Some(state.session_record().encode()),
    }
}

/// The record of a subscription that is there.
pub(super) fn subscription(client: &str, subscription: &super::Subscription) -> KeyValue {
    let record = SubscriptionRecord {
        options: subscription.options,
        starts: subscription.starts.to_vec(),
    };
    KeyValue {
        key: Key::Subscription {
            client,
            filter: &subscription.full,
        }
        .encode(),
        value: Some(record.encode()),
    }
}

/// All keys that a session may have records of, the session itself last: a crash in between leaves
/// a session that is deleted again, not parts without one.
pub(super) fn all_keys(client: &str, state: &State) -> Vec<bytes::Bytes> {
    let filters = state.subscriptions.keys();
    let mut keys: Vec<bytes::Bytes> = filters
        .map(|filter| Key::Subscription { client, filter }.encode())
        .collect();
    let mut packet_ids: Vec<u16> = state.inbound.keys().copied().collect();
    packet_ids.sort_unstable();
    let intents = packet_ids.into_iter();
    keys.extend(intents.map(|packet_id| Key::Intent { client, packet_id }.encode()));
    keys.push(Key::Outbound { client }.encode());
    keys.push(Key::Session { client }.encode());
    keys
}
