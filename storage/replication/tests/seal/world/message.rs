//! What goes around in the world.

use std::sync::Arc;

use mainstem_metadata::{Applied, ApplyError, Command, Image};
use mainstem_record::{BrokerId, Incarnation, LeaderEpoch, Member, Offset, SegmentId};
use mainstem_replication::machine::{FenceAnswer, leader::IsrProposal};

use super::log::Rec;

/// Any of them may be lost, delayed, repeated and reordered.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// To metadata.
    Command { command: Command, from: Asks },
    /// From metadata.
    Outcome {
        result: Result<Applied, ApplyError>,
        to: Asks,
    },
    Follow {
        to: BrokerId,
        segment: SegmentId,
        epoch: LeaderEpoch,
        member: Member,
        leo: Offset,
    },
    Append {
        to: Member,
        segment: SegmentId,
        epoch: LeaderEpoch,
        at: Offset,
        records: Vec<Rec>,
        hw: Offset,
    },
    Ack {
        to: BrokerId,
        segment: SegmentId,
        member: Member,
        leo: Offset,
    },
    Fence {
        controller: usize,
        to: Member,
        image: Arc<Image>,
    },
    Answer {
        controller: usize,
        segment: SegmentId,
        answer: FenceAnswer,
    },
    /// The controller asks `to` to copy from `source`.
    CopyTail {
        controller: usize,
        to: Member,
        source: Member,
        segment: SegmentId,
    },
    /// `from` asks `to` for records: for CopyTail, or to repair a sealed segment.
    Fetch {
        to: BrokerId,
        from: Member,
        segment: SegmentId,
        at: Offset,
        controller: Option<usize>,
    },
    Records {
        to: Member,
        segment: SegmentId,
        epoch: LeaderEpoch,
        at: Offset,
        records: Vec<Rec>,
        controller: Option<usize>,
    },
}

/// Who waits for an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Nobody: the image tells.
    Nobody,
    /// The life of a broker that registers.
    Registration { broker: BrokerId, life: u64 },
    /// A leader.
    Isr {
        leader: Member,
        proposal: IsrProposal,
    },
}

impl Message {
    /// What a script calls it.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Command { command, .. } => match command {
                Command::RegisterBroker { .. } => Kind::Register,
                Command::AlterIsr { .. } => Kind::AlterIsr,
                Command::SealAndOpen { .. } => Kind::SealAndOpen,
                Command::CommitSeal { .. } | Command::UncleanRecover { .. } => Kind::CommitSeal,
                Command::AddComplete { .. } => Kind::AddComplete,
                _ => Kind::OtherCommand,
            },
            Self::Outcome { .. } => Kind::Outcome,
            Self::Follow { .. } => Kind::Follow,
            Self::Append { .. } => Kind::Append,
            Self::Ack { .. } => Kind::Ack,
            Self::Fence { .. } => Kind::Fence,
            Self::Answer { .. } => Kind::Answer,
            Self::CopyTail { .. } => Kind::CopyTail,
            Self::Fetch { .. } => Kind::Fetch,
            Self::Records { .. } => Kind::Records,
        }
    }
}

/// The kinds of messages that scripts name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Register,
    AlterIsr,
    SealAndOpen,
    CommitSeal,
    AddComplete,
    OtherCommand,
    Outcome,
    Follow,
    Append,
    Ack,
    Fence,
    Answer,
    CopyTail,
    Fetch,
    Records,
}

/// The proof that a start brings (R2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The life that a clean-shutdown marker, or a run marker of the same boot, names.
    pub(crate) intact: Option<Incarnation>,
    /// The life that the directory last registered under.
    pub(crate) directory: Option<Incarnation>,
}
