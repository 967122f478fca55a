//! Heartbeats of brokers.

use bytes::Bytes;
use mainstem_record::{BrokerId, Member};

use super::{
    WireError,
    fields::{Body, Fields},
};

const HEARTBEAT: u8 = 1;
const ANSWER: u8 = 2;

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
    pub refused: Vec<BrokerId>,
}

/// The controller's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The version of the controller's image.
    pub image: u64,
    /// What the controller holds of that life.
    pub session: Session,
    /// When the next heartbeat is expected, in milliseconds.
    pub interval_ms: u32,
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
        let mut body = Body::new(HEARTBEAT, 32 + 4 * self.refused.len());
        body.member(self.member);
        body.u64(self.image);
        body.bool(self.ready);
        body.bool(self.draining);
        body.list(&self.refused, |body, node| body.i32(node.0));
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
            refused: fields.list(4, |fields| fields.i32().map(BrokerId))?,
        };
        fields.end(heartbeat)
    }
}

// === impl HeartbeatAnswer ===

impl HeartbeatAnswer {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = Body::new(ANSWER, 16);
        body.u64(self.image);
        body.u8(match self.session {
            Session::Live => 0,
            Session::Fenced => 1,
            Session::Unknown => 2,
            Session::NotController => 3,
        });
        body.u32(self.interval_ms);
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
        };
        fields.end(answer)
    }
}
