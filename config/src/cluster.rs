//! Keys that concern a node as one of several.

use std::{fmt, net::SocketAddr};

use crate::{
    node::is_advertisable,
    table::section,
    value::{Allowed, Setting, ints, loopback, words},
};

/// The port of connections between nodes, where no address is given.
const CLUSTER_PORT: u16 = 9301;
/// Bytes of the shortest and the longest secret.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 1024;
/// Seeds, and so first voters, of a cluster.
const SEEDS_MAX: usize = 15;

/// What a node does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRoles {
    /// It holds data and serves clients.
    Broker,
    /// It also votes on metadata.
    BrokerAndController,
}

words!(ProcessRoles {
    "broker" => ProcessRoles::Broker,
    "broker,controller" => ProcessRoles::BrokerAndController,
    "controller,broker" => ProcessRoles::BrokerAndController,
});

/// A secret that is shown to nobody, also not in an error or a log line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClusterSecret(Option<String>);

section! {
    /// What concerns this node as one of several.
    pub struct ClusterConfig, at cluster, titled "The cluster" {
        /// Where other nodes connect; empty: nowhere, unless there are seeds, and then
        /// 127.0.0.1:9301. Clients have no business there.
        "cluster.listen" => listen: Option<SocketAddr> = None, String,
            Allowed::Any("an IP address and a port, for instance 10.0.0.1:9301; or empty");
        /// Where the first nodes of the cluster listen for each other, this one perhaps among them,
        /// as `host:port`; the same list on each. When all of them are started for the first time
        /// they make the cluster and vote on its metadata; later nodes join through any that
        /// answers. Empty: a cluster of one, which others may join.
        "cluster.seeds" => seeds: Vec<String> = Vec::new(), List,
            Allowed::Matching(are_seeds, "up to 15 of host:port, separated by commas, none twice");
        /// What nodes prove to know before anything else is said between them. Required unless all
        /// their addresses are of loopback.
        "cluster.secret" => secret: ClusterSecret = ClusterSecret(None), Password,
            Allowed::Matching(is_secret, "16 to 1024 bytes, or empty");
        /// The `host:port` at which other nodes reach this one; empty: the listening address. Where
        /// this node is a seed it must be written as in `cluster.seeds`.
        "cluster.advertise" => advertise: Option<String> = None, String,
            Allowed::Matching(is_advertisable, "host:port with a port from 1 to 65535, or empty");
        /// What this node does: holds data and serves clients (`broker`), and also votes on
        /// metadata (`controller`), if the cluster needs another voter.
        "process.roles" => roles: ProcessRoles = ProcessRoles::BrokerAndController, List,
            Allowed::OneOf(&["broker", "broker,controller", "controller,broker"]);
        /// Milliseconds between two heartbeats of a broker to the controller.
        "broker.heartbeat.interval.ms" => heartbeat_interval_ms: u64 = 500, Int, ints(10, 600_000);
        /// Milliseconds without a heartbeat after which a broker is taken for dead and what it leads
        /// is led by others.
        "broker.session.timeout.ms" => session_timeout_ms: u64 = 3000, Int, ints(100, 3_600_000);
        /// Milliseconds that a replica may lag behind before it is no longer waited for.
        "replica.lag.time.max.ms" => replica_lag_ms_max: u64 = 30_000, Long, ints(100, 3_600_000);
        /// Milliseconds that a replica with something to take may acknowledge nothing, while others
        /// do, before it is no longer waited for.
        "replica.stall.max.ms" => replica_stall_ms_max: u64 = 3000, Long, ints(100, 3_600_000);
        /// Milliseconds that a seal waits for replicas that have not answered, once enough have.
        "seal.answer.wait.ms" => seal_answer_wait_ms: u64 = 200, Long, ints(0, 600_000);
        /// Milliseconds that a seal waits for a replica to copy what it lacks of the tail.
        "seal.copy.wait.ms" => seal_copy_wait_ms: u64 = 2000, Long, ints(0, 600_000);
        /// Milliseconds that appends wait for the next segment when one is sealed as planned.
        "seal.freeze.max.ms" => seal_freeze_ms_max: u64 = 1000, Long, ints(1, 600_000);
        /// Milliseconds between two planned seals of a partition, doubled each time up to a minute.
        "segment.seal.backoff.ms" => segment_seal_backoff_ms: u64 = 1000, Long, ints(0, 60_000);
        /// Bytes per second of sealed segments that this node copies from other nodes, all together.
        "follower.replication.throttled.rate" => copy_bytes_per_second: u64 = i64::MAX as u64,
            Long, ints(1, i64::MAX as i128);
        /// Bytes per second that this node reads from disk for replicas that are not in sync, all
        /// together. What is new, and replicas in sync, do not count.
        "leader.replication.throttled.rate" => catch_up_bytes_per_second: u64 = i64::MAX as u64,
            Long, ints(1, i64::MAX as i128);
        /// Milliseconds after which `unclean.leader.election.enable` takes effect for a partition
        /// that has no leader.
        "unclean.recovery.timeout.ms" => unclean_recovery_timeout_ms: u64 = 300_000, Long,
            ints(0, 86_400_000);
    }
    also {}
}

// === impl ClusterConfig ===

impl ClusterConfig {
    /// Where other nodes connect; `None` if this node is to have no connections to others.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listen
            .or_else(|| (!self.seeds.is_empty()).then(|| loopback(CLUSTER_PORT)))
    }
}

// === impl ClusterSecret ===

impl ClusterSecret {
    /// Its bytes; `None` if there is none.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.as_deref().map(str::as_bytes)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "not set" })
    }
}

impl Setting for ClusterSecret {
    fn parse(text: &str) -> Option<Self> {
        Some(Self((!text.is_empty()).then(|| text.to_owned())))
    }

    /// Nothing: a secret has no text.
    fn show(&self) -> String {
        String::new()
    }
}

fn is_secret(text: &str) -> bool {
    text.is_empty() || (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len())
}

fn are_seeds(text: &str) -> bool {
    let Some(seeds) = Vec::<String>::parse(text) else {
        return false;
    };
    let mut distinct = seeds.clone();
    distinct.sort();
    distinct.dedup();
    distinct.len() == seeds.len()
        && seeds.len() <= SEEDS_MAX
        && seeds
            .iter()
            .all(|seed| !seed.is_empty() && is_advertisable(seed))
}
