//! Two and three nodes in one world.

mod node;

mod faults;
mod hostile;

use std::time::Duration;

use mainstem_log::{Ack, Flush, Partition, Role};
use mainstem_record::{LeaderEpoch, Offset};
use mainstem_simulation::{HostId, LinkOptions, World, run, seeds};

use self::node::{Node, Start, bytes_of, equal, member, produce, produce_as, segment, until};
use super::{EXPOSED_DELAY, REFUSED_RETRY};

const DELAY: Duration = Duration::from_millis(5);

/// Two nodes, the first of which leads `partitions` partitions.
async fn pair(world: &World, partitions: i32, flush: Flush) -> (Node, Node) {
    let leader = Node::start(world, 1, 1, Start::default()).await;
    let follower = Node::start(world, 2, 1, Start::default()).await;
    for index in 0..partitions {
        let mut segment = segment(index, 0, 0, &[member(1, 1), member(2, 1)]);
        segment.flush_always = flush == Flush::Always;
        leader
            .open(index, std::slice::from_ref(&segment), flush)
            .await;
        follower.open(index, &[segment], flush).await;
    }
    (leader, follower)
}

async fn trio(world: &World) -> [Node; 3] {
    [
        Node::start(world, 1, 1, Start::default()).await,
        Node::start(world, 2, 1, Start::default()).await,
        Node::start(world, 3, 1, Start::default()).await,
    ]
}

#[test]
fn an_append_is_exposed_after_one_round_trip_and_no_timer() {
    run(1, |world| async move {
        let (leader, follower) = pair(&world, 1, Flush::Os).await;
        let log = leader.part(0);
        produce(&log, 10, Ack::Durable).await.await.unwrap();
        let links = LinkOptions {
            delay: DELAY,
            ..LinkOptions::default()
        };
        world.net().set_links(links);
        for _ in 0..10 {
            let began = leader.process.env.now();
            produce(&log, 100, Ack::Durable).await.await.unwrap();
            let took = leader.process.env.now() - began;
            assert_eq!(took, 2 * DELAY, "there and back");
        }
        equal(&world, &log, &follower.part(0)).await;
    });
}

#[test]
fn a_thousand_partitions_go_over_one_stream() {
    run(2, |world| async move {
        const PARTITIONS: i32 = 1000;
        let (leader, follower) = pair(&world, PARTITIONS, Flush::Os).await;
        for round in 0..3 {
            let mut tickets = Vec::new();
            for index in 0..PARTITIONS {
                let bytes = 10 + (index as usize + round) % 500;
                tickets.push(produce(&leader.part(index), bytes, Ack::Durable).await);
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }
        for index in 0..PARTITIONS {
            equal(&world, &leader.part(index), &follower.part(index)).await;
        }
        assert_eq!(leader.metric("mainstem_replication_streams", "leader"), 1);
        assert_eq!(
            follower.metric("mainstem_replication_streams", "follower"),
            1
        );
        assert_eq!(follower.metric("mainstem_replication_resumed_total", ""), 0);
    });
}

#[test]
fn a_stream_that_breaks_goes_on_at_the_log_end() {
    run(3, |world| async move {
        let (leader, follower) = pair(&world, 2, Flush::Os).await;
        let (log, copy) = (leader.part(0), follower.part(0));
        for _ in 0..20 {
            produce(&log, 100, Ack::Durable).await.await.unwrap();
        }
        world.net().cut(HostId(1), HostId(2));
        world.net().cut(HostId(2), HostId(1));
        for _ in 0..20 {
            produce(&log, 100, Ack::Written).await.await.unwrap();
        }
        // Longer than silence is borne.
        leader.process.env.sleep(Duration::from_secs(10)).await;
        assert!(copy.ends().log_end < log.ends().log_end);
        world.net().heal(HostId(1), HostId(2));
        world.net().heal(HostId(2), HostId(1));
        equal(&world, &log, &copy).await;
        assert_eq!(
            follower.metric("mainstem_replication_streams", "follower"),
            1
        );
        assert_eq!(leader.metric("mainstem_replication_streams", "leader"), 1);
    });
}

#[test]
fn a_follower_that_is_killed_goes_on_where_its_log_ends() {
    for seed in seeds(20) {
        run(seed, |world| async move {
            let flush = [Flush::Os, Flush::Always][seed as usize % 2];
            let (leader, follower) = pair(&world, 1, flush).await;
            let log = leader.part(0);
            let mut tickets = Vec::new();
            for count in 0..50 {
                tickets.push(produce(&log, 10 + count * 7, Ack::Durable).await);
            }
            // In the middle of what is under way.
            let pause = world.dice(1).below(3000);
            leader.process.env.sleep(Duration::from_micros(pause)).await;
            follower.process.end();
            let fs = match flush {
                Flush::Always => follower.fs.power_cut(seed),
                _ => follower.fs.process_death(),
            };
            drop(follower);
            let again = Node::start_on(&world, fs, (2, 2), Start::default()).await;
            let mut next = segment(0, 0, 0, &[member(1, 1), member(2, 2)]);
            next.version = 2;
            next.flush_always = flush == Flush::Always;
            again.open(0, std::slice::from_ref(&next), flush).await;
            leader.double.image(0, &next);
            for ticket in tickets {
                ticket.await.unwrap();
            }
            equal(&world, &log, &again.part(0)).await;
        });
    }
}

#[test]
fn another_leader_is_followed_in_the_next_segment() {
    run(5, |world| async move {
        let members = [member(1, 1), member(2, 1), member(3, 1)];
        let nodes = trio(&world).await;
        let first = segment(0, 0, 0, &members);
        for node in &nodes {
            node.open(0, std::slice::from_ref(&first), Flush::Os).await;
        }
        let logs: Vec<_> = nodes.iter().map(|node| node.part(0)).collect();
        for _ in 0..10 {
            produce(&logs[0], 100, Ack::Durable).await.await.unwrap();
        }
        for copy in &logs[1..] {
            equal(&world, &logs[0], copy).await;
        }
        // The leader stands still; the others seal where all of them are, and go on.
        let end = logs[1].ends().log_end;
        nodes[0].process.pause();
        let next = segment(0, 1, end.0, &[members[1], members[2]]);
        for node in &nodes[1..] {
            node.next_segment(0, (&first, end), &next).await;
        }
        for _ in 0..10 {
            produce(&logs[1], 100, Ack::Durable).await.await.unwrap();
        }
        equal(&world, &logs[1], &logs[2]).await;
        // What it goes on to say as a leader changes nothing.
        nodes[0].process.resume();
        produce(&logs[0], 50, Ack::Written).await.await.unwrap();
        nodes[0].process.env.sleep(Duration::from_secs(1)).await;
        equal(&world, &logs[1], &logs[2]).await;
        assert_eq!(logs[1].epoch(), LeaderEpoch(1));
        assert_eq!(
            nodes[2].metric("mainstem_replication_streams", "follower"),
            1
        );
    });
}

#[test]
fn a_planned_roll_goes_on_over_the_same_stream() {
    run(6, |world| async move {
        let (leader, follower) = pair(&world, 1, Flush::Os).await;
        let members = [member(1, 1), member(2, 1)];
        let mut last = segment(0, 0, 0, &members);
        for epoch in 1..5 {
            let log = leader.part(0);
            for _ in 0..5 {
                produce(&log, 100, Ack::Durable).await.await.unwrap();
            }
            let end = log.ends().log_end;
            let next = segment(0, epoch, end.0, &members);
            // The leader learns of it first.
            leader.next_segment(0, (&last, end), &next).await;
            let ticket = produce(&log, 10, Ack::Durable).await;
            leader.process.env.sleep(Duration::from_millis(50)).await;
            until(&world, || follower.part(0).ends().log_end == end).await;
            follower.next_segment(0, (&last, end), &next).await;
            ticket.await.unwrap();
            equal(&world, &log, &follower.part(0)).await;
            last = next;
        }
        assert_eq!(leader.metric("mainstem_replication_streams", "leader"), 1);
    });
}

#[test]
fn a_follower_whose_image_is_newer_waits_for_its_leader() {
    run(7, |world| async move {
        let leader = Node::start(&world, 1, 1, Start::default()).await;
        let follower = Node::start(&world, 2, 1, Start::default()).await;
        let open = segment(0, 0, 0, &[member(1, 1), member(2, 1)]);
        follower
            .open(0, std::slice::from_ref(&open), Flush::Os)
            .await;
        follower.process.env.sleep(Duration::from_millis(500)).await;
        let log = leader.open(0, &[open], Flush::Os).await;
        let began = leader.process.env.now();
        produce(&log, 100, Ack::Durable).await.await.unwrap();
        assert!(
            leader.process.env.now() - began < REFUSED_RETRY,
            "it was parked"
        );
        equal(&world, &log, &follower.part(0)).await;
    });
}

#[test]
fn what_is_exposed_is_told_when_nothing_else_is() {
    run(8, |world| async move {
        let (leader, follower) = pair(&world, 1, Flush::Os).await;
        let (log, copy) = (leader.part(0), follower.part(0));
        produce(&log, 100, Ack::Durable).await.await.unwrap();
        leader.process.env.sleep(EXPOSED_DELAY * 2).await;
        assert_eq!(copy.ends().committed_end, log.ends().committed_end);
        assert_eq!(copy.ends().committed_end, Offset(1));
    });
}

#[test]
fn nothing_is_acked_in_a_fenced_log() {
    run(9, |world| async move {
        let (leader, follower) = pair(&world, 1, Flush::Os).await;
        let (log, copy) = (leader.part(0), follower.part(0));
        produce(&log, 100, Ack::Durable).await.await.unwrap();
        until(&world, || copy.ends().log_end == Offset(1)).await;
        let certificate = copy.set_role(Role::Fenced).await.unwrap().log_end;
        // Also while the streams have not learned of it.
        for _ in 0..2 {
            produce(&log, 100, Ack::Written).await.await.unwrap();
            leader.process.env.sleep(Duration::from_secs(5)).await;
            assert_eq!(copy.ends().log_end, certificate, "R22");
            assert_eq!(log.ends().committed_end, certificate, "R22");
            follower.double.unset(0);
        }
    });
}

#[test]
fn with_flush_always_what_is_not_synced_is_not_acked() {
    run(10, |world| async move {
        let leader = Node::start(&world, 1, 1, Start::default()).await;
        let start = Start {
            hold_syncs: true,
            ..Start::default()
        };
        let follower = Node::start(&world, 2, 1, start).await;
        let mut open = segment(0, 0, 0, &[member(1, 1), member(2, 1)]);
        open.flush_always = true;
        let log = leader
            .open(0, std::slice::from_ref(&open), Flush::Always)
            .await;
        let copy = follower.open(0, &[open], Flush::Always).await;
        let ticket = produce(&log, 100, Ack::Durable).await;
        until(&world, || copy.ends().log_end == Offset(1)).await;
        leader.process.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(copy.ends().synced_end, Offset(0), "held back");
        assert_eq!(log.ends().committed_end, Offset(0), "R11");
        follower.held.let_go();
        ticket.await.unwrap();
        assert_eq!(copy.ends().synced_end, Offset(1));
        equal(&world, &log, &copy).await;
    });
}

#[test]
fn who_is_behind_catches_up_from_disk_beside_the_tail() {
    run(11, |world| async move {
        const RATE: u64 = 1 << 20;
        let start = Start {
            tail_cache_bytes: 64 << 10,
            catch_up_rate: RATE,
            ..Start::default()
        };
        let leader = Node::start(&world, 1, 1, start).await;
        let follower = Node::start(&world, 2, 1, Start::default()).await;
        // In the first the follower is not in sync, and has everything to catch up with.
        let mut alone = segment(0, 0, 0, &[member(1, 1), member(2, 1)]);
        alone.isr.remove(&member(2, 1));
        alone.min_insync = 1;
        let both = segment(1, 0, 0, &[member(1, 1), member(2, 1)]);
        let behind = leader
            .open(0, std::slice::from_ref(&alone), Flush::Os)
            .await;
        for _ in 0..40 {
            produce(&behind, 100 << 10, Ack::Durable)
                .await
                .await
                .unwrap();
        }
        let tail = leader.open(1, std::slice::from_ref(&both), Flush::Os).await;
        let began = leader.process.env.now();
        follower.open(0, &[alone], Flush::Os).await;
        follower.open(1, &[both], Flush::Os).await;
        produce(&tail, 100, Ack::Durable).await.await.unwrap();
        assert!(follower.part(0).ends().log_end < behind.ends().log_end);
        for _ in 0..20 {
            let began = leader.process.env.now();
            produce(&tail, 100, Ack::Durable).await.await.unwrap();
            assert!(
                leader.process.env.now() - began < DELAY,
                "the tail does not wait"
            );
        }
        equal(&world, &behind, &follower.part(0)).await;
        let took = leader.process.env.now() - began;
        assert!(took >= Duration::from_secs(3), "throttled: {took:?}");
        assert!(leader.metric("mainstem_replication_sent_bytes_total", "disk") > 3 << 20);
    });
}

#[test]
fn a_replica_in_sync_is_not_throttled() {
    run(12, |world| async move {
        let start = Start {
            tail_cache_bytes: 0,
            catch_up_rate: 1000,
            ..Start::default()
        };
        let leader = Node::start(&world, 1, 1, start).await;
        let follower = Node::start(&world, 2, 1, Start::default()).await;
        let open = segment(0, 0, 0, &[member(1, 1), member(2, 1)]);
        let log = leader.open(0, std::slice::from_ref(&open), Flush::Os).await;
        for _ in 0..20 {
            produce(&log, 100 << 10, Ack::Written).await.await.unwrap();
        }
        let began = leader.process.env.now();
        follower.open(0, &[open], Flush::Os).await;
        equal(&world, &log, &follower.part(0)).await;
        assert!(leader.process.env.now() - began < Duration::from_secs(2));
    });
}

#[test]
fn a_new_replica_learns_what_is_remembered_before_it_follows() {
    run(13, |world| async move {
        let leader = Node::start(&world, 1, 1, Start::default()).await;
        let follower = Node::start(&world, 2, 1, Start::default()).await;
        let mut first = segment(0, 0, 0, &[member(1, 1)]);
        first.min_insync = 1;
        let log = leader
            .open(0, std::slice::from_ref(&first), Flush::Os)
            .await;
        for sequence in 0..5 {
            produce_as(&log, 77, sequence).await.await.unwrap();
        }
        let end = log.ends().log_end;
        let next = segment(0, 1, end.0, &[member(1, 1), member(2, 1)]);
        leader.next_segment(0, (&first, end), &next).await;
        first.end = Some(end);
        let copy = follower.open(0, &[first, next], Flush::Os).await;
        assert!(copy.needs_memory());
        produce_as(&log, 77, 5).await.await.unwrap();
        assert!(!copy.needs_memory());
        until(&world, || {
            copy.ends().committed_end == log.ends().committed_end
        })
        .await;
        assert_eq!(bytes_of(&copy, end).await, bytes_of(&log, end).await);
        let producers = |log: &Partition| {
            log.producers()
                .into_iter()
                .map(|it| (it.id, it.epoch, it.last_sequence, it.last_offset))
                .collect::<Vec<_>>()
        };
        assert_eq!(producers(&copy), producers(&log));
    });
}

#[test]
fn a_batch_longer_than_a_frame_goes_alone() {
    run(14, |world| async move {
        let (leader, follower) = pair(&world, 2, Flush::Os).await;
        let (long, short) = (leader.part(0), leader.part(1));
        for _ in 0..3 {
            let first = produce(&long, 9 << 20, Ack::Durable).await;
            let second = produce(&short, 100, Ack::Durable).await;
            first.await.unwrap();
            second.await.unwrap();
        }
        equal(&world, &long, &follower.part(0)).await;
        equal(&world, &short, &follower.part(1)).await;
    });
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        run(15, |world| async move {
            let (leader, follower) = pair(&world, 20, Flush::Os).await;
            for round in 0..3 {
                for index in 0..20 {
                    let log = leader.part(index);
                    produce(&log, 50 + round, Ack::Durable).await.await.unwrap();
                }
                world.net().cut(HostId(1), HostId(2));
                leader.process.env.sleep(Duration::from_secs(4)).await;
                world.net().heal(HostId(1), HostId(2));
            }
            equal(&world, &leader.part(3), &follower.part(3)).await;
            (leader.process.env.now(), world.trace().digest())
        })
    };
    assert_eq!(history(), history());
}
