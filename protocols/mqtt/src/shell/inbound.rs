//! From the client to the broker: what was started, in order, and what is waited for.
//!
//! One *step* at a time takes its place with the broker: a PUBLISH, a SUBSCRIBE or an UNSUBSCRIBE;
//! nothing is decoded behind it until it has. A PUBLISH then leaves a ticket, and many tickets are
//! open at once. Releases (PUBREL) need no order among the rest, and are made durable side by side.
//!
//! What the broker cannot take now is held back in its place: nothing behind it is read, and
//! nothing of this client is stored before it. `again` does that for a PUBLISH that fails after it
//! has taken its place, as one does that finds the disk full.

mod again;

use std::{
    collections::VecDeque,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use mainstem_broker::{self as broker, PublishError, PublishTicket, Session};
use mainstem_env::{BoxFuture, Env};

use super::convert;
use crate::{
    codec::{PacketId, Subscribe, Unsubscribe},
    machine::InboundPublish,
};
use again::Standing;
pub(crate) use again::{Ticket, Word};

/// How often a PUBLISH that the broker cannot take now is tried again while nothing behind it is
/// read, and the pause before each try. Then the connection is closed, and the client sends again.
const ATTEMPTS_MAX: u32 = 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(250);

/// Releases that are made durable at once; more are not read.
const RELEASES_MAX: usize = 256;

/// What takes its place now.
pub(crate) enum Step<'s> {
    Publish {
        began: Duration,
        future: BoxFuture<'s, Placed>,
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
        publish: Box<InboundPublish>,
        began: Duration,
        result: Result<PublishTicket, PublishError>,
    },
    Subscribed(PacketId, Result<Vec<Result<broker::QoS, u8>>, PublishError>),
    Unsubscribed(PacketId, Result<Vec<bool>, PublishError>),
}

/// A PUBLISH, and whether it has its place. It is kept until it may be answered: it may have to take
/// its place again.
type Placed = (Box<InboundPublish>, Result<PublishTicket, PublishError>);

type Release<'s> = (PacketId, BoxFuture<'s, Result<bool, PublishError>>);

/// Everything from the client that the broker has not answered.
#[derive(Default)]
pub(crate) struct Inbound<'s> {
    step: Option<Step<'s>>,
    tickets: VecDeque<Ticket<'s>>,
    standing: Standing,
    releases: Vec<Release<'s>>,
}

// === impl Inbound ===

impl<'s> Inbound<'s> {
    /// Whether the next packet may be decoded.
    pub(crate) fn is_open(&self) -> bool {
        self.step.is_none()
            && self.releases.len() < RELEASES_MAX
            && self.standing == Standing::Flowing
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
            began: now,
            future: Box::pin(take_place(session, env.clone(), Box::new(publish))),
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

    pub(crate) fn wait_for(&mut self, ticket: Ticket<'s>) {
        self.tickets.push_back(ticket);
    }

    /// The step, if it is done.
    pub(crate) fn poll_step(&mut self, task: &mut TaskContext<'_>) -> Option<Stepped> {
        let done = match self.step.as_mut()? {
            Step::Publish { began, future } => {
                let placed = future.as_mut().poll(task);
                placed.map(|(publish, result)| Stepped::Published {
                    publish,
                    began: *began,
                    result,
                })
            }
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
async fn take_place(session: &Session, env: Env, publish: Box<InboundPublish>) -> Placed {
    let mut attempts = 1;
    loop {
        match session.publish(upward(&publish)).await {
            Err(PublishError::Transient(why)) if attempts < ATTEMPTS_MAX => {
                if attempts == 1 {
                    tracing::debug!(why, "a PUBLISH is held back");
                }
                attempts += 1;
                env.sleep(ATTEMPT_PAUSE).await;
            }
            result => return (publish, result),
        }
    }
}

fn upward(publish: &InboundPublish) -> broker::Publish {
    broker::Publish {
        topic: publish.topic.as_str().to_owned(),
        payload: publish.payload.clone(),
        qos: convert::qos_up(publish.qos),
        retain: publish.retain,
        packet_id: publish.packet_id.map_or(0, PacketId::get),
        properties: convert::properties_up(&publish.properties),
    }
}
