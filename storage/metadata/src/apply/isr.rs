//! Commands on the in-sync and eligible sets of active segments (R7, R13, R15, R18-R21).

use std::collections::BTreeSet;

use mainstem_record::{BrokerId, Member, PartitionId, SegmentId};

use super::{brokers::check_life, find_partition, partition_mut};
use crate::{
    command::{AlterIsr, ApplyError, BeginSeal, EvictReplica},
    image::{Image, PartitionRecord, SegmentRecord, SegmentState},
    rules::Rule,
};

/// One change of [`Command::AlterIsr`](crate::Command::AlterIsr).
pub(super) fn alter(image: &mut Image, change: &AlterIsr) -> Result<u32, ApplyError> {
    let partition = find_partition(image, change.partition)?;
    let segment = open_segment(partition, change.segment)?;
    check_version(segment, change.version, Rule::R15Version)?;
    check_state(segment, SegmentState::Active)?;
    check_distinct(&change.isr)?;
    let mut isr = Vec::with_capacity(change.isr.len());
    for member in &change.isr {
        if !segment.replicas.contains(&member.broker) {
            return Err(ApplyError::NotReplica {
                broker: member.broker,
            });
        }
        isr.push(present_life(image, *member, Rule::R15Incarnation)?);
    }
    let leader = segment.leader_member();
    if !isr.contains(&leader) {
        return Err(ApplyError::LeaderNotInSync { leader });
    }
    let segment = open_mut(image, change.partition)?;
    set(segment, isr);
    Ok(segment.version)
}

/// One eviction of [`Command::EvictReplicas`](crate::Command::EvictReplicas).
pub(super) fn evict(image: &mut Image, eviction: &EvictReplica) -> Result<u32, ApplyError> {
    let partition = find_partition(image, eviction.partition)?;
    let segment = open_segment(partition, eviction.segment)?;
    check_version(segment, eviction.version, Rule::R15Version)?;
    check_state(segment, SegmentState::Active)?;
    let member = eviction.member;
    if !segment.isr.contains(&member) {
        return Err(ApplyError::NotInSync { member });
    }
    let leader = segment.leader_member();
    if leader == member && Rule::R20.holds() {
        return Err(ApplyError::LeaderNotInSync { leader });
    }
    let left = without(&segment.isr, member.broker).unwrap_or_default();
    let segment = open_mut(image, eviction.partition)?;
    set(segment, left);
    Ok(segment.version)
}

/// One seal of [`Command::BeginSeal`](crate::Command::BeginSeal).
pub(super) fn begin_seal(image: &mut Image, seal: &BeginSeal) -> Result<u32, ApplyError> {
    let partition = find_partition(image, seal.partition)?;
    let segment = open_segment(partition, seal.segment)?;
    check_version(segment, seal.version, Rule::R21)?;
    check_state(segment, SegmentState::Active)?;
    let segment = open_mut(image, seal.partition)?;
    *segment = sealing(segment);
    Ok(segment.version)
}

/// The same segment, `Sealing`.
pub(super) fn sealing(segment: &SegmentRecord) -> SegmentRecord {
    let mut after = segment.clone();
    after.state = SegmentState::Sealing;
    bump(&mut after);
    after
}

/// R7.
pub(super) fn bump(segment: &mut SegmentRecord) {
    if Rule::R7.holds() {
        segment.version = segment.version.saturating_add(1);
    }
}

/// Gives an active segment another in-sync set, and the eligible set that follows (R19).
pub(super) fn set(segment: &mut SegmentRecord, isr: Vec<Member>) {
    if isr.len() < segment.min_insync_count() {
        if Rule::R19Join.holds() {
            let leavers = segment.isr.iter().filter(|member| !isr.contains(member));
            segment.elr.extend(leavers);
        }
    } else {
        if Rule::R19Empty.holds() {
            segment.elr.clear();
        }
        segment.lost.clear();
    }
    let has_stayed = |member: &Member| isr.iter().any(|stayed| stayed.broker == member.broker);
    segment.elr.retain(|member| !has_stayed(member));
    segment.isr = isr;
    bump(segment);
}

/// `members` without that broker; `None` if it is not among them.
pub(super) fn without(members: &[Member], broker: BrokerId) -> Option<Vec<Member>> {
    let left: Vec<Member> = members
        .iter()
        .copied()
        .filter(|member| member.broker != broker)
        .collect();
    (left.len() < members.len()).then_some(left)
}

/// Gives an open segment another `min_insync` (R13).
pub(super) fn set_min_insync(segment: &mut SegmentRecord, min_insync: i16) {
    let is_lower = min_insync < segment.min_insync;
    segment.min_insync = min_insync;
    if segment.state == SegmentState::Active && is_lower {
        if Rule::R13Lower.holds() {
            segment.elr.clear();
        }
        if segment.isr.len() >= segment.min_insync_count() {
            segment.lost.clear();
        }
    }
    bump(segment);
}

/// The open end of the chain, if it is that segment.
pub(super) fn open_segment(
    partition: &PartitionRecord,
    id: SegmentId,
) -> Result<&SegmentRecord, ApplyError> {
    let open = partition.active();
    let current = open.map(|open| open.id);
    open.filter(|open| open.id == id)
        .ok_or(ApplyError::StaleSegment { current })
}

fn open_mut(image: &mut Image, id: PartitionId) -> Result<&mut SegmentRecord, ApplyError> {
    let last = partition_mut(image, id)?.segments.back_mut();
    last.ok_or(ApplyError::UnknownPartition)
}

/// Whether the segment is still as the proposer saw it.
pub(super) fn check_version(
    segment: &SegmentRecord,
    version: u32,
    rule: Rule,
) -> Result<(), ApplyError> {
    if segment.version != version && rule.holds() {
        return Err(ApplyError::StaleVersion {
            current: segment.version,
        });
    }
    Ok(())
}

pub(super) fn check_state(segment: &SegmentRecord, state: SegmentState) -> Result<(), ApplyError> {
    if segment.state == state {
        return Ok(());
    }
    Err(ApplyError::WrongState {
        state: segment.state,
    })
}

/// No broker may be named twice.
pub(super) fn check_distinct(members: &[Member]) -> Result<(), ApplyError> {
    let brokers: BTreeSet<BrokerId> = members.iter().map(|member| member.broker).collect();
    if brokers.len() < members.len() {
        return Err(ApplyError::InvalidMembers);
    }
    Ok(())
}

/// The member, if that is its broker's present life; without the rule that asks for it, that life.
pub(super) fn present_life(
    image: &Image,
    member: Member,
    rule: Rule,
) -> Result<Member, ApplyError> {
    match check_life(image, member) {
        Ok(_) => Ok(member),
        Err(refused) if rule.holds() => Err(refused),
        Err(refused) => image.member(member.broker).ok_or(refused),
    }
}
