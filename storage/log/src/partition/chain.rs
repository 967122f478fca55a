//! Changes of the chain of segments, as metadata has decided them: seal, drop, log start.
//!
//! File work is done on the blocking pool while the shard holds the partition's appends back; the
//! shard itself never waits for it.

use std::{io, path::Path, sync::Arc};

use mainstem_env::Fs;
use mainstem_record::{Offset, SegmentId};

use super::{Inner, Tools};
use crate::{
    active::{Active, Frozen},
    dedupe::Dedupe,
    digest::digest_of_chunks,
    error::PartitionError,
    files::delete_file,
    inbox::{Control, Install},
    paths,
    points::put_base_point,
    pool::ShardPool,
    recovery::create_active,
    segment::Segment,
    shared::{Shared, Status},
    spec::{SealInfo, SegmentSpec},
};

// === seal ===

pub(super) async fn seal_begin(inner: &Inner) -> Result<SealInfo, PartitionError> {
    let mut admin = inner.admin.lock().await;
    let mut frozen = inner.inbox.ask(&inner.shared, Control::Freeze).await??;
    if frozen.digest.chunks().is_none() {
        frozen = blocking((&inner.tools, &inner.shared.dir), move || {
            frozen.digest.complete(&*frozen.file)?;
            Ok(frozen)
        })
        .await?;
    }
    let chunks = frozen.digest.chunks().expect("complete, as just ensured");
    let info = SealInfo {
        segment: frozen.segment.id,
        end: frozen.end,
        bytes: frozen.bytes,
        max_timestamp: frozen.segment.state.read().max_timestamp,
        digest: digest_of_chunks(&chunks),
    };
    *admin = Some(frozen);
    Ok(info)
}

/// The last segment as it is sealed, if it is not yet, and the one that follows it.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// `None`: it ends where this log ends, and is here whole.
    pub(super) sealed: Option<SegmentSpec>,
    pub(super) next: SegmentSpec,
}

pub(super) async fn seal_commit(inner: &Inner, step: Step) -> Result<(), PartitionError> {
    let mut admin = inner.admin.lock().await;
    let shared = &inner.shared;
    match shared.status() {
        Status::Open => {}
        Status::Failed => return Err(PartitionError::Failed),
        Status::Removed => return Err(PartitionError::Removed),
    }
    let last = shared.chain.read().last().cloned();
    let active = last.filter(|last| last.end().is_none());
    // What an earlier call sealed, before it was dropped, is not frozen any more.
    let frozen = admin.as_ref().map(|frozen| frozen.segment.id);
    let written = active.as_ref().filter(|active| active.held);
    if written.map(|active| active.id) != frozen {
        *admin = None;
        return Err(PartitionError::NotFrozen);
    }
    let (end, held) = check_step(&step, active.as_deref(), shared.ends().log_end)?;
    // The frozen segment stays with the caller until the next one is there.
    let job = SealJob {
        shared: shared.clone(),
        tools: inner.tools.clone(),
        pool: inner.tools.pool.for_shard(inner.inbox.health().clone()),
        frozen: admin.clone().filter(|_| held),
        begins_again: step.sealed.is_some_and(|sealed| sealed.id == step.next.id),
        next: step.next,
    };
    let made = blocking((&inner.tools, &inner.shared.dir), move || job.run()).await?;
    let install = Box::new(Install { end, held, ..made });
    // The shard changes the chain and the writer together: dropping this call between the two
    // must not leave one without the other.
    inner
        .inbox
        .ask(shared, |reply| Control::Install(install, reply))
        .await??;
    if let Some(frozen) = admin.take().filter(|frozen| frozen.segment.base == end) {
        remove_empty(inner, frozen.segment).await;
    }
    Ok(())
}

/// Holds the last segment, which was not to be had here, from its base on.
pub(super) async fn hold(inner: &Inner, id: SegmentId) -> Result<(), PartitionError> {
    let last = inner.shared.chain.read().last().cloned();
    let last = last.filter(|last| last.id == id && last.end().is_none());
    let Some(last) = last else {
        let end = inner.shared.ends().log_end;
        return Err(PartitionError::NotNext { end });
    };
    if last.held {
        return Ok(());
    }
    // It ends empty, without a trace, and begins again.
    let mut sealed = last.spec();
    sealed.end = Some(sealed.base);
    let mut next = last.spec();
    next.held = true;
    let sealed = Some(sealed);
    seal_commit(inner, Step { sealed, next }).await
}

/// Where the last segment ends and whether all of it is here, if the step can be made.
fn check_step(
    step: &Step,
    active: Option<&Segment>,
    log_end: Offset,
) -> Result<(Offset, bool), PartitionError> {
    let next = &step.next;
    let refused = PartitionError::NotNext { end: log_end };
    let (end, held) = match (&step.sealed, active) {
        (None, _) => (log_end, true),
        // It was sealed before.
        (Some(sealed), None) => (sealed.end.unwrap_or(next.base), true),
        (Some(sealed), Some(active)) => {
            let end = sealed.end.ok_or(refused)?;
            let whole = sealed.held && active.held;
            // Who has more must be cut first.
            let fits = if whole {
                end == log_end
            } else {
                end >= log_end
            };
            if sealed.id != active.id || !fits {
                return Err(refused);
            }
            (end, whole)
        }
    };
    // An unclean recovery leaves a hole, and metadata tells of it.
    let follows = match step.sealed {
        None => next.base == end,
        Some(_) => next.base >= end,
    };
    if !follows || next.end.is_some() {
        return Err(refused);
    }
    Ok((end, held))
}

/// An empty file is nobody's loss; one that stays is removed when the log start passes it.
async fn remove_empty(inner: &Inner, segment: Arc<Segment>) {
    let files = inner.tools.files.clone();
    let _ = blocking((&inner.tools, &inner.shared.dir), move || {
        files.delete(&segment)
    })
    .await;
}

struct SealJob {
    shared: Arc<Shared>,
    tools: Tools,
    pool: ShardPool,
    frozen: Option<Frozen>,
    /// The next segment is the last one, which was not held.
    begins_again: bool,
    next: SegmentSpec,
}

// === impl SealJob ===

impl SealJob {
    /// Writes the index file, and makes the next segment with what is remembered at its base. May
    /// be repeated after an error.
    fn run(self) -> io::Result<Install> {
        let fs = &*self.tools.env.fs;
        if let Some(frozen) = &self.frozen
            && frozen.bytes > 0
        {
            self.write_index(fs, frozen)?;
        }
        // Nothing is appended meanwhile.
        let memory = Arc::new(self.shared.dedupe.lock().clone());
        let active = if self.next.held {
            Some(self.make_next(fs, &memory)?)
        } else {
            None
        };
        let next = match &active {
            Some(active) => active.segment.clone(),
            None => Arc::new(Segment::not_held(&self.shared.dir, &self.next)),
        };
        Ok(Install {
            end: self.next.base,
            held: true,
            next,
            active,
            memory,
        })
    }

    fn make_next(&self, fs: &dyn Fs, memory: &Dedupe) -> io::Result<Active> {
        let interval = self.tools.options.index_interval_bytes;
        let wall_ms = self.tools.env.wall_ms();
        let dir = &self.shared.dir;
        if self.begins_again {
            // What an earlier life has left of it counts for nobody.
            delete_file(fs, &paths::segment(dir, self.next.base, self.next.id))?;
        }
        put_base_point(fs, dir, &self.next, (interval, wall_ms), memory)?;
        // Syncs the directory.
        create_active((fs, &self.pool), dir, &self.next, interval, wall_ms)
    }

    fn write_index(&self, fs: &dyn Fs, frozen: &Frozen) -> io::Result<()> {
        let dedupe = self.shared.dedupe.lock();
        let bytes = frozen
            .index_file(&dedupe)
            .ok_or(io::ErrorKind::InvalidInput)?;
        drop(dedupe);
        fs.write_atomic(&frozen.segment.path.with_extension(paths::INDEX), &bytes)?;
        delete_file(fs, &frozen.segment.path.with_extension(paths::SNAPSHOT))
    }
}

// === log start ===

pub(super) async fn drop_segments(
    inner: &Inner,
    segments: &[SegmentId],
    log_start: Offset,
) -> Result<(), PartitionError> {
    let _admin = inner.admin.lock().await;
    let shared = &inner.shared;
    let dropped: Vec<Arc<Segment>> = {
        let chain = shared.chain.read();
        let named = chain.iter().filter(|s| segments.contains(&s.id));
        named.cloned().collect()
    };
    for segment in &dropped {
        if segment.end().is_none_or(|end| end > log_start) {
            return Err(PartitionError::CannotDrop(segment.id));
        }
    }
    // First the start, so that no reader finds a hole.
    raise_log_start(shared, log_start)?;
    shared
        .chain
        .write()
        .retain(|segment| !segments.contains(&segment.id));
    delete_files(inner, dropped).await
}

/// Removes the files of segments that are not in the chain any more: at once, or by and by, if they
/// are to stay for those who read them.
pub(super) async fn delete_files(
    inner: &Inner,
    gone: Vec<Arc<Segment>>,
) -> Result<(), PartitionError> {
    if gone.is_empty() {
        return Ok(());
    }
    let (tools, dir) = (inner.tools.clone(), inner.shared.dir.clone());
    let delay = inner.shared.delete_delay();
    let delete = move || {
        for segment in &gone {
            tools.files.delete(segment)?;
        }
        tools.files.fs.sync_dir(&dir)
    };
    if delay.is_zero() {
        return blocking((&inner.tools, &inner.shared.dir), delete).await;
    }
    let (tools, partition) = (inner.tools.clone(), inner.shared.dir.clone());
    inner.tools.env.spawn("log-delete", async move {
        tools.env.sleep(delay).await;
        // Logged; what stays goes when the partition is opened.
        let _ = blocking((&tools, &partition), delete).await;
    });
    Ok(())
}

pub(super) fn raise_log_start(shared: &Shared, log_start: Offset) -> Result<(), PartitionError> {
    {
        let mut state = shared.state.write();
        let ends = &mut state.ends;
        if log_start > ends.committed_end {
            return Err(PartitionError::AboveCommitted {
                offset: log_start,
                committed_end: ends.committed_end,
            });
        }
        if log_start <= ends.log_start {
            return Ok(());
        }
        ends.log_start = log_start;
    }
    shared.wake();
    Ok(())
}

/// Runs file work of the partition in `dir`, which a failure names.
pub(super) async fn blocking<T: Send + 'static>(
    (tools, dir): (&Tools, &Path),
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PartitionError> {
    match tools.env.blocking("log-chain", work).await {
        Some(result) => result.map_err(|error| {
            tracing::error!(%error, dir = %dir.display(), "a change of the chain failed");
            PartitionError::Io(error.kind())
        }),
        None => Err(PartitionError::Closed),
    }
}
