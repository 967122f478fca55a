//! Copies between brokers: tails of fenced segments (R24), and sealed segments whole (R33, R34).

use bytes::Bytes;
use mainstem_record::{Member, Offset, PartitionId, SegmentId};

use super::{
    WireError,
    fields::{Body, Fields},
};

const TAIL_QUESTION: u8 = 1;
const TAIL_ANSWER: u8 = 2;
const COPY_HELLO: u8 = 3;
const HEAD: u8 = 4;
const PART: u8 = 5;

/// A fenced broker asks another one for what comes after its own log end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailQuestion {
    /// Of which partition.
    pub partition: PartitionId,
    /// Of which segment.
    pub segment: SegmentId,
    /// Whom it asks, in which life.
    pub from: Member,
    /// From where on.
    pub at: Offset,
    /// The most bytes of batches; a single batch may be longer.
    pub bytes_max: u32,
}

/// Whole batches from where it was asked on, or none at the end of who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailAnswer {
    /// The log end of who answers.
    pub leo: Offset,
    /// The batches.
    pub batches: Bytes,
}

/// The first words of a stream that carries a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyHello {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
    /// From which byte on: an earlier copy may have got so far.
    pub position: u64,
    /// The digest that metadata has of it; the stream is refused if the file has another one.
    pub digest: u128,
}

/// What the stream carries then: a head, and parts until the file has its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyPart {
    /// What is to come.
    Head {
        /// The length of the file in bytes.
        bytes: u64,
    },
    /// Bytes of the file.
    Part {
        /// Where they belong.
        position: u64,
        /// The bytes.
        bytes: Bytes,
    },
}

// === impl TailQuestion ===

impl TailQuestion {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(TAIL_QUESTION, 60);
        body.partition(self.partition);
        body.segment(self.segment);
        body.member(self.from);
        body.offset(self.at);
        body.u32(self.bytes_max);
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, TAIL_QUESTION)?;
        let question = Self {
            partition: fields.partition()?,
            segment: fields.segment()?,
            from: fields.member()?,
            at: fields.offset()?,
            bytes_max: fields.u32()?,
        };
        fields.end(question)
    }
}

// === impl TailAnswer ===

impl TailAnswer {
    /// The answer with these runs of batches, at most [`super::BATCHES_BYTES_MAX`] bytes.
    pub fn encode(leo: Offset, runs: &[Bytes]) -> Bytes {
        let bytes: usize = runs.iter().map(Bytes::len).sum();
        let mut body = Body::new(TAIL_ANSWER, 8 + bytes);
        body.offset(leo);
        for run in runs {
            body.slice(run);
        }
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, TAIL_ANSWER)?;
        let leo = fields.offset()?;
        let batches = fields.rest();
        Ok(Self { leo, batches })
    }
}

// === impl CopyHello ===

impl CopyHello {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(COPY_HELLO, 60);
        body.partition(self.partition);
        body.segment(self.segment);
        body.u64(self.position);
        body.u128(self.digest);
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, COPY_HELLO)?;
        let hello = Self {
            partition: fields.partition()?,
            segment: fields.segment()?,
            position: fields.u64()?,
            digest: fields.u128()?,
        };
        fields.end(hello)
    }
}

// === impl CopyPart ===

impl CopyPart {
    /// Its bytes; a part has at most [`super::BATCHES_BYTES_MAX`].
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Head { bytes } => {
                let mut body = Body::new(HEAD, 8);
                body.u64(*bytes);
                body.done()
            }
            Self::Part { position, bytes } => {
                let mut body = Body::new(PART, 8 + bytes.len());
                body.u64(*position);
                body.slice(bytes);
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
        match kind {
            HEAD => {
                let bytes = fields.u64()?;
                fields.end(Self::Head { bytes })
            }
            PART => Ok(Self::Part {
                position: fields.u64()?,
                bytes: fields.rest(),
            }),
            unknown => Err(WireError::Kind(unknown)),
        }
    }
}
