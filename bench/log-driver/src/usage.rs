//! What this process has used.

use std::time::Duration;

use mainstem_env::Env;
use rustix::time::{ClockId, clock_gettime};

use crate::{Outcome, Report};

/// A point in time, and the CPU time used before it.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    at: Duration,
    cpu: Duration,
}

/// Between two marks, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// User and system time of all threads.
    pub(crate) cpu: f64,
}

impl Mark {
    pub(crate) fn now(env: &Env) -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            at: env.now(),
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
        }
    }

    pub(crate) fn elapsed(&self, env: &Env) -> Used {
        let now = Self::now(env);
        Used {
            seconds: (now.at - self.at).as_secs_f64(),
            cpu: (now.cpu - self.cpu).as_secs_f64(),
        }
    }
}

/// The field `name` of a file of /proc/self whose lines are `name: number ...`.
fn field(file: &str, name: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/{file}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .ok_or_else(|| format!("/proc/self/{file} has no {name}"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    Ok(number.parse()?)
}

/// Resident bytes.
pub(crate) fn resident() -> Outcome<u64> {
    Ok(field("status", "VmRSS")? << 10)
}

/// The most resident bytes so far.
pub(crate) fn resident_peak() -> Outcome<u64> {
    Ok(field("status", "VmHWM")? << 10)
}

/// Bytes that came from the disk, not from the page cache.
pub(crate) fn read_from_disk() -> Outcome<u64> {
    field("io", "read_bytes")
}

/// Open descriptors.
pub(crate) fn descriptors() -> Outcome<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Adds `name` to a report.
pub(crate) fn put(report: &mut Report, name: &str, value: impl Into<serde_json::Value>) {
    report.insert(name.to_owned(), value.into());
}

/// The value below which `share` of them lie; 0 if there is none.
pub(crate) fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

/// In microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
