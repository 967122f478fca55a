//! The timers of the protocol. None is part of safety: they decide only when to act.

use std::time::Duration;

/// When machines act on what they see. Defaults are those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// `broker.session.timeout.ms`: without a heartbeat for so long a broker is fenced.
    pub session_timeout: Duration,
    /// `replica.lag.time.max.ms`: a member that has not reached the log end for so long is shrunk
    /// out.
    pub lag_max: Duration,
    /// `replica.stall.max.ms`: a member with bytes to take that acks nothing while others do is
    /// shrunk out.
    pub stall_max: Duration,
    /// `seal.answer.wait.ms`: after the first certificate, the wait for more answers.
    pub answer_wait: Duration,
    /// `seal.copy.wait.ms`: copying before a smaller end is taken.
    pub copy_wait: Duration,
    /// `seal.freeze.max.ms`: frozen so long, appends are refused and the controller is asked.
    pub freeze_max: Duration,
    /// `unclean.recovery.timeout.ms`: how long an absent broker is waited for where
    /// `unclean.leader.election.enable` allows to declare it lost.
    pub unclean_timeout: Duration,
    /// What has no answer is sent again after this.
    pub retry: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_millis(3_000),
            lag_max: Duration::from_millis(30_000),
            stall_max: Duration::from_millis(3_000),
            answer_wait: Duration::from_millis(200),
            copy_wait: Duration::from_millis(2_000),
            freeze_max: Duration::from_millis(1_000),
            unclean_timeout: Duration::from_millis(300_000),
            retry: Duration::from_millis(250),
        }
    }
}
