//! Faults of hosts and of the links between them, drawn from dice.

use std::time::Duration;

use super::{HostId, LinkOptions, SimNet};
use crate::Dice;

/// Something that goes wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Packets from the first to the second are dropped.
    Cut(HostId, HostId),
    /// Packets between the two are dropped.
    Partition(HostId, HostId),
    /// Packets to and from the host are dropped.
    Isolate(HostId),
    /// Packets from the first to the second are held back, and arrive at the end.
    Hold(HostId, HostId),
    /// Packets from the first to the second travel like this.
    Slow(HostId, HostId, LinkOptions),
    /// The host's clock runs so many parts per million faster; at the end it runs right.
    Drift(HostId, i32),
    /// The host's wall clock is set by so many milliseconds; at the end it is set back.
    Jump(HostId, i64),
    /// The host's disk does nothing until the end.
    Stall(HostId),
    /// The host's process is stopped, and resumed at the end.
    Pause(HostId),
    /// The host's process is stopped cleanly, and started again at the end.
    Restart(HostId),
    /// The host's process is killed, and started again at the end.
    Kill(HostId),
    /// The host loses its power, and gets it back at the end.
    PowerCut(HostId),
}

/// The kinds of [`Fault`], for those who want only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are those of `Fault`")]
pub enum FaultClass {
    Cut,
    Partition,
    Isolate,
    Hold,
    Slow,
    Drift,
    Jump,
    Stall,
    Pause,
    Restart,
    Kill,
    PowerCut,
}

/// What a schedule is drawn from.
#[derive(Debug, Clone)]
pub struct ChaosOptions {
    /// The hosts whose links and clocks faults hit.
    pub hosts: Vec<HostId>,
    /// The hosts whose processes and disks faults hit.
    pub processes: Vec<HostId>,
    /// The kinds, each as often as it is in here: all of these happen before one comes again.
    pub classes: Vec<FaultClass>,
    /// When all faults are over.
    pub ends: Duration,
    /// The longest time from one fault to the next.
    pub pause_max: Duration,
    /// The longest time that one lasts.
    pub lasts_max: Duration,
}

/// The begin or the end of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, since the schedule began.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// Whether it begins.
    pub begins: bool,
}

/// Faults until `options.ends`, in the order of time: each one begins and ends. They overlap, but at
/// any time a host has one at most that concerns its process.
pub fn schedule(dice: &mut Dice, options: &ChaosOptions) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut busy: Vec<(HostId, Duration)> = Vec::new();
    let mut now = Duration::ZERO;
    if options.hosts.is_empty() || options.processes.is_empty() || options.classes.is_empty() {
        return steps;
    }
    let mut deck: Vec<FaultClass> = Vec::new();
    loop {
        now += up_to(dice, options.pause_max);
        let until = now + up_to(dice, options.lasts_max);
        if until > options.ends {
            break;
        }
        if deck.is_empty() {
            deck.clone_from(&options.classes);
        }
        let class = deck.swap_remove(dice.index(deck.len()));
        let fault = draw(dice, class, options);
        busy.retain(|(_, until)| *until >= now);
        if let Some(host) = fault.process() {
            if busy.iter().any(|(other, _)| *other == host) {
                deck.push(class);
                continue;
            }
            busy.push((host, until));
        }
        for (at, begins) in [(now, true), (until, false)] {
            steps.push(Step { at, fault, begins });
        }
    }
    // Stable: a fault that ends at once still begins first.
    steps.sort_by_key(|step| step.at);
    steps
}

fn draw(dice: &mut Dice, class: FaultClass, options: &ChaosOptions) -> Fault {
    let mut of = |hosts: &[HostId]| hosts[dice.index(hosts.len())];
    let (one, other) = (of(&options.hosts), of(&options.hosts));
    let process = of(&options.processes);
    match class {
        FaultClass::Cut => Fault::Cut(one, other),
        FaultClass::Partition => Fault::Partition(one, other),
        FaultClass::Isolate => Fault::Isolate(one),
        FaultClass::Hold => Fault::Hold(one, other),
        FaultClass::Slow => {
            let options = LinkOptions {
                delay: up_to(dice, Duration::from_millis(100)),
                jitter: up_to(dice, Duration::from_millis(200)),
                loss_per_10_000: u16::try_from(dice.below(3000)).unwrap_or(0),
            };
            Fault::Slow(one, other, options)
        }
        FaultClass::Drift => Fault::Drift(one, signed(dice, 20_000) as i32),
        FaultClass::Jump => Fault::Jump(one, signed(dice, 3_600_000)),
        FaultClass::Stall => Fault::Stall(process),
        FaultClass::Pause => Fault::Pause(process),
        FaultClass::Restart => Fault::Restart(process),
        FaultClass::Kill => Fault::Kill(process),
        FaultClass::PowerCut => Fault::PowerCut(process),
    }
}

/// More than nothing and no more than `max`, in whole microseconds.
fn up_to(dice: &mut Dice, max: Duration) -> Duration {
    let max = u64::try_from(max.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(1 + dice.below(max))
}

fn signed(dice: &mut Dice, max: i64) -> i64 {
    let range = 2 * max.unsigned_abs() + 1;
    i64::try_from(dice.below(range)).unwrap_or(0) - max
}

// === impl Fault ===

impl Fault {
    /// The host whose process it concerns; `None` if it goes on.
    pub fn process(&self) -> Option<HostId> {
        match self {
            Self::Pause(host) | Self::Restart(host) | Self::Kill(host) | Self::PowerCut(host) => {
                Some(*host)
            }
            _ => None,
        }
    }
}

// === impl SimNet ===

impl SimNet {
    /// Begins or ends a fault of the network; false if it is none.
    pub fn apply(&self, fault: Fault, begins: bool) -> bool {
        match (fault, begins) {
            (Fault::Cut(from, to), true) => self.cut(from, to),
            (Fault::Cut(from, to), false) => self.heal(from, to),
            (Fault::Partition(one, other), _) => {
                self.apply(Fault::Cut(one, other), begins);
                self.apply(Fault::Cut(other, one), begins);
            }
            (Fault::Isolate(host), true) => self.isolate(host),
            (Fault::Isolate(host), false) => self.rejoin(host),
            (Fault::Hold(from, to), true) => self.hold(from, to),
            (Fault::Hold(from, to), false) => self.release(from, to),
            (Fault::Slow(from, to, options), true) => self.set_link(from, to, Some(options)),
            (Fault::Slow(from, to, _), false) => self.set_link(from, to, None),
            _ => return false,
        }
        true
    }
}
