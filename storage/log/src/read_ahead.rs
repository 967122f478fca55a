//! Read-ahead: the disk works on what a sequential reader of a sealed segment asks for next.
//!
//! The kernel reads ahead by itself, but its window belongs to the open file, which all readers of
//! a segment share, ends where the file ends, and may be much smaller than one fetch (128 KiB
//! unless somebody has set the device up). So a reader that goes on where a read has ended has the
//! next megabytes asked for, at the end of a segment those of the next one.

use std::ops::Range;

use parking_lot::Mutex;

/// How far ahead of a reader bytes are asked for: more than the disk delivers while a fetch is on
/// its way to the consumer and back.
const WINDOW_BYTES: u64 = 8 << 20;

/// Sequential readers of one segment that are told apart; more get what the kernel gives them.
const STREAMS_MAX: usize = 4;

/// The sequential readers of one segment.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// The one that read last comes first.
    streams: Mutex<[Stream; STREAMS_MAX]>,
}

/// A sequential reader, in positions of the file.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where it goes on. The start of the segment counts, too: it may come from the one before.
    next: u64,
    /// What lies below was asked for.
    asked: u64,
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Positions of the file.
    pub(crate) range: Range<u64>,
    /// It ends where the segment does: the reader will go on in the next one.
    pub(crate) reaches_end: bool,
}

// === impl ReadAhead ===

impl ReadAhead {
    /// What to ask for before a read at `start` of a segment with `limit` bytes; `None` if nobody
    /// has read up to there, or if enough is under way.
    pub(crate) fn begin(&self, start: u64, limit: u64) -> Option<Ahead> {
        let mut streams = self.streams.lock();
        let at = streams.iter().position(|stream| stream.next == start)?;
        let stream = streams.get_mut(at)?;
        let asked = stream.asked.max(start);
        if asked >= limit || asked - start > WINDOW_BYTES / 2 {
            return None;
        }
        let end = limit.min(start + WINDOW_BYTES);
        stream.asked = end;
        Some(Ahead {
            range: asked..end,
            reaches_end: end == limit,
        })
    }

    /// Takes note of a read from `start` to `end`.
    pub(crate) fn ended(&self, start: u64, end: u64) {
        let mut streams = self.streams.lock();
        let followed = |stream: &Stream| stream.next == start || stream.next == end;
        let at = streams.iter().position(followed);
        let known = at.is_some();
        // Who has read longest ago makes room.
        let Some(recent) = streams.get_mut(..=at.unwrap_or(STREAMS_MAX - 1)) else {
            return;
        };
        recent.rotate_right(1);
        if let Some(stream) = recent.first_mut() {
            stream.next = end;
            stream.asked = if known { stream.asked.max(end) } else { end };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Reads `count` times `step` bytes from `start` on; what was asked for meanwhile.
    fn read(ahead: &ReadAhead, start: u64, step: u64, count: u64) -> Vec<Range<u64>> {
        let mut asked = Vec::new();
        for number in 0..count {
            let at = start + number * step;
            asked.extend(ahead.begin(at, 256 * MIB).map(|ahead| ahead.range));
            ahead.ended(at, at + step);
        }
        asked
    }

    #[test]
    fn sequential_reader_has_each_byte_asked_for_once() {
        let ahead = ReadAhead::default();
        let asked = read(&ahead, 0, MIB, 256);
        assert_eq!(asked.first(), Some(&(0..WINDOW_BYTES)));
        for pair in asked.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
            assert!(pair[1].end - pair[1].start <= WINDOW_BYTES);
        }
        assert_eq!(asked.last().map(|last| last.end), Some(256 * MIB));
    }

    #[test]
    fn reads_here_and_there_ask_for_nothing() {
        let ahead = ReadAhead::default();
        for at in [17, 3, 200, 90, 41, 8, 77] {
            assert_eq!(read(&ahead, at * MIB, MIB, 1), []);
        }
    }

    #[test]
    fn readers_beside_each_other_do_not_disturb_each_other() {
        let ahead = ReadAhead::default();
        let starts = [10, 60, 110, 160].map(|at| at * MIB);
        let mut asked = 0;
        for number in 0..40 {
            for start in starts {
                asked += read(&ahead, start + number * MIB, MIB, 1).len();
            }
        }
        // The first read of each is not known to be sequential; then one in about four asks.
        assert!(asked >= 4 * 7, "{asked}");
    }

    #[test]
    fn end_of_the_segment_is_told_once() {
        let ahead = ReadAhead::default();
        let mut ends = 0;
        for at in 0..20 {
            let found = ahead.begin(at * MIB, 20 * MIB);
            ends += usize::from(found.is_some_and(|ahead| ahead.reaches_end));
            ahead.ended(at * MIB, (at + 1) * MIB);
        }
        assert_eq!(ends, 1);
        assert_eq!(ahead.begin(20 * MIB, 20 * MIB), None);
    }
}
