//! The metadata service of one node.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mainstem_env::Env;
use mainstem_record::BrokerId;
use tokio::sync::watch;

use crate::{
    cluster::{ClusterOptions, Hub, HubOptions, Promise, care},
    command::{Applied, Command},
    error::{MetadataError, ProposeError},
    identity::{Identity, random_cluster_id},
    image::Image,
    log::MetadataLog,
    quorum::{Leadership, QuorumStatus},
    raft::{Begin, Links, Published, RaftLog, RaftOptions, check},
    store::{MemoryDisk, MemoryStore, Store, on_store},
};

/// The metadata store's directory in the data directory.
pub const STORE_DIR: &str = "metadata";
/// The pause before a start that found no leader asks again.
const INSIST_PAUSE: Duration = Duration::from_millis(100);

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
    hub: Option<Arc<Hub>>,
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
        Self::start_with(env, options, None).await
    }

    /// The same for a node with connections to others: on its first start it makes a cluster
    /// together with its seeds, or joins that of one of them. Returns once a leader is known, every
    /// committed entry is applied and the cluster has its id, however long the others take.
    ///
    /// # Errors
    /// As [`Self::start`]; or the seeds or the cluster cannot take this node as it is, which waiting
    /// does not change ([`MetadataError::Refused`]).
    pub async fn start_in_cluster(
        env: Env,
        options: MetadataOptions,
        cluster: ClusterOptions,
    ) -> Result<Self, MetadataError> {
        Self::start_with(env, options, Some(cluster)).await
    }

    async fn start_with(
        env: Env,
        options: MetadataOptions,
        cluster: Option<ClusterOptions>,
    ) -> Result<Self, MetadataError> {
        let store: Arc<dyn Store> = match options.store {
            StoreKind::Memory => Arc::new(MemoryStore::default()),
            StoreKind::Kept(disk) => Arc::new(MemoryStore::new(disk)),
            StoreKind::RocksDb => return Box::pin(Self::on_disk(env, options, cluster)).await,
        };
        let on = Self::on(env, options.node_id, store, String::new(), cluster);
        // Starting happens once; what it holds is not to grow every caller's future.
        let (metadata, _) = Box::pin(on).await?;
        Ok(metadata)
    }

    async fn on_disk(
        env: Env,
        options: MetadataOptions,
        cluster: Option<ClusterOptions>,
    ) -> Result<Self, MetadataError> {
        let MetadataOptions { dir, node_id, .. } = options;
        let identity = Identity::load_or_create(&env, &dir, node_id).await?;
        let path = dir.join(STORE_DIR);
        let store = open_store(&env, &path, !identity.store_made).await?;
        let damaged = |damage| MetadataError::StoreDamaged {
            path: path.clone(),
            damage,
        };
        let is_blank = on_store(&env, &store, |store| {
            Ok(check(store)? && Promise::load(store)?.is_none())
        });
        if is_blank.await.map_err(damaged)? && identity.store_made {
            return Err(MetadataError::StoreLost { path });
        }
        let known = identity.cluster_id.clone();
        let on = Self::on(env.clone(), node_id, store, known.clone(), cluster);
        let (metadata, standing) = Box::pin(on).await?;
        let settled = if identity.store_made && standing != known {
            let (found, expected) = (standing, known);
            Err(MetadataError::StoreOfOtherCluster {
                path,
                found,
                expected,
            })
        } else if identity.store_made {
            Ok(())
        } else {
            identity.set_known(&env, &dir, standing).await
        };
        if let Err(error) = settled {
            // The error matters more than how the stop goes.
            let _ = metadata.close().await;
            return Err(error);
        }
        Ok(metadata)
    }

    /// The service on a store, and the cluster's id; `known` is what an earlier start knew it to be.
    async fn on(
        env: Env,
        node_id: u64,
        store: Arc<dyn Store>,
        known: String,
        cluster: Option<ClusterOptions>,
    ) -> Result<(Self, String), MetadataError> {
        let published = Arc::new(Published::default());
        let transport = cluster
            .as_ref()
            .map(|cluster| Arc::clone(&cluster.transport));
        let links = Links::new(transport);
        if !known.is_empty() {
            links.set_cluster_id(&known);
        }
        let options = RaftOptions {
            env: env.clone(),
            node: node_id,
            store: Arc::clone(&store),
            published: Arc::clone(&published),
            links: links.clone(),
            me: cluster
                .as_ref()
                .map_or_else(Default::default, ClusterOptions::me),
            voters_wanted: cluster.as_ref().map_or(1, ClusterOptions::voters_wanted),
        };
        let seeds = cluster.as_ref().map_or(0, |cluster| cluster.seeds.len());
        let hub = cluster.map(|cluster| {
            Hub::start(HubOptions {
                env: env.clone(),
                node: node_id,
                store,
                published: Arc::clone(&published),
                links: links.clone(),
                cluster,
            })
        });
        let begin = begin(&options, hub.as_deref(), seeds > 0).await?;
        let log = RaftLog::start(options, begin).await?;
        let metadata = Self {
            log: Arc::clone(&log) as Arc<dyn MetadataLog>,
            published,
            hub,
        };
        match metadata.settle(&env, &log, &links, seeds > 0).await {
            Ok(()) => {
                let standing = metadata.image().cluster_id.clone();
                Ok((metadata, standing))
            }
            Err(error) => {
                // The error matters more than how the stop goes.
                let _ = metadata.close().await;
                Err(error)
            }
        }
    }

    /// Brings the image up to all that was committed before this start: a command that is applied
    /// now comes after all of it.
    async fn settle(
        &self,
        env: &Env,
        log: &Arc<RaftLog>,
        links: &Links,
        has_seeds: bool,
    ) -> Result<(), MetadataError> {
        if let Some(hub) = &self.hub {
            hub.serve_log(Arc::clone(log));
            env.spawn("metadata-members", care(Arc::clone(hub), Arc::clone(log)));
        }
        self.insist(env, &Command::Barrier).await?;
        if self.image().cluster_id.is_empty() {
            let promised = links.cluster_id();
            let cluster_id = if promised.is_empty() {
                random_cluster_id(env)
            } else {
                promised
            };
            self.insist(env, &Command::SetClusterId { cluster_id })
                .await?;
        }
        let standing = self.image().cluster_id.clone();
        if links.cluster_id().is_empty() {
            links.set_cluster_id(&standing);
        }
        match &self.hub {
            Some(hub) if has_seeds && self.status().members.len() == 1 => hub.check_seeds().await,
            _ => Ok(()),
        }
    }

    /// Proposes until it is applied; in a cluster others may have to start first.
    async fn insist(&self, env: &Env, command: &Command) -> Result<(), MetadataError> {
        loop {
            let error = match self.propose(command.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let Some(hub) = &self.hub else {
                return Err(error.into());
            };
            if let Some(why) = hub.refusal() {
                return Err(MetadataError::Refused(why));
            }
            if !error.is_retriable() {
                return Err(error.into());
            }
            tracing::info!(reason = %error, "waiting for a metadata leader");
            env.sleep(INSIST_PAUSE).await;
        }
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

    /// Waits until [`Self::image`] holds everything that was committed before the call, on any node:
    /// what is read then is linearizable. Costs a round to a majority and nothing in the log.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] without a leader that a majority answers, and
    /// [`ProposeError::Fatal`].
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        self.log.barrier().await
    }

    /// The node that leads the metadata quorum, as far as this one knows.
    pub fn leader(&self) -> Option<BrokerId> {
        self.log.leadership().borrow().leader
    }

    /// Tells who leads, after each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.log.leadership()
    }

    /// The quorum as this node sees it.
    pub fn status(&self) -> QuorumStatus {
        self.log.status()
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
        let closed = self.log.close().await;
        if let Some(hub) = &self.hub {
            hub.forget_log();
        }
        closed
    }
}

/// What Raft does if its store is blank.
async fn begin(
    options: &RaftOptions,
    hub: Option<&Hub>,
    has_seeds: bool,
) -> Result<Begin, MetadataError> {
    let stored = on_store(&options.env, &options.store, |store| {
        let is_blank = check(store)? && store.last()?.is_none();
        Ok((is_blank, Promise::load(store)?))
    });
    let (is_blank, promise) = stored
        .await
        .map_err(|error| MetadataError::Raft(error.to_string()))?;
    let Some(hub) = hub else {
        return match promise {
            Some(promise) if is_blank => Err(MetadataError::NoConnections {
                nodes: promise.founders.len(),
            }),
            _ if is_blank => Ok(Begin::Alone),
            _ => Ok(Begin::Wait),
        };
    };
    let promise = match hub.recall().await? {
        _ if !is_blank => return Ok(Begin::Wait),
        Some(promise) => promise,
        None if !has_seeds => return Ok(Begin::Alone),
        None => hub.promised().await?,
    };
    if promise.founder() != Some(options.node) {
        return Ok(Begin::Wait);
    }
    hub.bind_founders(&promise).await?;
    Ok(Begin::Found(promise.founders))
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
