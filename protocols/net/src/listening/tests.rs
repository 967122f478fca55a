use mainstem_env::{Clock, MemFs, Net, RealTasks, SeededRandom};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Mutex, mpsc, oneshot},
};

use super::*;

type Accepted = io::Result<(Box<dyn Stream>, SocketAddr)>;

/// A network whose listener accepts what the test sends.
struct FakeNet(parking_lot::Mutex<Option<mpsc::UnboundedReceiver<Accepted>>>);

struct FakeListener(Mutex<mpsc::UnboundedReceiver<Accepted>>);

/// A clock whose sleeps end when the test says so.
struct FakeClock(mpsc::UnboundedSender<(Duration, oneshot::Sender<()>)>);

/// The outside world, in the hands of a test.
struct World {
    env: Env,
    registry: Registry,
    metrics: NetMetrics,
    accept: mpsc::UnboundedSender<Accepted>,
    sleeps: mpsc::UnboundedReceiver<(Duration, oneshot::Sender<()>)>,
}

impl Net for FakeNet {
    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let receiver = self.0.lock().take();
        Box::pin(async move {
            let receiver = receiver.ok_or(io::ErrorKind::AddrInUse)?;
            Ok(Box::new(FakeListener(Mutex::new(receiver))) as Box<dyn Listener>)
        })
    }

    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

impl Listener for FakeListener {
    fn accept(&self) -> BoxFuture<'_, Accepted> {
        Box::pin(async move {
            match self.0.lock().await.recv().await {
                Some(accepted) => accepted,
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address())
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wall_ms(&self) -> i64 {
        0
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (wake, woken) = oneshot::channel();
        self.0.send((duration, wake)).expect("the test listens");
        Box::pin(async move {
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

impl World {
    fn new() -> Self {
        let (accept, accepted) = mpsc::unbounded_channel();
        let (sleep, sleeps) = mpsc::unbounded_channel();
        let registry = Registry::new();
        Self {
            env: Env {
                clock: Arc::new(FakeClock(sleep)),
                random: Arc::new(SeededRandom::new(1)),
                fs: Arc::new(MemFs::new()),
                net: Arc::new(FakeNet(parking_lot::Mutex::new(Some(accepted)))),
                tasks: Arc::new(RealTasks),
            },
            metrics: NetMetrics::register(&registry).expect("new registry"),
            registry,
            accept,
            sleeps,
        }
    }

    async fn listen(&self, connections_max: usize, handler: Handler) -> Listening {
        let options = ListenerOptions {
            name: "kafka",
            address: address(),
            connections_max,
        };
        Listening::start(&self.env, options, &self.metrics, handler)
            .await
            .expect("listen")
    }

    /// A client connects; its end of the stream.
    fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(64);
        self.accept_result(Ok((Box::new(server), address())));
        client
    }

    fn accept_result(&self, result: Accepted) {
        assert!(self.accept.send(result).is_ok(), "nobody accepts");
    }

    /// The next sleep that somebody began.
    async fn sleep(&mut self) -> (Duration, oneshot::Sender<()>) {
        self.sleeps.recv().await.expect("the clock is there")
    }

    fn metric(&self, name: &str, reason: Option<&str>) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|f| f.get_metric()).unwrap_or_default();
        let wanted = metrics.iter().find(|metric| {
            reason.is_none_or(|reason| metric.get_label().iter().any(|l| l.value() == reason))
        });
        wanted.map_or(0, |metric| {
            (metric.get_counter().get_value() + metric.get_gauge().get_value()) as u64
        })
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// Sends back what comes, until the other side closes or the node drains.
fn echo() -> Handler {
    Arc::new(|mut connection| {
        Box::pin(async move {
            let mut buffer = [0; 16];
            loop {
                let read = tokio::select! {
                    read = connection.stream.read(&mut buffer) => read.unwrap_or(0),
                    () = connection.drain.cancelled() => 0,
                };
                if read == 0 || connection.stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        })
    })
}

/// Never ends by itself.
fn stubborn() -> Handler {
    Arc::new(|connection| {
        Box::pin(async move {
            let _connection = connection;
            std::future::pending::<()>().await;
        })
    })
}

async fn echoes(client: &mut DuplexStream) {
    client.write_all(b"hello").await.expect("write");
    let mut back = [0; 5];
    client.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"hello");
}

async fn is_closed(client: &mut DuplexStream) -> bool {
    client.read(&mut [0; 1]).await.is_ok_and(|count| count == 0)
}

#[tokio::test]
async fn connections_are_served_and_their_bytes_counted() {
    let world = World::new();
    let listening = world.listen(10, echo()).await;
    let (mut first, mut second) = (world.connect(), world.connect());
    echoes(&mut first).await;
    echoes(&mut second).await;
    assert_eq!(listening.connections(), 2);
    assert_eq!(world.metric("mainstem_connections", None), 2);
    assert_eq!(world.metric("mainstem_connections_accepted_total", None), 2);
    assert_eq!(world.metric("mainstem_received_bytes_total", None), 10);
    assert_eq!(world.metric("mainstem_sent_bytes_total", None), 10);
    drop((first, second));
    assert_eq!(listening.drained(&world.env, Duration::MAX).await, 0);
    assert_eq!(world.metric("mainstem_connections", None), 0);
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_until_one_is_free() {
    let mut world = World::new();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let inner = echo();
    let handler: Handler = Arc::new(move |connection| {
        let (serve, ended) = (inner(connection), ended.clone());
        Box::pin(async move {
            serve.await;
            ended.send(()).expect("the test listens");
        })
    });
    let listening = world.listen(1, handler).await;
    let mut first = world.connect();
    echoes(&mut first).await;
    assert!(is_closed(&mut world.connect()).await);
    assert_eq!(
        world.metric("mainstem_connections_refused_total", Some("limit")),
        1
    );
    drop(first);
    ends.recv().await.expect("the first ends");
    // Its task is dropped right after; what is refused until then is no failure.
    loop {
        let mut next = world.connect();
        next.write_all(b"x").await.ok();
        if next.read(&mut [0; 1]).await.is_ok_and(|count| count == 1) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(listening.connections(), 1);
    assert!(world.sleeps.try_recv().is_err());
}

#[tokio::test]
async fn accept_errors_back_off_by_the_clock_and_never_end_the_listener() {
    let mut world = World::new();
    let listening = world.listen(10, echo()).await;
    let no_descriptors = || Err(io::Error::from_raw_os_error(24));
    let expected_ms = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000];
    for expected in expected_ms {
        world.accept_result(no_descriptors());
        let (pause, wake) = world.sleep().await;
        assert_eq!(pause.as_millis(), expected);
        wake.send(()).expect("the listener waits");
    }
    let refused = "mainstem_connections_refused_total";
    assert_eq!(
        world.metric(refused, Some("error")),
        expected_ms.len() as u64
    );
    echoes(&mut world.connect()).await;
    world.accept_result(no_descriptors());
    let (pause, _wake) = world.sleep().await;
    assert_eq!(pause, BACKOFF_MIN, "a success resets the pause");
    // Stopping does not wait for the pause.
    listening.begin_drain();
    assert_eq!(listening.drained(&world.env, Duration::MAX).await, 0);
}

#[tokio::test]
async fn resets_of_single_connections_delay_nobody() {
    let mut world = World::new();
    let listening = world.listen(10, echo()).await;
    for _ in 0..100 {
        world.accept_result(Err(io::ErrorKind::ConnectionAborted.into()));
    }
    echoes(&mut world.connect()).await;
    assert!(world.sleeps.try_recv().is_err());
    assert_eq!(listening.connections(), 1);
}

#[tokio::test]
async fn draining_connections_finish_and_none_is_aborted() {
    let world = World::new();
    let listening = world.listen(10, echo()).await;
    let mut clients = [world.connect(), world.connect()];
    for client in &mut clients {
        echoes(client).await;
    }
    listening.begin_drain();
    // Accepted while draining: told at once.
    let mut late = world.connect();
    assert!(is_closed(&mut late).await);
    assert_eq!(listening.drained(&world.env, Duration::MAX).await, 0);
    for client in &mut clients {
        assert!(is_closed(client).await);
    }
    assert_eq!(listening.connections(), 0);
}

#[tokio::test]
async fn connections_that_do_not_finish_are_dropped_at_the_limit() {
    let mut world = World::new();
    let listening = world.listen(10, stubborn()).await;
    let mut clients = [world.connect(), world.connect()];
    while listening.connections() < 2 {
        tokio::task::yield_now().await;
    }
    listening.begin_drain();
    let env = world.env.clone();
    let waiting = {
        let listening = listening.clone();
        async move { listening.drained(&env, Duration::from_secs(7)).await }
    };
    let limit = async {
        let (limit, wake) = world.sleep().await;
        assert_eq!(limit, Duration::from_secs(7));
        assert_eq!(
            listening.connections(),
            2,
            "nothing is dropped before the limit"
        );
        wake.send(()).expect("somebody waits");
    };
    let (aborted, ()) = tokio::join!(waiting, limit);
    assert_eq!(aborted, 2);
    assert_eq!(listening.connections(), 0);
    assert_eq!(world.metric("mainstem_connections", None), 0);
    for client in &mut clients {
        assert!(is_closed(client).await);
    }
}

#[tokio::test]
async fn stopped_listener_gives_its_address_back() {
    let env = Env::real();
    let metrics = NetMetrics::register(&Registry::new()).expect("new registry");
    let options = |address| ListenerOptions {
        name: "mqtt",
        address,
        connections_max: 10,
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listening = Listening::start(&env, options(any), &metrics, echo())
        .await
        .expect("listen");
    let bound = listening.local_addr;
    assert_ne!(bound.port(), 0);
    let taken = Listening::start(&env, options(bound), &metrics, echo()).await;
    let message = taken.expect_err("the address is taken").to_string();
    let expected = format!("the mqtt listener cannot listen on {bound}: ");
    assert!(message.starts_with(&expected), "{message}");

    let mut client = env.net.connect(bound).await.expect("connect");
    client.write_all(b"abc").await.expect("write");
    let mut back = [0; 3];
    client.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"abc");

    listening.begin_drain();
    assert_eq!(listening.drained(&env, Duration::from_secs(60)).await, 0);
    assert!(env.net.connect(bound).await.is_err());
    let again = Listening::start(&env, options(bound), &metrics, echo()).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn ids_differ_between_listeners_and_metrics_register_once() {
    let world = World::new();
    assert!(NetMetrics::register(&world.registry).is_err());
    let (kafka, mqtt) = (
        world.metrics.listener("kafka"),
        world.metrics.listener("mqtt"),
    );
    let ids = [kafka.next_id(), mqtt.next_id(), kafka.next_id()];
    assert_eq!(ids, [1, 2, 3]);
}
