//! Fetch responses, encoded by hand as a chain of slices: records are never copied.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::{
    chain::Chain,
    handlers::hints::{CurrentLeader, Node},
    wire::put_varint,
};

/// The first flexible version.
const FLEXIBLE_FROM: i16 = 12;
/// The tag of `diverging_epoch` in a partition.
const TAG_DIVERGING_EPOCH: u32 = 0;
/// The tag of `current_leader` in a partition.
const TAG_CURRENT_LEADER: u32 = 1;
/// The tag of `node_endpoints` in the response.
const TAG_NODE_ENDPOINTS: u32 = 0;
/// The first version that names leaders and their addresses (KIP-951).
const LEADERS_FROM: i16 = 16;
/// What encoding takes at most besides the names and records of a partition.
const PARTITION_BYTES: usize = 80;

/// A Fetch response, version 4 to 17.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FetchResponse {
    /// The error of the whole request (version 7 and up; earlier ones have none).
    pub(crate) error: i16,
    /// The session that was used or made; 0 for none.
    pub(crate) session_id: i32,
    /// Topics, each at least once.
    pub(crate) topics: Vec<TopicResponse>,
    /// The brokers that partitions name as their leaders.
    pub(crate) nodes: Vec<Node>,
}

/// The partitions of a topic that follow each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TopicResponse {
    /// Its name, up to version 12.
    pub(crate) name: StrBytes,
    /// Its id, from version 13.
    pub(crate) id: Uuid,
    /// Its partitions.
    pub(crate) partitions: Vec<PartitionResponse>,
}

/// What is told of a partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionResponse {
    /// The partition.
    pub(crate) index: i32,
    /// Its error.
    pub(crate) error: i16,
    /// -1 if not known.
    pub(crate) high_watermark: i64,
    /// -1 if not known.
    pub(crate) last_stable_offset: i64,
    /// -1 if not known.
    pub(crate) log_start: i64,
    /// Epoch and end offset to which the reader has to go back (KIP-320).
    pub(crate) diverging: Option<(i32, i64)>,
    /// Who leads, where that is somebody else.
    pub(crate) current_leader: Option<CurrentLeader>,
    /// Whether the list of aborted transactions is there (empty) or null, as the isolation level
    /// wants it.
    pub(crate) aborted_list: bool,
    /// Whole batches. None of them is "empty", which is not the same as null: librdkafka refuses
    /// null records.
    pub(crate) records: Vec<Bytes>,
}

/// Fields in one buffer, and where records go between them.
struct Writer<'a> {
    version: i16,
    fields: BytesMut,
    inserts: Vec<(usize, &'a [Bytes])>,
}

// === impl PartitionResponse ===

impl PartitionResponse {
    /// A partition of which only an error is known.
    pub(crate) fn failed(index: i32, error: i16) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start: -1,
            diverging: None,
            current_leader: None,
            aborted_list: false,
            records: Vec::new(),
        }
    }

    /// The bytes of its records.
    pub(crate) fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

// === impl FetchResponse ===

impl FetchResponse {
    /// The whole frame: length, header (version 0 or 1) and body.
    pub(crate) fn encode(&self, version: i16, correlation: i32) -> Chain {
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let names: usize = self.topics.iter().map(|topic| topic.name.len() + 32).sum();
        let mut writer = Writer {
            version,
            fields: BytesMut::with_capacity(64 + names + partitions * PARTITION_BYTES),
            inserts: Vec::new(),
        };
        writer.fields.put_i32(0); // the length, when it is known
        writer.fields.put_i32(correlation);
        if writer.flexible() {
            writer.fields.put_u8(0);
        }
        writer.body(self);
        writer.finish()
    }
}

// === impl Writer ===

impl<'a> Writer<'a> {
    fn flexible(&self) -> bool {
        self.version >= FLEXIBLE_FROM
    }

    fn body(&mut self, response: &'a FetchResponse) {
        self.fields.put_i32(0); // throttle time
        if self.version >= 7 {
            self.fields.put_i16(response.error);
            self.fields.put_i32(response.session_id);
        }
        self.count(response.topics.len());
        for topic in &response.topics {
            if self.version >= 13 {
                self.fields.put_slice(topic.id.as_bytes());
            } else {
                self.name(&topic.name);
            }
            self.count(topic.partitions.len());
            for partition in &topic.partitions {
                self.partition(partition);
            }
            self.no_tags();
        }
        match self.version >= LEADERS_FROM && !response.nodes.is_empty() {
            true => self.nodes(&response.nodes),
            false => self.no_tags(),
        }
    }

    fn nodes(&mut self, nodes: &[Node]) {
        let mut value = BytesMut::new();
        put_varint(&mut value, nodes.len() as u32 + 1);
        for node in nodes {
            value.put_i32(node.id);
            put_varint(&mut value, node.host.len() as u32 + 1);
            value.put_slice(node.host.as_bytes());
            value.put_i32(node.port);
            value.put_u8(0); // no rack
            value.put_u8(0); // no tags
        }
        put_varint(&mut self.fields, 1);
        self.tag(TAG_NODE_ENDPOINTS, &value);
    }

    fn tag(&mut self, tag: u32, value: &[u8]) {
        put_varint(&mut self.fields, tag);
        put_varint(&mut self.fields, value.len() as u32);
        self.fields.put_slice(value);
    }

    fn partition(&mut self, partition: &'a PartitionResponse) {
        self.fields.put_i32(partition.index);
        self.fields.put_i16(partition.error);
        self.fields.put_i64(partition.high_watermark);
        self.fields.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            self.fields.put_i64(partition.log_start);
        }
        match (self.flexible(), partition.aborted_list) {
            (true, list) => self.fields.put_u8(u8::from(list)),
            (false, true) => self.fields.put_i32(0),
            (false, false) => self.fields.put_i32(-1),
        }
        if self.version >= 11 {
            self.fields.put_i32(-1); // preferred read replica
        }
        self.count(partition.bytes());
        self.inserts.push((self.fields.len(), &partition.records));
        if self.flexible() {
            self.partition_tags(partition);
        }
    }

    fn partition_tags(&mut self, partition: &PartitionResponse) {
        let leader = partition
            .current_leader
            .filter(|_| self.version >= LEADERS_FROM);
        let count = u32::from(partition.diverging.is_some()) + u32::from(leader.is_some());
        put_varint(&mut self.fields, count);
        if let Some((epoch, end)) = partition.diverging {
            let mut value = [0; 4 + 8 + 1];
            value[..4].copy_from_slice(&epoch.to_be_bytes());
            value[4..12].copy_from_slice(&end.to_be_bytes());
            self.tag(TAG_DIVERGING_EPOCH, &value);
        }
        if let Some(leader) = leader {
            let mut value = [0; 4 + 4 + 1];
            value[..4].copy_from_slice(&leader.id.to_be_bytes());
            value[4..8].copy_from_slice(&leader.epoch.to_be_bytes());
            self.tag(TAG_CURRENT_LEADER, &value);
        }
    }

    fn name(&mut self, name: &StrBytes) {
        // Names come from requests, where they have at most 32,767 bytes in these versions, or are
        // topic names; the cut can't happen and a wrong length would be worse.
        let length = name.len().min(i16::MAX as usize);
        match self.flexible() {
            true => put_varint(&mut self.fields, length as u32 + 1),
            false => self.fields.put_i16(length as i16),
        }
        self.fields.put_slice(&name.as_bytes()[..length]);
    }

    /// The length of an array or of records.
    fn count(&mut self, count: usize) {
        match self.flexible() {
            true => put_varint(&mut self.fields, count as u32 + 1),
            false => self.fields.put_i32(count as i32),
        }
    }

    fn no_tags(&mut self) {
        if self.flexible() {
            self.fields.put_u8(0);
        }
    }

    fn finish(mut self) -> Chain {
        let records: usize = self
            .inserts
            .iter()
            .flat_map(|(_, records)| records.iter())
            .map(Bytes::len)
            .sum();
        let length = (self.fields.len() - 4 + records) as i32;
        self.fields[..4].copy_from_slice(&length.to_be_bytes());
        let fields = self.fields.freeze();
        let mut chain = Chain::default();
        let mut at = 0;
        for (place, records) in self.inserts {
            if records.iter().all(Bytes::is_empty) {
                continue;
            }
            push(&mut chain, &fields, at..place);
            at = place;
            for piece in records {
                chain.push(piece.clone());
            }
        }
        push(&mut chain, &fields, at..fields.len());
        chain
    }
}

fn push(chain: &mut Chain, fields: &Bytes, range: Range<usize>) {
    chain.push(fields.slice(range));
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{
        messages::{self as m, BrokerId, ResponseHeader, TopicName, fetch_response as f},
        protocol::{Decodable, Encodable},
    };
    use proptest::prelude::*;

    use super::*;

    fn partitions() -> impl Strategy<Value = PartitionResponse> {
        let records = proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..100).prop_map(Bytes::from),
            0..3,
        );
        let offsets = (any::<i64>(), any::<i64>(), any::<i64>());
        let diverging = proptest::option::of((0..1000i32, 0..1000i64));
        let leader = proptest::option::of(
            (0..1000i32, 0..1000i32).prop_map(|(id, epoch)| CurrentLeader { id, epoch }),
        );
        (
            any::<i32>(),
            any::<i16>(),
            offsets,
            (diverging, leader),
            any::<bool>(),
            records,
        )
            .prop_map(
                |(
                    index,
                    error,
                    (hw, lso, start),
                    (diverging, current_leader),
                    aborted_list,
                    records,
                )| {
                    PartitionResponse {
                        index,
                        error,
                        high_watermark: hw,
                        last_stable_offset: lso,
                        log_start: start,
                        diverging,
                        current_leader,
                        aborted_list,
                        records,
                    }
                },
            )
    }

    fn responses() -> impl Strategy<Value = FetchResponse> {
        let topic = (
            "[a-z]{1,20}",
            any::<u128>(),
            proptest::collection::vec(partitions(), 0..4),
        )
            .prop_map(|(name, id, partitions)| TopicResponse {
                name: StrBytes::from_string(name),
                id: Uuid::from_u128(id),
                partitions,
            });
        let node = (any::<i32>(), "[a-z.]{1,200}", 1..65536i32).prop_map(|(id, host, port)| Node {
            id,
            host,
            port,
        });
        (
            any::<i16>(),
            any::<i32>(),
            proptest::collection::vec(topic, 0..4),
            proptest::collection::vec(node, 0..4),
        )
            .prop_map(|(error, session_id, topics, nodes)| FetchResponse {
                error,
                session_id,
                topics,
                nodes,
            })
    }

    fn by_codec(response: &FetchResponse, version: i16) -> m::FetchResponse {
        let partition = |p: &PartitionResponse| {
            let mut out = f::PartitionData::default()
                .with_partition_index(p.index)
                .with_error_code(p.error)
                .with_high_watermark(p.high_watermark)
                .with_last_stable_offset(p.last_stable_offset)
                .with_aborted_transactions(p.aborted_list.then(Vec::new))
                .with_preferred_read_replica(BrokerId(-1))
                .with_records(Some(p.records.concat().into()));
            if version >= 5 {
                out.log_start_offset = p.log_start;
            }
            if let Some(leader) = p.current_leader.filter(|_| version >= 16) {
                out.current_leader = f::LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader.id))
                    .with_leader_epoch(leader.epoch);
            }
            if let Some((epoch, end)) = p.diverging.filter(|_| version >= 12) {
                out.diverging_epoch = f::EpochEndOffset::default()
                    .with_epoch(epoch)
                    .with_end_offset(end);
            }
            out
        };
        let topics = response.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(partition).collect();
            let out = f::FetchableTopicResponse::default().with_partitions(partitions);
            match version >= 13 {
                true => out.with_topic_id(topic.id),
                false => out.with_topic(TopicName(topic.name.clone())),
            }
        });
        let mut out = m::FetchResponse::default().with_responses(topics.collect());
        if version >= 16 {
            let nodes = response.nodes.iter().map(|node| {
                f::NodeEndpoint::default()
                    .with_node_id(BrokerId(node.id))
                    .with_host(StrBytes::from_string(node.host.clone()))
                    .with_port(node.port)
            });
            out.node_endpoints = nodes.collect();
        }
        match version >= 7 {
            true => out
                .with_error_code(response.error)
                .with_session_id(response.session_id),
            false => out,
        }
    }

    proptest! {
        #[test]
        fn the_chain_is_what_the_codec_would_write(response in responses()) {
            for version in 4..=17 {
                let ours = response.encode(version, 42).to_bytes();
                let expected = by_codec(&response, version);
                let mut theirs = BytesMut::new();
                let header = if version >= 12 { 1 } else { 0 };
                ResponseHeader::default()
                    .with_correlation_id(42)
                    .encode(&mut theirs, header)
                    .expect("header");
                expected.encode(&mut theirs, version).expect("body");
                prop_assert_eq!(&ours[..4], &(theirs.len() as i32).to_be_bytes()[..]);
                prop_assert_eq!(&ours[4..], &theirs[..], "version {}", version);
                let mut body = ours.slice(4..);
                ResponseHeader::decode(&mut body, header).expect("header");
                let decoded = m::FetchResponse::decode(&mut body, version).expect("body");
                prop_assert_eq!(decoded, expected);
            }
        }
    }

    #[test]
    fn records_are_the_very_slices_that_were_given() {
        let records = Bytes::from(vec![7; 100]);
        let mut partition = PartitionResponse::failed(0, 0);
        partition.records = vec![records.clone()];
        let response = FetchResponse {
            topics: vec![TopicResponse {
                partitions: vec![partition],
                ..TopicResponse::default()
            }],
            ..FetchResponse::default()
        };
        let chain = response.encode(12, 1);
        assert!(
            chain
                .pieces()
                .any(|piece| piece.as_ptr() == records.as_ptr())
        );
    }

    #[test]
    fn no_records_are_empty_and_not_null() {
        let response = FetchResponse {
            topics: vec![TopicResponse {
                partitions: vec![PartitionResponse::failed(0, 1)],
                ..TopicResponse::default()
            }],
            ..FetchResponse::default()
        };
        for version in 4..=17 {
            let mut body = response.encode(version, 1).to_bytes().slice(4..);
            ResponseHeader::decode(&mut body, if version >= 12 { 1 } else { 0 }).expect("header");
            let decoded = m::FetchResponse::decode(&mut body, version).expect("body");
            let records = decoded.responses[0].partitions[0].records.clone();
            assert_eq!(records, Some(Bytes::new()), "{version}");
        }
    }
}
