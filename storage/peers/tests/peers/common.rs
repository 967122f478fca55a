//! Nodes for tests.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use mainstem_peers::{
    Handler, PeerAddress, PeerIdentity, PeerStream, Peers, PeersOptions, Refusal, Secret, Service,
};
use mainstem_record::BrokerId;
use prometheus::Registry;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

pub(crate) const SECRET: &[u8] = b"a secret of sixteen bytes or more";
/// Long enough that only a bug meets it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Runs a test; one that hangs fails.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Env) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let env = Env::real();
    runtime.block_on(async {
        env.timeout(LONG, test(env.clone()))
            .await
            .expect("the test ends");
    });
}

pub(crate) struct Node {
    pub(crate) peers: Peers,
    pub(crate) registry: Registry,
    pub(crate) id: BrokerId,
}

impl Node {
    pub(crate) async fn start(env: &Env, id: i32) -> Self {
        Self::start_with(env, options(id)).await
    }

    pub(crate) async fn start_with(env: &Env, options: PeersOptions) -> Self {
        let registry = Registry::new();
        let id = options.node;
        let peers = Peers::start(env, options, &registry)
            .await
            .expect("it starts");
        Self {
            peers,
            registry,
            id,
        }
    }

    pub(crate) fn address(&self) -> PeerAddress {
        self.peers.local_addr().expect("it listens").into()
    }

    pub(crate) fn knows(&self, others: &[&Node]) {
        let addresses = others.iter().map(|other| (other.id, other.address()));
        self.peers.set_addresses(addresses.collect());
    }

    /// The sum of a metric over all labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let mut sum = 0.0;
        for family in self.registry.gather() {
            if family.name() != name {
                continue;
            }
            for metric in family.get_metric() {
                let labels = metric.get_label();
                if label.is_empty() || labels.iter().any(|pair| pair.value() == label) {
                    sum += metric.get_counter().get_value() + metric.get_gauge().get_value();
                }
            }
        }
        sum as u64
    }
}

pub(crate) fn options(id: i32) -> PeersOptions {
    PeersOptions {
        node: BrokerId(id),
        directory_id: Uuid::from_u128(id as u128),
        listen: Some("127.0.0.1:0".parse().expect("an address")),
        secret: Some(Secret::new(SECRET).expect("a secret")),
    }
}

/// Two nodes that know each other.
pub(crate) async fn pair(env: &Env) -> (Node, Node) {
    let (one, two) = (Node::start(env, 1).await, Node::start(env, 2).await);
    one.knows(&[&one, &two]);
    two.knows(&[&one, &two]);
    (one, two)
}

/// Waits until something holds; the test's own time is the limit.
pub(crate) async fn until(env: &Env, mut holds: impl FnMut() -> bool) {
    while !holds() {
        env.sleep(Duration::from_millis(1)).await;
    }
}

/// Answers with the body, or as the body asks.
#[derive(Default)]
pub(crate) struct Echo {
    /// What `wait` waits for.
    pub(crate) gate: Notify,
    /// Permits of calls that have come.
    pub(crate) came: Arc<Counter>,
}

pub(crate) struct Counter(pub(crate) Semaphore);

impl Default for Counter {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Counter {
    pub(crate) fn count(&self) -> usize {
        self.0.available_permits()
    }
}

impl Handler for Echo {
    fn call<'a>(
        &'a self,
        from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(async move {
            self.came.0.add_permits(1);
            match &body[..] {
                b"wait" => self.gate.notified().await,
                b"no" => {
                    return Err(Refusal {
                        code: 7,
                        text: "no, thank you".to_owned(),
                    });
                }
                b"who" => return Ok(from.node.to_string().into()),
                b"much" => return Ok(vec![0; mainstem_peers::BODY_BYTES_MAX + 1].into()),
                _ => {}
            }
            Ok(body)
        })
    }

    fn stream<'a>(
        &'a self,
        _from: &'a PeerIdentity,
        hello: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.came.0.add_permits(1);
            match &hello[..] {
                b"no" => stream.refuse(Refusal {
                    code: 9,
                    text: "not here".to_owned(),
                }),
                // Takes nothing until the gate opens, then tells how many bytes came.
                b"slow" => {
                    self.gate.notified().await;
                    let mut bytes = 0;
                    while let Some(message) = stream.recv().await {
                        bytes += message.len();
                    }
                    let _ = stream.send(bytes.to_string().into()).await;
                }
                // Sends until nobody wants more, then tells so.
                b"source" => {
                    while stream.send(vec![1; 100_000].into()).await.is_ok() {}
                    self.gate.notify_one();
                }
                _ => {
                    while let Some(message) = stream.recv().await {
                        if stream.send(message).await.is_err() {
                            return;
                        }
                    }
                }
            }
        })
    }
}

/// A service on each lane.
pub(crate) const CONTROL: Service = Service::ADMIN;
pub(crate) const DATA: Service = Service::FETCH;

/// Makes `node` serve both.
pub(crate) fn echo(node: &Node) -> Arc<Echo> {
    let echo = Arc::new(Echo::default());
    node.peers
        .serve(CONTROL, Arc::clone(&echo) as Arc<dyn Handler>);
    node.peers
        .serve(DATA, Arc::clone(&echo) as Arc<dyn Handler>);
    echo
}

/// An address where nobody listens.
pub(crate) async fn nobody(env: &Env) -> PeerAddress {
    let address = "127.0.0.1:0".parse().expect("an address");
    let listener = env.net.listen(address).await.expect("it listens");
    listener.local_addr().expect("bound").into()
}

pub(crate) fn addresses<const N: usize>(
    all: [(i32, PeerAddress); N],
) -> BTreeMap<BrokerId, PeerAddress> {
    all.map(|(id, address)| (BrokerId(id), address)).into()
}
