//! Identity and restart: F23 to F30, F34, F42, F46.

use mainstem_metadata::Rule;

use super::{A, B, Case, L, seal::exposed_one};
use crate::world::{World, broker::Stop, message::Kind};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("F23", &[Rule::R4Elr], &[1, 5], f23),
        Case::new("F24", &[Rule::R4Isr], &[1, 5], f24),
        Case::new("F25", &[Rule::R1], &[1, 5], f25).keeps_life(),
        Case::new("F26", &[Rule::R1], &[9], f26).min(1),
        Case::new("F27", &[Rule::R3], &[9], f27),
        Case::new("F28", &[Rule::R10], &[1, 5], f28),
        Case::new("F29", &[Rule::R5], &[6, 7], f29).walk_breaks(&[6]),
        Case::new("F30", &[Rule::R5], &[2, 6, 7], f30).walk_breaks(&[2, 7]),
        Case::new("F34", &[Rule::R4Complete], &[3], f34),
        Case::new("F42", &[Rule::R11], &[5], f42).always(),
        Case::new("F46", &[Rule::R2], &[1, 5], f46).always(),
    ]
}

const POWER: Stop = Stop::Power { kept: 0 };

/// An ELR member loses its tail, returns, and certifies.
fn f23(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.restarts(B, POWER);
}

/// An ISR member loses its tail, returns, and certifies.
fn f24(world: &mut World) {
    exposed_one(world);
    world.restarts(A, POWER);
}

/// A crashes uncleanly and returns under its old incarnation.
fn f25(world: &mut World) {
    exposed_one(world);
    world.restarts(A, POWER);
}

/// min 1: an old Register(unclean) is delivered again after A became the only complete replica.
fn f26(world: &mut World) {
    world.stop(A, POWER);
    world.start(A, 0);
    let register = world.held(Kind::Register);
    world.late(&register);
    world.arrives(Kind::Outcome);
    world.catch_up_all();
    exposed_one(world);
    world.expands(L, world.member(A));
    world.altered(L);
    world.seal_begins();
    let answers = [world.answers(A)];
    let member = [world.member(A)];
    world.commits(world.named(), (&answers, 1), &member, &member);
    world.late(&register);
}

/// L and A stop cleanly and return; the ISR is empty.
fn f27(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.stop(L, Stop::Clean);
    world.stop(A, Stop::Clean);
    world.returns(L, 0);
    world.returns(A, 0);
}

/// A acked r, lost it, returned; expand of the new incarnation counts the old ack.
fn f28(world: &mut World) {
    exposed_one(world);
    world.restarts(A, POWER);
    world.catch_up(L, 0);
    let segment = world.open().id;
    world.held(Kind::Append);
    let (epoch, member, leo) = world
        .replica(A, segment)
        .and_then(|replica| replica.follow())
        .expect("A follows");
    world.deliver(crate::world::message::Message::Follow {
        to: L,
        segment,
        epoch,
        member,
        leo,
    });
    world.held(Kind::Append);
    world.expands(L, member);
    world.altered(L);
}

/// L restarts cleanly and leads on with hw = base.
fn f29(world: &mut World) {
    exposed_one(world);
    world.restarts(L, Stop::Clean);
}

/// L loses its tail, leads on, reuses offsets that A has.
fn f30(world: &mut World) {
    exposed_one(world);
    world.restarts(L, POWER);
    world.append(L);
    world.check();
}

/// A complete, crashes uncleanly, stays listed.
fn f34(world: &mut World) {
    exposed_one(world);
    world.freezes(L);
    world.arrives(Kind::SealAndOpen);
    world.catch_up_all();
    world.restarts(A, POWER);
}

/// flush=always, acks before sync, power cut.
fn f42(world: &mut World) {
    world.append(L);
    world.pulls(A);
    world.pulls(B);
    let segment = world.open().id;
    for id in [A, L] {
        // Whoever syncs before it acks does so here.
        if Rule::R11.holds() {
            world.sync(id, segment);
            world.sync(B, segment);
        }
    }
    world.arrives(Kind::Ack);
    world.restarts(A, POWER);
}

/// flush=always: A's directory is restored from last night's copy; A returns as intact and certifies.
fn f46(world: &mut World) {
    world.back_up(A);
    world.restarts(A, Stop::Kill);
    world.catch_up(L, 0);
    world.append(L);
    let segment = world.open().id;
    world.sync(L, segment);
    for id in [A, B] {
        world.pulls(id);
        world.sync(id, segment);
        world.arrives(Kind::Ack);
    }
    assert_eq!(world.hw(L).map(|hw| hw.0), Some(1));
    world.restarts(A, Stop::Restored);
}
