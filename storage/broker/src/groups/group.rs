//! One group as the coordinator holds it: the machine, the offsets, and who waits.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{RwLock, oneshot};

use super::{
    machine::{GroupState, Machine, Snapshot, StoreId, Token},
    offsets::{OffsetTable, Retention},
    requests::{JoinAnswer, SyncAnswer},
    terms::Term,
};

/// One group.
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    /// The time for which all this holds.
    pub(crate) term: Arc<Term>,
    /// Held shared while something of the group is being appended and applied, and alone while
    /// offsets or the group itself are deleted: no tombstone may overtake a commit or be overtaken.
    pub(crate) order: RwLock<()>,
    pub(crate) inside: Mutex<Inside>,
}

/// What a group's lock protects.
pub(crate) struct Inside {
    pub(crate) machine: Machine,
    pub(crate) offsets: OffsetTable,
    waiters: HashMap<Token, Waiter>,
    next_token: Token,
    /// What is to be stored, oldest first. Each is the whole group, so only the last is written.
    stores: VecDeque<(StoreId, Snapshot)>,
    /// Whether a task writes, and will look again.
    storing: bool,
    /// The earliest entry of this group in the timers' heap.
    pub(crate) scheduled: Option<Duration>,
}

/// Who waits for an answer.
enum Waiter {
    Join(oneshot::Sender<JoinAnswer>),
    Sync(oneshot::Sender<SyncAnswer>),
}

// === impl Group ===

impl Group {
    pub(crate) fn new(name: &str, term: Arc<Term>, machine: Machine, offsets: OffsetTable) -> Self {
        Self {
            name: Arc::from(name),
            term,
            order: RwLock::new(()),
            inside: Mutex::new(Inside {
                machine,
                offsets,
                waiters: HashMap::new(),
                next_token: 0,
                stores: VecDeque::new(),
                storing: false,
                scheduled: None,
            }),
        }
    }
}

// === impl Inside ===

impl Inside {
    pub(crate) fn await_join(&mut self) -> (Token, oneshot::Receiver<JoinAnswer>) {
        let (sender, receiver) = oneshot::channel();
        (self.register(Waiter::Join(sender)), receiver)
    }

    pub(crate) fn await_sync(&mut self) -> (Token, oneshot::Receiver<SyncAnswer>) {
        let (sender, receiver) = oneshot::channel();
        (self.register(Waiter::Sync(sender)), receiver)
    }

    fn register(&mut self, waiter: Waiter) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.waiters.insert(token, waiter);
        token
    }

    /// Answers a join. Whoever asked may be gone: then nobody wants the answer.
    pub(crate) fn answer_join(&mut self, token: Token, answer: JoinAnswer) {
        if let Some(Waiter::Join(sender)) = self.waiters.remove(&token) {
            let _ = sender.send(answer);
        }
    }

    /// Answers a sync. Whoever asked may be gone: then nobody wants the answer.
    pub(crate) fn answer_sync(&mut self, token: Token, answer: SyncAnswer) {
        if let Some(Waiter::Sync(sender)) = self.waiters.remove(&token) {
            let _ = sender.send(answer);
        }
    }

    /// Puts a snapshot into the queue. True when a task must be started that writes.
    pub(crate) fn enqueue_store(&mut self, id: StoreId, snapshot: Snapshot) -> bool {
        self.stores.push_back((id, snapshot));
        !std::mem::replace(&mut self.storing, true)
    }

    /// Everything that is to be stored: the ids, and the snapshot that includes them all. None ends
    /// the writing task.
    pub(crate) fn take_stores(&mut self) -> Option<(Vec<StoreId>, Snapshot)> {
        let Some((last, snapshot)) = self.stores.pop_back() else {
            self.storing = false;
            return None;
        };
        let mut ids: Vec<StoreId> = self.stores.drain(..).map(|(id, _)| id).collect();
        ids.push(last);
        Some((ids, snapshot))
    }

    /// Whether nothing would be lost with this group.
    pub(crate) fn is_vacant(&self) -> bool {
        self.machine.is_vacant() && self.offsets.is_empty()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.machine.state() == GroupState::Dead
    }

    /// By which rule the group's offsets expire (KIP-211).
    pub(crate) fn retention(&self) -> Retention {
        match (self.machine.state(), self.machine.protocol_type()) {
            (GroupState::Empty, None) => Retention::SinceCommit,
            (GroupState::Empty, Some(_)) => Retention::SinceEmpty(self.machine.state_since_ms()),
            (GroupState::Stable, Some(_)) => self
                .machine
                .subscribed_topics()
                .map_or(Retention::Keep, Retention::Unsubscribed),
            _ => Retention::Keep,
        }
    }
}
