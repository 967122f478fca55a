//! Reading a partition wherever its records are.

use std::sync::Arc;

use mainstem_log::{Chunk, Ends, Hits, Lookup, Partition, Read, ReadError, Subscription};
use mainstem_record::{Offset, PartitionId};
use tokio::sync::Notify;

use super::{
    CALL_TIMEOUT, Leader,
    elsewhere::is_lack,
    tail::{Tail, TailSubscription},
    wire::Question,
};
use crate::{core::Core, error_code::ErrorCode};

/// A partition for those who read what is committed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reader {
    core: Arc<Core>,
    id: PartitionId,
    /// The replica that is here: of the open segment if there is no tail, else at most of older ones.
    here: Option<Partition>,
    tail: Option<Arc<Tail>>,
}

/// Wakes whoever asked when there is more to read; ends with it.
pub(crate) struct ReaderSubscription {
    _here: Option<Subscription>,
    _tail: Option<TailSubscription>,
}

// === impl Core ===

impl Core {
    /// A partition of this or another node, for reading. A node that holds no replica of it begins
    /// to follow its leader; until that has answered, it is [`ErrorCode::LeaderNotAvailable`], and
    /// [`Core::opened_partitions`] tells when it is worth asking again.
    pub(crate) fn reader(self: &Arc<Self>, id: PartitionId) -> Result<Reader, ErrorCode> {
        let here = self.log.partition(id);
        let Some(access) = self.access() else {
            return match here {
                Some(partition) => Ok(Reader::here(self, partition)),
                None => self.partition(id).map(|led| Reader::here(self, led)),
            };
        };
        if let Some(partition) = &here
            && self.holds_open_segment(id)
        {
            return Ok(Reader::here(self, partition.clone()));
        }
        if self.image().partition(id).is_none() {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        let tail = access.tails.tail(self, id);
        if tail.ends().is_none() {
            return Err(ErrorCode::LeaderNotAvailable);
        }
        Ok(Reader {
            core: self.clone(),
            id,
            here,
            tail: Some(tail),
        })
    }

    /// As [`Core::reader`], and waits until the leader has answered, for a while.
    pub(crate) async fn reader_when_open(
        self: &Arc<Self>,
        id: PartitionId,
    ) -> Result<Reader, ErrorCode> {
        match self.reader(id) {
            Err(ErrorCode::LeaderNotAvailable) => {}
            result => return result,
        }
        let mut opened = self.opened_partitions();
        let waiting = async {
            loop {
                match self.reader(id) {
                    Err(ErrorCode::LeaderNotAvailable) => {}
                    result => return result,
                }
                if opened.changed().await.is_err() {
                    return Err(ErrorCode::LeaderNotAvailable);
                }
            }
        };
        let waited = self.env.timeout(CALL_TIMEOUT, waiting).await;
        waited.unwrap_or(Err(ErrorCode::LeaderNotAvailable))
    }

    /// Whether reading the replica that is here is reading the partition.
    fn holds_open_segment(&self, id: PartitionId) -> bool {
        let image = self.image();
        let open = image.partition(id).and_then(|record| record.active());
        open.is_some_and(|open| {
            open.replicas.contains(&self.node_id()) || open.leader == self.node_id()
        })
    }

    /// The committed end as the leader knows it now: whatever was acknowledged before the call is
    /// below it.
    pub(crate) async fn leader_end(&self, id: PartitionId) -> Result<Offset, ErrorCode> {
        match self.leader(id) {
            Leader::Here(partition) => Ok(partition.ends().committed_end),
            Leader::At(leader) => {
                let answer = self.ask(leader, Question::Ends(id)).await;
                answer
                    .map(|answer| answer.ends.committed_end)
                    .ok_or(ErrorCode::LeaderNotAvailable)
            }
            Leader::Nobody => Err(ErrorCode::LeaderNotAvailable),
            Leader::Unknown => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }
}

// === impl Reader ===

impl Reader {
    fn here(core: &Arc<Core>, partition: Partition) -> Self {
        Self {
            core: core.clone(),
            id: partition.id(),
            here: Some(partition),
            tail: None,
        }
    }

    /// What is known of its ends here; the leader's may be further.
    pub(crate) fn ends(&self) -> Ends {
        let away = self.tail.as_ref().and_then(|tail| tail.ends());
        let here = || self.here.as_ref().map(Partition::ends);
        away.or_else(here).unwrap_or(Ends {
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            synced_end: Offset::ZERO,
            committed_end: Offset::ZERO,
        })
    }

    /// Whether it still is the way to read the partition: replicas may have moved.
    pub(crate) fn is_current(&self) -> bool {
        self.core.access().is_none() || self.core.holds_open_segment(self.id) == self.tail.is_none()
    }

    /// Waits until `notify`, which is subscribed, tells of more to read; `false`: it is to be read
    /// another way from now on.
    pub(crate) async fn more(&self, notify: &Notify) -> bool {
        let mut moves = self.core.access().map(|_| self.core.metadata.changes());
        loop {
            if !self.is_current() {
                return false;
            }
            let moved = async {
                match &mut moves {
                    Some(moves) => moves.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = notify.notified() => return true,
                is_open = moved => if !is_open { return false },
            }
        }
    }

    /// Reads what is committed, as [`Partition::read`] does, wherever it is.
    ///
    /// # Errors
    /// As [`Core::read_replica`].
    pub(crate) async fn read(&self, read: Read) -> Result<Chunk, ReadError> {
        if let Some(tail) = &self.tail
            && let Some(chunk) = tail.read(read.from)
        {
            return Ok(chunk);
        }
        if let Some(here) = &self.here {
            // A replica may not know yet what its leader has acknowledged and another node has seen.
            let is_known = read.from < here.ends().committed_end;
            if is_known || self.core.access().is_none() || self.core.leads(self.id) {
                return self.core.read_replica(here, read).await;
            }
        }
        self.core.read_away(self.id, read).await
    }

    /// As [`Reader::read`], but of a sealed segment with a dictionary only the batches of `hits`,
    /// which [`Reader::matching`] has found.
    pub(crate) async fn read_hits(
        &self,
        hits: &Hits,
        (from, bytes_max): (Offset, usize),
    ) -> Result<Chunk, ReadError> {
        if let Some(here) = self.local() {
            match here.read_hits(hits, from, bytes_max).await {
                Err(error) if is_lack(&error) => {}
                read => return read,
            }
        }
        // Its file has been lost or given up meanwhile.
        self.read(Read {
            from,
            bytes_max,
            at_least_one_batch: true,
            end: self.ends().committed_end,
        })
        .await
    }

    /// The replica here, if its dictionaries can be asked: they are of no use while the open end is
    /// elsewhere.
    fn local(&self) -> Option<&Partition> {
        self.here.as_ref().filter(|_| self.tail.is_none())
    }

    /// What of the records from `from` on has to be read at all.
    pub(crate) async fn matching(
        &self,
        from: Offset,
        matches: impl FnMut(&[u8]) -> bool + Send + 'static,
    ) -> Result<Lookup, ReadError> {
        match self.local() {
            Some(partition) => match partition.matching(from, matches).await {
                // Read from another node, without its dictionary.
                Err(ReadError::NotHeld { end: Some(end), .. }) => Ok(Lookup::All(end)),
                result => result,
            },
            None => Ok(Lookup::All(self.ends().committed_end.max(from.next()))),
        }
    }

    /// Wakes `notify` when the committed end moves, until what is returned is dropped.
    pub(crate) fn subscribe(&self, notify: &Arc<Notify>) -> ReaderSubscription {
        ReaderSubscription {
            _here: self.local().map(|partition| partition.subscribe(notify)),
            _tail: self.tail.as_ref().map(|tail| tail.subscribe(notify)),
        }
    }
}
