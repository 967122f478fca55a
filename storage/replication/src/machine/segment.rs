//! What a machine sees of a segment: its record in one image, read by the rules of identity.

use std::collections::BTreeSet;

use mainstem_metadata::{Image, SegmentFlush, SegmentRecord, SegmentState};
use mainstem_record::{BrokerId, LeaderEpoch, Member, Offset, PartitionId, SegmentId};

/// A segment as one image has it. Only entries whose incarnation is the broker's current one are in
/// the sets: any other does not exist (specification, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its identity on all replicas.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Its leader epoch, the same for its whole life.
    pub epoch: LeaderEpoch,
    /// Grows with every change of ISR, ELR, leader, state or min_insync (R7).
    pub version: u32,
    /// Where it is in its life.
    pub state: SegmentState,
    /// Who leads it, in which life.
    pub leader: Member,
    /// Who is meant to hold it.
    pub replicas: BTreeSet<BrokerId>,
    /// In-sync replicas, the leader included.
    pub isr: BTreeSet<Member>,
    /// Eligible leader replicas: out of the ISR, and holding everything below the high watermark.
    pub elr: BTreeSet<Member>,
    /// Brokers that lost data since the ISR was last large enough.
    pub lost: BTreeSet<BrokerId>,
    /// How many in-sync replicas it takes to expose a record (R13: that of this record).
    pub min_insync: usize,
    /// `flush=always`: what is not synced does not count (R11).
    pub flush_always: bool,
    /// Offset after its last record, once sealed.
    pub end: Option<Offset>,
    /// Replicas that hold all of it, once sealed.
    pub complete: BTreeSet<Member>,
    /// It was ended by an unclean recovery (R36).
    pub lossy: bool,
}

impl Segment {
    /// The segment `id` of `partition`; `None` if the chain does not hold it.
    pub fn of(image: &Image, partition: PartitionId, id: SegmentId) -> Option<Self> {
        let chain = &image.partition(partition)?.segments;
        let record = chain.iter().rev().find(|record| record.id == id)?;
        Some(Self::from_record(image, record))
    }

    /// The open end of the chain of `partition`: `Active` or `Sealing`.
    pub fn open(image: &Image, partition: PartitionId) -> Option<Self> {
        let record = image.partition(partition)?.active()?;
        Some(Self::from_record(image, record))
    }

    fn from_record(image: &Image, record: &SegmentRecord) -> Self {
        let complete = record.complete.iter();
        let complete = complete.map(|copy| Member::new(copy.broker, copy.incarnation));
        Self {
            id: record.id,
            base: record.base,
            epoch: record.epoch,
            version: record.version,
            state: record.state,
            leader: Member::new(record.leader, record.leader_incarnation),
            replicas: record.replicas.iter().copied().collect(),
            isr: image.current(&record.isr).collect(),
            elr: image.current(&record.elr).collect(),
            lost: record.lost.iter().map(|member| member.broker).collect(),
            min_insync: usize::try_from(record.min_insync).unwrap_or(1).max(1),
            flush_always: record.flush == SegmentFlush::Always,
            end: record.end,
            complete: complete
                .filter(|member| image.is_current(*member))
                .collect(),
            lossy: record.lossy,
        }
    }

    /// ISR ∪ ELR: who holds everything below the high watermark (I-SEAL-5), and so may certify an
    /// end (R26 c).
    pub fn eligible(&self) -> BTreeSet<Member> {
        self.isr.union(&self.elr).copied().collect()
    }
}

/// R6: whether `me` may follow, ack, answer and lead from this image. An image in which it is the
/// broker's current life is at least as new as its registration; one with a later life ends it.
pub fn is_current(image: &Image, me: Member) -> bool {
    let broker = image.brokers.get(&me.broker);
    broker.is_some_and(|broker| broker.incarnation == me.incarnation)
}
