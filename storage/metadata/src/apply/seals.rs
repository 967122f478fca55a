//! Commands that end a segment and open the next (R26-R29, R36, R37).

use std::collections::BTreeSet;

use imbl::Vector;
use mainstem_record::{BrokerId, LeaderEpoch, Member, Offset, PartitionId, TimestampMs};

use super::{
    ANSWERS_MAX, REPLICAS_MAX,
    brokers::check_life,
    find_partition,
    isr::{bump, check_distinct, check_state, check_version, open_segment, present_life},
    partition_mut,
    topics::min_insync_of,
};
use crate::{
    command::{
        Answer, ApplyError, CommitSeal, NextSegment, Opened, SealAndOpen, SealAndOpenSingle,
    },
    image::{Complete, Image, PartitionRecord, SegmentFlush, SegmentRecord, SegmentState},
    rules::Rule,
};

/// How far above its base the segment after an unclean recovery begins: a segment never holds more
/// records, so none of its offsets is used again (R37).
pub const UNCLEAN_GAP: i64 = 1 << 32;

/// How an open segment ends, once all is checked.
struct Ending {
    end: Offset,
    bytes: u64,
    max_timestamp: TimestampMs,
    digest: Option<[u8; 16]>,
    complete: Vec<Complete>,
    lossy: bool,
}

/// One seal of [`Command::SealAndOpen`](crate::Command::SealAndOpen).
pub(super) fn seal_and_open(image: &mut Image, seal: &SealAndOpen) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, seal.partition)?;
    let segment = open_segment(partition, seal.segment)?;
    check_version(segment, seal.version, Rule::R29)?;
    if Rule::R29.holds() {
        check_state(segment, SegmentState::Active)?;
    }
    let (have, need) = (segment.isr.len(), segment.min_insync_count());
    if have < need && Rule::R28Min.holds() {
        return Err(ApplyError::TooFewMembers { have, need });
    }
    let mut complete = Vec::with_capacity(have);
    for member in &segment.isr {
        complete.push(present_life(image, *member, Rule::R29)?);
    }
    let ending = Ending {
        end: seal.end,
        bytes: seal.bytes,
        max_timestamp: seal.max_timestamp,
        digest: seal.digest,
        complete: completed(&complete, &seal.durable),
        lossy: false,
    };
    let next = next_segment(image, seal.partition, segment, &seal.next)?;
    end(image, seal.partition, ending, next)
}

/// One commit of [`Command::CommitSeal`](crate::Command::CommitSeal).
pub(super) fn commit(image: &mut Image, commit: &CommitSeal) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, commit.partition)?;
    let segment = check_sealing(partition, commit)?;
    let complete = check_complete(image, segment, commit)?;
    let mut eligible = segment.isr.iter().chain(&segment.elr);
    let is_certified = eligible.any(|member| {
        image.is_current(*member)
            && find_answer(commit, *member).is_some_and(|answer| answer.certificate <= commit.end)
    });
    if !is_certified && Rule::R26c.holds() {
        return Err(ApplyError::NotCertified);
    }
    let next = next_segment(image, commit.partition, segment, &commit.next)?;
    end(
        image,
        commit.partition,
        ending(commit, &complete, false),
        next,
    )
}

/// One recovery of [`Command::UncleanRecover`](crate::Command::UncleanRecover).
pub(super) fn recover(image: &mut Image, recovery: &CommitSeal) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, recovery.partition)?;
    let segment = check_sealing(partition, recovery)?;
    if Rule::R36.holds() {
        check_nobody_decides(image, segment, recovery)?;
    }
    let complete = check_complete(image, segment, recovery)?;
    let largest = recovery.answers.iter().map(|answer| answer.leo).max();
    if largest.is_some_and(|largest| largest != recovery.end) {
        return Err(ApplyError::InvalidRange);
    }
    let mut next = next_segment(image, recovery.partition, segment, &recovery.next)?;
    if Rule::R37.holds() {
        next.base = segment.base.plus(UNCLEAN_GAP);
    }
    end(
        image,
        recovery.partition,
        ending(recovery, &complete, true),
        next,
    )
}

/// One seal of [`Command::SealAndOpenSingle`](crate::Command::SealAndOpenSingle).
pub(super) fn single(image: &mut Image, seal: &SealAndOpenSingle) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, seal.partition)?;
    let segment = open_segment(partition, seal.segment)?;
    check_version(segment, seal.version, Rule::R29)?;
    if !segment.replicas.contains(&seal.leader) {
        return Err(ApplyError::NotReplica {
            broker: seal.leader,
        });
    }
    let leader = Member::new(seal.leader, seal.leader_incarnation);
    let next = NextSegment {
        id: seal.next,
        replicas: vec![seal.leader],
        isr: vec![leader],
        leader,
        flush: SegmentFlush::Os,
    };
    let ending = Ending {
        end: seal.end,
        bytes: seal.bytes,
        max_timestamp: seal.max_timestamp,
        digest: seal.digest,
        complete: completed(&[leader], &[leader]),
        lossy: false,
    };
    let next = next_segment(image, seal.partition, segment, &next)?;
    end(image, seal.partition, ending, next)
}

/// R26 (a), and that the answers are no more than there can be.
fn check_sealing<'a>(
    partition: &'a PartitionRecord,
    commit: &CommitSeal,
) -> Result<&'a SegmentRecord, ApplyError> {
    let segment = match partition.active() {
        // Whichever is open: what the command names may be sealed.
        Some(open) if !Rule::R26a.holds() => open,
        _ => open_segment(partition, commit.segment)?,
    };
    check_version(segment, commit.version, Rule::R26a)?;
    if Rule::R26a.holds() {
        check_state(segment, SegmentState::Sealing)?;
    }
    let answered: Vec<Member> = commit.answers.iter().map(|answer| answer.member).collect();
    if answered.len() > ANSWERS_MAX || commit.complete.len() > ANSWERS_MAX {
        return Err(ApplyError::InvalidMembers);
    }
    check_distinct(&answered)?;
    check_distinct(&commit.complete)?;
    Ok(segment)
}

/// R26 (b) and (d): who holds all of the segment.
fn check_complete(
    image: &Image,
    segment: &SegmentRecord,
    commit: &CommitSeal,
) -> Result<Vec<Member>, ApplyError> {
    let mut complete = Vec::with_capacity(commit.complete.len());
    for member in &commit.complete {
        let has_answered =
            find_answer(commit, *member).is_some_and(|answer| answer.leo >= commit.end);
        if !has_answered && Rule::R26b.holds() {
            return Err(ApplyError::NotAnswered { member: *member });
        }
        complete.push(present_life(image, *member, Rule::R26b)?);
    }
    let (have, need) = (complete.len(), segment.min_insync_count());
    if have < need && Rule::R26d.holds() {
        return Err(ApplyError::TooFewMembers { have, need });
    }
    Ok(complete)
}

/// R36: whoever could say where the segment ends came back without its data or was declared lost.
fn check_nobody_decides(
    image: &Image,
    segment: &SegmentRecord,
    recovery: &CommitSeal,
) -> Result<(), ApplyError> {
    let eligible = image
        .current(&segment.isr)
        .chain(image.current(&segment.elr));
    if let Some(member) = eligible.into_iter().next() {
        return Err(ApplyError::StillEligible { member });
    }
    for lost in &segment.lost {
        let now = image.member(lost.broker);
        if now.and_then(|now| find_answer(recovery, now)).is_none() {
            return Err(ApplyError::LostNotAnswered {
                broker: lost.broker,
            });
        }
    }
    // A number that nobody stands for in its present life is no answer.
    for answer in &recovery.answers {
        check_life(image, answer.member)?;
    }
    Ok(())
}

fn find_answer(commit: &CommitSeal, member: Member) -> Option<&Answer> {
    let of_any_life = !Rule::R26b.holds();
    let mut answers = commit.answers.iter();
    answers.find(|answer| {
        answer.member == member || (of_any_life && answer.member.broker == member.broker)
    })
}

fn completed(members: &[Member], durable: &[Member]) -> Vec<Complete> {
    let complete = members.iter().map(|member| Complete {
        broker: member.broker,
        incarnation: member.incarnation,
        durable: durable.contains(member),
    });
    complete.collect()
}

fn ending(commit: &CommitSeal, complete: &[Member], lossy: bool) -> Ending {
    Ending {
        end: commit.end,
        bytes: commit.bytes,
        max_timestamp: commit.max_timestamp,
        digest: commit.digest,
        complete: completed(complete, &commit.durable),
        lossy,
    }
}

/// R26 (e): the segment that follows `open`; it begins at the end, which is not known here.
fn next_segment(
    image: &Image,
    id: PartitionId,
    open: &SegmentRecord,
    next: &NextSegment,
) -> Result<SegmentRecord, ApplyError> {
    let partition = find_partition(image, id)?;
    if open.epoch == LeaderEpoch(i32::MAX) {
        return Err(ApplyError::InvalidRange);
    }
    if partition.segments.iter().any(|known| known.id == next.id) {
        return Err(ApplyError::SegmentIdTaken { id: next.id });
    }
    check_replicas(image, &next.replicas)?;
    check_distinct(&next.isr)?;
    for member in &next.isr {
        if !next.replicas.contains(&member.broker) {
            return Err(ApplyError::NotReplica {
                broker: member.broker,
            });
        }
        match check_life(image, *member) {
            Err(ApplyError::DeclaredLost { .. }) if !Rule::R26eLost.holds() => {}
            checked => checked.map(|_| ())?,
        }
    }
    let leader = next.leader;
    if !next.isr.contains(&leader) {
        return Err(ApplyError::LeaderNotInSync { leader });
    }
    let broker = image.brokers.get(&leader.broker);
    if broker.is_some_and(|broker| broker.fenced && !broker.lost) {
        return Err(ApplyError::Fenced {
            broker: leader.broker,
        });
    }
    let topic = image
        .topic_by_id(id.topic)
        .ok_or(ApplyError::UnknownTopic)?;
    let record = SegmentRecord {
        min_insync: min_insync_of(topic, &image.broker_configs),
        ..opened(next, open.epoch.next())
    };
    let (have, need) = (next.isr.len(), record.min_insync_count());
    if have < need && Rule::R26eMin.holds() {
        return Err(ApplyError::TooFewMembers { have, need });
    }
    Ok(record)
}

/// An empty active segment at offset 0.
pub(super) fn opened(next: &NextSegment, epoch: LeaderEpoch) -> SegmentRecord {
    SegmentRecord {
        id: next.id,
        base: Offset::ZERO,
        end: None,
        epoch,
        version: 0,
        state: SegmentState::Active,
        leader: next.leader.broker,
        leader_incarnation: next.leader.incarnation,
        replicas: next.replicas.clone(),
        isr: next.isr.clone(),
        elr: vec![],
        lost: vec![],
        flush: next.flush,
        complete: vec![],
        lossy: false,
        min_insync: 1,
        bytes: 0,
        max_timestamp: TimestampMs::NONE,
        digest: None,
        compaction: None,
    }
}

/// Replicas are distinct brokers that have registered and are not declared lost.
pub(super) fn check_replicas(image: &Image, replicas: &[BrokerId]) -> Result<(), ApplyError> {
    let distinct: BTreeSet<BrokerId> = replicas.iter().copied().collect();
    if replicas.is_empty() || replicas.len() > REPLICAS_MAX || distinct.len() < replicas.len() {
        let asked = i16::try_from(replicas.len()).unwrap_or(i16::MAX);
        return Err(ApplyError::InvalidReplicationFactor { asked });
    }
    for broker in replicas {
        let known = image.brokers.get(broker);
        let known = known.ok_or(ApplyError::UnknownBroker { broker: *broker })?;
        if known.lost && Rule::R26eLost.holds() {
            return Err(ApplyError::DeclaredLost { broker: *broker });
        }
    }
    Ok(())
}

/// Ends the open segment, and opens `next`: at its end, or where an unclean recovery has put it.
fn end(
    image: &mut Image,
    id: PartitionId,
    ending: Ending,
    mut next: SegmentRecord,
) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, id)?;
    let open = partition.active();
    let open = open.ok_or(ApplyError::StaleSegment { current: None })?;
    let has_room = open.base <= Offset(i64::MAX - UNCLEAN_GAP);
    if ending.end < open.base || !has_room || ending.end > open.base.plus(UNCLEAN_GAP) {
        return Err(ApplyError::InvalidRange);
    }
    next.base = next.base.max(ending.end).max(partition.log_start);

    let partition = partition_mut(image, id)?;
    if ending.end < partition.log_start {
        // What was lost had been deleted, and so had all before it.
        partition.segments = Vector::new();
    } else if let Some(last) = partition.segments.back_mut() {
        if last.base == ending.end {
            partition.segments.pop_back();
            // What was lost lay after the segment before.
            if let Some(before) = partition.segments.back_mut() {
                before.lossy |= ending.lossy;
            }
        } else {
            seal(last, ending);
        }
    }
    if partition.segments.is_empty() {
        partition.log_start = next.base;
    }
    let opened = Opened {
        partition: id,
        segment: next.id,
        base: next.base,
        epoch: next.epoch,
        version: next.version,
    };
    partition.segments.push_back(next);
    Ok(opened)
}

fn seal(segment: &mut SegmentRecord, ending: Ending) {
    segment.state = SegmentState::Sealed;
    segment.end = Some(ending.end);
    segment.bytes = ending.bytes;
    segment.max_timestamp = ending.max_timestamp;
    segment.digest = ending.digest;
    segment.lossy = ending.lossy;
    let recruited = ending.complete.iter().map(|copy| copy.broker);
    let recruited: Vec<BrokerId> = recruited
        .filter(|broker| !segment.replicas.contains(broker))
        .collect();
    segment.replicas.extend(recruited);
    segment.complete = ending.complete;
    segment.isr.clear();
    segment.elr.clear();
    if !ending.lossy {
        segment.lost.clear();
    }
    bump(segment);
}
