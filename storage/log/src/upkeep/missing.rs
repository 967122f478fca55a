//! The look for files that somebody has removed under the running node: it would go on writing to
//! and reading from what is open, and only the next start would tell.

use std::sync::Arc;

use crate::{
    damage::DamageKind, event::LogEvent, log::Log, partition::Partition, segment::Segment,
};

impl Log {
    /// Looks whether the files of all segments are there, and returns how many are newly found to be
    /// gone: each is logged, counted and told as [`LogEvent::SegmentDamaged`].
    pub(super) async fn look_for_files(&self) -> usize {
        let mut partitions = self.partitions();
        partitions.sort_unstable_by_key(Partition::id);
        let mut found = 0;
        for partition in partitions {
            let segments = partition.shared().chain.read().clone();
            let fs = self.tools().env.fs.clone();
            let look = move || {
                let is_gone = |segment: &Arc<Segment>| {
                    segment.held && fs.exists(&segment.path).is_ok_and(|is_there| !is_there)
                };
                segments.into_iter().filter(is_gone).collect::<Vec<_>>()
            };
            let env = &self.tools().env;
            let Some(gone) = env.blocking("log-scrub", look).await else {
                return found;
            };
            for segment in gone {
                found += usize::from(self.note_missing(&partition, &segment));
            }
        }
        found
    }

    /// Tells of a segment without its file, unless that is known or as it should be.
    fn note_missing(&self, partition: &Partition, segment: &Arc<Segment>) -> bool {
        let (id, tools) = (partition.id(), self.tools());
        // Dropped, replaced or removed with its partition while it was looked for.
        if segment.is_dropped() || !partition.shared().has_segment(segment.id) {
            return false;
        }
        if !tools.damages.note(id, segment, DamageKind::Missing) {
            return false;
        }
        let end = segment.end().unwrap_or(partition.ends().log_end);
        tracing::error!(
            path = %segment.path.display(), base = segment.base.0, end = end.0,
            "the file of a segment is gone"
        );
        self.tell(LogEvent::SegmentDamaged {
            partition: id,
            segment: segment.id,
            path: segment.path.clone(),
            position: 0,
            offsets: (segment.base, end),
        });
        true
    }
}
