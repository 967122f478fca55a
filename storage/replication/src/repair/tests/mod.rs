//! Copies between three nodes of a simulated network, on simulated disks.

mod node;

use std::time::Duration;

use mainstem_log::Role;
use mainstem_record::{BrokerId, Offset};
use mainstem_simulation::{Dice, World, run};

use self::node::{LONG, Meta, NODES, Node, first, partition};
use crate::wire::CopyOrder;

/// Seeds of the walk through crashes.
const SEEDS: u64 = 4;
/// Steps of a seed.
const STEPS: usize = 25;

async fn three(world: &World, meta: &Meta) -> Vec<Node> {
    meta.create();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        nodes.push(Node::start(world, meta, id, world.disk()).await);
    }
    nodes
}

/// Waits until something holds.
async fn until(node: &Node, mut holds: impl FnMut() -> bool) {
    let env = &node.process.env;
    let waiting = async {
        while !holds() {
            env.sleep(Duration::from_millis(50)).await;
        }
    };
    env.timeout(LONG, waiting).await.expect("it holds in time");
}

/// How many segments a node has copied.
fn copies_of(node: &Node) -> u64 {
    node.metric("mainstem_repair_segments_copied_total")
}

/// Whether all sealed segments are complete and durable on all nodes.
fn is_whole(meta: &Meta) -> bool {
    meta.sealed().iter().all(|segment| {
        let durable = segment.complete.iter().all(|copy| copy.durable);
        durable && meta.complete(segment.id).len() == NODES as usize
    })
}

/// I-SEAL-3: who is complete has exactly the segment.
async fn check(meta: &Meta, nodes: &[Node]) {
    for sealed in meta.sealed() {
        let digest = sealed.digest.map(u128::from_be_bytes);
        for member in meta.complete(sealed.id) {
            let node = nodes.iter().find(|node| node.me() == member);
            let node = node.expect("its present life");
            let part = node.part();
            let end = sealed.end.expect("sealed");
            let info = part.digest_at(sealed.id, end).await.unwrap();
            assert_eq!(info.map(|info| info.digest), digest, "{member}");
            let mut bytes = 0;
            for number in 0..sealed.bytes.div_ceil(1 << 20) as u32 {
                let chunk = part.read_chunk(sealed.id, number).await.unwrap();
                let source = nodes[0].part().read_chunk(sealed.id, number).await;
                assert!(source.unwrap() == chunk, "{member}, chunk {number}");
                bytes += chunk.len() as u64;
            }
            assert_eq!(bytes, sealed.bytes);
        }
    }
}

#[test]
fn replicas_that_lack_a_sealed_segment_copy_it_and_become_complete() {
    run(1, |world| async move {
        let meta = Meta::default();
        let nodes = three(&world, &meta).await;
        for bytes in [10, 2_500_000, 300] {
            nodes[0].produce(bytes).await;
            nodes[0].seal().await;
        }
        assert_eq!(meta.complete(meta.sealed()[0].id), [first(1)]);
        let before = nodes[1].repair.read_elsewhere(partition(), Offset(1), 100);
        let before = before.await.unwrap();
        assert_eq!((before.next, before.batches.len()), (Offset(2), 1));
        for node in &nodes[1..] {
            node.follow().await;
        }
        until(&nodes[0], || is_whole(&meta)).await;
        check(&meta, &nodes).await;
        let total: u64 = meta.sealed().iter().map(|sealed| sealed.bytes).sum();
        for node in &nodes[1..] {
            assert_eq!(node.metric("mainstem_repair_copied_bytes_total"), total);
        }
    });
}

#[test]
fn fenced_replica_copies_the_tail_of_another() {
    run(2, |world| async move {
        let meta = Meta::default();
        let nodes = three(&world, &meta).await;
        for bytes in [10, 1_500_000, 300, 1_200_000, 5] {
            nodes[0].produce(bytes).await;
        }
        let segment = meta.record().active().expect("open").id;
        let order = |from| CopyOrder {
            partition: partition(),
            segment,
            from,
            at: Offset(0),
        };
        // Not before both are fenced.
        let unfenced = nodes[1].repair.copy_tails(&[order(first(1))]).await;
        assert!(unfenced[0].outcome.is_err());
        nodes[1].part().set_role(Role::Fenced).await.unwrap();
        *nodes[1].host.certificate.lock() = Some(Offset(0));
        let refused = nodes[1].repair.copy_tails(&[order(first(1))]).await;
        assert_eq!(refused[0].outcome.map(|answer| answer.leo), Ok(Offset(0)));
        let ends = nodes[0].part().set_role(Role::Fenced).await.unwrap();
        *nodes[0].host.certificate.lock() = Some(ends.log_end);
        // Nor of another life.
        let later = mainstem_record::Member::new(BrokerId(1), mainstem_record::Incarnation(2));
        let refused = nodes[1].repair.copy_tails(&[order(later)]).await;
        assert_eq!(refused[0].outcome.map(|answer| answer.leo), Ok(Offset(0)));
        let copied = nodes[1].repair.copy_tails(&[order(first(1))]).await;
        let answer = copied[0].outcome.unwrap();
        assert_eq!((answer.certificate, answer.leo), (Offset(0), Offset(5)));
        let digest = |node: &Node| {
            let part = node.part();
            async move { part.digest_at(segment, Offset(5)).await.unwrap() }
        };
        assert_eq!(digest(&nodes[0]).await, digest(&nodes[1]).await);
    });
}

#[test]
fn spoilt_copy_leaves_the_complete_ones_and_is_repaired() {
    run(3, |world| async move {
        let meta = Meta::default();
        let nodes = three(&world, &meta).await;
        for bytes in [900_000, 900_000, 900_000] {
            nodes[0].produce(bytes).await;
        }
        nodes[0].seal().await;
        for node in &nodes[1..] {
            node.follow().await;
        }
        until(&nodes[0], || is_whole(&meta)).await;
        let before = nodes[1].metric("mainstem_repair_copied_bytes_total");
        let sealed = meta.sealed()[0].clone();
        let name = format!("{:020}-{}.log", sealed.base.0, sealed.id.0);
        let paths = nodes[1].fs.files(&name);
        nodes[1].fs.rot(&paths[0], 1_500_000, 3);
        assert_eq!(nodes[1].log.scrub().await, 1);
        until(&nodes[0], || copies_of(&nodes[1]) == 2).await;
        until(&nodes[0], || is_whole(&meta)).await;
        check(&meta, &nodes).await;
        let after = nodes[1].metric("mainstem_repair_copied_bytes_total");
        assert!(after - before <= 1 << 20, "one chunk was spoilt");
        assert_eq!(nodes[1].log.damages(), []);
    });
}

/// What happens to followers: they crash, and what they have rots.
async fn step(world: &World, meta: &Meta, nodes: &mut [Node], dice: &mut Dice) {
    match dice.below(6) {
        0 => {
            nodes[0].produce(1 + dice.index(60_000)).await;
            nodes[0].seal().await;
            for node in &nodes[1..] {
                node.follow().await;
            }
        }
        1 => {
            let at = 1 + dice.index(2);
            nodes[at].fs.crash_in(1 + dice.below(20), dice.next_u64());
            let pause = Duration::from_millis(dice.below(2000));
            nodes[0].process.env.sleep(pause).await;
            let fs = match nodes[at].fs.take_image() {
                Some(image) => image,
                None => nodes[at].fs.power_cut(dice.next_u64()),
            };
            nodes[at].process.end();
            // What was added since the crash is void: it was another life.
            meta.register(nodes[at].id);
            nodes[at] = Node::start(world, meta, nodes[at].id, fs).await;
            nodes[at].follow().await;
        }
        2 => {
            let at = 1 + dice.index(2);
            let held: Vec<_> = meta.sealed();
            let held = held.into_iter().filter(|sealed| {
                let complete = meta.complete(sealed.id);
                complete.contains(&nodes[at].me())
            });
            let held: Vec<_> = held.collect();
            if held.is_empty() {
                return;
            }
            let sealed = &held[dice.index(held.len())];
            let name = format!("{:020}-{}.log", sealed.base.0, sealed.id.0);
            let paths = nodes[at].fs.files(&name);
            let position = dice.below(sealed.bytes);
            nodes[at].fs.rot(&paths[0], position, 1);
            let before = copies_of(&nodes[at]);
            assert!(nodes[at].log.scrub().await > 0);
            // It is noticed, and repaired.
            until(&nodes[0], || copies_of(&nodes[at]) > before).await;
            until(&nodes[0], || nodes[at].log.damages().is_empty()).await;
        }
        _ => {
            let pause = Duration::from_millis(dice.below(500));
            nodes[0].process.env.sleep(pause).await;
        }
    }
}

#[test]
fn complete_is_who_has_exactly_the_bytes_through_crashes_and_rot() {
    for seed in mainstem_simulation::seeds(SEEDS) {
        run(seed, |world| async move {
            let meta = Meta::default();
            let mut dice = world.dice(7);
            let mut nodes = three(&world, &meta).await;
            for _ in 0..STEPS {
                step(&world, &meta, &mut nodes, &mut dice).await;
                check(&meta, &nodes).await;
            }
            until(&nodes[0], || is_whole(&meta)).await;
            check(&meta, &nodes).await;
        });
    }
}
