//! Fences (R22): this node stops leading, appending and acking in a segment, and says how far it
//! came.

use std::time::Duration;

use bytes::Bytes;
use mainstem_log::{AppendTicket, Role};
use mainstem_metadata::SegmentState;
use mainstem_record::{Offset, PartitionId, SegmentId};

use super::{Host, Hosted, NotAppended};
use crate::machine::FenceAnswer;

/// How long a fence waits for the image that it names.
const IMAGE_WAIT: Duration = Duration::from_secs(2);

/// A segment that is to be fenced here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FenceRequest {
    /// Of which partition.
    pub(crate) partition: PartitionId,
    /// The `Sealing` segment.
    pub(crate) segment: SegmentId,
    /// Its version.
    pub(crate) version: u32,
}

// === impl Host ===

impl Host {
    /// Fences segments and answers for them, in the order of the requests. `None`: not fenced, since
    /// the segment is not `Sealing` any more, this life may not act, or the log does not work. Asked
    /// again, it answers again: with the same certificate, and what was copied since.
    pub(crate) async fn fence(&self, requests: &[FenceRequest]) -> Vec<Option<FenceAnswer>> {
        // R22: the `Sealing` image is taken first.
        self.await_versions(requests).await;
        let tasks: Vec<_> = requests
            .iter()
            .map(|request| {
                let (host, request) = (self.clone(), *request);
                let fence = async move { host.fence_one(request).await };
                self.inner.env.start("fence", fence)
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            // Dropped only when the runtime ends, and then nobody asks.
            answers.push(task.await.ok().flatten());
        }
        answers
    }

    /// Waits, within limits, for an image that is as new as all that is asked.
    async fn await_versions(&self, requests: &[FenceRequest]) {
        let mut versions = self.inner.metadata.changes();
        let known = || {
            let image = self.image();
            requests.iter().all(|request| {
                let open = image.partition(request.partition);
                let open = open.and_then(|record| record.active());
                // Another segment: the image is newer, or the request is of another time.
                open.is_none_or(|open| {
                    open.id != request.segment || open.version >= request.version
                })
            })
        };
        let wait = async {
            while !known() {
                if versions.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who asked asks again.
        let _ = self.inner.env.timeout(IMAGE_WAIT, wait).await;
    }

    async fn fence_one(&self, request: FenceRequest) -> Option<FenceAnswer> {
        let hosted = self.hosted(request.partition)?;
        let _turn = hosted.turn.lock().await;
        let image = self.image();
        hosted.feed(self, request.segment, |replica, _| {
            ((), replica.fence(&image, request.partition))
        })?;
        self.fence_log(&hosted, request.segment).await
    }

    /// Has the log stop, then asks the machine for its answer.
    async fn fence_log(&self, hosted: &Hosted, segment: SegmentId) -> Option<FenceAnswer> {
        let is_fenced = |hosted: &Hosted| {
            let state = hosted.state.lock();
            let replica = state.replica.as_ref();
            replica.is_some_and(|replica| {
                replica.segment().id == segment && replica.segment().state == SegmentState::Sealing
            })
        };
        if !is_fenced(hosted) {
            return None;
        }
        hosted.set_led(None);
        if let Err(error) = hosted.log().set_role(Role::Fenced).await {
            tracing::warn!(partition = %hosted.id(), %error, "not fenced");
            return None;
        }
        hosted.state.lock().role = Role::Fenced;
        let answer = hosted.feed(self, segment, |replica, _| (replica.answer(), Vec::new()))?;
        if answer.is_some() {
            return answer;
        }
        // With flush=always what was written last has to be synced before it counts.
        if let Err(error) = hosted.log().flush().await {
            tracing::warn!(partition = %hosted.id(), %error, "fenced, but not synced");
            return None;
        }
        hosted.feed(self, segment, |replica, _| (replica.answer(), Vec::new()))?
    }

    /// Appends a copied tail to a fenced segment (R24). When the ticket is through,
    /// [`Host::answer`] tells the new log end.
    ///
    /// # Errors
    /// [`NotAppended`]; of the ticket too.
    pub(crate) async fn copied(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> Result<AppendTicket, NotAppended> {
        let hosted = self.hosted(id).ok_or(NotAppended::NotFollowing)?;
        let epoch = hosted.feed(self, segment, |replica, _| {
            (Some(replica.segment().epoch), Vec::new())
        });
        let epoch = epoch.flatten().ok_or(NotAppended::NotFollowing)?;
        let incoming = crate::machine::replica::Incoming { epoch, at };
        let may = hosted.feed(self, segment, |replica, _| {
            (replica.accept_copy(incoming).is_ok(), Vec::new())
        });
        if may != Some(true) {
            return Err(NotAppended::NotFollowing);
        }
        let append = mainstem_log::ReplicaAppend {
            segment,
            at,
            batches,
            ack: mainstem_log::Ack::Durable,
        };
        Ok(hosted.log().append_copied(append).await?)
    }

    /// The answer of a segment that is fenced here, as it is now; `None` if it is not.
    pub(crate) fn answer(&self, id: PartitionId, segment: SegmentId) -> Option<FenceAnswer> {
        let hosted = self.hosted(id)?;
        hosted.feed(self, segment, |replica, _| (replica.answer(), Vec::new()))?
    }
}
