//! How packets travel between hosts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{HostId, state::Event};
use crate::Dice;

/// How packets of one direction travel. By default they take no time and none is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkOptions {
    /// What each packet takes at least.
    pub delay: Duration,
    /// What it takes more, at most; drawn for each packet.
    pub jitter: Duration,
    /// How many of ten thousand packets are lost. A stream sends what is lost again.
    pub loss_per_10_000: u16,
}

/// What becomes of a packet that has travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Open,
    Lost,
    Held,
}

#[derive(Debug, Default)]
struct Link {
    options: Option<LinkOptions>,
    /// Cuts and holds may overlap.
    cuts: u32,
    holds: u32,
    held: VecDeque<Event>,
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    default: LinkOptions,
    links: BTreeMap<(HostId, HostId), Link>,
    isolated: BTreeMap<HostId, u32>,
}

// === impl Links ===

impl Links {
    pub(super) fn set_default(&mut self, options: LinkOptions) {
        self.default = options;
    }

    pub(super) fn set(&mut self, from: HostId, to: HostId, options: Option<LinkOptions>) {
        self.link(from, to).options = options;
    }

    pub(super) fn cut(&mut self, from: HostId, to: HostId) {
        self.link(from, to).cuts += 1;
    }

    pub(super) fn heal(&mut self, from: HostId, to: HostId) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub(super) fn isolate(&mut self, host: HostId) {
        *self.isolated.entry(host).or_default() += 1;
    }

    pub(super) fn rejoin(&mut self, host: HostId) {
        let times = self.isolated.entry(host).or_default();
        *times = times.saturating_sub(1);
    }

    pub(super) fn hold(&mut self, from: HostId, to: HostId) {
        self.link(from, to).holds += 1;
    }

    /// What goes on now, if nobody else holds it.
    pub(super) fn release(&mut self, from: HostId, to: HostId) -> VecDeque<Event> {
        let link = self.link(from, to);
        link.holds = link.holds.saturating_sub(1);
        if link.holds > 0 {
            return VecDeque::new();
        }
        std::mem::take(&mut link.held)
    }

    /// Ends all faults; what was held goes on.
    pub(super) fn heal_all(&mut self) -> VecDeque<Event> {
        self.isolated.clear();
        std::mem::take(&mut self.links)
            .into_values()
            .flat_map(|link| link.held)
            .collect()
    }

    /// Puts away what a held link has.
    pub(super) fn keep(&mut self, from: HostId, to: HostId, event: Event) {
        self.link(from, to).held.push_back(event);
    }

    /// What becomes of a packet that arrives now.
    pub(super) fn path(&self, from: HostId, to: HostId, dice: &mut Dice) -> Path {
        if from == to {
            return Path::Open;
        }
        let is_isolated = |host| self.isolated.get(host).is_some_and(|times| *times > 0);
        let link = self.links.get(&(from, to));
        if is_isolated(&from) || is_isolated(&to) || link.is_some_and(|link| link.cuts > 0) {
            Path::Lost
        } else if link.is_some_and(|link| link.holds > 0) {
            Path::Held
        } else if dice.chance(self.options(from, to).loss_per_10_000) {
            Path::Lost
        } else {
            Path::Open
        }
    }

    /// How long a packet takes that is sent now.
    pub(super) fn delay(&self, from: HostId, to: HostId, dice: &mut Dice) -> Duration {
        if from == to {
            return Duration::ZERO;
        }
        let options = self.options(from, to);
        let jitter = u64::try_from(options.jitter.as_nanos()).unwrap_or(u64::MAX);
        if jitter == 0 {
            return options.delay;
        }
        options.delay + Duration::from_nanos(dice.below(jitter))
    }

    fn options(&self, from: HostId, to: HostId) -> LinkOptions {
        let link = self.links.get(&(from, to));
        link.and_then(|link| link.options).unwrap_or(self.default)
    }

    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }
}
