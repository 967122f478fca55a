//! The tails of partitions of which no replica is here: one stream to each leader carries all that
//! it leads, one tail per partition serves all who read it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use mainstem_log::{Chunk, Ends};
use mainstem_peers::{PeerStream, Service};
use mainstem_record::{BrokerId, Offset, PartitionId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Leader,
    wire::{Answer, Fulfilled, Question, encode_wish},
};
use crate::core::Core;

/// Bytes of records that a tail keeps for those who are a little behind.
const TAIL_BYTES_MAX: usize = 2 << 20;
/// The pause before a leader is looked for again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a tail that nothing happens to looks whether somebody still reads it.
const IDLE: Duration = Duration::from_secs(30);
/// Wishes that wait for the stream to a leader.
const WISHES_WAITING_MAX: usize = 1024;

/// All tails, and the streams that feed them.
#[derive(Default)]
pub(super) struct Tails {
    tails: Mutex<HashMap<PartitionId, Weak<Tail>>>,
    streams: Mutex<HashMap<BrokerId, mpsc::Sender<Wish>>>,
}

/// The committed end of one partition, as its leader tells it.
pub(super) struct Tail {
    id: PartitionId,
    state: Mutex<State>,
    subscribers: Mutex<Subscribers>,
}

/// Who is woken.
#[derive(Default)]
struct Subscribers {
    last_number: u64,
    list: Vec<(u64, Arc<Notify>)>,
}

/// Wakes a reader of a tail until it is dropped.
pub(super) struct TailSubscription {
    tail: Arc<Tail>,
    number: u64,
}

#[derive(Default)]
struct State {
    /// `None` until the leader has answered for the first time.
    ends: Option<Ends>,
    /// Where each begins and ends, and its batches.
    chunks: VecDeque<(Offset, Offset, Bytes)>,
    bytes: usize,
}

/// What a tail wants of a leader.
struct Wish {
    partition: PartitionId,
    from: Offset,
    /// Dropped without an answer if the stream has ended.
    reply: oneshot::Sender<Option<Answer>>,
}

// === impl Tails ===

impl Tails {
    /// The tail of a partition, begun if nobody reads it yet.
    pub(super) fn tail(self: &Arc<Self>, core: &Arc<Core>, id: PartitionId) -> Arc<Tail> {
        let mut tails = self.tails.lock();
        if let Some(tail) = tails.get(&id).and_then(Weak::upgrade) {
            return tail;
        }
        let tail = Arc::new(Tail {
            id,
            state: Mutex::default(),
            subscribers: Mutex::default(),
        });
        tails.insert(id, Arc::downgrade(&tail));
        let running = run(core.clone(), self.clone(), tail.clone());
        core.spawn("partition tail", running);
        tail
    }

    /// Asks over the stream to `leader`; `None` if it ends, or the partition is not led there.
    async fn wish(
        self: &Arc<Self>,
        core: &Arc<Core>,
        leader: BrokerId,
        (partition, from): (PartitionId, Offset),
    ) -> Option<Answer> {
        let (reply, receiver) = oneshot::channel();
        let wish = Wish {
            partition,
            from,
            reply,
        };
        let sender = self.stream(core, leader);
        sender.send(wish).await.ok()?;
        receiver.await.ok().flatten()
    }

    fn stream(self: &Arc<Self>, core: &Arc<Core>, leader: BrokerId) -> mpsc::Sender<Wish> {
        let mut streams = self.streams.lock();
        if let Some(sender) = streams.get(&leader).filter(|sender| !sender.is_closed()) {
            return sender.clone();
        }
        let (sender, wishes) = mpsc::channel(WISHES_WAITING_MAX);
        streams.insert(leader, sender.clone());
        core.spawn("tails of a leader", carry(core.clone(), leader, wishes));
        sender
    }
}

/// Carries wishes to one leader and answers back, until either ends.
async fn carry(core: Arc<Core>, leader: BrokerId, mut wishes: mpsc::Receiver<Wish>) {
    let Some(access) = core.access() else { return };
    let opening = access.peers.open(leader, Service::FETCH, Bytes::new());
    let mut stream: PeerStream = match opening.await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%leader, %error, "the tails of a leader are not followed");
            return;
        }
    };
    let mut open: HashMap<PartitionId, oneshot::Sender<Option<Answer>>> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            wish = wishes.recv() => {
                let Some(wish) = wish else { return };
                let message = encode_wish(wish.partition, wish.from);
                open.insert(wish.partition, wish.reply);
                if stream.send(message).await.is_err() {
                    return;
                }
            }
            message = stream.recv() => {
                let Some(fulfilled) = message.as_ref().and_then(Fulfilled::decode) else {
                    return;
                };
                if let Some(reply) = open.remove(&fulfilled.partition) {
                    // Nobody reads it any more.
                    let _ = reply.send(fulfilled.answer);
                }
            }
        }
    }
}

/// Follows one partition as long as somebody reads it.
async fn run(core: Arc<Core>, tails: Arc<Tails>, tail: Arc<Tail>) {
    let (id, began) = (tail.id, core.env.now());
    loop {
        let known = tail.ends().map(|ends| ends.committed_end);
        let step = async {
            match (core.leader(id), known) {
                (Leader::At(leader), None) => core.ask(leader, Question::Ends(id)).await,
                (Leader::At(leader), Some(from)) => tails.wish(&core, leader, (id, from)).await,
                // It may come here, and is then read here.
                (Leader::Here(_) | Leader::Nobody, _) => None,
                (Leader::Unknown, _) => None,
            }
        };
        let answer = tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            answer = core.env.timeout(IDLE, step) => answer,
        };
        match answer {
            Ok(Some(answer)) => {
                let is_first = known.is_none();
                tail.take(answer);
                if is_first {
                    core.note_opened();
                }
            }
            Ok(None) => tokio::select! {
                biased;
                () = core.stop.cancelled() => return,
                () = core.env.sleep(PAUSE) => {}
            },
            Err(_) => {}
        }
        // Whoever asked for it first may wait until it is known.
        let is_old = core.env.now().saturating_sub(began) >= IDLE;
        if is_old && tails.end_if_unread(&tail) {
            return;
        }
    }
}

impl Tails {
    /// Under the lock under which readers come, so that none comes to a tail that has ended.
    fn end_if_unread(&self, tail: &Arc<Tail>) -> bool {
        let mut tails = self.tails.lock();
        // One is the task's own.
        let is_unread = Arc::strong_count(tail) == 1;
        if is_unread {
            tails.remove(&tail.id);
        }
        is_unread
    }
}

// === impl Tail ===

impl Tail {
    pub(super) fn ends(&self) -> Option<Ends> {
        self.state.lock().ends
    }

    /// What is remembered from `from` on; `None` if it must be read elsewhere.
    pub(super) fn read(&self, from: Offset) -> Option<Chunk> {
        let state = self.state.lock();
        if state.ends.is_some_and(|ends| ends.committed_end <= from) {
            return Some(Chunk::empty(from));
        }
        let (_, next, batches) = state
            .chunks
            .iter()
            .find(|(base, next, _)| *base <= from && from < *next)?;
        Some(Chunk {
            bytes: batches.len(),
            batches: vec![batches.clone()],
            next: *next,
            from_cache: true,
        })
    }

    pub(super) fn subscribe(self: &Arc<Self>, notify: &Arc<Notify>) -> TailSubscription {
        let mut subscribers = self.subscribers.lock();
        subscribers.last_number += 1;
        let number = subscribers.last_number;
        subscribers.list.push((number, notify.clone()));
        TailSubscription {
            tail: self.clone(),
            number,
        }
    }

    fn take(&self, answer: Answer) {
        {
            let mut state = self.state.lock();
            let State {
                ends,
                chunks,
                bytes,
            } = &mut *state;
            let from = ends.map(|ends| ends.committed_end);
            let mut told = answer.ends;
            if let Some(from) = from {
                // Only what was sent is here; more may be committed, and is asked for next.
                told.committed_end = answer.next.max(from);
                if !answer.batches.is_empty() {
                    *bytes += answer.batches.len();
                    chunks.push_back((from.max(told.log_start), answer.next, answer.batches));
                }
            }
            while *bytes > TAIL_BYTES_MAX
                && chunks.len() > 1
                && let Some((_, _, oldest)) = chunks.pop_front()
            {
                *bytes -= oldest.len();
            }
            *ends = Some(told);
        }
        for (_, notify) in &self.subscribers.lock().list {
            notify.notify_one();
        }
    }
}

impl Drop for TailSubscription {
    fn drop(&mut self) {
        let mut subscribers = self.tail.subscribers.lock();
        subscribers
            .list
            .retain(|(number, _)| *number != self.number);
    }
}
