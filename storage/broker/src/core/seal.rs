//! What metadata is told of a frozen segment: how it ends, and what follows it.

use mainstem_log::SealInfo;
use mainstem_metadata::{
    Answer, Command, CommitSeal, Image, NextSegment, SealAndOpen, SegmentFlush, SegmentRecord,
    SegmentState,
};
use mainstem_record::{Member, PartitionId, SegmentId};

/// How a segment ends whose only replica is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Its leader, in the life that led all of it, says where (`seal-protocol` R28).
    Planned,
    /// Its leader's last life has ended, with nothing lost: this replica may say where (R26).
    Unplanned,
    /// Something may be lost, and nobody else knows of it (R36).
    Unclean,
}

/// A frozen segment and what follows it.
pub(super) struct Frozen<'a> {
    pub(super) partition: PartitionId,
    pub(super) active: &'a SegmentRecord,
    pub(super) info: &'a SealInfo,
    pub(super) next: SegmentId,
    pub(super) flush: SegmentFlush,
}

// === impl Ending ===

impl Ending {
    /// How `segment` can end now.
    pub(super) fn of(image: &Image, segment: &SegmentRecord) -> Self {
        if segment.state == SegmentState::Active {
            return Self::Planned;
        }
        let mut eligible = segment.isr.iter().chain(&segment.elr);
        if eligible.any(|member| image.is_current(*member)) {
            Self::Unplanned
        } else {
            Self::Unclean
        }
    }

    /// One command for all, in their order.
    pub(super) fn command(self, me: Member, all: &[Frozen<'_>]) -> Command {
        let commits = || all.iter().map(|frozen| frozen.commit(me)).collect();
        match self {
            Self::Planned => Command::SealAndOpen {
                seals: all.iter().map(|frozen| frozen.seal(me)).collect(),
            },
            Self::Unplanned => Command::CommitSeal { commits: commits() },
            Self::Unclean => Command::UncleanRecover {
                recoveries: commits(),
            },
        }
    }
}

// === impl Frozen ===

impl Frozen<'_> {
    fn seal(&self, me: Member) -> SealAndOpen {
        SealAndOpen {
            partition: self.partition,
            segment: self.active.id,
            version: self.active.version,
            end: self.info.end,
            bytes: self.info.bytes,
            max_timestamp: self.info.max_timestamp,
            digest: Some(self.info.digest.to_be_bytes()),
            durable: vec![me],
            next: self.next(me),
        }
    }

    fn commit(&self, me: Member) -> CommitSeal {
        let answer = Answer {
            member: me,
            certificate: self.info.end,
            leo: self.info.end,
        };
        CommitSeal {
            partition: self.partition,
            segment: self.active.id,
            version: self.active.version,
            end: self.info.end,
            bytes: self.info.bytes,
            max_timestamp: self.info.max_timestamp,
            digest: Some(self.info.digest.to_be_bytes()),
            answers: vec![answer],
            complete: vec![me],
            durable: vec![me],
            next: self.next(me),
        }
    }

    fn next(&self, me: Member) -> NextSegment {
        NextSegment {
            id: self.next,
            replicas: vec![me.broker],
            isr: vec![me],
            leader: me,
            flush: self.flush,
        }
    }
}
