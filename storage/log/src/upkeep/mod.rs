//! Work on sealed segments that nobody waits for: dictionaries of labels are made
//! ([`dictionary`]), files that somebody has removed are noticed ([`missing`]), and what lies on the disk is read again and compared with its digests
//! ([`scrub`]).
//!
//! One task per log does it all, a slice at a time on the blocking pool, with pauses that keep it
//! below its rate. It holds no lock while it reads, and takes files as they come: a segment that is
//! dropped meanwhile is passed over.

mod dictionary;
mod missing;
mod scrub;

use std::time::Duration;

use mainstem_env::Env;

pub(crate) use scrub::ScrubState;
#[cfg(test)]
pub(crate) use scrub::{MAGIC as SCRUB_MAGIC, VERSION as SCRUB_VERSION};

use crate::log::{Log, WeakLog};

/// How often segments without a dictionary are looked for.
const DICTIONARY_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked for files that are gone.
const MISSING_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The bytes of segments that are read per second to make dictionaries. They were written moments
/// ago, so it is processor time that this bounds.
const DICTIONARY_BYTES_PER_SECOND: u64 = 64 << 20;

/// How long work on `bytes` has to take at this rate.
fn pause(bytes: u64, per_second: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / per_second.max(1))
}

/// The background task of a log, until the log is closed or gone.
pub(crate) async fn run(env: Env, log: WeakLog) {
    let mut looked = env.now();
    loop {
        env.sleep(DICTIONARY_INTERVAL).await;
        let Some(log) = log.upgrade().filter(Log::is_open) else {
            return;
        };
        log.make_dictionaries().await;
        if env.now().saturating_sub(looked) >= MISSING_INTERVAL {
            log.look_for_files().await;
            looked = env.now();
        }
        if log.scrub_is_due() {
            log.scrub().await;
        }
    }
}
