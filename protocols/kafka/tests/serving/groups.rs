//! One member's life in a group, over the wire.

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
        LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};

use crate::harness::{Node, topic_name};

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn join(member_id: StrBytes) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"subscription"));
    JoinGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(member_id)
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

#[tokio::test]
async fn a_member_joins_syncs_commits_and_leaves() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let found = client
        .call(
            4,
            &FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]),
        )
        .await;
    let coordinator = &found.coordinators[0];
    assert_eq!((coordinator.error_code, coordinator.node_id.0), (0, 1));
    assert_eq!(
        (coordinator.host.as_str(), coordinator.port),
        ("broker.test", 9092)
    );

    let first = client.call(9, &join(text(""))).await;
    assert_eq!(first.error_code, 79, "KIP-394");
    let member = first.member_id;
    let joined = client.call(9, &join(member.clone())).await;
    assert_eq!((joined.error_code, &joined.leader), (0, &member));
    assert_eq!(&joined.members[0].metadata[..], b"subscription");
    let generation = joined.generation_id;

    let part = SyncGroupRequestAssignment::default()
        .with_member_id(member.clone())
        .with_assignment(Bytes::from_static(b"all of it"));
    let sync = SyncGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id(generation)
        .with_member_id(member.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(vec![part]);
    let synced = client.call(5, &sync).await;
    assert_eq!(
        (synced.error_code, &synced.assignment[..]),
        (0, &b"all of it"[..])
    );

    let beat = HeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id(generation)
        .with_member_id(member.clone());
    assert_eq!(client.call(4, &beat).await.error_code, 0);
    let stale = beat.clone().with_generation_id(generation + 1);
    assert_eq!(client.call(4, &stale).await.error_code, 22);

    let describe = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g"))]);
    let described = client.call(5, &describe).await;
    assert_eq!(described.groups[0].group_state.as_str(), "Stable");
    assert_eq!(
        described.groups[0].members[0].client_id.as_str(),
        "test-client"
    );
    assert_eq!(
        described.groups[0].members[0].client_host.as_str(),
        "/127.0.0.1"
    );
    let unknown = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("none"))]);
    let old = client.call(5, &unknown).await;
    assert_eq!(
        (old.groups[0].error_code, old.groups[0].group_state.as_str()),
        (0, "Dead")
    );
    assert_eq!(client.call(6, &unknown).await.groups[0].error_code, 69);

    let leave = LeaveGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_members(vec![MemberIdentity::default().with_member_id(member)]);
    let left = client.call(5, &leave).await;
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
}

#[tokio::test]
async fn what_is_committed_comes_back_whole() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(42)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name("t"))
        .with_partitions(vec![partition]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let committed = client.call(8, &commit).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);

    let topic = OffsetFetchRequestTopics::default()
        .with_name(topic_name("t"))
        .with_partition_indexes(vec![0]);
    let asked = |name| {
        OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(name)))
            .with_topics(Some(vec![topic.clone()]))
    };
    let request = OffsetFetchRequest::default()
        .with_topics(Some(vec![]))
        .with_groups(vec![asked("g"), asked("never-seen")]);
    let fetched = client.call(8, &request).await;
    let found = &fetched.groups[0].topics[0].partitions[0];
    assert_eq!(
        (found.committed_offset, found.committed_leader_epoch),
        (42, 3)
    );
    assert_eq!(found.metadata, Some(text("note")));
    // A group that is not there has committed nothing, and that is no error.
    let absent = &fetched.groups[1];
    assert_eq!(absent.error_code, 0);
    assert_eq!(absent.topics[0].partitions[0].committed_offset, -1);
}

#[tokio::test]
async fn old_members_join_without_being_sent_back() {
    let node = Node::start().await;
    let mut client = node.connect();
    let mut request = join(text(""));
    request.group_id = GroupId(text("old"));
    let joined = client.call(3, &request).await;
    assert_eq!(joined.error_code, 0);
    assert!(!joined.member_id.is_empty());
    assert_eq!(joined.protocol_name, Some(text("range")));
}

#[tokio::test]
async fn a_drain_sends_waiting_members_away() {
    let node = Node::with(&[("group.initial.rebalance.delay.ms", "60000")]).await;
    let mut client = node.connect();
    let id = client.send(3, &join(text(""))).await;
    let mut other = node.connect();
    let describe = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g"))]);
    while other.call(5, &describe).await.groups[0]
        .group_state
        .as_str()
        == "Dead"
    {}
    node.drain.cancel();
    let response = client.receive::<JoinGroupRequest>(3, id).await;
    assert_eq!(response.error_code, 16);
    assert_eq!(client.frame().await, None);
}
