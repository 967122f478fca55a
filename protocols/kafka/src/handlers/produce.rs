//! Produce: batches take their places in the logs now, the response follows when they are safe.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        BrokerId, ProduceResponse, TopicName,
        produce_response::{
            BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
            TopicProduceResponse,
        },
    },
    protocol::StrBytes,
};
use mainstem_broker::{Acks, ErrorCode, ProduceError, ProduceTicket, Produced, TopicRef};
use mainstem_record::{BATCH_HEADER_BYTES, BatchHeader, Codec, PartitionIndex};

use super::{hints::Hints, message, text};
use crate::{
    connection::{Answer, End, Outcome, Served},
    context::{Call, Context},
    produce::{PartitionData, ProduceRequest},
};

/// The first version that knows zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// The first version whose answer says who leads instead (KIP-951).
const HINTS_FROM: i16 = 10;
/// A client may ask for less, but a disk needs its time: with one replica Kafka does not apply the
/// client's timeout at all. Where others must have the batch first, the client's own limit holds.
const TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// A batch that has its place, or none.
struct Begun {
    index: i32,
    bytes: usize,
    records: i32,
    ticket: Result<ProduceTicket, ProduceError>,
}

/// What the response needs when the tickets are done.
struct Pending {
    context: Arc<Context>,
    api: usize,
    version: i16,
    correlation: i32,
    acks: Acks,
    timeout: Duration,
    began: Duration,
    topics: Vec<(StrBytes, Vec<Begun>)>,
    hints: Hints,
}

/// Whether any batch waits for other replicas.
fn is_replicated(topics: &[(StrBytes, Vec<Begun>)]) -> bool {
    let mut begun = topics.iter().flat_map(|(_, partitions)| partitions);
    begun.any(|begun| {
        begun
            .ticket
            .as_ref()
            .is_ok_and(ProduceTicket::is_replicated)
    })
}

/// Appends every batch of the request in its order. Returns when all have their places; the answer
/// is on its way. `body` comes with the size of its frame.
pub(crate) async fn begin(
    context: &Arc<Context>,
    call: &Call<'_>,
    correlation: i32,
    (body, frame_bytes): (Bytes, usize),
    began: Duration,
) -> Result<Served, End> {
    let request = ProduceRequest::decode(call.version, &body)?;
    drop(body);
    let acks = match request.acks {
        0 => Ok(Acks::None),
        1 => Ok(Acks::Leader),
        -1 => Ok(Acks::All),
        _ => Err(ErrorCode::InvalidRequiredAcks),
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for data in topic.partitions {
            partitions.push(append(call, &topic.name, (data, frame_bytes), acks).await);
        }
        topics.push((topic.name, partitions));
    }
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let pending = Pending {
        context: context.clone(),
        api: call.api,
        version: call.version,
        correlation,
        // A wrong value gets a response, so that the client is told.
        acks: acks.unwrap_or(Acks::Leader),
        timeout: match is_replicated(&topics) {
            true => timeout,
            false => timeout.max(TIMEOUT_MIN),
        },
        began,
        topics,
        hints: Hints::default(),
    };
    Ok(Served {
        answer: Answer::Pending(Box::pin(pending.finish())),
        lease: None,
    })
}

async fn append(
    call: &Call<'_>,
    topic: &str,
    (mut data, frame_bytes): (PartitionData, usize),
    acks: Result<Acks, ErrorCode>,
) -> Begun {
    let index = data.index;
    let batch = data.take_batch(frame_bytes).unwrap_or_default();
    let bytes = batch.len();
    let header = batch.get(..BATCH_HEADER_BYTES).map(BatchHeader::parse);
    let records = match &header {
        Some(Ok(header)) => header.record_count,
        _ => 0,
    };
    let zstd = matches!(&header, Some(Ok(header))
        if header.attributes.codec().is_ok_and(|codec| codec == Codec::Zstd));
    let ticket = match acks {
        Err(code) => Err(code.into()),
        Ok(_) if bytes == 0 => Err(ErrorCode::InvalidRecord.into()),
        Ok(_) if zstd && call.version < ZSTD_FROM => {
            Err(ErrorCode::UnsupportedCompressionType.into())
        }
        Ok(acks) => {
            let topic = TopicRef::Name(topic);
            let index = PartitionIndex(index);
            call.broker()
                .produce(call.caller, &topic, index, batch, acks)
                .await
        }
    };
    Begun {
        index,
        bytes,
        records,
        ticket,
    }
}

// === impl Pending ===

impl Pending {
    async fn finish(mut self) -> Outcome {
        let mut late = self.context.env.sleep(self.timeout);
        let mut timed_out = false;
        let mut failed = false;
        let mut responses = Vec::with_capacity(self.topics.len());
        for (name, partitions) in std::mem::take(&mut self.topics) {
            let mut answers = Vec::with_capacity(partitions.len());
            for begun in partitions {
                let Begun {
                    index,
                    bytes,
                    records,
                    ticket,
                } = begun;
                let result = match ticket {
                    Ok(mut ticket) => {
                        // Once the time is over, what is done still counts.
                        let expiry = async {
                            if !timed_out {
                                (&mut late).await;
                            }
                        };
                        tokio::select! {
                            biased;
                            result = &mut ticket => result,
                            () = expiry => {
                                timed_out = true;
                                Err(ticket.timed_out().into())
                            }
                        }
                    }
                    Err(error) => Err(error),
                };
                failed |= result.is_err();
                if result.is_ok() {
                    self.count(bytes, records);
                }
                answers.push(self.partition((&name, index), result));
            }
            let response = TopicProduceResponse::default()
                .with_name(TopicName(name))
                .with_partition_responses(answers);
            responses.push(response);
        }
        self.outcome(responses, failed)
    }

    fn count(&self, bytes: usize, records: i32) {
        let metrics = &self.context.metrics;
        metrics.produced_bytes.inc_by(bytes as u64);
        metrics
            .produced_records
            .inc_by(u64::try_from(records).unwrap_or(0));
    }

    fn partition(
        &mut self,
        (topic, index): (&StrBytes, i32),
        result: Result<Produced, ProduceError>,
    ) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(index);
        match result {
            Ok(produced) => response
                .with_base_offset(produced.base_offset.0)
                .with_log_append_time_ms(produced.log_append_time.0)
                .with_log_start_offset(produced.log_start.0),
            Err(error) => {
                self.context.metrics.error(self.api, error.code);
                let record_errors = error.record_errors.into_iter().map(|(index, message)| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(index)
                        .with_batch_index_error_message(Some(super::message(message)))
                });
                let place = (&TopicRef::Name(topic), index);
                let leader = match self.version >= HINTS_FROM {
                    true => self
                        .hints
                        .leader(&self.context.broker, place, error.code.code()),
                    false => None,
                };
                let leader = leader.map(|leader| {
                    LeaderIdAndEpoch::default()
                        .with_leader_id(BrokerId(leader.id))
                        .with_leader_epoch(leader.epoch)
                });
                response
                    .with_current_leader(leader.unwrap_or_default())
                    .with_error_code(error.code.code())
                    .with_base_offset(-1)
                    .with_log_append_time_ms(-1)
                    .with_record_errors(record_errors.collect())
                    .with_error_message(error.message.map(message))
            }
        }
    }

    fn outcome(self, responses: Vec<TopicProduceResponse>, failed: bool) -> Outcome {
        match self.acks {
            Acks::None if failed => return Outcome::Close,
            Acks::None => return Outcome::Silent,
            Acks::All => {
                let elapsed = self.context.env.now().saturating_sub(self.began);
                self.context
                    .metrics
                    .produce_durable
                    .observe(elapsed.as_secs_f64());
            }
            Acks::Leader => {}
        }
        let nodes = self.hints.into_nodes().into_iter().map(|node| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(node.id))
                .with_host(text(node.host))
                .with_port(node.port)
        });
        let response = ProduceResponse::default()
            .with_responses(responses)
            .with_node_endpoints(nodes.collect());
        match super::encode(self.version, self.correlation, &response) {
            Ok(chain) => Outcome::Send(chain),
            Err(error) => {
                tracing::error!(%error, "produce response not sent");
                Outcome::Close
            }
        }
    }
}
