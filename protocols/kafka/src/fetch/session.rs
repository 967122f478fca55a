//! Incremental fetch sessions (KIP-227): the broker remembers what a client fetches, so that a
//! request names only what changed and a response only what is news.
//!
//! A session is checked out for the time of a request and returned with what was told. Whoever
//! comes with the same session meanwhile has the wrong epoch. Sessions are a bounded cache: when it
//! is full, a client simply gets none and goes on with full requests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use mainstem_broker::{ErrorCode, TopicRef};
use mainstem_env::Env;
use mainstem_record::TopicId;
use parking_lot::Mutex;
use prometheus::IntGauge;
use uuid::Uuid;

use super::encode::PartitionResponse;

/// "No session": the id in requests and responses that use none.
const NO_SESSION: i32 = 0;
/// The epoch of a request that makes a session.
const EPOCH_INITIAL: i32 = 0;
/// The epoch of a request that wants none.
const EPOCH_FINAL: i32 = -1;
/// The most partitions that all sessions together remember (about 100 bytes each).
const PARTITIONS_MAX: usize = 500_000;
/// A session that was not used for this long may give way to a new one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(120);
/// How often an id is drawn before giving up; ids collide once in a billion.
const ID_DRAWS_MAX: usize = 8;

/// A topic as the request names it: by name up to version 12, by id from version 13.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TopicKey {
    /// The name, shared by the partitions of the topic.
    Name(Arc<str>),
    /// The id.
    Id(Uuid),
}

impl TopicKey {
    /// As the broker takes it.
    pub(crate) fn topic_ref(&self) -> TopicRef<'_> {
        match self {
            Self::Name(name) => TopicRef::Name(name),
            Self::Id(id) => TopicRef::Id(TopicId(*id)),
        }
    }
}

/// A partition that a client fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicKey,
    pub(crate) index: i32,
    /// The offset to read from.
    pub(crate) offset: i64,
    /// The most bytes of this partition, except for a first batch that is larger.
    pub(crate) bytes_max: i32,
    /// What the client thinks the leader epoch is; -1 if it does not say.
    pub(crate) current_epoch: i32,
    /// The epoch of the last record that the client has; -1 if it does not say.
    pub(crate) last_epoch: i32,
}

/// What a request says of its session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionRequest {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    /// Whether it names topics by id.
    pub(crate) by_id: bool,
}

/// The sessions of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FetchSessions {
    env: Env,
    slots_max: usize,
    gauge: IntGauge,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Default)]
struct Cache {
    slots: HashMap<i32, Slot>,
    partitions: usize,
}

struct Slot {
    /// `None` while a request has it.
    session: Option<Session>,
    used: Duration,
    partitions: usize,
}

/// What a client fetches, in the order in which it is served.
#[derive(Debug, Default)]
struct Session {
    epoch: i32,
    by_id: bool,
    places: HashMap<(TopicKey, i32), u64>,
    entries: BTreeMap<u64, Entry>,
    next_place: u64,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    /// What the client was told last; -1 for nothing.
    high_watermark: i64,
    log_start: i64,
}

/// A session for the time of one request. If it is dropped without [`Checkout::finish`], the
/// session ends.
pub(crate) struct Checkout {
    sessions: FetchSessions,
    id: i32,
    /// Everything is told, not only news.
    full: bool,
    session: Session,
}

// === impl Session ===

impl Session {
    fn new(by_id: bool, wanted: Vec<Wanted>) -> Self {
        let mut session = Self {
            epoch: 1,
            by_id,
            ..Self::default()
        };
        session.update(wanted, &[]);
        session
    }

    fn update(&mut self, wanted: Vec<Wanted>, forgotten: &[(TopicKey, i32)]) {
        for wanted in wanted {
            let key = (wanted.topic.clone(), wanted.index);
            match self
                .places
                .get(&key)
                .and_then(|place| self.entries.get_mut(place))
            {
                Some(entry) => entry.wanted = wanted,
                None => {
                    let place = self.take_place();
                    self.places.insert(key, place);
                    let entry = Entry {
                        wanted,
                        high_watermark: -1,
                        log_start: -1,
                    };
                    self.entries.insert(place, entry);
                }
            }
        }
        for key in forgotten {
            if let Some(place) = self.places.remove(key) {
                self.entries.remove(&place);
            }
        }
    }

    fn take_place(&mut self) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        place
    }

    /// Notes what is told of a partition. Returns whether an incremental response must carry it.
    fn tell(&mut self, place: u64, told: &PartitionResponse) -> bool {
        let Some(mut entry) = self.entries.remove(&place) else {
            return true;
        };
        let records = told.bytes() > 0;
        let mut news = records || told.diverging.is_some();
        if told.error != 0 {
            // The next success is news, whatever its watermark.
            entry.high_watermark = -1;
            news = true;
        } else {
            news |= entry.high_watermark != told.high_watermark;
            news |= entry.log_start != told.log_start;
            entry.high_watermark = told.high_watermark;
            entry.log_start = told.log_start;
        }
        // Who had something, or has failed, goes to the end: nobody starves behind a busy partition, or
        // behind one whose records other brokers are asked for in vain.
        let goes_last = records || told.error != 0;
        let place = if goes_last { self.take_place() } else { place };
        self.places
            .insert((entry.wanted.topic.clone(), entry.wanted.index), place);
        self.entries.insert(place, entry);
        news
    }
}

// === impl FetchSessions ===

impl FetchSessions {
    /// An empty cache of at most `slots_max` sessions.
    pub(crate) fn new(env: Env, slots_max: usize, gauge: IntGauge) -> Self {
        Self {
            env,
            slots_max,
            gauge,
            cache: Arc::default(),
        }
    }

    /// Finds, makes or does without the session of a request.
    pub(crate) fn open(
        &self,
        request: SessionRequest,
        wanted: Vec<Wanted>,
        forgotten: &[(TopicKey, i32)],
    ) -> Result<Checkout, ErrorCode> {
        match request.epoch {
            EPOCH_INITIAL | EPOCH_FINAL => {
                self.remove(request.id);
                let session = Session::new(request.by_id, wanted);
                let id = match request.epoch {
                    EPOCH_INITIAL => self.allot(session.entries.len()),
                    _ => NO_SESSION,
                };
                Ok(Checkout {
                    sessions: self.clone(),
                    id,
                    full: true,
                    session,
                })
            }
            _ => self.resume(request, wanted, forgotten),
        }
    }

    fn resume(
        &self,
        request: SessionRequest,
        wanted: Vec<Wanted>,
        forgotten: &[(TopicKey, i32)],
    ) -> Result<Checkout, ErrorCode> {
        let mut session = {
            let mut cache = self.cache.lock();
            let slot = cache
                .slots
                .get_mut(&request.id)
                .ok_or(ErrorCode::FetchSessionIdNotFound)?;
            let session = slot
                .session
                .take_if(|session| session.epoch == request.epoch)
                .ok_or(ErrorCode::InvalidFetchSessionEpoch)?;
            if session.by_id != request.by_id {
                slot.session = Some(session);
                return Err(ErrorCode::FetchSessionTopicIdError);
            }
            session
        };
        session.update(wanted, forgotten);
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        let empty = session.entries.is_empty();
        if empty {
            self.remove(request.id);
        }
        Ok(Checkout {
            sessions: self.clone(),
            id: if empty { NO_SESSION } else { request.id },
            full: empty,
            session,
        })
    }

    /// A slot for a session of this many partitions, or [`NO_SESSION`].
    fn allot(&self, partitions: usize) -> i32 {
        let mut cache = self.cache.lock();
        let now = self.env.now();
        if cache.slots.len() >= self.slots_max || cache.partitions + partitions > PARTITIONS_MAX {
            cache.evict(now);
        }
        if partitions == 0
            || cache.slots.len() >= self.slots_max
            || cache.partitions + partitions > PARTITIONS_MAX
        {
            return NO_SESSION;
        }
        let mut draws = (0..ID_DRAWS_MAX).map(|_| (self.env.random_u64() as i32) & i32::MAX);
        let free = draws.find(|id| *id != NO_SESSION && !cache.slots.contains_key(id));
        let Some(id) = free else {
            return NO_SESSION;
        };
        let slot = Slot {
            session: None,
            used: now,
            partitions,
        };
        cache.slots.insert(id, slot);
        cache.partitions += partitions;
        self.gauge.set(cache.slots.len() as i64);
        id
    }

    fn remove(&self, id: i32) {
        if id == NO_SESSION {
            return;
        }
        let mut cache = self.cache.lock();
        cache.remove(id);
        self.gauge.set(cache.slots.len() as i64);
    }

    fn put_back(&self, id: i32, session: Session) {
        let now = self.env.now();
        let mut cache = self.cache.lock();
        let partitions = session.entries.len();
        let Some(slot) = cache.slots.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut slot.partitions, partitions);
        slot.used = now;
        slot.session = Some(session);
        cache.partitions = cache.partitions - before + partitions;
        if cache.partitions > PARTITIONS_MAX {
            cache.remove(id);
            self.gauge.set(cache.slots.len() as i64);
        }
    }
}

// === impl Cache ===

impl Cache {
    fn remove(&mut self, id: i32) {
        if let Some(slot) = self.slots.remove(&id) {
            self.partitions -= slot.partitions;
        }
    }

    /// Ends the session that was not used for longest, if it has been idle long enough.
    fn evict(&mut self, now: Duration) {
        let oldest = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.session.is_some())
            .min_by_key(|(_, slot)| slot.used)
            .filter(|(_, slot)| now.saturating_sub(slot.used) >= EVICTABLE_AFTER)
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.remove(id);
        }
    }
}

// === impl Checkout ===

impl Checkout {
    /// What is to be read, in this order, each with its place in the session.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (u64, &Wanted)> {
        self.session
            .entries
            .iter()
            .map(|(place, entry)| (*place, &entry.wanted))
    }

    /// Returns the session. Of `told`, what the response has to carry is left, with the id of the
    /// session.
    pub(crate) fn finish(
        mut self,
        mut told: Vec<(u64, TopicKey, PartitionResponse)>,
    ) -> (i32, Vec<(u64, TopicKey, PartitionResponse)>) {
        let full = self.full;
        let session = &mut self.session;
        told.retain(|(place, _, response)| session.tell(*place, response) || full);
        let id = std::mem::replace(&mut self.id, NO_SESSION);
        if id != NO_SESSION {
            self.sessions
                .put_back(id, std::mem::take(&mut self.session));
        }
        (id, told)
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.sessions.remove(self.id);
    }
}

#[cfg(test)]
mod tests;
