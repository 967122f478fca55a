use std::sync::Arc;

use mainstem_metadata::{
    BeginSeal, Command, NewSegment, SealReason, SegmentFlush, TopicOrigin, apply,
};
use mainstem_record::{Incarnation, PartitionIndex, TopicId};
use uuid::Uuid;

use super::*;
use crate::machine::placement::Load;

fn member(broker: i32) -> Member {
    Member::new(BrokerId(broker), Incarnation(1))
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const PARTITION: PartitionId = PartitionId {
    topic: TopicId(Uuid::from_u128(1)),
    index: PartitionIndex(0),
};

/// Three brokers, one segment of all three, led by the first, `Sealing`; min_insync 2.
fn image() -> Arc<Image> {
    let mut image = Image::default();
    let segment = SegmentId(Uuid::from_u128(9));
    let register = |broker: i32| Command::RegisterBroker {
        broker: BrokerId(broker),
        directory_id: Uuid::from_u128(u128::try_from(broker).expect("positive")),
        expected: None,
        listeners: Default::default(),
        peer: None,
        roles: Default::default(),
        intact: None,
        directory_life: None,
        request: Uuid::from_u128(100 + u128::try_from(broker).expect("positive")),
    };
    let mut commands: Vec<Command> = (1..=4).map(register).collect();
    commands.push(Command::CreateTopic {
        id: PARTITION.topic,
        name: "t".to_owned(),
        internal: false,
        origin: TopicOrigin::Admin,
        replication_factor: 3,
        configs: [("min.insync.replicas".to_owned(), "2".to_owned())].into(),
        partitions: vec![NewSegment {
            id: segment,
            replicas: [1, 2, 3].map(BrokerId).into(),
            leader: Some(BrokerId(1)),
            flush: SegmentFlush::Os,
        }],
        leader: BrokerId(1),
    });
    commands.push(Command::BeginSeal {
        seals: vec![BeginSeal {
            partition: PARTITION,
            segment,
            version: 0,
        }],
        reason: SealReason::Requested,
    });
    for (index, command) in (1..).zip(&commands) {
        apply(&mut image, index, command).expect("legal");
    }
    Arc::new(image)
}

/// A controller to which these brokers live.
struct Driver {
    sealing: Sealing,
    image: Arc<Image>,
    live: BTreeSet<Member>,
}

impl Driver {
    fn new(live: &[i32]) -> Self {
        let image = image();
        let sealing = Sealing::new(&image, PARTITION, Timers::default());
        Self {
            sealing: sealing.expect("it is Sealing"),
            image,
            live: live.iter().copied().map(member).collect(),
        }
    }

    fn answer(&mut self, broker: i32, certificate: i64, leo: i64, now: Duration) {
        let answer = FenceAnswer {
            segment: self.sealing.segment().id,
            member: member(broker),
            version: self.sealing.segment().version,
            certificate: Offset(certificate),
            leo: Offset(leo),
        };
        self.sealing.answer(answer, now);
    }

    fn tick(&mut self, now: Duration) -> Vec<SealingEffect> {
        let healthy = self.live.iter().map(|it| (*it, Load::default())).collect();
        let view = View {
            image: &self.image,
            live: &self.live,
            healthy: &healthy,
            replicas: 3,
            spread: 0,
        };
        self.sealing.tick(view, now)
    }

    fn end(&mut self, now: Duration) -> Option<(i64, Vec<Member>)> {
        self.tick(now).into_iter().find_map(|effect| match effect {
            SealingEffect::Commit(decision) => Some((decision.end.0, decision.complete)),
            _ => None,
        })
    }
}

#[test]
fn fail_over_fences_copies_and_commits() {
    let mut driver = Driver::new(&[2, 3]);
    let fences = driver.tick(ms(0));
    let fence = |broker| SealingEffect::Fence { to: member(broker) };
    assert_eq!(fences, [fence(2), fence(3)]);
    driver.answer(2, 98, 98, ms(1));
    assert_eq!(driver.tick(ms(1)), [], "the others get a moment to answer");
    driver.answer(3, 95, 95, ms(2));
    let copy = SealingEffect::CopyTail {
        from: member(2),
        to: member(3),
        at: Offset(95),
    };
    assert_eq!(driver.tick(ms(2)), [copy]);
    driver.answer(3, 95, 98, ms(3));
    assert_eq!(driver.end(ms(3)), Some((98, vec![member(2), member(3)])));
}

#[test]
fn who_answered_and_is_away_since_is_not_waited_for() {
    let mut driver = Driver::new(&[1, 2, 3]);
    driver.answer(1, 100, 100, ms(0));
    driver.answer(2, 98, 98, ms(1));
    driver.answer(3, 98, 98, ms(1));
    driver.live.remove(&member(1));
    let both = vec![member(1), member(2), member(3)];
    assert_eq!(driver.end(ms(2)), Some((98, both)));
}

#[test]
fn a_smaller_end_is_taken_after_the_wait_for_copies_but_never_an_uncertified_one() {
    let timers = Timers::default();
    let mut driver = Driver::new(&[1, 2, 3]);
    driver.answer(1, 100, 100, ms(0));
    driver.answer(2, 98, 98, ms(0));
    driver.answer(3, 95, 95, ms(0));
    assert_eq!(driver.end(ms(1)), None);
    let late = ms(1) + timers.copy_wait;
    assert_eq!(driver.end(late), Some((98, vec![member(1), member(2)])));

    // Only who holds more than enough of them do may certify.
    let mut driver = Driver::new(&[1, 4]);
    driver.tick(ms(0));
    driver.answer(1, 100, 100, ms(0));
    driver.answer(4, 0, 0, ms(0));
    assert_eq!(driver.end(ms(1)), None);
    assert_eq!(driver.end(ms(1) + timers.copy_wait), None);
    assert_eq!(driver.sealing.wait(), Wait::Copies);
}

#[test]
fn a_spare_is_recruited_only_where_too_few_replicas_live() {
    let fence = |broker| SealingEffect::Fence { to: member(broker) };
    let mut driver = Driver::new(&[2, 3, 4]);
    assert_eq!(driver.tick(ms(0)), [fence(2), fence(3)]);
    let mut driver = Driver::new(&[2, 4]);
    assert_eq!(driver.tick(ms(0)), [fence(2), fence(4)]);
}

#[test]
fn what_has_no_answer_is_asked_again() {
    let mut driver = Driver::new(&[2, 3]);
    let first = driver.tick(ms(0));
    assert_eq!(driver.tick(ms(1)), []);
    assert_eq!(driver.tick(Timers::default().retry), first);
}
