//! One connection's handle on its session.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    SessionEntry,
    inbound::{LaneItem, PublishTicket},
};
use crate::mqtt::{
    Delivery, Disconnect, Publish, PublishError, QoS, SessionEvent, SubscribeFilter,
    delivery::OwnFilters, hub::Hub, publish::RouteMemo,
};

/// One connection's handle on its session. Dropped without [`Session::disconnect`], the connection
/// counts as lost, and the will is published.
pub struct Session {
    pub(crate) hub: Arc<Hub>,
    pub(crate) entry: Arc<SessionEntry>,
    /// The owner epoch of this connection.
    pub(super) epoch: u32,
    pub(super) lane: OnceLock<mpsc::Sender<LaneItem>>,
    /// Where the last topic went: a device publishes to few.
    pub(crate) route: Mutex<Option<RouteMemo>>,
    /// For reading the log when the session is behind. Only [`Session::next`] uses it.
    pub(super) filters: tokio::sync::Mutex<OwnFilters>,
    is_ended: bool,
}

// === impl Session ===

impl Session {
    pub(super) fn new(hub: Arc<Hub>, entry: Arc<SessionEntry>, epoch: u32) -> Self {
        Self {
            hub,
            entry,
            epoch,
            lane: OnceLock::new(),
            route: Mutex::new(None),
            filters: tokio::sync::Mutex::default(),
            is_ended: false,
        }
    }

    /// The client identifier.
    pub fn client_id(&self) -> &str {
        &self.entry.client_id
    }

    pub(super) fn check_owner(&self) -> Result<(), PublishError> {
        match self.entry.state.lock().epoch == self.epoch {
            true => Ok(()),
            false => Err(PublishError::Fenced),
        }
    }

    /// Takes a PUBLISH. The await is back-pressure and takes the publish's place in the order; the
    /// ticket completes when PUBACK or PUBREC may be sent. A repeated QoS 2 packet id that is not
    /// released is not stored again. QoS 0 is never waited for.
    ///
    /// # Errors
    /// Here and from the ticket: see [`PublishError`].
    pub async fn publish(&self, publish: Publish) -> Result<PublishTicket, PublishError> {
        self.publish_inner(publish).await
    }

    /// PUBREL: the packet id is free, durably, when it returns, and PUBCOMP may be sent. Whether it
    /// was known.
    ///
    /// # Errors
    /// [`PublishError::Transient`]: send no PUBCOMP. [`PublishError::Fenced`].
    pub async fn release(&self, packet_id: u16) -> Result<bool, PublishError> {
        self.release_inner(packet_id).await
    }

    /// SUBSCRIBE: for each filter the granted QoS, or the v5 reason why not. Every record that is
    /// committed after it returns is seen, and none that was committed before the call; durable, if
    /// the session is, when it returns. Retained messages follow by [`Session::next`].
    ///
    /// # Errors
    /// [`PublishError::Transient`]: send no SUBACK. [`PublishError::Fenced`].
    pub async fn subscribe(
        &self,
        filters: Vec<SubscribeFilter>,
    ) -> Result<Vec<Result<QoS, u8>>, PublishError> {
        self.hub.subscribe(&self.entry, self.epoch, filters).await
    }

    /// UNSUBSCRIBE: whether each filter was there. What is queued may still come.
    ///
    /// # Errors
    /// [`PublishError::Transient`]: send no UNSUBACK. [`PublishError::Fenced`].
    pub async fn unsubscribe(&self, filters: Vec<String>) -> Result<Vec<bool>, PublishError> {
        self.hub.unsubscribe(&self.entry, self.epoch, filters).await
    }

    /// What to do next: at most `window` messages of QoS 1 and 2, and QoS 0; waits until there is
    /// something. One caller at a time. Cancelling it loses nothing.
    ///
    /// Calling it again says that messages of QoS 1 and 2 that an earlier call gave out and that
    /// have not been passed to [`Session::sent`] are let go (expired, larger than the client
    /// takes): they do not come again.
    pub async fn next(&self, window: usize) -> SessionEvent {
        self.next_inner(window).await
    }

    /// Before QoS 1 and 2 PUBLISHes go out: they are in flight under these packet ids from now on.
    /// With QoS 2 among them that is durable when it returns. In the order in which
    /// [`Session::next`] gave them.
    ///
    /// # Errors
    /// [`PublishError::Transient`]: do not send them. [`PublishError::Fenced`].
    pub async fn sent(&self, sent: Vec<(u16, Delivery)>) -> Result<(), PublishError> {
        let is_exact = {
            let mut state = self.entry.state.lock();
            if state.epoch != self.epoch {
                return Err(PublishError::Fenced);
            }
            for (packet_id, delivery) in &sent {
                state.inbox.sent(*packet_id, delivery);
            }
            self.hub.metrics.inflight.add(sent.len() as i64);
            let is_exact = sent
                .iter()
                .any(|(_, delivery)| delivery.qos == QoS::ExactlyOnce);
            is_exact && state.is_persistent()
        };
        match is_exact {
            true => self.hub.write_outbound(&self.entry, self.epoch).await,
            false => {
                self.hub.mark_dirty(&self.entry);
                Ok(())
            }
        }
    }

    /// PUBREC for these came: durable when it returns, and PUBREL may be sent.
    ///
    /// # Errors
    /// [`PublishError::Transient`]: send no PUBREL. [`PublishError::Fenced`].
    pub async fn received(&self, packet_ids: Vec<u16>) -> Result<(), PublishError> {
        let is_persistent = {
            let mut state = self.entry.state.lock();
            if state.epoch != self.epoch {
                return Err(PublishError::Fenced);
            }
            for packet_id in packet_ids {
                state.inbox.received(packet_id);
            }
            state.is_persistent()
        };
        match is_persistent {
            true => self.hub.write_outbound(&self.entry, self.epoch).await,
            false => Ok(()),
        }
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses: the client is done with these.
    ///
    /// # Errors
    /// [`PublishError::Fenced`].
    pub async fn completed(&self, packet_ids: Vec<u16>) -> Result<(), PublishError> {
        let mut state = self.entry.state.lock();
        if state.epoch != self.epoch {
            return Err(PublishError::Fenced);
        }
        let known = packet_ids
            .iter()
            .filter(|packet_id| state.inbox.completed(**packet_id));
        let known = known.count();
        drop(state);
        self.hub.metrics.inflight.sub(known as i64);
        self.hub.mark_dirty(&self.entry);
        Ok(())
    }

    /// The connection ends in an orderly way, or is closed by the node.
    pub async fn disconnect(mut self, end: Disconnect) {
        self.is_ended = true;
        self.hub.end_connection(&self.entry, self.epoch, end).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        let (hub, entry, epoch) = (self.hub.clone(), self.entry.clone(), self.epoch);
        self.hub.core.spawn("mqtt connection lost", async move {
            let lost = Disconnect {
                publish_will: true,
                session_expiry_s: None,
            };
            hub.end_connection(&entry, epoch, lost).await;
        });
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("client_id", &self.entry.client_id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
