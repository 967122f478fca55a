//! Commands on brokers: their lives (R1-R5), their sessions (R19-R21) and their loss (R38).

use std::sync::Arc;

use mainstem_record::{BrokerId, Incarnation, Member, TopicId};

use super::{HOST_BYTES_MAX, LISTENERS_MAX, PEER_BYTES_MAX, isr};
use crate::{
    command::{Applied, ApplyError, Command},
    image::{Broker, Image, SegmentFlush, SegmentRecord, SegmentState},
    rules::Rule,
};

/// How much of what a broker's last life held is there in its new one (R2).
#[derive(Clone, Copy, Debug)]
struct Proof {
    /// Everything that it ever acknowledged.
    intact: bool,
    /// Everything that it had synced.
    synced: bool,
}

/// [`Command::RegisterBroker`].
pub(super) fn register(image: &mut Image, command: &Command) -> Result<Applied, ApplyError> {
    let Command::RegisterBroker {
        broker: id,
        directory_id,
        expected,
        listeners,
        peer,
        roles,
        intact,
        directory_life,
        request,
    } = command
    else {
        // The caller matched it; taken whole since it has so many fields.
        return Err(ApplyError::InvalidCount);
    };
    let before = image.brokers.get(id);
    let current = before.map(|broker| broker.incarnation);
    if let Some(before) = before
        && is_repeated(before, command)
    {
        return Ok(Applied::Registered {
            incarnation: before.incarnation,
        });
    }
    if current != *expected && Rule::R1.holds() {
        return Err(ApplyError::StaleIncarnation { current });
    }
    let is_legal = |text: &str| !text.is_empty() && text.len() <= HOST_BYTES_MAX;
    let is_peer = |text: &String| !text.is_empty() && text.len() <= PEER_BYTES_MAX;
    if id.0 < 0
        || listeners.len() > LISTENERS_MAX
        || !listeners
            .iter()
            .all(|(name, at)| is_legal(name) && is_legal(&at.host))
        || !peer.iter().all(is_peer)
    {
        return Err(ApplyError::InvalidEntries);
    }
    // Two nodes on copies of one directory would both claim what is in it.
    let owner = image
        .brokers
        .values()
        .find(|broker| broker.directory_id == *directory_id);
    if let Some(owner) = owner.filter(|owner| owner.id != *id) {
        return Err(ApplyError::DirectoryTaken { owner: owner.id });
    }
    let proof = before.map_or(Proof::NONE, |before| {
        Proof::of(
            before,
            before.directory_id == *directory_id,
            *intact,
            *directory_life,
        )
    });
    let incarnation = Incarnation(current.map_or(1, |current| current.0.saturating_add(1)));
    let broker = Broker {
        id: *id,
        incarnation,
        directory_id: *directory_id,
        listeners: listeners.clone(),
        peer: peer.clone(),
        roles: *roles,
        fenced: false,
        draining: false,
        lost: false,
        request: *request,
    };
    image.brokers.insert(*id, broker);
    let now = Member::new(*id, incarnation);
    for_each_segment(image, |segment| {
        names(segment, *id).then(|| restarted(segment, now, proof))?
    });
    Ok(Applied::Registered { incarnation })
}

/// Whether the command is the one that made the broker's present life.
fn is_repeated(before: &Broker, command: &Command) -> bool {
    let Command::RegisterBroker {
        directory_id,
        request,
        ..
    } = command
    else {
        return false;
    };
    !request.is_nil()
        && before.request == *request
        && before.directory_id == *directory_id
        && !before.lost
        && Rule::R1.holds()
}

impl Proof {
    /// Nothing is known to be there.
    const NONE: Self = Self {
        intact: false,
        synced: false,
    };

    /// What the registration after `before` proves.
    fn of(
        before: &Broker,
        same_directory: bool,
        intact: Option<Incarnation>,
        directory_life: Option<Incarnation>,
    ) -> Self {
        if !same_directory || before.lost {
            return Self::NONE;
        }
        // Builds before format 3 left no proofs, and went on as if all was there.
        let proves = |life: Option<Incarnation>| {
            before.request.is_nil() || life == Some(before.incarnation) || !Rule::R2.holds()
        };
        let intact = proves(intact);
        Self {
            intact,
            synced: intact || proves(directory_life),
        }
    }

    /// Whether all that the broker acknowledged in segments of that policy is there.
    fn covers(self, flush: SegmentFlush) -> bool {
        self.intact || (self.synced && flush == SegmentFlush::Always)
    }
}

/// Whether a segment says anything of what the broker leads or holds.
fn names(segment: &SegmentRecord, broker: BrokerId) -> bool {
    let mut members = segment.isr.iter().chain(&segment.elr).chain(&segment.lost);
    (segment.state.is_open() && segment.leader == broker)
        || members.any(|member| member.broker == broker)
        || segment.complete.iter().any(|copy| copy.broker == broker)
}

/// What a restart does to a segment; `None` if nothing.
fn restarted(segment: &SegmentRecord, now: Member, proof: Proof) -> Option<SegmentRecord> {
    if segment.state.is_open() {
        return restarted_open(segment, now, proof);
    }
    let index = segment
        .complete
        .iter()
        .position(|copy| copy.broker == now.broker)?;
    let mut after = segment.clone();
    let copy = after.complete.get_mut(index)?;
    let is_kept = (proof.covers(segment.flush) && Rule::R3.holds())
        || (proof.synced && copy.durable)
        || !Rule::R4Complete.holds();
    if is_kept {
        copy.incarnation = now.incarnation;
    } else {
        after.complete.remove(index);
    }
    Some(after)
}

fn restarted_open(segment: &SegmentRecord, now: Member, proof: Proof) -> Option<SegmentRecord> {
    let mut after = segment.clone();
    let covered = proof.covers(segment.flush);
    let keeps = |rule: Rule| (covered && Rule::R3.holds()) || (!covered && !rule.holds());
    let was_isr = moved(&mut after.isr, now, keeps(Rule::R4Isr));
    let was_elr = moved(&mut after.elr, now, keeps(Rule::R4Elr));
    let has_left =
        (was_isr.is_some() && !keeps(Rule::R4Isr)) || (was_elr.is_some() && !keeps(Rule::R4Elr));
    // The life whose data is gone; its broker is asked, in whichever life it is then.
    if let Some(gone) = was_isr.or(was_elr).filter(|_| has_left)
        && after.isr.len() < after.min_insync_count()
        && !after.lost.iter().any(|lost| lost.broker == gone.broker)
    {
        after.lost.push(gone);
    }
    if segment.leader == now.broker && segment.state == SegmentState::Active {
        if Rule::R5.holds() {
            after.state = SegmentState::Sealing;
        } else {
            after.leader_incarnation = now.incarnation;
        }
    }
    if after == *segment {
        return None;
    }
    isr::bump(&mut after);
    Some(after)
}

/// Gives the broker's entry its present life, or takes it out. Returns the entry as it was.
fn moved(members: &mut Vec<Member>, now: Member, keep: bool) -> Option<Member> {
    let index = members
        .iter()
        .position(|member| member.broker == now.broker)?;
    let was = members[index];
    if keep {
        members[index] = now;
    } else {
        members.remove(index);
    }
    Some(was)
}

/// [`Command::FenceBroker`].
pub(super) fn fence(image: &mut Image, member: Member) -> Result<Applied, ApplyError> {
    check_life(image, member)?;
    set_broker(image, member.broker, |broker| broker.fenced = true);
    for_each_segment(image, |segment| {
        if segment.state != SegmentState::Active {
            return None;
        }
        if segment.leader == member.broker {
            return Some(isr::sealing(segment));
        }
        let left = isr::without(&segment.isr, member.broker)?;
        let mut after = segment.clone();
        isr::set(&mut after, left);
        Some(after)
    });
    Ok(Applied::BrokerChanged)
}

/// [`Command::UnfenceBroker`].
pub(super) fn unfence(image: &mut Image, member: Member) -> Result<Applied, ApplyError> {
    check_life(image, member)?;
    set_broker(image, member.broker, |broker| broker.fenced = false);
    Ok(Applied::BrokerChanged)
}

/// [`Command::DrainBroker`].
pub(super) fn drain(image: &mut Image, member: Member) -> Result<Applied, ApplyError> {
    check_life(image, member)?;
    set_broker(image, member.broker, |broker| broker.draining = true);
    Ok(Applied::BrokerChanged)
}

/// [`Command::DeclareLost`] and, with `forget`, [`Command::UnregisterBroker`].
pub(super) fn declare_lost(
    image: &mut Image,
    member: Member,
    forget: bool,
) -> Result<Applied, ApplyError> {
    let broker = check_life(image, member)?;
    if !broker.fenced && Rule::R38.holds() {
        return Err(ApplyError::Alive { broker: broker.id });
    }
    let incarnation = Incarnation(member.incarnation.0.saturating_add(1));
    set_broker(image, member.broker, |broker| {
        broker.incarnation = incarnation;
        broker.lost = true;
        broker.fenced = true;
        if forget {
            broker.listeners.clear();
            broker.peer = None;
        }
    });
    for_each_segment(image, |segment| {
        names(segment, member.broker).then(|| given_up(segment, member.broker))?
    });
    Ok(Applied::DeclaredLost { incarnation })
}

/// The segment without anything of a broker that was declared lost; `None` if nothing changes.
fn given_up(segment: &SegmentRecord, broker: BrokerId) -> Option<SegmentRecord> {
    let mut after = segment.clone();
    if !segment.state.is_open() {
        after.complete.retain(|copy| copy.broker != broker);
        return (after != *segment).then_some(after);
    }
    for members in [&mut after.isr, &mut after.elr, &mut after.lost] {
        members.retain(|member| member.broker != broker);
    }
    if segment.leader == broker && segment.state == SegmentState::Active {
        after.state = SegmentState::Sealing;
    }
    if after == *segment {
        return None;
    }
    isr::bump(&mut after);
    Some(after)
}

/// The broker, if that is its present life.
pub(super) fn check_life(image: &Image, member: Member) -> Result<&Broker, ApplyError> {
    let broker = image
        .brokers
        .get(&member.broker)
        .ok_or(ApplyError::UnknownBroker {
            broker: member.broker,
        })?;
    if broker.incarnation != member.incarnation {
        return Err(ApplyError::StaleIncarnation {
            current: Some(broker.incarnation),
        });
    }
    if broker.lost {
        return Err(ApplyError::DeclaredLost { broker: broker.id });
    }
    Ok(broker)
}

fn set_broker(image: &mut Image, id: BrokerId, change: impl FnOnce(&mut Broker)) {
    if let Some(broker) = image.brokers.get_mut(&id) {
        change(broker);
    }
}

/// Asks for each segment of the image what becomes of it, and copies only what changes.
fn for_each_segment(image: &mut Image, change: impl Fn(&SegmentRecord) -> Option<SegmentRecord>) {
    let ids: Vec<TopicId> = image.topics.values().copied().collect();
    for id in ids {
        let Some(topic) = image.topics_by_id.get(&id) else {
            continue;
        };
        let mut changed = Vec::new();
        for (index, partition) in topic.partitions.iter().enumerate() {
            for (place, segment) in partition.segments.iter().enumerate() {
                changed.extend(change(segment).map(|after| (index, place, after)));
            }
        }
        if changed.is_empty() {
            continue;
        }
        let Some(topic) = image.topics_by_id.get_mut(&id).map(Arc::make_mut) else {
            continue;
        };
        for (index, place, after) in changed {
            let partition = topic.partitions.get_mut(index).map(Arc::make_mut);
            if let Some(segment) = partition.and_then(|found| found.segments.get_mut(place)) {
                *segment = after;
            }
        }
    }
}
