//! Sealed segments that the leader does not hold: it leads the segments after them (R31), and copies
//! them so slowly that it never has them.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use mainstem_broker::{
    Acks, Broker, ErrorCode, FetchPartition, FoundOffset, Isolation, NewTopicRequest, OffsetQuery,
};
use mainstem_metadata::{BeginSeal, Command, SealReason, SegmentRecord};
use mainstem_record::{
    BatchBuilder, BatchOptions, Batches, BrokerId, LeaderEpoch, Offset, TimestampMs,
};
use mainstem_simulation::run;

use super::node::{Cluster, INDEX, TOPIC, caller};

/// Batches of a segment.
const BATCHES: i64 = 8;
/// Records of a batch.
const RECORDS: i64 = 3;

/// What was produced: timestamps by offset.
#[derive(Default)]
struct Written {
    timestamps: Vec<i64>,
}

fn fetch_partition(broker: &Broker) -> Result<FetchPartition, ErrorCode> {
    let isolation = Isolation::ReadUncommitted;
    broker.fetch_partition(&caller(), &TOPIC, INDEX, LeaderEpoch::NONE, isolation)
}

async fn list(broker: &Broker, query: OffsetQuery) -> Result<FoundOffset, ErrorCode> {
    let (place, epoch) = ((&TOPIC, INDEX), LeaderEpoch::NONE);
    let isolation = Isolation::ReadUncommitted;
    let caller = caller();
    let listed = broker.list_offset(&caller, place, epoch, isolation, query);
    listed.await
}

/// The batches from `from` on up to `end`, and how many reads went to other brokers.
async fn read_all(part: &FetchPartition, mut from: Offset, end: Offset) -> (Vec<Bytes>, usize) {
    let (mut all, mut away) = (Vec::new(), 0);
    while from < end {
        // At most a few batches at once.
        let read = part.read(from, LeaderEpoch::NONE, 2000, true).await;
        let chunk = match read.expect("readable") {
            Some(chunk) => chunk,
            None => {
                away += 1;
                let read = part.read_elsewhere(from, 2000).await;
                read.expect("somebody has it")
            }
        };
        assert!(chunk.next > from);
        for batch in chunk.batches.into_iter().flat_map(Batches::new) {
            let (header, bytes) = batch.expect("whole");
            if header.base_offset < end {
                all.push(bytes);
            }
        }
        from = chunk.next;
    }
    (all, away)
}

// === impl Written ===

impl Written {
    /// Produces a segment's worth of batches to whoever leads.
    async fn produce(&mut self, cluster: &Cluster) -> i32 {
        let mut leader = 0;
        for _ in 0..BATCHES {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            for number in 0..RECORDS {
                let offset = self.timestamps.len() as i64;
                // The highest is in the first segment; later ones go on rising from below.
                let timestamp = if offset == 10 {
                    5000
                } else {
                    1000 + 10 * offset
                };
                self.timestamps.push(timestamp);
                let value = vec![b'v'; 500 + usize::try_from(number).expect("small")];
                builder.push_record(0, TimestampMs(timestamp), None, Some(&value), []);
            }
            let batch = builder.finish().expect("a batch").freeze();
            let env = &cluster.env;
            let produced = cluster.ask("produced", |broker| {
                let batch = batch.clone();
                async move {
                    let ticket = broker
                        .produce(&caller(), &TOPIC, INDEX, batch, Acks::All)
                        .await;
                    let waited = env.timeout(Duration::from_secs(2), ticket.ok()?).await;
                    waited.ok()?.ok()
                }
            });
            leader = produced.await.0;
        }
        leader
    }

    /// The first record with a timestamp of at least `at_least`.
    fn first(&self, at_least: i64) -> i64 {
        let found = self.timestamps.iter().position(|t| *t >= at_least);
        found.map_or(-1, |offset| offset as i64)
    }
}

/// Makes others lead the partition: nothing is placed on `leader` any more, and its segment is sealed.
async fn move_away(cluster: &Cluster, leader: i32) -> SegmentRecord {
    let node = &cluster.nodes[&leader];
    let image = node.broker.image();
    let topic = image.topic("t").expect("known");
    let open = topic.partitions[0].active().expect("open").clone();
    let command = Command::DrainBroker {
        member: open.leader_member(),
    };
    node.metadata.propose(command).await.expect("draining");
    let seal = BeginSeal {
        partition: mainstem_record::PartitionId {
            topic: topic.id,
            index: INDEX,
        },
        segment: open.id,
        version: open.version,
    };
    let command = Command::BeginSeal {
        seals: vec![seal],
        reason: SealReason::Requested,
    };
    node.metadata.propose(command).await.expect("sealing");
    let moved = cluster.ask("led elsewhere", |broker| async move {
        let part = fetch_partition(&broker).ok()?;
        let id = part.id();
        let image = broker.image();
        let record = image.partition(id).expect("known");
        let sealed = record.segments.iter().find(|segment| segment.id == open.id);
        sealed.filter(|sealed| sealed.end.is_some()).cloned()
    });
    let (next, sealed) = moved.await;
    assert_ne!(next, leader);
    sealed
}

/// Three segments, on a broker each; the last leads. Returns what was written, the leaders, and the
/// batches as each leader had them.
async fn scattered(cluster: &Cluster) -> (Written, Vec<i32>, Vec<Bytes>) {
    let new = NewTopicRequest {
        name: "t".to_owned(),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let any = cluster.nodes[&2].broker.clone();
    let created = any.create_topics(&caller(), vec![new], false).await;
    created.into_iter().next().expect("one").expect("created");
    let (mut written, mut leaders, mut batches) = (Written::default(), Vec::new(), Vec::new());
    for number in 0..3 {
        let leader = written.produce(cluster).await;
        let part = fetch_partition(&cluster.nodes[&leader].broker).expect("led");
        let base = Offset(number * BATCHES * RECORDS);
        let (segment, away) = read_all(&part, base, part.high_watermark()).await;
        assert_eq!((segment.len() as i64, away), (BATCHES, 0));
        batches.extend(segment);
        leaders.push(leader);
        if number < 2 {
            let sealed = move_away(cluster, leader).await;
            let complete: Vec<BrokerId> = sealed.complete.iter().map(|copy| copy.broker).collect();
            assert_eq!((sealed.base, complete), (base, vec![BrokerId(leader)]));
        }
    }
    let distinct: BTreeSet<i32> = leaders.iter().copied().collect();
    assert_eq!(distinct.len(), 3, "{leaders:?}");
    (written, leaders, batches)
}

#[test]
fn what_the_leader_lacks_is_read_and_found_by_time_as_where_it_is() {
    run(11, |world| async move {
        let cluster = Cluster::start_with(world, Some(1)).await;
        let (written, leaders, batches) = scattered(&cluster).await;
        let broker = cluster.nodes[&leaders[2]].broker.clone();
        let part = fetch_partition(&broker).expect("led");
        let end = part.high_watermark();
        assert_eq!(end, Offset(3 * BATCHES * RECORDS));
        // As much memory is asked for as one segment of it takes, though none of it is here.
        let first: usize = batches[..8].iter().map(Bytes::len).sum();
        assert!(part.available_bytes(Offset(0)) >= first as u64);

        let (read, away) = read_all(&part, Offset(0), end).await;
        assert!(read == batches, "not the same bytes");
        assert!(away > 2, "it was all here");
        // At least one batch, and else no more than was asked for; from within a batch, too.
        let one = part.read_elsewhere(Offset(4), 1).await.expect("read");
        assert_eq!((one.next, one.bytes), (Offset(6), batches[1].len()));
        let two = part.read_elsewhere(Offset(4), 4000).await.expect("read");
        assert_eq!(
            (two.next, two.bytes),
            (Offset(9), batches[1].len() + batches[2].len())
        );

        for at in (990..1760).step_by(5).chain([4999, 5000, 5001]) {
            let found = list(&broker, OffsetQuery::Timestamp(TimestampMs(at))).await;
            let found = found.expect("somebody knows");
            assert_eq!(found.offset, Offset(written.first(at)), "at {at}");
        }
        let highest = list(&broker, OffsetQuery::MaxTimestamp)
            .await
            .expect("known");
        assert_eq!(
            (highest.offset, highest.timestamp),
            (Offset(10), TimestampMs(5000))
        );
    });
}

#[test]
fn nobody_who_has_it_is_there_and_clients_ask_again() {
    run(12, |world| async move {
        let mut cluster = Cluster::start_with(world, Some(1)).await;
        let (written, leaders, batches) = scattered(&cluster).await;
        let broker = cluster.nodes[&leaders[2]].broker.clone();
        let holder = cluster.nodes.remove(&leaders[0]).expect("known");
        holder.process.end();
        let part = fetch_partition(&broker).expect("led");
        let code = ErrorCode::NotLeaderOrFollower;
        assert!(code.is_retriable());
        for offset in [0, BATCHES * RECORDS - 1] {
            let read = part.read(Offset(offset), LeaderEpoch::NONE, 1000, true);
            assert_eq!(read.await, Ok(None), "it is not here");
            let read = part.read_elsewhere(Offset(offset), 1000).await;
            assert_eq!(read.expect_err("nobody has it").code, code);
        }
        // What is in it is not passed over, and what is not does not need it.
        for at in [0, 1000, 1100, 5000] {
            let found = list(&broker, OffsetQuery::Timestamp(TimestampMs(at))).await;
            assert_eq!(found, Err(code), "at {at}");
        }
        assert_eq!(list(&broker, OffsetQuery::MaxTimestamp).await, Err(code));
        let none = list(&broker, OffsetQuery::Timestamp(TimestampMs(5001))).await;
        assert_eq!(none.expect("known").offset, Offset(-1));
        let base = Offset(BATCHES * RECORDS);
        let (rest, away) = read_all(&part, base, part.high_watermark()).await;
        assert!(rest == batches[BATCHES as usize..] && away > 0);
        assert_eq!(written.timestamps.len() as i64, part.high_watermark().0);
    });
}
