//! One test for each rule of static members (KIP-345, KIP-814).

use std::time::Duration;

use super::{
    GroupState,
    bench::{Bench, SETTINGS, request, static_request, subscription},
};
use crate::{
    ErrorCode,
    groups::requests::{JoinRequest, LeaveMember},
};

const SECOND: Duration = Duration::from_secs(1);

fn leave(bench: &mut Bench, member_id: &str, instance_id: Option<&str>) -> ErrorCode {
    let leaving = LeaveMember {
        member_id: member_id.to_owned(),
        instance_id: instance_id.map(str::to_owned),
        reason: None,
    };
    let results = bench
        .machine
        .leave(bench.now(), &[leaving])
        .expect("not dead");
    bench.drain();
    results[0]
}

#[test]
fn static_members_need_no_second_join() {
    let mut bench = Bench::new(SETTINGS);
    let first = JoinRequest {
        require_member_id: true,
        ..static_request("i", &["t"])
    };
    let token = bench.join(&first);
    bench.advance(3 * SECOND);
    assert_eq!(bench.joined(token).member_id, "m0");
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut bench = Bench::new(SETTINGS);
    bench.stable(&[request("", &["t"]), static_request("i", &["t"])]);
    let generation = bench.machine.generation();
    // What it owned before is in its metadata too, but the topics are the same.
    let mut back = static_request("i", &["t"]);
    back.protocols = vec![("range".to_owned(), subscription(&["t"], b"owned"))];
    let token = bench.join(&back);
    assert!(
        !bench.joins.contains_key(&token),
        "the new id must be durable first"
    );
    let snapshot = bench.store_done(Ok(())).expect("asked for");
    assert!(
        snapshot
            .members
            .iter()
            .any(|member| member.member_id == "m2")
    );
    let answer = bench.joined(token).clone();
    assert_eq!(
        (answer.generation, answer.member_id.as_str()),
        (generation, "m2")
    );
    assert_eq!(bench.machine.state(), GroupState::Stable);
    let now = bench.now();
    let mut beat = |id| bench.machine.heartbeat(now, generation, id, Some("i"));
    assert_eq!(beat("m1"), ErrorCode::FencedInstanceId);
    assert_eq!(beat("m2"), ErrorCode::None);
    let sync = bench.sync(("m2", Some("i")), generation, &[]);
    assert_eq!(
        &bench.syncs[&sync].assignment[..],
        b"part of m1",
        "it keeps its part"
    );
    let sync = bench.sync(("m1", Some("i")), generation, &[]);
    assert_eq!(bench.syncs[&sync].error, ErrorCode::FencedInstanceId);
    assert_eq!(
        leave(&mut bench, "m1", Some("i")),
        ErrorCode::FencedInstanceId
    );
    let stale = JoinRequest {
        member_id: "m1".to_owned(),
        ..static_request("i", &["t"])
    };
    let token = bench.join(&stale);
    assert_eq!(bench.joins[&token].error, ErrorCode::FencedInstanceId);
}

#[test]
fn a_static_leader_that_comes_back_does_not_assign() {
    let mut bench = Bench::new(SETTINGS);
    bench.stable(&[static_request("i", &["t"])]);
    let token = bench.join(&static_request("i", &["t"]));
    bench.store_done(Ok(()));
    let answer = bench.joined(token).clone();
    assert!(answer.skip_assignment);
    assert_eq!(
        (answer.leader.as_str(), answer.members.len()),
        (answer.member_id.as_str(), 1)
    );
    // Below version 9 it must not take itself for the leader.
    let old = JoinRequest {
        supports_skip_assignment: false,
        ..static_request("i", &["t"])
    };
    let token = bench.join(&old);
    bench.store_done(Ok(()));
    let answer = bench.joined(token);
    assert!(!answer.skip_assignment && answer.members.is_empty());
    assert_ne!(answer.leader, answer.member_id);
}

#[test]
fn a_static_member_that_comes_back_with_other_topics_rebalances() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"]), static_request("i", &["t"])]);
    let token = bench.join(&static_request("i", &["t", "u"]));
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
    bench.join(&request(&ids[0], &["t"]));
    assert_eq!(bench.joined(token).generation, 2);
}

#[test]
fn a_static_member_that_cannot_be_stored_stays_who_it_was() {
    let mut bench = Bench::new(SETTINGS);
    bench.stable(&[static_request("i", &["t"])]);
    let token = bench.join(&static_request("i", &["t"]));
    bench.store_done(Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(
        bench.joins[&token].error,
        ErrorCode::CoordinatorNotAvailable
    );
    assert_eq!(bench.machine.leader.as_deref(), Some("m0"));
    let now = bench.now();
    assert_eq!(
        bench.machine.heartbeat(now, 1, "m0", Some("i")),
        ErrorCode::None
    );
    assert_eq!(
        bench.machine.heartbeat(now, 1, "m1", None),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn a_rebalance_that_begins_before_the_new_id_is_stored_takes_the_member_along() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"]), static_request("i", &["t"])]);
    let token = bench.join(&static_request("i", &["t"]));
    bench.join(&request(&ids[0], &["t", "u"]));
    bench.store_done(Ok(()));
    assert_eq!(
        bench.joined(token).generation,
        2,
        "not the generation that was"
    );
    // The same when the store fails: the rebalance stores the new id.
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"]), static_request("i", &["t"])]);
    let token = bench.join(&static_request("i", &["t"]));
    bench.join(&request("", &["t"]));
    bench.store_done(Err(ErrorCode::NotCoordinator));
    assert!(!bench.joins.contains_key(&token));
    bench.join(&request(&ids[0], &["t"]));
    assert_eq!(bench.joined(token).generation, 2);
}

#[test]
fn a_static_member_fences_its_twin_that_waits() {
    let mut bench = Bench::new(SETTINGS);
    let twin = bench.join(&static_request("i", &["t"]));
    let token = bench.join(&static_request("i", &["t"]));
    assert_eq!(bench.joins[&twin].error, ErrorCode::FencedInstanceId);
    bench.advance(6 * SECOND);
    assert_eq!(bench.joined(token).members.len(), 1);
    // Also after the join: then the others must not be told of the old id.
    let sync = bench.sync(("m1", Some("i")), 1, &[]);
    let token = bench.join(&static_request("i", &["t"]));
    assert_eq!(bench.syncs[&sync].error, ErrorCode::FencedInstanceId);
    assert_eq!(bench.joined(token).generation, 2);
}

#[test]
fn an_absent_static_member_keeps_its_place_while_its_session_lasts() {
    let mut bench = Bench::new(SETTINGS);
    let absent = JoinRequest {
        session_timeout_ms: 60_000,
        ..static_request("i", &["t"])
    };
    bench.stable(&[request("", &["t"]), absent]);
    bench.heartbeat("m0", 1);
    let leader = bench.join(&request("m0", &["t"]));
    bench.advance(30 * SECOND);
    assert_eq!(
        bench.joined(leader).members.len(),
        2,
        "the leader assigns to it too"
    );
    bench.sync(("m0", None), 2, &[]);
    bench.store_done(Ok(()));
    for _ in 0..5 {
        bench.heartbeat("m0", 2);
        bench.advance(5 * SECOND);
    }
    assert_eq!(bench.machine.state(), GroupState::Stable, "only 55 s");
    bench.heartbeat("m0", 2);
    bench.advance(5 * SECOND);
    assert_eq!(
        bench.machine.state(),
        GroupState::PreparingRebalance,
        "60 s are over"
    );
    assert!(bench.machine.static_members.is_empty());
}

#[test]
fn a_rebalance_that_only_absent_static_members_should_join_waits() {
    let mut bench = Bench::new(SETTINGS);
    let absent = JoinRequest {
        session_timeout_ms: 60_000,
        ..static_request("i", &["t"])
    };
    bench.stable(&[request("", &["t"]), absent]);
    assert_eq!(leave(&mut bench, "m0", None), ErrorCode::None);
    let generation = bench.machine.generation();
    bench.advance(31 * SECOND);
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
    assert_eq!(bench.machine.generation(), generation);
    bench.advance(60 * SECOND);
    assert_eq!(bench.machine.state(), GroupState::Empty);
}
