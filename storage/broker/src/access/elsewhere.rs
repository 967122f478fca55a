//! What the replica of this node lacks, from those who have it.
//!
//! Whoever leads a partition need not hold the older segments of its chain: the replicas of the next
//! segment may be any brokers (seal protocol R31), and what is sealed is read from whoever is complete
//! (R32). So all who read a partition of this node read it by [`Core::read_replica`], and look up
//! times by [`Core::find_timestamp`] and [`Core::max_timestamp`].

use mainstem_log::{Chunk, Partition, Read, ReadError, Sought, TimeFound};
use mainstem_metadata::SegmentState;
use mainstem_peers::Service;
use mainstem_record::{Batches, BrokerId, Offset, PartitionId, SegmentId, TimestampMs};

use super::{
    CALL_TIMEOUT, is_reachable, serve,
    wire::{Answer, Question},
};
use crate::core::Core;

// === impl Core ===

impl Core {
    /// Reads what is committed of a partition: as [`Partition::read`] of the replica that is here,
    /// and what is missing or damaged in it from other brokers.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if no broker that has it answers: it may later. What is damaged
    /// everywhere is [`ReadError::Damaged`].
    pub(crate) async fn read_replica(
        &self,
        here: &Partition,
        read: Read,
    ) -> Result<Chunk, ReadError> {
        let mut passed: Option<Chunk> = None;
        let mut ahead = read;
        loop {
            let found = match here.read(ahead).await {
                Err(lack) if is_lack(&lack) => {
                    let away = self.read_away(here.id(), ahead).await;
                    away.map_err(|error| worse(lack, error))
                }
                found => found,
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(error) => return passed.ok_or(error),
            };
            if chunk.batches.is_empty() {
                return Ok(passed.unwrap_or(chunk));
            }
            // What follows may be held by others, so the log has not looked for it.
            if chunk.next >= ahead.end || !chunk.is_without_records() {
                return Ok(chunk);
            }
            ahead.from = chunk.next;
            passed = Some(chunk);
        }
    }

    /// Reads from other brokers: what is sealed from those who are complete, what is open from its
    /// leader and its other replicas.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if nobody else has it, [`ReadError::Io`] if nobody who has it answers;
    /// [`ReadError::OutOfRange`], [`ReadError::Removed`].
    pub(super) async fn read_away(&self, id: PartitionId, read: Read) -> Result<Chunk, ReadError> {
        let image = self.image();
        let record = image.partition(id).ok_or(ReadError::Removed)?;
        let (log_start, log_end) = (record.log_start, read.end);
        if read.from < log_start {
            return Err(ReadError::OutOfRange { log_start, log_end });
        }
        // The one that holds it or else begins after it; most readers are near the end.
        let newest_first = record.segments.iter().rev();
        let segment = newest_first
            .take_while(|segment| segment.end.is_none_or(|end| read.from < end))
            .last();
        let Some(segment) = segment.filter(|segment| segment.state == SegmentState::Sealed) else {
            return self.read_open(id, read).await;
        };
        let (from, bytes_max) = (read.from, read.bytes_max);
        match self.replication.read_elsewhere(id, from, bytes_max).await {
            Ok(chunk) => Ok(within(chunk, &read)),
            // Another image has been newer.
            Err(ReadError::OutOfRange { .. }) => Err(ReadError::NotHeld {
                segment: segment.id,
                end: segment.end,
            }),
            Err(error) => Err(error),
        }
    }

    /// Reads what is open, of which this node may know less than others.
    async fn read_open(&self, id: PartitionId, read: Read) -> Result<Chunk, ReadError> {
        let image = self.image();
        let record = image.partition(id).ok_or(ReadError::Removed)?;
        let segment = record.segments.last().ok_or(ReadError::Removed)?;
        let me = self.node_id();
        let others = segment.replicas.iter().copied();
        let others = others.filter(|node| *node != segment.leader);
        // The leader knows most.
        let nodes = std::iter::once(segment.leader).chain(others);
        let nodes = nodes.filter(|node| *node != me && is_reachable(&image, *node));
        let bytes_max = u32::try_from(read.bytes_max).unwrap_or(u32::MAX);
        let question = Question::Read {
            partition: id,
            from: read.from,
            bytes_max: bytes_max.min(serve::READ_BYTES_MAX),
        };
        for node in nodes {
            let Some(answer) = self.ask(node, question).await else {
                continue;
            };
            let log_start = answer.ends.log_start;
            if read.from < log_start {
                let log_end = answer.ends.log_end;
                return Err(ReadError::OutOfRange { log_start, log_end });
            }
            // One that is behind the others knows nothing of it yet.
            if answer.next > read.from {
                return Ok(answer.into_chunk());
            }
        }
        Err(ReadError::NotHeld {
            segment: segment.id,
            end: segment.end,
        })
    }

    /// The first readable record with a timestamp of at least `at_least`: as
    /// [`Partition::find_timestamp`], in segments that are not here by asking those who have them.
    ///
    /// # Errors
    /// As [`Core::read_replica`].
    pub(crate) async fn find_timestamp(
        &self,
        here: &Partition,
        at_least: TimestampMs,
    ) -> Result<TimeFound, ReadError> {
        let mut from = here.ends().log_start;
        loop {
            let lack = match here.find_timestamp(at_least, from).await {
                Err(lack @ ReadError::NotHeld { .. }) => lack,
                found => return found,
            };
            let ReadError::NotHeld { segment, end } = lack else {
                return Err(lack);
            };
            // Only what is sealed can be missing.
            let end = end.filter(|end| *end > from).ok_or(lack)?;
            let (id, sought) = (here.id(), Sought::AtLeast(at_least));
            let found = self.replication.find_elsewhere(id, (segment, from), sought);
            match found.await {
                Ok(None) => from = end,
                Ok(found) => return Ok(found),
                Err(ReadError::OutOfRange { .. }) => return Err(lack),
                Err(error) => return Err(worse(lack, error)),
            }
        }
    }

    /// The readable record with the highest timestamp, the first of several, wherever its segment is.
    ///
    /// # Errors
    /// As [`Core::read_replica`].
    pub(crate) async fn max_timestamp(&self, here: &Partition) -> Result<TimeFound, ReadError> {
        let known = here.max_timestamp().await?;
        let (id, from) = (here.id(), here.ends().log_start);
        let mut best = known.here;
        let mut elsewhere = self.by_highest(id, &known.elsewhere);
        elsewhere.retain(|lacking| lacking.end > from);
        for lacking in elsewhere {
            if !lacking.may_beat(best) {
                continue;
            }
            let within = (lacking.segment, from);
            let found = self.replication.find_elsewhere(id, within, Sought::Highest);
            best = match found.await {
                Ok(found) => better(best, found),
                Err(ReadError::OutOfRange { .. }) => return Err(lacking.error()),
                Err(error) => return Err(worse(lacking.error(), error)),
            };
        }
        Ok(best)
    }

    /// Segments with what metadata knows of them, the likeliest first.
    fn by_highest(&self, id: PartitionId, segments: &[SegmentId]) -> Vec<Lacking> {
        let image = self.image();
        let record = image.partition(id);
        let mut all: Vec<Lacking> = segments
            .iter()
            .map(|id| {
                let of = record.and_then(|record| record.segments.iter().find(|s| s.id == *id));
                Lacking {
                    segment: *id,
                    base: of.map_or(Offset::ZERO, |segment| segment.base),
                    end: of
                        .and_then(|segment| segment.end)
                        .unwrap_or(Offset(i64::MAX)),
                    highest: of.map_or(TimestampMs::NONE, |segment| segment.max_timestamp),
                }
            })
            .collect();
        all.sort_by_key(|lacking| {
            let is_known = lacking.highest != TimestampMs::NONE;
            (is_known, std::cmp::Reverse(lacking.highest), lacking.base)
        });
        all
    }

    /// `None` if there is no answer, or none that helps.
    pub(super) async fn ask(&self, node: BrokerId, question: Question) -> Option<Answer> {
        let peers = self.access()?.peers();
        let call = peers.call(node, Service::FETCH, question.encode(), CALL_TIMEOUT);
        match call.await {
            Ok(body) => Answer::decode(&body),
            Err(error) => {
                tracing::debug!(%node, %error, "a read was not answered");
                None
            }
        }
    }
}

/// A sealed segment that is not here.
struct Lacking {
    segment: SegmentId,
    base: Offset,
    end: Offset,
    /// Its highest timestamp; [`TimestampMs::NONE`] if that is not known.
    highest: TimestampMs,
}

// === impl Lacking ===

impl Lacking {
    /// Of two records with the same timestamp the first counts.
    fn may_beat(&self, best: TimeFound) -> bool {
        best.is_none_or(|(offset, timestamp)| {
            let same = self.highest == timestamp && self.base < offset;
            self.highest == TimestampMs::NONE || self.highest > timestamp || same
        })
    }

    fn error(&self) -> ReadError {
        ReadError::NotHeld {
            segment: self.segment,
            end: Some(self.end),
        }
    }
}

/// The record with the higher timestamp, or else the first.
fn better(one: TimeFound, other: TimeFound) -> TimeFound {
    let rank =
        |(offset, timestamp): &(Offset, TimestampMs)| (*timestamp, std::cmp::Reverse(*offset));
    one.into_iter().chain(other).max_by_key(rank)
}

/// Whether others may have what a read here did not give.
pub(crate) fn is_lack(error: &ReadError) -> bool {
    matches!(error, ReadError::NotHeld { .. } | ReadError::Damaged { .. })
}

/// What to say of records that are `lack`ing here, after others gave none because of `error`.
fn worse(lack: ReadError, error: ReadError) -> ReadError {
    match (&lack, error) {
        (_, error @ (ReadError::OutOfRange { .. } | ReadError::Removed)) => error,
        // Others have it and do not answer now. What is damaged here is not lost.
        (ReadError::Damaged { segment, end, .. }, ReadError::Io(_)) => ReadError::NotHeld {
            segment: *segment,
            end: Some(*end),
        },
        _ => lack,
    }
}

/// What of `chunk` a read may give: it comes from somebody who knows only how much was asked for.
fn within(chunk: Chunk, read: &Read) -> Chunk {
    if chunk.bytes > read.bytes_max && !read.at_least_one_batch {
        return Chunk::empty(read.from);
    }
    if chunk.next <= read.end {
        return chunk;
    }
    let (mut kept, mut next) = (Vec::new(), read.from);
    let batches = chunk.batches.into_iter().flat_map(Batches::new).flatten();
    for (header, bytes) in batches {
        if header.base_offset >= read.end {
            // All before it was compacted away.
            next = read.end;
            break;
        }
        kept.push(bytes);
        next = header.next_offset();
    }
    Chunk {
        bytes: kept.iter().map(|batch| batch.len()).sum(),
        batches: kept,
        next,
        from_cache: false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mainstem_record::{BatchBuilder, LeaderEpoch, stamp};
    use uuid::Uuid;

    use super::*;

    fn segment() -> SegmentId {
        SegmentId(Uuid::from_u128(1))
    }

    /// Batches of two records, from offset 0 on.
    fn chunk(batches: i64) -> Chunk {
        let mut all = Vec::new();
        for number in 0..batches {
            let mut builder = BatchBuilder::default();
            for _ in 0..2 {
                builder.push_record(0, TimestampMs(1), None, Some(b"v"), []);
            }
            let mut batch = builder.finish().expect("a batch");
            stamp(&mut batch, Offset(2 * number), LeaderEpoch(0));
            all.extend_from_slice(&batch);
        }
        Chunk {
            bytes: all.len(),
            batches: vec![Bytes::from(all)],
            next: Offset(2 * batches),
            from_cache: false,
        }
    }

    #[test]
    fn what_others_give_is_cut_to_what_may_be_read() {
        let whole = chunk(3);
        let each = whole.bytes / 3;
        let read = |end, bytes_max, at_least_one_batch| Read {
            from: Offset(1),
            bytes_max,
            at_least_one_batch,
            end: Offset(end),
        };
        let given = |read| {
            let given = within(whole.clone(), &read);
            let length: usize = given.batches.iter().map(Bytes::len).sum();
            assert_eq!(given.bytes, length);
            (given.next, length / each)
        };
        assert_eq!(given(read(6, 1 << 20, false)), (Offset(6), 3));
        assert_eq!(given(read(9, 1 << 20, false)), (Offset(6), 3));
        // As the log does it: batches that begin below the end.
        assert_eq!(given(read(5, 1 << 20, false)), (Offset(6), 3));
        assert_eq!(given(read(4, 1 << 20, false)), (Offset(4), 2));
        assert_eq!(given(read(9, whole.bytes - 1, false)), (Offset(1), 0));
        assert_eq!(given(read(9, whole.bytes - 1, true)), (Offset(6), 3));
    }

    #[test]
    fn only_what_nobody_else_has_is_damaged() {
        let (base, end) = (Offset(3), Offset(9));
        let not_held = ReadError::NotHeld {
            segment: segment(),
            end: Some(end),
        };
        let damaged = ReadError::Damaged {
            segment: segment(),
            base,
            end,
        };
        let unanswered = ReadError::Io(std::io::ErrorKind::NotConnected);
        let deleted = ReadError::OutOfRange {
            log_start: end,
            log_end: end,
        };
        assert_eq!(worse(not_held, unanswered), not_held);
        assert_eq!(worse(not_held, not_held), not_held);
        assert_eq!(worse(damaged, unanswered), not_held);
        assert_eq!(worse(damaged, not_held), damaged);
        assert_eq!(worse(not_held, deleted), deleted);
        assert_eq!(worse(damaged, ReadError::Removed), ReadError::Removed);
    }

    #[test]
    fn of_the_highest_timestamps_the_first_counts() {
        let at = |offset, timestamp| Some((Offset(offset), TimestampMs(timestamp)));
        assert_eq!(better(None, None), None);
        assert_eq!(better(at(5, 7), None), at(5, 7));
        assert_eq!(better(at(5, 7), at(1, 7)), at(1, 7));
        assert_eq!(better(at(1, 7), at(5, 8)), at(5, 8));
        let lacking = |highest| Lacking {
            segment: segment(),
            base: Offset(10),
            end: Offset(20),
            highest: TimestampMs(highest),
        };
        let cases = [
            (7, None, true),
            (7, at(5, 6), true),
            (7, at(5, 7), false),
            (7, at(25, 7), true),
            (7, at(25, 8), false),
            (TimestampMs::NONE.0, at(5, 7), true),
        ];
        for (highest, best, beats) in cases {
            assert_eq!(lacking(highest).may_beat(best), beats, "{highest} {best:?}");
        }
    }
}
