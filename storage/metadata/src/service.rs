//! The metadata service of one node.

use std::{path::PathBuf, sync::Arc};

use mainstem_env::Env;
use tokio::sync::watch;

use crate::{
    command::{Applied, Command},
    error::{MetadataError, ProposeError},
    identity::{Identity, random_cluster_id},
    image::Image,
    log::MetadataLog,
    raft::{Published, RaftLog, check},
    store::{MemoryDisk, MemoryStore, Store, on_store},
};

/// The metadata store's directory in the data directory.
pub const STORE_DIR: &str = "metadata";

/// How the metadata service is started.
#[derive(Clone, Debug)]
pub struct MetadataOptions {
    /// The node's data directory (`data.dir`), made if it is not there. The identity file lies in it
    /// and the store in its subdirectory [`STORE_DIR`]. Used by [`StoreKind::RocksDb`] only.
    pub dir: PathBuf,
    /// This node.
    pub node_id: u64,
    /// Where the Raft log is kept.
    pub store: StoreKind,
}

/// Where the Raft log is kept.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// RocksDB in the data directory; needs the cargo feature `rocksdb`.
    RocksDb,
    /// Memory: gone when closed, touches no file.
    Memory,
    /// Memory that outlives the service: for simulations that restart a node.
    Kept(MemoryDisk),
}

/// How the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataHealth {
    /// Whether this node leads the metadata quorum.
    pub leader: bool,
    /// Raft log index of the last applied entry; 0 if none.
    pub applied: u64,
    /// Raft log index of the last entry known to be committed; at least `applied`.
    pub committed: u64,
    /// The Raft term.
    pub term: u64,
    /// Whether the log has failed for good, so that only a restart helps.
    pub failed: bool,
}

/// The metadata service of one node. Cheap to clone.
#[derive(Clone)]
pub struct Metadata {
    log: Arc<dyn MetadataLog>,
    published: Arc<Published>,
}

// === impl Metadata ===

impl Metadata {
    /// Opens or makes the store, and joins the quorum (of one) or makes it. Returns once this node
    /// leads, every committed entry is applied and the cluster has its id.
    ///
    /// # Errors
    /// The data directory is not this node's, damaged or incomplete: the error names the path, and
    /// nothing is deleted. Or the disk fails, or the runtime stops.
    pub async fn start(env: Env, options: MetadataOptions) -> Result<Self, MetadataError> {
        let store = match options.store {
            StoreKind::Memory => MemoryStore::default(),
            StoreKind::Kept(disk) => MemoryStore::new(disk),
            StoreKind::RocksDb => return Self::on_disk(env, options).await,
        };
        let cluster_id = random_cluster_id(&env);
        let (metadata, _) = Self::on(env, options.node_id, Arc::new(store), cluster_id).await?;
        Ok(metadata)
    }

    async fn on_disk(env: Env, options: MetadataOptions) -> Result<Self, MetadataError> {
        let MetadataOptions { dir, node_id, .. } = options;
        let identity = Identity::load_or_create(&env, &dir, node_id).await?;
        let path = dir.join(STORE_DIR);
        let store = open_store(&env, &path, !identity.store_made).await?;
        let damaged = |damage| MetadataError::StoreDamaged {
            path: path.clone(),
            damage,
        };
        let is_blank = on_store(&env, &store, check).await.map_err(damaged)?;
        if is_blank && identity.store_made {
            return Err(MetadataError::StoreLost { path });
        }
        let wanted = identity.cluster_id.clone();
        let (metadata, standing) = Self::on(env.clone(), node_id, store, wanted.clone()).await?;
        let settled = if standing != wanted {
            let (found, expected) = (standing, wanted);
            Err(MetadataError::StoreOfOtherCluster {
                path,
                found,
                expected,
            })
        } else if identity.store_made {
            Ok(())
        } else {
            identity.set_store_made(&env, &dir).await
        };
        if let Err(error) = settled {
            // The error matters more than how the stop goes.
            let _ = metadata.close().await;
            return Err(error);
        }
        Ok(metadata)
    }

    /// The service on a checked store, and the standing cluster id: `cluster_id` if there is none yet.
    async fn on(
        env: Env,
        node_id: u64,
        store: Arc<dyn Store>,
        cluster_id: String,
    ) -> Result<(Self, String), MetadataError> {
        let published = Arc::new(Published::default());
        let log = RaftLog::start(env, node_id, store, Arc::clone(&published)).await?;
        let metadata = Self {
            log: Arc::new(log),
            published,
        };
        match metadata.settle(cluster_id).await {
            Ok(standing) => Ok((metadata, standing)),
            Err(error) => {
                // The error matters more than how the stop goes.
                let _ = metadata.close().await;
                Err(error.into())
            }
        }
    }

    /// Brings the image up to all that was committed before this start: a command that is applied
    /// now comes after all of it.
    async fn settle(&self, cluster_id: String) -> Result<String, ProposeError> {
        self.propose(Command::Barrier).await?;
        let standing = self.image().cluster_id.clone();
        if !standing.is_empty() {
            return Ok(standing);
        }
        self.propose(Command::SetClusterId { cluster_id }).await?;
        Ok(self.image().cluster_id.clone())
    }

    /// The newest image. Load it once per request.
    pub fn image(&self) -> Arc<Image> {
        self.published.image()
    }

    /// Tells the image's version after each change; the image is at least as new when it is told.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.published.versions()
    }

    /// Commits and applies a command. On `Ok`, and on [`ProposeError::Apply`], [`Self::image`] is at
    /// least as new as the answer. A caller that stops waiting does not take the command back.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.log.propose(command).await
    }

    /// How the service is.
    pub fn health(&self) -> MetadataHealth {
        self.log.health()
    }

    /// Stops, writes everything out and releases the store's files. The last image stays readable.
    ///
    /// # Errors
    /// The store could not be written out; what was committed is safe in its write-ahead log.
    pub async fn close(&self) -> Result<(), MetadataError> {
        self.log.close().await
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Opens the RocksDB store in `path`; makes it only if `create`.
#[cfg(feature = "rocksdb")]
async fn open_store(
    env: &Env,
    path: &std::path::Path,
    create: bool,
) -> Result<Arc<dyn Store>, MetadataError> {
    let (world, path) = (env.clone(), path.to_owned());
    let open = move || -> Result<Arc<dyn Store>, MetadataError> {
        if !create {
            check_files(&world, &path)?;
            check_content(&path)?;
        }
        match crate::store::RocksStore::open(&path, create) {
            Ok(store) => Ok(Arc::new(store)),
            Err(damage) => Err(MetadataError::StoreDamaged { path, damage }),
        }
    };
    env.blocking("metadata-store", open)
        .await
        .unwrap_or(Err(MetadataError::ShuttingDown))
}

/// Reads everything before the store is opened for writing: a damaged one is left as it was found.
#[cfg(feature = "rocksdb")]
fn check_content(path: &std::path::Path) -> Result<(), MetadataError> {
    let store = crate::store::RocksStore::open_to_read(path);
    let checked = store.and_then(|store| check(&store).map(|_| ()));
    checked.map_err(|damage| MetadataError::StoreDamaged {
        path: path.to_owned(),
        damage,
    })
}

/// RocksDB notices missing table files, but takes a missing write-ahead log for an empty one.
#[cfg(feature = "rocksdb")]
fn check_files(env: &Env, path: &std::path::Path) -> Result<(), MetadataError> {
    let lost = || MetadataError::StoreLost {
        path: path.to_owned(),
    };
    let io = |error| MetadataError::Io {
        path: path.to_owned(),
        error,
    };
    if !env.fs.exists(path).map_err(io)? {
        return Err(lost());
    }
    let entries = env.fs.read_dir(path).map_err(io)?;
    if entries.is_empty() {
        return Err(lost());
    }
    for (what, is_it) in REQUIRED_FILES {
        if !entries.iter().any(|entry| is_it(&entry.name)) {
            let damage = crate::error::StoreError::Missing { what };
            return Err(MetadataError::StoreDamaged {
                path: path.to_owned(),
                damage,
            });
        }
    }
    Ok(())
}

/// Whether a file's name is of some kind.
#[cfg(feature = "rocksdb")]
type IsOfKind = fn(&str) -> bool;

/// What an open or closed RocksDB database always has.
#[cfg(feature = "rocksdb")]
const REQUIRED_FILES: [(&str, IsOfKind); 3] = [
    ("file CURRENT", |name| name == "CURRENT"),
    ("file MANIFEST", |name| name.starts_with("MANIFEST-")),
    ("write-ahead log", |name| {
        name.strip_suffix(".log")
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }),
];

#[cfg(not(feature = "rocksdb"))]
async fn open_store(
    _env: &Env,
    _path: &std::path::Path,
    _create: bool,
) -> Result<Arc<dyn Store>, MetadataError> {
    Err(MetadataError::StoreNotBuilt)
}

#[cfg(test)]
mod tests;
