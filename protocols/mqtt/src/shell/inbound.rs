//! From the client to the broker: what was started, in order, and what is waited for.
//!
//! One *step* at a time takes its place with the broker: a PUBLISH, a SUBSCRIBE or an UNSUBSCRIBE;
//! nothing is decoded behind it until it has. A PUBLISH then leaves a ticket, and many tickets are
//! open at once. Releases (PUBREL) need no order among the rest, and are made durable side by side.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use mainstem_broker::{self as broker, PublishError, PublishTicket, Session};
use mainstem_env::{BoxFuture, Env};

use super::convert;
use crate::{
    codec::{PacketId, QoS, Subscribe, Unsubscribe},
    machine::{InboundPublish, Receipt},
};

/// How often a PUBLISH that the broker cannot take now is tried again while nothing behind it is
/// read, and the pause before each try. Then the connection is closed, and the client sends again.
const ATTEMPTS_MAX: u32 = 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(250);

/// Releases that are made durable at once; more are not read.
const RELEASES_MAX: usize = 256;

/// What takes its place now.
pub(crate) enum Step<'s> {
    Publish {
        receipt: Option<Receipt>,
        qos: QoS,
        began: Duration,
        future: BoxFuture<'s, Result<PublishTicket, PublishError>>,
    },
    Subscribe {
        packet_id: PacketId,
        future: BoxFuture<'s, Result<Vec<Result<broker::QoS, u8>>, PublishError>>,
    },
    Unsubscribe {
        packet_id: PacketId,
        future: BoxFuture<'s, Result<Vec<bool>, PublishError>>,
    },
}

/// A step that has taken its place, or could not.
pub(crate) enum Stepped {
    Published {
        receipt: Option<Receipt>,
        qos: QoS,
        began: Duration,
        result: Result<PublishTicket, PublishError>,
    },
    Subscribed(PacketId, Result<Vec<Result<broker::QoS, u8>>, PublishError>),
    Unsubscribed(PacketId, Result<Vec<bool>, PublishError>),
}

/// A PUBLISH that waits for the broker's word.
pub(crate) struct Ticket {
    pub(crate) receipt: Receipt,
    pub(crate) qos: QoS,
    pub(crate) began: Duration,
    pub(crate) ticket: PublishTicket,
}

type Release<'s> = (PacketId, BoxFuture<'s, Result<bool, PublishError>>);

/// Everything from the client that the broker has not answered.
#[derive(Default)]
pub(crate) struct Inbound<'s> {
    step: Option<Step<'s>>,
    tickets: VecDeque<Ticket>,
    releases: Vec<Release<'s>>,
}

// === impl Inbound ===

impl<'s> Inbound<'s> {
    /// Whether the next packet may be decoded.
    pub(crate) fn is_open(&self) -> bool {
        self.step.is_none() && self.releases.len() < RELEASES_MAX
    }

    /// Whether a SUBSCRIBE is on its way. Its messages are better not sent before its SUBACK.
    pub(crate) fn is_subscribing(&self) -> bool {
        matches!(self.step, Some(Step::Subscribe { .. }))
    }

    /// Whether nothing waits for the broker.
    pub(crate) fn is_idle(&self) -> bool {
        self.step.is_none() && self.tickets.is_empty() && self.releases.is_empty()
    }

    pub(crate) fn publish(
        &mut self,
        session: &'s Session,
        env: &Env,
        publish: InboundPublish,
        now: Duration,
    ) {
        debug_assert!(self.step.is_none());
        self.step = Some(Step::Publish {
            receipt: publish.receipt,
            qos: publish.qos,
            began: now,
            future: Box::pin(take_place(session, env.clone(), publish)),
        });
    }

    pub(crate) fn subscribe(&mut self, session: &'s Session, subscribe: &Subscribe) {
        debug_assert!(self.step.is_none());
        let id = subscribe.subscription_identifier();
        let filters = subscribe
            .subscriptions
            .iter()
            .map(|subscription| convert::filter_up(subscription, id))
            .collect();
        self.step = Some(Step::Subscribe {
            packet_id: subscribe.packet_id,
            future: Box::pin(session.subscribe(filters)),
        });
    }

    pub(crate) fn unsubscribe(&mut self, session: &'s Session, unsubscribe: &Unsubscribe) {
        debug_assert!(self.step.is_none());
        let filters = unsubscribe
            .filters
            .iter()
            .map(|filter| filter.as_str().to_owned())
            .collect();
        self.step = Some(Step::Unsubscribe {
            packet_id: unsubscribe.packet_id,
            future: Box::pin(session.unsubscribe(filters)),
        });
    }

    pub(crate) fn release(&mut self, session: &'s Session, id: PacketId) {
        self.releases
            .push((id, Box::pin(session.release(id.get()))));
    }

    pub(crate) fn wait_for(&mut self, ticket: Ticket) {
        self.tickets.push_back(ticket);
    }

    /// The step, if it is done.
    pub(crate) fn poll_step(&mut self, task: &mut TaskContext<'_>) -> Option<Stepped> {
        let done = match self.step.as_mut()? {
            Step::Publish {
                receipt,
                qos,
                began,
                future,
            } => future.as_mut().poll(task).map(|result| Stepped::Published {
                receipt: *receipt,
                qos: *qos,
                began: *began,
                result,
            }),
            Step::Subscribe { packet_id, future } => future
                .as_mut()
                .poll(task)
                .map(|result| Stepped::Subscribed(*packet_id, result)),
            Step::Unsubscribe { packet_id, future } => future
                .as_mut()
                .poll(task)
                .map(|result| Stepped::Unsubscribed(*packet_id, result)),
        };
        match done {
            Poll::Ready(stepped) => {
                self.step = None;
                Some(stepped)
            }
            Poll::Pending => None,
        }
    }

    /// The oldest ticket, if it is done. Those behind it wait, as their acknowledgements do.
    pub(crate) fn poll_ticket(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<(Ticket, Result<(), PublishError>)> {
        let oldest = self.tickets.front_mut()?;
        let Poll::Ready(result) = Pin::new(&mut oldest.ticket).poll(task) else {
            return None;
        };
        let ticket = self.tickets.pop_front()?;
        Some((ticket, result))
    }

    /// A release that is done.
    pub(crate) fn poll_release(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Option<(PacketId, Result<bool, PublishError>)> {
        for at in 0..self.releases.len() {
            let (id, future) = self.releases.get_mut(at)?;
            if let Poll::Ready(result) = future.as_mut().poll(task) {
                let id = *id;
                drop(self.releases.swap_remove(at));
                return Some((id, result));
            }
        }
        None
    }

    /// Gives back memory that an idle connection does not need.
    pub(crate) fn let_go(&mut self) {
        if self.tickets.is_empty() {
            self.tickets = VecDeque::new();
        }
        if self.releases.is_empty() {
            self.releases = Vec::new();
        }
    }
}

/// Takes the place of a PUBLISH; what may pass is waited for, in its place.
async fn take_place(
    session: &Session,
    env: Env,
    publish: InboundPublish,
) -> Result<PublishTicket, PublishError> {
    let mut attempts = 1;
    loop {
        let up = broker::Publish {
            topic: publish.topic.as_str().to_owned(),
            payload: publish.payload.clone(),
            qos: convert::qos_up(publish.qos),
            retain: publish.retain,
            packet_id: publish.packet_id.map_or(0, PacketId::get),
            properties: convert::properties_up(&publish.properties),
        };
        match session.publish(up).await {
            Err(PublishError::Transient(why)) if attempts < ATTEMPTS_MAX => {
                if attempts == 1 {
                    tracing::debug!(why, "a PUBLISH is held back");
                }
                attempts += 1;
                env.sleep(ATTEMPT_PAUSE).await;
            }
            result => return result,
        }
    }
}
