//! Unplanned and planned seals, and what is sealed: F01 to F11, F13, F35 to F41, F45.

use mainstem_metadata::{Command, Rule};

use super::{A, B, Case, L};
use crate::world::{World, broker::Stop, message::Kind};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("F01", &[Rule::R22Isr], &[1], f01),
        Case::new("F02", &[Rule::R22Elr], &[1], f02),
        Case::new("F03", &[Rule::R23Leader], &[11], f03),
        Case::new("F04", &[Rule::R23Outside], &[11], f04),
        Case::new("F05", &[Rule::R10, Rule::R26b], &[1], f05),
        Case::new("F06", &[Rule::R6, Rule::R10], &[1], f06),
        Case::new("F07", &[Rule::R26b], &[3], f07),
        Case::new("F08", &[Rule::R26c], &[1], f08),
        Case::new("F09", &[Rule::R26c], &[1], f09),
        Case::new("F10", &[Rule::R26eMin], &[9], f10),
        Case::new("F11", &[Rule::R26a], &[1, 3], f11),
        Case::new("F13", &[Rule::R29], &[1], f13),
        Case::new("F35", &[Rule::R34], &[3], f35),
        Case::new("F36", &[Rule::R26d], &[9], f36),
        Case::new("F37", &[Rule::R30], &[1], f37),
        Case::new("F38", &[Rule::R28Watermark], &[3], f38),
        Case::new("F39", &[Rule::R28Min], &[9], f39),
        Case::new("F40", &[Rule::R37], &[2, 4], f40).min(1),
        Case::new("F41", &[Rule::R33], &[11], f41),
        Case::new("F45", &[Rule::R26eLost], &[9, 11], f45),
    ]
}

/// One record that everybody has, and that is exposed.
pub(super) fn exposed_one(world: &mut World) {
    world.append(L);
    world.pulls(A);
    world.pulls(B);
}

/// A has r; seal begins; L and B answer without r; B goes on, takes r and acks; L's hw passes r; the
/// seal ends below r.
fn f01(world: &mut World) {
    exposed_one(world);
    world.seal_begins();
    let answers = [world.answers(L), world.answers(B)];
    world.append(L);
    world.pulls(A);
    world.pulls(B);
    let next = [world.member(A), world.member(B)];
    let complete = [world.member(L), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &next);
}

/// The same with A and B in ELR, asked but not fenced: L has not learned that its shrink is applied.
fn f02(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.shrinks(L, A);
    world.arrives(Kind::AlterIsr);
    world.seal_begins();
    let answers = [world.answers(A), world.answers(B)];
    world.append(L);
    world.pulls(A);
    let complete = [world.member(A), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &complete);
}

/// L restarts cleanly, is needed as second holder, and may not answer.
fn f03(world: &mut World) {
    exposed_one(world);
    world.stop(B, Stop::Clean);
    world.gone.insert(B);
    world.restarts(L, Stop::Clean);
}

/// ISR {L,A}; L dies; B, outside ISR, may not be copied to.
fn f04(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.append(L);
    world.pulls(A);
    world.stop(L, Stop::Kill);
    world.gone.insert(L);
}

/// B answers, restarts cleanly without its fence, acks again; L counts it; CommitSeal uses the old
/// answer.
fn f05(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.seal_begins();
    let answers = [world.answers(B), world.answers(A)];
    let complete = [world.member(B), world.member(A)];
    world.restarts(B, Stop::Clean);
    world.append(L);
    world.pulls(B);
    let next = [world.member(A), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &next);
}

/// B answers, restarts on a stale image after CommitSeal, acks in the old segment; L exposes beyond
/// the end.
fn f06(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    let before = world.images.len();
    let old = world.open().id;
    world.seal_begins();
    let answers = [world.answers(B), world.answers(A)];
    let complete = [world.member(B), world.member(A)];
    world.commits(world.named(), (&answers, 1), &complete, &complete);
    world.append(L);
    world.stop(B, Stop::Clean);
    let behind = world.images.len() - before;
    world.returns(B, behind);
    world.pulls_in(B, old);
}

/// L answers, loses its tail in a crash, returns; the seal lists it on the old answer.
fn f07(world: &mut World) {
    exposed_one(world);
    world.seal_begins();
    let answers = [world.answers(L), world.answers(A)];
    world.restarts(L, Stop::Power { kept: 0 });
    let complete = [world.member(L), world.member(A)];
    world.commits(world.named(), (&answers, 1), &complete, &complete);
}

/// ISR {L,A} exposed r; L and B answer; the end is taken from B, which is outside ISR and ELR.
fn f08(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.append(L);
    world.pulls(A);
    world.seal_begins();
    let answers = [world.answers(L), world.answers(B)];
    let complete = [world.member(L), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &complete);
}

/// The end is chosen below every certificate.
fn f09(world: &mut World) {
    exposed_one(world);
    world.seal_begins();
    let answers = [world.answers(L), world.answers(A)];
    let complete = [world.member(L), world.member(A)];
    world.commits(world.named(), (&answers, 0), &complete, &complete);
}

/// Two of three die during the seal; the next segment opens with the one live broker as its ISR.
fn f10(world: &mut World) {
    exposed_one(world);
    world.seal_begins();
    let answers = [world.answers(B), world.answers(A)];
    let complete = [world.member(B), world.member(A)];
    world.stop(L, Stop::Kill);
    world.stop(B, Stop::Kill);
    let next = [world.member(A)];
    world.commits(world.named(), (&answers, 1), &complete, &next);
}

/// Two controllers commit different ends.
fn f11(world: &mut World) {
    exposed_one(world);
    world.append(L);
    world.takes(A, world.open().id);
    world.seal_begins();
    let named = world.named();
    let [l, a, b] = [world.answers(L), world.answers(A), world.answers(B)];
    let ends_at_two = [world.member(L), world.member(A)];
    let ends_at_one = [world.member(L), world.member(B)];
    world.commits(named, (&[l, a, b], 1), &ends_at_one, &ends_at_one);
    world.commits(named, (&[l, a, b], 2), &ends_at_two, &ends_at_two);
}

/// SealAndOpen delayed; version moved; L thawed and exposed more; it is applied.
fn f13(world: &mut World) {
    exposed_one(world);
    world.freezes(L);
    let seal = world.held(Kind::SealAndOpen);
    assert!(!seal.is_empty());
    world.evicts(B);
    world.catch_up(L, 0);
    world.append(L);
    world.pulls(A);
    world.late(&seal);
}

/// A copies a sealed segment, loses it, its AddComplete arrives late.
fn f35(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.freezes(L);
    world.arrives(Kind::SealAndOpen);
    world.catch_up_all();
    world.broker_ticks(A);
    let add = world.held(Kind::AddComplete);
    assert!(!add.is_empty());
    world.restarts(A, Stop::Power { kept: 0 });
    world.late(&add);
}

/// L answers, dies uncleanly; the seal lists only L.
fn f36(world: &mut World) {
    exposed_one(world);
    world.seal_begins();
    let answers = [world.answers(L)];
    let complete = [world.member(L)];
    world.stop(L, Stop::Power { kept: 0 });
    let next = [world.member(A), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &next);
    world.returns(L, 0);
}

/// SealAndOpen times out; L thaws, exposes more; it is applied.
fn f37(world: &mut World) {
    exposed_one(world);
    world.freezes(L);
    let seal = world.held(Kind::SealAndOpen);
    assert!(!seal.is_empty());
    world.leader_waits(L);
    world.append(L);
    world.pulls(A);
    world.pulls(B);
    world.late(&seal);
}

/// SealAndOpen before hw = E.
fn f38(world: &mut World) {
    exposed_one(world);
    world.append(L);
    world.pulls(A);
    world.freezes(L);
    world.arrives(Kind::SealAndOpen);
}

/// SealAndOpen with ISR {L}; L loses its tail; A and B had everything.
fn f39(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.freezes(L);
    world.arrives(Kind::SealAndOpen);
    world.restarts(L, Stop::Power { kept: 0 });
}

/// min 1: lossy seal, next base = E, L appends at an offset already read.
fn f40(world: &mut World) {
    world.append(L);
    world.without(L, A);
    world.without(L, B);
    assert_eq!(world.hw(L).map(|hw| hw.0), Some(1));
    world.restarts(L, Stop::Power { kept: 0 });
}

/// A holds records beyond E and never cuts.
fn f41(world: &mut World) {
    exposed_one(world);
    world.append(L);
    world.takes(A, world.open().id);
    world.seal_begins();
    let answers = [world.answers(L), world.answers(B)];
    let complete = [world.member(L), world.member(B)];
    world.commits(world.named(), (&answers, 1), &complete, &complete);
}

/// L is declared lost while alive; CommitSeal puts it in the next ISR before it has registered.
fn f45(world: &mut World) {
    exposed_one(world);
    let member = world.member(L);
    for command in [
        Command::FenceBroker { member },
        Command::DeclareLost { member },
    ] {
        world.apply(&command).expect("L is away");
    }
    let answers = [world.answers(A), world.answers(B)];
    let complete = [world.member(A), world.member(B)];
    let next = [world.member(A), world.member(L)];
    world.commits(world.named(), (&answers, 1), &complete, &next);
}
