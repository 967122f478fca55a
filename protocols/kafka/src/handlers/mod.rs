//! Requests to responses: one file per API family. Handlers translate; what is decided is decided
//! by the broker.

pub(crate) mod api_versions;
mod cluster;
mod configs;
mod fetch;
mod groups;
pub(crate) mod hints;
mod metadata;
mod offsets;
pub(crate) mod produce;
mod topics;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{self as m, ApiKey},
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use crate::{
    api,
    chain::Chain,
    connection::{End, Outcome, Served},
    context::Call,
    header::{Header, Prefix},
    wire::DecodeError,
};

/// The longest message in a response.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The one place that names every request with its handler.
macro_rules! for_each_api {
    ($with:ident) => {
        $with! {
            ListOffsets ListOffsetsRequest offsets::list,
            Metadata MetadataRequest metadata::handle,
            OffsetCommit OffsetCommitRequest groups::commit,
            OffsetFetch OffsetFetchRequest groups::fetch_offsets,
            FindCoordinator FindCoordinatorRequest cluster::find_coordinator,
            JoinGroup JoinGroupRequest groups::join,
            Heartbeat HeartbeatRequest groups::heartbeat,
            LeaveGroup LeaveGroupRequest groups::leave,
            SyncGroup SyncGroupRequest groups::sync,
            DescribeGroups DescribeGroupsRequest groups::describe,
            ListGroups ListGroupsRequest groups::list,
            ApiVersions ApiVersionsRequest api_versions::handle,
            CreateTopics CreateTopicsRequest topics::create,
            DeleteTopics DeleteTopicsRequest topics::delete,
            DeleteRecords DeleteRecordsRequest offsets::delete_records,
            InitProducerId InitProducerIdRequest cluster::init_producer_id,
            OffsetForLeaderEpoch OffsetForLeaderEpochRequest offsets::for_leader_epoch,
            DescribeConfigs DescribeConfigsRequest configs::describe,
            AlterConfigs AlterConfigsRequest configs::alter,
            CreatePartitions CreatePartitionsRequest topics::create_partitions,
            DeleteGroups DeleteGroupsRequest groups::delete,
            IncrementalAlterConfigs IncrementalAlterConfigsRequest configs::alter_incrementally,
            OffsetDelete OffsetDeleteRequest groups::delete_offsets,
            DescribeCluster DescribeClusterRequest cluster::describe,
        }
    };
}

/// Answers one request that is not Produce. `body` has passed the gate.
pub(crate) async fn serve(call: &Call<'_>, correlation: i32, body: Bytes) -> Result<Served, End> {
    macro_rules! dispatch {
        ($($key:ident $request:ident $($handler:ident)::+,)*) => {
            match call.api().key {
                $(ApiKey::$key => {
                    let request = decode::<m::$request>(call.version, body)?;
                    let response = Box::pin($($handler)::+(call, request)).await;
                    encode(call.version, correlation, &response).map(Served::send)
                })*
                ApiKey::Fetch => {
                    let request = decode::<m::FetchRequest>(call.version, body)?;
                    let (response, lease) = Box::pin(fetch::handle(call, request)).await;
                    let chain = response.encode(call.version, correlation);
                    Ok(Served { lease, ..Served::send(chain) })
                }
                key => Err(DecodeError::Unsupported {
                    key: key as i16,
                    version: call.version,
                }
                .into()),
            }
        };
    }
    for_each_api!(dispatch)
}

/// Everything that happens to a frame before a handler sees it.
pub(crate) fn decode_only(frame: Bytes) -> Result<(), DecodeError> {
    let Prefix { key, version, .. } = Prefix::parse(&frame)?;
    let unsupported = DecodeError::Unsupported { key, version };
    let Some((_, api)) = api::find(key).filter(|(_, api)| api.serves(version)) else {
        return Err(unsupported);
    };
    let header = Header::parse(api, version, &frame)?;
    let body = frame.slice(header.body);
    crate::bounded::check(api, version, &body)?;
    macro_rules! dispatch {
        ($($key:ident $request:ident $($handler:ident)::+,)*) => {
            match api.key {
                $(ApiKey::$key => decode::<m::$request>(version, body).map(drop),)*
                ApiKey::Fetch => decode::<m::FetchRequest>(version, body).map(drop),
                ApiKey::Produce => {
                    crate::produce::ProduceRequest::decode(version, &body).map(drop)
                }
                _ => Err(unsupported),
            }
        };
    }
    for_each_api!(dispatch)
}

fn decode<T: Decodable>(version: i16, mut body: Bytes) -> Result<T, DecodeError> {
    T::decode(&mut body, version).map_err(|error| DecodeError::Codec(format!("{error:#}")))
}

/// A whole response frame: length, header, body.
pub(crate) fn encode<T: Encodable + HeaderVersion>(
    version: i16,
    correlation: i32,
    response: &T,
) -> Result<Chain, End> {
    let fail = |error| End::Encode(format!("{error:#}"));
    let flexible = T::header_version(version) >= 1;
    let size = response.compute_size(version).map_err(fail)?;
    let mut out = BytesMut::with_capacity(4 + 5 + size);
    out.put_i32(0);
    out.put_i32(correlation);
    if flexible {
        out.put_u8(0);
    }
    response.encode(&mut out, version).map_err(fail)?;
    let length = i32::try_from(out.len() - 4).map_err(|error| End::Encode(error.to_string()))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Chain::from(out.freeze()))
}

// === impl Served ===

impl Served {
    fn send(chain: Chain) -> Self {
        Self::ready(Outcome::Send(chain))
    }
}

/// A string for a response.
fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// A sentence for people, cut where it is longer than anybody reads: what a client sent may be in
/// it, and old versions take no more than 32,767 bytes.
fn message(text: impl Into<String>) -> StrBytes {
    let mut text = text.into();
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    StrBytes::from_string(text)
}

/// A string of a request as the broker takes it, detached from the frame.
fn owned(text: &StrBytes) -> String {
    text.as_str().to_owned()
}
