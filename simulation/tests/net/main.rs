//! What the simulated network promises to programs, and what it does to them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod chaos;
mod clocks;
mod ends;
mod links;
mod streams;

use std::{io, net::SocketAddr, time::Duration};

use mainstem_env::{Env, Listener, Stream};
use mainstem_simulation::{HostId, Process, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: HostId = HostId(1);
const B: HostId = HostId(2);

/// Longer than anything takes that is not to last for ever.
const LONG: Duration = Duration::from_secs(3600);

fn process(world: &World, host: HostId, number: u64) -> Process {
    world.process_on(host, &world.disk(), number)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn listen(env: &Env, address: &str) -> io::Result<Box<dyn Listener>> {
    env.net.listen(address.parse().unwrap()).await
}

/// Two processes, on A and on B, and the two ends of a stream between them, A's first.
struct Pair {
    a: Process,
    b: Process,
    near: Box<dyn Stream>,
    far: Box<dyn Stream>,
    listener: Box<dyn Listener>,
}

impl Pair {
    async fn new(world: &World) -> Self {
        let (a, b) = (process(world, A, 1), process(world, B, 2));
        let listener = listen(&b.env, "0.0.0.0:0").await.unwrap();
        let (near, far) = stream(&a.env, &*listener).await;
        Self {
            a,
            b,
            near,
            far,
            listener,
        }
    }
}

/// Where B's listener is for others.
fn of_b(listener: &dyn Listener) -> SocketAddr {
    SocketAddr::new(B.ip(), listener.local_addr().unwrap().port())
}

/// A stream to B's listener.
async fn stream(from: &Env, listener: &dyn Listener) -> (Box<dyn Stream>, Box<dyn Stream>) {
    let address = of_b(listener);
    let (near, accepted) = tokio::join!(from.net.connect(address), listener.accept());
    (near.unwrap(), accepted.unwrap().0)
}

async fn send(stream: &mut Box<dyn Stream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// What comes next, as long as `text`, is that.
async fn expect(stream: &mut Box<dyn Stream>, text: &str) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), text);
}

/// The next byte, `None` at the end, or how the stream broke.
async fn next(stream: &mut Box<dyn Stream>) -> Result<Option<u8>, io::ErrorKind> {
    let mut byte = [0];
    let read = stream.read(&mut byte).await.map_err(|error| error.kind())?;
    Ok((read == 1).then_some(byte[0]))
}

/// Whether nothing comes for so long.
async fn is_silent(env: &Env, stream: &mut Box<dyn Stream>, for_so_long: Duration) -> bool {
    env.timeout(for_so_long, next(stream)).await.is_err()
}
