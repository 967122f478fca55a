//! What goes to one follower.
//!
//! ```text
//!              log moved                 in memory                  nothing more
//!   Idle ──────────────────> Ready ─────────────────> in a frame ─────────────────> Idle
//!                              │ ^                        │ more
//!               not in memory  │ └────────────────────────┘
//!                              v          read from disk
//!                            Behind ──────────────────────> in a frame of its own, then Ready
//! ```
//!
//! Segments that are ready take turns; a frame holds as many of them as go into it.

mod reads;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_log::{Chunk, Moved, Partition, PartitionError, ReadError, Subscription};
use mainstem_peers::{StreamEnd, StreamSender};
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId, SegmentId};

use super::{
    Leaders,
    inbox::{Ask, Inbox},
};
use crate::{
    machine::leader::FollowRefusal,
    stream::{EXPOSED_DELAY, Replicas, until, when},
    wire::{
        AppendFrame, BATCHES_BYTES_MAX, ExposedOf, FRAME_BYTES, FollowOf, LeaderSays, MemoryOf,
        RefusedOf, SEGMENTS_MAX, WantOf,
    },
};

/// What one segment takes of a frame while others wait.
const SHARE_BYTES: usize = 256 << 10;
/// Frames from memory that go before one from disk, where there is always more of both: who is
/// behind costs the others little, and gets there.
const TAIL_FRAMES: u32 = 8;
/// What is around the batches of a segment in a frame.
const AROUND_BYTES: usize = 36;
/// Segments that a follower may follow over one stream.
const FOLLOWED_MAX: usize = 16 * SEGMENTS_MAX;

/// Sends to one follower.
pub(super) struct Sender<'a, R> {
    leaders: &'a Leaders<R>,
    follower: Member,
    inbox: &'a Inbox,
    /// Partitions in which something has changed here.
    changed: Arc<Moved>,
    /// Partitions whose logs have moved.
    moved: Arc<Moved>,
    sent: BTreeMap<PartitionId, Sent>,
    /// Followed, and not led here (yet).
    parked: BTreeMap<PartitionId, FollowOf>,
    ready: VecDeque<PartitionId>,
    behind: VecDeque<PartitionId>,
    reading: Option<BoxFuture<'static, Fetched>>,
    fetched: Option<Fetched>,
    tail_frames: u32,
    /// With a high watermark that was not told, and when it is to be told.
    unexposed: BTreeSet<PartitionId>,
    expose_at: Option<Duration>,
    refused: Vec<RefusedOf>,
    wanted: VecDeque<WantOf>,
    recalling: Option<BoxFuture<'static, Recalled>>,
    memory: VecDeque<MemoryOf>,
    next_turn: u64,
}

/// A segment that is sent.
struct Sent {
    segment: SegmentId,
    epoch: LeaderEpoch,
    log: Partition,
    /// What is sent next.
    next: Offset,
    /// The high watermark that was told.
    told: Offset,
    place: Place,
    /// Tells reads for an earlier Follow apart.
    turn: u64,
    _subscription: Subscription,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Idle,
    Ready,
    Behind,
}

/// What was read from disk.
struct Fetched {
    id: PartitionId,
    turn: u64,
    chunk: Result<Chunk, ReadError>,
}

/// What is remembered where a segment begins.
struct Recalled {
    segment: SegmentId,
    memory: Result<Bytes, PartitionError>,
}

/// What a segment gives to a frame.
enum Tail {
    Some(Chunk),
    /// The next batch is longer than the room that is left.
    NoRoom,
    /// All is sent.
    Nothing,
    /// It is not in memory.
    Behind,
}

// === impl Sender ===

impl<'a, R: Replicas> Sender<'a, R> {
    pub(super) fn new(
        leaders: &'a Leaders<R>,
        follower: Member,
        inbox: &'a Inbox,
        changed: Arc<Moved>,
    ) -> Self {
        Self {
            leaders,
            follower,
            inbox,
            changed,
            moved: Arc::default(),
            sent: BTreeMap::new(),
            parked: BTreeMap::new(),
            ready: VecDeque::new(),
            behind: VecDeque::new(),
            reading: None,
            fetched: None,
            tail_frames: 0,
            unexposed: BTreeSet::new(),
            expose_at: None,
            refused: Vec::new(),
            wanted: VecDeque::new(),
            recalling: None,
            memory: VecDeque::new(),
            next_turn: 0,
        }
    }

    /// Sends until the stream ends.
    pub(super) async fn run(&mut self, stream: &StreamSender) -> StreamEnd {
        loop {
            self.look();
            match self.next_message() {
                Some(message) => {
                    if let Err(end) = stream.send(message).await {
                        return end;
                    }
                }
                None => {
                    if let Some(end) = self.wait(stream).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes what has happened.
    fn look(&mut self) {
        for ask in self.inbox.take() {
            self.answer(ask);
        }
        let changed = self.changed.take();
        self.look_again(&changed);
        let moved = self.moved.take();
        self.have_moved(&moved);
    }

    /// Waits until there may be something to send.
    async fn wait(&mut self, stream: &StreamSender) -> Option<StreamEnd> {
        self.begin_reading();
        self.begin_recalling();
        let env = &self.leaders.env;
        tokio::select! {
            biased;
            () = self.inbox.notify.notified() => {}
            ids = self.moved.next() => self.have_moved(&ids),
            ids = self.changed.next() => self.look_again(&ids),
            fetched = when(&mut self.reading) => {
                self.reading = None;
                self.fetched = Some(fetched);
            }
            recalled = when(&mut self.recalling) => {
                self.recalling = None;
                self.remember(recalled);
            }
            () = until(env, self.expose_at) => {}
            end = stream.closed() => return Some(end),
        }
        None
    }

    // === what is followed ===

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Follow(follow) => self.follow(follow),
            Ask::Unfollow(segment) => {
                if let Some(id) = self.inbox.end(segment) {
                    self.sent.remove(&id);
                }
                self.parked.retain(|_, follow| follow.segment != segment);
            }
            Ask::Want(want) if self.wanted.len() < FOLLOWED_MAX => self.wanted.push_back(want),
            Ask::Want(want) => self.refuse(want.segment, FollowRefusal::NotLeading),
            Ask::Refuse(segment, why) => {
                if let Some(id) = self.inbox.end(segment) {
                    self.sent.remove(&id);
                    self.refuse(segment, why);
                }
            }
        }
    }

    fn follow(&mut self, follow: FollowOf) {
        let id = follow.partition;
        self.forget(id);
        let segment = (follow.segment, follow.epoch);
        let replicas = &self.leaders.replicas;
        match replicas.follow(id, segment, self.follower, follow.leo) {
            Ok((log, _)) if log.epoch() == follow.epoch => self.begin(log, follow),
            // Its image is newer than ours, or what it names is being opened.
            Ok(_) | Err(FollowRefusal::NotLeading) if self.parked.len() < FOLLOWED_MAX => {
                self.parked.insert(id, follow);
            }
            Ok(_) => self.refuse(follow.segment, FollowRefusal::NotLeading),
            Err(why) => self.refuse(follow.segment, why),
        }
    }

    fn begin(&mut self, log: Partition, follow: FollowOf) {
        let id = follow.partition;
        // Subscribed first, so that nothing is missed.
        let subscription = log.subscribe_moved(&self.moved);
        let log_end = log.ends().log_end;
        if follow.log_end > log_end {
            return self.refuse(follow.segment, FollowRefusal::AboveLogEnd(log_end));
        }
        self.inbox.begin(follow.segment, id);
        self.next_turn += 1;
        let sent = Sent {
            segment: follow.segment,
            epoch: follow.epoch,
            log,
            next: follow.log_end,
            told: Offset(-1),
            place: Place::Idle,
            turn: self.next_turn,
            _subscription: subscription,
        };
        self.sent.insert(id, sent);
        self.has_moved(id);
    }

    /// Something has changed here: what is led now, and what no more.
    fn look_again(&mut self, ids: &BTreeSet<PartitionId>) {
        for id in ids {
            let sent = self.sent.get(id).map(|sent| sent.segment);
            if let Some(segment) = sent
                && !self.leaders.replicas.leads(*id, segment)
            {
                self.end(*id, FollowRefusal::NotLeading);
            }
            if let Some(follow) = self.parked.remove(id) {
                self.follow(follow);
            }
        }
    }

    fn forget(&mut self, id: PartitionId) {
        self.parked.remove(&id);
        if let Some(sent) = self.sent.remove(&id) {
            self.inbox.end(sent.segment);
        }
    }

    fn end(&mut self, id: PartitionId, why: FollowRefusal) {
        if let Some(sent) = self.sent.get(&id) {
            let segment = sent.segment;
            self.forget(id);
            self.refuse(segment, why);
        }
    }

    fn refuse(&mut self, segment: SegmentId, why: FollowRefusal) {
        self.leaders.metrics.refused.inc();
        self.refused.push(RefusedOf { segment, why });
    }

    // === what has moved ===

    fn have_moved(&mut self, ids: &BTreeSet<PartitionId>) {
        for id in ids {
            self.has_moved(*id);
        }
    }

    fn has_moved(&mut self, id: PartitionId) {
        let Some(sent) = self.sent.get_mut(&id) else {
            return;
        };
        let ends = sent.log.ends();
        if !sent.is_open() {
            return self.end(id, FollowRefusal::NotLeading);
        }
        if ends.log_end > sent.next && sent.place == Place::Idle {
            sent.place = Place::Ready;
            self.ready.push_back(id);
        }
        if ends.committed_end > sent.told && self.unexposed.insert(id) {
            let at = self.leaders.env.now() + EXPOSED_DELAY;
            self.expose_at.get_or_insert(at);
        }
    }

    // === what is sent ===

    fn next_message(&mut self) -> Option<Bytes> {
        if !self.refused.is_empty() {
            let rest = self.refused.split_off(self.refused.len().min(SEGMENTS_MAX));
            let refused = std::mem::replace(&mut self.refused, rest);
            return Some(LeaderSays::Refused(refused).encode());
        }
        if let Some(part) = self.memory.pop_front() {
            return Some(LeaderSays::Memory(part).encode());
        }
        if self.inbox.has_credit()
            && let Some(frame) = self.next_frame()
        {
            self.inbox.spend(frame.len());
            return Some(frame);
        }
        let due = self
            .expose_at
            .is_some_and(|at| self.leaders.env.now() >= at);
        if due { self.exposed() } else { None }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        let turn_of_disk = self.ready.is_empty() || self.tail_frames >= TAIL_FRAMES;
        if turn_of_disk && let Some(fetched) = self.fetched.take() {
            self.tail_frames = 0;
            if let Some(frame) = self.fetched_frame(fetched) {
                return Some(frame);
            }
        }
        let frame = self.tail_frame()?;
        self.tail_frames = self.tail_frames.saturating_add(1);
        Some(frame)
    }

    /// A frame of what is in memory, of as many segments as go into it.
    fn tail_frame(&mut self) -> Option<Bytes> {
        let mut parts = Vec::new();
        let mut bytes = 0;
        while bytes + AROUND_BYTES < FRAME_BYTES
            && parts.len() < SEGMENTS_MAX
            && let Some(id) = self.ready.pop_front()
        {
            // One that was followed anew may be waiting twice.
            let sent = self.sent.get_mut(&id);
            let Some(sent) = sent.filter(|sent| sent.place == Place::Ready) else {
                continue;
            };
            let room = FRAME_BYTES - bytes - AROUND_BYTES;
            let room = match self.ready.is_empty() {
                true => room,
                false => room.min(SHARE_BYTES),
            };
            let at = sent.next;
            match sent.tail(room, parts.is_empty()) {
                Tail::Some(chunk) => {
                    bytes += AROUND_BYTES + chunk.bytes;
                    self.leaders.metrics.sent_tail.inc_by(chunk.bytes as u64);
                    match self.advance(id, &chunk) {
                        Some(to) => parts.push((to, at, chunk)),
                        None => continue,
                    }
                }
                Tail::NoRoom => {
                    self.ready.push_front(id);
                    break;
                }
                Tail::Nothing => sent.place = Place::Idle,
                Tail::Behind => {
                    sent.place = Place::Behind;
                    self.behind.push_back(id);
                }
            }
        }
        frame(bytes, &parts)
    }

    /// A frame of what was read from disk.
    fn fetched_frame(&mut self, fetched: Fetched) -> Option<Bytes> {
        let Fetched { id, turn, chunk } = fetched;
        let sent = self.sent.get_mut(&id);
        let sent = sent.filter(|sent| sent.turn == turn && sent.place == Place::Behind)?;
        let at = sent.next;
        match chunk {
            Ok(chunk) if chunk.batches.is_empty() => {
                sent.place = Place::Idle;
                self.has_moved(id);
                None
            }
            Ok(chunk) => {
                let bytes = AROUND_BYTES + chunk.bytes;
                self.leaders
                    .metrics
                    .sent_catch_up
                    .inc_by(chunk.bytes as u64);
                let to = self.advance(id, &chunk)?;
                frame(bytes, &[(to, at, chunk)])
            }
            Err(error) => {
                tracing::warn!(partition = %id, follower = %self.follower, %error,
                    "cannot be read for a follower");
                self.end(id, FollowRefusal::NotLeading);
                None
            }
        }
    }

    /// Takes a chunk as sent: its segment, and the high watermark to go with it. `None` if it is not
    /// what was to be sent.
    fn advance(&mut self, id: PartitionId, chunk: &Chunk) -> Option<(SegmentId, Offset)> {
        let sent = self.sent.get_mut(&id)?;
        let ends = sent.log.ends();
        // Looked at after the read: what was read before the next segment began is of this one.
        if !sent.is_open() {
            self.end(id, FollowRefusal::NotLeading);
            return None;
        }
        if chunk.bytes > BATCHES_BYTES_MAX || first_offset(chunk) != Some(sent.next) {
            tracing::error!(partition = %id, at = %sent.next, bytes = chunk.bytes,
                "cannot be sent to a follower: no batch begins there, or it is too long");
            self.end(id, FollowRefusal::NotLeading);
            return None;
        }
        sent.next = chunk.next;
        sent.told = ends.committed_end;
        let to = (sent.segment, sent.told);
        if ends.log_end > sent.next {
            sent.place = Place::Ready;
            self.ready.push_back(id);
        } else {
            sent.place = Place::Idle;
        }
        self.unexposed.remove(&id);
        if self.unexposed.is_empty() {
            self.expose_at = None;
        }
        Some(to)
    }

    /// High watermarks that had no batches to go with.
    fn exposed(&mut self) -> Option<Bytes> {
        let mut exposed = Vec::new();
        while exposed.len() < SEGMENTS_MAX
            && let Some(id) = self.unexposed.pop_first()
        {
            let Some(sent) = self.sent.get_mut(&id) else {
                continue;
            };
            let committed = sent.log.ends().committed_end;
            if !sent.is_open() {
                self.end(id, FollowRefusal::NotLeading);
                continue;
            }
            sent.told = committed;
            exposed.push(ExposedOf {
                segment: sent.segment,
                high_watermark: committed,
            });
        }
        if self.unexposed.is_empty() {
            self.expose_at = None;
        }
        (!exposed.is_empty()).then(|| LeaderSays::Exposed(exposed).encode())
    }
}

/// The batches of segments, in one frame.
fn frame(bytes: usize, parts: &[((SegmentId, Offset), Offset, Chunk)]) -> Option<Bytes> {
    let mut frame = AppendFrame::with_capacity(bytes);
    for ((segment, high_watermark), at, chunk) in parts {
        frame.push((*segment, *at, *high_watermark), &chunk.batches);
    }
    (!frame.is_empty()).then(|| frame.done())
}

/// The offset of the first record: the first field of a batch, in the byte order of the format.
fn first_offset(chunk: &Chunk) -> Option<Offset> {
    let bytes = chunk.batches.first()?.first_chunk::<8>()?;
    Some(Offset(i64::from_be_bytes(*bytes)))
}

// === impl Sent ===

impl Sent {
    /// Whether the log still writes this segment.
    fn is_open(&self) -> bool {
        self.log.epoch() == self.epoch
    }

    fn tail(&self, bytes_max: usize, at_least_one_batch: bool) -> Tail {
        let log_end = self.log.ends().log_end;
        if self.next >= log_end {
            return Tail::Nothing;
        }
        match self
            .log
            .cached_tail(self.next, bytes_max, at_least_one_batch)
        {
            Some(chunk) if chunk.batches.is_empty() => Tail::NoRoom,
            Some(chunk) => Tail::Some(chunk),
            None => Tail::Behind,
        }
    }
}
