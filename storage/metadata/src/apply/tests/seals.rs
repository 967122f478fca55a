//! In-sync sets, seals and copies: R7, R13, R15, R18 to R21, R26 to R29, R31 to R37.

use super::{
    cluster::{Cluster, ID, Restart, brokers, id},
    *,
};
use crate::{
    command::{RemoveCopy, SegmentCopy},
    rules::{Rule, without},
};

#[test]
fn in_sync_set_is_changed_at_its_version_by_current_replicas_with_the_leader() {
    let mut cluster = Cluster::two_of_three();
    let version = cluster.open().version;
    let old = cluster.members([1, 2]);
    assert_eq!(cluster.alter(old.clone()), Ok(version + 1));
    // F12: a late copy.
    let stale = cluster.alter_at(version, old.clone());
    let current = version + 1;
    assert_eq!(stale, Err(ApplyError::StaleVersion { current }));
    assert!(!ApplyError::StaleVersion { current }.is_final(), "F32");
    {
        let _off = without(&[Rule::R15Version]);
        assert_eq!(cluster.alter_at(version, old), Ok(version + 2));
    }
    let mut refused = |isr: Vec<Member>| {
        let error = cluster.alter(isr).expect_err("refused");
        assert!(error.is_final(), "R18: {error}");
        error
    };
    let member = |broker, life| Member::new(id(broker), Incarnation(life));
    let stranger = refused(vec![member(1, 1), member(4, 1)]);
    assert_eq!(stranger, ApplyError::NotReplica { broker: id(4) });
    let leader = member(1, 1);
    let leaderless = refused(vec![member(2, 1)]);
    assert_eq!(leaderless, ApplyError::LeaderNotInSync { leader });
    let twice = refused(vec![leader, member(3, 1), member(3, 1)]);
    assert_eq!(twice, ApplyError::InvalidMembers);
    let stale = refused(vec![leader, member(3, 9)]);
    let current = Some(Incarnation(1));
    assert_eq!(stale, ApplyError::StaleIncarnation { current });
    // F14: without the rule a life that is over is taken for the present one.
    let old = cluster.now(3);
    cluster
        .restart(3, Restart::SameDirectory)
        .expect("registered");
    assert!(cluster.alter(vec![leader, old]).is_err());
    let _off = without(&[Rule::R15Incarnation]);
    assert!(cluster.alter(vec![leader, old]).is_ok());
    assert_eq!(cluster.sets().0, [1, 3]);
}

#[test]
fn leavers_of_a_set_that_is_too_small_are_eligible_until_it_is_large_enough() {
    let change = |off: &[Rule]| {
        let mut cluster = Cluster::two_of_three();
        let _off = without(off);
        [vec![1, 2], vec![1], vec![1, 3]].map(|isr| {
            let isr = isr.into_iter().map(|broker| cluster.now(broker)).collect();
            cluster.alter(isr).expect("applied");
            cluster.sets().1
        })
    };
    assert_eq!(change(&[]), [vec![], vec![2], vec![]]);
    assert_eq!(change(&[Rule::R19Join]), [const { Vec::<i32>::new() }; 3]);
    assert_eq!(change(&[Rule::R19Empty]), [vec![], vec![2], vec![2]]);
}

#[test]
fn controller_drops_followers_but_never_the_leader() {
    let mut cluster = Cluster::two_of_three();
    cluster.evict(3).expect("dropped");
    assert_eq!(cluster.sets(), (vec![1, 2], vec![], vec![]));
    let member = cluster.now(3);
    assert_eq!(cluster.evict(3), Err(ApplyError::NotInSync { member }));
    let leader = cluster.now(1);
    assert_eq!(
        cluster.evict(1),
        Err(ApplyError::LeaderNotInSync { leader })
    );
    cluster.evict(2).expect("dropped");
    assert_eq!(cluster.sets(), (vec![1], vec![2], vec![]));
}

#[test]
fn min_insync_of_an_open_segment_follows_its_config_and_empties_the_elr_when_lowered() {
    let mut cluster = Cluster::two_of_three();
    let one = cluster.members([1]);
    cluster.alter(one).expect("applied");
    cluster
        .restart(3, Restart::SameDirectory)
        .expect("registered");
    assert_eq!(cluster.sets(), (vec![1], vec![2], vec![3]));
    let version = cluster.open().version;
    cluster.set_min_insync(2);
    assert_eq!(cluster.open().version, version);
    let before = cluster.log.image.clone();
    {
        let _off = without(&[Rule::R13Lower]);
        cluster.set_min_insync(1);
        assert_eq!(cluster.sets().1, [2], "F44");
        cluster.log.image = before;
    }
    cluster.set_min_insync(1);
    assert_eq!(
        (cluster.open().min_insync, cluster.open().version),
        (1, version + 1)
    );
    assert_eq!(cluster.sets(), (vec![1], vec![], vec![]));
    cluster.set_min_insync(9);
    assert_eq!(
        cluster.open().min_insync,
        3,
        "no more than there are replicas"
    );

    // The broker-wide config, for who has none; and in `Sealing` the ELR stays.
    let mut cluster = Cluster::two_of_three();
    let one = cluster.members([1]);
    cluster.alter(one).expect("applied");
    cluster.begin_seal();
    let topic = Command::AlterTopicConfigs {
        topic: ID.topic,
        set: BTreeMap::new(),
        delete: vec!["min.insync.replicas".to_owned()],
    };
    cluster.log.apply(&topic).expect("applied");
    assert_eq!(cluster.open().min_insync, 1);
    assert_eq!(cluster.sets(), (vec![1], vec![2, 3], vec![]));
    let all = Command::AlterBrokerConfigs {
        set: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
        delete: vec![],
    };
    cluster.log.apply(&all).expect("applied");
    assert_eq!(cluster.open().min_insync, 2);
}

#[test]
fn unplanned_seal_begins_once_and_ends_what_was_proposed_before() {
    let mut cluster = Cluster::two_of_three();
    let version = cluster.open().version;
    let planned = cluster.planned(5);
    assert_eq!(cluster.begin_seal_at(version), Ok(version + 1));
    let state = SegmentState::Sealing;
    let again = cluster.begin_seal_at(version + 1);
    assert_eq!(again, Err(ApplyError::WrongState { state }));
    assert!(cluster.begin_seal_at(version).is_err());
    let isr = cluster.members([1, 2]);
    let altered = cluster.alter_at(version, isr.clone());
    let current = version + 1;
    assert_eq!(altered, Err(ApplyError::StaleVersion { current }));
    assert_eq!(cluster.alter(isr), Err(ApplyError::WrongState { state }));
    let evicted = cluster.evict(2);
    assert_eq!(evicted, Err(ApplyError::WrongState { state }));
    let sealed = cluster.apply_planned(planned);
    assert_eq!(sealed, Err(ApplyError::StaleVersion { current }));
}

/// The walk-through of the specification's section 11.
#[test]
fn fail_over_seals_at_what_two_hold_and_goes_on_with_the_next_epoch() {
    let mut cluster = Cluster::two_of_three();
    cluster.fence(1);
    let mut commit = cluster.commit(98, [(2, 98, 98), (3, 95, 98)]);
    commit.next = cluster.next([2, 3, 4]);
    commit.durable = cluster.members([2]);
    let opened = cluster.apply_commit(commit).expect("sealed");
    assert_eq!((opened.base, opened.epoch), (Offset(98), LeaderEpoch(1)));
    let sealed = cluster.sealed();
    assert_eq!(
        (sealed.state, sealed.end),
        (SegmentState::Sealed, Some(Offset(98)))
    );
    let copies: Vec<_> = sealed
        .complete
        .iter()
        .map(|copy| (copy.broker.0, copy.durable))
        .collect();
    assert_eq!(copies, [(2, true), (3, false)]);
    assert!(sealed.isr.is_empty() && !sealed.lossy);
    assert_eq!(cluster.open().replicas, [2, 3, 4].map(id));
    assert_eq!(cluster.open().leader_member(), cluster.now(2));
    check_invariants(&cluster.log.image);
}

#[test]
fn every_condition_of_a_commit_is_asked_for() {
    let begin = || {
        let mut cluster = Cluster::two_of_three();
        cluster.begin_seal();
        cluster
    };
    // (a) F11: the first commit wins.
    let mut cluster = begin();
    let first = cluster.commit(98, [(2, 98, 98), (3, 95, 98)]);
    let mut second = cluster.commit(95, [(2, 98, 98), (3, 95, 95)]);
    second.next.id = cluster.log.fresh();
    cluster.apply_commit(first).expect("sealed");
    let current = Some(cluster.open().id);
    let lost = cluster.apply_commit(second);
    assert_eq!(lost, Err(ApplyError::StaleSegment { current }));
    let mut cluster = Cluster::two_of_three();
    let commit = cluster.commit(98, [(2, 98, 98), (3, 95, 98)]);
    let state = SegmentState::Active;
    let early = cluster.apply_commit(commit.clone());
    assert_eq!(early, Err(ApplyError::WrongState { state }));
    cluster.begin_seal();
    let late = cluster.apply_commit(commit.clone());
    assert!(matches!(late, Err(ApplyError::StaleVersion { .. })));
    assert!(passes_without(&mut cluster, Rule::R26a, &commit));

    // (b) F07: an answer of a life that is over; a log that is too short; no answer at all.
    let mut cluster = begin();
    let commit = cluster.commit(98, [(1, 98, 98), (2, 98, 98), (3, 95, 95)]);
    let mut short = commit.clone();
    short.complete = cluster.members([2, 3]);
    let member = cluster.now(3);
    let refused = cluster.apply_commit(short);
    assert_eq!(refused, Err(ApplyError::NotAnswered { member }));
    cluster
        .restart(1, Restart::SameDirectory)
        .expect("registered");
    let mut commit = commit;
    commit.version = cluster.open().version;
    assert!(matches!(
        cluster.apply_commit(commit.clone()),
        Err(ApplyError::StaleIncarnation { .. })
    ));
    assert!(passes_without(&mut cluster, Rule::R26b, &commit));

    // (c) F08 and F09: only members of ISR and ELR certify, and only at or above their ends.
    let mut cluster = Cluster::two_of_three();
    let isr = cluster.members([1, 2]);
    cluster.alter(isr).expect("applied");
    cluster.begin_seal();
    let low = cluster.commit(95, [(2, 98, 98), (3, 95, 95)]);
    let refused = cluster.apply_commit(low.clone());
    assert_eq!(refused, Err(ApplyError::NotCertified));
    assert!(passes_without(&mut cluster, Rule::R26c, &low));
    let outside = cluster.commit(95, [(3, 95, 95), (4, 0, 95)]);
    let refused = cluster.apply_commit(outside);
    assert_eq!(refused, Err(ApplyError::NotCertified));

    // (d) F36.
    let mut cluster = begin();
    let alone = cluster.commit(98, [(2, 98, 98), (3, 95, 95)]);
    let refused = cluster.apply_commit(alone.clone());
    assert_eq!(refused, Err(ApplyError::TooFewMembers { have: 1, need: 2 }));
    assert!(passes_without(&mut cluster, Rule::R26d, &alone));
}

/// Whether the commit is applied without that rule; leaves everything as it was.
fn passes_without(cluster: &mut Cluster, rule: Rule, commit: &crate::command::CommitSeal) -> bool {
    let before = cluster.log.image.clone();
    let _off = without(&[rule]);
    let applied = cluster.apply_commit(commit.clone());
    cluster.log.image = before;
    applied.is_ok()
}

#[test]
fn next_segment_has_enough_members_and_a_live_leader_and_nobody_who_is_lost() {
    let mut cluster = Cluster::two_of_three();
    cluster.fence(1);
    let good = cluster.commit(98, [(2, 98, 98), (3, 98, 98)]);
    // F10: the one live broker as the next ISR; fewer replicas do not make fewer enough.
    let mut alone = good.clone();
    alone.next = cluster.next([2]);
    let refused = cluster.apply_commit(alone.clone());
    assert_eq!(refused, Err(ApplyError::TooFewMembers { have: 1, need: 2 }));
    assert!(passes_without(&mut cluster, Rule::R26eMin, &alone));

    let mut fenced = good.clone();
    fenced.next = cluster.next([1, 2, 3]);
    let refused = cluster.apply_commit(fenced.clone());
    assert_eq!(refused, Err(ApplyError::Fenced { broker: id(1) }));
    fenced.next.leader = cluster.now(2);
    // F45: declared lost, and not registered since.
    cluster.declare_lost(1).expect("declared");
    let mut lost = good;
    lost.version = cluster.open().version;
    lost.next = cluster.next([2, 1]);
    let refused = cluster.apply_commit(lost.clone());
    assert_eq!(refused, Err(ApplyError::DeclaredLost { broker: id(1) }));
    assert!(passes_without(&mut cluster, Rule::R26eLost, &lost));

    let mut outside = lost.clone();
    outside.next = cluster.next([2, 3]);
    outside.next.replicas = vec![id(2), id(4)];
    let refused = cluster.apply_commit(outside);
    assert_eq!(refused, Err(ApplyError::NotReplica { broker: id(3) }));
    let mut unknown = lost.clone();
    unknown.next = cluster.next([2, 3]);
    unknown.next.replicas.push(id(9));
    let refused = cluster.apply_commit(unknown);
    assert_eq!(refused, Err(ApplyError::UnknownBroker { broker: id(9) }));
    let mut leaderless = lost;
    leaderless.next = cluster.next([2, 3]);
    leaderless.next.leader = cluster.now(4);
    let refused = cluster.apply_commit(leaderless);
    assert!(matches!(refused, Err(ApplyError::LeaderNotInSync { .. })));
}

#[test]
fn planned_seal_is_the_leaders_at_its_version_and_the_in_sync_set_is_complete() {
    let mut cluster = Cluster::two_of_three();
    let isr = cluster.members([1, 3]);
    let stale = cluster.planned(10);
    cluster.alter(isr).expect("applied");
    let refused = cluster.apply_planned(stale.clone());
    assert!(matches!(refused, Err(ApplyError::StaleVersion { .. })));
    {
        // F13.
        let before = cluster.log.image.clone();
        let _off = without(&[Rule::R29]);
        assert!(cluster.apply_planned(stale).is_ok());
        cluster.log.image = before;
    }
    let mut seal = cluster.planned(10);
    seal.next = cluster.next([4, 2]);
    cluster.apply_planned(seal).expect("sealed");
    assert_eq!(cluster.complete(), [1, 3]);
    // R31: the next one may be on other brokers.
    assert_eq!(cluster.sets().0, [4, 2]);

    // F39: an ISR that is too small.
    let mut cluster = Cluster::two_of_three();
    let one = cluster.members([1]);
    cluster.alter(one).expect("applied");
    let seal = cluster.planned(10);
    let refused = cluster.apply_planned(seal.clone());
    assert_eq!(refused, Err(ApplyError::TooFewMembers { have: 1, need: 2 }));
    let _off = without(&[Rule::R28Min]);
    assert!(cluster.apply_planned(seal).is_ok());
}

#[test]
fn unclean_recovery_waits_for_all_who_may_know_and_leaves_a_gap() {
    let mut cluster = Cluster::new(1, SegmentFlush::Os);
    let isr = cluster.members([1]);
    cluster.alter(isr).expect("applied");
    cluster.fence(1);
    let early = cluster.commit(50, [(2, 50, 50)]);
    let member = cluster.now(1);
    let refused = cluster.recover(early);
    assert_eq!(refused, Err(ApplyError::StillEligible { member }));

    let lost = cluster.now(1);
    cluster
        .restart(1, Restart::SameDirectory)
        .expect("registered");
    assert_eq!(cluster.sets(), (vec![], vec![], vec![1]));
    let uncertified = cluster.commit(50, [(1, 50, 50)]);
    let refused = cluster.apply_commit(uncertified);
    assert_eq!(refused, Err(ApplyError::NotCertified));
    let deaf = cluster.commit(50, [(2, 50, 50)]);
    let refused = cluster.recover(deaf);
    assert_eq!(refused, Err(ApplyError::LostNotAnswered { broker: id(1) }));
    // The largest of all answers.
    let short = cluster.commit(40, [(1, 40, 40), (2, 50, 50)]);
    assert_eq!(cluster.recover(short), Err(ApplyError::InvalidRange));

    let good = cluster.commit(50, [(1, 40, 40), (2, 50, 50)]);
    {
        // F40.
        let before = cluster.log.image.clone();
        let _off = without(&[Rule::R37]);
        let opened = cluster.recover(good.clone()).expect("recovered");
        assert_eq!(opened.base, Offset(50));
        cluster.log.image = before;
    }
    let opened = cluster.recover(good).expect("recovered");
    assert_eq!(
        (opened.base, opened.epoch),
        (Offset(UNCLEAN_GAP), LeaderEpoch(1))
    );
    let sealed = cluster.sealed();
    assert!(sealed.lossy);
    assert_eq!(
        (sealed.end, sealed.lost.clone()),
        (Some(Offset(50)), vec![lost])
    );
    check_invariants(&cluster.log.image);
    let record = cluster.log.image.partition(ID).expect("partition");
    let end = record.end_of_epoch(LeaderEpoch(0), Offset(UNCLEAN_GAP));
    assert_eq!(end, Some((LeaderEpoch(0), Offset(50))));
}

#[test]
fn who_is_declared_lost_is_not_waited_for() {
    let mut cluster = Cluster::new(1, SegmentFlush::Os);
    let isr = cluster.members([1]);
    cluster.alter(isr).expect("applied");
    cluster.fence(1);
    cluster.declare_lost(1).expect("declared");
    assert_eq!(cluster.sets(), (vec![], vec![], vec![]));
    // Nothing is left but what a recruit begins with: no record stays in the chain.
    let commit = cluster.commit(0, [(4, 0, 0)]);
    let opened = cluster.recover(commit).expect("recovered");
    assert_eq!(opened.base, Offset(UNCLEAN_GAP));
    let record = cluster.log.image.partition(ID).expect("partition");
    assert_eq!((record.segments.len(), record.log_start), (1, opened.base));
    check_invariants(&cluster.log.image);

    // With a segment before, that one tells of the gap.
    let mut cluster = Cluster::new(1, SegmentFlush::Os);
    let seal = cluster.planned(10);
    cluster.apply_planned(seal).expect("sealed");
    let isr = cluster.members([1]);
    cluster.alter(isr).expect("applied");
    cluster.fence(1);
    cluster.declare_lost(1).expect("declared");
    let commit = cluster.commit(10, [(2, 10, 10)]);
    let opened = cluster.recover(commit).expect("recovered");
    assert_eq!(opened.base, Offset(10 + UNCLEAN_GAP));
    assert!(cluster.sealed().lossy);
    check_invariants(&cluster.log.image);
    // No file reaches over the gap.
    let mut seal = cluster.planned(opened.base.0 + 5);
    seal.next = cluster.next([2, 3]);
    cluster.apply_planned(seal).expect("sealed");
    let merged = replacement(&mut cluster.log, ID, 0, 2);
    assert_eq!(cluster.log.apply(&merged), Err(ApplyError::InvalidRange));
}

#[test]
fn copies_are_added_by_the_life_that_verified_them_and_leave_while_enough_remain() {
    let mut cluster = Cluster::two_of_three();
    let isr = cluster.members([1, 2]);
    cluster.alter(isr).expect("applied");
    let seal = cluster.planned(10);
    cluster.apply_planned(seal).expect("sealed");
    assert_eq!(cluster.complete(), [1, 2]);
    let copy = |cluster: &Cluster, broker| SegmentCopy {
        partition: ID,
        segment: cluster.sealed().id,
        member: cluster.now(broker),
        digest: Some([1; 16]),
    };
    let add = |cluster: &mut Cluster, copy: SegmentCopy| {
        let copies = vec![copy];
        only(cluster.log.apply(&Command::AddComplete { copies }))
    };
    let mark = |cluster: &mut Cluster, copy: SegmentCopy| {
        let copies = vec![copy];
        only(cluster.log.apply(&Command::MarkDurable { copies }))
    };
    let remove = |cluster: &mut Cluster, broker, corrupt| {
        let copies = vec![RemoveCopy {
            partition: ID,
            segment: cluster.sealed().id,
            member: cluster.now(broker),
            corrupt,
        }];
        only(cluster.log.apply(&Command::RemoveComplete { copies }))
    };
    let stale = copy(&cluster, 3);
    let other = SegmentCopy {
        digest: Some([2; 16]),
        ..stale
    };
    assert_eq!(add(&mut cluster, other), Err(ApplyError::DigestMismatch));
    let member = stale.member;
    let early = mark(&mut cluster, stale.clone());
    assert_eq!(early, Err(ApplyError::NotComplete { member }));
    let open = SegmentCopy {
        segment: cluster.open().id,
        ..stale
    };
    assert!(matches!(
        add(&mut cluster, open),
        Err(ApplyError::NotSealed { .. })
    ));
    // F35: it loses the copy before its word arrives.
    cluster
        .restart(3, Restart::SameDirectory)
        .expect("registered");
    let late = add(&mut cluster, stale.clone());
    assert!(matches!(late, Err(ApplyError::StaleIncarnation { .. })));
    {
        let before = cluster.log.image.clone();
        let _off = without(&[Rule::R34]);
        assert_eq!(add(&mut cluster, stale), Ok(()));
        cluster.log.image = before;
    }
    let too_few = ApplyError::TooFewMembers { have: 1, need: 2 };
    assert_eq!(remove(&mut cluster, 2, false), Err(too_few));
    // A recruit that was no replica.
    let fourth = copy(&cluster, 4);
    assert_eq!(add(&mut cluster, fourth.clone()), Ok(()));
    assert_eq!(add(&mut cluster, fourth.clone()), Ok(()));
    assert_eq!(mark(&mut cluster, fourth), Ok(()));
    assert!(
        cluster
            .sealed()
            .complete
            .iter()
            .any(|copy| copy.durable && copy.broker == id(4))
    );
    assert!(cluster.sealed().replicas.contains(&id(4)));
    assert_eq!(remove(&mut cluster, 2, false), Ok(()));
    assert_eq!(remove(&mut cluster, 1, true), Ok(()));
    assert_eq!(cluster.complete(), [4]);
    let _off = without(&[Rule::R35]);
    assert_eq!(remove(&mut cluster, 4, false), Ok(()));
}

fn only(answer: Result<Applied, ApplyError>) -> Result<(), ApplyError> {
    match answer {
        Ok(Applied::CopiesChanged { mut results }) => results.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn compacted_segment_is_held_by_enough_who_held_what_it_replaces() {
    let mut cluster = Cluster::two_of_three();
    for end in [10, 20] {
        let seal = cluster.planned(end);
        cluster.apply_planned(seal).expect("sealed");
    }
    let command = replacement(&mut cluster.log, ID, 0, 2);
    let with = |members: Vec<Member>| {
        let mut command = command.clone();
        if let Command::ReplaceSegments { new, .. } = &mut command {
            new.complete = members;
        }
        command
    };
    let nobody = cluster.log.apply(&command);
    assert_eq!(nobody, Err(ApplyError::InvalidMembers));
    let one = cluster.members([1]);
    let too_few = cluster.log.apply(&with(one));
    assert_eq!(too_few, Err(ApplyError::TooFewMembers { have: 1, need: 2 }));
    let member = cluster.now(4);
    let stranger = cluster.log.apply(&with(cluster.members([1, 4])));
    assert_eq!(stranger, Err(ApplyError::NotComplete { member }));
    let two = cluster.log.apply(&with(cluster.members([1, 2])));
    assert_eq!(two, Ok(Applied::SegmentsReplaced));
    assert_eq!(cluster.complete(), [1, 2]);
}

#[test]
fn new_partitions_are_placed_on_distinct_known_brokers_with_a_live_leader() {
    let mut cluster = Cluster::two_of_three();
    cluster.fence(4);
    let mut place = |replicas: &[i32], leader: Option<i32>| {
        let add = vec![NewSegment {
            replicas: replicas.iter().map(|broker| id(*broker)).collect(),
            leader: leader.map(id),
            ..new_segment(cluster.log.fresh())
        }];
        let count = cluster
            .log
            .image
            .topic_by_id(ID.topic)
            .map(|topic| topic.partitions.len());
        let answer = cluster.log.apply(&Command::CreatePartitions {
            topic: ID.topic,
            expected_count: count.unwrap_or(0) as i32,
            add,
        });
        let topic = cluster.log.image.topic_by_id(ID.topic).expect("topic");
        let last = topic
            .partitions
            .last()
            .and_then(|partition| partition.active());
        answer.map(|_| last.map(|open| (open.leader.0, brokers(&open.isr), brokers(&open.elr))))
    };
    let factor = |asked| Err(ApplyError::InvalidReplicationFactor { asked });
    assert_eq!(place(&[], None), factor(3));
    assert_eq!(place(&[1, 2], None), factor(3));
    assert_eq!(place(&[1, 2, 2], None), factor(3));
    let unknown = place(&[1, 2, 9], None);
    assert_eq!(unknown, Err(ApplyError::UnknownBroker { broker: id(9) }));
    let fenced = place(&[1, 2, 4], Some(4));
    assert_eq!(fenced, Err(ApplyError::Fenced { broker: id(4) }));
    let stranger = place(&[1, 2, 4], Some(3));
    assert_eq!(stranger, Err(ApplyError::NotReplica { broker: id(3) }));
    assert_eq!(place(&[4, 2, 1], None), Ok(Some((2, vec![2, 1], vec![]))));
}
