//! FindCoordinator, DescribeCluster and InitProducerId.

use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
    describe_cluster_response::DescribeClusterBroker, find_coordinator_response::Coordinator,
};
use mainstem_broker::ErrorCode;
use mainstem_record as record;

use super::text;
use crate::context::Call;

/// The coordinator of consumer groups, as a key type.
const KEY_TYPE_GROUP: i8 = 0;
/// The coordinator of transactions, as a key type.
const KEY_TYPE_TRANSACTION: i8 = 1;
/// The first version that asks for many keys at once (KIP-699).
const BATCHED_FROM: i16 = 4;
/// The first version of DescribeCluster that may ask for brokers without a session (KIP-1073).
const FENCED_FROM: i16 = 2;
/// Brokers, as an endpoint type (KIP-919).
const ENDPOINT_BROKERS: i8 = 1;
/// Controllers, as an endpoint type.
const ENDPOINT_CONTROLLERS: i8 = 2;
/// CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS and IDEMPOTENT_WRITE, as
/// bits.
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// Where the coordinator of a key is.
struct Found {
    code: ErrorCode,
    message: Option<String>,
    node: i32,
    host: String,
    port: i32,
}

/// Names the coordinator of each key.
pub(crate) async fn find_coordinator(
    call: &Call<'_>,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if call.version >= BATCHED_FROM {
        let coordinators = request.coordinator_keys.into_iter().map(|key| {
            let found = find(call, request.key_type, &key);
            Coordinator::default()
                // A copy would be no better: the response is gone before its frame is.
                .with_key(key)
                .with_node_id(BrokerId(found.node))
                .with_host(text(found.host))
                .with_port(found.port)
                .with_error_code(call.code(found.code))
                .with_error_message(found.message.map(text))
        });
        return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
    }
    let found = find(call, request.key_type, &request.key);
    FindCoordinatorResponse::default()
        .with_error_code(call.code(found.code))
        .with_error_message(found.message.map(text))
        .with_node_id(BrokerId(found.node))
        .with_host(text(found.host))
        .with_port(found.port)
}

fn find(call: &Call<'_>, key_type: i8, key: &str) -> Found {
    let refused = |code: ErrorCode, message: &str| Found {
        code,
        message: Some(message.to_owned()),
        node: -1,
        host: String::new(),
        port: -1,
    };
    if key_type == KEY_TYPE_TRANSACTION {
        // What librdkafka and the Java client take as final: the application is told at once and
        // does not wait for a coordinator that never comes.
        return refused(
            ErrorCode::TransactionalIdAuthorizationFailed,
            "transactions are not supported yet",
        );
    }
    if key_type != KEY_TYPE_GROUP {
        return refused(
            ErrorCode::InvalidRequest,
            "there is no such type of coordinator",
        );
    }
    match call.broker().groups().coordinator_of(key) {
        Ok(broker) => Found {
            code: ErrorCode::None,
            message: None,
            node: broker.id.0,
            host: broker.host,
            port: i32::from(broker.port),
        },
        Err(code) => refused(code, code.text()),
    }
}

/// Describes the brokers of the cluster.
pub(crate) async fn describe(
    call: &Call<'_>,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let refusal = match request.endpoint_type {
        ENDPOINT_BROKERS => None,
        ENDPOINT_CONTROLLERS => Some(ErrorCode::MismatchedEndpointType),
        _ => Some(ErrorCode::UnsupportedEndpointType),
    };
    if let Some(code) = refusal {
        return DescribeClusterResponse::default()
            .with_error_code(call.code(code))
            .with_error_message(Some(text(code.text())));
    }
    let cluster = call.broker().cluster();
    let with_fenced = call.version >= FENCED_FROM && request.include_fenced_brokers;
    let told = cluster.brokers.into_iter();
    let told = told.filter(|broker| with_fenced || !broker.fenced);
    let brokers = told.map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(broker.id.0))
            .with_host(text(broker.host))
            .with_port(i32::from(broker.port))
            .with_is_fenced(broker.fenced)
    });
    let mut response = DescribeClusterResponse::default()
        .with_cluster_id(text(cluster.cluster_id))
        .with_controller_id(BrokerId(cluster.controller.0))
        .with_brokers(brokers.collect());
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

/// Gives an idempotent producer its id.
pub(crate) async fn init_producer_id(
    call: &Call<'_>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let current = (request.producer_id.0 >= 0).then_some((
        record::ProducerId(request.producer_id.0),
        record::ProducerEpoch(request.producer_epoch),
    ));
    let transactional_id = request.transactional_id.as_ref().map(|id| id.as_str());
    let result = match transactional_id {
        Some("") => Err(ErrorCode::InvalidRequest),
        id => {
            call.broker()
                .init_producer_id(call.caller, id, current)
                .await
        }
    };
    let response = InitProducerIdResponse::default();
    match result {
        Ok((id, epoch)) => response
            .with_producer_id(ProducerId(id.0))
            .with_producer_epoch(epoch.0),
        Err(code) => response
            .with_error_code(call.code(code))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_the_bits_of_kafkas_acl_operations() {
        // CREATE 5, ALTER 7, DESCRIBE 8, CLUSTER_ACTION 9, DESCRIBE_CONFIGS 10, ALTER_CONFIGS 11,
        // IDEMPOTENT_WRITE 12.
        let bits = [5, 7, 8, 9, 10, 11, 12]
            .iter()
            .fold(0, |all, bit| all | (1 << bit));
        assert_eq!(CLUSTER_OPERATIONS, bits);
    }
}
