//! Warnings of MQTT topics whose first level cannot be the name of a Kafka topic: it is empty, or has
//! letters that Kafka does not allow. What clients publish there goes to the overflow topic, where a
//! Kafka consumer will not look for it, so the log says so: once for each first level, and once in
//! [`OVERFLOW_NOTICE_INTERVAL`] at most, whatever clients invent.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
    time::Duration,
};

use mainstem_config::OVERFLOW_TOPIC;
use parking_lot::Mutex;

use super::limits::{OVERFLOW_NOTICE_CHARS_MAX, OVERFLOW_NOTICE_INTERVAL, OVERFLOW_NOTICES_MAX};

/// Which warnings were given.
#[derive(Debug, Default)]
pub(crate) struct OverflowNotices {
    /// Names are as long as clients like; their hashes are not. Keyed anew at every start.
    hasher: RandomState,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    levels: HashSet<u64>,
    last_at: Option<Duration>,
    /// Warnings that came too soon after the last one.
    left_out: u64,
}

// === impl OverflowNotices ===

impl OverflowNotices {
    /// Something is published below `level` at `now` (monotonic). Whether it was warned of.
    pub(crate) fn note(&self, level: &str, now: Duration) -> bool {
        let hash = self.hasher.hash_one(level);
        let left_out = {
            let mut given = self.given.lock();
            if given.levels.contains(&hash) {
                return false;
            }
            let is_too_soon = given
                .last_at
                .is_some_and(|at| now.saturating_sub(at) < OVERFLOW_NOTICE_INTERVAL);
            if is_too_soon {
                given.left_out = given.left_out.saturating_add(1);
                return false;
            }
            if given.levels.len() >= OVERFLOW_NOTICES_MAX {
                given.levels.clear();
            }
            given.levels.insert(hash);
            given.last_at = Some(now);
            std::mem::take(&mut given.left_out)
        };
        let shown: String = level.chars().take(OVERFLOW_NOTICE_CHARS_MAX).collect();
        tracing::warn!(
            level = ?shown,
            topic = OVERFLOW_TOPIC,
            left_out,
            "first level is no legal name of a Kafka topic, its messages go to the overflow topic"
        );
        true
    }
}

#[cfg(test)]
impl OverflowNotices {
    /// Whether `level` is known to have been warned of.
    pub(crate) fn was_given(&self, level: &str) -> bool {
        let hash = self.hasher.hash_one(level);
        self.given.lock().levels.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_for_each_level_and_one_in_an_interval() {
        let notices = OverflowNotices::default();
        let mut now = Duration::from_secs(5);
        assert!(notices.note("", now));
        assert!(!notices.note("", now), "said already");
        assert!(!notices.note("a b", now), "too soon");
        now += OVERFLOW_NOTICE_INTERVAL;
        assert!(!notices.note("", now), "said already, however long ago");
        assert!(notices.note("a b", now));
        assert!(!notices.note("c d", now));
    }

    #[test]
    fn invented_levels_take_no_memory() {
        let notices = OverflowNotices::default();
        let mut now = Duration::ZERO;
        for number in 0..3 * OVERFLOW_NOTICES_MAX {
            now += OVERFLOW_NOTICE_INTERVAL;
            assert!(notices.note(&format!("level {number}"), now));
            assert!(notices.given.lock().levels.len() <= OVERFLOW_NOTICES_MAX);
        }
    }
}
