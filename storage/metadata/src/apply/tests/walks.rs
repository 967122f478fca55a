//! Random walks of several brokers through one partition: what of the invariants metadata alone can
//! keep (I-SEAL-4, 9, 10), and that a walk finds by itself when a rule is off that keeps them.

use super::{
    cluster::{Cluster, ID, Restart, id},
    *,
};
use crate::{
    command::{RemoveCopy, SegmentCopy},
    rules::{Rule, without},
};

const WALKS: u64 = 2000;
const STEPS: usize = 60;

/// SplitMix64: a walk is its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn broker(&mut self) -> i32 {
        self.below(4) as i32 + 1
    }
}

struct Walk {
    cluster: Cluster,
    dice: Dice,
    /// Data losses so far.
    losses: usize,
    /// How many there were when a segment was opened, and, later, when it was sealed.
    since: BTreeMap<SegmentId, usize>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut walk = Self {
            cluster: Cluster::two_of_three(),
            dice: Dice(seed),
            losses: 0,
            since: BTreeMap::new(),
        };
        walk.note_segments(&BTreeMap::new());
        walk
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            let before = self.segments();
            self.step();
            self.note_segments(&before);
            self.check(&before)?;
        }
        Ok(())
    }

    fn segments(&self) -> BTreeMap<SegmentId, SegmentRecord> {
        let chain = self.cluster.log.chain(ID).into_iter();
        chain.map(|segment| (segment.id, segment)).collect()
    }

    /// Most steps are legal; what is refused must change nothing, which is checked elsewhere.
    fn step(&mut self) {
        let broker = self.dice.broker();
        match self.dice.below(12) {
            0 | 1 => self.restart(broker),
            2 => {
                let member = self.cluster.now(broker);
                let _ = self.cluster.log.apply(&Command::FenceBroker { member });
            }
            3 => {
                let member = self.cluster.now(broker);
                let _ = self.cluster.log.apply(&Command::UnfenceBroker { member });
            }
            4 => {
                if self.dice.below(4) == 0 && self.cluster.declare_lost(broker).is_ok() {
                    self.losses += 1;
                }
            }
            5 | 6 => self.alter(),
            7 => {
                let _ = self.cluster.evict(broker);
            }
            8 => {
                let version = self.cluster.open().version;
                let _ = self.cluster.begin_seal_at(version);
            }
            9 => self.planned(),
            10 => self.commit(),
            _ => self.copy(broker),
        }
    }

    fn restart(&mut self, broker: i32) {
        let how = match self.dice.below(6) {
            0 => Restart::SameDirectory,
            1 => Restart::OtherDirectory,
            _ => Restart::Intact,
        };
        let was_lost = self.cluster.log.image.brokers.get(&id(broker));
        let was_lost = was_lost.is_some_and(|broker| broker.lost);
        let registered = self.cluster.restart(broker, how);
        if registered.is_ok() && how != Restart::Intact && !was_lost {
            self.losses += 1;
        }
    }

    fn alter(&mut self) {
        let mut isr = vec![self.cluster.open().leader_member()];
        for broker in self.cluster.open().replicas.clone() {
            if broker != isr[0].broker && self.dice.below(2) == 0 {
                isr.push(self.cluster.now(broker.0));
            }
        }
        let _ = self.cluster.alter(isr);
    }

    fn planned(&mut self) {
        let end = self.cluster.open().base.0 + self.dice.below(3) as i64;
        let mut seal = self.cluster.planned(end);
        seal.durable.clear();
        seal.next = self.next();
        let _ = self.cluster.apply_planned(seal);
    }

    /// A commit, and if nobody may certify it an unclean recovery.
    fn commit(&mut self) {
        let base = self.cluster.open().base.0;
        let leo = |dice: &mut Dice| base + dice.below(3) as i64;
        let all = [1, 2, 3, 4].map(|broker| (broker, leo(&mut self.dice)));
        let end = leo(&mut self.dice);
        let answers = all.map(|(broker, certificate)| {
            let copied = if self.dice.below(3) == 0 {
                certificate
            } else {
                end
            };
            (broker, certificate, copied.min(end).max(base))
        });
        let mut commit = self.cluster.commit(end, answers);
        let heard = self.dice.below(16);
        let is_heard = |broker: BrokerId| heard >> (broker.0 - 1) & 1 == 0;
        commit
            .answers
            .retain(|answer| is_heard(answer.member.broker));
        commit.complete.retain(|member| is_heard(member.broker));
        commit.next = self.next();
        if self.cluster.apply_commit(commit.clone()).is_err() {
            let _ = self.cluster.recover(commit);
        }
    }

    fn next(&mut self) -> crate::command::NextSegment {
        let first = self.dice.below(4) as i32;
        let [a, b, c] = [0, 1, 2].map(|step| (first + step) % 4 + 1);
        let mut next = self.cluster.next([a, b, c]);
        next.isr.truncate(1 + self.dice.below(3) as usize);
        next
    }

    fn copy(&mut self, broker: i32) {
        let sealed = self.cluster.sealed();
        let (segment, digest) = (sealed.id, sealed.digest);
        let member = self.cluster.now(broker);
        let command = if self.dice.below(2) == 0 {
            let corrupt = false;
            let copies = vec![RemoveCopy {
                partition: ID,
                segment,
                member,
                corrupt,
            }];
            Command::RemoveComplete { copies }
        } else {
            let copies = vec![SegmentCopy {
                partition: ID,
                segment,
                member,
                digest,
            }];
            Command::AddComplete { copies }
        };
        let _ = self.cluster.log.apply(&command);
    }

    fn note_segments(&mut self, before: &BTreeMap<SegmentId, SegmentRecord>) {
        for (id, segment) in self.segments() {
            let is_new = before.get(&id).is_none_or(|was| was.state != segment.state);
            if is_new && segment.state != SegmentState::Sealing {
                self.since.insert(id, self.losses);
            }
        }
    }

    fn check(&self, before: &BTreeMap<SegmentId, SegmentRecord>) -> Result<(), String> {
        let chain = self.cluster.log.chain(ID);
        for pair in chain.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            let follows = if one.lossy {
                next.base >= one.base.plus(UNCLEAN_GAP)
            } else {
                one.end == Some(next.base)
            };
            if !follows || one.epoch >= next.epoch {
                return Err(format!("I-SEAL-4: {one:?} {next:?}"));
            }
        }
        for segment in &chain {
            self.check_holders(segment)?;
            before
                .get(&segment.id)
                .map_or(Ok(()), |was| check_change(was, segment))?;
        }
        Ok(())
    }

    /// I-SEAL-9.
    fn check_holders(&self, segment: &SegmentRecord) -> Result<(), String> {
        let image = &self.cluster.log.image;
        let holders = if segment.state.is_open() {
            image.current(&segment.isr).count() + image.current(&segment.elr).count()
        } else {
            let copies = segment.complete.iter();
            copies
                .filter(|copy| image.is_current(copy.member()))
                .count()
        };
        let lost = self.losses - self.since.get(&segment.id).copied().unwrap_or(0);
        if holders + lost < segment.min_insync_count() {
            return Err(format!(
                "I-SEAL-9: {holders} after {lost} losses: {segment:?}"
            ));
        }
        Ok(())
    }
}

/// I-SEAL-10 and R7.
fn check_change(was: &SegmentRecord, now: &SegmentRecord) -> Result<(), String> {
    use SegmentState::{Active, Sealed, Sealing};
    let is_step = was.state == now.state
        || matches!(
            (was.state, now.state),
            (Active, Sealing | Sealed) | (Sealing, Sealed)
        );
    let of = |segment: &SegmentRecord| {
        let sets = (segment.isr.clone(), segment.elr.clone());
        (
            sets,
            segment.leader_member(),
            segment.state,
            segment.min_insync,
        )
    };
    let is_counted = of(was) == of(now) || was.version < now.version;
    if !is_step || !is_counted || was.version > now.version {
        return Err(format!("I-SEAL-10: {was:?} became {now:?}"));
    }
    Ok(())
}

#[test]
fn walks_keep_the_invariants() {
    let (mut sealed, mut lossy) = (0, 0);
    for seed in 0..WALKS {
        let mut walk = Walk::new(seed);
        walk.run()
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        let chain = walk.cluster.log.chain(ID);
        sealed += chain.len() - 1;
        lossy += chain.iter().filter(|segment| segment.lossy).count();
    }
    assert!(
        sealed > 1000 && lossy > 25,
        "{sealed} seals, {lossy} of them lossy"
    );
}

#[test]
fn walks_find_what_each_rule_keeps() {
    for rule in [
        Rule::R3,
        Rule::R7,
        Rule::R19Join,
        Rule::R26d,
        Rule::R26eMin,
        Rule::R28Min,
        Rule::R35,
        Rule::R37,
    ] {
        let _off = without(&[rule]);
        let found = (0..WALKS).any(|seed| Walk::new(seed).run().is_err());
        assert!(found, "{rule:?} off");
    }
}
