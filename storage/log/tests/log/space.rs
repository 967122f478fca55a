//! What the operator is told of a nearly full disk.

use std::{fmt, sync::Arc};

use mainstem_env::Fs;
use mainstem_log::{AppendError, Flush, Log, LogOptions, Partition};
use mainstem_simulation::{Faults, SimFs};
use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    clock::SharedClock,
    support::{append, batch, inline_env, options, partition_id, run, segment_spec, spec},
};

/// Keeps log lines of the levels info and above: level, and fields as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Lines {
    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

struct World {
    fs: SimFs,
    clock: SharedClock,
    registry: prometheus::Registry,
    partitions: Vec<Partition>,
    _log: Log,
}

impl World {
    /// Eight partitions over two shards.
    async fn start() -> Self {
        let fs = SimFs::new();
        let clock = SharedClock::default();
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let mut env = inline_env(shared);
        env.clock = Arc::new(clock.clone());
        let registry = prometheus::Registry::new();
        let options = LogOptions {
            low_space_bytes: 1000,
            shards: 2,
            ..options()
        };
        let (log, _events) = Log::start(env, options, &registry).await.unwrap();
        let mut partitions = Vec::new();
        for index in 0..8 {
            let mut spec = spec(Flush::Os);
            spec.id = partition_id(index);
            spec.segments[0].id = segment_spec(index, 0).id;
            partitions.push(log.open_partition(spec).await.unwrap());
        }
        Self {
            fs,
            clock,
            registry,
            partitions,
            _log: log,
        }
    }

    fn available(&self, bytes: u64) {
        self.fs.set_faults(Faults {
            available: Some(bytes),
            ..Faults::default()
        });
    }

    /// Appends once to each partition; how many were refused for want of space.
    async fn refused(&self) -> usize {
        let mut refused = 0;
        for partition in &self.partitions {
            let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
            refused += usize::from(ticket.await == Err(AppendError::NoSpace));
        }
        refused
    }

    fn metric(&self, name: &str) -> String {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().to_owned()
    }

    /// Lets time pass, and the shards look.
    async fn pass(&self, ms: u64) {
        self.clock.advance(ms);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn out_of_space(&self) -> String {
        self.metric("mainstem_log_out_of_space")
    }
}

#[test]
fn shortage_of_space_is_told_once_when_it_begins_and_once_when_it_ends() {
    let lines = Lines::default();
    let test = async {
        let world = World::start().await;
        assert_eq!(world.refused().await, 0);
        assert_eq!(world.out_of_space(), "0");
        assert_eq!(lines.take(), []);

        world.available(999);
        world.pass(300).await;
        for _ in 0..3 {
            assert_eq!(world.refused().await, 8);
            world.pass(300).await;
        }
        assert_eq!(world.out_of_space(), "1");
        let refused = "mainstem_log_appends_refused_total{reason=\"no_space\"}";
        assert_eq!(world.metric(refused), "24");
        let told = lines.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Level::WARN);
        for part in ["free_bytes=999 ", "limit_bytes=1000 ", "/log"] {
            assert!(told[0].1.contains(part), "{told:?}");
        }

        // It ends although nobody tries any more.
        world.available(1000);
        world.pass(1100).await;
        assert_eq!(world.out_of_space(), "0");
        let told = lines.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Level::INFO);
        for part in ["free_bytes=1000 ", "limit_bytes=1000 "] {
            assert!(told[0].1.contains(part), "{told:?}");
        }
        assert_eq!(world.refused().await, 0);
    };
    tracing::subscriber::with_default(lines.clone(), || run(test));
}

#[test]
fn shortage_that_comes_and_goes_does_not_flood_the_log_and_is_not_forgotten() {
    let lines = Lines::default();
    let test = async {
        let world = World::start().await;
        for _ in 0..10 {
            world.available(999);
            world.pass(300).await;
            assert_eq!(world.refused().await, 8);
            assert_eq!(world.out_of_space(), "1");
            world.available(1000);
            world.pass(1100).await;
            assert_eq!(world.out_of_space(), "0");
        }
        assert_eq!(lines.take().len(), 2);
        // One that lasts is told later than it began.
        world.available(999);
        world.pass(300).await;
        assert_eq!(world.refused().await, 8);
        assert_eq!(lines.take(), []);
        world.pass(60_000).await;
        let told = lines.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Level::WARN);
    };
    tracing::subscriber::with_default(lines.clone(), || run(test));
}

#[test]
fn write_that_finds_the_disk_full_counts_as_refused() {
    run(async {
        let world = World::start().await;
        world.fs.set_faults(Faults {
            write: Some((0, std::io::ErrorKind::StorageFull)),
            ..Faults::default()
        });
        assert_eq!(world.refused().await, 1);
        let refused = "mainstem_log_appends_refused_total{reason=\"no_space\"}";
        assert_eq!(world.metric(refused), "1");
    });
}
