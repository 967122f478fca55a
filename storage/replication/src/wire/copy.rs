//! Copies between brokers: tails of fenced segments (R24), and what is sealed: whole segments for
//! those who lack them (R33, R34), and for readers batches of them and what is there at a time.

use bytes::Bytes;
use mainstem_log::{Sought, TimeFound};
use mainstem_record::{Member, Offset, PartitionId, SegmentId};

use super::{
    WireError,
    fields::{Body, Fields},
};

const TAIL: u8 = 1;
const MEMORY: u8 = 2;
const FACTS: u8 = 3;
const CHUNK: u8 = 4;
const BATCHES: u8 = 5;
const AT_TIME: u8 = 6;
const HIGHEST: u8 = 7;

/// A question about one segment that another broker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyQuestion {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// What is asked.
    pub asked: Asked,
}

/// What is asked of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// What comes after the own log end of a fenced broker. Answered by [`CopyAnswer::Batches`].
    Tail {
        /// Whom it asks, in which life: fenced too.
        from: Member,
        /// From where on.
        at: Offset,
        /// The most bytes of batches; a single batch may be longer.
        bytes_max: u32,
    },
    /// What is remembered where it begins ([`mainstem_log::Partition::memory`]). Answered by
    /// [`CopyAnswer::Part`].
    Memory {
        /// From which byte on.
        position: u64,
    },
    /// What whoever copies it must know ([`mainstem_log::Partition::copy_facts`]). Answered by
    /// [`CopyAnswer::Part`].
    Facts {
        /// From which byte on.
        position: u64,
    },
    /// A chunk of its file ([`mainstem_log::Partition::read_chunk`]). Answered by
    /// [`CopyAnswer::Chunk`].
    Chunk {
        /// Its number.
        number: u32,
    },
    /// Whole batches of it, sealed, for a reader. Answered by [`CopyAnswer::Batches`].
    Batches {
        /// From the batch on that holds this offset.
        from: Offset,
        /// The most bytes; a single batch may be longer.
        bytes_max: u32,
    },
    /// A record of it, sealed, by its timestamp ([`mainstem_log::Partition::find_in_segment`]).
    /// Answered by [`CopyAnswer::Found`].
    Time {
        /// Records below do not count.
        from: Offset,
        /// Which.
        sought: Sought,
    },
}

/// The answer to a [`CopyQuestion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyAnswer {
    /// Whole batches, or none at the end.
    Batches {
        /// For a tail the log end of who answers, as far as it may say so; for a reader where to go
        /// on.
        end: Offset,
        /// The batches.
        batches: Bytes,
    },
    /// Some of what may be longer than a message.
    Part {
        /// The length of all of it.
        total: u64,
        /// The bytes from the position on that was asked for.
        bytes: Bytes,
    },
    /// A chunk.
    Chunk(Bytes),
    /// The record that was looked for, if there is one.
    Found(TimeFound),
}

// === impl CopyQuestion ===

impl CopyQuestion {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let kind = match self.asked {
            Asked::Tail { .. } => TAIL,
            Asked::Memory { .. } => MEMORY,
            Asked::Facts { .. } => FACTS,
            Asked::Chunk { .. } => CHUNK,
            Asked::Batches { .. } => BATCHES,
            Asked::Time { sought, .. } => match sought {
                Sought::AtLeast(_) => AT_TIME,
                Sought::Highest => HIGHEST,
            },
        };
        let mut body = Body::new(kind, 60);
        body.partition(self.partition);
        body.segment(self.segment);
        match self.asked {
            Asked::Tail {
                from,
                at,
                bytes_max,
            } => {
                body.member(from);
                body.offset(at);
                body.u32(bytes_max);
            }
            Asked::Memory { position } | Asked::Facts { position } => body.u64(position),
            Asked::Chunk { number } => body.u32(number),
            Asked::Batches { from, bytes_max } => {
                body.offset(from);
                body.u32(bytes_max);
            }
            Asked::Time { from, sought } => {
                body.offset(from);
                if let Sought::AtLeast(at_least) = sought {
                    body.timestamp(at_least);
                }
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
        let (partition, segment) = (fields.partition()?, fields.segment()?);
        let asked = match kind {
            TAIL => Asked::Tail {
                from: fields.member()?,
                at: fields.offset()?,
                bytes_max: fields.u32()?,
            },
            MEMORY => Asked::Memory {
                position: fields.u64()?,
            },
            FACTS => Asked::Facts {
                position: fields.u64()?,
            },
            CHUNK => Asked::Chunk {
                number: fields.u32()?,
            },
            BATCHES => Asked::Batches {
                from: fields.offset()?,
                bytes_max: fields.u32()?,
            },
            AT_TIME => Asked::Time {
                from: fields.offset()?,
                sought: Sought::AtLeast(fields.timestamp()?),
            },
            HIGHEST => Asked::Time {
                from: fields.offset()?,
                sought: Sought::Highest,
            },
            unknown => return Err(WireError::Kind(unknown)),
        };
        fields.end(Self {
            partition,
            segment,
            asked,
        })
    }
}

// === impl CopyAnswer ===

impl CopyAnswer {
    /// Its bytes; what it carries has at most [`super::BATCHES_BYTES_MAX`].
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Batches { end, batches } => Self::encode_batches(*end, &[batches]),
            Self::Part { total, bytes } => {
                let mut body = Body::new(FACTS, 8 + bytes.len());
                body.u64(*total);
                body.slice(bytes);
                body.done()
            }
            Self::Chunk(bytes) => {
                let mut body = Body::new(CHUNK, bytes.len());
                body.slice(bytes);
                body.done()
            }
            Self::Found(found) => {
                let mut body = Body::new(AT_TIME, 17);
                body.bool(found.is_some());
                if let Some((offset, timestamp)) = found {
                    body.offset(*offset);
                    body.timestamp(*timestamp);
                }
                body.done()
            }
        }
    }

    /// [`Self::Batches`] of several runs of them.
    pub fn encode_batches<T: AsRef<[u8]>>(end: Offset, runs: &[T]) -> Bytes {
        let bytes: usize = runs.iter().map(|run| run.as_ref().len()).sum();
        let mut body = Body::new(BATCHES, 8 + bytes);
        body.offset(end);
        for run in runs {
            body.slice(run.as_ref());
        }
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let (mut fields, kind) = Fields::of(body)?;
        match kind {
            BATCHES => Ok(Self::Batches {
                end: fields.offset()?,
                batches: fields.rest(),
            }),
            FACTS => Ok(Self::Part {
                total: fields.u64()?,
                bytes: fields.rest(),
            }),
            CHUNK => Ok(Self::Chunk(fields.rest())),
            AT_TIME => {
                let found = match fields.bool()? {
                    true => Some((fields.offset()?, fields.timestamp()?)),
                    false => None,
                };
                fields.end(Self::Found(found))
            }
            unknown => Err(WireError::Kind(unknown)),
        }
    }
}
