//! PUBLISH and PUBREL of a client.
//!
//! QoS 2 comes in exactly once: of a session that outlives its connection, an intent (packet id and
//! sequence) is durable before the record is appended under the identity (session, owner epoch,
//! sequence), which the partition appends only once. Whatever ends in between, the client's resend
//! finds the intent and appends under the same sequence. Intents are not waited for one by one: the
//! lane of a connection appends in the order in which the intents were written.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use mainstem_log::{Append, AppendError, Qos2Id};
use tokio::sync::{mpsc, oneshot};

use super::{
    Session, SessionEntry, State,
    records::{Key, encode_intent},
};
use crate::{
    access::{AccessTicket, PartitionAccess},
    internal::KeyValue,
    mqtt::{
        Publish, PublishError, QoS, Refusal,
        hub::Hub,
        limits::AWAITING_REL_MAX,
        mapping::{Encode, encode},
        publish::{Destination, Placed},
        retained::Candidate,
    },
};

/// An inbound QoS 2 publish that is not released.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inbound {
    pub(crate) sequence: u64,
    /// The intent is known to be durable.
    pub(crate) is_intended: bool,
    /// The record is known to be durable.
    pub(crate) is_stored: bool,
}

/// Completes when the PUBLISH may be acknowledged. Dropping it does not take the publish back.
#[derive(Debug)]
#[must_use = "a publish may fail, and only its ticket tells"]
pub struct PublishTicket(Ticket);

#[derive(Debug)]
enum Ticket {
    /// There is nothing to wait for.
    Done,
    /// Nothing was appended, and there is nothing to wait for.
    Nothing,
    /// Appended; acknowledged when durable.
    Append(AccessTicket, Option<Stored>),
    /// A task sees to it.
    Task(oneshot::Receiver<Result<(), PublishError>>),
    /// Waits for its turn in the lane.
    Lane(
        oneshot::Receiver<Result<Placed, PublishError>>,
        Option<Stored>,
    ),
}

/// Whose record is stored.
#[derive(Debug, Clone)]
struct Stored {
    entry: Arc<SessionEntry>,
    packet_id: u16,
    sequence: u64,
}

/// One QoS 2 publish on its way through the lane.
pub(super) struct LaneItem {
    intent: Option<AccessTicket>,
    stored: Stored,
    partition: PartitionAccess,
    append: Append,
    retained: Option<Candidate>,
    reply: oneshot::Sender<Result<Placed, PublishError>>,
}

/// What is to be done for a QoS 2 publish.
enum Begun {
    /// The record is stored already.
    Stored,
    /// Append under this sequence.
    Append(Turn),
}

/// How to append a QoS 2 publish.
#[derive(Clone, Copy)]
struct Turn {
    sequence: u64,
    /// The intent must be written first.
    needs_intent: bool,
    /// It is the first time that it comes.
    is_first: bool,
}

/// What a failed append means to a client.
pub(crate) fn append_error(error: &AppendError) -> PublishError {
    match error {
        AppendError::BatchTooLarge | AppendError::InvalidBatch => Refusal::TooLarge.into(),
        AppendError::InvalidProducerEpoch => PublishError::Fenced,
        _ => PublishError::Transient(error.to_string()),
    }
}

// === impl Session ===

impl Session {
    pub(super) async fn publish_inner(
        &self,
        publish: Publish,
    ) -> Result<PublishTicket, PublishError> {
        self.hub.metrics.received[publish.qos as usize].inc();
        self.check_owner()?;
        self.hub.check_publish(&publish)?;
        let destination = self.destination(&publish.topic).await?;
        let partition = self.hub.partition(&destination, &publish.topic)?;
        let begun = match publish.qos {
            QoS::ExactlyOnce => match self.begin(publish.packet_id)? {
                Begun::Stored => return Ok(PublishTicket(Ticket::Nothing)),
                Begun::Append(turn) => Some(turn),
            },
            _ => None,
        };
        let identity = begun.map(|turn| self.identity(turn.sequence));
        let append = self
            .encode(&publish, &destination, identity)
            .inspect_err(|_| {
                // Refused for good: it must not keep its packet id.
                if let Some(turn) = begun.filter(|turn| turn.is_first) {
                    self.forget(publish.packet_id, turn.sequence);
                }
            })?;
        if destination.is_overflow {
            self.hub.metrics.overflow.inc();
        }
        let candidate = publish
            .retain
            .then(|| Candidate::of(&publish, &self.entry.client_id));
        match (publish.qos, begun) {
            (QoS::AtMostOnce, _) => self.append_unacked(&partition, append, candidate).await,
            (_, Some(turn)) => {
                let entry = self.entry.clone();
                let stored = Stored {
                    entry,
                    packet_id: publish.packet_id,
                    sequence: turn.sequence,
                };
                self.append_once(stored, turn.needs_intent, (partition, append, candidate))
                    .await
            }
            _ => {
                let placed = self.hub.place(&partition, append, candidate).await?;
                Ok(PublishTicket(placed.into_ticket(None)))
            }
        }
    }

    /// The record of a publish, if its topic takes it.
    fn encode(
        &self,
        publish: &Publish,
        destination: &Destination,
        qos2: Option<Qos2Id>,
    ) -> Result<Append, PublishError> {
        let message = Encode {
            key: destination.key(&publish.topic),
            payload: &publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: &publish.properties,
            client_id: &self.entry.client_id,
            qos2,
        };
        let (record, attributes) = encode(&message);
        // What is retained must be committed before its entry is derived.
        let qos = if publish.retain {
            publish.qos.max(QoS::AtLeastOnce)
        } else {
            publish.qos
        };
        self.hub
            .append_of(destination, (record, attributes), qos, qos2)
    }

    /// QoS 0 is never waited for, and is shed when there is no room.
    async fn append_unacked(
        &self,
        partition: &PartitionAccess,
        append: Append,
        candidate: Option<Candidate>,
    ) -> Result<PublishTicket, PublishError> {
        let placed = match candidate {
            // The retained view must not miss it, whoever waits.
            Some(candidate) => self
                .hub
                .place(partition, append, Some(candidate))
                .await
                .map(|_| ()),
            None => partition
                .try_append(append)
                .map(|_| ())
                .map_err(|error| append_error(&error)),
        };
        Ok(PublishTicket(match placed {
            Ok(()) => Ticket::Done,
            Err(_) => {
                self.hub.metrics.dropped_shed.inc();
                Ticket::Nothing
            }
        }))
    }

    fn identity(&self, sequence: u64) -> Qos2Id {
        Qos2Id {
            session: self.entry.state.lock().id,
            epoch: self.epoch,
            sequence,
        }
    }

    fn begin(&self, packet_id: u16) -> Result<Begun, PublishError> {
        let limit = usize::from(self.hub.core.config.mqtt.awaiting_rel_max).min(AWAITING_REL_MAX);
        let mut state = self.entry.state.lock();
        if state.epoch != self.epoch {
            return Err(PublishError::Fenced);
        }
        let is_persistent = state.is_persistent();
        if let Some(known) = state.inbound.get(&packet_id) {
            return Ok(match known.is_stored {
                true => Begun::Stored,
                false => Begun::Append(Turn {
                    sequence: known.sequence,
                    needs_intent: is_persistent && !known.is_intended,
                    is_first: false,
                }),
            });
        }
        if state.inbound.len() >= limit {
            return Err(Refusal::Quota.into());
        }
        // Never used before: the owner epoch is durable and has risen at this connect.
        let sequence = u64::from(self.epoch) << 32 | u64::from(state.publishes);
        state.publishes = state.publishes.checked_add(1).ok_or(Refusal::Quota)?;
        let fresh = Inbound {
            sequence,
            is_intended: false,
            is_stored: false,
        };
        state.inbound.insert(packet_id, fresh);
        Ok(Begun::Append(Turn {
            sequence,
            needs_intent: is_persistent,
            is_first: true,
        }))
    }

    fn forget(&self, packet_id: u16, sequence: u64) {
        let mut state = self.entry.state.lock();
        if state
            .inbound
            .get(&packet_id)
            .is_some_and(|known| known.sequence == sequence)
        {
            state.inbound.remove(&packet_id);
        }
    }

    async fn append_once(
        &self,
        stored: Stored,
        needs_intent: bool,
        (partition, append, retained): (PartitionAccess, Append, Option<Candidate>),
    ) -> Result<PublishTicket, PublishError> {
        if !self.entry.state.lock().is_persistent() {
            let placed = self.hub.place(&partition, append, retained).await?;
            return Ok(PublishTicket(placed.into_ticket(Some(stored))));
        }
        let intent = match needs_intent {
            true => self.write_intent(&stored).await?,
            false => None,
        };
        let (reply, receiver) = oneshot::channel();
        let item = LaneItem {
            intent,
            stored: stored.clone(),
            partition,
            append,
            retained,
            reply,
        };
        let gone = |_| PublishError::Transient("the connection is ending".to_owned());
        self.lane().send(item).await.map_err(gone)?;
        Ok(PublishTicket(Ticket::Lane(receiver, Some(stored))))
    }

    async fn write_intent(&self, stored: &Stored) -> Result<Option<AccessTicket>, PublishError> {
        let key = Key::Intent {
            client: &self.entry.client_id,
            packet_id: stored.packet_id,
        };
        let record = KeyValue {
            key: key.encode(),
            value: Some(encode_intent(stored.sequence)),
        };
        self.hub
            .write(&self.entry, self.epoch, move |_: &mut State| vec![record])
            .await
    }

    fn lane(&self) -> &mpsc::Sender<LaneItem> {
        self.lane.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(AWAITING_REL_MAX);
            self.hub
                .core
                .spawn("mqtt qos 2 lane", run_lane(self.hub.clone(), receiver));
            sender
        })
    }

    pub(super) async fn release_inner(&self, packet_id: u16) -> Result<bool, PublishError> {
        self.check_owner()?;
        let key = Key::Intent {
            client: &self.entry.client_id,
            packet_id,
        }
        .encode();
        // Written even if it is not known here: an intent that outlived a failed write would make
        // the next message under this packet id look like a repeat.
        self.hub
            .write_durable(&self.entry, self.epoch, move |state| {
                match state.is_persistent() {
                    true => vec![KeyValue { key, value: None }],
                    false => Vec::new(),
                }
            })
            .await?;
        Ok(self.entry.state.lock().inbound.remove(&packet_id).is_some())
    }
}

/// Appends QoS 2 publishes in the order in which their intents were written. Ends with the
/// connection's handle.
async fn run_lane(hub: Arc<Hub>, mut items: mpsc::Receiver<LaneItem>) {
    while let Some(item) = items.recv().await {
        let placed = match durable_intent(item.intent, &item.stored).await {
            Ok(()) => hub.place(&item.partition, item.append, item.retained).await,
            Err(error) => Err(error),
        };
        // Nobody waits any more if the connection has ended; the client will send it again.
        let _ = item.reply.send(placed);
    }
}

async fn durable_intent(intent: Option<AccessTicket>, stored: &Stored) -> Result<(), PublishError> {
    let Some(ticket) = intent else { return Ok(()) };
    ticket.await.map_err(|error| append_error(&error))?;
    stored.update(|known| known.is_intended = true);
    Ok(())
}

// === impl Stored ===

impl Stored {
    fn update(&self, change: impl FnOnce(&mut Inbound)) {
        let mut state = self.entry.state.lock();
        let known = state.inbound.get_mut(&self.packet_id);
        if let Some(known) = known.filter(|known| known.sequence == self.sequence) {
            change(known);
        }
    }
}

// === impl Placed ===

impl Placed {
    fn into_ticket(self, stored: Option<Stored>) -> Ticket {
        match self {
            Self::Append(ticket) => Ticket::Append(ticket, stored),
            // The record is retained: the task that sees to it outlives the connection. Not marked as
            // stored: a repeat is appended again, and is a duplicate.
            Self::Task(receiver) => Ticket::Task(receiver),
        }
    }
}

// === impl PublishTicket ===

impl PublishTicket {
    /// Whether there is a record for it, if it does not fail: there is none for QoS 0 that was shed,
    /// and none for a repeat of what was stored before.
    pub fn is_appended(&self) -> bool {
        !matches!(self.0, Ticket::Nothing)
    }
}

impl Future for PublishTicket {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let closing = || PublishError::Transient("the node is ending".to_owned());
        loop {
            match &mut self.0 {
                Ticket::Done | Ticket::Nothing => return Poll::Ready(Ok(())),
                Ticket::Append(ticket, stored) => {
                    let result = ready!(Pin::new(ticket).poll(context));
                    if let (Ok(_), Some(stored)) = (&result, &stored) {
                        stored.update(|known| known.is_stored = true);
                    }
                    self.0 = Ticket::Done;
                    return Poll::Ready(result.map(|_| ()).map_err(|error| append_error(&error)));
                }
                Ticket::Task(receiver) => {
                    let result = ready!(Pin::new(receiver).poll(context));
                    self.0 = Ticket::Done;
                    return Poll::Ready(result.unwrap_or_else(|_| Err(closing())));
                }
                Ticket::Lane(receiver, stored) => {
                    let placed = ready!(Pin::new(receiver).poll(context));
                    let stored = stored.take();
                    match placed.unwrap_or_else(|_| Err(closing())) {
                        Ok(placed) => self.0 = placed.into_ticket(stored),
                        Err(error) => {
                            self.0 = Ticket::Done;
                            return Poll::Ready(Err(error));
                        }
                    }
                }
            }
        }
    }
}
