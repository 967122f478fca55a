//! What is to be done about the sealed segments of one partition, told by the image and the log.

use std::collections::BTreeSet;

use mainstem_log::SegmentInfo;
use mainstem_metadata::{Image, PartitionRecord, RemoveCopy, SegmentRecord, SegmentState};
use mainstem_record::{BrokerId, Member, Offset, PartitionId, SegmentId};

use super::digest_of;

/// A sealed segment that this node is to hold and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partition: PartitionId,
    pub(super) segment: SegmentId,
    pub(super) base: Offset,
    pub(super) bytes: u64,
    /// As metadata has it.
    pub(super) digest: Option<[u8; 16]>,
    /// Who has all of it, by id, without those that are fenced if there are others.
    pub(super) sources: Vec<BrokerId>,
    /// How many have all of it.
    pub(super) copies: usize,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Copy it, or find that it is here.
    Copy(Wanted),
    /// R35: metadata lists this node, and its file is not the segment.
    Disown(RemoveCopy),
    /// It is spoilt, and metadata knows: it is not read here any more.
    GiveUp(SegmentId),
}

/// What is to be done. `segments` is what the log has, `damaged` what is spoilt of it.
pub(super) fn steps(
    image: &Image,
    me: Member,
    (id, record): (PartitionId, &PartitionRecord),
    segments: &[SegmentInfo],
    damaged: &BTreeSet<SegmentId>,
) -> Vec<Step> {
    // R6: of another life nothing is said.
    if !image.is_current(me) {
        return Vec::new();
    }
    let holds_open = record
        .active()
        .is_some_and(|open| open.replicas.contains(&me.broker));
    let sealed = record
        .segments
        .iter()
        .filter(|segment| segment.state == SegmentState::Sealed);
    let wanted = sealed.filter(|segment| holds_open || segment.replicas.contains(&me.broker));
    wanted
        .filter_map(|segment| {
            let here = segments.iter().find(|here| here.id == segment.id)?;
            // The log has not learned of the seal yet.
            here.end?;
            step(image, me, (id, segment), here.held, damaged)
        })
        .collect()
}

fn step(
    image: &Image,
    me: Member,
    (partition, segment): (PartitionId, &SegmentRecord),
    held: bool,
    damaged: &BTreeSet<SegmentId>,
) -> Option<Step> {
    let complete: Vec<Member> = segment
        .complete
        .iter()
        .map(mainstem_metadata::Complete::member)
        .filter(|member| image.is_current(*member))
        .collect();
    let is_complete = complete.contains(&me);
    let others: Vec<BrokerId> = complete
        .iter()
        .map(|member| member.broker)
        .filter(|broker| *broker != me.broker)
        .collect();
    let disown = Step::Disown(RemoveCopy {
        partition,
        segment: segment.id,
        member: me,
        corrupt: true,
    });
    match (held, is_complete) {
        (true, _) if !damaged.contains(&segment.id) => None,
        // What is left of it is all that there is.
        (true, _) if others.is_empty() => None,
        (true, true) | (false, true) => Some(disown),
        (true, false) => Some(Step::GiveUp(segment.id)),
        (false, false) => Some(Step::Copy(Wanted {
            partition,
            segment: segment.id,
            base: segment.base,
            bytes: segment.bytes,
            digest: segment.digest,
            sources: sources(image, &others),
            copies: complete.len(),
        })),
    }
}

/// Those of `complete` that are worth asking, by id.
pub(super) fn sources(image: &Image, complete: &[BrokerId]) -> Vec<BrokerId> {
    let live = complete.iter().copied().filter(|broker| {
        let broker = image.brokers.get(broker);
        broker.is_some_and(|broker| !broker.fenced)
    });
    let mut sources: Vec<BrokerId> = live.collect();
    if sources.is_empty() {
        sources = complete.to_vec();
    }
    sources.sort_unstable();
    sources
}

// === impl Wanted ===

impl Wanted {
    /// The digest, as a number.
    pub(super) fn digest(&self) -> Option<u128> {
        self.digest.map(digest_of)
    }
}
