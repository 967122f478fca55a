//! ISR changes and the high watermark: F12, F14 to F22, F31 to F33, F43, F44.

use mainstem_metadata::Rule;

use super::{A, B, Case, L, seal::exposed_one};
use crate::world::{World, broker::Stop, message::Kind};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("F12", &[Rule::R15Version], &[1, 5], f12),
        Case::new("F14", &[Rule::R15Incarnation], &[1, 5, 9], f14),
        Case::new("F15", &[Rule::R16], &[1, 5], f15),
        Case::new("F16", &[Rule::R12Proposed], &[1, 5], f16),
        Case::new("F17", &[Rule::R12Confirmed], &[1, 5], f17),
        Case::new("F18", &[Rule::R12Size], &[1, 5], f18),
        Case::new("F19", &[Rule::R12Min], &[1, 5], f19),
        // In a walk F21, which needs less, is found first.
        Case::new("F20", &[Rule::R12Min, Rule::R19Join], &[1, 9], f20).walk_breaks(&[1]),
        Case::new("F21", &[Rule::R19Join], &[9], f21),
        Case::new("F22", &[Rule::R19Empty], &[1, 5], f22),
        Case::new("F31", &[Rule::R17Pending], &[1, 5], f31),
        Case::new("F32", &[Rule::R17Passing], &[1, 5], f32),
        Case::new("F33", &[Rule::R18], &[11], f33),
        Case::new("F43", &[Rule::R13Image], &[1, 5], f43).min(1),
        Case::new("F44", &[Rule::R13Lower], &[1, 5], f44),
    ]
}

/// Shrink, then expand; a late duplicate of an AlterIsr is applied after hw moved.
fn f12(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.expands(L, world.member(A));
    let expand = world.held(Kind::AlterIsr);
    world.late(&expand);
    world.catch_up(L, 0);
    world.without(L, A);
    world.append(L);
    world.pulls(B);
    world.late(&expand);
}

/// Expand names A's old incarnation; A lost its tail; applied.
fn f14(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.append(L);
    world.pulls(A);
    world.pulls(B);
    world.expands(L, world.member(A));
    let expand = world.held(Kind::AlterIsr);
    world.restarts(A, Stop::Power { kept: 0 });
    world.late(&expand);
    world.catch_up(L, 0);
}

/// Expand of a follower below hw.
fn f15(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.append(L);
    world.pulls(B);
    world.expands(L, world.member(A));
    world.altered(L);
}

/// Expand of B pending; hw advances without B; expand applied; B certifies.
fn f16(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.expands(L, world.member(B));
    world.append(L);
    world.pulls(A);
    world.altered(L);
}

/// Shrink to L pending; hw advances on L alone; seal instead.
fn f17(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.shrinks(L, A);
    world.append(L);
    world.check();
}

/// ISR {L}, expand of A pending; counted as two; hw advances; B in ELR certifies.
fn f18(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.append(L);
    world.pulls(A);
    world.expands(L, world.member(A));
    world.append(L);
    world.pulls(A);
}

/// ISR {L} below min; hw advances; the others are in ELR.
fn f19(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.append(L);
    world.check();
}

/// The same without ELR, and L loses its tail.
fn f20(world: &mut World) {
    f19(world);
    world.restarts(L, Stop::Power { kept: 0 });
}

/// ISR shrinks to L, which crashes uncleanly; A and B hold everything but nobody is eligible.
fn f21(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.restarts(L, Stop::Power { kept: 0 });
}

/// B in ELR; ISR back at {L,A}; hw advances; B certifies.
fn f22(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    world.without(L, B);
    world.expands(L, world.member(A));
    world.altered(L);
    world.append(L);
    world.pulls(A);
}

/// Expand of B times out, L forgets it, hw advances, the expand is applied.
fn f31(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.expands(L, world.member(B));
    let expand = world.held(Kind::AlterIsr);
    world.append(L);
    world.now += world.timers.stall_max;
    world.pulls(A);
    world.leader_waits(L);
    world.held(Kind::AlterIsr);
    world.pulls(A);
    world.late(&expand);
}

/// The retry is refused because the first copy was applied; L takes that as final.
fn f32(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.expands(L, world.member(B));
    let expand = world.held(Kind::AlterIsr);
    world.late(&expand);
    world.held(Kind::Outcome);
    world.late(&expand);
    world.arrives(Kind::Outcome);
    world.append(L);
    world.pulls(A);
}

/// Expand of a stale incarnation is refused for ever, L keeps it pending.
fn f33(world: &mut World) {
    exposed_one(world);
    world.without(L, A);
    let old = world.member(A);
    world.restarts(A, Stop::Clean);
    world.expands(L, old);
    world.arrives(Kind::AlterIsr);
    world.arrives(Kind::Outcome);
}

/// min raised 1 -> 2 in the controller; L still counts by 1; the leaver is put in ELR; L commits
/// alone.
fn f43(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.alters_min(2);
    world.catch_up(L, 0);
    world.without(L, A);
    world.append(L);
    world.check();
}

/// min lowered 2 -> 1 with A in ELR; L commits alone; A certifies.
fn f44(world: &mut World) {
    exposed_one(world);
    world.without(L, B);
    world.without(L, A);
    world.alters_min(1);
    world.catch_up(L, 0);
    world.append(L);
    world.check();
}
