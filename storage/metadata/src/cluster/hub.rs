//! One node's part in founding and joining, and the requests of the others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use parking_lot::Mutex;

use super::{
    ClusterOptions, FoundAnswer, Hello, Promise, Standing,
    founding::{Said, Silence, Step, next},
};
use crate::{
    error::MetadataError,
    identity::random_cluster_id,
    raft::{
        JoinAnswer, JoinRequest, LinkError, Links, NodeId, Published, QuorumNode, RaftLog, broker,
        wire::{self, Kind, Request},
    },
    store::{Store, on_store},
    transport::{CallError, Handler, PeerName},
};

/// How long one node has to answer.
const ASK_MAX: Duration = Duration::from_secs(3);
/// The pause between two rounds of asking.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Rounds between two log lines that say what is waited for.
const ROUNDS_PER_LINE: u64 = 25;

/// What a hub is made of.
pub(crate) struct HubOptions {
    pub(crate) env: Env,
    pub(crate) node: NodeId,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) published: Arc<Published>,
    pub(crate) links: Links,
    pub(crate) cluster: ClusterOptions,
}

/// This node, as the others see it.
pub(crate) struct Hub {
    env: Env,
    node: NodeId,
    me: QuorumNode,
    seeds: Vec<String>,
    store: Arc<dyn Store>,
    published: Arc<Published>,
    links: Links,
    /// Whether a promise may be made to a founder.
    is_open: Mutex<bool>,
    /// Held while a promise is stored, so that there is only one.
    promise: tokio::sync::Mutex<Option<Promise>>,
    log: Mutex<Option<Arc<RaftLog>>>,
    /// Why the cluster does not take this node.
    refusal: Mutex<Option<String>>,
}

// === impl Hub ===

impl Hub {
    /// Answers the others from now on.
    pub(crate) fn start(options: HubOptions) -> Arc<Self> {
        let HubOptions {
            env,
            node,
            store,
            published,
            links,
            cluster,
        } = options;
        let me = cluster.me();
        let mut seeds = cluster.seeds;
        seeds.sort();
        seeds.dedup();
        let hub = Arc::new(Self {
            env,
            node,
            me,
            seeds,
            store,
            published,
            links,
            is_open: Mutex::new(false),
            promise: tokio::sync::Mutex::default(),
            log: Mutex::default(),
            refusal: Mutex::default(),
        });
        if let Some(transport) = hub.links.transport() {
            transport.serve(Arc::clone(&hub) as Arc<dyn Handler>);
        }
        hub
    }

    /// Hands what concerns Raft to `log` from now on.
    pub(crate) fn serve_log(&self, log: Arc<RaftLog>) {
        *self.log.lock() = Some(log);
    }

    /// No longer holds the log, which is closed.
    pub(crate) fn forget_log(&self) {
        *self.log.lock() = None;
    }

    fn log(&self) -> Option<Arc<RaftLog>> {
        self.log.lock().clone()
    }

    /// The promise that a blank node makes, or is asked for: returns once one is stored. Waits for
    /// what can heal.
    pub(crate) async fn promised(&self) -> Result<Promise, MetadataError> {
        *self.is_open.lock() = true;
        let mut rounds: u64 = 0;
        loop {
            if let Some(promise) = self.promise.lock().await.clone() {
                return Ok(promise);
            }
            let said = self.ask_seeds().await;
            let waits_for = match next(&self.hello(), &said) {
                Step::Wait(why) => why,
                Step::Refuse(why) => return Err(MetadataError::Refused(why)),
                Step::Join(seed) => match self.join(&seed).await? {
                    Ok(promise) => return Ok(promise),
                    Err(why) => why,
                },
                Step::Found(founders) => {
                    let promise = Promise::new(random_cluster_id(&self.env), founders);
                    // A founder may have been quicker; then its promise stands.
                    return self.keep(promise).await;
                }
            };
            if rounds.is_multiple_of(ROUNDS_PER_LINE) {
                tracing::info!(reason = %waits_for, "waiting for the cluster");
            }
            rounds += 1;
            self.env.sleep(ROUND_PAUSE).await;
        }
    }

    /// Has every founder of a promise store it too. Waits for those that cannot be reached.
    pub(crate) async fn bind_founders(&self, promise: &Promise) -> Result<(), MetadataError> {
        let others = promise.founders.iter().filter(|(id, _)| **id != self.node);
        for (id, founder) in others {
            let mut rounds: u64 = 0;
            loop {
                let why = match self.ask(&founder.addr, Kind::Found, promise).await {
                    Ok(FoundAnswer::Promised) => break,
                    Ok(FoundAnswer::Refused(why)) => {
                        let why = format!("node {id} does not take part: {why}");
                        return Err(MetadataError::Refused(why));
                    }
                    Ok(FoundAnswer::Later(why)) => why,
                    Err(error) => error.to_string(),
                };
                if rounds.is_multiple_of(ROUNDS_PER_LINE) {
                    tracing::info!(node = id, reason = %why, "waiting for a founder");
                }
                rounds += 1;
                self.env.sleep(ROUND_PAUSE).await;
            }
        }
        Ok(())
    }

    /// A promise from an earlier start.
    pub(crate) async fn recall(&self) -> Result<Option<Promise>, MetadataError> {
        let stored = on_store(&self.env, &self.store, Promise::load).await;
        let stored = stored.map_err(|error| MetadataError::Raft(error.to_string()))?;
        if let Some(promise) = &stored {
            self.bind(promise);
        }
        self.promise.lock().await.clone_from(&stored);
        Ok(stored)
    }

    /// Stores a promise, unless there is one; returns the standing one.
    async fn keep(&self, promise: Promise) -> Result<Promise, MetadataError> {
        let mut standing = self.promise.lock().await;
        if let Some(standing) = &*standing {
            return Ok(standing.clone());
        }
        let stored = promise.clone();
        on_store(&self.env, &self.store, move |store| stored.store(store))
            .await
            .map_err(|error| MetadataError::Raft(error.to_string()))?;
        self.bind(&promise);
        *standing = Some(promise.clone());
        Ok(promise)
    }

    fn bind(&self, promise: &Promise) {
        self.links.set_cluster_id(&promise.cluster_id);
        self.set_addresses(&promise.founders);
    }

    fn set_addresses(&self, nodes: &BTreeMap<NodeId, QuorumNode>) {
        let Some(transport) = self.links.transport() else {
            return;
        };
        let others = nodes
            .iter()
            .filter(|(id, node)| **id != self.node && !node.addr.is_empty());
        let addresses = others.map(|(id, node)| (broker(*id), node.addr.clone()));
        transport.set_addresses(addresses.collect());
    }

    fn hello(&self) -> Hello {
        let cluster_id = self.published.image().cluster_id.clone();
        let standing = if self.log().is_some() && !cluster_id.is_empty() {
            Standing::Member { cluster_id }
        } else if *self.is_open.lock() && self.links.cluster_id().is_empty() {
            Standing::Blank
        } else {
            Standing::Starting
        };
        Hello {
            node: self.node,
            me: self.me.clone(),
            seeds: self.seeds.clone(),
            standing,
        }
    }

    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        kind: Kind,
        question: &Q,
    ) -> Result<A, LinkError> {
        self.links.ask(address, kind, question, ASK_MAX).await
    }

    /// What every seed says.
    pub(super) async fn ask_seeds(&self) -> BTreeMap<String, Said> {
        let mut said = BTreeMap::new();
        for seed in &self.seeds {
            let answer = if *seed == self.me.addr {
                Err(Silence::Myself)
            } else {
                let asked = self.ask(seed, Kind::Hello, &self.hello()).await;
                asked.map_err(silence)
            };
            said.insert(seed.clone(), answer);
        }
        said
    }

    fn join_request(&self) -> JoinRequest {
        JoinRequest {
            node: self.node,
            me: self.me.clone(),
            passed_on: false,
        }
    }

    /// Joins the cluster of a seed; the inner error can heal.
    async fn join(&self, seed: &str) -> Result<Result<Promise, String>, MetadataError> {
        match self.ask(seed, Kind::Join, &self.join_request()).await {
            Ok(JoinAnswer::Joined { cluster_id, nodes }) => {
                let promise = Promise::new(cluster_id, BTreeMap::new());
                let promise = self.keep(promise).await?;
                self.set_addresses(&nodes);
                tracing::info!(cluster_id = %promise.cluster_id, seed, "joined a cluster");
                Ok(Ok(promise))
            }
            Ok(JoinAnswer::Later(why)) => Ok(Err(why)),
            Ok(JoinAnswer::Refused(why)) => Err(MetadataError::Refused(why)),
            Err(error) => match silence(error) {
                Silence::Refused(why) => Err(MetadataError::Refused(why)),
                Silence::Unreachable(why) => Ok(Err(why)),
                Silence::Myself => Ok(Err("the seed is this node itself".to_owned())),
            },
        }
    }

    /// Tells a member of the quorum that this node is to be in it, as it is now.
    pub(super) async fn rejoin(&self, seed: &str) -> Result<(), Silence> {
        match self.ask(seed, Kind::Join, &self.join_request()).await {
            Ok(JoinAnswer::Joined { .. }) => Ok(()),
            Ok(JoinAnswer::Later(why)) => Err(Silence::Unreachable(why)),
            Ok(JoinAnswer::Refused(why)) => Err(Silence::Refused(why)),
            Err(error) => Err(silence(error)),
        }
    }

    /// The same, through the leader that this node knows, itself perhaps.
    pub(super) async fn rejoin_by(&self, log: &RaftLog) -> Result<(), Silence> {
        match log.join(self.join_request()).await {
            JoinAnswer::Joined { .. } => Ok(()),
            JoinAnswer::Later(why) => Err(Silence::Unreachable(why)),
            JoinAnswer::Refused(why) => Err(Silence::Refused(why)),
        }
    }

    /// Before a cluster of one is left to itself: whether its seeds belong to another cluster.
    pub(crate) async fn check_seeds(&self) -> Result<(), MetadataError> {
        let ours = self.links.cluster_id();
        for (seed, said) in self.ask_seeds().await {
            let why = match said {
                Err(Silence::Refused(why)) => why,
                Ok(Hello {
                    standing: Standing::Member { cluster_id },
                    ..
                }) if cluster_id != ours => format!("it belongs to cluster {cluster_id}"),
                _ => continue,
            };
            let why = format!("seed {seed}: {why}; the data directory here is of cluster {ours}");
            return Err(MetadataError::Refused(why));
        }
        Ok(())
    }

    /// Why the cluster does not take this node, if it does not.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    pub(super) fn set_refusal(&self, why: Option<String>) {
        *self.refusal.lock() = why;
    }

    pub(super) fn me(&self) -> &QuorumNode {
        &self.me
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    async fn found(&self, promise: Promise) -> FoundAnswer {
        if let Err(why) = promise.check() {
            return FoundAnswer::Refused(why);
        }
        let standing = self.promise.lock().await.clone();
        match standing {
            Some(standing) if standing.cluster_id == promise.cluster_id => {
                return FoundAnswer::Promised;
            }
            Some(standing) => {
                return FoundAnswer::Refused(format!(
                    "it has promised to found cluster {} with nodes {:?}; if those are gone for \
                     good, remove its data directory",
                    standing.cluster_id,
                    standing.founders.keys().collect::<Vec<_>>()
                ));
            }
            None => {}
        }
        if !*self.is_open.lock() {
            return FoundAnswer::Later("it is starting".to_owned());
        }
        let own = promise.founders.get(&self.node);
        if own.is_none_or(|own| own.directory_id != self.me.directory_id) {
            return FoundAnswer::Refused("another node was asked before".to_owned());
        }
        let cluster_id = promise.cluster_id.clone();
        match self.keep(promise).await {
            Ok(standing) if standing.cluster_id == cluster_id => FoundAnswer::Promised,
            Ok(_) => FoundAnswer::Later("it has just promised something else".to_owned()),
            Err(error) => FoundAnswer::Later(error.to_string()),
        }
    }

    async fn serve(&self, from: PeerName, body: Bytes) -> Result<Bytes, String> {
        let text = |error: wire::WireError| error.to_string();
        let request = Request::decode(body).map_err(text)?;
        if !request.kind.is_open() {
            let log = self.log().ok_or("the node is starting")?;
            return log.serve(request).await.map_err(|error| error.to_string());
        }
        let ours = self.links.cluster_id();
        let theirs = &request.cluster_id;
        let is_hello = request.kind == Kind::Hello;
        // Who asks for a name is told, so that it can say what is wrong.
        if !is_hello && !theirs.is_empty() && !ours.is_empty() && *theirs != ours {
            return Err(format!(
                "node of cluster {ours}, asked by one of cluster {theirs}"
            ));
        }
        let answer = match request.kind {
            Kind::Hello => wire::answer(&self.hello()),
            Kind::Found => {
                let answer = self.found(request.value().map_err(text)?).await;
                wire::answer(&answer)
            }
            _ => {
                let asked: JoinRequest = request.value().map_err(text)?;
                let is_own =
                    broker(asked.node) == from.node && asked.me.directory_id == from.directory_id;
                let answer = match self.log() {
                    _ if !is_own && !asked.passed_on => {
                        JoinAnswer::Refused("a node may only join as itself".to_owned())
                    }
                    Some(log) if !self.published.image().cluster_id.is_empty() => {
                        log.join(asked).await
                    }
                    _ => JoinAnswer::Later("the node is starting".to_owned()),
                };
                wire::answer(&answer)
            }
        };
        answer.map_err(text)
    }
}

impl Handler for Hub {
    fn call(&self, from: PeerName, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(self.serve(from, body))
    }
}

fn silence(error: LinkError) -> Silence {
    match error {
        LinkError::Call(CallError::Myself) => Silence::Myself,
        LinkError::Call(CallError::Never(why)) => Silence::Refused(why),
        error => Silence::Unreachable(error.to_string()),
    }
}
