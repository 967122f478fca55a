use mainstem_record::SegmentId;

use super::*;

const L: i32 = 1;

fn member(broker: i32) -> Member {
    Member::new(BrokerId(broker), Incarnation(1))
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn ends(end: i64) -> Ends {
    Ends {
        log_end: Offset(end),
        synced_end: Offset(end),
    }
}

fn segment(isr: &[i32]) -> Segment {
    Segment {
        id: SegmentId::from(uuid::Uuid::from_u128(7)),
        base: Offset(0),
        epoch: LeaderEpoch(3),
        version: 0,
        state: SegmentState::Active,
        leader: member(L),
        replicas: [1, 2, 3].map(BrokerId).into(),
        isr: isr.iter().copied().map(member).collect(),
        elr: BTreeSet::new(),
        lost: BTreeSet::new(),
        min_insync: 2,
        flush_always: false,
        end: None,
        complete: BTreeSet::new(),
        lossy: false,
    }
}

fn leader(isr: &[i32]) -> Leader {
    let timers = Timers::default();
    Leader::new(member(L), segment(isr), ends(0), timers, ms(0)).expect("it leads")
}

fn ack(leader: &mut Leader, follower: i32, leo: i64, now: Duration) -> Vec<LeaderEffect> {
    let effects = leader.ack(member(follower), Offset(leo), now);
    effects.expect("it counts")
}

#[test]
fn only_the_named_life_leads_an_active_segment() {
    let timers = Timers::default();
    let new = |me, image| Leader::new(me, image, ends(0), timers, ms(0));
    assert!(new(member(2), segment(&[1, 2])).is_none());
    let later = Member::new(BrokerId(L), Incarnation(2));
    assert!(new(later, segment(&[1, 2])).is_none());
    let sealing = Segment {
        state: SegmentState::Sealing,
        ..segment(&[1, 2])
    };
    assert!(new(member(L), sealing).is_none());
}

#[test]
fn the_watermark_needs_every_member_and_those_that_are_proposed() {
    let mut leader = leader(&[1, 2]);
    assert_eq!(leader.wrote(ends(5), ms(1)), []);
    assert_eq!(
        ack(&mut leader, 2, 4, ms(2)),
        [LeaderEffect::Exposed(Offset(4))]
    );
    // Broker 3 reaches the watermark, is proposed, and holds it down from then on.
    ack(&mut leader, 3, 4, ms(3));
    assert!(leader.expand(member(3), ms(3)).is_some());
    assert_eq!(ack(&mut leader, 2, 5, ms(4)), []);
    assert_eq!(leader.high_watermark(), Offset(4));
    assert_eq!(
        ack(&mut leader, 3, 5, ms(5)),
        [LeaderEffect::Exposed(Offset(5))]
    );
}

#[test]
fn acks_of_an_earlier_life_and_above_the_log_are_refused() {
    let mut leader = leader(&[1, 2]);
    leader.wrote(ends(5), ms(1));
    let later = Member::new(BrokerId(2), Incarnation(2));
    assert!(leader.ack(later, Offset(3), ms(2)).is_ok());
    // The image names the first life: what the second holds says nothing about it.
    assert_eq!(leader.high_watermark(), Offset(0));
    assert_eq!(
        leader.ack(member(2), Offset(5), ms(3)),
        Err(FollowRefusal::StaleIncarnation(Incarnation(2)))
    );
    assert_eq!(
        leader.ack(member(3), Offset(6), ms(3)),
        Err(FollowRefusal::AboveLogEnd(Offset(5)))
    );
}

#[test]
fn an_append_after_a_long_silence_shrinks_nobody_out() {
    let mut leader = leader(&[1, 2, 3]);
    for follower in [2, 3] {
        ack(&mut leader, follower, 0, ms(1));
    }
    let now = ms(100_000);
    leader.wrote(ends(1), now);
    ack(&mut leader, 2, 1, now + ms(1));
    assert_eq!(leader.tick(now + ms(2)), []);
    // With more to take and no ack for replica.stall.max.ms, it leaves.
    let late = now + Timers::default().stall_max;
    let effects = leader.tick(late);
    let without = Some(BTreeSet::from([member(1), member(2)]));
    assert_eq!(leader.pending().map(|it| it.isr.clone()), without);
    assert!(effects.contains(&LeaderEffect::Unhealthy(member(3))));
}

#[test]
fn a_stall_of_all_followers_is_the_leaders_own_until_they_lag() {
    let mut leader = leader(&[1, 2, 3]);
    for follower in [2, 3] {
        ack(&mut leader, follower, 0, ms(1));
    }
    leader.wrote(ends(1), ms(10));
    let timers = Timers::default();
    assert_eq!(leader.tick(ms(10) + timers.stall_max * 2), []);
    assert!(leader.pending().is_none());
    leader.tick(ms(10) + timers.lag_max);
    assert!(leader.pending().is_some());
}

#[test]
fn a_freeze_seals_once_all_is_exposed_and_repeats_until_an_image_ends_it() {
    let mut leader = leader(&[1, 2]);
    leader.wrote(ends(2), ms(1));
    assert_eq!(leader.freeze(ms(2)), Ok(vec![]));
    assert!(!leader.may_append());
    let proposal = SealProposal {
        segment: leader.segment(),
        version: 0,
        end: Offset(2),
    };
    assert_eq!(
        ack(&mut leader, 2, 2, ms(3)),
        [
            LeaderEffect::Exposed(Offset(2)),
            LeaderEffect::Seal(proposal)
        ]
    );
    // No ISR change beside it: it would go with the same version.
    assert_eq!(leader.shrink(member(2), ms(4)), None);
    let timers = Timers::default();
    let again = [LeaderEffect::Seal(proposal)];
    assert_eq!(leader.tick(ms(3) + timers.retry), again);
    let effects = leader.tick(ms(3) + timers.freeze_max);
    assert!(effects.contains(&LeaderEffect::FrozenTooLong));
    assert!(!leader.may_append());
    let newer = Segment {
        version: 1,
        ..segment(&[1, 2])
    };
    assert_eq!(leader.image(&newer, ms(9_000)), [LeaderEffect::Thawed]);
    assert!(leader.may_append());
}

#[test]
fn below_min_insync_nothing_is_exposed_or_sealed() {
    let mut leader = leader(&[1]);
    assert_eq!(leader.wrote(ends(2), ms(1)), []);
    assert_eq!(leader.high_watermark(), Offset(0));
    assert_eq!(leader.freeze(ms(2)), Err(FreezeRefusal::TooFewInSync));
}
