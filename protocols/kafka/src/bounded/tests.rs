//! The gate against the codec: what the table says is what the codec reads.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{self as m, ApiKey},
    protocol::{Decodable, Encodable},
};
use proptest::prelude::*;

use super::{
    check,
    schema::{Scalar, Struct, Type},
};
use crate::{
    api::{APIS, Api},
    wire::{DecodeError, put_varint},
};

/// Decodes and encodes again with the codec.
fn round_trip(key: ApiKey, version: i16, body: Bytes) -> Result<BytesMut, String> {
    fn with<T: Decodable + Encodable>(version: i16, mut body: Bytes) -> Result<BytesMut, String> {
        let request = T::decode(&mut body, version).map_err(|error| format!("{error:#}"))?;
        if !body.is_empty() {
            return Err(format!("{} bytes left", body.len()));
        }
        let mut out = BytesMut::new();
        request
            .encode(&mut out, version)
            .map_err(|error| format!("{error:#}"))?;
        Ok(out)
    }
    macro_rules! by_key {
        ($($name:ident $request:ident),* $(,)?) => {
            match key {
                $(ApiKey::$name => with::<m::$request>(version, body),)*
                other => panic!("{other:?} is served but not tested"),
            }
        };
    }
    by_key! {
        Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest,
        Metadata MetadataRequest, OffsetCommit OffsetCommitRequest,
        OffsetFetch OffsetFetchRequest, FindCoordinator FindCoordinatorRequest,
        JoinGroup JoinGroupRequest, Heartbeat HeartbeatRequest, LeaveGroup LeaveGroupRequest,
        SyncGroup SyncGroupRequest, DescribeGroups DescribeGroupsRequest,
        ListGroups ListGroupsRequest, ApiVersions ApiVersionsRequest,
        CreateTopics CreateTopicsRequest, DeleteTopics DeleteTopicsRequest,
        DeleteRecords DeleteRecordsRequest, InitProducerId InitProducerIdRequest,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
        DescribeConfigs DescribeConfigsRequest, AlterConfigs AlterConfigsRequest,
        CreatePartitions CreatePartitionsRequest,
        DeleteGroups DeleteGroupsRequest,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        OffsetDelete OffsetDeleteRequest, DescribeCluster DescribeClusterRequest,
    }
}

/// A source of small numbers out of what proptest gives.
struct Dice<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>);

impl Dice<'_> {
    fn roll(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }
}

/// Writes a request as the table describes it.
struct Writer<'a> {
    dice: Dice<'a>,
    version: i16,
    flexible: bool,
    out: BytesMut,
}

impl Writer<'_> {
    fn length(&mut self, length: usize, wide: bool) {
        match (self.flexible, wide) {
            (true, _) => put_varint(&mut self.out, length as u32 + 1),
            (false, true) => self.out.put_i32(length as i32),
            (false, false) => self.out.put_i16(length as i16),
        }
    }

    fn structure(&mut self, schema: &Struct) {
        for field in schema.fields {
            if (field.min..=field.max).contains(&self.version) {
                self.field(field.kind);
            }
        }
        if self.flexible {
            let known: Vec<_> = schema
                .tags
                .iter()
                .filter(|tag| tag.min <= self.version && self.dice.roll() < 128)
                .collect();
            let unknown = u32::from(self.dice.roll() % 3);
            put_varint(&mut self.out, known.len() as u32 + unknown);
            for tag in known {
                let head = std::mem::take(&mut self.out);
                self.field(tag.kind);
                let value = std::mem::replace(&mut self.out, head);
                put_varint(&mut self.out, tag.tag);
                put_varint(&mut self.out, value.len() as u32);
                self.out.extend_from_slice(&value);
            }
            for tag in 0..unknown {
                put_varint(&mut self.out, 100 + tag);
                let size = self.dice.roll() % 5;
                put_varint(&mut self.out, u32::from(size));
                self.out.put_bytes(9, usize::from(size));
            }
        }
    }

    fn field(&mut self, kind: Type) {
        match kind {
            Type::One(scalar) => self.scalar(scalar),
            Type::Nested(schema) => self.structure(schema),
            Type::Many(scalar) => {
                let count = usize::from(self.dice.roll() % 4);
                self.length(count, true);
                (0..count).for_each(|_| self.scalar(scalar));
            }
            Type::Structs(schema) => {
                let count = usize::from(self.dice.roll() % 3);
                self.length(count, true);
                (0..count).for_each(|_| self.structure(schema));
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) {
        let roll = self.dice.roll();
        match scalar {
            Scalar::Bool => self.out.put_u8(roll % 2),
            Scalar::I8 => self.out.put_u8(roll),
            Scalar::I16 => self.out.put_i16(i16::from(roll)),
            // A known tag with its default would not be written again: never the default.
            Scalar::I32 => self.out.put_i32(i32::from(roll) + 1),
            Scalar::I64 => self.out.put_i64(i64::from(roll) + 1),
            Scalar::Uuid => self.out.put_u128(u128::from(roll) + 1),
            Scalar::Str | Scalar::Bytes => {
                let size = usize::from(roll % 6);
                self.length(size, scalar == Scalar::Bytes);
                self.out.put_bytes(b'a' + roll % 26, size);
            }
        }
    }
}

fn generated(api: &Api, version: i16, dice: &[u8]) -> Bytes {
    let mut writer = Writer {
        dice: Dice(dice.iter().cycle()),
        version,
        flexible: version >= api.flexible_from,
        out: BytesMut::new(),
    };
    writer.structure(api.schema);
    writer.out.freeze()
}

fn every_version() -> impl Iterator<Item = (&'static Api, i16)> {
    APIS.iter()
        .flat_map(|api| (api.min..=api.max).map(move |version| (api, version)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn generated_requests_pass_and_the_codec_reads_the_same_fields(
        dice in proptest::collection::vec(any::<u8>(), 1..64)
    ) {
        for (api, version) in every_version() {
            let body = generated(api, version, &dice);
            prop_assert!(check(api, version, &body).is_ok(), "{} {version}", api.name);
            let again = round_trip(api.key, version, body.clone());
            prop_assert_eq!(
                again.as_ref().map(|again| &again[..]),
                Ok(&body[..]),
                "{} {}", api.name, version
            );
        }
    }

    #[test]
    fn every_cut_of_a_request_is_refused(
        dice in proptest::collection::vec(any::<u8>(), 1..32)
    ) {
        for (api, version) in every_version() {
            let body = generated(api, version, &dice);
            for end in 0..body.len() {
                prop_assert!(check(api, version, &body[..end]).is_err(), "{} {version}", api.name);
            }
        }
    }
}

fn find(key: ApiKey) -> &'static Api {
    APIS.iter().find(|api| api.key == key).expect("served")
}

#[test]
fn five_bytes_that_claim_four_billion_topics_are_refused() {
    let body = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(matches!(
        check(find(ApiKey::Metadata), 9, &body),
        Err(DecodeError::Count { .. })
    ));
    let body = i32::MAX.to_be_bytes();
    assert!(matches!(
        check(find(ApiKey::Metadata), 1, &body),
        Err(DecodeError::Count { .. })
    ));
}

#[test]
fn null_arrays_pass_where_the_protocol_has_them() {
    assert!(check(find(ApiKey::Metadata), 1, &(-1i32).to_be_bytes()).is_ok());
    assert!(check(find(ApiKey::Metadata), 9, &[0, 1, 0, 0, 0]).is_ok());
}

#[test]
fn many_tiny_elements_are_refused_before_they_are_decoded() {
    // Metadata v9: two bytes a topic, but a hundred once decoded.
    let count = 1_000_000;
    let mut body = BytesMut::new();
    put_varint(&mut body, count + 1);
    for _ in 0..count {
        body.put_slice(&[1, 0]);
    }
    body.put_slice(&[1, 0, 0, 0]);
    assert!(matches!(
        check(find(ApiKey::Metadata), 9, &body),
        Err(DecodeError::Cost { .. })
    ));
}

#[test]
fn known_tags_must_have_the_size_of_their_type() {
    let mut body = BytesMut::new();
    body.put_slice(&[0; 4]); // max wait
    body.put_slice(&[0; 8]); // min and max bytes
    body.put_slice(&[0; 9]); // isolation, session id, session epoch
    body.put_slice(&[1, 1, 1]); // no topics, none forgotten, no rack
    let mut honest = body.clone();
    honest.put_slice(&[1, 1, 13]); // one tag: the replica state
    honest.put_slice(&[0; 13]);
    assert!(check(find(ApiKey::Fetch), 15, &honest).is_ok());
    body.put_slice(&[1, 1, 14]);
    body.put_slice(&[0; 14]);
    assert_eq!(
        check(find(ApiKey::Fetch), 15, &body),
        Err(DecodeError::Tag(1))
    );
}
