//! Unplanned seals: what a controller orders and asks (R21 to R27).

use bytes::Bytes;
use mainstem_record::{Member, Offset, PartitionId, SegmentId, TimestampMs};

use super::{
    WireError,
    fields::{Body, Fields},
};
use crate::machine::FenceAnswer;

const FENCE: u8 = 1;
const COPY_TAIL: u8 = 2;
const DIGEST_AT: u8 = 3;
const FENCED: u8 = 4;
const DIGESTS: u8 = 5;

const SEGMENT_BYTES: usize = 16;
const PARTITION_BYTES: usize = 20;
const MEMBER_BYTES: usize = 12;

/// What a controller asks of one broker, about many segments at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealQuestion {
    /// R22: lead, append and ack no more. Answered by [`SealAnswer::Fenced`].
    Fence {
        /// The broker's image must be at least this new when it answers.
        image: u64,
        /// The segments.
        orders: Vec<FenceOrder>,
    },
    /// R24: copy tails from others that are fenced. Answered by [`SealAnswer::Fenced`].
    CopyTail(Vec<CopyOrder>),
    /// What a segment holds up to an end. Answered by [`SealAnswer::Digests`].
    DigestAt(Vec<DigestQuestion>),
}

/// Fence one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceOrder {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// The version of its `Sealing` image, at least.
    pub version: u32,
}

/// Copy the tail of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOrder {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// From whom: fenced, in this life.
    pub from: Member,
    /// From where on: the copier's log end when it was asked last.
    pub at: Offset,
}

/// What is in a segment up to `end`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestQuestion {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// The offset after the last record that counts.
    pub end: Offset,
}

/// The answer to a [`SealQuestion`]. What is missing in it has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealAnswer {
    /// To Fence and CopyTail.
    Fenced {
        /// Who answers, in which life.
        member: Member,
        /// By segment.
        answers: Vec<Fenced>,
    },
    /// To DigestAt.
    Digests {
        /// Who answers, in which life.
        member: Member,
        /// By segment.
        answers: Vec<DigestOf>,
    },
}

/// Whether a segment is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// Which.
    pub segment: SegmentId,
    /// The answer, or why there is none.
    pub outcome: Result<FenceAnswer, Unfenced>,
}

/// Why a segment is not fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfenced {
    /// Not yet: an image is on the way, or a log is being opened, synced or copied. Ask again.
    #[error("not yet")]
    NotYet,
    /// It is sealed already.
    #[error("sealed")]
    Sealed,
    /// This broker holds no replica of it and is not to hold one.
    #[error("not held here")]
    NotHeld,
    /// The log of the partition has failed here.
    #[error("its log has failed")]
    Failed,
}

/// What a segment holds up to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestOf {
    /// Which.
    pub segment: SegmentId,
    /// The offset after the last record that counts.
    pub end: Offset,
    /// Bytes of its file up to there.
    pub bytes: u64,
    /// The highest timestamp of its batches up to there; [`TimestampMs::NONE`] if there is none.
    pub max_timestamp: TimestampMs,
    /// As in [`mainstem_log::SealInfo`].
    pub digest: u128,
}

// === impl SealQuestion ===

impl SealQuestion {
    /// Its bytes.
    ///
    /// # Panics
    /// More segments than [`super::SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Fence { image, orders } => {
                let mut body = Body::new(FENCE, 12 + orders.len() * (PARTITION_BYTES + 20));
                body.u64(*image);
                body.list(orders, |body, order| {
                    body.partition(order.partition);
                    body.segment(order.segment);
                    body.u32(order.version);
                });
                body.done()
            }
            Self::CopyTail(orders) => {
                let mut body = Body::new(COPY_TAIL, 4 + orders.len() * 56);
                body.list(orders, |body, order| {
                    body.partition(order.partition);
                    body.segment(order.segment);
                    body.member(order.from);
                    body.offset(order.at);
                });
                body.done()
            }
            Self::DigestAt(questions) => {
                let mut body = Body::new(DIGEST_AT, 4 + questions.len() * 44);
                body.list(questions, |body, question| {
                    body.partition(question.partition);
                    body.segment(question.segment);
                    body.offset(question.end);
                });
                body.done()
            }
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let (mut fields, kind) = Fields::of(body)?;
        let bytes_min = PARTITION_BYTES + SEGMENT_BYTES;
        let question = match kind {
            FENCE => Self::Fence {
                image: fields.u64()?,
                orders: fields.list(bytes_min + 4, |fields| {
                    Ok(FenceOrder {
                        partition: fields.partition()?,
                        segment: fields.segment()?,
                        version: fields.u32()?,
                    })
                })?,
            },
            COPY_TAIL => Self::CopyTail(fields.list(bytes_min + MEMBER_BYTES + 8, |fields| {
                Ok(CopyOrder {
                    partition: fields.partition()?,
                    segment: fields.segment()?,
                    from: fields.member()?,
                    at: fields.offset()?,
                })
            })?),
            DIGEST_AT => Self::DigestAt(fields.list(bytes_min + 8, |fields| {
                Ok(DigestQuestion {
                    partition: fields.partition()?,
                    segment: fields.segment()?,
                    end: fields.offset()?,
                })
            })?),
            unknown => return Err(WireError::Kind(unknown)),
        };
        fields.end(question)
    }
}

// === impl SealAnswer ===

impl SealAnswer {
    /// Its bytes.
    ///
    /// # Panics
    /// More segments than [`super::SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Fenced { member, answers } => {
                let mut body = Body::new(FENCED, 16 + answers.len() * 37);
                body.member(*member);
                body.list(answers, |body, answer| answer.encode(body));
                body.done()
            }
            Self::Digests { member, answers } => {
                let mut body = Body::new(DIGESTS, 16 + answers.len() * 56);
                body.member(*member);
                body.list(answers, |body, answer| answer.encode(body));
                body.done()
            }
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let (mut fields, kind) = Fields::of(body)?;
        let answer = match kind {
            FENCED => {
                let member = fields.member()?;
                let answers =
                    fields.list(SEGMENT_BYTES + 1, |fields| Fenced::decode(fields, member))?;
                Self::Fenced { member, answers }
            }
            DIGESTS => Self::Digests {
                member: fields.member()?,
                answers: fields.list(SEGMENT_BYTES + 40, DigestOf::decode)?,
            },
            unknown => return Err(WireError::Kind(unknown)),
        };
        fields.end(answer)
    }
}

// === impl Fenced ===

impl Fenced {
    fn encode(&self, body: &mut Body) {
        body.segment(self.segment);
        body.u8(match &self.outcome {
            Ok(_) => 0,
            Err(Unfenced::NotYet) => 1,
            Err(Unfenced::Sealed) => 2,
            Err(Unfenced::NotHeld) => 3,
            Err(Unfenced::Failed) => 4,
        });
        if let Ok(answer) = &self.outcome {
            body.u32(answer.version);
            body.offset(answer.certificate);
            body.offset(answer.leo);
        }
    }

    fn decode(fields: &mut Fields, member: Member) -> Result<Self, WireError> {
        let segment = fields.segment()?;
        let outcome = match fields.u8()? {
            0 => Ok(FenceAnswer {
                segment,
                member,
                version: fields.u32()?,
                certificate: fields.offset()?,
                leo: fields.offset()?,
            }),
            1 => Err(Unfenced::NotYet),
            2 => Err(Unfenced::Sealed),
            3 => Err(Unfenced::NotHeld),
            4 => Err(Unfenced::Failed),
            _ => return Err(WireError::Value("the outcome of a fence")),
        };
        Ok(Self { segment, outcome })
    }
}

// === impl DigestOf ===

impl DigestOf {
    fn encode(&self, body: &mut Body) {
        body.segment(self.segment);
        body.offset(self.end);
        body.u64(self.bytes);
        body.timestamp(self.max_timestamp);
        body.u128(self.digest);
    }

    fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        Ok(Self {
            segment: fields.segment()?,
            end: fields.offset()?,
            bytes: fields.u64()?,
            max_timestamp: fields.timestamp()?,
            digest: fields.u128()?,
        })
    }
}
