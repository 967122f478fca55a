//! The end of a connection, and the end of a session.

use std::{sync::Arc, time::Duration};

use super::{SessionEntry, records::Key, store};
use crate::mqtt::{Disconnect, hub::Hub, timers::TimerKind};

impl Hub {
    /// A connection has ended. Does nothing if another one has taken over.
    pub(crate) async fn end_connection(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        epoch: u32,
        end: Disconnect,
    ) {
        let _control = entry.control.lock().await;
        {
            let state = entry.state.lock();
            if state.epoch != epoch || !state.online {
                return;
            }
        }
        self.go_offline(entry, &end).await;
    }

    /// Takes the session out of the live path: trie, groups, feeds. What it has to go on from is
    /// kept in its state.
    pub(super) fn detach(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        self.online.remove(&entry.number);
        let subscriptions: Vec<_> = entry.state.lock().subscriptions.values().cloned().collect();
        for subscription in subscriptions.iter().filter(|sub| sub.group.is_none()) {
            self.trie.write().remove(&subscription.filter, entry.number);
        }
        self.metrics.subscriptions.sub(subscriptions.len() as i64);
        let (returned, is_persistent, in_flight) = {
            let mut state = entry.state.lock();
            let positions = state.inbox.positions();
            state.cursors.extend(positions);
            let in_flight = state.inbox.inflight_count();
            state.online = false;
            state.offline_since_ms = self.core.env.wall_ms();
            (state.inbox.detach(), state.is_persistent(), in_flight)
        };
        self.metrics.inflight.sub(in_flight as i64);
        // Out of the groups first, so that what it gives back does not come back to it.
        for group in subscriptions
            .iter()
            .filter_map(|subscription| subscription.group.as_ref())
        {
            self.leave_group(group, entry, is_persistent);
        }
        for (group, partition, offset) in returned {
            group.give_back(partition, offset);
        }
    }

    /// As [`Hub::end_connection`]; the caller holds `control`, and the session is online.
    pub(super) async fn go_offline(self: &Arc<Self>, entry: &Arc<SessionEntry>, end: &Disconnect) {
        self.detach(entry);
        let (epoch, expiry_s, delay_s) = {
            let mut state = entry.state.lock();
            if let Some(expiry_s) = end.session_expiry_s.filter(|_| state.is_persistent()) {
                state.expiry_s = expiry_s.min(self.core.config.mqtt.session_expiry_s_max);
            }
            if !end.publish_will {
                state.will = None;
            }
            (
                state.epoch,
                state.expiry_s,
                state.will.as_ref().map(|will| will.delay_s),
            )
        };
        if expiry_s == 0 {
            self.end_session(entry).await;
            return;
        }
        let client = entry.client_id.clone();
        let build = move |state: &mut super::State| {
            vec![
                store::session(&client, state),
                store::outbound(&client, state),
            ]
        };
        // Not waited for. Without it a crash leaves an older checkpoint, which repeats QoS 1 only.
        if let Err(error) = self.write(entry, epoch, build).await {
            tracing::warn!(%error, "state of an offline session not stored");
        }
        self.start_timers(entry, epoch, (expiry_s, delay_s), 0);
    }

    /// Starts the timers of an offline session, of which `elapsed_s` have passed.
    pub(super) fn start_timers(
        self: &Arc<Self>,
        entry: &Arc<SessionEntry>,
        epoch: u32,
        (expiry_s, delay_s): (u32, Option<u32>),
        elapsed_s: u32,
    ) {
        let remaining =
            |seconds: u32| Duration::from_secs(u64::from(seconds.saturating_sub(elapsed_s)));
        let mut keys = Vec::new();
        if let Some(delay_s) = delay_s {
            let after = remaining(delay_s.min(expiry_s));
            keys.push(
                self.timers
                    .start(after, (entry.clone(), epoch), TimerKind::Will),
            );
        }
        if expiry_s != u32::MAX {
            let after = remaining(expiry_s);
            keys.push(
                self.timers
                    .start(after, (entry.clone(), epoch), TimerKind::Expiry),
            );
        }
        entry.state.lock().timers.extend(keys);
    }

    /// A timer of an offline session has run out.
    pub(crate) async fn timer_fired(
        self: &Arc<Self>,
        entry: Arc<SessionEntry>,
        epoch: u32,
        kind: TimerKind,
    ) {
        let _control = entry.control.lock().await;
        {
            let state = entry.state.lock();
            if state.epoch != epoch || state.online || state.gone {
                return;
            }
        }
        match kind {
            TimerKind::Will => self.publish_pending_will(&entry, epoch),
            TimerKind::Expiry => self.end_session(&entry).await,
        }
    }

    /// Publishes the will of an offline session. Its record forgets it only after that: a crash in
    /// between publishes it again, never not.
    fn publish_pending_will(self: &Arc<Self>, entry: &Arc<SessionEntry>, epoch: u32) {
        let (will, caller) = {
            let mut state = entry.state.lock();
            (state.will.take(), state.caller.clone())
        };
        let Some(will) = will else { return };
        let (hub, entry) = (self.clone(), entry.clone());
        self.core.spawn("mqtt will", async move {
            hub.publish_will(&caller, will).await;
            let client = entry.client_id.clone();
            let forget = move |state: &mut super::State| match state.online {
                true => Vec::new(),
                false => vec![store::session(&client, state)],
            };
            // Fenced: a new connection has replaced the will already.
            let _ = hub.write(&entry, epoch, forget).await;
        });
    }

    /// The session is over: nothing of it remains. The caller holds `control`; no connection has it.
    pub(super) async fn end_session(self: &Arc<Self>, entry: &Arc<SessionEntry>) {
        let (keys, claim, will, caller, groups) = {
            let mut state = entry.state.lock();
            if state.gone {
                return;
            }
            state.gone = true;
            self.timers.cancel(&mut state.timers);
            let claim = state.claim;
            let keys = state.durable.then(|| {
                let mut keys = store::all_keys(&entry.client_id, &state);
                let client = &entry.client_id;
                keys.extend(claim.map(|_| Key::Claim { client }.encode()));
                keys
            });
            let subscriptions = std::mem::take(&mut state.subscriptions);
            let groups: Vec<_> = subscriptions
                .values()
                .filter_map(|sub| sub.group.clone())
                .collect();
            (keys, claim, state.will.take(), state.caller.clone(), groups)
        };
        self.sessions
            .remove_if(&entry.client_id, |_, other| Arc::ptr_eq(other, entry));
        for group in groups {
            self.leave_group(&group, entry, false);
        }
        if let Some(will) = will {
            self.spawn_will(caller, will);
        }
        if let Some(keys) = keys {
            self.delete_records(&entry.client_id, keys, (claim, true))
                .await;
        }
    }
}
