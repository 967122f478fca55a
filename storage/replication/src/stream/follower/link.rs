//! One stream from a leader, as long as it is open.

mod memory;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mainstem_env::BoxFuture;
use mainstem_log::{AppendError, AppendTicket, Appended, Moved, PartitionError, Subscription};
use mainstem_peers::{StreamEnd, StreamReceiver, StreamSender};
use mainstem_record::{LeaderEpoch, Offset, PartitionId, SegmentId};

use super::{batches::end_of, session::Session};
use crate::{
    host::NotAppended,
    stream::{CREDIT_BYTES, REFUSED_RETRY, ROLE_RETRY, Replicas, until, when},
    wire::{AckOf, AppendOf, FollowOf, FollowerSays, LeaderSays, RefusedOf, SEGMENTS_MAX, WantOf},
};

/// Credit is given back in parts of this, or with an ack.
const CREDIT_PART_BYTES: u32 = CREDIT_BYTES / 4;

/// A stream.
pub(super) struct Link<'a, R> {
    session: &'a Session<R>,
    sender: &'a StreamSender,
    /// Partitions whose logs have moved.
    moved: Arc<Moved>,
    followed: BTreeMap<PartitionId, Followed>,
    by_segment: BTreeMap<SegmentId, PartitionId>,
    /// What the log was given, in order, and the credit that goes back then.
    given: VecDeque<Given>,
    /// Bytes of Append frames that were not given back.
    outstanding: u64,
    /// Refused by the leader, or not taken by the log: looked at again at an image, or then.
    stalled: BTreeSet<PartitionId>,
    retry_at: Option<Duration>,
    /// Without what is remembered where their segment begins.
    forgetful: VecDeque<PartitionId>,
    recalling: Option<Recalling>,
    installing: Option<BoxFuture<'static, Installed>>,
    // What is to be said.
    follows: Vec<FollowOf>,
    unfollows: Vec<SegmentId>,
    acks: Vec<AckOf>,
    credit: u32,
    want: Option<WantOf>,
}

/// A segment that is followed.
struct Followed {
    segment: SegmentId,
    epoch: LeaderEpoch,
    /// Where what comes next must begin.
    next: Offset,
    /// What was acked.
    acked: Offset,
    /// What the leader has told, and what of it was told here.
    high_watermark: Offset,
    told: Offset,
    /// Appends that the log was given and has not answered.
    under_way: usize,
    /// To be followed anew once nothing is under way.
    is_broken: bool,
    /// Followed anew: what was sent before is passed over.
    is_resuming: bool,
    _subscription: Subscription,
}

enum Given {
    Append {
        ticket: AppendTicket,
        id: PartitionId,
        segment: SegmentId,
    },
    Frame(u32),
}

/// What is remembered where a segment begins, on its way here.
struct Recalling {
    id: PartitionId,
    segment: SegmentId,
    bytes: BytesMut,
}

struct Installed {
    id: PartitionId,
    result: Result<(), PartitionError>,
}

// === impl Link ===

impl<'a, R: Replicas> Link<'a, R> {
    pub(super) fn new(session: &'a Session<R>, sender: &'a StreamSender) -> Self {
        Self {
            session,
            sender,
            moved: Arc::default(),
            followed: BTreeMap::new(),
            by_segment: BTreeMap::new(),
            given: VecDeque::new(),
            outstanding: 0,
            stalled: BTreeSet::new(),
            retry_at: None,
            forgetful: VecDeque::new(),
            recalling: None,
            installing: None,
            follows: Vec::new(),
            unfollows: Vec::new(),
            acks: Vec::new(),
            credit: 0,
            want: None,
        }
    }

    /// Follows `ids`, and what is told beside them, until the stream ends. Returns why, if the
    /// leader breaks the protocol.
    pub(super) async fn run(
        &mut self,
        receiver: &mut StreamReceiver,
        ids: &mut BTreeSet<PartitionId>,
    ) -> Option<String> {
        self.look_again(ids);
        loop {
            self.ask_for_memory();
            if let Err(end) = self.say().await {
                return (end != StreamEnd::Finished).then(|| end.to_string());
            }
            self.pass_frames();
            tokio::select! {
                biased;
                moved = self.moved.next() => self.have_moved(&moved),
                changed = self.session.changed.next() => {
                    ids.extend(changed.iter().copied());
                    self.look_again(&changed);
                }
                answer = front(&mut self.given) => self.answered(answer),
                installed = when(&mut self.installing) => {
                    self.installing = None;
                    self.installed(&installed);
                }
                () = until(&self.session.env, self.retry_at) => {
                    self.retry_at = None;
                    let stalled = std::mem::take(&mut self.stalled);
                    self.look_again(&stalled);
                }
                message = receiver.recv() => {
                    let message = message?;
                    if let Err(why) = self.take(message).await {
                        return Some(why);
                    }
                }
            }
        }
    }

    // === whom to follow ===

    /// Follows what is to be followed here, and what is not no more.
    fn look_again(&mut self, ids: &BTreeSet<PartitionId>) {
        for id in ids {
            self.stalled.remove(id);
            let following = self.session.replicas.following(*id);
            let following = following.filter(|it| it.leader == self.session.leader);
            let before = self.followed.get(id).map(|followed| followed.segment);
            match (before, following) {
                (Some(before), Some(now)) if before == now.segment => continue,
                (Some(before), _) => {
                    self.forget(*id);
                    self.unfollows.push(before);
                }
                (None, _) => {}
            }
            if following.is_some() {
                self.begin(*id);
            }
        }
    }

    fn begin(&mut self, id: PartitionId) {
        let replicas = &self.session.replicas;
        let Some(log) = replicas.log(id) else {
            return self.stall(id, REFUSED_RETRY);
        };
        // Subscribed first, so that nothing is missed.
        let subscription = log.subscribe_moved(&self.moved);
        let Some(now) = replicas.following(id) else {
            return self.stall(id, REFUSED_RETRY);
        };
        let followed = Followed {
            segment: now.segment,
            epoch: now.epoch,
            next: now.log_end,
            acked: now.leo,
            high_watermark: Offset(-1),
            told: Offset(-1),
            under_way: 0,
            is_broken: false,
            is_resuming: false,
            _subscription: subscription,
        };
        self.by_segment.insert(now.segment, id);
        self.followed.insert(id, followed);
        if now.needs_memory {
            self.forgetful.push_back(id);
            return;
        }
        self.follows.push(FollowOf {
            partition: id,
            segment: now.segment,
            epoch: now.epoch,
            leo: now.leo,
            log_end: now.log_end,
        });
    }

    fn forget(&mut self, id: PartitionId) {
        if let Some(followed) = self.followed.remove(&id) {
            self.by_segment.remove(&followed.segment);
            self.follows.retain(|follow| follow.partition != id);
            self.acks.retain(|ack| ack.segment != followed.segment);
            let recalling = self.recalling.as_ref();
            if recalling.is_some_and(|recalling| recalling.id == id) {
                self.recalling = None;
                self.want = None;
            }
        }
    }

    /// It cannot be followed now; perhaps after `pause`, if no image says so before.
    fn stall(&mut self, id: PartitionId, pause: Duration) {
        if let Some(followed) = self.followed.get(&id) {
            self.unfollows.push(followed.segment);
            self.forget(id);
        }
        self.stalled.insert(id);
        let at = self.session.env.now() + pause;
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    /// What came does not go on where the log ends, or the log did not take it: it is followed anew
    /// from there, once nothing of it is under way.
    fn resume(&mut self, id: PartitionId) {
        let Some(followed) = self.followed.get_mut(&id) else {
            return;
        };
        followed.is_broken = true;
        if followed.under_way > 0 {
            return;
        }
        self.session.metrics.resumed.inc();
        let segment = followed.segment;
        let now = self.session.replicas.following(id);
        let Some(now) = now.filter(|now| now.segment == segment) else {
            return self.stall(id, REFUSED_RETRY);
        };
        followed.is_broken = false;
        followed.is_resuming = true;
        followed.next = now.log_end;
        followed.acked = now.leo;
        self.follows.retain(|follow| follow.partition != id);
        self.follows.push(FollowOf {
            partition: id,
            segment,
            epoch: followed.epoch,
            leo: now.leo,
            log_end: now.log_end,
        });
    }

    // === what the leader says ===

    async fn take(&mut self, message: Bytes) -> Result<(), String> {
        let bytes = message.len();
        let says = LeaderSays::decode(message).map_err(|error| error.to_string())?;
        match says {
            LeaderSays::Append(appends) => self.appends(bytes, appends).await,
            LeaderSays::Exposed(exposed) => {
                for exposed in exposed {
                    self.exposed(exposed.segment, exposed.high_watermark);
                }
                Ok(())
            }
            LeaderSays::Refused(refused) => {
                for refused in refused {
                    self.refused(refused);
                }
                Ok(())
            }
            LeaderSays::Memory(memory) => self.recalled(&memory),
        }
    }

    async fn appends(&mut self, bytes: usize, appends: Vec<AppendOf>) -> Result<(), String> {
        if self.outstanding >= u64::from(CREDIT_BYTES) {
            return Err("more batches than there was credit for".to_owned());
        }
        self.outstanding += bytes as u64;
        for append in appends {
            self.append(append).await?;
        }
        // Bounded by the length of a message.
        self.given
            .push_back(Given::Frame(u32::try_from(bytes).unwrap_or(u32::MAX)));
        Ok(())
    }

    async fn append(&mut self, append: AppendOf) -> Result<(), String> {
        let segment = append.segment;
        let Some(id) = self.by_segment.get(&segment).copied() else {
            // It crosses with our Unfollow.
            return Ok(());
        };
        let Some(end) = end_of(&append.batches) else {
            return Err(format!("no batches of segment {segment}"));
        };
        self.exposed(segment, append.high_watermark);
        let Some(followed) = self.followed.get_mut(&id) else {
            return Ok(());
        };
        if followed.is_broken {
            return Ok(());
        }
        if append.at != followed.next {
            if !followed.is_resuming {
                self.resume(id);
            }
            return Ok(());
        }
        self.session
            .metrics
            .received
            .inc_by(append.batches.len() as u64);
        let replicas = &self.session.replicas;
        let taken = replicas
            .append(id, segment, append.at, append.batches)
            .await;
        match taken {
            Ok(ticket) => {
                followed.is_resuming = false;
                followed.next = end;
                followed.under_way += 1;
                self.given.push_back(Given::Append {
                    ticket,
                    id,
                    segment,
                });
            }
            Err(error) => self.not_appended(id, &error),
        }
        Ok(())
    }

    fn not_appended(&mut self, id: PartitionId, error: &NotAppended) {
        match error {
            NotAppended::Log(AppendError::NotAtEnd { .. }) => self.resume(id),
            // Fenced, sealed, or leading: an image tells.
            NotAppended::NotFollowing
            | NotAppended::Log(
                AppendError::NotFollower
                | AppendError::WrongSegment
                | AppendError::NoMemory
                | AppendError::Closed
                | AppendError::Removed,
            ) => self.stall(id, ROLE_RETRY),
            NotAppended::Log(error) => {
                tracing::warn!(partition = %id, leader = %self.session.leader, %error,
                    "the log does not take what the leader sends");
                self.stall(id, REFUSED_RETRY);
            }
        }
    }

    fn exposed(&mut self, segment: SegmentId, high_watermark: Offset) {
        let Some(id) = self.by_segment.get(&segment).copied() else {
            return;
        };
        if let Some(followed) = self.followed.get_mut(&id) {
            followed.high_watermark = followed.high_watermark.max(high_watermark);
            followed.tell(&self.session.replicas, id);
        }
    }

    fn refused(&mut self, refused: RefusedOf) {
        let Some(id) = self.by_segment.get(&refused.segment).copied() else {
            return;
        };
        tracing::debug!(partition = %id, leader = %self.session.leader, why = %refused.why,
            "the leader does not send a segment");
        // Who is asked for what it remembers does not wait until it leads.
        let recalling = self.recalling.as_ref();
        let pause = match recalling.is_some_and(|recalling| recalling.id == id) {
            true => ROLE_RETRY,
            false => REFUSED_RETRY,
        };
        self.forget(id);
        self.stall(id, pause);
    }

    // === what the log says ===

    /// R11: what may be acked is asked after the log has told that it moved.
    fn have_moved(&mut self, ids: &BTreeSet<PartitionId>) {
        let replicas = &self.session.replicas;
        for id in ids {
            let Some(followed) = self.followed.get_mut(id) else {
                continue;
            };
            // R22: nothing where this node is fenced.
            let Some(leo) = replicas.written(*id, followed.segment) else {
                continue;
            };
            if leo > followed.acked {
                followed.acked = leo;
                let segment = followed.segment;
                self.acks.push(AckOf { segment, leo });
            }
            followed.tell(replicas, *id);
        }
    }

    fn answered(&mut self, answer: Result<Appended, AppendError>) {
        let Some(Given::Append { id, segment, .. }) = self.given.pop_front() else {
            return;
        };
        let followed = self.followed.get_mut(&id);
        let Some(followed) = followed.filter(|followed| followed.segment == segment) else {
            return;
        };
        followed.under_way = followed.under_way.saturating_sub(1);
        let is_broken = followed.is_broken;
        match answer {
            Err(error) => self.not_appended(id, &error.into()),
            Ok(_) if is_broken => self.resume(id),
            Ok(_) => {}
        }
    }

    /// Gives back the credit of frames of which all was taken.
    fn pass_frames(&mut self) {
        while let Some(Given::Frame(bytes)) = self.given.front() {
            self.credit += bytes;
            self.outstanding -= u64::from(*bytes);
            self.given.pop_front();
        }
    }

    // === what is said ===

    async fn say(&mut self) -> Result<(), StreamEnd> {
        for segments in self.unfollows.chunks(SEGMENTS_MAX) {
            let unfollow = FollowerSays::Unfollow(segments.to_vec());
            self.sender.send(unfollow.encode()).await?;
        }
        self.unfollows.clear();
        for follows in self.follows.chunks(SEGMENTS_MAX) {
            let follow = FollowerSays::Follow(follows.to_vec());
            self.sender.send(follow.encode()).await?;
        }
        self.follows.clear();
        if let Some(want) = self.want.take() {
            let want = FollowerSays::Want(vec![want]);
            self.sender.send(want.encode()).await?;
        }
        while !self.acks.is_empty() || self.credit >= CREDIT_PART_BYTES {
            let rest = self.acks.split_off(self.acks.len().min(SEGMENTS_MAX));
            let acks = std::mem::replace(&mut self.acks, rest);
            let credit = std::mem::take(&mut self.credit);
            let ack = FollowerSays::Ack { credit, acks };
            self.sender.send(ack.encode()).await?;
        }
        Ok(())
    }
}

/// The answer to the oldest append that the log was given; waits for ever if there is none.
async fn front(given: &mut VecDeque<Given>) -> Result<Appended, AppendError> {
    match given.front_mut() {
        Some(Given::Append { ticket, .. }) => ticket.await,
        Some(Given::Frame(_)) | None => std::future::pending().await,
    }
}

// === impl Followed ===

impl Followed {
    /// R14: readers here go up to what the leader has told, as far as this log holds it.
    fn tell<R: Replicas>(&mut self, replicas: &R, id: PartitionId) {
        let high_watermark = self.high_watermark.min(self.acked);
        if high_watermark > self.told {
            self.told = high_watermark;
            replicas.told(id, self.segment, high_watermark);
        }
    }
}
