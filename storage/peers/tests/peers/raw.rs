//! A network of memory in virtual time, and a peer that says whatever a test wants.

use std::{collections::BTreeMap, future::Future, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env, Listener, Net, Stream};
use mainstem_peers::{
    HandshakeError, Lane, Secret, Service,
    frame::{HEADER_BYTES, Header, Kind},
    handshake::{Dialler, Identity, Local, PREFIX_BYTES, Remote, rest_bytes},
};
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use uuid::Uuid;

use crate::common::SECRET;

/// Bytes that a connection holds in each direction, as the operating system would.
const PIPE_BYTES: usize = 64 << 10;

type Accepted = (Box<dyn Stream>, SocketAddr);

/// Pipes between addresses.
#[derive(Default)]
struct MemNet(Mutex<BTreeMap<SocketAddr, mpsc::UnboundedSender<Accepted>>>);

struct MemListener {
    address: SocketAddr,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Accepted>>,
}

impl Net for MemNet {
    fn listen(&self, mut address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let mut listeners = self.0.lock();
        if address.port() == 0 {
            address.set_port(1000 + listeners.len() as u16);
        }
        let (sender, accepted) = mpsc::unbounded_channel();
        listeners.insert(address, sender);
        Box::pin(async move {
            Ok(Box::new(MemListener {
                address,
                accepted: tokio::sync::Mutex::new(accepted),
            }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let listeners = self.0.lock();
        let is_there = listeners
            .get(&address)
            .is_some_and(|listener| listener.send((Box::new(far), address)).is_ok());
        Box::pin(async move {
            match is_there {
                true => Ok(Box::new(near) as Box<dyn Stream>),
                false => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

impl Listener for MemListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let accepted = self.accepted.lock().await.recv().await;
            accepted.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Runs a test in virtual time.
pub(crate) fn simulate<T, F: Future<Output = T>>(seed: u64, test: impl FnOnce(Env) -> F) -> T {
    mainstem_simulation::run(seed, |world| async move {
        let mut env = world.process(&world.disk(), 1).env;
        env.net = Arc::new(MemNet::default());
        test(env).await
    })
}

/// Somebody with a connection.
pub(crate) struct Raw {
    pub(crate) stream: Box<dyn Stream>,
}

/// What somebody says that they are: node `id` with directory `directory`, without a cluster.
pub(crate) fn local(id: i32, directory: u128) -> Local {
    let identity = Identity {
        node: BrokerId(id),
        directory_id: Uuid::from_u128(directory),
        cluster_id: String::new(),
    };
    Local::new(identity, Some(Secret::new(SECRET).expect("a secret")))
}

impl Raw {
    pub(crate) async fn connect(env: &Env, address: SocketAddr) -> Self {
        let stream = env.net.connect(address).await.expect("it listens");
        Self { stream }
    }

    /// Connects and shakes hands on the control lane.
    pub(crate) async fn greeted(env: &Env, address: SocketAddr, local: Local) -> Self {
        let mut raw = Self::connect(env, address).await;
        raw.greet(local, Lane::Control).await.expect("it is let in");
        raw
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is written");
    }

    /// One message of a handshake.
    pub(crate) async fn read_message(&mut self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; PREFIX_BYTES];
        self.stream.read_exact(&mut message).await?;
        let prefix = message.first_chunk().expect("a prefix");
        let rest = rest_bytes(prefix).expect("a message of ours");
        message.resize(PREFIX_BYTES + rest, 0);
        self.stream.read_exact(&mut message[PREFIX_BYTES..]).await?;
        Ok(message)
    }

    pub(crate) async fn greet(
        &mut self,
        local: Local,
        lane: Lane,
    ) -> Result<Remote, HandshakeError> {
        self.greet_looking_for(local, lane, None).await
    }

    pub(crate) async fn greet_looking_for(
        &mut self,
        local: Local,
        lane: Lane,
        expected: Option<i32>,
    ) -> Result<Remote, HandshakeError> {
        let expected = expected.map(BrokerId);
        let (mut dialler, hello) = Dialler::start(local, lane, expected, [7; 32]);
        self.write(&hello).await;
        let challenge = self.read_message().await.expect("an answer");
        let proof = dialler.challenge(&challenge)?;
        self.write(&proof).await;
        let accept = self.read_message().await.expect("an answer");
        dialler.accepted(&accept)
    }

    pub(crate) async fn frame(&mut self, kind: Kind, service: Service, id: u64, payload: &[u8]) {
        let header = Header::of(1, kind, service, id, payload);
        let bytes = [&header.encode()[..], payload].concat();
        self.write(&bytes).await;
    }

    /// The next frame, pings and pongs apart.
    pub(crate) async fn read_frame(&mut self) -> io::Result<(Header, Bytes)> {
        loop {
            let mut header = [0; HEADER_BYTES];
            self.stream.read_exact(&mut header).await?;
            let header = Header::decode(&header, 1).expect("a frame of ours");
            let mut payload = vec![0; header.payload_bytes];
            self.stream.read_exact(&mut payload).await?;
            header.check(&payload).expect("a whole frame");
            if !matches!(header.kind, Kind::Ping | Kind::Pong) {
                return Ok((header, payload.into()));
            }
        }
    }

    /// Reads until the other side closes.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // It may also be cut.
        let _ = self.stream.read_to_end(&mut bytes).await;
        bytes
    }
}
