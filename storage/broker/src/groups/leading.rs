//! The coordinator follows the leadership of the group log: it loads the groups of a partition that
//! this node begins to lead, and lets go of them when it stops.
//!
//! Level-triggered: what counts is what the newest image says, however many changes were missed.

use std::{sync::Arc, time::Duration};

use super::{coordinator::Coordinator, replay::Replayed, terms::Term};
use crate::{ErrorCode, internal::NotReplayed};

/// How many partitions are loaded at once.
pub(super) const LOADS_AT_ONCE: usize = 8;

/// The pause before a partition that could not be read yet is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Starts the task.
pub(crate) fn start(coordinator: &Arc<Coordinator>) {
    let task = coordinator.clone();
    let mut changes = coordinator.world.led_changes();
    let run = async move {
        loop {
            changes.borrow_and_update();
            task.follow_leadership();
            tokio::select! {
                biased;
                () = task.world.stop().cancelled() => return,
                () = task.terms.ended.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    };
    coordinator.world.spawn("group leadership", Box::pin(run));
}

// === impl Coordinator ===

impl Coordinator {
    /// Ends the terms that are over, and begins those that are to begin.
    fn follow_leadership(self: &Arc<Self>) {
        let world = &self.world;
        let ended = self
            .terms
            .end(|term| world.leads_since(term.index, term.since));
        for term in &ended {
            self.unload(term);
        }
        for (index, epoch) in world.led() {
            if let Some(term) = self.terms.begin(index, epoch) {
                let before = ended.iter().find(|before| before.index == index).cloned();
                let load = self.clone().load(term, before);
                world.spawn("load groups", Box::pin(load));
            }
        }
    }

    /// Loads what this node leads now, and waits for it.
    pub(crate) async fn load_all(self: &Arc<Self>) {
        for (index, epoch) in self.world.led() {
            if let Some(term) = self.terms.begin(index, epoch) {
                self.clone().load(term, None).await;
            }
        }
    }

    /// Lets go of the groups of a term that is over. Whoever waits looks for the coordinator again.
    fn unload(self: &Arc<Self>, term: &Arc<Term>) {
        let mut count = 0usize;
        for group in self.all() {
            if Arc::ptr_eq(&group.term, term) {
                self.forget(&group);
                self.act(&group, |inside, _| {
                    inside.machine.abandon(ErrorCode::NotCoordinator);
                });
                count += 1;
            }
        }
        tracing::info!(
            partition = term.index.0,
            groups = count,
            "consumer groups let go"
        );
    }

    /// Reads the groups of a partition back. `before` is a term of the same leadership: what it has
    /// appended must be read too.
    async fn load(self: Arc<Self>, term: Arc<Term>, before: Option<Arc<Term>>) {
        let Ok(_turn) = self.loads.acquire().await else {
            return;
        };
        if let Some(before) = before {
            drop(before.placing.write().await);
        }
        while !term.is_over() && !self.world.stop().is_cancelled() {
            match self.world.replay(term.index).await {
                Ok(replayed) => {
                    self.take_over(&term, replayed);
                    return;
                }
                Err(NotReplayed::NotYet(code)) => {
                    let (partition, reason) = (term.index.0, code.name());
                    tracing::debug!(partition, reason, "consumer groups not loaded yet");
                    self.world.env().sleep(RETRY_PAUSE).await;
                }
                Err(NotReplayed::Broken(error)) => {
                    tracing::error!(%error, "the coordinator of a partition does not serve");
                    self.terms.broken(&term);
                    return;
                }
            }
        }
    }

    /// Serves what replay found.
    pub(crate) fn take_over(self: &Arc<Self>, term: &Arc<Term>, replayed: Replayed) {
        let count = replayed.groups.len();
        for (name, kept) in replayed.groups {
            self.restore(term, &name, kept);
        }
        self.terms.loaded(term);
        if term.is_over() {
            // Whoever ended it may have looked before the groups were there.
            self.unload(term);
        } else if count > 0 {
            tracing::info!(
                partition = term.index.0,
                groups = count,
                "consumer groups loaded"
            );
        }
    }
}
