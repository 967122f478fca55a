//! QoS 2 publishes: per session the newest owner epoch and the last sequences.
//!
//! The sequence goes on counting when the epoch rises: the new owner of a session appends what the
//! old one had begun once more, and it must not be stored twice.

use std::collections::{HashMap, VecDeque};

use super::Fields;
use crate::{append::Qos2Id, error::AppendError};

/// How many sequences are remembered of a session.
pub(crate) const SEQUENCES_MAX: usize = 128;

/// How many sessions are remembered of a partition; beyond it the longest silent go.
pub(crate) const SESSIONS_MAX: usize = 65_536;

/// Bytes that a session takes in a file, at most.
pub(crate) const SESSION_BYTES_MAX: usize = 16 + 4 + 8 + 1 + SEQUENCES_MAX * 8;

/// From how many sessions on the expired ones are looked for.
const SWEEP_AT_MIN: usize = 256;

#[derive(Debug, Clone)]
struct Session {
    epoch: u32,
    last_seen_ms: i64,
    /// The number of the last publish, counted since the process began: orders those of one time.
    place: u64,
    /// Oldest first.
    seen: VecDeque<u64>,
}

/// The QoS 2 sessions of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Qos2 {
    map: HashMap<[u8; 16], Session>,
    /// Publishes taken note of since the process began.
    places: u64,
    expiry_ms: i64,
    sweep_at: usize,
}

/// What [`Qos2::restore`] needs to take a record back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Qos2Undo {
    session: [u8; 16],
    /// Epoch, time and place before; `None` if the session was not known.
    previous: Option<(u32, i64, u64)>,
    /// The sequence that had to make room.
    evicted: Option<u64>,
}

// === impl Session ===

/// As far as a file tells.
impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        let told = |session: &Self| (session.epoch, session.last_seen_ms);
        told(self) == told(other) && self.seen == other.seen
    }
}

impl Eq for Session {}

// === impl Qos2 ===

/// As far as a file tells.
impl PartialEq for Qos2 {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map && self.expiry_ms == other.expiry_ms
    }
}

impl Eq for Qos2 {}

impl Qos2 {
    pub(crate) fn new(expiry_ms: i64) -> Self {
        Self {
            map: HashMap::new(),
            places: 0,
            expiry_ms,
            sweep_at: SWEEP_AT_MIN,
        }
    }

    /// How many sessions are remembered.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes of memory, at most about.
    pub(crate) fn size_bytes(&self) -> usize {
        self.map.len() * (size_of::<Session>() + SEQUENCES_MAX * size_of::<u64>())
    }

    /// Whether the publish was appended before.
    pub(crate) fn check(&self, id: &Qos2Id, now_ms: i64) -> Result<bool, AppendError> {
        match self.map.get(&id.session) {
            Some(session) if now_ms.saturating_sub(session.last_seen_ms) <= self.expiry_ms => {
                if id.epoch < session.epoch {
                    return Err(AppendError::InvalidProducerEpoch);
                }
                Ok(session.seen.iter().rev().any(|seen| *seen == id.sequence))
            }
            _ => Ok(false),
        }
    }

    /// Takes note of a publish.
    pub(crate) fn record(&mut self, id: &Qos2Id, now_ms: i64) -> Qos2Undo {
        if !self.map.contains_key(&id.session) {
            self.make_room(now_ms);
        }
        self.places += 1;
        let mut previous = None;
        let session = self
            .map
            .entry(id.session)
            .and_modify(|known| previous = Some((known.epoch, known.last_seen_ms, known.place)))
            .or_insert_with(|| Session {
                epoch: id.epoch,
                last_seen_ms: now_ms,
                place: 0,
                seen: VecDeque::new(),
            });
        session.epoch = session.epoch.max(id.epoch);
        session.last_seen_ms = now_ms;
        session.place = self.places;
        session.seen.push_back(id.sequence);
        let evicted = if session.seen.len() > SEQUENCES_MAX {
            session.seen.pop_front()
        } else {
            None
        };
        Qos2Undo {
            session: id.session,
            previous,
            evicted,
        }
    }

    /// Takes the newest [`Qos2::record`] of its session back.
    pub(crate) fn restore(&mut self, undo: Qos2Undo) {
        let Some((epoch, last_seen_ms, place)) = undo.previous else {
            self.map.remove(&undo.session);
            return;
        };
        if let Some(session) = self.map.get_mut(&undo.session) {
            session.epoch = epoch;
            session.last_seen_ms = last_seen_ms;
            session.place = place;
            session.seen.pop_back();
            if let Some(evicted) = undo.evicted {
                session.seen.push_front(evicted);
            }
        }
    }

    fn make_room(&mut self, now_ms: i64) {
        if self.map.len() < self.sweep_at {
            return;
        }
        let expiry_ms = self.expiry_ms;
        self.map
            .retain(|_, s| now_ms.saturating_sub(s.last_seen_ms) <= expiry_ms);
        if self.map.len() >= SESSIONS_MAX {
            // A scan sees all at one time: their order tells then who was silent longest. No two are
            // alike, so that the same log leaves the same memory.
            let age =
                |(id, session): (&[u8; 16], &Session)| (session.last_seen_ms, session.place, *id);
            let mut ages: Vec<_> = self.map.iter().map(age).collect();
            let eighth = ages.len() / 8;
            let (_, &mut limit, _) = ages.select_nth_unstable(eighth);
            self.map.retain(|id, session| age((id, session)) >= limit);
        }
        self.sweep_at = (self.map.len() * 2).clamp(SWEEP_AT_MIN, SESSIONS_MAX);
    }

    /// Appends the section of an index file, in the order of the sessions.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut sorted: Vec<_> = self.map.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        for (id, session) in sorted {
            out.extend_from_slice(id);
            out.extend_from_slice(&session.epoch.to_le_bytes());
            out.extend_from_slice(&session.last_seen_ms.to_le_bytes());
            out.push(session.seen.len() as u8);
            for sequence in &session.seen {
                out.extend_from_slice(&sequence.to_le_bytes());
            }
        }
    }

    /// Reads the section of an index file; `None` if it is malformed.
    pub(crate) fn decode(section: &[u8], expiry_ms: i64) -> Option<Self> {
        let mut qos2 = Self::new(expiry_ms);
        let mut fields = Fields(section);
        while !fields.0.is_empty() {
            let id = fields.take::<16>()?;
            let epoch = fields.u32()?;
            let last_seen_ms = fields.i64()?;
            let count = fields.u8()?;
            if usize::from(count) > SEQUENCES_MAX {
                return None;
            }
            let seen = (0..count)
                .map(|_| fields.u64())
                .collect::<Option<VecDeque<u64>>>()?;
            qos2.map.insert(
                id,
                Session {
                    epoch,
                    last_seen_ms,
                    place: 0,
                    seen,
                },
            );
            if qos2.map.len() > SESSIONS_MAX {
                return None;
            }
        }
        qos2.sweep_at = (qos2.map.len() * 2).clamp(SWEEP_AT_MIN, SESSIONS_MAX);
        Some(qos2)
    }
}

const _: () = assert!(SEQUENCES_MAX <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u32, sequence: u64) -> Qos2Id {
        Qos2Id {
            session: [9; 16],
            epoch,
            sequence,
        }
    }

    #[test]
    fn sequence_is_seen_across_epochs_and_older_epochs_are_refused() {
        let mut qos2 = Qos2::new(1000);
        assert_eq!(qos2.check(&id(3, 10), 0), Ok(false));
        qos2.record(&id(3, 10), 0);
        assert_eq!(qos2.check(&id(3, 10), 0), Ok(true));
        assert_eq!(qos2.check(&id(4, 10), 0), Ok(true));
        assert_eq!(
            qos2.check(&id(2, 11), 0),
            Err(AppendError::InvalidProducerEpoch)
        );
        assert_eq!(qos2.check(&id(2, 10), 1001), Ok(false));
    }

    #[test]
    fn where_all_were_seen_at_one_time_the_first_to_publish_go() {
        let mut qos2 = Qos2::new(i64::MAX);
        let session = |number: u32| Qos2Id {
            session: u128::from(number).to_be_bytes(),
            epoch: 1,
            sequence: 7,
        };
        let all = SESSIONS_MAX as u32;
        for number in 0..all {
            qos2.record(&session(number), 5);
        }
        // Seen again, it is not the first any more.
        qos2.record(&session(0), 5);
        qos2.record(&session(all), 5);
        let gone = all / 8;
        for number in 0..=all {
            let stays = number == 0 || number > gone;
            let known = qos2.map.contains_key(&session(number).session);
            assert_eq!(known, stays, "{number}");
        }
    }

    #[test]
    fn restore_takes_records_back_in_reverse_order() {
        let mut qos2 = Qos2::new(1000);
        for sequence in 0..SEQUENCES_MAX as u64 {
            qos2.record(&id(1, sequence), 3);
        }
        let before = qos2.clone();
        let undos = [qos2.record(&id(2, 500), 4), qos2.record(&id(2, 501), 5)];
        assert_eq!(qos2.check(&id(2, 0), 5), Ok(false));
        for undo in undos.into_iter().rev() {
            qos2.restore(undo);
        }
        assert_eq!(qos2, before);
        let mut section = Vec::new();
        qos2.encode(&mut section);
        assert_eq!(Qos2::decode(&section, 1000), Some(before));
    }
}
