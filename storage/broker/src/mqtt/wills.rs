//! The publication of wills.

use std::sync::Arc;

use super::{
    Publish, PublishError, QoS, Will,
    hub::Hub,
    limits::{RETRY_PAUSE, WILL_ATTEMPTS_MAX},
    mapping::{Encode, encode},
    publish::Placed,
    retained::Candidate,
};
use crate::caller::Caller;

impl Hub {
    /// Publishes a will whose session keeps no record of it.
    pub(crate) fn spawn_will(self: &Arc<Self>, caller: Caller, will: Will) {
        let hub = self.clone();
        self.core.spawn(
            "mqtt will",
            async move { hub.publish_will(&caller, will).await },
        );
    }

    /// Publishes a will; what may pass is tried again. Many that are due at once take turns.
    pub(crate) async fn publish_will(self: &Arc<Self>, caller: &Caller, will: Will) {
        // Closed never: the semaphore lives as long as the hub.
        let _turn = self.will_turns.acquire().await;
        let publish = Publish {
            topic: will.topic,
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            packet_id: 0,
            properties: will.properties,
        };
        for _ in 0..WILL_ATTEMPTS_MAX {
            match self.publish_for(caller, &publish).await {
                Ok(()) => return,
                Err(PublishError::Transient(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "will refused");
                    break;
                }
            }
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => break,
                () = self.core.env.sleep(RETRY_PAUSE) => {}
            }
        }
        self.metrics.dropped_will.inc();
    }

    /// Publishes in a client's name without a session, and waits until it is durable. QoS 2 is
    /// stored as such, without an identity: nobody sends it again.
    async fn publish_for(
        self: &Arc<Self>,
        caller: &Caller,
        publish: &Publish,
    ) -> Result<(), PublishError> {
        self.check_publish(publish)?;
        let destination = self.destination(caller, &publish.topic).await?;
        let partition = self.partition(&destination, &publish.topic)?;
        let record = encode(&Encode {
            key: destination.key(&publish.topic),
            payload: &publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: &publish.properties,
            client_id: &caller.client_id,
            qos2: None,
        });
        let append = self.append_of(&destination, record, QoS::AtLeastOnce, None)?;
        let candidate = publish
            .retain
            .then(|| Candidate::of(publish, &caller.client_id));
        match self.place(&partition, append, candidate).await? {
            Placed::Append(ticket) => ticket
                .await
                .map(|_| ())
                .map_err(|error| super::session::append_error(&error)),
            Placed::Task(done) => done
                .await
                .unwrap_or_else(|_| Err(PublishError::Transient("the node is ending".to_owned()))),
        }
    }
}
