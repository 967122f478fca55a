//! Several nodes that replicate: metadata, connections, log and replication, nothing of it made up.

mod node;

use std::collections::BTreeMap;

use mainstem_metadata::SegmentFlush;
use mainstem_record::Offset;
use mainstem_simulation::run;

use self::node::{Cluster, committed, content, partition};

const PARTITIONS: i32 = 6;

/// Waits until all nodes have the same of all partitions, and all that was acknowledged.
async fn until_equal(cluster: &Cluster, acked: &BTreeMap<i32, Offset>) {
    for (index, last) in acked {
        let id = partition(*index);
        let everywhere = || {
            let mut nodes = cluster.nodes.values();
            nodes.all(|node| committed(node, id).is_some_and(|end| end > *last))
        };
        cluster
            .until("all hold what was acknowledged", everywhere)
            .await;
    }
}

/// Appends one record to each partition, after all that were acknowledged before.
async fn put_in_each(cluster: &Cluster, value: &str, acked: &mut BTreeMap<i32, Offset>) {
    for index in 0..PARTITIONS {
        let appended = cluster.put(partition(index), value).await;
        let before = acked.insert(index, appended.last_offset);
        assert!(
            before.is_none_or(|before| appended.base_offset > before),
            "an acknowledged record is lost"
        );
    }
}

async fn assert_same(cluster: &Cluster) {
    for id in (0..PARTITIONS).map(partition) {
        let mut all = Vec::new();
        for node in cluster.nodes.values() {
            let held = node.replication.held(id).expect("held");
            all.push(content(&held).await);
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{id} differs");
    }
}

fn replicate(flush: SegmentFlush, seed: u64) {
    run(seed, move |world| async move {
        let cluster = Cluster::start(world, 3, flush).await;
        cluster
            .create_topic(usize::try_from(PARTITIONS).expect("few"), 2)
            .await;
        let mut acked = BTreeMap::new();
        for round in 0..20 {
            put_in_each(&cluster, &round.to_string(), &mut acked).await;
        }
        until_equal(&cluster, &acked).await;
        assert_same(&cluster).await;
    });
}

#[test]
fn what_is_acknowledged_is_on_all_nodes() {
    replicate(SegmentFlush::Os, 1);
    replicate(SegmentFlush::Always, 2);
}

#[test]
fn others_lead_when_a_node_dies_and_it_follows_when_it_is_back() {
    run(3, move |world| async move {
        let mut cluster = Cluster::start(world, 3, SegmentFlush::Os).await;
        cluster
            .create_topic(usize::try_from(PARTITIONS).expect("few"), 2)
            .await;
        let mut acked = BTreeMap::new();
        put_in_each(&cluster, "before", &mut acked).await;
        let leader = cluster.leader(partition(0)).expect("led").id;
        let kept = cluster.kill(leader);
        put_in_each(&cluster, "meanwhile", &mut acked).await;
        cluster.restart(leader, kept).await;
        put_in_each(&cluster, "after", &mut acked).await;
        until_equal(&cluster, &acked).await;
        let in_sync = || {
            (0..PARTITIONS).map(partition).all(|id| {
                let image = cluster.nodes[&leader].metadata.image();
                let open = image.partition(id).and_then(|record| record.active());
                open.is_some_and(|open| open.isr.len() == 3)
            })
        };
        cluster.until("all are in sync", in_sync).await;
    });
}

#[test]
fn a_node_that_is_back_helps_to_seal_what_it_is_no_replica_of() {
    run(5, move |world| async move {
        let mut cluster = Cluster::start(world, 3, SegmentFlush::Os).await;
        cluster
            .create_topic(usize::try_from(PARTITIONS).expect("few"), 2)
            .await;
        let mut acked = BTreeMap::new();
        put_in_each(&cluster, "before", &mut acked).await;
        let first = cluster.leader(partition(0)).expect("led").id;
        let kept = cluster.kill(first);
        // The next segments are placed on the two that are left.
        put_in_each(&cluster, "meanwhile", &mut acked).await;
        cluster.restart(first, kept).await;
        // It holds all that is sealed, and nothing of what is open.
        let is_back = || {
            let mut all = (0..PARTITIONS).map(partition);
            all.all(|id| cluster.nodes[&first].replication.held(id).is_some())
        };
        cluster.until("it has what is sealed", is_back).await;
        let second = cluster.leader(partition(0)).expect("led").id;
        let kept = cluster.kill(second);
        // Of two replicas one is left: nothing goes on unless the other node is recruited (R23).
        put_in_each(&cluster, "after", &mut acked).await;
        cluster.restart(second, kept).await;
        until_equal(&cluster, &acked).await;
        assert_same(&cluster).await;
    });
}
