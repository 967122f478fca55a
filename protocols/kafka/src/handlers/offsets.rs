//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords.

use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    list_offsets_request::ListOffsetsPartition,
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
};
use mainstem_broker::{ErrorCode, Isolation, OffsetQuery, TopicRef};
use mainstem_record::{LeaderEpoch, Offset, PartitionIndex, TimestampMs};

use crate::context::Call;

/// The first version whose responses carry leader epochs.
const LIST_EPOCH_FROM: i16 = 4;

/// Offsets by time, or at the ends.
pub(crate) async fn list(call: &Call<'_>, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = match request.isolation_level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let topic = TopicRef::Name(&topic.name);
            partitions.push(list_one(call, &topic, asked, isolation).await);
        }
        let response = ListOffsetsTopicResponse::default()
            .with_name(topic.name)
            .with_partitions(partitions);
        topics.push(response);
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn list_one(
    call: &Call<'_>,
    topic: &TopicRef<'_>,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> ListOffsetsPartitionResponse {
    let place = (topic, PartitionIndex(asked.partition_index));
    let epoch = LeaderEpoch(asked.current_leader_epoch);
    let result = match query(call.version, asked.timestamp) {
        Some(query) => {
            call.broker()
                .list_offset(call.caller, place, epoch, isolation, query)
                .await
        }
        None => Err(ErrorCode::UnsupportedVersion),
    };
    let response =
        ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
    match result {
        Ok(found) => {
            let response = response
                .with_timestamp(found.timestamp.0)
                .with_offset(found.offset.0);
            match call.version >= LIST_EPOCH_FROM {
                true => response.with_leader_epoch(found.epoch.0),
                false => response,
            }
        }
        Err(code) => response
            .with_error_code(call.code(code))
            .with_timestamp(-1)
            .with_offset(-1),
    }
}

/// What a timestamp asks for; negative ones have meanings that came with the versions.
fn query(version: i16, timestamp: i64) -> Option<OffsetQuery> {
    match timestamp {
        0.. => Some(OffsetQuery::Timestamp(TimestampMs(timestamp))),
        -1 => Some(OffsetQuery::Latest),
        -2 => Some(OffsetQuery::Earliest),
        -3 if version >= 7 => Some(OffsetQuery::MaxTimestamp),
        -4 if version >= 8 => Some(OffsetQuery::EarliestLocal),
        -5 if version >= 9 => Some(OffsetQuery::LatestTiered),
        _ => None,
    }
}

/// Where the records of a leader epoch end (KIP-320).
pub(crate) async fn for_leader_epoch(
    call: &Call<'_>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let name = TopicRef::Name(&topic.topic);
        let partitions = topic.partitions.iter().map(|asked| {
            let place = (&name, PartitionIndex(asked.partition));
            let current = LeaderEpoch(asked.current_leader_epoch);
            let epoch = LeaderEpoch(asked.leader_epoch);
            let result = call.broker().epoch_end(call.caller, place, current, epoch);
            let response = EpochEndOffset::default().with_partition(asked.partition);
            match result {
                Ok((epoch, end)) => response.with_leader_epoch(epoch.0).with_end_offset(end.0),
                Err(code) => response
                    .with_error_code(call.code(code))
                    .with_leader_epoch(-1)
                    .with_end_offset(-1),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic)
            .with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// Cuts the front of partitions.
pub(crate) async fn delete_records(
    call: &Call<'_>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let name = TopicRef::Name(&topic.name);
            let place = (&name, PartitionIndex(asked.partition_index));
            let before = Offset(asked.offset);
            let result = call
                .broker()
                .delete_records(call.caller, place, before)
                .await;
            let response =
                DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            partitions.push(match result {
                Ok(low) => response.with_low_watermark(low.0),
                Err(code) => response
                    .with_error_code(call.code(code))
                    .with_low_watermark(-1),
            });
        }
        let response = DeleteRecordsTopicResult::default()
            .with_name(topic.name)
            .with_partitions(partitions);
        topics.push(response);
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_timestamps_came_with_their_versions() {
        for (timestamp, from) in [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9)] {
            for version in 1..=10 {
                let known = query(version, timestamp).is_some();
                assert_eq!(known, version >= from, "{timestamp} in version {version}");
            }
        }
        assert_eq!(query(10, -6), None);
        assert_eq!(query(1, 0), Some(OffsetQuery::Timestamp(TimestampMs(0))));
    }
}
