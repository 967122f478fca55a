//! Metrics of the controller. The gauges are those of the whole cluster, told by the node that leads
//! the metadata quorum; the others say 0.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{
    census::Counts,
    seals::{Cause, Sealed, Seals},
};
use crate::machine::sealing::Wait;

/// From 10 ms to a minute and a half.
const FAIL_OVER_BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 90.0,
];

pub(crate) struct Metrics {
    active: IntGauge,
    fenced: IntGauge,
    leaderless: IntGauge,
    under_replicated: IntGauge,
    under_min_isr: IntGauge,
    waiting: IntGaugeVec,
    seals: IntCounterVec,
    fail_over: Histogram,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let waiting = IntGaugeVec::new(
            Opts::new(
                "mainstem_controller_seals_waiting",
                "Unplanned seals that are under way, by what they wait for",
            ),
            &["for"],
        )?;
        let seals = IntCounterVec::new(
            Opts::new(
                "mainstem_controller_seals_total",
                "Unplanned seals that are over, by why they began",
            ),
            &["cause"],
        )?;
        let fail_over = Histogram::with_opts(
            HistogramOpts::new(
                "mainstem_controller_fail_over_seconds",
                "From the beginning of an unplanned seal to the next segment",
            )
            .buckets(FAIL_OVER_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(seals.clone()))?;
        registry.register(Box::new(fail_over.clone()))?;
        Ok(Self {
            active: gauge(
                "mainstem_controller_active",
                "Whether this node is the controller",
            )?,
            fenced: gauge(
                "mainstem_cluster_fenced_brokers",
                "Brokers whose session is over",
            )?,
            leaderless: gauge(
                "mainstem_cluster_leaderless_partitions",
                "Partitions that nobody leads",
            )?,
            under_replicated: gauge(
                "mainstem_cluster_under_replicated_partitions",
                "Partitions with fewer in-sync replicas than they should have",
            )?,
            under_min_isr: gauge(
                "mainstem_cluster_under_min_isr_partitions",
                "Partitions with fewer in-sync replicas than min.insync.replicas",
            )?,
            waiting,
            seals,
            fail_over,
        })
    }

    pub(crate) fn shown(&self, counts: Counts, seals: &Seals) {
        self.active.set(1);
        self.count(counts);
        let waits = seals.waits();
        for wait in WAITS {
            let count = waits.get(&wait).copied().unwrap_or(0);
            let label = self.waiting.with_label_values(&[name_of_wait(wait)]);
            label.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// This node is no longer the controller.
    pub(crate) fn resigned(&self) {
        self.active.set(0);
        self.count(Counts::default());
        self.waiting.reset();
    }

    fn count(&self, counts: Counts) {
        let set = |gauge: &IntGauge, count: u64| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.fenced, counts.fenced_brokers);
        set(&self.leaderless, counts.leaderless);
        set(&self.under_replicated, counts.under_replicated);
        set(&self.under_min_isr, counts.under_min_isr);
    }

    pub(crate) fn sealed(&self, sealed: &Sealed) {
        let cause = self.seals.with_label_values(&[name_of_cause(sealed.cause)]);
        cause.inc();
        self.fail_over.observe(sealed.took.as_secs_f64());
    }
}

const WAITS: [Wait; 5] = [
    Wait::Answers,
    Wait::Eligible,
    Wait::Lost,
    Wait::Copies,
    Wait::Placement,
];

fn name_of_wait(wait: Wait) -> &'static str {
    match wait {
        Wait::Answers => "answers",
        Wait::Eligible => "eligible",
        Wait::Lost => "lost",
        Wait::Copies => "copies",
        Wait::Placement => "placement",
    }
}

fn name_of_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::LeaderLost => "leader_lost",
        Cause::LeaderRestarted => "leader_restarted",
        Cause::LeaderDeclaredLost => "leader_declared_lost",
        Cause::Requested => "requested",
    }
}
