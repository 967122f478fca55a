//! Every API in every version that is advertised gets a response that a client of that version can
//! read to its last byte.

use kafka_protocol::{
    messages::{self as m, ApiVersionsRequest, GroupId, MetadataRequest},
    protocol::{Request, StrBytes},
};
use uuid::Uuid;

use crate::harness::{Client, Node, batch, topic_name};

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

/// Calls all versions of an API with the request that `make` gives.
async fn each<R: Request>(client: &mut Client, make: impl Fn(i16) -> R) {
    let listed = client.call(0, &ApiVersionsRequest::default()).await;
    let range = listed
        .api_keys
        .iter()
        .find(|api| api.api_key == R::KEY)
        .expect("advertised");
    for version in range.min_version.max(R::VERSIONS.min)..=range.max_version {
        client.call(version, &make(version)).await;
    }
}

#[tokio::test]
async fn topics_and_offsets_answer_in_every_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    assert_eq!(client.produce(9, "t", batch(&["a", "b"])).await, (0, 0));
    let id = client.topic_id("t").await;

    each(&mut client, |_| {
        ApiVersionsRequest::default()
            .with_client_software_name(text("test"))
            .with_client_software_version(text("1.0"))
    })
    .await;
    each(&mut client, |version| {
        use m::metadata_request::MetadataRequestTopic as Topic;
        let mut topics = vec![Topic::default().with_name(Some(topic_name("t")))];
        topics.push(Topic::default().with_name(Some(topic_name("bad/name"))));
        topics.push(Topic::default().with_name(Some(topic_name("made-on-the-way"))));
        if version >= 12 {
            topics.push(
                Topic::default()
                    .with_name(None)
                    .with_topic_id(Uuid::from_u128(5)),
            );
        }
        let request = MetadataRequest::default().with_topics(Some(topics));
        match version {
            8..=10 => request
                .with_include_cluster_authorized_operations(true)
                .with_include_topic_authorized_operations(true),
            _ => request,
        }
    })
    .await;
    each(&mut client, |_| m::DescribeClusterRequest::default()).await;
    each(&mut client, |_| {
        use m::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let partitions = [-1, -2, -3, 0, i64::MAX]
            .map(|timestamp| ListOffsetsPartition::default().with_timestamp(timestamp));
        let unknown = ListOffsetsPartition::default().with_partition_index(9);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(partitions.into_iter().chain([unknown]).collect());
        m::ListOffsetsRequest::default().with_topics(vec![topic])
    })
    .await;
    each(&mut client, |_| {
        use m::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
        let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(topic_name("t"))
            .with_partitions(vec![partition.clone(), partition.with_partition(7)]);
        m::OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
    })
    .await;
    each(&mut client, |version| {
        use m::fetch_request::{FetchPartition, FetchTopic};
        let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_partitions(vec![partition.clone(), partition.with_partition(8)]);
        let topic = match version >= 13 {
            true => topic.with_topic_id(id),
            false => topic.with_topic(topic_name("t")),
        };
        m::FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic])
    })
    .await;
    each(&mut client, |_| {
        m::InitProducerIdRequest::default().with_transactional_id(None)
    })
    .await;
    each(&mut client, |_| {
        m::InitProducerIdRequest::default()
            .with_transactional_id(Some(m::TransactionalId(text("tx"))))
    })
    .await;
}

#[tokio::test]
async fn administration_answers_in_every_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    each(&mut client, |version| {
        use m::create_topics_request::{CreatableTopic, CreatableTopicConfig};
        let topic = |name: String| {
            CreatableTopic::default()
                .with_name(topic_name(&name))
                .with_num_partitions(1)
                .with_replication_factor(1)
        };
        let config = CreatableTopicConfig::default()
            .with_name(text("no.such.config"))
            .with_value(Some(text("1")));
        m::CreateTopicsRequest::default().with_topics(vec![
            topic(format!("made-{version}")),
            topic("t".to_owned()),
            topic("twice".to_owned()),
            topic("twice".to_owned()),
            topic(format!("bad-{version}")).with_configs(vec![config]),
        ])
    })
    .await;
    each(&mut client, |version| {
        use m::create_partitions_request::CreatePartitionsTopic;
        let topic = CreatePartitionsTopic::default().with_name(topic_name("t"));
        let unknown = CreatePartitionsTopic::default()
            .with_name(topic_name("none"))
            .with_count(3);
        m::CreatePartitionsRequest::default().with_topics(vec![
            topic
                .with_count(i32::from(version) + 2)
                .with_assignments(None),
            unknown.with_assignments(None),
        ])
    })
    .await;
    each(&mut client, |_| {
        use m::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
        let partition = DeleteRecordsPartition::default().with_offset(-1);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition.clone(), partition.with_offset(1000)]);
        m::DeleteRecordsRequest::default().with_topics(vec![topic])
    })
    .await;
}

#[tokio::test]
async fn configs_answer_in_every_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    each(&mut client, |version| {
        use m::describe_configs_request::DescribeConfigsResource as Resource;
        let resource = |kind, name| {
            Resource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None)
        };
        m::DescribeConfigsRequest::default()
            .with_include_synonyms(true)
            .with_include_documentation(version >= 3)
            .with_resources(vec![
                resource(2, "t"),
                resource(2, "none"),
                resource(4, "1"),
                resource(4, ""),
                resource(9, "x"),
            ])
    })
    .await;
    each(&mut client, |_| {
        use m::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let config = AlterableConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1000")));
        let resource = AlterConfigsResource::default().with_resource_type(2);
        m::IncrementalAlterConfigsRequest::default().with_resources(vec![
            resource
                .clone()
                .with_resource_name(text("t"))
                .with_configs(vec![config.clone()]),
            resource
                .with_resource_name(text("none"))
                .with_configs(vec![config]),
        ])
    })
    .await;
    each(&mut client, |_| {
        use m::alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let config = AlterableConfig::default()
            .with_name(text("segment.ms"))
            .with_value(Some(text("3600000")));
        m::AlterConfigsRequest::default().with_resources(vec![
            AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![config]),
        ])
    })
    .await;
}

#[tokio::test]
async fn deleting_topics_answers_in_every_version() {
    let node = Node::start().await;
    let mut client = node.connect();
    for version in 1..=6 {
        client.create_topic(&format!("made-{version}"), 1).await;
    }
    each(&mut client, |version| {
        use m::delete_topics_request::DeleteTopicState;
        let name = topic_name(&format!("made-{}", version));
        let request = m::DeleteTopicsRequest::default();
        match version >= 6 {
            true => request.with_topics(vec![
                DeleteTopicState::default().with_name(Some(name)),
                DeleteTopicState::default()
                    .with_name(None)
                    .with_topic_id(Uuid::from_u128(3)),
                DeleteTopicState::default().with_name(None),
            ]),
            false => request.with_topic_names(vec![name, topic_name("none")]),
        }
    })
    .await;
}

#[tokio::test]
async fn coordinators_and_commits_answer_in_every_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let group = || GroupId(text("g"));
    each(&mut client, |version| {
        let request = m::FindCoordinatorRequest::default();
        match version >= 4 {
            true => request.with_coordinator_keys(vec![text("g"), text("h")]),
            false => request.with_key(text("g")),
        }
    })
    .await;
    each(&mut client, |version| {
        let request = m::FindCoordinatorRequest::default();
        match version {
            4.. => request
                .with_key_type(1)
                .with_coordinator_keys(vec![text("tx")]),
            1..4 => request.with_key_type(1).with_key(text("tx")),
            _ => request.with_key(text("g")),
        }
    })
    .await;
    each(&mut client, |_| {
        use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition.clone(), partition.with_partition_index(50)]);
        m::OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    })
    .await;
    for all in [true, false] {
        each(&mut client, |version| {
            use m::offset_fetch_request as f;
            let request = m::OffsetFetchRequest::default();
            if version >= 8 {
                let topic = f::OffsetFetchRequestTopics::default()
                    .with_name(topic_name("t"))
                    .with_partition_indexes(vec![0, 1]);
                let asked = f::OffsetFetchRequestGroup::default().with_group_id(group());
                return request
                    .with_topics(Some(vec![]))
                    .with_groups(vec![asked.with_topics((!all).then(|| vec![topic]))]);
            }
            let topic = f::OffsetFetchRequestTopic::default()
                .with_name(topic_name("t"))
                .with_partition_indexes(vec![0, 1]);
            request
                .with_group_id(group())
                .with_topics((!all || version < 2).then(|| vec![topic]))
        })
        .await;
    }
}

#[tokio::test]
async fn memberships_answer_in_every_version() {
    let node = Node::start().await;
    let mut client = node.with_topic("t").await;
    let group = || GroupId(text("g"));
    each(&mut client, |_| m::ListGroupsRequest::default()).await;
    each(&mut client, |_| {
        m::DescribeGroupsRequest::default().with_groups(vec![group(), GroupId(text("none"))])
    })
    .await;
    each(&mut client, |_| {
        m::HeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(text("nobody"))
    })
    .await;
    each(&mut client, |_| {
        m::SyncGroupRequest::default()
            .with_group_id(group())
            .with_member_id(text("nobody"))
    })
    .await;
    each(&mut client, |version| {
        let request = m::LeaveGroupRequest::default().with_group_id(group());
        let member = m::leave_group_request::MemberIdentity::default();
        match version >= 3 {
            true => request.with_members(vec![member.with_member_id(text("nobody"))]),
            false => request.with_member_id(text("nobody")),
        }
    })
    .await;
    each(&mut client, |_| {
        // An illegal session timeout: every version answers at once.
        let protocol =
            m::join_group_request::JoinGroupRequestProtocol::default().with_name(text("range"));
        m::JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(1)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    })
    .await;
    each(&mut client, |_| {
        use m::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![OffsetDeleteRequestPartition::default()]);
        m::OffsetDeleteRequest::default()
            .with_group_id(group())
            .with_topics(vec![topic])
    })
    .await;
    each(&mut client, |_| {
        m::DeleteGroupsRequest::default().with_groups_names(vec![group(), GroupId(text("none"))])
    })
    .await;
}
