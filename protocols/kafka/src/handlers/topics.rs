//! CreateTopics, DeleteTopics and CreatePartitions.

use std::collections::HashSet;

use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
    create_partitions_response::CreatePartitionsTopicResult,
    create_topics_request::CreatableTopic,
    create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    delete_topics_response::DeletableTopicResult,
};
use mainstem_broker::{CreatedTopic, ErrorCode, NewTopicRequest, TopicError};
use mainstem_record::{BrokerId, PartitionIndex};
use uuid::Uuid;

use super::{message, metadata::topic_ref, owned, text};
use crate::context::Call;

/// The first version of DeleteTopics that takes ids.
const DELETE_BY_ID_FROM: i16 = 6;

/// Makes topics; one refusal does not touch the others.
pub(crate) async fn create(call: &Call<'_>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let twice = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut asked = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        if twice.contains(topic.name.as_str()) {
            // Kafka answers once for a name that is there twice.
            if !topics
                .iter()
                .any(|done: &CreatableTopicResult| done.name == topic.name)
            {
                let error = refusal(ErrorCode::InvalidRequest, "the topic is named twice");
                topics.push(created(call, topic.name, Err(error)));
            }
            continue;
        }
        asked.push((topic.name.clone(), new_topic(topic)));
    }
    let (names, requests): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let results = call
        .broker()
        .create_topics(call.caller, requests, request.validate_only)
        .await;
    for (name, result) in names.into_iter().zip(results) {
        topics.push(created(call, name, result));
    }
    CreateTopicsResponse::default().with_topics(topics)
}

fn new_topic(topic: CreatableTopic) -> NewTopicRequest {
    let assignments = topic.assignments.into_iter().map(|assignment| {
        let replicas = assignment
            .broker_ids
            .into_iter()
            .map(|id| BrokerId(id.0))
            .collect();
        (PartitionIndex(assignment.partition_index), replicas)
    });
    let configs = topic
        .configs
        .into_iter()
        .map(|config| (owned(&config.name), config.value.as_ref().map(owned)));
    NewTopicRequest {
        name: owned(&topic.name),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.collect(),
        configs: configs.collect(),
    }
}

fn created(
    call: &Call<'_>,
    name: TopicName,
    result: Result<CreatedTopic, TopicError>,
) -> CreatableTopicResult {
    let response = CreatableTopicResult::default().with_name(name);
    match result {
        Ok(topic) => {
            let configs = topic.configs.into_iter().map(|entry| {
                let config = CreatableTopicConfigs::default()
                    .with_name(text(entry.name))
                    .with_read_only(entry.read_only)
                    .with_config_source(entry.source as i8)
                    .with_is_sensitive(entry.sensitive);
                match entry.sensitive {
                    true => config.with_value(None),
                    false => config.with_value(entry.value.map(text)),
                }
            });
            response
                .with_topic_id(topic.id.0)
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(Some(configs.collect()))
        }
        Err(error) => response
            .with_error_code(call.code(error.code))
            .with_error_message(Some(message(error.message)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(Some(Vec::new())),
    }
}

/// Deletes topics by name or, from version 6 on, by id.
pub(crate) async fn delete(call: &Call<'_>, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked: Vec<(Option<TopicName>, Uuid)> = match call.version >= DELETE_BY_ID_FROM {
        true => request
            .topics
            .into_iter()
            .map(|topic| (topic.name, topic.topic_id))
            .collect(),
        false => {
            let names = request.topic_names.into_iter();
            names.map(|name| (Some(name), Uuid::nil())).collect()
        }
    };
    let mut responses = Vec::with_capacity(asked.len());
    for (name, id) in asked {
        let response = DeletableTopicResult::default();
        let named = name.as_ref().map_or("", |name| name.as_str());
        let result = match (named.is_empty(), id.is_nil()) {
            // Exactly one of the two names a topic.
            (false, true) | (true, false) => {
                call.broker()
                    .delete_topic(call.caller, &topic_ref(named, id))
                    .await
            }
            _ => Err(refusal(
                ErrorCode::InvalidRequest,
                "give either the name or the id of a topic",
            )),
        };
        responses.push(match result {
            Ok(topic) => response
                .with_name(Some(TopicName(text(topic.name.as_str()))))
                .with_topic_id(topic.id.0),
            Err(error) => response
                // The name is nullable from version 6 on, where ids are.
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(call.code(error.code))
                .with_error_message(Some(message(error.message))),
        });
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

/// Grows topics.
pub(crate) async fn create_partitions(
    call: &Call<'_>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let twice = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut results: Vec<CreatePartitionsTopicResult> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let result = if twice.contains(topic.name.as_str()) {
            if results.iter().any(|done| done.name == topic.name) {
                continue;
            }
            Err(refusal(
                ErrorCode::InvalidRequest,
                "the topic is named twice",
            ))
        } else {
            let assignments = topic.assignments.map(|assignments| {
                let replicas = assignments.into_iter().map(|assignment| {
                    assignment
                        .broker_ids
                        .into_iter()
                        .map(|id| BrokerId(id.0))
                        .collect()
                });
                replicas.collect()
            });
            let (total, validate_only) = (topic.count, request.validate_only);
            call.broker()
                .create_partitions(call.caller, &topic.name, total, assignments, validate_only)
                .await
        };
        let response = CreatePartitionsTopicResult::default().with_name(topic.name);
        results.push(match result {
            Ok(()) => response,
            Err(error) => response
                .with_error_code(call.code(error.code))
                .with_error_message(Some(message(error.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

fn refusal(code: ErrorCode, message: &str) -> TopicError {
    TopicError {
        code,
        message: message.to_owned(),
    }
}

/// The names that are there more than once.
fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> HashSet<String> {
    let mut seen = HashSet::new();
    names
        .filter(|name| !seen.insert(*name))
        .map(str::to_owned)
        .collect()
}
