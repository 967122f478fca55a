use std::collections::BTreeSet;

use super::world::*;
use crate::{
    controller::term::{Effect, Term},
    machine::Timers,
};
use mainstem_metadata::Command;
use mainstem_record::{BrokerId, Incarnation, Member, Offset};

fn is_fence(command: &Command) -> bool {
    matches!(command, Command::FenceBroker { .. })
}

fn is_commit(command: &Command) -> bool {
    matches!(command, Command::CommitSeal { .. })
}

fn is_loss(command: &Command) -> bool {
    matches!(command, Command::DeclareLost { .. })
}

#[test]
fn a_killed_leader_is_replaced_once_its_session_ends_and_leaders_are_spread() {
    let mut world = World::new(3);
    world.create(1, 40, &[1, 2, 3], 2);
    world.run(ms(2_000));
    assert_eq!(world.proposed, []);
    world.kill(1);
    world.run(ms(2_400));
    assert_eq!(world.count(is_fence), 0);
    world.run(ms(1_500));
    assert_eq!(world.count(is_fence), 1);
    // All partitions in one command, each with the digest that both have.
    assert_eq!(world.count(is_commit), 1);
    let mut leads = [0; 4];
    for index in 0..40 {
        let id = partition(1, index);
        let leader = world.leader(id).expect("it is led");
        leads[usize::try_from(leader.broker.0).expect("positive")] += 1;
        let record = world.image.partition(id).expect("known");
        let sealed = record.segments.front().expect("sealed");
        assert_eq!(sealed.end, Some(Offset(10)));
        assert_eq!(sealed.digest, Some(42_u128.to_be_bytes()));
    }
    assert_eq!(leads, [0, 0, 20, 20]);
    assert_eq!(world.term.counts().leaderless, 0);
    assert_eq!(world.term.counts().under_replicated, 40);
    assert_eq!(world.term.counts().fenced_brokers, 1);
    assert_eq!(world.term.sealed().len(), 40);
}

#[test]
fn refused_connections_end_a_session_at_once() {
    let mut world = World::new(5);
    world.create(1, 3, &[1, 2, 3], 2);
    world.run(ms(2_000));
    world.kill(1);
    world.now += ms(1);
    // One alone may have trouble of its own.
    world.heartbeat(member(2), &[member(1)]);
    world.run(ms(50));
    assert_eq!(world.count(is_fence), 0);
    world.heartbeat(member(3), &[member(1)]);
    world.run(ms(50));
    assert_eq!(world.count(is_fence), 1);
    assert!(world.leader(partition(1, 0)).is_some());

    // What the controller sees itself suffices, also of a life that it never heard: that of the
    // controller before it.
    world.change_controller();
    let refused = world.now;
    world
        .term
        .suspect([(member(2), refused)].into_iter(), world.now);
    world.run(ms(50));
    assert_eq!(world.count(is_fence), 2);
}

#[test]
fn who_was_heard_after_it_refused_is_not_fenced() {
    let mut world = World::new(3);
    world.run(ms(1_000));
    let refused = world.now - ms(1);
    world.heartbeats();
    world
        .term
        .suspect([(member(1), refused)].into_iter(), world.now);
    assert_eq!(world.tick(), []);
}

#[test]
fn a_new_controller_fences_nobody_for_a_whole_session() {
    let mut world = World::new(3);
    world.create(1, 1, &[1, 2, 3], 2);
    world.alive.clear();
    world.now += ms(60_000);
    world.change_controller();
    world.run(ms(2_900));
    assert_eq!(world.proposed, []);
    world.run(ms(200));
    assert_eq!(world.count(is_fence), 3);
}

#[test]
fn a_controller_that_was_stopped_does_not_fence_those_it_could_not_hear() {
    let mut world = World::new(3);
    world.run(ms(1_000));
    world.now += ms(20_000);
    assert_eq!(world.tick(), []);
    world.run(ms(2_000));
    assert_eq!(world.proposed, []);
}

#[test]
fn a_broker_that_comes_back_is_unfenced_and_its_segments_grow_again() {
    let mut world = World::new(3);
    world.create(1, 2, &[1, 2, 3], 2);
    world.run(ms(1_000));
    world.kill(1);
    world.run(ms(4_000));
    world.alive.insert(member(1));
    world.run(ms(1_000));
    assert!(!world.image.brokers[&BrokerId(1)].fenced);
    // Their leaders are told to seal, once each: these segments have two replicas.
    world.run(ms(4_000));
    world.rolls.sort_unstable();
    assert_eq!(world.rolls, [partition(1, 0), partition(1, 1)]);
}

#[test]
fn replicas_that_differ_do_not_become_complete_together() {
    let mut world = World::new(5);
    world.create(1, 1, &[1, 2, 3, 4], 2);
    world.run(ms(1_000));
    world.differs.insert(BrokerId(3));
    world.kill(1);
    world.run(ms(5_000));
    let record = world.image.partition(partition(1, 0)).expect("known");
    let sealed = record.segments.front().expect("sealed");
    let complete: Vec<i32> = sealed.complete.iter().map(|it| it.broker.0).collect();
    assert_eq!(complete, [2, 4]);
}

#[test]
fn an_empty_segment_is_sealed_without_asking_what_is_in_it() {
    let mut world = World::new(1);
    world.create(1, 3, &[1], 1);
    for index in 0..3 {
        let id = world.image.partition(partition(1, index)).expect("known");
        let segment = id.active().expect("open").id;
        world.leos.insert((BrokerId(1), segment), 0);
    }
    world.restart(1, true);
    world.change_controller();
    let fences = world.tick();
    assert!(
        matches!(fences.as_slice(), [Effect::Ask(_, _)]),
        "{fences:?}"
    );
    for effect in fences {
        world.perform(effect);
    }
    let commit = world.tick();
    assert!(
        matches!(commit.as_slice(), [Effect::Propose(command)] if is_commit(command)),
        "{commit:?}"
    );
}

#[test]
fn any_controller_goes_on_where_the_last_one_was_killed() {
    // After how many effects it is killed.
    for step in 0..12 {
        let mut world = World::new(3);
        world.create(1, 2, &[1, 2, 3], 2);
        for index in 0..2 {
            let record = world.image.partition(partition(1, index)).expect("known");
            let segment = record.active().expect("open").id;
            world.leos.insert((BrokerId(2), segment), 20);
        }
        world.run(ms(1_000));
        world.kill(1);
        let mut left = step;
        'working: for _ in 0..200 {
            world.now += ms(50);
            if world.now.as_millis().is_multiple_of(500) {
                world.heartbeats();
            }
            for effect in world.tick() {
                if left == 0 {
                    break 'working;
                }
                left -= 1;
                world.perform(effect);
            }
        }
        world.change_controller();
        world.run(ms(6_000));
        for index in 0..2 {
            let record = world.image.partition(partition(1, index)).expect("known");
            let sealed = record.segments.front().expect("sealed");
            assert_eq!(sealed.end, Some(Offset(20)), "step {step}");
            assert!(world.leader(partition(1, index)).is_some(), "step {step}");
        }
    }
}

#[test]
fn a_segment_waits_for_min_insync_holders_and_then_goes_on() {
    let mut world = World::new(3);
    world.create(1, 1, &[1, 2, 3], 2);
    world.run(ms(1_000));
    world.kill(1);
    world.kill(2);
    world.run(ms(10_000));
    assert_eq!(world.leader(partition(1, 0)), None);
    assert_eq!(world.term.counts().leaderless, 1);
    world.restart(2, true);
    world.run(ms(2_000));
    assert!(world.leader(partition(1, 0)).is_some());
}

#[test]
fn a_segment_with_too_few_live_replicas_moves_to_others() {
    let mut world = World::new(4);
    world.create(1, 1, &[1, 2], 2);
    world.run(ms(1_000));
    world.kill(2);
    world.run(ms(8_000));
    let record = world.image.partition(partition(1, 0)).expect("known");
    let open = record.active().expect("open");
    assert!(world.leader(partition(1, 0)).is_some());
    let live: BTreeSet<BrokerId> = [1, 3, 4].map(BrokerId).into();
    assert!(
        open.replicas.iter().all(|broker| live.contains(broker)),
        "{open:?}"
    );
}

#[test]
fn a_broker_is_declared_lost_only_where_that_is_allowed_and_after_the_time_for_it() {
    let mut world = World::new(3);
    world.create(1, 1, &[1], 1);
    world.create(2, 1, &[1], 1);
    world.unclean.insert(topic(1));
    world.run(ms(1_000));
    world.kill(1);
    world.run(ms(400_000));
    // The other topic waits for it.
    assert_eq!(world.count(is_loss), 0);
    world.unclean.insert(topic(2));
    world.run(ms(1_000));
    assert_eq!(world.count(is_loss), 1);
    for number in [1, 2] {
        let leader = world.leader(partition(number, 0)).expect("it is led");
        assert_ne!(leader.broker, BrokerId(1));
    }
    // It comes back as another life and is taken again.
    world.restart(1, false);
    world.run(ms(2_000));
    assert!(!world.image.brokers[&BrokerId(1)].lost);
    let now = Member::new(BrokerId(1), Incarnation(3));
    assert!(world.image.is_current(now));
}

#[test]
fn two_controllers_at_once_are_harmless() {
    let mut world = World::new(3);
    world.create(1, 5, &[1, 2, 3], 2);
    world.run(ms(1_000));
    world.kill(1);
    let mut other = Term::new(Timers::default(), INTERVAL, &world.image, world.now);
    for _ in 0..200 {
        world.now += ms(50);
        for _ in 0..2 {
            // Each hears every broker, and sees what the other has brought about.
            let is_due = world.now.as_millis().is_multiple_of(500);
            if is_due {
                world.heartbeats();
            }
            for effect in world.tick() {
                world.perform(effect);
            }
            std::mem::swap(&mut world.term, &mut other);
        }
    }
    for index in 0..5 {
        let record = world.image.partition(partition(1, index)).expect("known");
        assert_eq!(record.segments.len(), 2);
        assert!(world.leader(partition(1, index)).is_some());
    }
}
