//! One test for each rule.

use std::time::Duration;

use bytes::Bytes;

use super::{
    GroupState, Machine, Settings,
    bench::{Bench, SETTINGS, request, static_request},
};
use crate::{
    ErrorCode,
    groups::requests::{JoinRequest, LeaveMember},
};

const SECOND: Duration = Duration::from_secs(1);

fn leaving(member_id: &str, instance_id: Option<&str>) -> LeaveMember {
    LeaveMember {
        member_id: member_id.to_owned(),
        instance_id: instance_id.map(str::to_owned),
        reason: None,
    }
}

fn leave(bench: &mut Bench, members: &[LeaveMember]) -> Vec<ErrorCode> {
    let results = bench.machine.leave(bench.now(), members).expect("not dead");
    bench.drain();
    results
}

fn commit(bench: &mut Bench, generation: i32, id: &str) -> Result<(), ErrorCode> {
    bench
        .machine
        .check_commit(bench.now(), generation, id, None)
}

#[test]
fn a_first_join_is_repeated_with_the_id_that_it_gets() {
    let mut bench = Bench::new(SETTINGS);
    let first = JoinRequest {
        require_member_id: true,
        ..request("", &["t"])
    };
    let token = bench.join(&first);
    let answer = bench.joins[&token].clone();
    assert_eq!(answer.error, ErrorCode::MemberIdRequired);
    assert_eq!(answer.member_id, "m0");
    assert!(bench.machine.members.is_empty());
    let second = JoinRequest {
        require_member_id: true,
        ..request("m0", &["t"])
    };
    let token = bench.join(&second);
    bench.advance(3 * SECOND);
    let answer = bench.joined(token);
    assert_eq!((answer.generation, answer.leader.as_str()), (1, "m0"));
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn the_first_rebalance_waits_longer_while_members_come() {
    let mut bench = Bench::new(SETTINGS);
    let first = bench.join(&request("", &["t"]));
    bench.advance(2 * SECOND);
    let second = bench.join(&request("", &["t"]));
    bench.advance(3 * SECOND);
    assert!(
        bench.joins.is_empty(),
        "the second member extended the wait to 6 s"
    );
    bench.advance(SECOND);
    assert_eq!(bench.joined(first).members.len(), 2);
    assert!(
        bench.joined(second).members.is_empty(),
        "only the leader is told of the members"
    );
    assert_eq!(bench.joined(second).generation, 1);
}

#[test]
fn the_first_rebalance_ends_after_the_rebalance_timeout_at_last() {
    let settings = Settings {
        size_max: 100,
        ..SETTINGS
    };
    let mut bench = Bench::new(settings);
    let first = bench.join(&request("", &["t"]));
    for _ in 0..29 {
        bench.join(&request("", &["t"]));
        bench.advance(SECOND);
        assert!(bench.joins.is_empty());
    }
    bench.advance(SECOND);
    assert_eq!(bench.joined(first).members.len(), 30);
}

#[test]
fn without_delay_the_first_member_is_served_at_once() {
    let settings = Settings {
        initial_rebalance_delay: Duration::ZERO,
        ..SETTINGS
    };
    let mut bench = Bench::new(settings);
    let token = bench.join(&request("", &["t"]));
    assert_eq!(bench.joined(token).generation, 1);
}

#[test]
fn assignments_are_given_out_when_they_are_durable_and_not_before() {
    let mut bench = Bench::new(SETTINGS);
    let leader = bench.join(&request("", &["t"]));
    bench.join(&request("", &["t"]));
    bench.advance(6 * SECOND);
    assert_eq!(bench.joined(leader).member_id, "m0");
    let follower = bench.sync(("m1", None), 1, &[]);
    let given = [("m1".to_owned(), Bytes::from_static(b"one"))];
    let leader = bench.sync(("m0", None), 1, &given);
    assert!(bench.syncs.is_empty());
    // The leader repeats itself, with something else: the first assignment counts.
    let other = [("m1".to_owned(), Bytes::from_static(b"other"))];
    let again = bench.sync(("m0", None), 1, &other);
    assert_eq!(bench.syncs[&leader].error, ErrorCode::RebalanceInProgress);
    assert_eq!(bench.stores.len(), 1);
    let snapshot = bench.store_done(Ok(())).expect("asked for");
    assert_eq!(snapshot.generation, 1);
    let stored = snapshot
        .members
        .iter()
        .find(|member| member.member_id == "m1");
    assert_eq!(
        stored.map(|member| &member.assignment[..]),
        Some(&b"one"[..])
    );
    assert_eq!(&bench.syncs[&follower].assignment[..], b"one");
    assert_eq!(bench.syncs[&follower].protocol.as_deref(), Some("range"));
    assert_eq!(bench.syncs[&again].error, ErrorCode::None);
    assert!(
        bench.syncs[&again].assignment.is_empty(),
        "the leader gave itself nothing"
    );
    let late = bench.sync(("m1", None), 1, &[]);
    assert_eq!(&bench.syncs[&late].assignment[..], b"one");
}

#[test]
fn an_assignment_that_cannot_be_stored_makes_everybody_join_again() {
    let mut bench = Bench::new(SETTINGS);
    bench.join(&request("", &["t"]));
    bench.join(&request("", &["t"]));
    bench.advance(6 * SECOND);
    let follower = bench.sync(("m1", None), 1, &[]);
    let leader = bench.sync(("m0", None), 1, &[]);
    bench.store_done(Err(ErrorCode::NotCoordinator));
    assert_eq!(bench.syncs[&leader].error, ErrorCode::NotCoordinator);
    assert_eq!(bench.syncs[&follower].error, ErrorCode::NotCoordinator);
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
}

#[test]
fn an_assignment_that_comes_back_too_late_counts_for_nothing() {
    let mut bench = Bench::new(SETTINGS);
    bench.join(&request("", &["t"]));
    bench.advance(3 * SECOND);
    let sync = bench.sync(("m0", None), 1, &[]);
    bench.join(&request("", &["t"]));
    assert_eq!(bench.syncs[&sync].error, ErrorCode::RebalanceInProgress);
    bench.store_done(Ok(()));
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
}

#[test]
fn heartbeats_tell_of_a_rebalance() {
    let mut bench = Bench::new(SETTINGS);
    bench.stable(&[request("", &["t"])]);
    assert_eq!(bench.heartbeat("m0", 1), ErrorCode::None);
    assert_eq!(bench.heartbeat("m0", 0), ErrorCode::IllegalGeneration);
    assert_eq!(bench.heartbeat("m9", 1), ErrorCode::UnknownMemberId);
    let newcomer = bench.join(&request("", &["t"]));
    assert_eq!(bench.heartbeat("m0", 1), ErrorCode::RebalanceInProgress);
    let again = bench.join(&request("m0", &["t"]));
    assert_eq!(bench.joined(again).generation, 2);
    assert_eq!(bench.joined(newcomer).leader, "m0");
    assert_eq!(
        bench.heartbeat("m0", 2),
        ErrorCode::None,
        "also while assignments are awaited"
    );
}

#[test]
fn a_leader_that_joins_again_rebalances_and_an_unchanged_follower_does_not() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"]), request("", &["t"])]);
    let follower = bench.join(&request(&ids[1], &["t"]));
    assert_eq!(bench.joined(follower).generation, 1);
    assert_eq!(bench.machine.state(), GroupState::Stable);
    bench.join(&request(&ids[1], &["t", "u"]));
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
    let leader = bench.join(&request(&ids[0], &["t"]));
    assert_eq!(bench.joined(leader).generation, 2);
    // The leader lost the answer: while assignments are awaited, it only repeats itself.
    let repeated = bench.join(&request(&ids[0], &["t"]));
    assert_eq!(bench.joined(repeated).generation, 2);
    assert_eq!(bench.joined(repeated).members.len(), 2);

    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"])]);
    let leader = bench.join(&request(&ids[0], &["t"]));
    assert_eq!(bench.joined(leader).generation, 2);
}

#[test]
fn a_silent_member_is_removed_after_its_session_timeout() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"]), request("", &["t"])]);
    bench.advance(6 * SECOND);
    assert_eq!(bench.heartbeat(&ids[0], 1), ErrorCode::None);
    bench.advance(4 * SECOND);
    assert_eq!(bench.heartbeat(&ids[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(bench.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    bench.advance(10 * SECOND);
    assert_eq!(bench.machine.state(), GroupState::Empty);
    assert_eq!(bench.machine.generation(), 2);
    let snapshot = bench.store_done(Ok(())).expect("an empty group is stored");
    assert!(snapshot.members.is_empty() && snapshot.protocol.is_none());
    assert_eq!(snapshot.protocol_type, "consumer");
    let token = bench.join(&request("", &["t"]));
    bench.advance(3 * SECOND);
    assert_eq!(
        bench.joined(token).generation,
        3,
        "generations go on after the group was empty"
    );
}

#[test]
fn a_first_join_does_not_wait_for_ever() {
    let settings = Settings {
        session_timeout_ms_max: 1_800_000,
        ..SETTINGS
    };
    let mut bench = Bench::new(settings);
    let patient = JoinRequest {
        session_timeout_ms: 1_800_000,
        rebalance_timeout_ms: 1_800_000,
        ..request("", &["t"])
    };
    bench.stable(&[patient]);
    let newcomer = bench.join(&request("", &["t"]));
    bench.advance(299 * SECOND);
    assert!(!bench.joins.contains_key(&newcomer));
    bench.advance(SECOND);
    assert_eq!(bench.joins[&newcomer].error, ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_join_again_in_time_is_left_behind() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"])]);
    let newcomer = bench.join(&request("", &["t"]));
    for _ in 0..6 {
        // It lives, but does not join.
        assert_eq!(bench.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
        bench.advance(5 * SECOND);
    }
    assert_eq!(bench.joined(newcomer).members.len(), 1);
    assert_eq!(bench.heartbeat(&ids[0], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_ask_for_its_assignment_in_time_is_removed() {
    let mut bench = Bench::new(SETTINGS);
    for _ in 0..3 {
        bench.join(&request("", &["t"]));
    }
    bench.advance(6 * SECOND);
    bench.sync(("m0", None), 1, &[]);
    bench.store_done(Ok(()));
    assert_eq!(bench.machine.state(), GroupState::Stable);
    for round in 0..6 {
        for id in ["m0", "m1", "m2"] {
            assert_eq!(bench.heartbeat(id, 1), ErrorCode::None);
        }
        if round == 5 {
            // Late, but in time.
            bench.sync(("m2", None), 1, &[]);
        }
        bench.advance(5 * SECOND);
    }
    assert_eq!(bench.heartbeat("m1", 1), ErrorCode::UnknownMemberId);
    assert_eq!(bench.heartbeat("m0", 1), ErrorCode::RebalanceInProgress);
    assert_eq!(bench.heartbeat("m2", 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn pending_members_hold_a_rebalance_up_until_they_expire() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"])]);
    bench.join(&JoinRequest {
        require_member_id: true,
        ..request("", &["t"])
    });
    let leader = bench.join(&request(&ids[0], &["t"]));
    bench.advance(9 * SECOND);
    assert!(!bench.joins.contains_key(&leader));
    bench.advance(SECOND);
    assert_eq!(bench.joined(leader).generation, 2);
    assert!(bench.machine.pending.is_empty());
}

#[test]
fn a_pending_member_can_leave() {
    let mut bench = Bench::new(SETTINGS);
    let ids = bench.stable(&[request("", &["t"])]);
    let pending = bench.coming_id();
    bench.join(&JoinRequest {
        require_member_id: true,
        ..request("", &["t"])
    });
    let leader = bench.join(&request(&ids[0], &["t"]));
    assert_eq!(
        leave(&mut bench, &[leaving(&pending, None)]),
        [ErrorCode::None]
    );
    assert_eq!(bench.joined(leader).generation, 2);
}

#[test]
fn members_leave_by_id_or_instance_each_with_a_result() {
    let mut bench = Bench::new(SETTINGS);
    bench.stable(&[
        request("", &["t"]),
        static_request("i", &["t"]),
        request("", &["t"]),
    ]);
    let results = leave(
        &mut bench,
        &[
            leaving("m0", None),
            leaving("", Some("i")),
            leaving("", Some("nobody")),
            leaving("ghost", None),
            leaving("", None),
        ],
    );
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(
        results,
        [ErrorCode::None, ErrorCode::None, unknown, unknown, unknown]
    );
    assert_eq!(bench.machine.members.len(), 1);
    assert_eq!(bench.machine.state(), GroupState::PreparingRebalance);
    leave(&mut bench, &[leaving("m2", None)]);
    assert_eq!(bench.machine.state(), GroupState::Empty);
}

#[test]
fn protocols_that_do_not_fit_are_refused() {
    let mut bench = Bench::new(SETTINGS);
    let refused = |bench: &mut Bench, request: &JoinRequest| {
        let token = bench.join(request);
        bench.joins[&token].error
    };
    let inconsistent = ErrorCode::InconsistentGroupProtocol;
    let none = JoinRequest {
        protocols: Vec::new(),
        ..request("", &[])
    };
    assert_eq!(refused(&mut bench, &none), inconsistent);
    let untyped = JoinRequest {
        protocol_type: String::new(),
        ..request("", &[])
    };
    assert_eq!(refused(&mut bench, &untyped), inconsistent);
    bench.stable(&[request("", &["t"])]);
    let connect = JoinRequest {
        protocol_type: "connect".to_owned(),
        ..request("", &[])
    };
    assert_eq!(refused(&mut bench, &connect), inconsistent);
    let sticky = vec![("sticky".to_owned(), Bytes::new())];
    let other = JoinRequest {
        protocols: sticky,
        ..request("", &[])
    };
    assert_eq!(refused(&mut bench, &other), inconsistent);
    let sync = bench.machine.protocol.clone();
    assert_eq!(sync.as_deref(), Some("range"));
    let request = crate::groups::requests::SyncRequest {
        group: "g".to_owned(),
        generation: 1,
        member_id: "m2".to_owned(),
        instance_id: None,
        protocol_type: Some("connect".to_owned()),
        protocol: None,
        assignments: Vec::new(),
    };
    let id = bench
        .machine
        .members
        .keys()
        .next()
        .cloned()
        .unwrap_or_default();
    let request = crate::groups::requests::SyncRequest {
        member_id: id,
        ..request
    };
    bench.machine.sync(bench.now(), 1_000, &request);
    let effects = bench.machine.take_output().effects;
    assert!(matches!(
        &effects[..],
        [super::Effect::Sync(1_000, answer)] if answer.error == inconsistent
    ));
}

#[test]
fn session_timeouts_have_limits() {
    let mut bench = Bench::new(SETTINGS);
    for session_timeout_ms in [-1, 0, 5_999, 60_001, i32::MAX] {
        let token = bench.join(&JoinRequest {
            session_timeout_ms,
            ..request("", &["t"])
        });
        assert_eq!(bench.joins[&token].error, ErrorCode::InvalidSessionTimeout);
    }
    assert!(bench.machine.is_vacant());
}

#[test]
fn the_votes_choose_the_protocol() {
    let speaks = |names: &[&str]| JoinRequest {
        protocols: names
            .iter()
            .map(|name| ((*name).to_owned(), Bytes::new()))
            .collect(),
        protocol_type: "connect".to_owned(),
        ..request("", &[])
    };
    let chosen = |members: &[&[&str]]| {
        let mut bench = Bench::new(SETTINGS);
        let requests: Vec<JoinRequest> = members.iter().map(|names| speaks(names)).collect();
        bench.stable(&requests);
        bench
            .machine
            .protocol
            .clone()
            .expect("members have a protocol")
    };
    assert_eq!(chosen(&[&["a", "b"], &["b", "a"], &["b", "a"]]), "b");
    assert_eq!(
        chosen(&[&["b", "a"], &["a", "b"]]),
        "b",
        "a tie goes to the leader's wish"
    );
    assert_eq!(
        chosen(&[&["a", "b", "b"], &["c", "b"]]),
        "b",
        "all must speak it"
    );
}

#[test]
fn a_full_group_takes_nobody_but_who_comes_back() {
    let settings = Settings {
        size_max: 2,
        ..SETTINGS
    };
    let mut bench = Bench::new(settings);
    let ids = bench.stable(&[request("", &["t"]), static_request("i", &["t"])]);
    let token = bench.join(&request("", &["t"]));
    assert_eq!(bench.joins[&token].error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(bench.machine.state(), GroupState::Stable);
    let back = bench.join(&static_request("i", &["t"]));
    bench.store_done(Ok(()));
    bench.joined(back);
    // While members gather, who comes first is in; the last of the old ones has to go.
    bench.join(&request(&ids[0], &["t", "u"]));
    bench.join(&request("", &["t"]));
    let stays_out = JoinRequest {
        member_id: "m3".to_owned(),
        ..static_request("i", &["t"])
    };
    let token = bench.join(&stays_out);
    assert_eq!(bench.joins[&token].error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(bench.machine.state(), GroupState::CompletingRebalance);
    assert_eq!(bench.machine.members.len(), 2);
}

#[test]
fn commits_are_for_the_generation_or_for_groups_without_members() {
    let mut bench = Bench::new(SETTINGS);
    assert_eq!(commit(&mut bench, -1, ""), Ok(()));
    assert_eq!(
        commit(&mut bench, 1, "ghost"),
        Err(ErrorCode::UnknownMemberId)
    );
    bench.join(&request("", &["t"]));
    bench.advance(3 * SECOND);
    assert_eq!(
        commit(&mut bench, 1, "m0"),
        Err(ErrorCode::RebalanceInProgress)
    );
    bench.sync(("m0", None), 1, &[]);
    bench.store_done(Ok(()));
    assert_eq!(commit(&mut bench, 1, "m0"), Ok(()));
    assert_eq!(
        commit(&mut bench, 0, "m0"),
        Err(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        commit(&mut bench, -1, "m0"),
        Err(ErrorCode::IllegalGeneration)
    );
    assert_eq!(commit(&mut bench, -1, ""), Err(ErrorCode::UnknownMemberId));
    assert_eq!(
        commit(&mut bench, 1, "ghost"),
        Err(ErrorCode::UnknownMemberId)
    );
    // While members gather, the old generation may still commit, and lives by it.
    bench.join(&request("", &["t"]));
    bench.advance(9 * SECOND);
    assert_eq!(commit(&mut bench, 1, "m0"), Ok(()));
    bench.advance(9 * SECOND);
    assert_eq!(bench.heartbeat("m0", 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_stored_group_comes_back_as_it_was() {
    let mut bench = Bench::new(SETTINGS);
    bench.join(&request("", &["t"]));
    bench.join(&static_request("i", &["u"]));
    bench.advance(6 * SECOND);
    let given = [("m1".to_owned(), Bytes::from_static(b"one"))];
    bench.sync(("m0", None), 1, &given);
    let snapshot = bench.store_done(Ok(())).expect("asked for");

    let mut again = Bench::new(SETTINGS);
    again.now = 1000 * SECOND;
    again.machine = Machine::restore(SETTINGS, again.now(), snapshot);
    assert_eq!(again.machine.state(), GroupState::Stable);
    assert_eq!(again.heartbeat("m0", 1), ErrorCode::None);
    let sync = again.sync(("m1", Some("i")), 1, &[]);
    assert_eq!(&again.syncs[&sync].assignment[..], b"one");
    let topics = again.machine.subscribed_topics().expect("consumers tell");
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["t", "u"]);
    let fenced = JoinRequest {
        member_id: "m0".to_owned(),
        ..static_request("i", &["u"])
    };
    let token = again.join(&fenced);
    assert_eq!(again.joins[&token].error, ErrorCode::FencedInstanceId);
    again.advance(10 * SECOND);
    assert_eq!(
        again.machine.state(),
        GroupState::Empty,
        "sessions began at the restart"
    );
}

#[test]
fn nobody_is_left_waiting_when_the_coordinator_goes() {
    let mut bench = Bench::new(SETTINGS);
    let join = bench.join(&request("", &["t"]));
    bench.machine.abandon(ErrorCode::NotCoordinator);
    bench.drain();
    assert_eq!(bench.joins[&join].error, ErrorCode::NotCoordinator);
}

#[test]
fn a_deleted_group_answers_nobody_as_a_group() {
    let mut bench = Bench::new(SETTINGS);
    assert!(bench.machine.kill());
    let token = bench.join(&request("", &["t"]));
    assert_eq!(
        bench.joins[&token].error,
        ErrorCode::CoordinatorNotAvailable
    );
    assert_eq!(bench.heartbeat("m0", 0), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(
        commit(&mut bench, -1, ""),
        Err(ErrorCode::CoordinatorNotAvailable)
    );
    bench.machine.revive();
    bench.stable(&[request("", &["t"])]);
    assert!(
        !bench.machine.kill(),
        "a group with members cannot be deleted"
    );
}
