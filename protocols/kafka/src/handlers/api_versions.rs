//! ApiVersions: what is served, told in whatever version the client can read (KIP-35, KIP-511).

use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion,
};
use mainstem_broker::ErrorCode;

use crate::{
    api::{APIS, Api},
    chain::Chain,
    context::Call,
};

/// The version whose response every client can read.
const FALLBACK_VERSION: i16 = 0;

/// Answers with the whole table. No features: none is finalized before it works.
pub(crate) async fn handle(call: &Call<'_>, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let named = call.version < 3
        || (is_legal_name(&request.client_software_name)
            && is_legal_name(&request.client_software_version));
    if !named {
        return ApiVersionsResponse::default()
            .with_error_code(call.code(ErrorCode::InvalidRequest));
    }
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(range).collect())
}

/// The answer to a version of ApiVersions that is newer than ours: in version 0, with our own
/// range, from which the client picks the highest that both know. `None` for every other API:
/// there the connection is closed.
pub(crate) fn fallback(api: &Api, correlation: i32) -> Option<Chain> {
    if api.key != ApiKey::ApiVersions {
        return None;
    }
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![range(api)]);
    super::encode(FALLBACK_VERSION, correlation, &response).ok()
}

fn range(api: &Api) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(api.key as i16)
        .with_min_version(api.advertised_min)
        .with_max_version(api.max)
}

/// KIP-511: letters, digits, `-` and `.`, beginning and ending with a letter or digit.
fn is_legal_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::protocol::Decodable;

    use super::*;

    #[test]
    fn names_follow_kip_511() {
        for legal in ["a", "librdkafka", "apache-kafka-java", "4.1.0", "v1.2-rc1"] {
            assert!(is_legal_name(legal), "{legal}");
        }
        for illegal in ["", "-a", "a-", ".", "a b", "ä", "a_b", "a\n"] {
            assert!(!is_legal_name(illegal), "{illegal}");
        }
    }

    #[test]
    fn fallback_is_version_0_with_our_own_range() {
        let own = APIS
            .iter()
            .find(|api| api.key == ApiKey::ApiVersions)
            .expect("served");
        let mut bytes = fallback(own, 99).expect("answer").to_bytes();
        assert_eq!(bytes.get_i32() as usize, bytes.len());
        assert_eq!(bytes.get_i32(), 99);
        let response = ApiVersionsResponse::decode(&mut bytes, 0).expect("version 0");
        assert_eq!(response.error_code, 35);
        assert_eq!(response.api_keys, vec![range(own)]);
        assert!(!bytes.has_remaining());
        for other in APIS.iter().filter(|api| api.key != ApiKey::ApiVersions) {
            assert!(fallback(other, 1).is_none());
        }
    }
}
