//! Heartbeats of brokers.

use bytes::Bytes;
use mainstem_record::{Member, PartitionId, SegmentId};

use super::{
    WireError,
    fields::{Body, Fields},
};

const HEARTBEAT: u8 = 1;
const ANSWER: u8 = 2;

/// A member and an i32.
const SUSPECT_BYTES: usize = 16;
/// A partition and a segment.
const ROLL_BYTES: usize = 36;

/// A broker tells the controller that it lives, every `broker.heartbeat.interval.ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who, in which life.
    pub member: Member,
    /// The version of its image.
    pub image: u64,
    /// Whether it serves: everything that it holds is open.
    pub ready: bool,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Nodes that refuse its connections: their processes are likely gone.
    pub refused: Vec<Suspect>,
}

/// A node that refuses connections, though it is registered in that life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// Which, in the life that it was known in before it refused.
    pub member: Member,
    /// How many milliseconds ago it did so last.
    pub ago_ms: u32,
}

/// The controller's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The version of the controller's image.
    pub image: u64,
    /// What the controller holds of that life.
    pub session: Session,
    /// When the next heartbeat is expected, in milliseconds.
    pub interval_ms: u32,
    /// Segments that this broker leads and should seal, so that the next ones are placed anew.
    pub rolls: Vec<RollOrder>,
}

/// A segment that its leader should seal (R28), if it still leads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollOrder {
    /// Of which partition.
    pub partition: PartitionId,
    /// Which.
    pub segment: SegmentId,
}

/// What a controller holds of the life that sent a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It has a session.
    Live,
    /// It was fenced, and is going to be unfenced.
    Fenced,
    /// It is not that broker's current life, or not registered: it must register again.
    Unknown,
    /// Who answers does not lead the metadata quorum (any more).
    NotController,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Its bytes.
    ///
    /// # Panics
    /// More nodes than [`super::SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(HEARTBEAT, 32 + SUSPECT_BYTES * self.refused.len());
        body.member(self.member);
        body.u64(self.image);
        body.bool(self.ready);
        body.bool(self.draining);
        body.list(&self.refused, |body, suspect| {
            body.member(suspect.member);
            body.u32(suspect.ago_ms);
        });
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, HEARTBEAT)?;
        let heartbeat = Self {
            member: fields.member()?,
            image: fields.u64()?,
            ready: fields.bool()?,
            draining: fields.bool()?,
            refused: fields.list(SUSPECT_BYTES, |fields| {
                Ok(Suspect {
                    member: fields.member()?,
                    ago_ms: fields.u32()?,
                })
            })?,
        };
        fields.end(heartbeat)
    }
}

// === impl HeartbeatAnswer ===

impl HeartbeatAnswer {
    /// Its bytes.
    ///
    /// # Panics
    /// More segments than [`super::SEGMENTS_MAX`].
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(ANSWER, 20 + ROLL_BYTES * self.rolls.len());
        body.u64(self.image);
        body.u8(match self.session {
            Session::Live => 0,
            Session::Fenced => 1,
            Session::Unknown => 2,
            Session::NotController => 3,
        });
        body.u32(self.interval_ms);
        body.list(&self.rolls, |body, roll| {
            body.partition(roll.partition);
            body.segment(roll.segment);
        });
        body.done()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::of_kind(body, ANSWER)?;
        let answer = Self {
            image: fields.u64()?,
            session: match fields.u8()? {
                0 => Session::Live,
                1 => Session::Fenced,
                2 => Session::Unknown,
                3 => Session::NotController,
                _ => return Err(WireError::Value("a session")),
            },
            interval_ms: fields.u32()?,
            rolls: fields.list(ROLL_BYTES, |fields| {
                Ok(RollOrder {
                    partition: fields.partition()?,
                    segment: fields.segment()?,
                })
            })?,
        };
        fields.end(answer)
    }
}
