//! Appends to a partition that another node leads.
//!
//! All of this node's appends to one partition wait in one line. Its worker sends what waits as one
//! group and sends the next only when it knows what became of this one; what may not have been
//! appended is tried again, at whoever leads then, before anything behind it. So the order holds
//! over a fail-over. A group may be appended twice if its answer was lost: a publish of QoS 1 may
//! repeat, one of QoS 2 is told by its identity, and records of an internal topic are the last word
//! of their only writer on their keys, which nothing of the same writer can have overtaken.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mainstem_log::{Ack, AppendError, Appended};
use mainstem_peers::{CallError, Service};
use mainstem_record::{BrokerId, PartitionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    Leader,
    wire::{Group, ITEMS_MAX, Item, decode_outcomes},
};
use crate::core::Core;

/// Appends that wait for one partition.
const WAITING_MAX: usize = 4096;
/// Bytes of appends that wait for one partition.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes of one group.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// How long the leader may take for a group.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long an append is tried again: longer than a fail-over takes.
const TRIED_FOR: Duration = Duration::from_secs(20);
/// The pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// The line of appends to one partition. Ends with the node, or with the partition.
pub(crate) struct Forwarder {
    id: PartitionId,
    sender: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    /// Appends that are not answered.
    pending: Arc<AtomicUsize>,
}

type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// One append in the line.
struct Waiting {
    item: Item,
    since: Duration,
    reply: Reply,
    /// Held until it is answered.
    _bytes: OwnedSemaphorePermit,
    _pending: Pending,
}

/// Counts an append as long as it is not answered.
struct Pending(Arc<AtomicUsize>);

struct Worker {
    core: Arc<Core>,
    id: PartitionId,
    receiver: mpsc::Receiver<Waiting>,
    /// The present group; in front what must be tried again.
    line: VecDeque<Waiting>,
}

/// What is to be done after an attempt.
enum Next {
    Go,
    Pause,
    Gone,
}

// === impl Forwarder ===

impl Forwarder {
    pub(crate) fn start(core: &Arc<Core>, id: PartitionId) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let worker = Worker {
            core: core.clone(),
            id,
            receiver,
            line: VecDeque::new(),
        };
        core.spawn("forwarded appends", worker.run());
        Arc::new(Self {
            id,
            sender,
            bytes: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            pending: Arc::default(),
        })
    }

    /// Whether anything waits.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending.load(Ordering::SeqCst) > 0
    }

    pub(crate) async fn append(
        &self,
        item: Item,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        let bytes = self.bytes.clone().acquire_many_owned(cost(&item)).await;
        let room = self.sender.reserve().await;
        let (Ok(bytes), Ok(room)) = (bytes, room) else {
            return Err(AppendError::NotLeader);
        };
        let (waiting, receiver) = self.waiting(item, bytes);
        room.send(waiting);
        Ok(receiver)
    }

    pub(crate) fn try_append(
        &self,
        item: Item,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        let bytes = self.bytes.clone().try_acquire_many_owned(cost(&item));
        let (Ok(bytes), Ok(room)) = (bytes, self.sender.try_reserve()) else {
            return Err(AppendError::WouldBlock);
        };
        let (waiting, receiver) = self.waiting(item, bytes);
        room.send(waiting);
        Ok(receiver)
    }

    fn waiting(
        &self,
        item: Item,
        bytes: OwnedSemaphorePermit,
    ) -> (Waiting, oneshot::Receiver<Result<Appended, AppendError>>) {
        self.pending.fetch_add(1, Ordering::SeqCst);
        let (reply, receiver) = oneshot::channel();
        let waiting = Waiting {
            item,
            since: Duration::ZERO,
            reply,
            _bytes: bytes,
            _pending: Pending(self.pending.clone()),
        };
        (waiting, receiver)
    }
}

/// What an append takes of the line; one that is longer than the line takes all of it.
fn cost(item: &Item) -> u32 {
    u32::try_from(item.size_bytes().min(WAITING_BYTES_MAX)).unwrap_or(u32::MAX)
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Forwarder").field(&self.id).finish()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Waiting ===

impl Waiting {
    fn answer(self, outcome: Result<Appended, AppendError>) {
        // Not there any more: who asked has gone, and the append stands.
        let _ = self.reply.send(outcome);
    }
}

// === impl Worker ===

impl Worker {
    async fn run(mut self) {
        let stop = self.core.stop.clone();
        loop {
            if self.line.is_empty() {
                let first = tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    first = self.receiver.recv() => first,
                };
                let Some(first) = first else { break };
                self.take(first);
            }
            match self.attempt().await {
                Next::Go => {}
                Next::Pause => {
                    self.give_up_late();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = self.core.env.sleep(PAUSE) => {}
                    }
                }
                Next::Gone => break,
            }
        }
        self.end();
    }

    /// Puts what waits into the line, up to one group.
    fn take(&mut self, first: Waiting) {
        let now = self.core.env.now();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut waiting) = next {
            waiting.since = now;
            bytes += waiting.item.size_bytes();
            self.line.push_back(waiting);
            let is_full = bytes >= GROUP_BYTES_MAX || self.line.len() >= ITEMS_MAX;
            next = match is_full {
                true => None,
                false => self.receiver.try_recv().ok(),
            };
        }
    }

    async fn attempt(&mut self) -> Next {
        match self.core.leader(self.id) {
            Leader::Here(_) => self.append_here().await,
            Leader::At(leader) => self.ask(leader).await,
            Leader::Nobody => Next::Pause,
            Leader::Unknown => Next::Gone,
        }
    }

    /// This node has become the leader.
    async fn append_here(&mut self) -> Next {
        let Some(appender) = self.core.appender() else {
            return Next::Pause;
        };
        let items = self.line.iter().map(|waiting| waiting.item.clone());
        let outcomes = appender.append_here(self.id, items.collect()).await;
        self.settle(outcomes)
    }

    async fn ask(&mut self, leader: BrokerId) -> Next {
        let Some(access) = self.core.access() else {
            return Next::Gone;
        };
        let group = Group {
            partition: self.id,
            incarnation: self.core.me().incarnation,
            number: access.next_number(),
            items: self
                .line
                .iter()
                .map(|waiting| waiting.item.clone())
                .collect(),
        };
        let call = access
            .peers
            .call(leader, Service::PRODUCE, group.encode(), CALL_TIMEOUT);
        match call.await {
            Ok(body) => match decode_outcomes(&body) {
                Some(outcomes) if outcomes.len() == self.line.len() => self.settle(outcomes),
                _ => {
                    tracing::error!(%leader, partition = %self.id, "unreadable answer to appends");
                    Next::Pause
                }
            },
            Err(CallError::Closed) => Next::Gone,
            Err(error) => {
                if error.is_outcome_unknown() {
                    self.give_up_unacknowledged();
                }
                tracing::debug!(%leader, partition = %self.id, %error, "appends are tried again");
                Next::Pause
            }
        }
    }

    /// Answers what is decided, up to the first that is to be tried again.
    fn settle(&mut self, outcomes: Vec<Result<Appended, AppendError>>) -> Next {
        for outcome in outcomes {
            if matches!(outcome, Err(AppendError::NotLeader | AppendError::Closed)) {
                self.give_up_unacknowledged();
                return Next::Pause;
            }
            if let Some(waiting) = self.line.pop_front() {
                waiting.answer(outcome);
            }
        }
        Next::Go
    }

    /// At most once is the promise of what nobody waits for: it is not sent a second time.
    fn give_up_unacknowledged(&mut self) {
        for waiting in std::mem::take(&mut self.line) {
            match waiting.item.ack {
                Ack::None => waiting.answer(Err(AppendError::NotLeader)),
                Ack::Written | Ack::Durable => self.line.push_back(waiting),
            }
        }
    }

    /// Nobody waits for ever. What is behind was asked for later, and is tried further.
    fn give_up_late(&mut self) {
        let now = self.core.env.now();
        let is_late = |waiting: &Waiting| now.saturating_sub(waiting.since) >= TRIED_FOR;
        while self.line.front().is_some_and(is_late) {
            if let Some(waiting) = self.line.pop_front() {
                waiting.answer(Err(AppendError::NotLeader));
            }
        }
    }

    fn end(&mut self) {
        if let Some(access) = self.core.access() {
            access.forwarders.remove(&self.id);
        }
        self.receiver.close();
        for waiting in self.line.drain(..) {
            waiting.answer(Err(AppendError::NotLeader));
        }
        while let Ok(waiting) = self.receiver.try_recv() {
            waiting.answer(Err(AppendError::NotLeader));
        }
    }
}
