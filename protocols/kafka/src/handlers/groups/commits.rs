//! OffsetCommit, OffsetFetch and OffsetDelete.

use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
    offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic},
    offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopic, OffsetFetchResponseTopics,
    },
};
use mainstem_broker::{
    CommitPartition, CommitRequest, CommitTopic, DeleteOffsetsTopic, OffsetTopic,
};
use mainstem_record::{LeaderEpoch, Offset, PartitionIndex};

use super::{owned, text};
use crate::context::Call;

/// The first version of OffsetFetch that asks for many groups at once (KIP-709).
const FETCH_GROUPS_FROM: i16 = 8;
/// The first version of OffsetFetch with an error of its own.
const FETCH_ERROR_FROM: i16 = 2;
/// The first version of OffsetFetch that says who asks.
const FETCH_MEMBER_FROM: i16 = 9;

/// What is asked of one group: topics with partitions; `None` is all that is committed.
type Asked = Option<Vec<(String, Vec<PartitionIndex>)>>;

/// Commits offsets. Answered when they are durable.
pub(crate) async fn commit(call: &Call<'_>, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| CommitTopic {
        name: owned(&topic.name),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| CommitPartition {
                index: PartitionIndex(partition.partition_index),
                offset: Offset(partition.committed_offset),
                leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
                metadata: partition.committed_metadata.as_ref().map(owned),
            })
            .collect(),
    });
    let commit = CommitRequest {
        group: owned(&request.group_id),
        generation: request.generation_id_or_member_epoch,
        member_id: owned(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(owned),
        topics: topics.collect(),
    };
    let answers = call.broker().groups().commit(call.caller, commit).await;
    let topics = answers.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|(index, code)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(index.0)
                .with_error_code(call.code(code))
        });
        OffsetCommitResponseTopic::default()
            .with_name(TopicName(text(topic.name)))
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Tells what is committed. A group that is not there has committed nothing, which is no error.
pub(crate) async fn fetch_offsets(
    call: &Call<'_>,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if call.version >= FETCH_GROUPS_FROM {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            groups.push(fetch_group(call, group, request.require_stable).await);
        }
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let asked = asked(request.topics);
    let result = call
        .broker()
        .groups()
        .fetch_offsets(
            call.caller,
            &request.group_id,
            None,
            asked.clone(),
            request.require_stable,
        )
        .await;
    match result {
        Ok(topics) => {
            let topics = topics.into_iter().map(|topic| old_topic(call, topic));
            OffsetFetchResponse::default().with_topics(topics.collect())
        }
        Err(code) if call.version >= FETCH_ERROR_FROM => {
            OffsetFetchResponse::default().with_error_code(call.code(code))
        }
        Err(code) => {
            let topics = asked
                .unwrap_or_default()
                .into_iter()
                .map(|(name, partitions)| {
                    let partitions = partitions.into_iter().map(|index| {
                        OffsetFetchResponsePartition::default()
                            .with_partition_index(index.0)
                            .with_committed_offset(-1)
                            .with_metadata(Some(text("")))
                            .with_error_code(call.code(code))
                    });
                    OffsetFetchResponseTopic::default()
                        .with_name(TopicName(text(name)))
                        .with_partitions(partitions.collect())
                });
            OffsetFetchResponse::default().with_topics(topics.collect())
        }
    }
}

fn asked(topics: Option<Vec<OffsetFetchRequestTopic>>) -> Asked {
    let named = topics?.into_iter().map(|topic| {
        let indexes = topic
            .partition_indexes
            .into_iter()
            .map(PartitionIndex)
            .collect();
        (owned(&topic.name), indexes)
    });
    Some(named.collect())
}

fn old_topic(call: &Call<'_>, topic: OffsetTopic) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition.index.0)
            .with_committed_offset(partition.offset.0)
            .with_committed_leader_epoch(partition.leader_epoch.0)
            .with_metadata(Some(text(partition.metadata)))
            .with_error_code(call.code(partition.error))
    });
    OffsetFetchResponseTopic::default()
        .with_name(TopicName(text(topic.name)))
        .with_partitions(partitions.collect())
}

async fn fetch_group(
    call: &Call<'_>,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let asked: Asked = group.topics.map(|topics| {
        let named = topics.into_iter().map(|topic| {
            let indexes = topic
                .partition_indexes
                .into_iter()
                .map(PartitionIndex)
                .collect();
            (owned(&topic.name), indexes)
        });
        named.collect()
    });
    let member = match &group.member_id {
        Some(id) if call.version >= FETCH_MEMBER_FROM => Some((id.as_str(), group.member_epoch)),
        _ => None,
    };
    let result = call
        .broker()
        .groups()
        .fetch_offsets(call.caller, &group.group_id, member, asked, require_stable)
        .await;
    let response = OffsetFetchResponseGroup::default().with_group_id(group.group_id);
    match result {
        Ok(topics) => {
            let topics = topics.into_iter().map(|topic| new_topic(call, topic));
            response.with_topics(topics.collect())
        }
        Err(code) => response.with_error_code(call.code(code)),
    }
}

fn new_topic(call: &Call<'_>, topic: OffsetTopic) -> OffsetFetchResponseTopics {
    let partitions = topic.partitions.into_iter().map(|partition| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(partition.index.0)
            .with_committed_offset(partition.offset.0)
            .with_committed_leader_epoch(partition.leader_epoch.0)
            .with_metadata(Some(text(partition.metadata)))
            .with_error_code(call.code(partition.error))
    });
    OffsetFetchResponseTopics::default()
        .with_name(TopicName(text(topic.name)))
        .with_partitions(partitions.collect())
}

/// Deletes committed offsets of topics that nobody in the group reads.
pub(crate) async fn delete_offsets(
    call: &Call<'_>,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let topics = request.topics.iter().map(|topic| DeleteOffsetsTopic {
        name: owned(&topic.name),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| PartitionIndex(partition.partition_index))
            .collect(),
    });
    let topics = topics.collect();
    let result = call
        .broker()
        .groups()
        .delete_offsets(call.caller, &request.group_id, topics)
        .await;
    match result {
        Ok(answers) => {
            let topics = answers.into_iter().map(|topic| {
                let partitions = topic.partitions.into_iter().map(|(index, code)| {
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index.0)
                        .with_error_code(call.code(code))
                });
                OffsetDeleteResponseTopic::default()
                    .with_name(TopicName(text(topic.name)))
                    .with_partitions(partitions.collect())
            });
            OffsetDeleteResponse::default().with_topics(topics.collect())
        }
        Err(code) => OffsetDeleteResponse::default().with_error_code(call.code(code)),
    }
}
