//! What the operating system says of this process, refreshed at every scrape.

use mainstem_env::Env;
use prometheus::{Counter, Gauge, IntGauge, Registry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files of /proc are small; more than this is not what we expect.
const PROC_FILE_BYTES_MAX: usize = 4096;

/// Linux reports times in hundredths of a second (`USER_HZ`) on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) struct ProcessMetrics {
    env: Env,
    cpu: Counter,
    resident: IntGauge,
    open_files: IntGauge,
    uptime: Gauge,
    started: std::time::Duration,
}

/// Of the open files that the process may have, segments may take this part; connections need the
/// rest.
const SEGMENTS_PART: u64 = 2;

/// How many segment files may be open at a time, `wanted` at most: raises the limit of the process
/// as far as it may itself, and stays within it.
pub(crate) fn open_files_max(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let (mut current, maximum) = (limit.current, limit.maximum);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => current = maximum,
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
    }
    // No limit is none to us either.
    let room = current.map_or(u64::MAX, |files| files / SEGMENTS_PART);
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
    if room < wanted {
        tracing::warn!(
            limit = current,
            segment_files = room,
            "the limit of open files is low; raise it (ulimit -n) for many partitions or connections"
        );
    }
    wanted.min(room)
}

// === impl ProcessMetrics ===

impl ProcessMetrics {
    pub(crate) fn register(env: &Env, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            env: env.clone(),
            cpu: Counter::new(
                "mainstem_process_cpu_seconds_total",
                "User and system CPU time of the process, in seconds.",
            )?,
            resident: IntGauge::new(
                "mainstem_process_resident_memory_bytes",
                "Resident memory of the process.",
            )?,
            open_files: IntGauge::new(
                "mainstem_process_open_fds",
                "Open file descriptors of the process.",
            )?,
            uptime: Gauge::new(
                "mainstem_uptime_seconds",
                "Seconds since the node was started.",
            )?,
            started: env.now(),
        };
        registry.register(Box::new(metrics.cpu.clone()))?;
        registry.register(Box::new(metrics.resident.clone()))?;
        registry.register(Box::new(metrics.open_files.clone()))?;
        registry.register(Box::new(metrics.uptime.clone()))?;
        Ok(metrics)
    }

    /// Reads the figures again; what can't be read keeps its last value.
    pub(crate) fn refresh(&self) {
        self.uptime
            .set((self.env.now() - self.started).as_secs_f64());
        if let Some(seconds) = cpu_seconds() {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_files
                .set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

fn proc_file(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .filter(|text| text.len() <= PROC_FILE_BYTES_MAX)
}

/// Fields 14 and 15 of /proc/self/stat (proc(5)); the second field may hold spaces, so counting
/// starts after its closing parenthesis.
fn cpu_seconds() -> Option<f64> {
    let stat = proc_file("/proc/self/stat")?;
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<i64> {
    let status = proc_file("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
