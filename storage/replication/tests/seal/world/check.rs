//! The invariants, and the memory that they are checked against: what was ever written, exposed,
//! lost, by whom.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_metadata::{Image, SegmentRecord, SegmentState};
use mainstem_record::{BrokerId, Member, Offset, SegmentId};

use super::{
    World,
    log::{Rec, digest},
};

/// R37: how far above the base the segment after a lossy one begins.
const LOSSY_GAP: i64 = 1 << 32;

/// A broker that lost what it had of a segment, and how far it had reached.
#[derive(Clone, Copy, Debug)]
struct Loss {
    broker: BrokerId,
    life: u64,
    had: Offset,
}

/// What was ever exposed of a segment.
#[derive(Clone, Debug, Default)]
struct Segment {
    written: Vec<Rec>,
    base: Option<Offset>,
    exposed_end: Option<Offset>,
    /// Which process appends, of which broker.
    appender: Option<(BrokerId, u64)>,
    losses: Vec<Loss>,
    /// The smallest value that it ever had.
    min_insync: Option<usize>,
    /// Where it was sealed.
    end: Option<(Offset, bool)>,
}

/// What no broker knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ghost {
    segments: BTreeMap<SegmentId, Segment>,
    /// What somebody has read, and what min_insync was when it was exposed.
    exposed: BTreeMap<Offset, (Rec, usize)>,
    /// All that was ever read, also what was lost since.
    read: BTreeMap<Offset, Rec>,
    /// Which process registered as whom.
    lives: BTreeMap<Member, u64>,
    /// Lives that were declared lost: what they do from then on is given up with them.
    given_up: BTreeSet<Member>,
    /// Brokers whose next life is known to have lost data, with the life that had it.
    known_losses: BTreeMap<BrokerId, u64>,
    /// Records that were exposed, for figures.
    pub(crate) exposures: u64,
    pub(crate) seals: u64,
    pub(crate) lossy: u64,
    pub(crate) violation: Option<String>,
}

impl Ghost {
    fn fail(&mut self, invariant: u8, what: &str) {
        self.violation
            .get_or_insert_with(|| format!("I-SEAL-{invariant}: {what}"));
    }

    fn require(&mut self, invariant: u8, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(invariant, &what());
        }
    }

    fn of(&mut self, segment: SegmentId, base: Offset) -> &mut Segment {
        let known = self.segments.entry(segment).or_default();
        known.base.get_or_insert(base);
        known
    }

    pub(crate) fn written(&self, segment: SegmentId) -> &[Rec] {
        self.segments
            .get(&segment)
            .map_or(&[], |known| &known.written)
    }

    pub(crate) fn digest(&self, segment: SegmentId, base: Offset, end: Offset) -> [u8; 16] {
        let count = usize::try_from(end.0 - base.0).unwrap_or(0);
        let written = self.written(segment);
        digest(&written[..count.min(written.len())])
    }

    pub(crate) fn exposed_end(&self, segment: SegmentId) -> Option<Offset> {
        self.segments.get(&segment)?.exposed_end
    }

    /// I-SEAL-7, I-SEAL-2: a leader appends.
    pub(crate) fn append(
        &mut self,
        (segment, base): (SegmentId, Offset),
        at: Offset,
        (broker, life): (BrokerId, u64),
        record: Rec,
    ) {
        let known = self.of(segment, base);
        let first = *known.appender.get_or_insert((broker, life));
        let written = known.written.len();
        let fits = base.plus(i64::try_from(written).expect("few")) == at;
        known.written.push(record);
        self.require(2, fits, || format!("two records at offset {at}"));
        self.require(7, first == (broker, life), || {
            format!("segment {segment} is appended to by {first:?} and by {broker}, life {life}")
        });
    }

    /// A leader exposes what lies below `hw`.
    pub(crate) fn expose(
        &mut self,
        (segment, base): (SegmentId, Offset),
        leader: Member,
        hw: Offset,
        (min_insync, records): (usize, &dyn Fn(Offset) -> Option<Rec>),
    ) {
        if self.given_up.contains(&leader) {
            return;
        }
        let known = self.of(segment, base);
        let from = known.exposed_end.unwrap_or(base);
        let end = known.end;
        known.exposed_end = Some(from.max(hw));
        if let Some((end, _)) = end {
            self.require(1, hw <= end, || {
                format!("{leader} exposes up to {hw} of a segment that ends at {end}")
            });
        }
        for at in from.0..hw.0 {
            match records(Offset(at)) {
                Some(record) => self.read_at(Offset(at), record, min_insync),
                None => self.fail(6, "the high watermark is above the log end"),
            }
        }
    }

    fn read_at(&mut self, at: Offset, record: Rec, min_insync: usize) {
        let before = *self.read.entry(at).or_insert(record);
        self.require(2, before == record, || {
            format!("offset {at} was read as {before:?} and as {record:?}")
        });
        self.exposed.entry(at).or_insert((record, min_insync));
        self.exposures += 1;
    }

    /// A leader begins: readers have seen nothing above its high watermark (I-SEAL-6).
    pub(crate) fn leads(&mut self, segment: SegmentId, leader: Member, hw: Offset) {
        let exposed = self.exposed_end(segment);
        self.require(6, exposed.is_none_or(|exposed| exposed <= hw), || {
            format!("{leader} begins to lead at {hw}; readers have seen up to {exposed:?}")
        });
    }

    /// A process is registered; what it could not prove to have counts as lost.
    pub(crate) fn registered(&mut self, member: Member, life: u64, proven: bool) {
        self.lives.insert(member, life);
        let known = self.known_losses.get(&member.broker).copied();
        if !proven {
            // Also in segments that were opened while nobody knew that it was gone.
            let had = known.map_or(Offset(i64::MAX), |_| Offset::ZERO);
            self.loses((member.broker, known.unwrap_or(life)), |_| Some(had));
        }
        self.known_losses.remove(&member.broker);
    }

    /// What this life of a broker had of each segment is not to be counted on any more.
    pub(crate) fn loses(
        &mut self,
        (broker, life): (BrokerId, u64),
        had: impl Fn(SegmentId) -> Option<Offset>,
    ) {
        self.known_losses.insert(broker, life);
        for (id, known) in &mut self.segments {
            let counted = known.losses.iter();
            let mut counted = counted.filter(|loss| (loss.broker, loss.life) == (broker, life));
            if let (Some(had), None) = (had(*id), counted.next()) {
                known.losses.push(Loss { broker, life, had });
            }
        }
    }

    pub(crate) fn is_known(&self, member: Member) -> bool {
        self.lives.contains_key(&member)
    }

    pub(crate) fn gives_up(&mut self, member: Member) {
        self.given_up.insert(member);
    }

    /// What a command has changed in the chain; `recovers` if it was an unclean recovery.
    pub(crate) fn applied(
        &mut self,
        before: &[SegmentRecord],
        after: &[SegmentRecord],
        recovers: bool,
    ) {
        for old in before {
            let new = after.iter().find(|new| new.id == old.id);
            if let Some(new) = new {
                self.changed(old, new);
            } else {
                // It was empty, or nothing of it is left.
                self.sealed(old, old.base, recovers);
            }
        }
        for (index, new) in after.iter().enumerate() {
            if before.iter().any(|old| old.id == new.id) {
                continue;
            }
            self.of(new.id, new.base);
            let sealed = index.checked_sub(1).and_then(|index| after.get(index));
            if let Some(previous) = before.last() {
                self.opened(previous, sealed, new);
            }
        }
        for record in after.iter().filter(|record| record.state.is_open()) {
            let now = usize::try_from(record.min_insync).unwrap_or(1);
            let known = self.of(record.id, record.base);
            known.min_insync = Some(known.min_insync.map_or(now, |least| least.min(now)));
        }
    }

    /// I-SEAL-10.
    fn changed(&mut self, old: &SegmentRecord, new: &SegmentRecord) {
        self.require(10, new.version >= old.version, || {
            format!("version {} after {}", new.version, old.version)
        });
        let order = |state| match state {
            SegmentState::Active => 0,
            SegmentState::Sealing => 1,
            SegmentState::Sealed => 2,
            SegmentState::Deleting => 3,
        };
        let (was, is) = (order(old.state), order(new.state));
        self.require(
            10,
            was <= is && (was == is || new.version > old.version),
            || format!("{:?} after {:?}", new.state, old.state),
        );
        if was < 2 && is == 2 {
            self.sealed(
                old,
                new.end.expect("a sealed segment has an end"),
                new.lossy,
            );
        }
    }

    /// I-SEAL-1: a segment ends. What lies below its end is exposed from now on.
    fn sealed(&mut self, record: &SegmentRecord, end: Offset, lossy: bool) {
        self.seals += 1;
        self.lossy += u64::from(lossy);
        let known = self.of(record.id, record.base);
        known.end = Some((end, lossy));
        let exposed = known.exposed_end.unwrap_or(record.base);
        known.exposed_end = Some(end);
        let losses = known.losses.clone();
        let written = known.written.clone();
        for at in end.0..exposed.0 {
            let holders = losses.iter().filter(|loss| loss.had.0 > at).count();
            let needed = self.exposed.remove(&Offset(at)).map_or(0, |(_, min)| min);
            self.require(1, lossy && holders >= needed, || {
                format!(
                    "offset {at} was exposed, and {} is sealed at {end}",
                    record.id
                )
            });
        }
        for (at, record) in (record.base.0..end.0).zip(written) {
            self.read_at(Offset(at), record, 0);
        }
    }

    /// I-SEAL-4: `new` follows `previous`, which was open; `before` is what is in the chain before
    /// it now: `previous` itself, unless that was empty.
    fn opened(
        &mut self,
        previous: &SegmentRecord,
        before: Option<&SegmentRecord>,
        new: &SegmentRecord,
    ) {
        let kept = before.filter(|before| before.id == previous.id);
        let end = kept.and_then(|kept| kept.end).unwrap_or(previous.base);
        let lossy = before.map(|before| before.lossy);
        let after_loss = new.base == previous.base.plus(LOSSY_GAP);
        // Of an empty first segment no record is left to say that it was lossy.
        let fits = match (kept, lossy) {
            (Some(_), Some(true)) => after_loss,
            (Some(_), _) => new.base == end,
            (None, Some(false)) => new.base == end,
            (None, _) => new.base == end || after_loss,
        };
        self.require(4, fits, || {
            format!("{} begins at {}, after {end}", new.id, new.base)
        });
        self.require(4, new.epoch == previous.epoch.next(), || {
            format!("epoch {} after {}", new.epoch, previous.epoch)
        });
    }
}

impl World {
    /// I-SEAL-2, 3, 5, 6, 8 and 9, against the newest image and what brokers have.
    pub(crate) fn check(&mut self) {
        let head = self.head();
        let Some(chain) = head.partition(self.partition).cloned() else {
            return;
        };
        self.check_logs();
        for record in &chain.segments {
            if record.state.is_open() {
                self.check_open(&head, record);
            } else {
                self.check_sealed(&head, record);
            }
        }
    }

    /// I-SEAL-2: inside a segment every replica is a prefix of one log.
    fn check_logs(&mut self) {
        for broker in self.brokers.values() {
            for (id, log) in &broker.disk.logs {
                let written = self.ghost.written(*id);
                let agrees = written.starts_with(&log.records);
                let (id, name) = (*id, broker.id);
                self.ghost
                    .require(2, agrees, || format!("broker {name} has another {id}"));
            }
        }
        // I-SEAL-8, on followers: what they serve has been exposed, and is the same.
        for broker in self.brokers.values() {
            let replicas = broker.life.iter().flat_map(|life| &life.replicas);
            for (id, replica) in replicas {
                let end = replica.readable_end().min(replica.ends().log_end);
                let leader = replica.segment().leader;
                let exposed = self
                    .ghost
                    .exposed_end(*id)
                    .unwrap_or(replica.segment().base);
                let name = broker.id;
                if !self.ghost.given_up.contains(&leader) {
                    self.ghost.require(8, end <= exposed, || {
                        format!("broker {name} serves up to {end}, exposed up to {exposed}")
                    });
                }
            }
        }
    }

    /// Whether the process that registered as `member` is the one that runs; a name that nobody
    /// registered is nobody.
    fn lives(&self, member: Member) -> bool {
        let life = self
            .brokers
            .get(&member.broker)
            .and_then(|it| it.life.as_ref());
        let number = self.ghost.lives.get(&member);
        number.is_some() && life.map(|life| life.number) == number.copied()
    }

    fn count_real(&self, image: &Image, members: impl Iterator<Item = Member>) -> usize {
        let real = members
            .filter(|member| image.is_current(*member) && self.ghost.lives.contains_key(member));
        real.map(|member| member.broker)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// I-SEAL-9: with fewer than min_insync losses.
    fn check_count(&mut self, image: &Image, record: &SegmentRecord, members: &[Member]) {
        let count = self.count_real(image, members.iter().copied());
        let known = self.ghost.of(record.id, record.base);
        let losses = known.losses.len();
        let min_insync = known.min_insync.unwrap_or(1);
        let id = record.id;
        self.ghost.require(
            9,
            losses >= min_insync || count + losses >= min_insync,
            || format!("{id}: {count} left after {losses} losses, min_insync {min_insync}"),
        );
    }

    fn check_open(&mut self, image: &Image, record: &SegmentRecord) {
        let eligible: Vec<Member> = record.isr.iter().chain(&record.elr).copied().collect();
        self.check_count(image, record, &eligible);
        let exposed = self.ghost.exposed_end(record.id).unwrap_or(record.base);
        for member in eligible {
            if !image.is_current(member) || !self.lives(member) {
                continue;
            }
            let log = &self.brokers[&member.broker].disk.logs;
            let has = log.get(&record.id).map_or(record.base, |log| log.end());
            self.ghost.require(5, has >= exposed, || {
                format!("{member} holds up to {has}, exposed up to {exposed}")
            });
        }
    }

    fn check_sealed(&mut self, image: &Image, record: &SegmentRecord) {
        let complete: Vec<Member> = record
            .complete
            .iter()
            .map(|copy| Member::new(copy.broker, copy.incarnation))
            .collect();
        self.check_count(image, record, &complete);
        let end = record.end.unwrap_or(record.base);
        for member in complete {
            if !image.is_current(member) || !self.lives(member) {
                continue;
            }
            let log = self.brokers[&member.broker].disk.logs.get(&record.id);
            let has = log.map_or(record.base, |log| log.end());
            let digest = log.map(|log| log.digest(end));
            self.ghost
                .require(3, has >= end && digest == record.digest, || {
                    format!("{member} is complete up to {end} and holds up to {has}")
                });
        }
    }
}
