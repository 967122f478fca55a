//! Messages that were in flight when a connection ended, read again for the next one.

use std::{ops::ControlFlow, sync::Arc};

use mainstem_record::{Offset, PartitionId};

use super::{Origin, Scan, Token, catch_up::Reading, scan};
use crate::mqtt::{
    Delivery, Message, OutboundPhase, QoS, Resume,
    hub::Hub,
    session::{
        SessionEntry,
        inbox::{Flight, FlightSource},
    },
};

impl Hub {
    /// One record of a partition as a message; `Ok(None)` if it is gone for good, `Err` if it
    /// cannot be read now.
    pub(crate) async fn read_message(
        &self,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<Arc<Message>>, ()> {
        let chunk = match self.read_log(partition, offset, 1).await {
            Reading::Chunk(chunk) => chunk,
            Reading::Gap(..) | Reading::Gone => return Ok(None),
            Reading::Retry => return Err(()),
        };
        let image = self.core.image();
        let Some(topic) = image.topic_by_id(partition.topic) else {
            return Ok(None);
        };
        let how = Scan {
            kafka_topic: &topic.name,
            image: &image,
            decompressed_bytes_max: self.core.config.storage.decompressed_batch_bytes_max,
            metrics: &self.metrics,
        };
        let mut found = None;
        scan(&how, &chunk, offset, &mut String::new(), |scanned| {
            if scanned.offset == offset {
                found = Some(Arc::new(scanned.message()));
            }
            ControlFlow::Break(())
        });
        Ok(found)
    }

    /// What a connection must send again, in the order in which it was sent. `None` if it cannot be
    /// read now.
    pub(crate) async fn resume(&self, entry: &SessionEntry) -> Option<Vec<Resume>> {
        let flights: Vec<(u16, Flight)> = {
            let state = entry.state.lock();
            state
                .inbox
                .inflight()
                .into_iter()
                .map(|(id, flight)| (id, flight.clone()))
                .collect()
        };
        let mut resumed = Vec::with_capacity(flights.len());
        for (packet_id, flight) in flights {
            if flight.released {
                resumed.push(Resume {
                    packet_id,
                    phase: OutboundPhase::Released,
                });
                continue;
            }
            let phase = match self.message_of(&flight).await.ok()? {
                Some(message) => OutboundPhase::Published(redelivery(flight, message)),
                None if flight.qos == QoS::ExactlyOnce => {
                    // The message is gone, but the client may have it and wait under this packet
                    // id. PUBREL frees it at the client whether it came or not; reusing the id
                    // without that would lose the next message.
                    self.metrics.dropped_retention.inc();
                    entry.state.lock().inbox.received(packet_id);
                    OutboundPhase::Released
                }
                None => {
                    self.metrics.dropped_retention.inc();
                    entry.state.lock().inbox.drop_flight(packet_id);
                    continue;
                }
            };
            resumed.push(Resume { packet_id, phase });
        }
        Some(resumed)
    }

    async fn message_of(&self, flight: &Flight) -> Result<Option<Arc<Message>>, ()> {
        match &flight.source {
            // A retained message that was replaced since has come as an ordinary one.
            FlightSource::Retained(topic) => {
                Ok(self
                    .retained
                    .message(topic, flight.partition, flight.offset))
            }
            FlightSource::Feed | FlightSource::Shared(_) => {
                self.read_message(flight.partition, flight.offset).await
            }
        }
    }
}

fn redelivery(flight: Flight, message: Arc<Message>) -> Delivery {
    let origin = match flight.source {
        FlightSource::Retained(_) => Origin::Retained,
        FlightSource::Shared(Some(group)) => Origin::Shared(group),
        FlightSource::Feed | FlightSource::Shared(None) => Origin::Feed,
    };
    Delivery {
        message,
        qos: flight.qos,
        retain: flight.retain,
        subscription_ids: flight.subscription_ids,
        token: Token {
            origin,
            partition: flight.partition,
            offset: flight.offset,
        },
        duplicate: true,
    }
}
