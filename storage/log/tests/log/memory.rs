//! What was appended once is not appended again, also when every segment that tells is gone.

use std::{path::Path, sync::Arc};

use mainstem_env::Fs;
use mainstem_log::{
    Ack, Append, AppendError, Flush, Log, LogEvent, Partition, PartitionSpec, QOS2_HEADER, Qos2Id,
    SegmentSpec, verify::verify,
};
use mainstem_record::{Codec, LeaderEpoch, Offset, TimestampMs};
use mainstem_simulation::SimFs;
use tokio::sync::mpsc;

use crate::support::{
    LATER, append, batch, batch_of, encoded, options, run, segment_spec, spec, start,
};

/// How a node ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Clean,
    Killed,
    PowerCut,
    /// A clean stop, and the power goes right after it.
    CleanPowerCut,
}

const ENDS: [End; 4] = [End::Clean, End::Killed, End::PowerCut, End::CleanPowerCut];

struct Node {
    log: Log,
    partition: Partition,
    _events: mpsc::Receiver<LogEvent>,
    fs: SimFs,
    chain: PartitionSpec,
}

// === impl Node ===

impl Node {
    async fn start(fs: SimFs, chain: PartitionSpec) -> Self {
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let (log, events) = start(&shared, options()).await;
        let partition = log.open_partition(chain.clone()).await.unwrap();
        Self {
            log,
            partition,
            _events: events,
            fs,
            chain,
        }
    }

    async fn restart(self, end: End) -> Self {
        if matches!(end, End::Clean | End::CleanPowerCut) {
            self.log.close().await.unwrap();
        }
        let fs = match end {
            End::Clean | End::Killed => self.fs.process_death(),
            End::PowerCut | End::CleanPowerCut => self.fs.power_cut(7),
        };
        Self::start(fs, self.chain).await
    }

    async fn put(&self, append: Append) {
        self.partition.append(append).await.unwrap().await.unwrap();
    }

    /// Seals as metadata decides it; the log has not heard of it yet.
    async fn decide_roll(&mut self) -> SegmentSpec {
        let info = self.partition.seal_begin().await.unwrap();
        let last = self.chain.segments.last_mut().unwrap();
        let number = last.epoch.0 + 1;
        if info.end == last.base {
            self.chain.segments.pop();
        } else {
            last.end = Some(info.end);
        }
        let next = segment_spec(number, info.end.0);
        self.chain.segments.push(next);
        next
    }

    async fn roll(&mut self) {
        let next = self.decide_roll().await;
        self.partition.seal_commit(next).await.unwrap();
    }

    async fn drop_sealed(&mut self) {
        let active = self.chain.segments.pop().unwrap();
        let sealed: Vec<_> = self.chain.segments.drain(..).map(|s| s.id).collect();
        self.chain.segments.push(active);
        self.chain.log_start = active.base;
        self.partition
            .drop_segments(&sealed, active.base)
            .await
            .unwrap();
    }

    /// Everything that was sent before is sent again; and by a producer that was fenced off.
    async fn check(&self, what: &str) {
        for again in [publish(), produce(1, 2)] {
            let appended = self.partition.append(again).await.unwrap().await.unwrap();
            assert!(appended.duplicate, "{what}");
        }
        let fenced = self.partition.append(produce(0, 3)).await.unwrap().await;
        assert_eq!(fenced, Err(AppendError::InvalidProducerEpoch), "{what}");
        let mut findings = Vec::new();
        let mut keep = |finding: &_| findings.push(format!("{finding:?}"));
        verify(&self.fs, Path::new("/log"), &mut keep).unwrap();
        assert_eq!(findings, Vec::<String>::new(), "{what}");
    }
}

fn publish() -> Append {
    let id = Qos2Id {
        session: [4; 16],
        epoch: 2,
        sequence: 9,
    };
    let header = id.to_header();
    Append::Record {
        record: encoded(b"v", &[(QOS2_HEADER.as_bytes(), Some(&header))]),
        attributes: 2 << 4,
        timestamp: TimestampMs(3),
        qos2: Some(id),
        ack: Ack::Durable,
    }
}

fn produce(epoch: i16, sequence: i32) -> Append {
    let records = [(b"p".to_vec(), 1)];
    append(batch_of(&records, Some((5, epoch, sequence)), Codec::None))
}

/// Everything that remembers is in the first segment; the second one is active, and the only one.
async fn only_the_active_is_left(flush: Flush) -> Node {
    let mut chain = spec(flush);
    chain.segments[0].epoch = LeaderEpoch(0);
    let mut node = Node::start(SimFs::new(), chain).await;
    node.put(publish()).await;
    node.put(produce(1, 2)).await;
    node.roll().await;
    node.drop_sealed().await;
    node
}

/// All ends under all policies, with nothing and with other records in the active segment.
fn each(body: impl AsyncFn(Node, End, &str)) {
    for flush in [Flush::Always, LATER] {
        for end in ENDS {
            for others in [0, 3] {
                run(async {
                    let node = only_the_active_is_left(flush).await;
                    for _ in 0..others {
                        node.put(append(batch(&["other"]))).await;
                    }
                    let what = format!("{flush:?}, {end:?}, {others} others");
                    body(node, end, &what).await;
                });
            }
        }
    }
}

#[test]
fn memory_outlives_the_segments_that_it_was_made_from() {
    each(async |node, end, what| {
        let node = node.restart(end).await;
        node.check(what).await;
        let node = node.restart(end).await;
        node.check(what).await;
    });
}

#[test]
fn memory_passes_on_through_rolls_and_drops() {
    each(async |mut node, end, what| {
        for _ in 0..3 {
            node.roll().await;
            node.drop_sealed().await;
            node = node.restart(end).await;
            node.check(what).await;
            node.put(append(batch(&["more"]))).await;
        }
    });
}

#[test]
fn node_that_ends_between_a_decided_roll_and_its_files_forgets_nothing() {
    each(async |mut node, end, what| {
        if matches!(end, End::Clean | End::CleanPowerCut) {
            return;
        }
        node.partition.flush().await.unwrap();
        node.decide_roll().await;
        node = node.restart(end).await;
        node.check(what).await;
        node.drop_sealed().await;
        node = node.restart(end).await;
        node.check(what).await;
    });
}

#[test]
fn nothing_is_written_where_nothing_is_remembered() {
    run(async {
        let mut node = Node::start(SimFs::new(), spec(Flush::Always)).await;
        node.put(append(batch(&["a"]))).await;
        node.roll().await;
        assert_eq!(node.fs.files(".snap"), Vec::<std::path::PathBuf>::new());
        node.put(produce(1, 2)).await;
        let syncs = node.fs.syncs();
        node.roll().await;
        assert_eq!(node.fs.files(".snap").len(), 1);
        // The file is one sync more; the directory is synced anyway.
        let with_memory = node.fs.syncs() - syncs;
        let mut other = Node::start(SimFs::new(), spec(Flush::Always)).await;
        other.put(append(batch(&["a"]))).await;
        other.roll().await;
        other.put(append(batch(&["b"]))).await;
        let syncs = other.fs.syncs();
        other.roll().await;
        assert_eq!(with_memory, other.fs.syncs() - syncs + 1);
        assert_eq!(node.partition.ends().log_end, Offset(2));
    });
}
