//! What the log is told of a partition, as an image has it.

use mainstem_log::{Commit, PartitionSpec, Role, SegmentSpec};
use mainstem_metadata::{Image, PartitionRecord, SegmentRecord, SegmentState};
use mainstem_record::{BrokerId, Member, PartitionId};

/// Whether `broker` is to hold anything of a partition.
pub(super) fn is_hosted(record: &PartitionRecord, broker: BrokerId) -> bool {
    let mut segments = record.segments.iter();
    segments.any(|segment| segment.replicas.contains(&broker))
}

/// What the log is told of a segment that is, or is not, to be had here.
pub fn segment_spec(segment: &SegmentRecord, held: bool) -> SegmentSpec {
    let is_compacted = segment.compaction.is_some();
    SegmentSpec {
        id: segment.id,
        base: segment.base,
        epoch: segment.epoch,
        end: segment.end,
        compacted_from: is_compacted.then(|| segment.first_epoch()),
        held,
    }
}

/// Whether a segment is to be had here when the log opens: an open one by its replicas, a sealed one
/// if this life has all of it for certain (R3, R34). What else is there of a sealed one is not read
/// before it is verified.
pub(super) fn is_held(image: &Image, segment: &SegmentRecord, me: Member) -> bool {
    if segment.state.is_open() {
        return segment.replicas.contains(&me.broker);
    }
    let mut complete = segment.complete.iter();
    complete.any(|copy| copy.member() == me) && image.is_current(me)
}

/// The role of the log while the open segment is as `segment`; `fenced` for a machine that has
/// stopped.
pub(super) fn role_in(segment: &SegmentRecord, me: Member, fenced: bool) -> Role {
    let holds = segment.replicas.contains(&me.broker);
    if segment.state != SegmentState::Active || !holds || fenced {
        return Role::Fenced;
    }
    if segment.leader_member() == me {
        return Role::Leader(commit_of(segment));
    }
    // Led by another life of this broker: it is about to be sealed (R5).
    if segment.leader == me.broker {
        return Role::Fenced;
    }
    Role::Follower
}

/// Who decides what is committed: the log itself where no other replica can be in sync.
pub(super) fn commit_of(segment: &SegmentRecord) -> Commit {
    match segment.replicas.len() {
        0 | 1 => Commit::Own,
        _ => Commit::External,
    }
}

/// What a log is opened with.
pub(super) fn partition_spec(
    image: &Image,
    (id, record): (PartitionId, &PartitionRecord),
    me: Member,
    (settings, recruited): (mainstem_log::PartitionSettings, bool),
) -> PartitionSpec {
    let segments = record.segments.iter().map(|segment| {
        let recruit = recruited && segment.state.is_open();
        segment_spec(segment, recruit || is_held(image, segment, me))
    });
    let open = record.active();
    PartitionSpec {
        id,
        log_start: record.log_start,
        segments: segments.collect(),
        settings,
        role: open.map_or(Role::Fenced, |open| role_in(open, me, false)),
    }
}
