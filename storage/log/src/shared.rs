//! What the shard, readers and handles of one partition share.

use std::{
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use mainstem_record::{Offset, PartitionId, SegmentId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::{
    cache::TailCache,
    dedupe::Dedupe,
    files::{Files, OpenSegment},
    moved::Moved,
    segment::Segment,
    spec::Ends,
};

/// A partition. Only its shard moves the ends up; only administrative calls move the log start.
pub(crate) struct Shared {
    pub(crate) id: PartitionId,
    pub(crate) dir: PathBuf,
    /// Where the shard keeps its writer; set before the first handle is given out.
    pub(crate) slot: AtomicUsize,
    pub(crate) state: RwLock<State>,
    /// Oldest first.
    pub(crate) chain: RwLock<Vec<Arc<Segment>>>,
    pub(crate) cache: Mutex<TailCache>,
    pub(crate) dedupe: Mutex<Dedupe>,
    /// How long files of segments that are gone stay, in milliseconds.
    delete_delay_ms: AtomicU64,
    subscribers: Mutex<Subscribers>,
    /// How many of them are told of the log end too.
    tail_subscribers: AtomicUsize,
    /// The highest high watermark that the log was told: all below it is committed in the partition,
    /// whether it is here yet or not.
    high_watermark: AtomicI64,
    /// The shard will look at it.
    pub(crate) is_told: AtomicBool,
    /// What is remembered where the active segment begins must be installed before anything is
    /// appended to it.
    pub(crate) needs_memory: AtomicBool,
    /// How often its end was cut.
    pub(crate) cuts: AtomicU64,
}

/// What changes with each append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) ends: Ends,
    pub(crate) status: Status,
}

/// Whether a partition can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Yes.
    Open,
    /// It can be read only.
    Failed,
    /// It is gone.
    Removed,
}

#[derive(Default)]
struct Subscribers {
    next_key: u64,
    list: Vec<Subscriber>,
}

struct Subscriber {
    key: u64,
    wake: Wake,
    /// It is told of the log end too.
    tail: bool,
}

/// How a subscriber is woken.
pub(crate) enum Wake {
    /// It looks after this partition.
    One(Arc<Notify>),
    /// It looks after many.
    Many(Arc<Moved>),
}

/// Wakes its subscriber until it is dropped.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    shared: Arc<Shared>,
    key: u64,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        id: PartitionId,
        dir: PathBuf,
        state: State,
        chain: Vec<Arc<Segment>>,
        dedupe: Dedupe,
    ) -> Self {
        Self {
            id,
            dir,
            slot: AtomicUsize::new(usize::MAX),
            state: RwLock::new(state),
            chain: RwLock::new(chain),
            cache: Mutex::default(),
            dedupe: Mutex::new(dedupe),
            delete_delay_ms: AtomicU64::new(0),
            subscribers: Mutex::default(),
            tail_subscribers: AtomicUsize::new(0),
            high_watermark: AtomicI64::new(0),
            is_told: AtomicBool::new(false),
            needs_memory: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
        }
    }

    pub(crate) fn ends(&self) -> Ends {
        self.state.read().ends
    }

    pub(crate) fn status(&self) -> Status {
        self.state.read().status
    }

    /// A partition that is gone stays gone.
    pub(crate) fn set_status(&self, status: Status) {
        {
            let mut state = self.state.write();
            if state.status != Status::Removed {
                state.status = status;
            }
        }
        self.wake();
    }

    /// Wakes all subscribers. The new state must be visible before.
    pub(crate) fn wake(&self) {
        for subscriber in &self.subscribers.lock().list {
            subscriber.wake.wake(self.id);
        }
    }

    /// Wakes those who are told of the log end.
    pub(crate) fn wake_tail(&self) {
        if self.tail_subscribers.load(Ordering::Acquire) == 0 {
            return;
        }
        let subscribers = self.subscribers.lock();
        for subscriber in subscribers.list.iter().filter(|s| s.tail) {
            subscriber.wake.wake(self.id);
        }
    }

    pub(crate) fn subscribe(self: &Arc<Self>, wake: Wake, tail: bool) -> Subscription {
        let mut subscribers = self.subscribers.lock();
        let key = subscribers.next_key;
        subscribers.next_key += 1;
        subscribers.list.push(Subscriber { key, wake, tail });
        let more = usize::from(tail);
        self.tail_subscribers.fetch_add(more, Ordering::AcqRel);
        Subscription {
            shared: self.clone(),
            key,
        }
    }

    /// The segment that holds `offset`, or else the next one after it.
    pub(crate) fn segment_at(&self, offset: Offset) -> Option<Arc<Segment>> {
        let chain = self.chain.read();
        let after = chain.partition_point(|segment| segment.base <= offset);
        let holds = after
            .checked_sub(1)
            .and_then(|at| chain.get(at))
            .filter(|segment| segment.end().is_none_or(|end| offset < end));
        holds.or_else(|| chain.get(after)).cloned()
    }

    /// Whether the chain has that segment (still).
    /// Whether no sealed segment has records: there were none, or they were dropped.
    pub(crate) fn has_dropped_all_sealed(&self) -> bool {
        let chain = self.chain.read();
        let mut ends = chain.iter().map(|segment| (segment.base, segment.end()));
        ends.all(|(base, end)| end.is_none_or(|end| end <= base))
    }

    pub(crate) fn has_segment(&self, id: SegmentId) -> bool {
        self.chain.read().iter().any(|segment| segment.id == id)
    }

    pub(crate) fn set_delete_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delete_delay_ms.store(millis, Ordering::Release);
    }

    pub(crate) fn delete_delay(&self) -> Duration {
        Duration::from_millis(self.delete_delay_ms.load(Ordering::Acquire))
    }

    /// Takes a high watermark over; says whether it is news, and nobody has told the shard yet.
    pub(crate) fn tell_high_watermark(&self, high_watermark: Offset) -> bool {
        let before = self
            .high_watermark
            .fetch_max(high_watermark.0, Ordering::AcqRel);
        before < high_watermark.0 && !self.is_told.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Seals the last segment of the chain at `end` if it is active (an empty one goes), and appends
    /// `next`. Unless it is `held` whole, its records are not to be had here.
    pub(crate) fn replace_last(
        &self,
        files: &Files,
        (end, held): (Offset, bool),
        next: Arc<Segment>,
    ) {
        let mut chain = self.chain.write();
        if let Some(last) = chain.last().cloned().filter(|last| last.end().is_none()) {
            if end == last.base {
                chain.pop();
            } else if held {
                let mut state = last.state.write();
                state.end = Some(end);
                if let Some((file, index)) = state.open.take() {
                    let index = Arc::new(index);
                    files.put(last.id, Arc::new(OpenSegment { file, index }));
                }
            } else {
                chain.pop();
                let mut spec = last.spec();
                (spec.end, spec.held) = (Some(end), false);
                chain.push(Arc::new(Segment::not_held(&self.dir, &spec)));
            }
        }
        chain.push(next);
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot.load(Ordering::Acquire)
    }
}

// === impl Wake ===

impl Wake {
    fn wake(&self, id: PartitionId) {
        match self {
            Self::One(notify) => notify.notify_one(),
            Self::Many(moved) => moved.add(id),
        }
    }
}

// === impl Subscription ===

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.shared.subscribers.lock();
        subscribers.list.retain(|subscriber| {
            let stays = subscriber.key != self.key;
            if !stays && subscriber.tail {
                self.shared.tail_subscribers.fetch_sub(1, Ordering::AcqRel);
            }
            stays
        });
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("partition", &self.shared.id)
            .finish_non_exhaustive()
    }
}
