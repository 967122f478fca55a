//! The APIs that we serve: one table that negotiation, the gate, dispatch and the metrics share.

use kafka_protocol::messages::ApiKey;

use crate::bounded::schema::{self, Struct};

/// No version of the API is flexible (KIP-482).
const NEVER: i16 = i16::MAX;

/// An API that we serve.
#[derive(Debug)]
pub(crate) struct Api {
    /// Its key.
    pub(crate) key: ApiKey,
    /// Kafka's name of it; the value of the metric label `api`.
    pub(crate) name: &'static str,
    /// The lowest version that ApiVersions tells.
    pub(crate) advertised_min: i16,
    /// The lowest version that is served.
    pub(crate) min: i16,
    /// The highest version that is told and served.
    pub(crate) max: i16,
    /// The first version with compact lengths and tagged fields, in header and body.
    pub(crate) flexible_from: i16,
    /// The shape of the request.
    pub(crate) schema: &'static Struct,
}

const fn api(
    key: ApiKey,
    name: &'static str,
    (min, max): (i16, i16),
    flexible_from: i16,
    schema: &'static Struct,
) -> Api {
    Api {
        key,
        name,
        advertised_min: min,
        min,
        max,
        flexible_from,
        schema,
    }
}

/// Everything that is served. Advertised is what works and nothing else.
pub(crate) static APIS: &[Api] = &[
    Api {
        key: ApiKey::Produce,
        name: "Produce",
        // librdkafka before 2.11.1 compresses only if the minimum is at most 0 (KAFKA-18659).
        // Versions 0 to 2 are told and, as in Kafka 4, not served.
        advertised_min: 0,
        min: 3,
        max: 12,
        flexible_from: 9,
        schema: &schema::PRODUCE,
    },
    api(ApiKey::Fetch, "Fetch", (4, 17), 12, &schema::FETCH),
    api(
        ApiKey::ListOffsets,
        "ListOffsets",
        (1, 10),
        6,
        &schema::LIST_OFFSETS,
    ),
    api(ApiKey::Metadata, "Metadata", (0, 13), 9, &schema::METADATA),
    api(
        ApiKey::OffsetCommit,
        "OffsetCommit",
        (2, 9),
        8,
        &schema::OFFSET_COMMIT,
    ),
    api(
        ApiKey::OffsetFetch,
        "OffsetFetch",
        (1, 9),
        6,
        &schema::OFFSET_FETCH,
    ),
    api(
        ApiKey::FindCoordinator,
        "FindCoordinator",
        (0, 6),
        3,
        &schema::FIND_COORDINATOR,
    ),
    api(
        ApiKey::JoinGroup,
        "JoinGroup",
        (0, 9),
        6,
        &schema::JOIN_GROUP,
    ),
    api(
        ApiKey::Heartbeat,
        "Heartbeat",
        (0, 4),
        4,
        &schema::HEARTBEAT,
    ),
    api(
        ApiKey::LeaveGroup,
        "LeaveGroup",
        (0, 5),
        4,
        &schema::LEAVE_GROUP,
    ),
    api(
        ApiKey::SyncGroup,
        "SyncGroup",
        (0, 5),
        4,
        &schema::SYNC_GROUP,
    ),
    api(
        ApiKey::DescribeGroups,
        "DescribeGroups",
        (0, 6),
        5,
        &schema::DESCRIBE_GROUPS,
    ),
    api(
        ApiKey::ListGroups,
        "ListGroups",
        (0, 5),
        3,
        &schema::LIST_GROUPS,
    ),
    api(
        ApiKey::ApiVersions,
        "ApiVersions",
        (0, 4),
        3,
        &schema::API_VERSIONS,
    ),
    api(
        ApiKey::CreateTopics,
        "CreateTopics",
        (2, 7),
        5,
        &schema::CREATE_TOPICS,
    ),
    api(
        ApiKey::DeleteTopics,
        "DeleteTopics",
        (1, 6),
        4,
        &schema::DELETE_TOPICS,
    ),
    api(
        ApiKey::DeleteRecords,
        "DeleteRecords",
        (0, 2),
        2,
        &schema::DELETE_RECORDS,
    ),
    api(
        ApiKey::InitProducerId,
        "InitProducerId",
        (0, 5),
        2,
        &schema::INIT_PRODUCER_ID,
    ),
    api(
        ApiKey::OffsetForLeaderEpoch,
        "OffsetForLeaderEpoch",
        (2, 4),
        4,
        &schema::OFFSET_FOR_LEADER_EPOCH,
    ),
    api(
        ApiKey::DescribeConfigs,
        "DescribeConfigs",
        (1, 4),
        4,
        &schema::DESCRIBE_CONFIGS,
    ),
    api(
        ApiKey::AlterConfigs,
        "AlterConfigs",
        (0, 2),
        2,
        &schema::ALTER_CONFIGS,
    ),
    api(
        ApiKey::CreatePartitions,
        "CreatePartitions",
        (0, 3),
        2,
        &schema::CREATE_PARTITIONS,
    ),
    api(
        ApiKey::DeleteGroups,
        "DeleteGroups",
        (0, 2),
        2,
        &schema::DELETE_GROUPS,
    ),
    api(
        ApiKey::IncrementalAlterConfigs,
        "IncrementalAlterConfigs",
        (0, 1),
        1,
        &schema::INCREMENTAL_ALTER_CONFIGS,
    ),
    api(
        ApiKey::OffsetDelete,
        "OffsetDelete",
        (0, 0),
        NEVER,
        &schema::OFFSET_DELETE,
    ),
    api(
        ApiKey::DescribeCluster,
        "DescribeCluster",
        (0, 2),
        0,
        &schema::DESCRIBE_CLUSTER,
    ),
];

/// The API with this key and its place in [`APIS`].
pub(crate) fn find(key: i16) -> Option<(usize, &'static Api)> {
    APIS.iter()
        .enumerate()
        .find(|(_, api)| api.key as i16 == key)
}

// === impl Api ===

impl Api {
    /// Whether requests of this version are served.
    pub(crate) fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_flexible_as_the_codec_says() {
        for api in APIS {
            for version in api.min..=api.max {
                let flexible = version >= api.flexible_from;
                assert_eq!(
                    api.key.request_header_version(version),
                    if flexible { 2 } else { 1 },
                    "{} {version}",
                    api.name
                );
            }
        }
    }

    #[test]
    fn keys_are_unique_and_ranges_lie_within_the_codec() {
        for (index, api) in APIS.iter().enumerate() {
            assert_eq!(find(api.key as i16).map(|(at, _)| at), Some(index));
            let codec = api.key.valid_versions();
            assert!(codec.min <= api.min && api.max <= codec.max, "{}", api.name);
        }
    }
}
