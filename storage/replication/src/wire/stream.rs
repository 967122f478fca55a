//! The replication stream of one follower broker from one leader broker: many segments, one order.

use bytes::Bytes;
use mainstem_record::{Incarnation, LeaderEpoch, Member, Offset, PartitionId, SegmentId};

use super::{
    BATCHES_BYTES_MAX, SEGMENTS_MAX, WireError,
    fields::{Body, Fields},
};
use crate::machine::leader::FollowRefusal;

const HELLO: u8 = 1;
const FOLLOW: u8 = 2;
const UNFOLLOW: u8 = 3;
const ACK: u8 = 4;
const WANT: u8 = 5;
const APPEND: u8 = 6;
const EXPOSED: u8 = 7;
const REFUSED: u8 = 8;
const MEMORY: u8 = 9;

const SEGMENT_BYTES: usize = 16;
const FOLLOW_BYTES: usize = 20 + SEGMENT_BYTES + 4 + 8;
/// Segment, offset, high watermark and the length of the batches.
const APPEND_BYTES: usize = SEGMENT_BYTES + 8 + 8 + 4;
/// Where the count of an Append frame is.
const COUNT_AT: usize = 2;

/// The first words of a follower. The stream is the session: what is said on it holds until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerHello {
    /// Who follows, in which life (R10).
    pub follower: Member,
    /// Whom, in which life.
    pub leader: Member,
    /// Bytes of Append frames that may be under way. A frame is begun while any are left, so one
    /// frame more may be.
    pub credit: u32,
}

/// What a follower says after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowerSays {
    /// Begin to send these segments, from their leo on. Each is answered by an Append, Exposed or
    /// Refused; until the leader leads it, not at all.
    Follow(Vec<FollowOf>),
    /// Send these no more.
    Unfollow(Vec<SegmentId>),
    /// What the follower holds.
    Ack {
        /// Bytes of Append frames that were taken since the last Ack, and may be sent anew.
        credit: u32,
        /// Segments that have moved.
        acks: Vec<AckOf>,
    },
    /// What does the partition remember where these segments begin?
    Want(Vec<WantOf>),
}

/// Follow one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowOf {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// The epoch that is followed.
    pub epoch: LeaderEpoch,
    /// What the follower holds (R11).
    pub leo: Offset,
    /// Where its log ends: what is to be sent first. Under `flush=always` it may be above leo.
    pub log_end: Offset,
}

/// What a follower holds of a segment: cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckOf {
    /// Which.
    pub segment: SegmentId,
    /// What write() has returned for, with `flush=always` what is synced (R11).
    pub leo: Offset,
}

/// Ask for what is remembered where a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantOf {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// The epoch that is followed.
    pub epoch: LeaderEpoch,
}

/// What a leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderSays {
    /// Batches of some segments.
    Append(Vec<AppendOf>),
    /// High watermarks, without batches.
    Exposed(Vec<ExposedOf>),
    /// These are not sent (any more).
    Refused(Vec<RefusedOf>),
    /// A part of what is remembered where a segment begins.
    Memory(MemoryOf),
}

/// Whole batches of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendOf {
    /// Which.
    pub segment: SegmentId,
    /// Where they begin.
    pub at: Offset,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The batches.
    pub batches: Bytes,
}

/// The high watermark of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExposedOf {
    /// Which.
    pub segment: SegmentId,
    /// Everything below is exposed (R12).
    pub high_watermark: Offset,
}

/// A segment that is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedOf {
    /// Which.
    pub segment: SegmentId,
    /// Why.
    pub why: FollowRefusal,
}

/// A part of what a partition remembers where a segment begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryOf {
    /// Which.
    pub segment: SegmentId,
    /// Whether it is the last part.
    pub is_last: bool,
    /// The part. What all parts are is a matter of the log.
    pub bytes: Bytes,
}

/// An Append frame that is being filled.
pub struct AppendFrame {
    body: Body,
    count: usize,
}

// === impl FollowerHello ===

impl FollowerHello {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(HELLO, 28);
        body.member(self.follower);
        body.member(self.leader);
        body.u32(self.credit);
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, HELLO)?;
        let hello = Self {
            follower: fields.member()?,
            leader: fields.member()?,
            credit: fields.u32()?,
        };
        fields.end(hello)
    }
}

// === impl FollowerSays ===

impl FollowerSays {
    /// Its bytes.
    ///
    /// # Panics
    /// More segments than [`SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        let mut body;
        match self {
            Self::Follow(follows) => {
                body = Body::new(FOLLOW, 4 + follows.len() * (FOLLOW_BYTES + 8));
                body.list(follows, |body, follow| {
                    body.partition(follow.partition);
                    body.segment(follow.segment);
                    body.epoch(follow.epoch);
                    body.offset(follow.leo);
                    body.offset(follow.log_end);
                });
            }
            Self::Unfollow(segments) => {
                body = Body::new(UNFOLLOW, 4 + segments.len() * SEGMENT_BYTES);
                body.list(segments, |body, segment| body.segment(*segment));
            }
            Self::Ack { credit, acks } => {
                body = Body::new(ACK, 8 + acks.len() * (SEGMENT_BYTES + 8));
                body.u32(*credit);
                body.list(acks, |body, ack| {
                    body.segment(ack.segment);
                    body.offset(ack.leo);
                });
            }
            Self::Want(wants) => {
                body = Body::new(WANT, 4 + wants.len() * FOLLOW_BYTES);
                body.list(wants, |body, want| {
                    body.partition(want.partition);
                    body.segment(want.segment);
                    body.epoch(want.epoch);
                });
            }
        }
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let (mut fields, kind) = Fields::of(body)?;
        let says = match kind {
            FOLLOW => Self::Follow(fields.list(FOLLOW_BYTES + 8, |fields| {
                Ok(FollowOf {
                    partition: fields.partition()?,
                    segment: fields.segment()?,
                    epoch: fields.epoch()?,
                    leo: fields.offset()?,
                    log_end: fields.offset()?,
                })
            })?),
            UNFOLLOW => Self::Unfollow(fields.list(SEGMENT_BYTES, Fields::segment)?),
            ACK => Self::Ack {
                credit: fields.u32()?,
                acks: fields.list(SEGMENT_BYTES + 8, |fields| {
                    Ok(AckOf {
                        segment: fields.segment()?,
                        leo: fields.offset()?,
                    })
                })?,
            },
            WANT => Self::Want(fields.list(FOLLOW_BYTES - 8, |fields| {
                Ok(WantOf {
                    partition: fields.partition()?,
                    segment: fields.segment()?,
                    epoch: fields.epoch()?,
                })
            })?),
            unknown => return Err(WireError::Kind(unknown)),
        };
        fields.end(says)
    }
}

// === impl LeaderSays ===

impl LeaderSays {
    /// Its bytes. Batches are put together by [`AppendFrame`].
    ///
    /// # Panics
    /// More segments than [`SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Append(appends) => {
                let bytes: usize = appends.iter().map(|append| append.batches.len()).sum();
                let mut frame = AppendFrame::with_capacity(bytes + appends.len() * APPEND_BYTES);
                for append in appends {
                    let to = (append.segment, append.at, append.high_watermark);
                    frame.push(to, std::slice::from_ref(&append.batches));
                }
                frame.done()
            }
            Self::Exposed(exposed) => {
                let mut body = Body::new(EXPOSED, 4 + exposed.len() * (SEGMENT_BYTES + 8));
                body.list(exposed, |body, exposed| {
                    body.segment(exposed.segment);
                    body.offset(exposed.high_watermark);
                });
                body.done()
            }
            Self::Refused(refused) => {
                let mut body = Body::new(REFUSED, 4 + refused.len() * (SEGMENT_BYTES + 9));
                body.list(refused, |body, refused| {
                    body.segment(refused.segment);
                    encode_refusal(body, refused.why);
                });
                body.done()
            }
            Self::Memory(memory) => {
                let mut body = Body::new(MEMORY, SEGMENT_BYTES + 1 + memory.bytes.len());
                body.segment(memory.segment);
                body.bool(memory.is_last);
                body.slice(&memory.bytes);
                body.done()
            }
        }
    }

    /// Reads it; batches are slices of `body`.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let (mut fields, kind) = Fields::of(body)?;
        let says = match kind {
            APPEND => Self::Append(fields.list(APPEND_BYTES, |fields| {
                Ok(AppendOf {
                    segment: fields.segment()?,
                    at: fields.offset()?,
                    high_watermark: fields.offset()?,
                    batches: fields.bytes()?,
                })
            })?),
            EXPOSED => Self::Exposed(fields.list(SEGMENT_BYTES + 8, |fields| {
                Ok(ExposedOf {
                    segment: fields.segment()?,
                    high_watermark: fields.offset()?,
                })
            })?),
            REFUSED => Self::Refused(fields.list(SEGMENT_BYTES + 9, |fields| {
                Ok(RefusedOf {
                    segment: fields.segment()?,
                    why: decode_refusal(fields)?,
                })
            })?),
            MEMORY => {
                let (segment, is_last) = (fields.segment()?, fields.bool()?);
                let bytes = fields.rest();
                return Ok(Self::Memory(MemoryOf {
                    segment,
                    is_last,
                    bytes,
                }));
            }
            unknown => return Err(WireError::Kind(unknown)),
        };
        fields.end(says)
    }
}

fn encode_refusal(body: &mut Body, why: FollowRefusal) {
    let (code, value) = match why {
        FollowRefusal::NotLeading => (1, 0),
        FollowRefusal::Epoch(epoch) => (2, i64::from(epoch.0)),
        FollowRefusal::NotReplica => (3, 0),
        FollowRefusal::StaleIncarnation(followed) => (4, followed.0.cast_signed()),
        FollowRefusal::AboveLogEnd(end) => (5, end.0),
    };
    body.u8(code);
    body.u64(value.cast_unsigned());
}

fn decode_refusal(fields: &mut Fields) -> Result<FollowRefusal, WireError> {
    let (code, value) = (fields.u8()?, fields.u64()?);
    let senseless = WireError::Value("a refusal");
    match (code, value) {
        (1, 0) => Ok(FollowRefusal::NotLeading),
        (2, epoch) => i32::try_from(epoch.cast_signed())
            .map(|epoch| FollowRefusal::Epoch(LeaderEpoch(epoch)))
            .map_err(|_| senseless),
        (3, 0) => Ok(FollowRefusal::NotReplica),
        (4, followed) => Ok(FollowRefusal::StaleIncarnation(Incarnation(followed))),
        (5, end) => i64::try_from(end)
            .map(|end| FollowRefusal::AboveLogEnd(Offset(end)))
            .map_err(|_| senseless),
        _ => Err(senseless),
    }
}

// === impl AppendFrame ===

impl AppendFrame {
    /// An empty one, with room for `bytes` of batches and what is around them.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut body = Body::new(APPEND, 4 + bytes);
        body.u32(0);
        Self { body, count: 0 }
    }

    /// Its length so far.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it takes no more segments.
    pub fn is_full(&self) -> bool {
        self.count == SEGMENTS_MAX
    }

    /// Puts the batches of a segment in: where they begin, and the high watermark with them.
    ///
    /// # Panics
    /// They are longer than [`BATCHES_BYTES_MAX`], or the frame is full.
    pub fn push(&mut self, to: (SegmentId, Offset, Offset), runs: &[Bytes]) {
        let bytes: usize = runs.iter().map(Bytes::len).sum();
        assert!(bytes <= BATCHES_BYTES_MAX, "{bytes} bytes for one frame");
        assert!(!self.is_full(), "the frame is full");
        let (segment, at, high_watermark) = to;
        self.body.segment(segment);
        self.body.offset(at);
        self.body.offset(high_watermark);
        self.body.length(bytes);
        for run in runs {
            self.body.slice(run);
        }
        self.count += 1;
    }

    /// Its bytes.
    pub fn done(mut self) -> Bytes {
        let count = u32::try_from(self.count).expect("a frame is full long before");
        self.body.set_u32(COUNT_AT, count);
        self.body.done()
    }
}
