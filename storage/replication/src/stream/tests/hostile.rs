//! Followers and leaders that say what they must not.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_log::{Ack, Flush};
use mainstem_peers::{Handler, PeerIdentity, PeerStream, Peers, Refusal, Service, StreamEnd};
use mainstem_record::{BrokerId, LeaderEpoch, Member, Offset, SegmentId};
use mainstem_simulation::{HostId, Process, World, run};
use parking_lot::Mutex;
use prometheus::Registry;
use uuid::Uuid;

use super::node::{Node, Start, equal, member, partition, produce, segment, start_peers};
use crate::{
    machine::{Segment, leader::FollowRefusal},
    stream::CREDIT_BYTES,
    wire::{
        AckOf, AppendOf, ExposedOf, FRAME_BYTES, FollowOf, FollowerHello, FollowerSays, LeaderSays,
        MemoryOf, RefusedOf, WantOf,
    },
};

/// Node 3, which is none.
struct Raw {
    process: Process,
    peers: Peers,
}

impl Raw {
    async fn start(world: &World) -> Self {
        let process = world.process_on(HostId(3), &world.disk(), 3000);
        let peers = start_peers(&process, 3, &Registry::new()).await;
        Self { process, peers }
    }

    async fn open(&self, hello: &FollowerHello) -> PeerStream {
        let opening = self
            .peers
            .open(BrokerId(1), Service::REPLICATION, hello.encode());
        opening.await.expect("it opens")
    }
}

fn hello(follower: Member, leader: Member, credit: u32) -> FollowerHello {
    FollowerHello {
        follower,
        leader,
        credit,
    }
}

/// A leader whose segment 0 has node 3 as a replica that is not in sync.
async fn leader(world: &World) -> (Node, Segment) {
    let node = Node::start(world, 1, 1, Start::default()).await;
    let mut open = segment(0, 0, 0, &[member(1, 1), member(3, 1)]);
    open.isr.remove(&member(3, 1));
    open.min_insync = 1;
    node.open(0, std::slice::from_ref(&open), Flush::Os).await;
    (node, open)
}

fn follow(segment: &Segment, log_end: i64) -> FollowerSays {
    FollowerSays::Follow(vec![FollowOf {
        partition: partition(0),
        segment: segment.id,
        epoch: segment.epoch,
        leo: Offset(log_end),
        log_end: Offset(log_end),
    }])
}

async fn says(stream: &mut PeerStream) -> LeaderSays {
    let message = stream.recv().await.expect("the leader says something");
    LeaderSays::decode(message).expect("it speaks its own protocol")
}

async fn refusal(stream: &mut PeerStream) -> Refusal {
    assert_eq!(stream.recv().await, None);
    match stream.end() {
        Some(StreamEnd::Refused(refusal)) => refusal,
        end => panic!("{end:?}"),
    }
}

#[test]
fn a_hello_must_name_both_lives() {
    run(20, |world| async move {
        let (_leader, _) = leader(&world).await;
        let raw = Raw::start(&world).await;
        let (me, it) = (member(3, 1), member(1, 1));
        for (hello, code) in [
            (hello(me, member(1, 2), 100), 1),
            (hello(me, member(2, 1), 100), 1),
            (hello(member(2, 1), it, 100), 2),
            (hello(me, it, 0), 3),
        ] {
            let mut stream = raw.open(&hello).await;
            assert_eq!(refusal(&mut stream).await.code, code);
        }
        let garbage = Bytes::from_static(&[1, 1, 9]);
        let opening = raw.peers.open(BrokerId(1), Service::REPLICATION, garbage);
        let mut stream = opening.await.expect("it opens");
        assert_eq!(refusal(&mut stream).await.code, 3);
    });
}

#[test]
fn a_leader_sends_within_the_credit() {
    run(21, |world| async move {
        const CREDIT: usize = 200 << 10;
        let (node, open) = leader(&world).await;
        let raw = Raw::start(&world).await;
        let log = node.part(0);
        for _ in 0..40 {
            produce(&log, 100 << 10, Ack::Durable).await.await.unwrap();
        }
        let mut stream = raw
            .open(&hello(member(3, 1), member(1, 1), CREDIT as u32))
            .await;
        stream.send(follow(&open, 0).encode()).await.unwrap();
        let mut next = Offset::ZERO;
        let mut taken = 0;
        while next < log.ends().log_end {
            let message = stream.recv().await.unwrap();
            let bytes = message.len();
            assert!(bytes <= FRAME_BYTES + 64);
            taken += bytes;
            match LeaderSays::decode(message).unwrap() {
                LeaderSays::Append(appends) => {
                    let [append] = &appends[..] else {
                        panic!("one segment")
                    };
                    assert_eq!(append.at, next);
                    next = super::super::follower::batches::end_of(&append.batches).unwrap();
                }
                LeaderSays::Exposed(_) => continue,
                said => panic!("{said:?}"),
            }
            if taken < CREDIT {
                continue;
            }
            // Nothing more comes until something is given back.
            let more = raw
                .process
                .env
                .timeout(std::time::Duration::from_secs(2), stream.recv());
            if let Ok(message) = more.await {
                let said = LeaderSays::decode(message.unwrap()).unwrap();
                assert!(matches!(said, LeaderSays::Exposed(_)), "{said:?}");
            }
            let credit = u32::try_from(taken).unwrap();
            taken = 0;
            let ack = FollowerSays::Ack {
                credit,
                acks: Vec::new(),
            };
            stream.send(ack.encode()).await.unwrap();
        }
        // More than was taken is no credit.
        let ack = FollowerSays::Ack {
            credit: u32::MAX,
            acks: Vec::new(),
        };
        stream.send(ack.encode()).await.unwrap();
        while stream.recv().await.is_some() {}
    });
}

#[test]
fn what_a_follower_must_not_say_is_refused_and_others_are_served() {
    run(22, |world| async move {
        let (node, open) = leader(&world).await;
        let raw = Raw::start(&world).await;
        let log = node.part(0);
        produce(&log, 100, Ack::Durable).await.await.unwrap();
        let other = Node::start(&world, 2, 1, Start::default()).await;
        let both = segment(1, 0, 0, &[member(1, 1), member(2, 1)]);
        node.open(1, std::slice::from_ref(&both), Flush::Os).await;
        other.open(1, &[both], Flush::Os).await;
        for garbage in [
            &b""[..],
            &[2, 2],
            &[1, 99],
            &[1, 2, 255, 255, 255, 255],
            &[1, 4, 0],
        ] {
            let mut stream = raw.open(&hello(member(3, 1), member(1, 1), 1000)).await;
            stream.send(Bytes::copy_from_slice(garbage)).await.unwrap();
            assert_eq!(stream.recv().await, None);
        }
        let mut stream = raw.open(&hello(member(3, 1), member(1, 1), 1 << 20)).await;
        let refused = |said: LeaderSays| match said {
            LeaderSays::Refused(refused) => refused[0].why,
            said => panic!("{said:?}"),
        };
        // More than the leader ever wrote; another epoch; then acks of what is not sent, which are
        // passed over.
        stream.send(follow(&open, 2).encode()).await.unwrap();
        assert_eq!(
            refused(says(&mut stream).await),
            FollowRefusal::AboveLogEnd(Offset(1))
        );
        let epoch = Segment {
            epoch: LeaderEpoch(7),
            ..open.clone()
        };
        stream.send(follow(&epoch, 0).encode()).await.unwrap();
        assert_eq!(
            refused(says(&mut stream).await),
            FollowRefusal::Epoch(LeaderEpoch(0))
        );
        let ack = |segment, leo| FollowerSays::Ack {
            credit: 0,
            acks: vec![AckOf {
                segment,
                leo: Offset(leo),
            }],
        };
        stream.send(ack(open.id, 1).encode()).await.unwrap();
        let nobody = SegmentId(Uuid::nil());
        stream.send(ack(nobody, 1).encode()).await.unwrap();
        stream
            .send(FollowerSays::Unfollow(vec![nobody]).encode())
            .await
            .unwrap();
        let want = WantOf {
            partition: partition(5),
            segment: nobody,
            epoch: LeaderEpoch(0),
        };
        stream
            .send(FollowerSays::Want(vec![want]).encode())
            .await
            .unwrap();
        assert_eq!(refused(says(&mut stream).await), FollowRefusal::NotLeading);
        // An ack above the log end ends the segment, not the stream.
        stream.send(follow(&open, 0).encode()).await.unwrap();
        assert!(matches!(says(&mut stream).await, LeaderSays::Append(_)));
        stream.send(ack(open.id, 9).encode()).await.unwrap();
        assert_eq!(
            refused(says(&mut stream).await),
            FollowRefusal::AboveLogEnd(Offset(1))
        );
        produce(&node.part(1), 100, Ack::Durable)
            .await
            .await
            .unwrap();
        equal(&world, &node.part(1), &other.part(1)).await;
    });
}

#[test]
fn an_older_life_is_refused_once_a_later_one_has_followed() {
    run(23, |world| async move {
        let (_node, open) = leader(&world).await;
        let raw = Raw::start(&world).await;
        let mut later = raw.open(&hello(member(3, 2), member(1, 1), 1000)).await;
        later.send(follow(&open, 0).encode()).await.unwrap();
        assert!(matches!(says(&mut later).await, LeaderSays::Exposed(_)));
        let mut older = raw.open(&hello(member(3, 1), member(1, 1), 1000)).await;
        older.send(follow(&open, 0).encode()).await.unwrap();
        let LeaderSays::Refused(refused) = says(&mut older).await else {
            panic!("R10")
        };
        assert!(matches!(refused[0].why, FollowRefusal::StaleIncarnation(_)));
        // A newer stream of the same node takes the place of the one before.
        assert_eq!(later.recv().await, None);
    });
}

/// A leader that says these things to whoever opens a stream, and then waits.
struct Liar {
    messages: Mutex<Vec<Vec<Bytes>>>,
    heard: Arc<Mutex<Vec<FollowerSays>>>,
}

impl Handler for Liar {
    fn call<'a>(&'a self, _: &'a PeerIdentity, _: Bytes) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        unreachable!("streams only")
    }

    fn stream<'a>(
        &'a self,
        _: &'a PeerIdentity,
        _: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(messages) = self.messages.lock().pop() else {
                return;
            };
            // The follower says first what it follows.
            let follow = stream.recv().await;
            self.heard
                .lock()
                .extend(follow.map(|it| FollowerSays::decode(it).unwrap()));
            for message in messages {
                if stream.send(message).await.is_err() {
                    return;
                }
            }
            while let Some(message) = stream.recv().await {
                let said = FollowerSays::decode(message).unwrap();
                self.heard.lock().push(said);
            }
        })
    }
}

#[test]
fn what_a_leader_must_not_say_changes_nothing() {
    run(24, |world| async move {
        // Batches of the true leader, to be misused.
        let source = Node::start(&world, 1, 1, Start::default()).await;
        let mut alone = segment(0, 0, 0, &[member(1, 1)]);
        alone.min_insync = 1;
        let log = source.open(0, &[alone], Flush::Os).await;
        for _ in 0..3 {
            produce(&log, 100, Ack::Durable).await.await.unwrap();
        }
        let batches = Bytes::from(super::bytes_of(&log, Offset::ZERO).await);

        let open = segment(0, 0, 0, &[member(3, 1), member(2, 1)]);
        let raw = Raw::start(&world).await;
        let append = |segment, at, batches: &Bytes| {
            LeaderSays::Append(vec![AppendOf {
                segment,
                at: Offset(at),
                high_watermark: Offset::ZERO,
                batches: batches.clone(),
            }])
            .encode()
        };
        let nobody = SegmentId(Uuid::nil());
        let mut damaged = batches.to_vec();
        damaged[100] ^= 1;
        let long = Bytes::from(vec![0; 1 << 20]);
        let credit = CREDIT_BYTES as usize;
        let memory = LeaderSays::Memory(MemoryOf {
            segment: nobody,
            is_last: false,
            bytes: long.clone(),
        });
        let refused = LeaderSays::Refused(vec![RefusedOf {
            segment: nobody,
            why: FollowRefusal::NotReplica,
        }]);
        let exposed = LeaderSays::Exposed(vec![ExposedOf {
            segment: nobody,
            high_watermark: Offset(i64::MAX),
        }]);
        let tries = vec![
            vec![Bytes::from_static(b"")],
            vec![Bytes::from_static(&[1, 6, 255, 255, 255, 255])],
            vec![append(open.id, 0, &Bytes::new())],
            vec![append(open.id, 0, &long)],
            vec![append(open.id, 0, &batches.slice(..batches.len() - 1))],
            vec![append(open.id, 0, &Bytes::from(damaged))],
            vec![append(open.id, 1, &batches)],
            vec![append(nobody, 0, &batches)],
            vec![memory.encode(), refused.encode(), exposed.encode()],
            // Far more than there is credit for.
            vec![append(nobody, 0, &Bytes::from(vec![0; 1 << 20])); credit / (1 << 20) + 20],
        ];
        let liar = Arc::new(Liar {
            messages: Mutex::new(tries),
            heard: Arc::default(),
        });
        raw.peers.serve(Service::REPLICATION, liar.clone());
        let follower = Node::start(&world, 2, 1, Start::default()).await;
        let copy = follower
            .open(0, std::slice::from_ref(&open), Flush::Os)
            .await;
        // The follower opens the next stream by itself, or else after the connection has broken.
        while !liar.messages.lock().is_empty() {
            raw.break_connection(&world).await;
            assert_eq!(copy.ends().log_end, Offset::ZERO, "nothing was taken");
            assert_eq!(copy.ends().committed_end, Offset::ZERO);
        }
        raw.break_connection(&world).await;
        assert_eq!(copy.ends().log_end, Offset::ZERO, "nothing was taken");
        assert!(!liar.heard.lock().is_empty());
    });
}

impl Raw {
    /// Breaks the connection, once everything was said.
    async fn break_connection(&self, world: &World) {
        self.process
            .env
            .sleep(std::time::Duration::from_secs(3))
            .await;
        world.net().cut(HostId(3), HostId(2));
        self.process
            .env
            .sleep(std::time::Duration::from_secs(5))
            .await;
        world.net().heal(HostId(3), HostId(2));
    }
}
