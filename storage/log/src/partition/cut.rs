//! Cutting the active segment to an end that was decided elsewhere (R33).
//!
//! A crash in between must leave either what was there or what is to be there, and after the cut
//! nothing may bring back what was cut: not the journal, whose records still hold it, and no start
//! may take its absence for damage. So, in this order, each step durable before the next:
//!
//! ```text
//! freeze               all of the segment is synced in its own file: the journal has nothing new
//! look                 index, digest and memories up to the cut; a cut that cannot be is refused
//! checkpoint           the synced point is lowered: a shorter file is no damage
//! note in the journal  what older records hold above the cut does not count any more
//! file                 is cut and synced
//! ```
//! Recovery points never reach above the committed end, so none is in the way.

use std::{io, path::Path, sync::Arc};

use mainstem_record::Offset;

use super::{Inner, Tools, chain::blocking};
use crate::{
    active::Frozen,
    checkpoint::SyncedPoint,
    error::{LogError, PartitionError},
    event::PartitionFailure,
    inbox::{Control, Cut},
    log::expiry_ms,
    planted::{Bug, planted},
    recovery::{Rebuilt, RecoverOptions, rebuild},
    shared::Shared,
    spec::SegmentSpec,
};

pub(super) async fn cut(inner: &Inner, end: Offset) -> Result<(), PartitionError> {
    let mut admin = inner.admin.lock().await;
    let shared = &inner.shared;
    let ends = shared.ends();
    if end == ends.log_end {
        return Ok(());
    }
    if end > ends.log_end || end < ends.committed_end {
        return Err(PartitionError::CannotCut { end });
    }
    // A seal that was begun had another end.
    *admin = None;
    let frozen = inner.inbox.ask(shared, Control::Freeze).await??;
    let rebuilt = match prepare(inner, &frozen, end).await {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            inner.inbox.ask(shared, Control::Thaw).await?;
            return Err(error);
        }
    };
    let cut = Cut {
        segment: frozen.segment.id,
        end,
        position: rebuilt.scan.position,
    };
    let noted = inner.inbox.ask(shared, |reply| Control::Cut(cut, reply));
    if let Err(error) = noted.await? {
        let _ = inner.inbox.ask(shared, Control::Thaw).await;
        return Err(error);
    }
    let (file, path) = (frozen.file.clone(), frozen.segment.path.clone());
    let position = cut.position;
    let done = inner.tools.env.blocking("log-chain", move || {
        file.set_len(position).and_then(|()| file.sync_all())
    });
    let result = match done.await {
        Some(Ok(())) => Ok(Box::new(rebuilt)),
        Some(Err(error)) => Err(PartitionFailure::Truncate {
            path,
            position,
            error: Arc::from(error.to_string()),
        }),
        None => return Err(PartitionError::Closed),
    };
    inner
        .inbox
        .ask(shared, |reply| Control::Recut(result, reply))
        .await?
}

/// Finds out what stays, and lowers the synced point to it. Changes nothing else.
async fn prepare(inner: &Inner, frozen: &Frozen, end: Offset) -> Result<Rebuilt, PartitionError> {
    let (shared, tools) = (inner.shared.clone(), inner.tools.clone());
    let options = recover_options(inner);
    let chain: Vec<SegmentSpec> = {
        let chain = shared.chain.read();
        chain.iter().map(|segment| segment.spec()).collect()
    };
    let (file, bytes, segment) = (frozen.file.clone(), frozen.bytes, frozen.segment.id);
    let dir: &Path = &inner.shared.dir;
    blocking((&inner.tools, dir), move || {
        let found = rebuild(&options, &shared.dir, &chain, (&*file, bytes), end);
        let Some(rebuilt) = found.map_err(io_of)? else {
            return Ok(None);
        };
        let point = SyncedPoint {
            segment,
            offset: end,
            position: rebuilt.scan.position,
        };
        lower_checkpoint(&tools, &shared, point)?;
        Ok(Some(rebuilt))
    })
    .await?
    .ok_or(PartitionError::CannotCut { end })
}

/// What recovery is to know to look at files of an open partition.
pub(super) fn recover_options(inner: &Inner) -> RecoverOptions {
    let tools = &inner.tools;
    RecoverOptions {
        fs: tools.env.fs.clone(),
        pool: tools.pool.for_shard(inner.inbox.health().clone()),
        wall_ms: tools.env.wall_ms(),
        index_interval: tools.options.index_interval_bytes,
        expiry_ms: expiry_ms(&tools.options),
        decompressed_bytes_max: tools.options.decompressed_bytes_max,
        clean: false,
        synced: None,
        log_dir: tools.options.dir.clone(),
        progress: Arc::default(),
        dirs: Arc::default(),
    }
}

fn lower_checkpoint(tools: &Tools, shared: &Shared, point: SyncedPoint) -> io::Result<()> {
    if planted(Bug::SyncedPointAboveCut) {
        return Ok(());
    }
    tools.checkpoint.set(shared.id, point);
    tools.checkpoint.write(&*tools.env.fs)
}

pub(super) fn io_of(error: LogError) -> io::Error {
    match error {
        LogError::Io { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
