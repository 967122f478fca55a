//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.

use kafka_protocol::{
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs_request,
        alter_configs_response,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{
            DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
        },
        incremental_alter_configs_request::AlterConfigsResource,
        incremental_alter_configs_response as incremental_response,
    },
    protocol::StrBytes,
};
use mainstem_broker::{AlterOp, ConfigEntry, ConfigResource, ConfigSource, ErrorCode, TopicError};

use super::{message, owned, text};
use crate::context::Call;

/// Topics, as a resource type.
const RESOURCE_TOPIC: i8 = 2;
/// Brokers, as a resource type.
const RESOURCE_BROKER: i8 = 4;

/// A change of one config.
type Change = (String, AlterOp, Option<String>);

/// Describes every config of each resource, with where its value comes from.
pub(crate) async fn describe(
    call: &Call<'_>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    let results = request.resources.into_iter().map(|asked| {
        let entries = described(call, &asked);
        let response = DescribeConfigsResult::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name);
        match entries {
            Ok(entries) => {
                let configs = entries
                    .into_iter()
                    .map(|entry| config(entry, synonyms, documentation));
                response.with_configs(configs.collect())
            }
            Err(error) => response
                .with_error_code(call.code(error.code))
                .with_error_message(Some(message(error.message))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn described(
    call: &Call<'_>,
    asked: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, TopicError> {
    let resource = resource(asked.resource_type, &asked.resource_name)?;
    let keys: Option<Vec<String>> = asked
        .configuration_keys
        .as_ref()
        // As in Kafka, no keys are all keys.
        .filter(|keys| !keys.is_empty())
        .map(|keys| keys.iter().map(owned).collect());
    call.broker()
        .describe_configs(call.caller, &resource, keys.as_deref())
}

fn config(
    entry: ConfigEntry,
    with_synonyms: bool,
    with_documentation: bool,
) -> DescribeConfigsResourceResult {
    let sensitive = entry.sensitive;
    let shown = |value: Option<String>| value.filter(|_| !sensitive).map(text);
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(shown(entry.value))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(sensitive)
        .with_config_type(entry.kind);
    if with_synonyms {
        let synonyms = entry.synonyms.into_iter().map(|(name, value, source)| {
            DescribeConfigsSynonym::default()
                .with_name(text(name))
                .with_value(shown(value))
                .with_source(source as i8)
        });
        result.synonyms = synonyms.collect();
    }
    if with_documentation {
        result.documentation = Some(text(entry.doc));
    }
    result
}

/// Changes some configs and leaves the others (KIP-339).
pub(crate) async fn alter_incrementally(
    call: &Call<'_>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let result = alter_one(call, &asked, request.validate_only).await;
        let (code, message) = told(call, result);
        responses.push(
            incremental_response::AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name),
        );
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

async fn alter_one(
    call: &Call<'_>,
    asked: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), TopicError> {
    let resource = resource(asked.resource_type, &asked.resource_name)?;
    let changes: Result<Vec<Change>, TopicError> = asked
        .configs
        .iter()
        .map(|config| {
            let op = operation(config.config_operation)?;
            Ok((owned(&config.name), op, config.value.as_ref().map(owned)))
        })
        .collect();
    call.broker()
        .alter_configs(call.caller, &resource, changes?, validate_only)
        .await
}

fn operation(number: i8) -> Result<AlterOp, TopicError> {
    match number {
        0 => Ok(AlterOp::Set),
        1 => Ok(AlterOp::Delete),
        2 => Ok(AlterOp::Append),
        3 => Ok(AlterOp::Subtract),
        other => Err(refusal(format!("{other} is no config operation"))),
    }
}

/// Replaces all configs of each resource: what is not named goes back to its default. Old clients
/// know no other way.
pub(crate) async fn alter(call: &Call<'_>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let result = replace(call, &asked, request.validate_only).await;
        let (code, message) = told(call, result);
        responses.push(
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name),
        );
    }
    AlterConfigsResponse::default().with_responses(responses)
}

async fn replace(
    call: &Call<'_>,
    asked: &alter_configs_request::AlterConfigsResource,
    validate_only: bool,
) -> Result<(), TopicError> {
    let resource = resource(asked.resource_type, &asked.resource_name)?;
    let mut changes: Vec<Change> = asked
        .configs
        .iter()
        .map(|config| {
            (
                owned(&config.name),
                AlterOp::Set,
                config.value.as_ref().map(owned),
            )
        })
        .collect();
    let present = call
        .broker()
        .describe_configs(call.caller, &resource, None)?;
    let set = |entry: &ConfigEntry| match &resource {
        ConfigResource::Topic(_) => entry.source == ConfigSource::DynamicTopic,
        ConfigResource::Broker(_) => matches!(
            entry.source,
            ConfigSource::DynamicBroker | ConfigSource::DynamicDefaultBroker
        ),
    };
    for entry in present.into_iter().filter(set) {
        if !changes.iter().any(|(name, ..)| *name == entry.name) {
            changes.push((entry.name, AlterOp::Delete, None));
        }
    }
    call.broker()
        .alter_configs(call.caller, &resource, changes, validate_only)
        .await
}

fn resource(kind: i8, name: &str) -> Result<ConfigResource, TopicError> {
    match kind {
        RESOURCE_TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        RESOURCE_BROKER => Ok(ConfigResource::Broker(name.to_owned())),
        other => Err(refusal(format!(
            "configs of resource type {other} are not supported: topics ({RESOURCE_TOPIC}) and \
             brokers ({RESOURCE_BROKER}) have some"
        ))),
    }
}

fn refusal(message: String) -> TopicError {
    TopicError {
        code: ErrorCode::InvalidRequest,
        message,
    }
}

fn told(call: &Call<'_>, result: Result<(), TopicError>) -> (i16, Option<StrBytes>) {
    match result {
        Ok(()) => (0, None),
        Err(error) => (call.code(error.code), Some(message(error.message))),
    }
}
