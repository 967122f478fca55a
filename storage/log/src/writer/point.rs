//! What a recovery point needs of a partition. See [`crate::points`].

use mainstem_record::Offset;

use super::Writer;
use crate::{
    planted::{Bug, planted},
    points::Draft,
    shard::Core,
    shared::Status,
    spec::{Commit, Role},
};

// === impl Writer ===

impl Writer {
    /// Begins a recovery point. Nothing is staged.
    pub(crate) fn begin_point(&mut self, core: &mut Core) {
        let draft = match self.shared.status() {
            Status::Open if self.put_off_point(core) => return,
            Status::Open => self.draft(),
            Status::Failed | Status::Removed => None,
        };
        let Some(draft) = draft else {
            core.points.track(self.slot, 0);
            return;
        };
        core.points.begin(self.slot, draft);
        if self.is_dirty() {
            self.want_sync(core);
        } else {
            self.tell_points(core);
        }
    }

    fn put_off_point(&self, core: &mut Core) -> bool {
        let copied = self.shared.dedupe.lock().size_bytes();
        core.points.put_off(self.slot, copied as u64)
    }

    /// Tells how far the active segment is synced.
    pub(crate) fn tell_points(&self, core: &mut Core) {
        if let Some(active) = &self.active {
            let interval = core.options.index_interval_bytes;
            let (segment, position) = (active.segment.id, active.synced_position);
            let kept = self.kept_end();
            core.points
                .synced(&core.env, segment, (position, kept), interval);
        }
    }

    /// What a recovery point at the current end holds, unless nothing changed since the last one.
    pub(crate) fn unsaved_draft(&self, core: &Core) -> Option<Draft> {
        if core.points.unsaved(self.slot) == 0 {
            return None;
        }
        self.draft().filter(|draft| draft.end <= self.kept_end())
    }

    /// Below this offset nothing will be cut.
    fn kept_end(&self) -> Offset {
        match self.role {
            Role::Leader(Commit::Own) => Offset(i64::MAX),
            _ if planted(Bug::PointAboveCommitted) => Offset(i64::MAX),
            Role::Leader(Commit::External) | Role::Follower | Role::Fenced => {
                self.shared.ends().committed_end
            }
        }
    }

    fn draft(&self) -> Option<Draft> {
        let active = self.active.as_ref()?;
        let (entries, time_range) = {
            let state = active.segment.state.read();
            let (_, index) = state.open.as_ref()?;
            (index.entries().len(), index.time_range())
        };
        Some(Draft {
            segment: active.segment.clone(),
            file: active.file.clone(),
            end: active.next,
            bytes: active.position,
            entries,
            time_range,
            digest: active.digest.clone(),
            dedupe: self.shared.dedupe.lock().clone(),
        })
    }
}
