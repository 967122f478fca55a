//! Fences (R22): this node stops leading, appending and acking in a segment, and says how far it
//! came.

use std::time::Duration;

use bytes::Bytes;
use mainstem_log::{Ack, AppendTicket, ReplicaAppend, Role};
use mainstem_record::{Offset, PartitionId, SegmentId};

use super::{Host, Hosted, NotAppended};
use crate::{
    machine::{FenceAnswer, replica::Incoming},
    wire::{DigestOf, DigestQuestion, FenceOrder, Unfenced},
};

/// How long a fence waits for the image that it names.
const IMAGE_WAIT: Duration = Duration::from_secs(2);
/// How long a question of a controller is worked on before it is answered as far as it is done.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How many segments are worked on at once for it: most of it is waiting for syncs.
const AT_ONCE: usize = 64;

// === impl Host ===

impl Host {
    /// Fences segments and answers for them, in the order of the orders. Asked again, it answers
    /// again: with the same certificate, and with what was copied since. Waits a while for an image
    /// of version `image`.
    pub(crate) async fn fence(
        &self,
        image: u64,
        orders: &[FenceOrder],
    ) -> Vec<Result<FenceAnswer, Unfenced>> {
        // R22: the `Sealing` image is taken first.
        self.await_image(image).await;
        let fences = orders.iter().map(|order| {
            let (host, order) = (self.clone(), *order);
            (order.segment, async move { host.fence_one(order).await })
        });
        let fenced = self.as_far_as_possible("fence", fences.collect()).await;
        let fenced = fenced.into_iter();
        fenced
            .map(|outcome| outcome.unwrap_or(Err(Unfenced::NotYet)))
            .collect()
    }

    /// Waits, within limits, for an image that is as new.
    async fn await_image(&self, version: u64) {
        let mut versions = self.inner.metadata.changes();
        let wait = async {
            while self.image().version < version {
                if versions.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who asked asks again.
        let _ = self.inner.env.timeout(IMAGE_WAIT, wait).await;
    }

    async fn fence_one(&self, order: FenceOrder) -> Result<FenceAnswer, Unfenced> {
        let FenceOrder {
            partition: id,
            segment,
            version,
        } = order;
        let image = self.image();
        let record = image.partition(id).ok_or(Unfenced::Sealed)?;
        let open = record.active().filter(|open| open.id == segment);
        let open = open.ok_or(Unfenced::Sealed)?;
        if open.version < version {
            return Err(Unfenced::NotYet);
        }
        if !open.replicas.contains(&self.me().broker) {
            // R23: recruited by the controller. It starts with nothing and copies the whole segment.
            self.inner.recruited.lock().insert(id, segment);
        }
        if !self.is_in_line() && self.hosted(id).is_none() {
            // It is being opened by the start.
            return Err(Unfenced::NotYet);
        }
        // The log may be behind the chain.
        if let Err(error) = self.bring_in_line(id).await {
            tracing::debug!(partition = %id, %error, "fenced before it is in line");
        }
        let hosted = self.hosted(id).ok_or(Unfenced::NotYet)?;
        let _turn = hosted.turn.lock().await;
        if hosted.log().has_failed() {
            return Err(Unfenced::Failed);
        }
        let fenced = hosted.feed(self, segment, |replica, _| {
            let effects = replica.fence(&image, id);
            (replica.is_fenced(), effects)
        });
        if fenced != Some(true) {
            return Err(Unfenced::NotYet);
        }
        self.fence_log(&hosted, segment).await
    }

    /// Has the log stop, then asks the machine for its answer.
    async fn fence_log(
        &self,
        hosted: &Hosted,
        segment: SegmentId,
    ) -> Result<FenceAnswer, Unfenced> {
        let id = hosted.id();
        hosted.set_led(None);
        if let Err(error) = self.set_role(hosted, Role::Fenced).await {
            tracing::warn!(partition = %id, %error, "not fenced");
            return Err(Unfenced::Failed);
        }
        if let Some(answer) = self.answer(id, segment) {
            return Ok(answer);
        }
        // With flush=always what was written last has to be synced before it counts.
        if let Err(error) = hosted.log().flush().await {
            tracing::warn!(partition = %id, %error, "fenced, but not synced");
            return Err(Unfenced::Failed);
        }
        self.answer(id, segment).ok_or(Unfenced::NotYet)
    }

    /// The answer of a segment that is fenced here, as it is now; `None` if it is not.
    pub(crate) fn answer(&self, id: PartitionId, segment: SegmentId) -> Option<FenceAnswer> {
        let hosted = self.hosted(id)?;
        hosted.feed(self, segment, |replica, _| (replica.answer(), Vec::new()))?
    }

    /// What fenced segments hold up to their ends, for those of which this node can tell now.
    pub(crate) async fn digests(&self, questions: &[DigestQuestion]) -> Vec<DigestOf> {
        let digests = questions.iter().map(|question| {
            let (host, question) = (self.clone(), *question);
            let digest = async move { host.digest(question).await };
            (question.segment, digest)
        });
        let digests = self.as_far_as_possible("digest", digests.collect()).await;
        digests.into_iter().flatten().flatten().collect()
    }

    /// Runs all of `work`, a few at a time, as far as it ends in time: one partition whose disk does
    /// not answer must not hold up the others. What still runs from before is not begun again.
    /// `None` for what has no result yet; in the order of the work.
    async fn as_far_as_possible<T: Send + 'static, F>(
        &self,
        name: &'static str,
        work: Vec<(SegmentId, F)>,
    ) -> Vec<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let env = &self.inner.env;
        let until = env.now().saturating_add(ANSWER_WAIT);
        let mut results = Vec::with_capacity(work.len());
        let mut work = work.into_iter().peekable();
        while work.peek().is_some() {
            let is_late = env.now() >= until;
            let some = work.by_ref().take(AT_ONCE);
            let started: Vec<_> = some
                .map(|(segment, work)| {
                    let begins = !is_late && self.inner.asked.lock().insert((name, segment));
                    begins.then(|| {
                        let host = self.clone();
                        env.start(name, async move {
                            let result = work.await;
                            host.inner.asked.lock().remove(&(name, segment));
                            result
                        })
                    })
                })
                .collect();
            for started in started {
                let Some(started) = started else {
                    results.push(None);
                    continue;
                };
                let left = until.saturating_sub(env.now());
                let result = env.timeout(left, started).await;
                // Dropped only when the runtime ends, and then nobody asks.
                results.push(result.ok().and_then(Result::ok));
            }
        }
        results
    }

    async fn digest(&self, question: DigestQuestion) -> Option<DigestOf> {
        let DigestQuestion {
            partition: id,
            segment,
            end,
        } = question;
        let hosted = self.hosted(id)?;
        let _turn = hosted.turn.lock().await;
        // A leader's segment may grow; one that is fenced ends where it ends.
        self.answer(id, segment)?;
        if hosted.log().ends().log_end != end {
            return None;
        }
        let info = match hosted.log().seal_begin().await {
            Ok(info) => info,
            Err(error) => {
                tracing::warn!(partition = %id, %error, "the digest of a segment is not known");
                return None;
            }
        };
        hosted.state.lock().stands_still = Some(segment);
        let is_it = info.segment == segment && info.end == end;
        is_it.then_some(DigestOf {
            segment,
            end,
            bytes: info.bytes,
            max_timestamp: info.max_timestamp,
            digest: info.digest,
        })
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
        let may = hosted.feed(self, segment, |replica, _| {
            let epoch = replica.segment().epoch;
            let may = replica.accept_copy(Incoming { epoch, at });
            (may.is_ok(), Vec::new())
        });
        if may != Some(true) {
            return Err(NotAppended::NotFollowing);
        }
        if hosted.state.lock().stands_still.take().is_some() {
            // Its digest was asked for when it seemed to have all.
            hosted.log().seal_abort().await;
        }
        let append = ReplicaAppend {
            segment,
            at,
            batches,
            ack: Ack::Durable,
        };
        Ok(hosted.log().append_copied(append).await?)
    }
}
