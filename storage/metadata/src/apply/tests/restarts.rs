//! Registrations, sessions and losses of brokers: R1 to R5, R19, R20, R38.

use super::{
    cluster::{Cluster, ID, Restart, brokers, id},
    *,
};
use crate::rules::{Rule, without};

fn sealed_cluster(flush: SegmentFlush) -> Cluster {
    let mut cluster = Cluster::new(2, flush);
    let seal = cluster.planned(10);
    cluster.apply_planned(seal).expect("sealed");
    cluster
}

#[test]
fn repeated_registration_is_answered_again_and_changes_nothing() {
    let mut cluster = Cluster::two_of_three();
    let first = cluster.registration(2, Restart::SameDirectory);
    let answer = cluster.log.apply(&first);
    let incarnation = Incarnation(2);
    assert_eq!(answer, Ok(Applied::Registered { incarnation }));
    let before = cluster.log.image.clone();
    assert_eq!(cluster.log.apply(&first), answer);
    let version = cluster.log.index;
    assert_eq!(cluster.log.image, Image { version, ..before });
    // Late, after another life.
    cluster.restart(2, Restart::Intact).expect("registered");
    let current = Some(Incarnation(3));
    let late = cluster.log.apply(&first);
    assert_eq!(late, Err(ApplyError::StaleIncarnation { current }));
}

/// F26 at the level of metadata: without compare-and-set a late registration takes good copies away.
#[test]
fn late_registration_without_r1_drops_good_copies() {
    for is_kept in [true, false] {
        let mut cluster = sealed_cluster(SegmentFlush::Interval);
        let late = cluster.registration(2, Restart::SameDirectory);
        cluster.log.apply(&late).expect("registered");
        let copy = copy_of(&cluster, 2);
        let copies = vec![copy];
        cluster
            .log
            .apply(&Command::AddComplete { copies })
            .expect("applied");
        let _off = without(if is_kept { &[] } else { &[Rule::R1] });
        // Answered again, or done again.
        cluster.log.apply(&late).expect("answered");
        assert_eq!(cluster.complete().contains(&2), is_kept);
    }
}

fn copy_of(cluster: &Cluster, broker: i32) -> crate::command::SegmentCopy {
    crate::command::SegmentCopy {
        partition: ID,
        segment: cluster.sealed().id,
        member: cluster.now(broker),
        digest: cluster.sealed().digest,
    }
}

#[test]
fn intact_restart_keeps_every_entry_and_an_unclean_one_none() {
    let mut cluster = Cluster::two_of_three();
    let version = cluster.open().version;
    cluster.restart(2, Restart::Intact).expect("registered");
    assert_eq!(cluster.sets(), (vec![1, 2, 3], vec![], vec![]));
    assert!(cluster.open().isr.contains(&cluster.now(2)));
    assert_eq!(cluster.open().version, version + 1);

    cluster
        .restart(2, Restart::SameDirectory)
        .expect("registered");
    assert_eq!(cluster.sets(), (vec![1, 3], vec![], vec![]));
    // Below min_insync who lost data is remembered, in the life that lost it.
    let lost = cluster.now(3);
    cluster
        .restart(3, Restart::SameDirectory)
        .expect("registered");
    assert_eq!(cluster.sets(), (vec![1], vec![], vec![3]));
    assert_eq!(cluster.open().lost, [lost]);
    // The ELR too.
    let mut cluster = Cluster::two_of_three();
    let one = cluster.members([1]);
    cluster.alter(one).expect("applied");
    assert_eq!(cluster.sets(), (vec![1], vec![2, 3], vec![]));
    cluster.restart(2, Restart::Intact).expect("registered");
    cluster
        .restart(3, Restart::SameDirectory)
        .expect("registered");
    assert_eq!(cluster.sets(), (vec![1], vec![2], vec![3]));
    assert!(cluster.open().elr.contains(&cluster.now(2)));
}

#[test]
fn what_is_synced_before_it_is_acknowledged_needs_only_the_same_directory() {
    let left = |how| {
        let mut cluster = Cluster::new(2, SegmentFlush::Always);
        cluster.restart(2, how).expect("registered");
        cluster.sets().0
    };
    assert_eq!(left(Restart::SameDirectory), [1, 2, 3]);
    // F46: a directory that is restored from an older copy does not know the last life.
    assert_eq!(left(Restart::RestoredDirectory), [1, 3]);
    assert_eq!(left(Restart::OtherDirectory), [1, 3]);
    let _off = without(&[Rule::R2]);
    assert_eq!(left(Restart::RestoredDirectory), [1, 2, 3]);
}

#[test]
fn copies_outlive_an_unclean_restart_only_if_synced_in_the_same_directory() {
    let left = |flush, how| {
        let mut cluster = sealed_cluster(flush);
        // Broker 1 has synced its copy, broker 2 has not.
        cluster.restart(1, how).expect("registered");
        cluster.restart(2, how).expect("registered");
        cluster.complete()
    };
    let interval = |how| left(SegmentFlush::Interval, how);
    assert_eq!(interval(Restart::Intact), [1, 2, 3]);
    assert_eq!(interval(Restart::SameDirectory), [1, 3]);
    assert_eq!(interval(Restart::RestoredDirectory), [3]);
    assert_eq!(interval(Restart::OtherDirectory), [3]);
    assert_eq!(
        left(SegmentFlush::Always, Restart::SameDirectory),
        [1, 2, 3]
    );
    let _off = without(&[Rule::R4Complete]);
    assert_eq!(interval(Restart::OtherDirectory), [1, 2, 3]);
}

#[test]
fn switches_of_r3_and_r4_matter() {
    let left = |rule, how| {
        let mut cluster = Cluster::two_of_three();
        let one = cluster.members([1, 2]);
        cluster.alter(one).expect("applied");
        let one = cluster.members([1]);
        cluster.alter(one).expect("applied");
        let _off = without(&[rule]);
        cluster.restart(2, how).expect("registered");
        cluster.restart(1, how).expect("registered");
        let (isr, elr, _) = cluster.sets();
        (isr, elr)
    };
    assert_eq!(left(Rule::R38, Restart::Intact), (vec![1], vec![2]));
    assert_eq!(left(Rule::R3, Restart::Intact), (vec![], vec![]));
    assert_eq!(left(Rule::R4Isr, Restart::SameDirectory), (vec![1], vec![]));
    assert_eq!(left(Rule::R4Elr, Restart::SameDirectory), (vec![], vec![2]));
}

#[test]
fn what_a_restarted_leader_led_is_sealed_also_when_intact() {
    for how in [Restart::Intact, Restart::SameDirectory] {
        let mut cluster = Cluster::two_of_three();
        cluster.restart(1, how).expect("registered");
        assert_eq!(cluster.open().state, SegmentState::Sealing);
        let mut cluster = Cluster::two_of_three();
        let _off = without(&[Rule::R5]);
        cluster.restart(1, how).expect("registered");
        assert_eq!(cluster.open().state, SegmentState::Active);
        assert_eq!(cluster.open().leader_member(), cluster.now(1));
    }
}

#[test]
fn end_of_a_session_evicts_followers_and_seals_what_was_led() {
    let mut cluster = Cluster::two_of_three();
    cluster.fence(3);
    assert_eq!(cluster.sets(), (vec![1, 2], vec![], vec![]));
    cluster.fence(2);
    assert_eq!(cluster.sets(), (vec![1], vec![2], vec![]));
    assert_eq!(cluster.open().state, SegmentState::Active);
    cluster.fence(1);
    assert_eq!(cluster.open().state, SegmentState::Sealing);
    // Its members are waited for.
    assert_eq!(cluster.sets(), (vec![1], vec![2], vec![]));
    let version = cluster.open().version;
    cluster.fence(1);
    assert_eq!(cluster.open().version, version);

    let member = cluster.now(1);
    let unfenced = cluster.log.apply(&Command::UnfenceBroker { member });
    assert_eq!(unfenced, Ok(Applied::BrokerChanged));
    let broker = |cluster: &Cluster| cluster.log.image.brokers.get(&id(1)).cloned();
    assert!(broker(&cluster).is_some_and(|broker| !broker.fenced));
    let drained = cluster.log.apply(&Command::DrainBroker { member });
    assert_eq!(drained, Ok(Applied::BrokerChanged));
    assert!(broker(&cluster).is_some_and(|broker| broker.draining));
    cluster.restart(1, Restart::Intact).expect("registered");
    assert!(broker(&cluster).is_some_and(|broker| !broker.draining));
    let current = Some(Incarnation(2));
    for command in [
        Command::FenceBroker { member },
        Command::UnfenceBroker { member },
        Command::DrainBroker { member },
        Command::DeclareLost { member },
    ] {
        let answer = cluster.log.apply(&command);
        assert_eq!(answer, Err(ApplyError::StaleIncarnation { current }));
    }
}

#[test]
fn only_a_broker_that_is_away_is_declared_lost_and_nothing_of_it_stays() {
    let mut cluster = sealed_cluster(SegmentFlush::Always);
    assert_eq!(
        cluster.declare_lost(1),
        Err(ApplyError::Alive { broker: id(1) })
    );
    cluster.fence(1);
    let incarnation = Incarnation(2);
    assert_eq!(
        cluster.declare_lost(1),
        Ok(Applied::DeclaredLost { incarnation })
    );
    assert_eq!(cluster.sets(), (vec![2, 3], vec![], vec![]));
    assert_eq!(cluster.complete(), [2, 3]);
    assert_eq!(
        cluster.declare_lost(1),
        Err(ApplyError::DeclaredLost { broker: id(1) })
    );
    // Whatever it proves, it comes back with nothing.
    cluster.restart(1, Restart::Intact).expect("registered");
    assert_eq!(cluster.complete(), [2, 3]);
    assert_eq!(brokers(&cluster.open().isr), [2, 3]);

    cluster.fence(2);
    let member = cluster.now(2);
    let gone = cluster.log.apply(&Command::UnregisterBroker { member });
    assert!(matches!(gone, Ok(Applied::DeclaredLost { .. })));
    let broker = cluster.log.image.brokers.get(&id(2)).expect("remembered");
    assert!(broker.lost && broker.listeners.is_empty());
    let _off = without(&[Rule::R38]);
    assert!(cluster.declare_lost(3).is_ok());
}

#[test]
fn life_of_an_earlier_build_is_taken_for_intact_once() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    log.seal_now(id, 5);
    log.register().expect("registered");
    let chain = log.chain(id);
    let now = Member::new(BROKER, Incarnation(2));
    assert_eq!(chain[0].complete[0].member(), now);
    assert_eq!(
        (chain[1].isr.clone(), chain[1].state),
        (vec![now], SegmentState::Sealing)
    );
    // This build registers with a request; its own next start must prove what it claims.
    for (current, isr) in [(2, vec![Member::new(BROKER, Incarnation(3))]), (3, vec![])] {
        let mut command = registration(BROKER, 7, Some(Incarnation(current)));
        if let Command::RegisterBroker { request, .. } = &mut command {
            *request = Uuid::from_u128(u128::from(current));
        }
        log.apply(&command).expect("registered");
        assert_eq!(log.chain(id)[1].isr, isr);
    }
}
