//! One partition that is open here.

use std::{
    collections::BTreeSet,
    sync::Arc,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use mainstem_log::{Partition, PartitionSettings, Role, SealInfo, Subscription};
use mainstem_metadata::{NextSegment, PartitionRecord};
use mainstem_record::{LeaderEpoch, PartitionId, SegmentId};
use parking_lot::Mutex;

use super::Host;
use crate::machine::{Ends, leader::LeaderEffect, replica::Replica};

/// A partition: its log, and what this node does in its open segment.
pub(crate) struct Hosted {
    id: PartitionId,
    log: Partition,
    /// One change of the chain or the role at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<State>,
    /// The epoch that it is led with here; [`LeaderEpoch::NONE`] if it is not.
    led: AtomicI32,
}

/// What changes with images and roles.
pub(super) struct State {
    /// What the log has been brought in line with.
    pub(super) record: Option<Arc<PartitionRecord>>,
    /// The open segment, if this node is to hold it.
    pub(super) replica: Option<Replica>,
    /// The active segment of the log is that of the machine: its ends are the log's.
    pub(super) attached: bool,
    /// The role that the log has been given.
    pub(super) role: Role,
    /// How the log writes.
    pub(super) settings: PartitionSettings,
    /// The active segment is frozen for a planned seal.
    pub(super) frozen: Option<Planned>,
    /// The segment in which appends are refused since a planned seal takes too long (R30).
    pub(super) gave_up: Option<SegmentId>,
    /// The fenced segment whose log takes nothing since its digest was told.
    pub(super) stands_still: Option<SegmentId>,
    /// Sealed segments that this life has synced; until metadata knows of it.
    pub(super) synced: BTreeSet<SegmentId>,
    /// While its ends are watched.
    watched: Option<Subscription>,
}

/// A planned seal: how the segment ends, and what is to follow it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) info: SealInfo,
    pub(super) next: NextSegment,
}

// === impl State ===

impl State {
    /// Whether the ends of the log are watched.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.is_some()
    }
}

// === impl Hosted ===

impl Hosted {
    /// A log that was opened in that role.
    pub(super) fn new(log: Partition, role: Role, settings: PartitionSettings) -> Self {
        Self {
            id: log.id(),
            log,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                record: None,
                replica: None,
                attached: false,
                role,
                settings,
                frozen: None,
                gave_up: None,
                stands_still: None,
                synced: BTreeSet::new(),
                watched: None,
            }),
            led: AtomicI32::new(LeaderEpoch::NONE.0),
        }
    }

    /// Which one.
    pub(crate) fn id(&self) -> PartitionId {
        self.id
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Partition {
        &self.log
    }

    /// The open segment, if this node is to hold it.
    pub(crate) fn open_segment(&self) -> Option<SegmentId> {
        let state = self.state.lock();
        Some(state.replica.as_ref()?.segment().id)
    }

    /// The epoch that it is led with here.
    pub(crate) fn led_epoch(&self) -> Option<LeaderEpoch> {
        let epoch = LeaderEpoch(self.led.load(Ordering::Acquire));
        (epoch != LeaderEpoch::NONE).then_some(epoch)
    }

    pub(super) fn set_led(&self, epoch: Option<LeaderEpoch>) {
        let epoch = epoch.unwrap_or(LeaderEpoch::NONE);
        self.led.store(epoch.0, Ordering::Release);
    }

    /// The ends of its log, as machines count. Read under the lock of the state, or an older value
    /// could come after a newer one.
    pub(super) fn ends(&self) -> Ends {
        let ends = self.log.ends();
        Ends {
            log_end: ends.log_end,
            synced_end: ends.synced_end,
        }
    }

    /// What the log does from here on is no business of the machine.
    pub(super) fn detach(&self) {
        self.state.lock().attached = false;
    }

    /// Has the host told when an end moves, or not any more: only a leader of several has to know.
    pub(super) fn watch_ends(&self, watch: bool, host: &Host) {
        let mut state = self.state.lock();
        if watch == state.watched.is_some() {
            return;
        }
        let subscription = watch.then(|| self.log.subscribe_moved(&host.inner.moved));
        let before = std::mem::replace(&mut state.watched, subscription);
        drop(state);
        drop(before);
        host.set_ticking(self.id, watch);
        if watch {
            host.inner.moved.add(self.id);
        }
    }

    /// Feeds the machine of segment `segment`; `None` if that is not the open one, or not held here.
    /// The ends of the log are told first.
    pub(super) fn feed<T>(
        &self,
        host: &Host,
        segment: SegmentId,
        input: impl FnOnce(&mut Replica, Duration) -> (T, Vec<LeaderEffect>),
    ) -> Option<T> {
        let now = host.inner.env.now();
        let (output, effects) = {
            let mut state = self.state.lock();
            let attached = state.attached;
            let replica = state.replica.as_mut();
            let replica = replica.filter(|replica| replica.segment().id == segment)?;
            // The end of a sealed segment is decided; what the log goes on with is another one.
            let mut effects = match attached {
                true => replica.wrote(self.ends(), now),
                false => Vec::new(),
            };
            let (output, more) = input(replica, now);
            effects.extend(more);
            (output, effects)
        };
        self.carry_out(host, effects);
        Some(output)
    }

    /// Does what a machine asks for. High watermarks only grow, so their order is of no account.
    pub(super) fn carry_out(&self, host: &Host, effects: Vec<LeaderEffect>) {
        for effect in effects {
            host.act(self, effect);
        }
    }
}
