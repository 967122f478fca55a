//! Syncs by bytes and by time, as each partition has it.

use std::{sync::Arc, time::Duration};

use mainstem_env::{Fs, MemFs};
use mainstem_log::{Flush, Log, Partition};
use mainstem_record::Offset;

use crate::{
    clock::SharedClock,
    support::{
        append, batch, inline_env, options, partition_id, run, segment_spec, settings, spec,
    },
};

/// No size that a test reaches.
const MANY: u64 = 1 << 30;

struct World {
    clock: SharedClock,
    log: Log,
}

impl World {
    async fn start() -> Self {
        let clock = SharedClock::default();
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let mut env = inline_env(fs);
        env.clock = Arc::new(clock.clone());
        let registry = prometheus::Registry::new();
        let (log, _events) = Log::start(env, options(), &registry).await.unwrap();
        Self { clock, log }
    }

    async fn open(&self, index: i32, flush: Flush) -> Partition {
        let mut spec = spec(flush);
        spec.id = partition_id(index);
        spec.segments = vec![segment_spec(index, 0)];
        self.log.open_partition(spec).await.unwrap()
    }

    /// Lets that much time pass and everything that it sets off happen.
    async fn pass(&self, ms: u64) {
        self.clock.advance(ms);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

fn every(ms: u64) -> Flush {
    Flush::Interval {
        bytes: MANY,
        time: Duration::from_millis(ms),
    }
}

async fn put(partition: &Partition) {
    let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
    ticket.await.unwrap();
}

fn synced(partition: &Partition) -> Offset {
    partition.ends().synced_end
}

#[test]
fn each_partition_is_synced_after_its_own_time() {
    run(async {
        let world = World::start().await;
        let slow = world.open(0, every(1000)).await;
        let quick = world.open(1, every(10)).await;
        put(&slow).await;
        put(&quick).await;
        world.pass(9).await;
        assert_eq!((synced(&slow), synced(&quick)), (Offset(0), Offset(0)));
        world.pass(1).await;
        assert_eq!((synced(&slow), synced(&quick)), (Offset(0), Offset(1)));
        world.pass(990).await;
        assert_eq!((synced(&slow), synced(&quick)), (Offset(1), Offset(1)));
    });
}

#[test]
fn bytes_start_a_sync_before_the_time_does() {
    run(async {
        let world = World::start().await;
        let bytes = 2 * batch(&["a"]).len() as u64;
        let time = Duration::from_secs(3600);
        let partition = world.open(0, Flush::Interval { bytes, time }).await;
        put(&partition).await;
        world.pass(0).await;
        assert_eq!(synced(&partition), Offset(0));
        put(&partition).await;
        world.pass(0).await;
        assert_eq!(synced(&partition), Offset(2));
    });
}

#[test]
fn shorter_time_holds_for_what_is_written_already() {
    run(async {
        let world = World::start().await;
        let partition = world.open(0, every(1000)).await;
        put(&partition).await;
        partition.update_settings(settings(every(10))).await;
        world.pass(10).await;
        assert_eq!(synced(&partition), Offset(1));
    });
}
