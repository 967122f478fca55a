//! What a stream and a call cost between two nodes of one process, over the loopback network:
//! `cargo run --release -p mainstem-peers --example throughput`.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use mainstem_peers::{Handler, PeerIdentity, PeerStream, Peers, PeersOptions, Refusal, Service};
use mainstem_record::BrokerId;
use prometheus::Registry;
use uuid::Uuid;

/// Bytes that are streamed.
const BYTES: usize = 4 << 30;
/// Bytes of a message of a stream.
const MESSAGE_BYTES: usize = 256 << 10;
/// Calls, one after the other.
const CALLS: u32 = 50_000;
const TIMEOUT: Duration = Duration::from_secs(10);

struct Sink;

impl Handler for Sink {
    fn call<'a>(
        &'a self,
        _: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(async { Ok(body) })
    }

    fn stream<'a>(
        &'a self,
        _: &'a PeerIdentity,
        _: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while stream.recv().await.is_some() {}
            // The opener sees the end when all was taken.
        })
    }
}

async fn start(env: &Env, id: i32) -> Result<Peers, Box<dyn Error>> {
    let options = PeersOptions {
        node: BrokerId(id),
        directory_id: Uuid::from_u128(id as u128),
        listen: Some("127.0.0.1:0".parse()?),
        secret: None,
    };
    Ok(Peers::start(env, options, &Registry::new()).await?)
}

async fn measure(env: Env) -> Result<(), Box<dyn Error>> {
    let (one, two) = (start(&env, 1).await?, start(&env, 2).await?);
    two.serve(Service::ADMIN, Arc::new(Sink));
    two.serve(Service::REPLICATION, Arc::new(Sink));
    let address = two.local_addr().ok_or("it does not listen")?;
    one.set_addresses(BTreeMap::from([(two.node(), address.into())]));

    let stream = one.open(two.node(), Service::REPLICATION, Bytes::new());
    let (sender, mut receiver) = stream.await?.split();
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    let begun = env.now();
    for _ in 0..BYTES / MESSAGE_BYTES {
        sender.send(message.clone()).await?;
    }
    drop(sender);
    receiver.recv().await;
    let seconds = (env.now() - begun).as_secs_f64();
    println!("stream: {:.0} MB/s", BYTES as f64 / 1e6 / seconds);

    let mut took = Vec::with_capacity(CALLS as usize);
    for _ in 0..CALLS {
        let begun = env.now();
        let body = Bytes::from_static(b"a hundred bytes or so");
        one.call(two.node(), Service::ADMIN, body, TIMEOUT).await?;
        took.push(env.now() - begun);
    }
    took.sort();
    let at = |part: usize| took[took.len() * part / 1000];
    println!("call: p50 {:?}, p99 {:?}", at(500), at(990));
    one.close().await;
    two.close().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(Env::real()))
}
