//! The coordinator moves with the leadership of its partition of the group log.

use std::time::Duration;

use mainstem_record::{Offset, PartitionIndex};

use super::world::{
    TestWorld, caller, commit, commit_request, config, fetch, join_request, lone_member, settle,
};
use crate::{ErrorCode, groups::requests::CommitRequest};

/// Groups of two partitions of the group log.
const HERE: &str = "a";
const THERE: &str = "b";

#[tokio::test]
async fn what_is_coordinated_elsewhere_is_refused_and_the_rest_goes_on() {
    let world = TestWorld::new();
    let groups = world.start(config());
    for group in [HERE, THERE] {
        assert_eq!(
            commit(&groups, commit_request(group, 7)).await,
            ErrorCode::None
        );
    }
    world.lead(HERE, false);
    settle().await;
    assert_eq!(
        commit(&groups, commit_request(HERE, 8)).await,
        ErrorCode::NotCoordinator
    );
    let topics = Some(vec![("t".to_owned(), vec![PartitionIndex(0)])]);
    let reader = caller();
    let fetched = groups.fetch_offsets(&reader, HERE, None, topics, false);
    assert_eq!(fetched.await.err(), Some(ErrorCode::NotCoordinator));
    let joined = groups.join(&caller(), join_request(HERE, "")).await;
    assert_eq!(joined.error, ErrorCode::NotCoordinator);
    assert_eq!(
        groups.coordinator_of(HERE).err(),
        Some(ErrorCode::CoordinatorNotAvailable)
    );
    assert!(groups.coordinator_of(THERE).is_ok());
    assert_eq!(groups.count(), 1);
    assert_eq!(fetch(&groups, THERE).await.offset, Offset(7));
}

#[tokio::test]
async fn members_and_generations_survive_a_change_of_coordinator() {
    let world = TestWorld::new();
    let (old, new) = (world.start(config()), world.start(config()));
    let member = lone_member(&old, HERE).await;
    let request = CommitRequest {
        generation: member.generation,
        member_id: member.member_id.clone(),
        ..commit_request(HERE, 42)
    };
    assert_eq!(commit(&old, request).await, ErrorCode::None);
    // Another broker has led in between, so what is known here is read anew.
    world.lead(HERE, false);
    settle().await;
    world.lead(HERE, true);
    settle().await;
    for groups in [&old, &new] {
        let beat = groups
            .heartbeat(&caller(), HERE, member.generation, &member.member_id, None)
            .await;
        assert_eq!(beat, ErrorCode::None);
        assert_eq!(fetch(groups, HERE).await.offset, Offset(42));
    }
}

#[tokio::test]
async fn a_leadership_that_was_lost_and_won_unseen_is_loaded_anew() {
    let world = TestWorld::new();
    let (here, there) = (world.start(config()), world.start(config()));
    assert_eq!(
        commit(&here, commit_request(HERE, 1)).await,
        ErrorCode::None
    );
    world.lead(HERE, false);
    world.lead(HERE, true);
    settle().await;
    // What the other has taken meanwhile is in the log, and must be known here.
    assert_eq!(
        commit(&there, commit_request(HERE, 2)).await,
        ErrorCode::None
    );
    world.lead(HERE, false);
    world.lead(HERE, true);
    settle().await;
    assert_eq!(fetch(&here, HERE).await.offset, Offset(2));
}

#[tokio::test]
async fn who_waits_for_a_rebalance_is_sent_to_the_new_coordinator() {
    let world = TestWorld::new();
    let groups = world.start(mainstem_config::GroupConfig {
        initial_rebalance_delay_ms: 60_000,
        ..config()
    });
    let waiting = {
        let groups = groups.clone();
        let join = async move { groups.join(&caller(), join_request(HERE, "")).await };
        mainstem_env::Env::real().start("join", join)
    };
    settle().await;
    assert_eq!(groups.count(), 1);
    world.lead(HERE, false);
    settle().await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.error, ErrorCode::NotCoordinator);
    assert_eq!(groups.count(), 0);
}

#[tokio::test]
async fn while_it_loads_clients_are_asked_to_come_again() {
    let world = TestWorld::new();
    let groups = world.start(config());
    assert_eq!(
        commit(&groups, commit_request(HERE, 5)).await,
        ErrorCode::None
    );
    *world.unreadable.lock() = Some(ErrorCode::NotEnoughReplicas);
    world.lead(HERE, false);
    world.lead(HERE, true);
    settle().await;
    let topics = Some(vec![("t".to_owned(), vec![PartitionIndex(0)])]);
    let reader = caller();
    let fetched = groups.fetch_offsets(&reader, HERE, None, topics, false);
    assert_eq!(
        fetched.await.err(),
        Some(ErrorCode::CoordinatorLoadInProgress)
    );
    *world.unreadable.lock() = None;
    world.advance(Duration::from_secs(1)).await;
    assert_eq!(fetch(&groups, HERE).await.offset, Offset(5));
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_retriable_and_read_back() {
    for lost in [ErrorCode::NotLeaderOrFollower, ErrorCode::RequestTimedOut] {
        let world = TestWorld::new();
        let groups = world.start(config());
        assert_eq!(
            commit(&groups, commit_request(HERE, 1)).await,
            ErrorCode::None
        );
        *world.lost.lock() = Some(lost);
        let code = commit(&groups, commit_request(HERE, 2)).await;
        assert!(
            matches!(
                code,
                ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable
            ),
            "{code:?}"
        );
        settle().await;
        // It is in the log, so whoever reads the log has it: nobody may see the one before again.
        assert_eq!(fetch(&groups, HERE).await.offset, Offset(2), "{lost:?}");
    }
}
