//! From the broker to the client: what the broker must be told before something is written.
//!
//! One round at a time: exchanges that are over, then messages that the client has, then messages
//! that are about to be sent. What comes up meanwhile is the next round, so that a slow disk makes
//! rounds larger, not more. Within a round the order is what makes a packet identifier safe to be
//! used again: the broker hears of its end before it hears of its next use.

use std::{
    collections::VecDeque,
    task::{Context as TaskContext, Poll},
};

use mainstem_broker::{Delivery, PublishError, Session};
use mainstem_env::BoxFuture;

use crate::{codec::PacketId, machine::SendPublish};

type Messages = VecDeque<SendPublish<Delivery>>;

/// What one round has done.
pub(crate) struct Round {
    /// PUBREL may be sent.
    pub(crate) received: Vec<PacketId>,
    /// May be written.
    messages: Messages,
}

/// Everything to the client that is not in the output yet.
#[derive(Default)]
pub(crate) struct Outbound<'s> {
    completed: Vec<u16>,
    received: Vec<PacketId>,
    /// The broker does not know their identifiers.
    unannounced: Messages,
    /// May be written.
    ready: Messages,
    round: Option<BoxFuture<'s, Result<Round, PublishError>>>,
    /// Whether the round has messages.
    round_has_messages: bool,
}

// === impl Outbound ===

impl<'s> Outbound<'s> {
    pub(crate) fn deliver(&mut self, message: SendPublish<Delivery>) {
        self.unannounced.push_back(message);
    }

    pub(crate) fn received(&mut self, id: PacketId) {
        self.received.push(id);
    }

    pub(crate) fn completed(&mut self, id: PacketId) {
        self.completed.push(id.get());
    }

    /// Whether no message is on its way to the output. Only then is the broker asked for more: it
    /// takes what it handed out earlier and was not told of for given up.
    pub(crate) fn has_no_messages(&self) -> bool {
        self.unannounced.is_empty() && self.ready.is_empty() && !self.round_has_messages
    }

    /// Whether there is nothing to tell the broker.
    pub(crate) fn is_settled(&self) -> bool {
        self.round.is_none() && self.completed.is_empty() && self.received.is_empty()
    }

    /// The next message to write.
    pub(crate) fn pop_ready(&mut self) -> Option<SendPublish<Delivery>> {
        self.ready.pop_front()
    }

    /// Whether a message waits to be written.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Starts a round if none runs and there is something for one. Returns whether messages became
    /// ready without one.
    pub(crate) fn start_round(&mut self, session: &'s Session) -> bool {
        if self.round.is_some() {
            return false;
        }
        let has_news = !self.completed.is_empty() || !self.received.is_empty();
        let unknown = self.unannounced.iter().any(must_be_announced);
        if !has_news && !unknown {
            let moved = !self.unannounced.is_empty();
            self.ready.append(&mut self.unannounced);
            return moved;
        }
        let completed = std::mem::take(&mut self.completed);
        let received = std::mem::take(&mut self.received);
        let messages = std::mem::take(&mut self.unannounced);
        self.round_has_messages = !messages.is_empty();
        self.round = Some(Box::pin(tell(session, completed, received, messages)));
        false
    }

    /// The round, if it is done; its messages are ready then.
    pub(crate) fn poll_round(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<Result<Vec<PacketId>, PublishError>> {
        let Poll::Ready(result) = self.round.as_mut()?.as_mut().poll(task) else {
            return None;
        };
        self.round = None;
        self.round_has_messages = false;
        Some(result.map(|mut round| {
            self.ready.append(&mut round.messages);
            round.received
        }))
    }

    /// Gives back memory that an idle connection does not need.
    pub(crate) fn let_go(&mut self) {
        if self.unannounced.is_empty() {
            self.unannounced = Messages::new();
        }
        if self.ready.is_empty() {
            self.ready = Messages::new();
        }
    }
}

/// Not QoS 0, and not what the broker itself has named.
fn must_be_announced(message: &SendPublish<Delivery>) -> bool {
    message.packet_id.is_some() && !message.resumed
}

async fn tell(
    session: &Session,
    completed: Vec<u16>,
    received: Vec<PacketId>,
    messages: Messages,
) -> Result<Round, PublishError> {
    if !completed.is_empty() {
        session.completed(completed).await?;
    }
    if !received.is_empty() {
        let ids = received.iter().map(|id| id.get()).collect();
        session.received(ids).await?;
    }
    let sent: Vec<_> = messages
        .iter()
        .filter(|message| !message.resumed)
        .filter_map(|message| Some((message.packet_id?.get(), message.delivery.clone())))
        .collect();
    if !sent.is_empty() {
        session.sent(sent).await?;
    }
    Ok(Round { received, messages })
}
