//! The data directory: held by one process, with an identity that is checked at every start.

use std::path::Path;

use mainstem_config::Config;
use mainstem_env::{DirLock, Env};
use mainstem_metadata::Identity;

/// A data directory that is this process's alone until it is dropped.
pub(crate) struct DataDir {
    pub(crate) identity: Identity,
    _lock: Box<dyn DirLock>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("data directory {dir}: {source}; give another with --data-dir")]
    Unusable { dir: String, source: std::io::Error },
    #[error("data directory {dir} is in use by another mainstem process (lock file {dir}/lock)")]
    InUse { dir: String },
    #[error(transparent)]
    Identity(#[from] mainstem_metadata::MetadataError),
}

pub(crate) async fn open(env: &Env, config: &Config) -> Result<DataDir, DataDirError> {
    let dir = &config.data_dir;
    let unusable = |source| DataDirError::Unusable {
        dir: dir.display().to_string(),
        source,
    };
    env.fs.create_dir_all(dir).map_err(unusable)?;
    let lock = lock(env, dir)?;
    // Validated to be at least 0.
    let node_id = u64::try_from(config.node_id).unwrap_or(0);
    let identity = Identity::load_or_create(env, dir, node_id).await?;
    Ok(DataDir {
        identity,
        _lock: lock,
    })
}

fn lock(env: &Env, dir: &Path) -> Result<Box<dyn DirLock>, DataDirError> {
    env.fs.lock(&dir.join("lock")).map_err(|source| {
        let dir = dir.display().to_string();
        if source.kind() == std::io::ErrorKind::WouldBlock {
            DataDirError::InUse { dir }
        } else {
            DataDirError::Unusable { dir, source }
        }
    })
}
