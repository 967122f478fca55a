//! The service as protocols see it, over a broker of memory.

mod leading;
mod world;

use std::time::Duration;

use mainstem_record::{LeaderEpoch, Offset, PartitionId, PartitionIndex, TopicId};
use proptest::prelude::*;
use uuid::Uuid;

use self::world::{
    TestWorld, caller, commit, commit_request, config, fetch, join_request, lone_member, settle,
    sync_request, turns,
};
use super::{
    Groups,
    requests::{CommitRequest, DeleteOffsetsTopic, JoinRequest, LeaveMember},
};
use crate::ErrorCode;

fn leaving(member_id: &str) -> LeaveMember {
    LeaveMember {
        member_id: member_id.to_owned(),
        instance_id: None,
        reason: None,
    }
}

async fn leave(groups: &Groups, group: &str, member_id: &str) {
    let left = groups
        .leave(&caller(), group, vec![leaving(member_id)])
        .await;
    assert_eq!(left.expect("open")[0].1, ErrorCode::None);
}

#[tokio::test]
async fn a_group_and_its_offsets_survive_a_restart() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let member = lone_member(&groups, "g").await;
    assert!(member.member_id.starts_with("client-"));
    let request = CommitRequest {
        generation: member.generation,
        member_id: member.member_id.clone(),
        ..commit_request("g", 42)
    };
    assert_eq!(commit(&groups, request).await, ErrorCode::None);
    let before = (groups.describe(&caller(), "g"), fetch(&groups, "g").await);
    assert_eq!(before.0.state, "Stable");
    assert_eq!(
        &before.0.members[0].assignment[..],
        format!("part of {}", member.member_id).as_bytes()
    );
    assert_eq!(
        (before.1.offset, before.1.leader_epoch),
        (Offset(42), LeaderEpoch(3))
    );
    assert_eq!(before.1.metadata, "note");

    let again = world.start(config());
    assert_eq!(
        (again.describe(&caller(), "g"), fetch(&again, "g").await),
        before
    );
    let beat = again
        .heartbeat(&caller(), "g", member.generation, &member.member_id, None)
        .await;
    assert_eq!(beat, ErrorCode::None);
    world.advance(Duration::from_secs(10)).await;
    assert_eq!(
        again.describe(&caller(), "g").state,
        "Empty",
        "a silent member dies here too"
    );
}

#[tokio::test]
async fn offsets_of_an_unknown_group_are_not_an_error() {
    let groups = TestWorld::new().start(config());
    let fetched = fetch(&groups, "nobody").await;
    assert_eq!(
        (fetched.offset, fetched.error),
        (Offset(-1), ErrorCode::None)
    );
    let all = groups
        .fetch_offsets(&caller(), "nobody", None, None, true)
        .await;
    assert_eq!(all, Ok(Vec::new()));
    assert_eq!(groups.count(), 0);
}

#[tokio::test]
async fn commits_are_checked_partition_by_partition() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let mut request = commit_request("g", 1);
    let good = request.topics[0].partitions[0].clone();
    for (index, metadata) in [
        (4, None),
        (-1, None),
        (1, Some("17 bytes of text!")),
        (2, None),
    ] {
        let mut partition = good.clone();
        partition.index = PartitionIndex(index);
        partition.metadata = metadata.map(str::to_owned);
        request.topics[0].partitions.push(partition);
    }
    let mut missing = request.topics[0].clone();
    missing.name = "missing".to_owned();
    request.topics.push(missing);
    let answer = groups.commit(&caller(), request).await;
    let codes = |topic: usize| {
        answer[topic]
            .partitions
            .iter()
            .map(|(_, code)| *code)
            .collect::<Vec<_>>()
    };
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let ok = ErrorCode::None;
    assert_eq!(
        codes(0),
        [ok, unknown, unknown, ErrorCode::OffsetMetadataTooLarge, ok]
    );
    assert_eq!(codes(1), [unknown; 5]);
    let all = groups
        .fetch_offsets(&caller(), "g", None, None, false)
        .await
        .expect("open");
    let indices: Vec<i32> = all[0]
        .partitions
        .iter()
        .map(|partition| partition.index.0)
        .collect();
    assert_eq!(indices, [0, 2]);

    let member = CommitRequest {
        generation: 1,
        ..commit_request("unknown", 1)
    };
    assert_eq!(commit(&groups, member).await, ErrorCode::IllegalGeneration);
    assert_eq!(
        commit(&groups, commit_request(&"x".repeat(40_000), 1)).await,
        ErrorCode::InvalidGroupId
    );
    let nothing = groups.commit(&caller(), commit_request("", 1)).await;
    assert_eq!(
        nothing[0].partitions[0].1,
        ErrorCode::None,
        "old clients may have no group id"
    );
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_for_now_and_never_seen() {
    let world = TestWorld::new();
    let groups = world.start(config());
    *world.failure.lock() = Some(ErrorCode::KafkaStorageError);
    assert_eq!(
        commit(&groups, commit_request("g", 1)).await,
        ErrorCode::NotCoordinator
    );
    assert_eq!(fetch(&groups, "g").await.offset, Offset(-1));
    assert_eq!(groups.count(), 0, "a group that holds nothing is forgotten");
    let joined = groups.join(&caller(), join_request("g", "")).await;
    let synced = groups.sync(&caller(), sync_request("g", &joined)).await;
    assert_eq!(synced.error, ErrorCode::NotCoordinator);
    *world.failure.lock() = Some(ErrorCode::RecordListTooLarge);
    let too_large = CommitRequest {
        generation: -1,
        ..commit_request("other", 1)
    };
    assert_eq!(
        commit(&groups, too_large).await,
        ErrorCode::InvalidCommitOffsetSize
    );
    *world.failure.lock() = None;
    // The members gather again and go on.
    let joined = groups
        .join(&caller(), join_request("g", &joined.member_id))
        .await;
    let synced = groups.sync(&caller(), sync_request("g", &joined)).await;
    assert_eq!((joined.generation, synced.error), (2, ErrorCode::None));
}

#[tokio::test]
async fn a_group_that_waits_for_the_log_does_not_hold_up_another() {
    let world = TestWorld::new();
    let groups = world.start(config());
    world
        .stalled
        .send_modify(|stalled| _ = stalled.insert("slow".to_owned()));
    let slow = groups.join(&caller(), join_request("slow", "")).await;
    let slow_groups = groups.clone();
    let sync = tokio::join!(
        async {
            slow_groups
                .sync(&caller(), sync_request("slow", &slow))
                .await
        },
        async {
            settle().await;
            assert_eq!(
                groups.describe(&caller(), "slow").state,
                "CompletingRebalance"
            );
            lone_member(&groups, "fast").await;
            assert_eq!(groups.describe(&caller(), "fast").state, "Stable");
            world.stalled.send_modify(|stalled| stalled.clear());
        }
    );
    assert_eq!(sync.0.error, ErrorCode::None);
}

#[tokio::test]
async fn a_commit_whose_client_goes_away_is_applied_all_the_same() {
    let world = TestWorld::new();
    let groups = world.start(config());
    world
        .stalled
        .send_modify(|stalled| _ = stalled.insert("g".to_owned()));
    let caller = caller();
    tokio::select! {
        biased;
        _ = groups.commit(&caller, commit_request("g", 7)) => panic!("the log is stalled"),
        () = settle() => {}
    }
    world.stalled.send_modify(|stalled| stalled.clear());
    settle().await;
    assert_eq!(fetch(&groups, "g").await.offset, Offset(7));
}

#[tokio::test]
async fn while_the_log_stalls_only_the_newest_state_of_a_group_is_kept_for_it() {
    let world = TestWorld::new();
    let groups = world.start(config());
    world
        .stalled
        .send_modify(|stalled| _ = stalled.insert("g".to_owned()));
    for _ in 0..5 {
        let joined = groups.join(&caller(), join_request("g", "")).await;
        leave(&groups, "g", &joined.member_id).await;
        settle().await;
    }
    world.stalled.send_modify(|stalled| stalled.clear());
    settle().await;
    assert_eq!(
        world.log.lock().len(),
        2,
        "the one that was under way, and the last"
    );
    let again = world.start(config());
    assert_eq!(again.describe(&caller(), "g").state, "Empty");
    let joined = again.join(&caller(), join_request("g", "")).await;
    assert_eq!(joined.generation, 11);
}

#[tokio::test]
async fn only_groups_without_members_are_deleted_and_then_nothing_is_left() {
    let world = TestWorld::new();
    let groups = world.start(config());
    assert_eq!(
        groups.delete(&caller(), "g").await,
        ErrorCode::GroupIdNotFound
    );
    let member = lone_member(&groups, "g").await;
    let request = CommitRequest {
        generation: member.generation,
        member_id: member.member_id.clone(),
        ..commit_request("g", 1)
    };
    assert_eq!(commit(&groups, request).await, ErrorCode::None);
    assert_eq!(
        groups.delete(&caller(), "g").await,
        ErrorCode::NonEmptyGroup
    );
    leave(&groups, "g", &member.member_id).await;
    settle().await;
    *world.failure.lock() = Some(ErrorCode::NotLeaderOrFollower);
    assert_eq!(
        groups.delete(&caller(), "g").await,
        ErrorCode::NotCoordinator
    );
    // Nobody knows whether it is in the log, so the log is read again.
    settle().await;
    assert_eq!(
        fetch(&groups, "g").await.offset,
        Offset(1),
        "it is still there"
    );
    *world.failure.lock() = None;
    assert_eq!(groups.delete(&caller(), "g").await, ErrorCode::None);
    assert_eq!(groups.count(), 0);
    assert!(!groups.describe(&caller(), "g").exists);
    assert!(world.survivors().is_empty());
    assert_eq!(world.start(config()).count(), 0);
}

#[tokio::test]
async fn offsets_are_deleted_only_where_nobody_subscribes() {
    let world = TestWorld::new();
    world.make_topic("u", 2);
    let groups = world.start(config());
    for name in ["t", "u"] {
        let mut request = commit_request("g", 1);
        request.topics[0].name = name.to_owned();
        assert_eq!(commit(&groups, request).await, ErrorCode::None);
    }
    let delete = |name: &str| {
        let topic = DeleteOffsetsTopic {
            name: name.to_owned(),
            partitions: vec![PartitionIndex(0)],
        };
        let groups = groups.clone();
        async move { groups.delete_offsets(&caller(), "g", vec![topic]).await }
    };
    lone_member(&groups, "g").await;
    let answer = delete("t").await.expect("consumers");
    assert_eq!(answer[0].partitions[0].1, ErrorCode::GroupSubscribedToTopic);
    let answer = delete("u").await.expect("consumers");
    assert_eq!(answer[0].partitions[0].1, ErrorCode::None);
    let left = groups
        .fetch_offsets(&caller(), "g", None, None, false)
        .await
        .expect("open");
    assert_eq!(
        left.iter()
            .map(|topic| topic.name.as_str())
            .collect::<Vec<_>>(),
        ["t"]
    );
}

#[tokio::test]
async fn a_deleted_topic_takes_its_commits_with_it() {
    let world = TestWorld::new();
    let groups = world.start(config());
    settle().await;
    assert_eq!(
        commit(&groups, commit_request("g", 9)).await,
        ErrorCode::None
    );
    world.remove_topic("t");
    assert_eq!(
        fetch(&groups, "g").await.offset,
        Offset(-1),
        "hidden at once"
    );
    world.make_topic("t", 2);
    assert_eq!(
        fetch(&groups, "g").await.offset,
        Offset(-1),
        "the new topic is another one"
    );
    settle().await;
    world.advance(Duration::from_secs(1)).await;
    assert!(world.survivors().is_empty(), "and forgotten soon");
    assert_eq!(
        commit(&groups, commit_request("g", 2)).await,
        ErrorCode::None
    );
    world.remove_topic("t");
    let again = world.start(config());
    settle().await;
    assert!(
        world.survivors().is_empty(),
        "also when it went while we were away"
    );
    assert_eq!(fetch(&again, "g").await.offset, Offset(-1));
}

#[tokio::test]
async fn offsets_expire_after_their_group_is_empty_for_the_retention() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let member = lone_member(&groups, "g").await;
    let request = CommitRequest {
        generation: member.generation,
        member_id: member.member_id.clone(),
        ..commit_request("g", 1)
    };
    assert_eq!(commit(&groups, request).await, ErrorCode::None);
    assert_eq!(
        commit(&groups, commit_request("simple", 1)).await,
        ErrorCode::None
    );
    for _ in 0..12 * 12 {
        world.advance(Duration::from_secs(5)).await;
        groups
            .heartbeat(&caller(), "g", 1, &member.member_id, None)
            .await;
    }
    assert_eq!(
        fetch(&groups, "simple").await.offset,
        Offset(-1),
        "10 minutes after the commit"
    );
    assert_eq!(
        fetch(&groups, "g").await.offset,
        Offset(1),
        "a member subscribes to it"
    );
    leave(&groups, "g", &member.member_id).await;
    world.advance_slowly(9 * 60).await;
    assert_eq!(fetch(&groups, "g").await.offset, Offset(1));
    world.advance_slowly(2 * 60).await;
    assert_eq!(groups.count(), 0);
    assert!(world.survivors().is_empty());
}

#[tokio::test]
async fn members_that_never_come_back_leave_nothing_behind() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let first = JoinRequest {
        require_member_id: true,
        ..join_request("g", "")
    };
    let answer = groups.join(&caller(), first).await;
    assert_eq!(answer.error, ErrorCode::MemberIdRequired);
    assert_eq!(groups.count(), 1);
    settle().await;
    world.advance(Duration::from_secs(10)).await;
    assert_eq!(groups.count(), 0);
    let bad = JoinRequest {
        session_timeout_ms: 1,
        ..join_request("g", "")
    };
    assert_eq!(
        groups.join(&caller(), bad).await.error,
        ErrorCode::InvalidSessionTimeout
    );
    let bad = join_request("g", "ghost");
    assert_eq!(
        groups.join(&caller(), bad).await.error,
        ErrorCode::UnknownMemberId
    );
    let bad = JoinRequest {
        instance_id: Some(String::new()),
        ..join_request("g", "")
    };
    assert_eq!(
        groups.join(&caller(), bad).await.error,
        ErrorCode::InvalidRequest
    );
    assert_eq!(
        groups.join(&caller(), join_request("", "")).await.error,
        ErrorCode::InvalidGroupId
    );
    assert_eq!(groups.count(), 0);
    assert!(world.log.lock().is_empty());
}

#[tokio::test]
async fn a_rebalance_ends_by_the_clock_when_a_member_is_silent() {
    let world = TestWorld::new();
    let groups = world.start(config());
    lone_member(&groups, "g").await;
    settle().await;
    let newcomer = tokio::join!(
        async { groups.join(&caller(), join_request("g", "")).await },
        async {
            settle().await;
            world.advance_slowly(10).await;
        }
    );
    assert_eq!((newcomer.0.generation, newcomer.0.members.len()), (2, 1));
}

#[tokio::test]
async fn nobody_waits_for_a_closed_coordinator() {
    let world = TestWorld::new();
    let delayed = mainstem_config::GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        ..config()
    };
    let groups = world.start(delayed);
    let joined = tokio::join!(
        async { groups.join(&caller(), join_request("g", "")).await },
        async {
            settle().await;
            groups.close().await;
        }
    );
    assert_eq!(joined.0.error, ErrorCode::NotCoordinator);
    let refused = groups.join(&caller(), join_request("g", "")).await;
    assert_eq!(refused.error, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(
        groups.coordinator_of("g").err(),
        Some(ErrorCode::CoordinatorNotAvailable)
    );
}

#[tokio::test]
async fn groups_are_listed_by_state_and_type() {
    let world = TestWorld::new();
    let groups = world.start(config());
    lone_member(&groups, "b").await;
    assert_eq!(
        commit(&groups, commit_request("a", 1)).await,
        ErrorCode::None
    );
    let names = |states: &[&str], types: &[&str]| {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let listed = groups.list(&caller(), &owned(states), &owned(types));
        listed
            .into_iter()
            .map(|group| group.group)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&[], &[]), ["a", "b"]);
    assert_eq!(names(&["stable"], &["Classic"]), ["b"]);
    assert_eq!(names(&["Empty"], &[]), ["a"]);
    assert!(names(&[], &["consumer"]).is_empty() && names(&["Dead"], &[]).is_empty());
}

#[tokio::test]
async fn lag_is_what_is_not_committed_yet() {
    let world = TestWorld::new();
    let groups = world.start(config());
    assert_eq!(
        commit(&groups, commit_request("g", 30)).await,
        ErrorCode::None
    );
    let partition = PartitionId {
        topic: TopicId(Uuid::from_u128(1)),
        index: PartitionIndex(0),
    };
    assert_eq!(groups.lag(), [("g".to_owned(), 0)]);
    world.ends.lock().insert(partition, Offset(100));
    assert_eq!(groups.lag(), [("g".to_owned(), 70)]);
    world.ends.lock().insert(partition, Offset(10));
    assert_eq!(groups.lag(), [("g".to_owned(), 0)]);
}

#[tokio::test]
async fn heartbeats_put_the_end_off_but_do_not_abolish_it() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let member = lone_member(&groups, "g").await;
    settle().await;
    world.advance_slowly(5).await;
    let beat = groups
        .heartbeat(&caller(), "g", 1, &member.member_id, None)
        .await;
    assert_eq!(beat, ErrorCode::None);
    world.advance_slowly(9).await;
    assert_eq!(groups.describe(&caller(), "g").state, "Stable");
    world.advance_slowly(1).await;
    assert_eq!(groups.describe(&caller(), "g").state, "Empty");
}

#[tokio::test]
async fn a_tombstone_never_comes_before_what_it_ends() {
    let world = TestWorld::new();
    let groups = world.start(config());
    let member = lone_member(&groups, "g").await;
    // The record of the empty group takes its time; the deletion would not.
    world.delays.lock().extend([50, 1]);
    leave(&groups, "g", &member.member_id).await;
    turns(10).await;
    assert_eq!(groups.delete(&caller(), "g").await, ErrorCode::None);
    settle().await;
    assert!(world.survivors().is_empty());
    // The same with a commit.
    world.delays.lock().extend([50, 1]);
    let (committer, deleter) = (groups.clone(), groups.clone());
    let done = tokio::join!(
        async { commit(&committer, commit_request("g", 1)).await },
        async {
            turns(10).await;
            deleter.delete(&caller(), "g").await
        }
    );
    assert_eq!(done, (ErrorCode::None, ErrorCode::None));
    settle().await;
    assert!(world.survivors().is_empty());
    assert_eq!(groups.count(), 0);
}

#[tokio::test]
async fn a_group_that_is_about_to_get_its_first_commit_is_not_dropped() {
    let world = TestWorld::new();
    let groups = world.start(config());
    world.delays.lock().extend([50, 50]);
    let committer = groups.clone();
    let done = tokio::join!(
        async { commit(&committer, commit_request("g", 1)).await },
        async {
            turns(10).await;
            let bad = JoinRequest {
                session_timeout_ms: 1,
                ..join_request("g", "")
            };
            groups.join(&caller(), bad).await.error
        }
    );
    assert_eq!(done, (ErrorCode::None, ErrorCode::InvalidSessionTimeout));
    assert_eq!(fetch(&groups, "g").await.offset, Offset(1));
}

/// What happens to a group at the same time as other things.
#[derive(Clone, Debug)]
enum Act {
    Commit(i64),
    JoinAndLeave,
    FailedJoin,
    Delete,
}

async fn perform(groups: Groups, act: Act) {
    match act {
        Act::Commit(offset) => {
            let _ = commit(&groups, commit_request("g", offset)).await;
        }
        Act::JoinAndLeave => {
            let joined = groups.join(&caller(), join_request("g", "")).await;
            let _ = groups.sync(&caller(), sync_request("g", &joined)).await;
            let _ = groups
                .leave(&caller(), "g", vec![leaving(&joined.member_id)])
                .await;
        }
        Act::FailedJoin => {
            let bad = JoinRequest {
                session_timeout_ms: 1,
                ..join_request("g", "")
            };
            let _ = groups.join(&caller(), bad).await;
        }
        Act::Delete => {
            let _ = groups.delete(&caller(), "g").await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens to a group at the same time, and however the log reorders it: what is in
    /// memory is what replay finds.
    #[test]
    fn memory_and_log_agree(
        rounds in prop::collection::vec(
            (
                prop::collection::vec(
                    prop_oneof![
                        4 => (0..1000i64).prop_map(Act::Commit),
                        1 => Just(Act::JoinAndLeave),
                        1 => Just(Act::FailedJoin),
                        1 => Just(Act::Delete),
                    ],
                    1..6,
                ),
                prop::collection::vec(0..12usize, 12),
                prop::bool::weighted(0.2),
            ),
            1..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let world = TestWorld::new();
            let groups = world.start(config());
            let mut failed = false;
            for (acts, delays, fails) in rounds {
                failed |= fails;
                *world.failure.lock() = fails.then_some(ErrorCode::KafkaStorageError);
                *world.delays.lock() = delays.into();
                let (sender, mut done) = tokio::sync::mpsc::channel::<()>(1);
                for act in acts {
                    let (work, sender) = (perform(groups.clone(), act), sender.clone());
                    world.env_spawn(async move {
                        work.await;
                        drop(sender);
                    });
                }
                drop(sender);
                let _ = done.recv().await;
                settle().await;
            }
            let again = world.start(config());
            assert_eq!(fetch(&groups, "g").await, fetch(&again, "g").await);
            // That a group became empty is worth no failure to anybody, so it may be missing.
            if !failed {
                assert_eq!(groups.describe(&caller(), "g"), again.describe(&caller(), "g"));
            }
        });
    }
}
